"""The volumes of a series of images or frames: phases, echoes, b-values and time points apart, before any geometry.

What must be one thing in a volume always sets images apart (_ALWAYS, and their planes); what may differ from slice to slice
does so only where positions repeat (_PHASES), and CT acquisitions that lie between each other's slices. Nothing is guessed:
images that nothing sets apart stay together, and the geometry gate says so.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from pydicom import Dataset

from gateway.dicom.enhanced import unfolded
from gateway.dicom.radiograph import is_radiograph
from gateway.dicom.values import each, numbers, texts, whole
from gateway.imaging.volume import is_localizer

_ALWAYS = (
    "Modality",
    "Rows",
    "Columns",
    "ImageType",
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "StackID",
    "FrameOfReferenceUID",
)
_PLANES = ("ImageOrientationPatient", "PixelSpacing")
_PHASES = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "NominalCardiacTriggerDelayTime",
    "DiffusionGradientOrientation", "DimensionIndexValues", "AcquisitionNumber", "ConvolutionKernel", "SeriesTime",
    "AcquisitionTime", "AcquisitionDateTime", "ContentTime",
)  # fmt: skip
_VIEW = ("ViewPosition", "ImageLaterality", "Laterality", "ImageType", "SOPClassUID", "InstanceNumber")
_UNSPOKEN = frozenset(("FrameOfReferenceUID",))
"""Sets apart, and is never told: it identifies."""
_VARIANTS = frozenset(("ImageType", "EchoTime", "EchoNumbers", "DiffusionBValue"))
_SAME_PLANE = 1e-3
_SAME_MM = 0.01

Position = tuple[float, ...]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Part:
    """The images of one volume, as far as headers tell; `name` is what sets it apart from the others, by keyword."""

    headers: tuple[Dataset, ...]
    name: Mapping[str, str]
    kind: Hashable
    """Parts of one kind show the same slices, at other times, echoes or b-values."""

    def __str__(self) -> str:
        words = [f"{keyword} {value}" for keyword, value in self.name.items()]
        count = "1 image" if len(self.headers) == 1 else f"{len(self.headers)} images"
        return f"{count} of {', '.join(words)}" if words else count


def parts(headers: Sequence[Dataset]) -> tuple[Part, ...]:
    """Radiographs, each for itself; then volumes, in the order of their first image. Localizers, and no images, are in none."""
    radiographs: list[Dataset] = []
    images: list[Dataset] = []
    for one in images_of(unfolded(headers)):
        (radiographs if is_radiograph(one) else images).append(one)
    found = _views(radiographs)
    groups = _grouped(images, _keys(images))
    apart = [name for name in (*_ALWAYS, *_PLANES) if len({texts(group[0], name) for group in groups.values()}) > 1]
    for (always, planes), group in groups.items():
        own = {name: "\\".join(texts(group[0], name)) for name in apart if name not in _UNSPOKEN}
        kind = (tuple(value for name, value in zip(_ALWAYS, always, strict=True) if name not in _VARIANTS), planes)
        found += [Part(tuple(phase), MappingProxyType({**own, **name}), kind) for phase, name in _phases(group)]
    return tuple(found)


def _views(radiographs: Sequence[Dataset]) -> list[Part]:
    apart = [name for name in _VIEW if len({texts(one, name) for one in radiographs}) > 1]
    names = [{name: "\\".join(texts(one, name)) or "none" for name in apart} for one in radiographs]
    return [Part((one,), MappingProxyType(name), _VIEW) for one, name in zip(radiographs, names, strict=True)]


def images_of(headers: Sequence[Dataset]) -> list[Dataset]:
    """Those of `headers` that are images and no localizers."""
    is_image = each(headers, ("Rows", "ImageType"), lambda header: whole(header, "Rows") > 0 and not is_localizer(header))
    return [header for header, one in zip(headers, is_image, strict=True) if one]


def positions(images: Sequence[Dataset]) -> list[Position]:
    """Image Position (Patient) in mm, to a hundredth; empty where there is none."""
    found = each(images, ("ImagePositionPatient",), partial(numbers, keyword="ImagePositionPatient"))
    return [tuple(round(value / _SAME_MM) * _SAME_MM for value in one) if len(one) == 3 else () for one in found]


def _keys(images: Sequence[Dataset]) -> list[tuple[tuple[Hashable, ...], tuple[int, ...]]]:
    """Planes count as the same within a thousandth: scanners round them differently from slice to slice."""
    always = [each(images, (name,), partial(texts, keyword=name)) for name in _ALWAYS]
    planes = [_numbered(each(images, (name,), partial(numbers, keyword=name))) for name in _PLANES]
    return list(zip(zip(*always, strict=True), zip(*planes, strict=True), strict=True))


def _numbered(found: Sequence[tuple[float, ...]]) -> list[int]:
    known: list[tuple[float, ...]] = []
    numbered: dict[tuple[float, ...], int] = {}
    for one in found:
        if one not in numbered:
            same = (n for n, other in enumerate(known) if len(one) == len(other) and np.allclose(one, other, atol=_SAME_PLANE))
            numbered[one] = next(same, len(known))
            known += [one] if numbered[one] == len(known) else []
    return [numbered[one] for one in found]


def _grouped(images: Sequence[Dataset], keys: Iterable[Key]) -> dict[Key, list[Dataset]]:
    groups: dict[Key, list[Dataset]] = {}
    for image, key in zip(images, keys, strict=True):
        groups.setdefault(key, []).append(image)
    return groups


def _repeats(images: Sequence[Dataset]) -> int:
    """How many images there are at the position that has the most."""
    found = Counter(position for position in positions(images) if position)
    return max(found.values(), default=1)


def _phases(images: list[Dataset]) -> list[tuple[list[Dataset], dict[str, str]]]:
    repeats = _repeats(images)
    if repeats == 1:
        return _acquisitions(images) or [(images, {})]
    for keyword in _PHASES:
        groups = _grouped(images, each(images, (keyword,), partial(texts, keyword=keyword)))
        if 1 < len(groups) <= repeats and max(map(_repeats, groups.values())) < repeats:
            return [
                (phase, {keyword: "\\".join(value) or "none", **name})
                for value, group in groups.items()
                for phase, name in _phases(group)
            ]
    return _by_number(images, repeats) or [(images, {})]


def _acquisitions(images: list[Dataset]) -> list[tuple[list[Dataset], dict[str, str]]]:
    """CT acquisitions that lie between each other's slices, at other breaths; those that continue one another are one volume.

    MR interleaves the slices of one volume.
    """
    groups = _grouped(images, each(images, ("AcquisitionNumber",), partial(texts, keyword="AcquisitionNumber")))
    if len(groups) < 2 or texts(images[0], "Modality") != ("CT",) or min(map(len, groups.values())) < 2:
        return []
    plane = numbers(images[0], "ImageOrientationPatient")
    if len(plane) != 6 or not all(positions(images)):
        return []
    normal = np.cross(plane[:3], plane[3:])
    heights = [np.array(positions(group)) @ normal for group in groups.values()]
    spans = sorted((one.min(), one.max()) for one in heights)
    if all(below[1] < above[0] for below, above in pairwise(spans)):
        return []
    return [(group, {"AcquisitionNumber": "\\".join(number) or "none"}) for number, group in groups.items()]


def _by_number(images: list[Dataset], repeats: int) -> list[tuple[list[Dataset], dict[str, str]]]:
    """One volume after the other in the order of InstanceNumber, if each such block has every position once."""
    number: Callable[[Dataset], int] = partial(whole, keyword="InstanceNumber")
    slices, rest = divmod(len(images), repeats)
    ordered = sorted(images, key=number)
    blocks = [ordered[start : start + slices] for start in range(0, len(ordered), slices)]
    places = {frozenset(positions(block)) for block in blocks}
    if rest or slices < 2 or len(places) > 1 or len(min(places, key=len)) < slices:
        return []
    return [(block, {"InstanceNumber": f"{number(block[0])} to {number(block[-1])}"}) for block in blocks]
