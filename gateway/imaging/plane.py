"""One plane as people look at it: a frame through its lookup tables and a window as a picture, and the segments on it as another.

Frames are read one by one, whatever the size of the object that they are in. What cannot be drawn is Unsuitable, with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from gateway.dicom.pixels import check_codestream
from gateway.dicom.values import numbers, texts, whole
from gateway.errors import Unsuitable
from gateway.imaging.picture import encoded, outline

WINDOWS: Mapping[str, tuple[float, float]] = {
    "lung": (-600, 1500), "soft tissue": (40, 400), "bone": (400, 1800), "brain": (40, 80),
}  # fmt: skip
"""Centre and width in HU, for CT."""
_LONGEST = 1024
"""Rows or columns of a PNG at most."""
_MOST_BYTES = 256 * 1024 * 1024
_SQUARE = 0.01
_HEADER = 12
"""Bytes of tag, VR and length before encapsulated Pixel Data (PS3.5 7.1.2)."""
_COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
)
_INSIDE, _BORDER = 70, 255


@dataclass(frozen=True)
class Look:
    """How a frame is drawn. `window`: centre and width, in the units that the rescaling gives; None: that of the image itself.

    `quality` is of a JPEG, from 1 to 100. `viewport`: width and height that it is scaled to fit in; None: its own.
    """

    window: tuple[float, float] | None = None
    media_type: str = "image/png"
    quality: int = 90
    viewport: tuple[int, int] | None = None


def image(path: Path, frame: int, *, window: str = "") -> bytes:
    """PNG of a frame (from 0); `window` is one of WINDOWS, or "" for that of the image itself. Raises Unsuitable."""
    return rendered(path, frame, Look(WINDOWS.get(window)))


def rendered(path: Path, frame: int, look: Look) -> bytes:
    """A frame (from 0) with square pixels. Raises Unsuitable."""
    header, stored = _read(path, frame)
    if stored.ndim == 3:
        shown = Image.fromarray(_eight_bits(stored))
    elif texts(header, "PhotometricInterpretation") == ("PALETTE COLOR",):
        shown = Image.fromarray(_eight_bits(apply_color_lut(stored, header)))
    else:
        shown = Image.fromarray(_grey(stored, header, frame, look.window))
    shown = shown.resize(_fitting(_size(header, frame), look.viewport), Image.Resampling.BILINEAR)
    return encoded(shown, "JPEG", quality=look.quality) if look.media_type == "image/jpeg" else _png(shown)


def overlay(path: Path, frames: Sequence[tuple[int, int]], colours: Mapping[int, tuple[int, int, int]]) -> bytes:
    """Transparent PNG, as large as image() draws the source; `frames` are frames (from 0) of a segmentation, and segments."""
    header = dcmread(path, stop_before_pixels=True)
    drawn = np.zeros((whole(header, "Rows"), whole(header, "Columns"), 4), np.uint8)
    for frame, segment in frames:
        _, stored = _read(path, frame)
        mask = stored == segment if texts(header, "SegmentationType") == ("LABELMAP",) else stored * 2 > stored.max(initial=1)
        drawn[mask] = (*colours[segment], _INSIDE)
        drawn[outline(mask)] = (*colours[segment], _BORDER)
    return _png(Image.fromarray(drawn, "RGBA").resize(_size(header, 0), Image.Resampling.NEAREST))


def segments(header: Dataset) -> dict[int, tuple[str, tuple[int, int, int]]]:
    """Label and colour (sRGB) of each segment, by its number."""
    found = {}
    for place, item in enumerate(header.get("SegmentSequence") or ()):
        lab = numbers(item, "RecommendedDisplayCIELabValue")
        colour = _COLOURS[place % len(_COLOURS)]
        if len(lab) == 3:
            red, green, blue = hd.color.CIELabColor.from_dicom_value(tuple(map(int, lab))).to_rgb()
            colour = (int(red), int(green), int(blue))
        found[whole(item, "SegmentNumber")] = (str(item.get("SegmentLabel") or ""), colour)
    return found


def drawn_on(header: Dataset) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """By SOP Instance UID and frame (from 0) of a source: which frames of the segmentation lie on it, and their segments.

    Of a LABELMAP every frame holds all segments.
    """
    shared = header.SharedFunctionalGroupsSequence[0]
    everything = list(segments(header)) if texts(header, "SegmentationType") == ("LABELMAP",) else []
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for frame, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        which = everything or [_segment(group if "SegmentIdentificationSequence" in group else shared)]
        for source in _sources(group):
            found.setdefault(source, []).extend((frame, segment) for segment in which)
    return found


def _segment(group: Dataset) -> int:
    return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _sources(group: Dataset) -> list[tuple[str, int]]:
    """PS3.3 C.7.6.16.2.6; frames are counted from 1 there."""
    return [
        (str(source.ReferencedSOPInstanceUID), int(number) - 1)
        for derivation in group.get("DerivationImageSequence") or ()
        for source in derivation.get("SourceImageSequence") or ()
        for number in numbers(source, "ReferencedFrameNumber") or (1,)
    ]


def _read(path: Path, frame: int) -> tuple[Dataset, np.ndarray]:
    """The header, and the stored values of one frame: (rows, columns), or (rows, columns, 3) RGB."""
    try:
        with path.open("rb") as file:
            header = dcmread(file, stop_before_pixels=True)
            at = file.tell()
            if not file.read(1):
                raise Unsuitable("IMAGE", "expected an object with Pixel Data: this one holds no image")
            _check(header, frame)
            if UID(str(header.file_meta.TransferSyntaxUID)).is_encapsulated:
                file.seek(at + _HEADER)
                codestream = get_frame(file, frame, number_of_frames=_frames(header))
                shape = (whole(header, "Rows"), whole(header, "Columns"))
                check_codestream(codestream, shape, whole(header, "BitsAllocated") * whole(header, "SamplesPerPixel"))
            file.seek(0)
            return header, pixel_array(file, index=frame)
    except Unsuitable:
        raise
    except FileNotFoundError as error:
        raise Unsuitable("IMAGE", "its file is not there any more: retention took it") from error
    except Exception as error:
        reason = f"expected Pixel Data that decodes as its transfer syntax ({type(error).__name__})"
        raise Unsuitable("DECODE", reason) from error


def _check(header: Dataset, frame: int) -> None:
    rows, columns, samples = (whole(header, keyword) for keyword in ("Rows", "Columns", "SamplesPerPixel"))
    if not (0 < rows <= 0xFFFF and 0 < columns <= 0xFFFF and samples in (1, 3)):
        raise Unsuitable("IMAGE", "expected an image with Rows, Columns and 1 or 3 Samples per Pixel")
    if rows * columns * samples * max(whole(header, "BitsAllocated"), 8) // 8 > _MOST_BYTES:
        raise Unsuitable("IMAGE", f"expected a frame of at most {_MOST_BYTES // 1024**2} MB")
    if not 0 <= frame < _frames(header):
        raise Unsuitable("IMAGE", f"expected a frame among the {_frames(header)} of this object")


def _frames(header: Dataset) -> int:
    return max(1, whole(header, "NumberOfFrames"))


def _grey(stored: np.ndarray, header: Dataset, frame: int, window: tuple[float, float] | None) -> np.ndarray:
    """(rows, columns) uint8, by PS3.3 C.11.1 and C.11.2.1.2 (taken as linear over the whole width)."""
    slope, intercept = (
        (_functional(header, frame, "PixelValueTransformationSequence", keyword) or (default,))[0]
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    shown = stored.astype(np.float32) * slope + intercept
    centre = _functional(header, frame, "FrameVOILUTSequence", "WindowCenter")
    width = _functional(header, frame, "FrameVOILUTSequence", "WindowWidth")
    if window is not None:
        low, high = _ends(*window)
    elif centre and width and width[0] >= 1:
        low, high = _ends(centre[0], width[0])
    else:
        low, high = (float(end) for end in np.percentile(shown, (0.5, 99.5)))
    grey: np.ndarray = (np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return 255 - grey if texts(header, "PhotometricInterpretation") == ("MONOCHROME1",) else grey


def _ends(centre: float, width: float) -> tuple[float, float]:
    return centre - width / 2, centre + width / 2


def _functional(header: Dataset, frame: int, sequence: str, keyword: str) -> tuple[float, ...]:
    """The numbers of an attribute of a frame: its own, those of all frames, or those of the object (PS3.3 C.7.6.16)."""
    frames, shared = header.get("PerFrameFunctionalGroupsSequence") or (), header.get("SharedFunctionalGroupsSequence") or ()
    for group in (*frames[frame : frame + 1], *shared[:1]):
        for item in group.get(sequence) or ():
            if found := numbers(item, keyword):
                return found
    return numbers(header, keyword)


def _eight_bits(colour: np.ndarray) -> np.ndarray:
    return colour if colour.dtype == np.uint8 else (colour / 257).astype(np.uint8)


def _size(header: Dataset, frame: int) -> tuple[int, int]:
    """Width and height with square pixels."""
    height, width = float(whole(header, "Rows")), float(whole(header, "Columns"))
    spacing = _functional(header, frame, "PixelMeasuresSequence", "PixelSpacing") or numbers(header, "PixelAspectRatio")
    if len(spacing) == 2 and min(spacing) > 0 and abs(spacing[0] / spacing[1] - 1) > _SQUARE:
        height *= min(max(spacing[0] / spacing[1], 0.1), 10)
    shrunk = min(1.0, _LONGEST / max(height, width))
    return max(1, round(width * shrunk)), max(1, round(height * shrunk))


def _fitting(size: tuple[int, int], viewport: tuple[int, int] | None) -> tuple[int, int]:
    if viewport is None:
        return size
    scale = min(viewport[0] / size[0], viewport[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _png(picture: Image.Image) -> bytes:
    return encoded(picture, "PNG", compress_level=3)
