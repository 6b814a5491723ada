"""A series of images, or of frames of enhanced ones, as one volume in patient coordinates: the geometry gate (PS3.3 C.7.6.2).

What is not one regular stack of slices is refused, with the reason in words; nothing is guessed, resampled or sheared
back. Positions in reasons are mm along the normal of the slices.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import highdicom as hd
import numpy as np
from pydicom import Dataset

from gateway.dicom.enhanced import problem, unfolded
from gateway.dicom.lookup import KEYWORDS, Lookup, lookup
from gateway.dicom.pixels import FORMAT, check_format, layout
from gateway.dicom.radiograph import is_radiograph, place
from gateway.dicom.values import each, numbers, texts, whole
from gateway.errors import Unsuitable

_MAX_BYTES = 8 * 1024**3
_UNIT = 1e-3
_SAME_ORIENTATION = 1e-4
_TILT_DEGREES = 0.1
_INT16 = np.iinfo(np.int16)
_SHIFT_MM = 0.05
_GAP_MM = 0.01

# One value over the series, or it is more than one patient, or more than one volume.
_IDENTITY = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID")
_ONE_VOLUME = ("Modality", "Rows", "Columns", "ImageType", "EchoTime", "EchoNumbers", "DiffusionBValue", "StackID")
# These may differ from slice to slice of one volume; where positions repeat, they tell why.
_PHASES = ("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "AcquisitionTime")


@dataclass(frozen=True, eq=False)
class Stack:
    """Headers in the volume's order, a Lookup for each, and the geometry that they share (mm, LPS).

    The first slice lies farthest along row direction x column direction (in an axial series towards the head), so that
    slices, rows and columns make a right-handed system, as in highdicom. `image_position` is the first slice's; `notes`
    tell what was left out.
    """

    headers: tuple[Dataset, ...]
    lookups: tuple[Lookup, ...]
    image_position: tuple[float, ...]
    image_orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    spacing_mm: float
    notes: tuple[str, ...]


def arrange(headers: Sequence[Dataset]) -> Stack:
    """Order the images of one series along their normal; InstanceNumber and SliceLocation are not believed.

    Raises Unsuitable: IDENTITY (more than one patient, study or series), IMAGE (not such images), GEOMETRY (not one regular
    stack), INCOMPLETE (slices are missing; the reason says between which positions).
    """
    headers = unfolded(headers)
    check_identity(headers)
    localizer = each(headers, ("ImageType",), is_localizer)
    images = [header for header, left_out in zip(headers, localizer, strict=True) if not left_out]
    notes = (f"{sum(localizer)} localizer left out",) if any(localizer) else ()
    _check_images(images)
    orientation, pixel_spacing = _orientation(images), _pixel_spacing(images)
    _check_same(images, ("FrameOfReferenceUID",), "GEOMETRY", "one frame of reference", required=True)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = _exactly(images, "ImagePositionPatient", 3)
    order = np.argsort(-(positions @ normal), kind="stable")
    slices, positions = [images[n] for n in order], positions[order]
    _check_unique(slices, positions @ normal)
    _check_straight(slices, positions - positions[0], normal)
    return Stack(
        headers=tuple(slices),
        lookups=tuple(each(slices, KEYWORDS, lookup)),
        image_position=tuple(positions[0].tolist()),
        image_orientation=tuple(orientation.tolist()),
        pixel_spacing=pixel_spacing,
        spacing_mm=_spacing(positions @ normal),
        notes=notes,
    )


def stacked(headers: Sequence[Dataset]) -> Stack:
    """A radiograph alone, as the one slice of a volume; or what `arrange` makes of `headers`. Raises Unsuitable as that does."""
    return _flat(headers[0]) if len(headers) == 1 and is_radiograph(headers[0]) else arrange(headers)


def _flat(radiograph: Dataset) -> Stack:
    known, here, shown = layout(radiograph), place(radiograph), lookup(radiograph)
    check_size([radiograph])
    notes = [] if here.is_told else ["the image does not tell the size of its pixels: 1 mm stands for it"]
    if texts(radiograph, "PhotometricInterpretation") == ("MONOCHROME1",):
        notes.append("MONOCHROME1: values were turned round, so that larger ones are brighter")
        shown = Lookup(-shown.slope, shown.intercept + shown.slope * (known.lowest + known.highest), None)
    return Stack((radiograph,), (shown,), here.position, here.orientation, here.spacing, spacing_mm=1.0, notes=tuple(notes))


def check_identity(headers: Sequence[Dataset]) -> None:
    """Raises Unsuitable("IDENTITY") for more than one patient, study or series."""
    _check_same(headers, _IDENTITY, "IDENTITY", "one patient, one study and one series")


def volume(stack: Stack, pixels: Iterable[np.ndarray], *, whole_numbers: bool = False) -> hd.Volume:
    """(slices, rows, columns) after the modality LUT, Hounsfield units for CT; affine in mm, LPS.

    float32, or with `whole_numbers` int16: half the memory, rounded. Hounsfield units beyond it are held within its range: they
    are metal, and no tissue; what other modalities measure is refused there. `pixels` are the stored values of
    `stack.headers`, in that order; only one slice of them is held at a time. lookup.lookup says what becomes of padding.
    Raises Unsuitable: DECODE where slices are missing or of another size, IMAGE where int16 does not hold them.
    """
    first = stack.headers[0]
    shape = (whole(first, "Rows"), whole(first, "Columns"))
    array = np.empty((len(stack.headers), *shape), np.int16 if whole_numbers else np.float32)
    buffer = np.empty(shape, np.float32)  # one for all slices: new memory for each would take longer than the arithmetic
    frames, is_ct = iter(pixels), texts(first, "Modality") == ("CT",)
    for plane, modality_lut in zip(array, stack.lookups, strict=True):
        stored = next(frames, None)
        if stored is None or stored.shape != shape:
            raise Unsuitable("DECODE", f"expected {len(array)} slices of {shape[0]} x {shape[1]} pixels")
        if whole_numbers and modality_lut.apply_whole(stored, out=plane):
            continue
        modality_lut.apply(stored, out=buffer if whole_numbers else plane)
        if whole_numbers:
            rounded = np.rint(buffer, out=buffer)
            if not is_ct and (rounded.min() < _INT16.min or rounded.max() > _INT16.max):
                raise Unsuitable("IMAGE", f"expected values of {_INT16.min} to {_INT16.max}: the pipeline takes whole numbers")
            plane[...] = np.clip(rounded, _INT16.min, _INT16.max, out=buffer)
    return hd.Volume.from_attributes(
        array=array,
        image_position=stack.image_position,
        image_orientation=stack.image_orientation,
        pixel_spacing=stack.pixel_spacing,
        spacing_between_slices=stack.spacing_mm,
        coordinate_system="PATIENT",
        frame_of_reference_uid=first.get("FrameOfReferenceUID"),
    )


def check_size(images: Sequence[Dataset]) -> None:
    """Raises Unsuitable("IMAGE") for what would not fit, as float32, images of one size."""
    if len(images) * whole(images[0], "Rows") * whole(images[0], "Columns") * 4 > _MAX_BYTES:
        raise Unsuitable("IMAGE", f"expected a volume of at most {_MAX_BYTES // 1024**3} GiB")


def is_localizer(header: Dataset) -> bool:
    """PS3.3 C.8.2.1.1.1: a value of Image Type, mostly the third."""
    return "LOCALIZER" in texts(header, "ImageType")


def _check_images(images: Sequence[Dataset]) -> None:
    each(images, ("NumberOfFrames", "PerFrameFunctionalGroupsSequence", "ImageType", *FORMAT), _check_image)
    _check_same(images, _ONE_VOLUME, "GEOMETRY", "one volume in the series")
    if len(images) < 2:
        raise Unsuitable("GEOMETRY", f"expected at least 2 slices that are not localizers; there are {len(images)}")
    check_size(images)


def _check_image(image: Dataset) -> None:
    frames = whole(image, "NumberOfFrames") if "NumberOfFrames" in image else 1
    if frames < 1:
        raise Unsuitable("GEOMETRY", "expected NumberOfFrames to be a whole number from 1")
    if "PerFrameFunctionalGroupsSequence" in image and (why := problem(image)):
        raise Unsuitable("GEOMETRY", why)
    if frames > 1:
        raise Unsuitable("IMAGE", "expected one slice per instance, or an enhanced image with functional groups for its frames")
    if "MOSAIC" in texts(image, "ImageType"):
        raise Unsuitable("IMAGE", "expected one slice per instance, not a mosaic of slices")
    check_format(image)
    if texts(image, "PhotometricInterpretation") != ("MONOCHROME2",):
        raise Unsuitable("IMAGE", "expected slices of PhotometricInterpretation MONOCHROME2")


def _check_same(headers: Sequence[Dataset], keywords: Iterable[str], code: str, expected: str, *, required: bool = False) -> None:
    for keyword in keywords:
        found = set(each(headers, (keyword,), partial(texts, keyword=keyword)))
        if len(found) > 1:
            raise Unsuitable(code, f"expected {expected}; {keyword} is not the same in all instances")
        if required and found <= {(), ("",)}:
            raise Unsuitable(code, f"expected {expected}; {keyword} is missing")


def _exactly(images: Sequence[Dataset], keyword: str, count: int) -> np.ndarray:
    """(images, count) float64."""
    found = each(images, (keyword,), partial(numbers, keyword=keyword))
    if any(len(one) != count for one in found):
        raise Unsuitable("GEOMETRY", f"expected {count} finite numbers in {keyword} of every slice")
    return np.array(found)


def _orientation(images: Sequence[Dataset]) -> np.ndarray:
    """(6,) direction cosines of rows and columns, made exactly orthonormal: they are written with few digits."""
    found = _exactly(images, "ImageOrientationPatient", 6)
    row, column = found[0, :3], found[0, 3:]
    if abs(np.linalg.norm(row) - 1) > _UNIT or abs(np.linalg.norm(column) - 1) > _UNIT or abs(row @ column) > _UNIT:
        raise Unsuitable("GEOMETRY", "expected ImageOrientationPatient of two unit vectors at right angles")
    if np.abs(found - found[0]).max() > _SAME_ORIENTATION:
        raise Unsuitable("GEOMETRY", "expected one ImageOrientationPatient; the slices are not parallel")
    row = row / np.linalg.norm(row)
    column = column - (row @ column) * row
    return np.concatenate((row, column / np.linalg.norm(column)))


def _pixel_spacing(images: Sequence[Dataset]) -> tuple[float, ...]:
    found = _exactly(images, "PixelSpacing", 2)
    if found.min() <= 0 or not np.allclose(found, found[0], rtol=1e-5, atol=0):
        raise Unsuitable("GEOMETRY", "expected one PixelSpacing above 0 mm in all slices")
    return tuple(found[0].tolist())


def _check_unique(slices: Sequence[Dataset], heights: np.ndarray) -> None:
    repeated = np.flatnonzero(-np.diff(heights) < _GAP_MM)
    if not len(repeated):
        return
    one, other = slices[repeated[0]], slices[repeated[0] + 1]
    phases = [keyword for keyword in _PHASES if texts(one, keyword) != texts(other, keyword)]
    differing = f"; they differ in {', '.join(phases)}" if phases else ""
    raise Unsuitable(
        "GEOMETRY", f"expected one image at each slice position; at {_mm(heights[repeated[0]])} there are more{differing}"
    )


def _check_straight(slices: Sequence[Dataset], offsets: np.ndarray, normal: np.ndarray) -> None:
    """`offsets` are (slices, 3), from the first slice: they must follow the normal, or the volume is a sheared one."""
    along = offsets @ normal
    aside = np.linalg.norm(offsets - np.outer(along, normal), axis=1)
    tilt = math.degrees(math.atan2(aside[-1], abs(along[-1])))
    if tilt > _TILT_DEGREES and aside[-1] > _SHIFT_MM:
        raise Unsuitable("GEOMETRY", f"expected slices stacked along their normal; they are tilted by {tilt:.1f} degrees")
    if (aside > np.maximum(_SHIFT_MM, math.tan(math.radians(_TILT_DEGREES)) * np.abs(along))).any():
        raise Unsuitable("GEOMETRY", f"expected slices stacked along their normal; one is shifted by {_mm(aside.max())}")
    angles = each(slices, ("GantryDetectorTilt",), partial(numbers, keyword="GantryDetectorTilt"))
    if any(abs(angle) > _TILT_DEGREES for found in angles for angle in found):
        raise Unsuitable("GEOMETRY", "expected GantryDetectorTilt of 0 degrees, as the slice positions say")


def _spacing(heights: np.ndarray) -> float:
    """Mean distance of neighbours in mm, after the gaps have been checked."""
    gaps = -np.diff(heights)
    median = float(np.median(gaps))
    if (np.abs(gaps - median) <= _tolerance(median)).all():
        return float(heights[0] - heights[-1]) / len(gaps)
    unit = float(gaps.min())
    steps = np.rint(gaps / unit)
    if (np.abs(gaps - steps * unit) <= np.minimum(steps * _tolerance(unit), 0.2 * unit)).all():
        holes = [
            f"{int(steps[n]) - 1} between {_mm(heights[n])} and {_mm(heights[n + 1])}" for n in np.flatnonzero(steps > 1)[:5]
        ]
        raise Unsuitable(
            "INCOMPLETE", f"expected a slice every {_mm(unit)}; {int(steps.sum()) - len(steps)} are missing: {', '.join(holes)}"
        )
    raise Unsuitable("GEOMETRY", f"expected evenly spaced slices; they are {_mm(gaps.min())} to {_mm(gaps.max())} apart")


def _tolerance(gap_mm: float) -> float:
    return max(0.01 * gap_mm, _GAP_MM)


def _mm(value: float) -> str:
    return f"{value:.2f} mm"
