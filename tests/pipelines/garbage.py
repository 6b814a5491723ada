"""Asks a model whose answers are not numbers."""

from collections.abc import Iterable

import numpy as np

from gateway.outputs import Output
from gateway.pipeline import Infer, Needs, Pipeline, Study


def run(study: Study, infer: Infer) -> Iterable[Output]:
    infer({"volume": np.rint(study.volume.array).astype(np.int16)})
    return ()


PIPELINE = Pipeline(version="1.0.0", model="garbage", needs=Needs(modality="CT", slices_at_least=2), run=run)
