"""A triage without a lesson: what is brighter than -500 HU counts as blood, and the report says whether it is there."""

from collections.abc import Iterable

import numpy as np
from pydicom.sr.coding import Code

from gateway.outputs import Output
from gateway.outputs.sr import ABSENT, PRESENT, Group, MeasurementReport
from gateway.pipeline import Infer, Needs, Pipeline, Study

HAEMORRHAGE = Code("1386000", "SCT", "Intracranial haemorrhage")


def run(study: Study, infer: Infer) -> Iterable[Output]:
    labels = infer({"volume": np.rint(study.volume.array).astype(np.int16)})["labels"]
    stated = PRESENT if labels.any() else ABSENT
    group = Group("Blood", (), HAEMORRHAGE, None, None, evaluation=stated)
    yield MeasurementReport(None, (group,), Code("169069000", "SCT", "CT of chest"), "Triage")


PIPELINE = Pipeline(version="1.0.0", model="bright", needs=Needs(modality="CT", slices_at_least=2), run=run)
