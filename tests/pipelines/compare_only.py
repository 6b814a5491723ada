"""As compare; without an earlier study it waits for a person."""

from dataclasses import replace

from gateway.pipeline import HOLD, Priors
from tests.pipelines.compare import PIPELINE as COMPARE

PIPELINE = replace(COMPARE, needs=replace(COMPARE.needs, priors=Priors(days=1000, wait_seconds=1, without=HOLD)))
