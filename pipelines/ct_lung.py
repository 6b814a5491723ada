"""Lungs in a chest CT: right and left as a segmentation, and their volume, density and emphysema (low attenuation areas).

The model takes Hounsfield units with slices to the head, rows to the back and columns to the patient's left; any volume is
turned so and its labels are turned back. What is measured is the whole lung or nothing: a series that cuts a lung is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.errors import BadModelOutput, Unsuitable
from gateway.outputs import Output
from gateway.outputs.seg import Segment, Segmentation
from gateway.outputs.sr import PRIVATE_SCHEME, Group, Measurement, MeasurementReport
from gateway.pipeline import Infer, Needs, Pipeline, Study

AXIAL = "HPL"
# A lung that goes on beyond the series ends on a broad face; the recesses behind the diaphragm end on slivers.
CUT_FACE = 0.04
EDGE_MM2 = 200.0
LOWEST = -32768  # of int16

LUNG = codes.SCT.Lung
AERATED_LUNG = Code("AERATEDLUNG", PRIVATE_SCHEME, "Aerated lung")
PROCEDURE = Code("25045-6", "LN", "CT unspecified body region")  # CID 100 has no code for the chest
MILLILITRE = Code("ml", "UCUM", "ml")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "%")
PERCENTILE_15 = Code("PERC15", PRIVATE_SCHEME, "15th percentile of attenuation")
LAA_950 = Code("LAA950", PRIVATE_SCHEME, "Share of voxels below -950 HU")
LAA_910 = Code("LAA910", PRIVATE_SCHEME, "Share of voxels below -910 HU")


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
    hounsfield = axial.array
    labels = infer({"volume": hounsfield, "spacing": np.array(axial.spacing, np.float32)})["labels"]
    if labels.max() > len(SIDES):
        raise BadModelOutput("expected labels 0, 1 and 2")
    _refuse_parts(labels, axial.spacing)
    # Viewers hang on a segment without voxels: only the lungs that are there get one.
    counts = _histograms(hounsfield, labels)
    present = [value for value in range(1, len(SIDES) + 1) if counts[value].any()]
    if not present:
        yield MeasurementReport(
            None, (Group("Lungs", (), AERATED_LUNG, LUNG),), PROCEDURE, "No aerated lung found in this series"
        )
        return
    if len(present) < len(SIDES):
        labels = (labels == present[0]).astype(np.uint8)
    orientation = study.volume.get_closest_patient_orientation()
    segmentation = Segmentation(
        axial.with_array(labels).to_patient_orientation(orientation),
        tuple(_segment(SIDES[value - 1]) for value in present),
        "LUNGS",
        "Right and left lung",
    )
    yield segmentation
    densities = {SIDES[value - 1]: counts[value] for value in present}
    groups = _groups(densities, float(np.prod(axial.spacing)) / 1000)
    yield MeasurementReport(segmentation, groups, PROCEDURE, "Volume and density of the lungs")


def _histograms(hounsfield: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(labels, 65536) voxel counts: how often each label has each Hounsfield unit, from LOWEST up."""
    counts = np.zeros((len(SIDES) + 1, -2 * LOWEST), np.int64)
    for plane, marks in zip(hounsfield, labels, strict=True):
        for value in range(1, len(counts)):
            found = plane[marks == value]
            if found.size:
                counts[value] += np.bincount(found.astype(np.int32) - LOWEST, minlength=counts.shape[1])
    return counts


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
    """One for each lung, and one for both where there are two; a density is a histogram of Hounsfield units."""
    groups = [
        Group(side.label, (number,), LUNG, LUNG, side.laterality, _measurements(counts, voxel_ml))
        for number, (side, counts) in enumerate(densities.items(), start=1)
    ]
    if len(densities) == len(SIDES):
        both = _measurements(sum(densities.values(), np.zeros(1, np.int64)), voxel_ml)
        groups.append(Group("Both lungs", (1, 2), LUNG, LUNG, codes.SCT.RightAndLeft, both))
    return tuple(groups)


def _measurements(counts: np.ndarray, voxel_ml: float) -> tuple[Measurement, ...]:
    """`counts` is the histogram of one structure, at least one voxel. The percentile is the lowest unit that reaches it."""
    voxels = counts.sum()
    mean = counts @ np.arange(LOWEST, -LOWEST) / voxels
    percentile = LOWEST + int(np.searchsorted(counts.cumsum(), 0.15 * voxels))
    return (
        Measurement(codes.SCT.Volume, voxels * voxel_ml, MILLILITRE, method=codes.DCM.SumOfSegmentedVoxelMethodForVolume),
        Measurement(codes.DCM.AttenuationCoefficient, float(mean), HOUNSFIELD, derivation=codes.SCT.Mean),
        Measurement(PERCENTILE_15, float(percentile), HOUNSFIELD),
        Measurement(LAA_950, _percent_below(counts, -950), PERCENT),
        Measurement(LAA_910, _percent_below(counts, -910), PERCENT),
    )


def _percent_below(counts: np.ndarray, limit: int) -> float:
    return float(100 * counts[: limit - LOWEST].sum() / counts.sum())


PIPELINE = Pipeline(
    version="1.0.0",
    model="ct_lung",
    needs=Needs(modality="CT", slices_at_least=20, spacing_at_most_mm=6.0, whole_numbers=True),
    run=run,
)
