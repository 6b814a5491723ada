"""What the headers of a series say of its completeness: counts that they declare, gaps in its geometry and in its numbering.

A signal says `whole` only where the standard gives the declared count that meaning and the images bear it out; in doubt it
says nothing. Missing is what must have been made: a slice between two others, a time point, a number of a row.
"""

from collections.abc import Hashable, Sequence
from functools import partial

from pydicom import Dataset

from gateway.decisions.completeness import Says, Signal
from gateway.dicom.values import each, numbers, texts, values, whole
from gateway.errors import Unsuitable
from gateway.imaging.split import Part, images_of, parts, positions
from gateway.imaging.volume import arrange

_AT_MOST_NAMED, _LONGEST_ROW = 5, 10_000


def signals(headers: Sequence[Dataset]) -> tuple[Signal, ...]:
    """Geometry, declared counts and instance numbers, of the headers of all instances that are there."""
    found = parts(headers)
    geometry = _geometry(found)
    images = images_of(headers)
    return (geometry, _declared(images, found, is_sound=geometry.says is not Says.SHORT), _numbers(headers, images))


def _geometry(found: Sequence[Part]) -> Signal:
    """Regular slices say nothing of those that would follow at either end; a hole between two says that one is missing."""
    for part in found:
        try:
            arrange(part.headers)
        except Unsuitable as error:
            if error.code == "INCOMPLETE":
                return Signal("geometry", Says.SHORT, str(error))
    taken = [frozenset(positions(part.headers)) for part in found]
    for part, mine in zip(found, taken, strict=True):
        most = max(
            (len(all_) for other, all_ in zip(found, taken, strict=True) if other.kind == part.kind and mine < all_), default=0
        )
        if most and () not in mine:
            return Signal("geometry", Says.SHORT, f"one of its volumes has {len(mine)} of the {most} slices of another")
    return Signal("geometry", Says.NOTHING, "no hole in its geometry")


def _declared(images: Sequence[Dataset], found: Sequence[Part], *, is_sound: bool) -> Signal:
    signal = partial(Signal, "declared")
    several = [image for image in images if whole(image, "NumberOfFrames") > 1]
    if several:
        return _enhanced(several) if len(several) == len(images) else signal(Says.NOTHING, "no count is declared")
    expected, keyword, is_all = _expected(images, found)
    if not expected or len(images) > expected:
        return signal(Says.NOTHING, "no count is declared" if not expected else f"more images than {keyword} declares")
    why = f"{len(images)} of {expected} images by {keyword}"
    if len(images) < expected:
        return signal(Says.SHORT, why)
    return signal(Says.WHOLE if is_all and is_sound else Says.NOTHING, why)


def _expected(images: Sequence[Dataset], found: Sequence[Part]) -> tuple[int, str, bool]:
    """How many images, by which attribute, and whether these are all of the series.

    Images in Acquisition (PS3.3 C.7.6.1) is the number of locations in some MR series of several time points or b-values.
    """
    modality = set(each(images, ("Modality",), partial(texts, keyword="Modality")))
    times = _one(images, "NumberOfTemporalPositions")
    if modality == {("PT",)} and (slices := _one(images, "NumberOfSlices")) > 0:  # PS3.3 C.8.9.1
        return slices * max(1, _one(images, "NumberOfTimeSlices")), "NumberOfSlices", True
    if times > 1:
        return times * _locations(found), "NumberOfTemporalPositions", False
    counts = _grouped_counts(images)
    is_all = modality == {("CT",)} or (modality == {("MR",)} and times == 1 and not _is_echo_planar(images))
    return counts, "ImagesInAcquisition", is_all


