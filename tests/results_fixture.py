"""A job on a synthetic chest: labels, a segmentation, a report, and the encoding that makes instances of them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.dicom.header import clean
from gateway.outputs import Algorithm, Encoding, Equipment, Output
from gateway.outputs.seg import Segment, Segmentation
from gateway.outputs.sr import PRIVATE_SCHEME, Group, Measurement, MeasurementReport
from tests.synthetic import ct_series, part10

LUNG = codes.SCT.Lung
BILATERAL = Code("51440002", "SCT", "Bilateral")
CT = Code("25045-6", "LN", "CT unspecified body region")
MILLILITRE = Code("ml", "UCUM", "ml")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "%")
LOW_ATTENUATION = Code("LAA950", PRIVATE_SCHEME, "Share of voxels below -950 HU")
SEGMENTS = tuple(
    Segment(label, codes.SCT.AnatomicalStructure, LUNG, LUNG, side, colour)
    for label, side, colour in (("Left lung", codes.SCT.Left, (255, 160, 80)), ("Right lung", codes.SCT.Right, (80, 160, 255)))
)
NOTHING_FOUND = MeasurementReport(None, (Group("Lung", (), LUNG, LUNG),), CT, "Lungs")


def headers(series: Sequence[Dataset]) -> list[Dataset]:
    """What a job works on: clean headers without pixels, in the order of the volume (the first slice towards the head)."""
    source = [clean(instance)[0] for instance in reversed(series)]
    for instance in source:
        del instance.PixelData
    return source


def lungs(source: Sequence[Dataset]) -> np.ndarray:
    """(slices, rows, columns) uint8: two boxes that differ in size, empty first slice, 1 is the patient's left."""
    rows, columns = source[0].Rows, source[0].Columns
    labels = np.zeros((len(source), rows, columns), np.uint8)
    labels[1:, rows // 4 : rows // 2, columns // 2 + 1 : -2] = 1
    labels[2:-1, rows // 4 : rows // 2 + 1, 1 : columns // 2 - 1] = 2
    return labels


def volume(source: Sequence[Dataset], labels: np.ndarray) -> hd.Volume:
    first, second = (np.array(instance.ImagePositionPatient, dtype=float) for instance in source[:2])
    along_row, along_column = np.array(source[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows, between_columns = map(float, source[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.stack([second - first, along_column * between_rows, along_row * between_columns, first], axis=1)
    return hd.Volume(labels, affine, coordinate_system="PATIENT", frame_of_reference_uid=source[0].FrameOfReferenceUID)


def lung_outputs(source: Sequence[Dataset], labels: np.ndarray) -> tuple[Segmentation, MeasurementReport]:
    segmentation = Segmentation(volume(source, labels), SEGMENTS, "LUNGS", "Lungs")
    voxel_ml = float(np.prod(segmentation.labels.spacing)) / 1000

    def group(label: str, segments: tuple[int, ...], side: Code) -> Group:
        millilitres = float(np.isin(labels, segments).sum()) * voxel_ml
        measurements = (
            Measurement(codes.SCT.Volume, millilitres, MILLILITRE, method=codes.DCM.SumOfSegmentedVoxelMethodForVolume),
            Measurement(codes.DCM.AttenuationCoefficient, -850.1234567, HOUNSFIELD, derivation=codes.SCT.Mean),
            Measurement(LOW_ATTENUATION, 12.5, PERCENT),
        )
        return Group(label, segments, LUNG, LUNG, side, measurements)

    groups = (
        group("Left lung", (1,), codes.SCT.Left),
        group("Right lung", (2,), codes.SCT.Right),
        group("Lungs", (1, 2), BILATERAL),
    )
    return segmentation, MeasurementReport(segmentation, groups, CT, "Lungs")


def encoding(source: Sequence[Dataset], outputs: Sequence[Output], *, key: str = "a job key", **more: Any) -> Encoding:
    return Encoding(
        source=source,
        outputs=outputs,
        algorithm=Algorithm("ct_lung", "1.2.0", "Clinical AI gateway", "lung_unet", "3", "ab" * 32),
        equipment=Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1"),
        key=key,
        started_at=datetime(2026, 1, 2, 23, 30, 15, 250000, tzinfo=UTC),
        **more,
    )


def lung_job(slices: int = 12, rows: int = 64, columns: int = 64, *, key: str = "a job key", **overrides: object) -> Encoding:
    source = headers(ct_series(slices, rows, columns, **overrides))
    return encoding(source, lung_outputs(source, lungs(source)), key=key)


def encoded(job: Encoding) -> list[Dataset]:
    return [job.dataset(output) for output in job.outputs]


@cache
def lung_results() -> tuple[Dataset, ...]:
    """Those of `lung_job()`, made once in a process of tests: nobody changes them."""
    return tuple(encoded(lung_job()))


def by_highdicom(job: Encoding) -> hd.seg.Segmentation:
    """What highdicom makes of all source instances and all labels of `job`, which has one segmentation."""
    (output,) = job.outputs
    assert isinstance(output, Segmentation)
    return hd.seg.Segmentation(
        list(job.source), output.labels.array, "BINARY",
        [output._segment(number, job) for number in range(1, len(output.segments) + 1)],
        series_instance_uid="2.25.1", series_number=1, sop_instance_uid="2.25.2", instance_number=1, manufacturer="m",
        manufacturer_model_name="m", software_versions="1", device_serial_number="1",
    )  # fmt: skip


def written(folder: Path, instances: Sequence[Dataset], name: str) -> list[Path]:
    """The paths of the files, folder/name00.dcm and so on."""
    paths = [folder / f"{name}{n:02}.dcm" for n in range(len(instances))]
    for path, instance in zip(paths, instances, strict=True):
        path.write_bytes(part10(instance))
    return paths
