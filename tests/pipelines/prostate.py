"""Two series of a study, and a third where it is there: voxels that are bright in the one and dark in the other."""

from collections.abc import Iterable

import numpy as np
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.imaging.regrid import regrid
from gateway.outputs import Output
from gateway.outputs.seg import Segment, Segmentation
from gateway.outputs.sr import Group, Measurement, MeasurementReport
from gateway.pipeline import Infer, Needs, Pipeline, Role, Study

LESION = Segment("Lesion", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, None, None, (240, 90, 60))
MILLILITRE = Code("mL", "UCUM", "milliliter")


def run(study: Study, infer: Infer) -> Iterable[Output]:
    adc = regrid(study.companions["adc"].volume, study.volume)
    labels = infer({"t2": study.volume.array, "adc": adc.array})["labels"]
    segmentation = Segmentation(study.volume.with_array(labels), (LESION,), "LESION", "Lesion")
    millilitres = Measurement(codes.SCT.Volume, float(labels.sum() * np.prod(study.volume.spacing) / 1000), MILLILITRE)
    yield segmentation
    roles = ", ".join(f"{role} of {len(one.source)} slices" for role, one in study.companions.items())
    group = Group("Lesion", (1,), codes.SCT.Lesion, None, None, (millilitres,))
    yield MeasurementReport(segmentation, (group,), Code("24531-6", "LN", "MR Pelvis"), f"Lesions, beside {roles}")


NEEDS = Needs("MR", slices_at_least=2, companions=(Role("adc"), Role("dwi", required=False)))
PIPELINE = Pipeline(version="1.0.0", model="pair", needs=NEEDS, run=run)
