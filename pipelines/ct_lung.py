"""Lungs in a chest CT: right and left as a segmentation, and their volume, density and emphysema (low attenuation areas).

The model takes Hounsfield units with slices to the head, rows to the back and columns to the patient's left; any volume is
turned so and its labels are turned back. What is measured is the whole lung or nothing: a series that cuts a lung is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.errors import BadModelOutput, Unsuitable
from gateway.outputs import Output
from gateway.outputs.seg import Segment, Segmentation
from gateway.outputs.sr import Group, Measurement, MeasurementReport
from gateway.pipeline import Infer, Needs, Pipeline, Study

AXIAL = "HPL"
# A lung that goes on beyond the series ends on a broad face; the recesses behind the diaphragm end on slivers.
CUT_FACE = 0.04
EDGE_MM2 = 200.0

LUNG = Code("39607008", "SCT", "Lung structure")
AERATED_LUNG = Code("LUNG-AERATED", "99CLINAIGW", "Aerated lung")
PROCEDURE = Code("169069000", "SCT", "CT of chest")
MILLILITRE = Code("mL", "UCUM", "milliliter")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "percent")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
PERCENTILE_15 = Code("LUNG-PERC15", "99CLINAIGW", "15th percentile of attenuation")
LAA_950 = Code("LUNG-LAA950", "99CLINAIGW", "Low attenuation area below -950 HU")
LAA_910 = Code("LUNG-LAA910", "99CLINAIGW", "Low attenuation area below -910 HU")


@dataclass(frozen=True)
class Side:
    """A lung as the model labels it: the first is 1, the second 2."""

    label: str
    laterality: Code
    colour: tuple[int, int, int]


SIDES = (Side("Right lung", codes.SCT.Right, (224, 97, 76)), Side("Left lung", codes.SCT.Left, (76, 148, 224)))


def run(study: Study, infer: Infer) -> Iterable[Output]:
    """Raises Unsuitable where a lung is cut off by the first or last slice or by the edge of the picture."""
    axial = study.volume.to_patient_orientation(AXIAL)
    hounsfield = np.clip(np.rint(axial.array), -32768, 32767).astype(np.int16)
    labels = infer({"volume": hounsfield, "spacing": np.array(axial.spacing, np.float32)})["labels"]
    if labels.max() > len(SIDES):
        raise BadModelOutput("expected labels 0, 1 and 2")
    _refuse_parts(labels, axial.spacing)
    # Viewers hang on a segment without voxels: only the lungs that are there get one.
    present = [value for value in range(1, len(SIDES) + 1) if (labels == value).any()]
    if not present:
        yield MeasurementReport(
            None, (Group("Lungs", (), AERATED_LUNG, LUNG),), PROCEDURE, "No aerated lung found in this series"
        )
        return
    renumbered = np.zeros(len(SIDES) + 1, np.uint8)
    renumbered[present] = np.arange(1, len(present) + 1)
    orientation = study.volume.get_closest_patient_orientation()
    segmentation = Segmentation(
        axial.with_array(renumbered[labels]).to_patient_orientation(orientation),
        tuple(_segment(SIDES[value - 1]) for value in present),
        "LUNGS",
        "Right and left lung",
    )
    yield segmentation
    densities = {SIDES[value - 1]: hounsfield[labels == value] for value in present}
    yield MeasurementReport(
        segmentation, _groups(densities, float(np.prod(axial.spacing)) / 1000), PROCEDURE, "Volume and density of the lungs"
    )


def _refuse_parts(labels: np.ndarray, spacing: tuple[float, float, float]) -> None:
    """`labels` is (slices to the head, rows, columns) uint8."""
    areas = np.count_nonzero(labels, axis=(1, 2)) * spacing[1] * spacing[2]
    if max(areas[0], areas[-1]) > CUT_FACE * areas.max():
        raise Unsuitable("INCOMPLETE", "the first or last slice cuts through the lungs: expected whole lungs")
    rows = np.count_nonzero(labels[:, [0, -1], :]) * spacing[0] * spacing[2]
    columns = np.count_nonzero(labels[:, :, [0, -1]]) * spacing[0] * spacing[1]
    if max(rows, columns) > EDGE_MM2:
        raise Unsuitable("INCOMPLETE", "the edge of the picture cuts through the lungs: expected whole lungs")


def _segment(side: Side) -> Segment:
    return Segment(side.label, codes.SCT.AnatomicalStructure, LUNG, LUNG, side.laterality, side.colour)


def _groups(densities: Mapping[Side, np.ndarray], voxel_ml: float) -> tuple[Group, ...]:
    """One for each lung, and one for both where there are two."""
    groups = [
        Group(side.label, (number,), LUNG, LUNG, side.laterality, _measurements(values, voxel_ml))
        for number, (side, values) in enumerate(densities.items(), start=1)
    ]
    if len(densities) == len(SIDES):
        both = _measurements(np.concatenate(list(densities.values())), voxel_ml)
        groups.append(Group("Both lungs", (1, 2), LUNG, LUNG, codes.SCT.RightAndLeft, both))
    return tuple(groups)


def _measurements(values: np.ndarray, voxel_ml: float) -> tuple[Measurement, ...]:
    """`values` are the int16 Hounsfield units of one structure's voxels, at least one."""
    return (
        Measurement(codes.SCT.Volume, values.size * voxel_ml, MILLILITRE),
        Measurement(ATTENUATION, float(values.mean(dtype=np.float64)), HOUNSFIELD, derivation=codes.SCT.Mean),
        Measurement(PERCENTILE_15, float(np.percentile(values, 15)), HOUNSFIELD),
        Measurement(LAA_950, _percent_below(values, -950), PERCENT),
        Measurement(LAA_910, _percent_below(values, -910), PERCENT),
    )


def _percent_below(values: np.ndarray, limit: int) -> float:
    return 100.0 * np.count_nonzero(values < limit) / values.size


PIPELINE = Pipeline(
    version="1.0.0", model="ct_lung", needs=Needs(modality="CT", slices_at_least=20, spacing_at_most_mm=6.0), run=run
)
