"""As compare, but it soon does without an earlier study."""

from dataclasses import replace

from gateway.pipeline import Priors
from tests.pipelines.compare import PIPELINE as COMPARE

PIPELINE = replace(COMPARE, needs=replace(COMPARE.needs, priors=Priors(days=1000, wait_seconds=1)))
