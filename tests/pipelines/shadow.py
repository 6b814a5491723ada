"""What is brighter than 2000 on a radiograph: one segment and its area."""

from collections.abc import Iterable

import numpy as np
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.outputs import Output
from gateway.outputs.seg import Segment, Segmentation
from gateway.outputs.sr import Group, Measurement, MeasurementReport
from gateway.pipeline import Infer, Needs, Pipeline, Study

TISSUE = Segment("Tissue", codes.SCT.Tissue, codes.SCT.Tissue, None, None, (200, 180, 90))
BRIGHT, OF_MODEL = 2000, -500
SQUARE_MM = Code("mm2", "UCUM", "square millimeter")


def run(study: Study, infer: Infer) -> Iterable[Output]:
    labels = infer({"volume": np.rint(study.volume.array - BRIGHT + OF_MODEL).astype(np.int16)})["labels"]
    segmentation = Segmentation(study.volume.with_array(labels), (TISSUE,), "TISSUE", "Bright tissue")
    yield segmentation
    area = Measurement(codes.SCT.Area, float(labels.sum() * np.prod(study.volume.spacing[1:])), SQUARE_MM)
    group = Group("Tissue", (1,), codes.SCT.Tissue, None, None, (area,))
    yield MeasurementReport(segmentation, (group,), codes.SCT.ImagingProcedure, "Tissue")


PIPELINE = Pipeline(version="1.0.0", model="bright", needs=Needs(modality=("CR", "DX")), run=run)
