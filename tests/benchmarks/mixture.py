"""Small studies of mixed modalities, each of another patient: what a hospital sends, a part of which a rule wants.

They are about states, not pixels: 64 x 64, few images. A CT study has a volume, which the rule matches, and sometimes a
localizer before it; all others match nothing.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import ComprehensiveSRStorage, ComputedRadiographyImageStorage, MRImageStorage

from gateway.dicom.uids import derived_uid
from tests.synthetic import ct_series, part10

_EDGE = 64
_SEED = 1_000_000
_GEOMETRY = (
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "SliceThickness",
)
_PIXELS = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "RescaleType", "PixelSpacing",
    "PixelData", "ImageType", "KVP", "BodyPartExamined", "PatientPosition",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A study as files: `instances` are their SOP Instance UIDs; `wanted` is the series that the rule matches, "" where none is."""

    study_instance_uid: str
    kind: str
    wanted: str
    series: tuple[str, ...]
    instances: Mapping[Path, str]


def samples(folder: Path, count: int, chance: random.Random, *, only: str = "") -> Iterator[Sample]:
    """One after the other, written to `folder`; `only` of one kind."""
    kinds = {only: 1} if only else _SHARES
    for number in range(count):
        (kind,) = chance.choices(list(kinds), list(kinds.values()))
        instances = _KINDS[kind](_SEED + number, chance)
        yield _written(folder / f"{number:05d}", kind, number, instances)


def _volume(seed: int, chance: random.Random) -> list[Dataset]:
    return ct_series(chance.randint(2, 6), _EDGE, _EDGE, seed=seed)


def _volume_and_localizer(seed: int, chance: random.Random) -> list[Dataset]:
    return _localizer(seed, chance) + _volume(seed, chance)


def _localizer(seed: int, chance: random.Random) -> list[Dataset]:
    scouts = _apart(ct_series(2, _EDGE, _EDGE, seed=seed), seed, "localizer")
    for scout in scouts:
        scout.ImageType, scout.SeriesDescription, scout.SeriesNumber = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "Scout", 1
    return scouts


def _mr(seed: int, chance: random.Random) -> list[Dataset]:
    series = _apart(_volume(seed, chance), seed, "mr")
    for ds in series:
        ds.SOPClassUID, ds.Modality, ds.ImageType = MRImageStorage, "MR", ["ORIGINAL", "PRIMARY", "OTHER"]
        ds.StudyDescription, ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "MR head", "GR", "SP", ""
        ds.MRAcquisitionType, ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = "3D", 3, 8, 1
        _drop(ds, ("KVP", "RescaleType", "RescaleSlope", "RescaleIntercept"))
    return series


def _cr(seed: int, chance: random.Random) -> list[Dataset]:
    series = _apart(ct_series(chance.randint(2, 3), _EDGE, _EDGE, seed=seed), seed, "cr")
    for ds in series:
        ds.SOPClassUID, ds.Modality, ds.ImageType = ComputedRadiographyImageStorage, "CR", ["ORIGINAL", "PRIMARY"]
        ds.StudyDescription, ds.SeriesDescription, ds.ViewPosition = "Chest", "PA", "PA"
        _drop(ds, _GEOMETRY)
    return series


def _sr(seed: int, chance: random.Random) -> list[Dataset]:
    documents = _apart(ct_series(chance.randint(1, 2), 2, 2, seed=seed), seed, "sr")
    for ds in documents:
        ds.SOPClassUID, ds.Modality, ds.SeriesDescription = ComprehensiveSRStorage, "SR", "Report of somebody else"
        ds.ValueType, ds.ContinuityOfContent, ds.CompletionFlag, ds.VerificationFlag = (
            "CONTAINER",
            "SEPARATE",
            "COMPLETE",
            "UNVERIFIED",
        )
        title = Dataset()
        title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "18748-4", "LN", "Diagnostic imaging report"
        ds.ConceptNameCodeSequence = [title]
        _drop(ds, (*_GEOMETRY, *_PIXELS))
    return documents


_KINDS: dict[str, Callable[[int, random.Random], list[Dataset]]] = {
    "CT": _volume, "CT with localizer": _volume_and_localizer, "CT localizer": _localizer, "MR": _mr, "CR": _cr, "SR": _sr,
}  # fmt: skip
_SHARES = {"CT": 35, "CT with localizer": 15, "CT localizer": 10, "MR": 20, "CR": 15, "SR": 5}


def _apart(series: Sequence[Dataset], seed: int, name: str) -> list[Dataset]:
    """A series of its own in the same study."""
    for number, ds in enumerate(series):
        ds.SeriesInstanceUID = derived_uid("storm", seed, name)
        ds.SOPInstanceUID = derived_uid("storm", seed, name, number)
    return list(series)


def _drop(ds: Dataset, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        if keyword in ds:
            delattr(ds, keyword)


def _written(folder: Path, kind: str, number: int, instances: Sequence[Dataset]) -> Sample:
    folder.mkdir(parents=True)
    paths = {}
    for at, ds in enumerate(instances):
        ds.PatientID, ds.PatientName, ds.AccessionNumber = f"CANARY-ID-{number}", f"CANARY^NAME^{number}", f"CANARYACC{number}"
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        path = folder / f"{at:02d}.dcm"
        path.write_bytes(part10(ds))
        paths[path] = str(ds.SOPInstanceUID)
    series = tuple(dict.fromkeys(str(ds.SeriesInstanceUID) for ds in instances))
    wanted = str(instances[-1].SeriesInstanceUID) if kind.startswith("CT") and kind != "CT localizer" else ""
    return Sample(str(instances[0].StudyInstanceUID), kind, wanted, series, paths)
