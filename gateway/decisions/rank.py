"""Which of the series of a study a pipeline gets that wants one: the best first, and why each other one is not it.

Regular before irregular, original before derived, what covers the body part before a part of it, thin before thick, the kernel
that the pipeline wants, many slices before few; then series number and UID, so that the order is always the same.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pydicom import Dataset

from gateway.decisions.choose import regular
from gateway.dicom.enhanced import unfolded
from gateway.dicom.values import texts, whole
from gateway.imaging.split import parts

SOFT, MEDIUM, SHARP = "soft", "medium", "sharp"
_COVERS = 0.8
"""Of the longest: so much is as good as all."""
_SAME_MM = 0.05
_NUMBERED = re.compile(r"[A-Z]{1,2}(\d{2})[A-Z]?", re.IGNORECASE)  # Siemens: B30f, Br40d, Bl57
_CANON = re.compile(r"FC(\d{2})", re.IGNORECASE)
_SOFT_NAMES = {"STANDARD", "SOFT", "STND", "A", "B", "C", "SA", "SB", "SC", "XCA", "XCB"}
_SHARP_NAMES = {"LUNG", "BONE", "BONEPLUS", "EDGE", "ULTRA", "L", "YA", "YB", "YC", "YD", "E", "D", "U", "DETAIL"}


@dataclass(frozen=True)
class Traits:
    """What a series is judged by; mm. `series_number` is -1, and the frame of reference empty, where there is none."""

    series_instance_uid: str
    slices: int
    spacing_mm: float | None
    is_original: bool
    kernel: str
    series_number: int
    frame_of_reference_uid: str = ""

    @property
    def covers_mm(self) -> float:
        return self.slices * (self.spacing_mm or 0)


def traits(headers: Sequence[Dataset]) -> Traits:
    """Of the largest regular volume of the series; spacing_mm is None where it has none."""
    frames = unfolded(headers)
    found = parts(frames)
    fit = [(len(part.headers), spacing) for part in found if (spacing := regular(part)) is not None]
    slices, spacing_mm = max(fit, default=(max((len(part.headers) for part in found), default=0), None), key=lambda one: one[0])
    first = frames[0]
    return Traits(
        series_instance_uid="".join(texts(first, "SeriesInstanceUID")),
        slices=slices,
        spacing_mm=spacing_mm,
        is_original="DERIVED" not in texts(first, "ImageType")[:1],
        kernel=sharpness(texts(first, "ConvolutionKernel")),
        series_number=whole(first, "SeriesNumber"),
        frame_of_reference_uid="".join(texts(first, "FrameOfReferenceUID")),
    )


def sharpness(kernel: Sequence[str]) -> str:
    """Soft or sharp by the makers' own names; medium where it is between, or not known."""
    name = (kernel[0] if kernel else "").strip().upper()
    if name in _SOFT_NAMES or name in _SHARP_NAMES:
        return SOFT if name in _SOFT_NAMES else SHARP
    if found := _CANON.fullmatch(name):
        return SOFT if int(found[1]) < 20 else SHARP if int(found[1]) >= 30 else MEDIUM
    if found := _NUMBERED.fullmatch(name):
        return SOFT if int(found[1]) < 45 else SHARP if int(found[1]) >= 55 else MEDIUM
    return MEDIUM


def ranked(candidates: Sequence[Traits], *, kernel: str = SOFT) -> list[tuple[Traits, str]]:
    """The best first, with an empty reason; the others with what made the best one better, each series once."""
    longest = max((one.covers_mm for one in candidates), default=0)
    criteria = _criteria(longest, kernel)
    ordered = sorted(candidates, key=lambda one: tuple(rank(one) for rank, _ in criteria))
    return [(one, _why(ordered[0], one, criteria) if n else "") for n, one in enumerate(ordered)]


Criterion = tuple[Callable[[Traits], float | str], Callable[[Traits, Traits], str]]


def _criteria(longest: float, kernel: str) -> list[Criterion]:
    order = [kernel, MEDIUM, *({SOFT, SHARP} - {kernel})]
    return [
        (lambda one: one.spacing_mm is None, lambda _best, _one: "it is no regular volume"),
        (lambda one: not one.is_original, lambda _best, _one: "it is derived from other images"),
        (
            lambda one: one.covers_mm < _COVERS * longest,
            lambda best, one: f"it covers {one.covers_mm:.0f} mm, the other {best.covers_mm:.0f} mm",
        ),
        (
            lambda one: round((one.spacing_mm or 0) / _SAME_MM),
            lambda best, one: (
                f"its slices are {one.spacing_mm or 0:.2f} mm apart, those of the other {best.spacing_mm or 0:.2f} mm"
            ),
        ),
        (lambda one: order.index(one.kernel), partial(_kernel_why, kernel)),
        (lambda one: -one.slices, lambda best, one: f"it has {one.slices} slices, the other {best.slices}"),
        (lambda one: one.series_number, lambda _best, _one: "the other has the lower series number"),
        (lambda one: one.series_instance_uid, lambda _best, _one: "nothing else sets them apart than their UIDs"),
    ]


def _kernel_why(wanted: str, best: Traits, one: Traits) -> str:
    return f"its kernel is {one.kernel}, that of the other {best.kernel}; {wanted} is wanted"


def _why(best: Traits, one: Traits, criteria: Sequence[Criterion]) -> str:
    return next((why(best, one) for rank, why in criteria if rank(best) != rank(one)), "it is the same series")
