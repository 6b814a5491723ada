"""What is brighter than -500 HU: one segment and its volume. Quick, so that tests can be about everything else."""

from collections.abc import Iterable

import numpy as np
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.outputs import Output
from gateway.outputs.seg import Segment, Segmentation
from gateway.outputs.sr import Group, Measurement, MeasurementReport
from gateway.pipeline import Infer, Needs, Pipeline, Study

TISSUE = Segment("Tissue", codes.SCT.Tissue, codes.SCT.Tissue, None, None, (200, 180, 90))
MILLILITRE = Code("mL", "UCUM", "milliliter")


def run(study: Study, infer: Infer) -> Iterable[Output]:
    labels = infer({"volume": np.rint(study.volume.array).astype(np.int16)})["labels"]
    segmentation = Segmentation(study.volume.with_array(labels), (TISSUE,), "TISSUE", "Bright tissue")
    millilitres = float(labels.sum() * np.prod(study.volume.spacing) / 1000)
    yield segmentation
    measured = Measurement(codes.SCT.Volume, millilitres, MILLILITRE)
    yield MeasurementReport(
        segmentation,
        (Group("Tissue", (1,), codes.SCT.Tissue, None, None, (measured,)),),
        Code("169069000", "SCT", "CT of chest"),
        "Tissue",
    )


PIPELINE = Pipeline(version="1.0.0", model="bright", needs=Needs(modality="CT", slices_at_least=2), run=run)
