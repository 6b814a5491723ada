"""Which volume of a series a pipeline gets, and what is left out of it: decided by what the pipeline says, never guessed.

A series that holds several volumes (split.py) is refused, with their names, unless the pipeline says which it wants: the
largest regular one, or the one whose attributes have given values. Copies of one image are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from gateway.dicom.enhanced import unfolded
from gateway.dicom.radiograph import is_radiograph
from gateway.dicom.values import numbers, texts
from gateway.errors import Unsuitable
from gateway.imaging.split import Part, parts, positions
from gateway.imaging.volume import arrange, check_identity

ONLY, LARGEST = "only", "largest"
_AT_MOST_NAMED = 6

Which = str | Mapping[str, object]
"""ONLY, LARGEST, or values by DICOM keyword: {"EchoTime": 20}."""
PixelsOf = Callable[[Dataset], bytes]


@dataclass(frozen=True)
class Chosen:
    headers: Sequence[Dataset]
    notes: tuple[str, ...] = ()


def choose(headers: Sequence[Dataset], which: Which, pixels_of: PixelsOf) -> Chosen:
    """The images of one volume. `pixels_of` gives the encoded pixels of an image, where two lie at one position.

    Raises Unsuitable: IDENTITY, and VOLUMES where the series has several and `which` does not name exactly one.
    """
    headers = unfolded(headers)
    check_identity(headers)
    found = parts(headers)
    if len(found) < 2:
        kept, copies = _without_copies(found[0].headers if found else (), pixels_of)
        taken = {id(image) for part in found for image in part.headers}
        return Chosen([*(header for header in headers if id(header) not in taken), *kept], _copies(copies))
    part = _largest(found) if which == LARGEST else _only(found) if isinstance(which, str) else _matching(found, which)
    kept, copies = _without_copies(part.headers, pixels_of)
    left_out = f"took {part}; left out {_named([other for other in found if other is not part])}"
    return Chosen(kept, (left_out, *_copies(copies)))


def regular(part: Part) -> float | None:
    """The distance of its slices in mm; None where it is no regular volume."""
    try:
        return arrange(part.headers).spacing_mm
    except Unsuitable:
        return None


def _only(found: Sequence[Part]) -> Part:
    one = "radiograph" if is_radiograph(found[0].headers[0]) else "volume"
    raise Unsuitable("VOLUMES", f"expected one {one} in the series; there are {len(found)}: {_named(found)}")


def _largest(found: Sequence[Part]) -> Part:
    """Of the regular ones; two of one size are one too many."""
    fit = sorted((part for part in found if regular(part) is not None), key=lambda part: -len(part.headers))
    if not fit:
        raise Unsuitable("VOLUMES", f"expected a regular volume in the series; there are {_named(found)}")
    if len(fit) > 1 and len(fit[0].headers) == len(fit[1].headers):
        raise Unsuitable("VOLUMES", f"expected one largest volume; these are as large: {_named(fit[:2])}")
    return fit[0]


def _matching(found: Sequence[Part], which: Mapping[str, object]) -> Part:
    fit = [part for part in found if all(_has(part.headers[0], keyword, value) for keyword, value in which.items())]
    if len(fit) != 1:
        wanted = ", ".join(f"{keyword} {value}" for keyword, value in which.items())
        raise Unsuitable("VOLUMES", f"expected one volume of {wanted}; {len(fit)} of {len(found)} are: {_named(found)}")
    return fit[0]


def _has(header: Dataset, keyword: str, value: object) -> bool:
    if isinstance(value, int | float):
        return numbers(header, keyword) == (float(value),)
    return str(value) in texts(header, keyword)


def _named(found: Sequence[Part]) -> str:
    words = [str(part) for part in found[:_AT_MOST_NAMED]]
    return "; ".join([*words, f"{len(found) - _AT_MOST_NAMED} more"] if len(found) > _AT_MOST_NAMED else words)


def _without_copies(images: Sequence[Dataset], pixels_of: PixelsOf) -> tuple[list[Dataset], int]:
    """Of images with the same pixels at one position the first; the geometry gate refuses the others that share one."""
    places: dict[tuple[float, ...], list[Dataset]] = {}
    for image, position in zip(images, positions(images), strict=True):
        places.setdefault(position, []).append(image)
    copies = {id(copy) for place, several in places.items() if place and len(several) > 1 for copy in _same(several, pixels_of)}
    return [image for image in images if id(image) not in copies], len(copies)


def _same(images: Sequence[Dataset], pixels_of: PixelsOf) -> list[Dataset]:
    known: list[bytes] = []
    copies = []
    for image in images:
        pixels = pixels_of(image)
        if pixels in known:
            copies.append(image)
        known.append(pixels)
    return copies


def _copies(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    return (f"{count} {'copy' if count == 1 else 'copies'} of images left out: the same pixels at the same position",)