def _grouped_counts(images: Sequence[Dataset]) -> int:
    """ImagesInAcquisition of every acquisition together; 0 where one does not say, or says different things."""
    keywords = ("AcquisitionNumber", "ImagesInAcquisition")
    pairs = set(each(images, keywords, lambda image: (texts(image, keywords[0]), whole(image, keywords[1]))))
    acquisitions = {acquisition for acquisition, _ in pairs}
    if len(pairs) > len(acquisitions) or any(count < 1 for _, count in pairs):
        return 0
    return sum(count for _, count in pairs)


def _locations(found: Sequence[Part]) -> int:
    """Different slice positions, of the volume kind that has the most."""
    kinds: dict[Hashable, set[tuple[float, ...]]] = {}
    for part in found:
        kinds.setdefault(part.kind, set()).update(positions(part.headers))
    return max(map(len, kinds.values()), default=0)


def _is_echo_planar(images: Sequence[Dataset]) -> bool:
    return any(each(images, ("ScanningSequence",), lambda image: "EP" in texts(image, "ScanningSequence")))


def _enhanced(images: Sequence[Dataset]) -> Signal:
    """Objects of many frames (PS3.3 C.7.6.16): a concatenation names its number of parts, another one is whole by itself.

    One of several time points tells so in its frames (Temporal Position Index): then others may follow.
    """
    signal = partial(Signal, "declared")
    totals = {(texts(image, "ConcatenationUID"), whole(image, "InConcatenationTotalNumber")) for image in images}
    _, total = next(iter(totals))
    if len(totals) == 1 and total > 0:
        here = len({whole(image, "InConcatenationNumber") for image in images})
        return signal(Says.WHOLE if here >= total else Says.SHORT, f"{here} of {total} instances by InConcatenationTotalNumber")
    frames, items = whole(images[0], "NumberOfFrames"), values(images[0], "PerFrameFunctionalGroupsSequence")
    if len(images) > 1 or len(totals) > 1 or not items:
        return signal(Says.NOTHING, "no count is declared")
    if len(items) != frames:
        return signal(Says.NOTHING, "its frames are not as many as NumberOfFrames says")
    is_one = whole(images[0], "NumberOfTemporalPositions") != 1 and _is_one_time(items)
    says = Says.NOTHING if is_one else Says.WHOLE
    return signal(says, f"all of {frames} frames by NumberOfFrames")


def _is_one_time(items: Sequence[object]) -> bool:
    contents = [values(item, "FrameContentSequence") for item in items if isinstance(item, Dataset)]
    times = {texts(one[0], "TemporalPositionIndex") for one in contents if one and isinstance(one[0], Dataset)}
    return len(times - {()}) == 1


def _numbers(headers: Sequence[Dataset], images: Sequence[Dataset]) -> Signal:
    """Of slices only: other series are numbered as their makers please."""
    signal = partial(Signal, "numbers")
    known = [whole(header, "InstanceNumber") for header in headers]
    if not any(each(images, ("ImagePositionPatient",), lambda image: len(numbers(image, "ImagePositionPatient")) == 3)):
        return signal(Says.NOTHING, "no slices")
    if len(set(known)) < len(known) or min(known) < 0:
        return signal(Says.NOTHING, "not every instance has a number of its own")
    first, last = min(known), max(known)
    begins = first if first < 1 or first % 100 == 1 else 1  # some begin at 101, or 1001
    if last - begins > _LONGEST_ROW:
        return signal(Says.NOTHING, "its instance numbers are no row")
    missing = sorted(set(range(begins, last)) - set(known))
    if not missing:
        return signal(Says.NOTHING, f"instance numbers {first} to {last} without a hole")
    named = ", ".join(map(str, missing[:_AT_MOST_NAMED])) + (", ..." if len(missing) > _AT_MOST_NAMED else "")
    return signal(Says.SHORT, f"{len(missing)} instance numbers are missing: {named}")


def _one(images: Sequence[Dataset], keyword: str) -> int:
    """The value that all share, -1 where they do not."""
    found = set(each(images, (keyword,), partial(whole, keyword=keyword)))
    return found.pop() if len(found) == 1 else -1
