"""What rules see of a series: its attributes, and facts that no single header tells."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter

import numpy as np
from pydicom import Dataset

from gateway.decisions.choose import regular
from gateway.decisions.vocabulary import NUMBER, TEXT, WHOLE, Subject, Varying, attribute
from gateway.dicom.enhanced import unfolded
from gateway.dicom.values import each, numbers, texts, values, whole
from gateway.errors import Unsuitable
from gateway.imaging.split import parts
from gateway.imaging.volume import arrange, is_localizer
from gateway.outputs import Equipment

_RESULT_MODALITIES = frozenset(("SEG", "SR", "KO", "PR"))
# PS3.4 B.5: all SR and Key Object documents, all presentation states, segmentations and label maps.
_RESULT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{root}" for root in ("88.", "11.", "66.4", "66.7"))
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PLANES = ("sagittal", "coronal", "axial")
_NEAR_PLANE = math.cos(math.radians(25))


def attributes(headers: Sequence[Dataset], keywords: Iterable[str]) -> dict[str, object]:
    """Values of `keywords` (a RuleSet's) over the series, by keyword or path; what is missing everywhere is None.

    Text is str without padding, numbers are int or float, always finite; several values (VM > 1, or a path) are a list. What
    is not the same in all instances is a Varying. What cannot be read, or is several where PS3.6 has one, is missing.
    """
    frames = unfolded(headers)
    return {path: _over_series(headers if path.startswith(_GROUPS) else frames, attribute(path)) for path in keywords}


def facts(
    headers: Sequence[Dataset], *, equipment: Equipment, calling_ae_title: str, called_ae_title: str, ingest: str
) -> dict[str, object]:
    """The facts of vocabulary.FACTS that are known of the series; `equipment` is this gateway.

    slices: images (frames, where an instance has several) that are not localizers. instances: all of them.
    spacing_mm: between the slices; missing where the series is not regular. regular: it passes the geometry gate.
    volumes: how many the series holds (split.py), of two images or more; regular_volumes: how many of them pass the gate, and
    volume_slices, volume_spacing_mm of the largest of these.
    orientation: axial, coronal or sagittal within 25 degrees, else oblique; missing where slices are not parallel.
    localizer: nothing but localizers. derived, multiframe: some instance is. ours: made by this gateway, or by another one
    of its make. results: SEG, SR, KO or PR are in it.
    """
    known: dict[str, object] = {
        "instances": len(headers),
        "slices": sum(each(headers, ("Rows", "NumberOfFrames", "ImageType"), _slices)),
        "localizer": bool(headers) and all(each(headers, ("ImageType",), is_localizer)),
        "derived": any(each(headers, ("ImageType",), lambda header: "DERIVED" in texts(header, "ImageType")[:1])),
        "multiframe": any(each(headers, ("NumberOfFrames",), lambda header: whole(header, "NumberOfFrames") > 1)),
        "ours": any(
            each(
                headers,
                ("Manufacturer", "ManufacturerModelName", "ContributingEquipmentSequence"),
                partial(made_by, equipment=equipment),
            )
        ),
        "results": any(each(headers, ("Modality", "SOPClassUID"), _is_result)),
        "calling_ae_title": calling_ae_title,
        "called_ae_title": called_ae_title,
        "ingest": ingest,
    }
    frames = unfolded(headers)
    geometry = _geometry(frames)
    return known | geometry | _volumes(frames, geometry)


def _over_series(headers: Sequence[Dataset], subject: Subject) -> object:
    found: list[object] = []
    for value in each(headers, (subject.name.split("/")[0],), partial(_value, subject=subject)):
        if value not in found:
            found.append(value)
    return Varying(tuple(found)) if len(found) > 1 else found[0] if found else None


def _value(header: Dataset, subject: Subject) -> object:
    *sequences, keyword = subject.name.split("/")
    items = [header]
    for sequence in sequences:
        items = [item for outer in items for item in values(outer, sequence) if isinstance(item, Dataset)]
    found = [value for item in items for value in _typed(item, keyword, subject.kind)]
    if subject.many:
        return found or None
    return found[0] if len(found) == 1 else None


def _typed(header: Dataset, keyword: str, kind: str) -> list[object]:
    if kind == TEXT:
        return [value for value in texts(header, keyword) if value]
    if kind == NUMBER:
        return list(numbers(header, keyword))
    if kind == WHOLE:
        found = numbers(header, keyword)
        return [int(value) for value in found] if all(value.is_integer() and abs(value) < 2**63 for value in found) else []
    return [True] if values(header, keyword) else []


def _slices(header: Dataset) -> int:
    if whole(header, "Rows") < 1 or is_localizer(header):
        return 0
    return max(1, whole(header, "NumberOfFrames"))


def _is_result(header: Dataset) -> bool:
    sop_class_uid = "".join(texts(header, "SOPClassUID"))
    return not _RESULT_MODALITIES.isdisjoint(texts(header, "Modality")) or sop_class_uid.startswith(_RESULT_CLASSES)


def made_by(header: Dataset, equipment: Equipment) -> bool:
    """General Equipment or a Contributing Equipment item (PS3.3 C.7.5.1, C.12.1); versions and serial numbers may differ."""
    items = [header, *(item for item in values(header, "ContributingEquipmentSequence") if isinstance(item, Dataset))]
    ours = ((equipment.manufacturer,), (equipment.model_name,))
    return any((texts(item, "Manufacturer"), texts(item, "ManufacturerModelName")) == ours for item in items)


def _geometry(headers: Sequence[Dataset]) -> dict[str, object]:
    orientation = _orientation([header for header in headers if not is_localizer(header)])
    known: dict[str, object] = {"orientation": orientation} if orientation else {}
    try:
        return known | {"regular": True, "spacing_mm": arrange(headers).spacing_mm}
    except Unsuitable:
        return known | {"regular": False}


def _volumes(headers: Sequence[Dataset], geometry: Mapping[str, object]) -> dict[str, object]:
    found = [part for part in parts(headers) if len(part.headers) > 1]
    if geometry["regular"]:  # then it is one
        fit = [(len(part.headers), geometry["spacing_mm"]) for part in found]
    else:
        fit = [(len(part.headers), spacing) for part in found if (spacing := regular(part)) is not None]
    known: dict[str, object] = {"volumes": len(found), "regular_volumes": len(fit)}
    if fit:
        known["volume_slices"], known["volume_spacing_mm"] = max(fit, key=itemgetter(0))
    return known


def _orientation(headers: Sequence[Dataset]) -> str:
    found = each(headers, ("ImageOrientationPatient",), partial(numbers, keyword="ImageOrientationPatient"))
    if not found or any(len(one) != 6 for one in found) or not np.allclose(found, found[0], atol=1e-3):
        return ""
    normal = np.abs(np.cross(found[0][:3], found[0][3:]))
    return _PLANES[int(normal.argmax())] if normal.max() > _NEAR_PLANE else "oblique"
