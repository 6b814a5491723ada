"""How much a data set may hold before the door takes it for hostile; PS3.5 6.2 and PS3.3 C.7.6.3 say what the numbers mean."""

from typing import NamedTuple

from pydicom.datadict import dictionary_VR

from gateway.errors import NotUnderstood

MAX_DEPTH = 32
MAX_ELEMENTS = 1_000_000
"""Items and fragments are elements too (PS3.5 7.5)."""
MAX_ITEMS = 100_000
"""In one sequence."""
MAX_TEXT_BYTES = 10 * 1024**2
MAX_VALUE_BYTES = 100 * 1024**2
"""Of any value but pixels."""
MAX_FRAMES = 100_000
MAX_IMAGE_BYTES = 8 * 1024**3
MAX_RATIO = 1000
HARMLESS_FRAME_BYTES, HARMLESS_BYTES = 64 * 1024**2, 1024**3
"""A frame, and an image, of at most this many bytes may come out of any number of compressed ones.

Blank frames are honest, and coders make next to nothing of them: JPEG-LS and JPEG 2000 leave some 100 bytes of 512 x 512
pixels, several thousand to one, and a segmentation may hold hundreds of such frames. The largest radiograph has less than
64 MiB. Up to here the pixels need no more memory than native ones that the door takes anyway (an instance may have 2 GiB);
beyond, only a bomb is so small.
"""

_TEXT = frozenset(
    ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
)  # fmt: skip
# Native pixels that share their colour (PS3.3 C.7.6.3.1.2): bytes there are, of bytes that Rows, Columns and samples say.
_SHARED_COLOUR = {"YBR_FULL_422": (2, 3), "YBR_PARTIAL_422": (2, 3), "YBR_PARTIAL_420": (1, 2)}


class TooMuch(NotUnderstood):
    """A limit was crossed: there is no other way to understand the data set."""


class Image(NamedTuple):
    """What the attributes say. A number is 0 where its attribute is absent or odd."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    frames: int
    photometric_interpretation: str


def check_image(image: Image, *, native: int | None, compressed: int | None) -> None:
    """Raise NotUnderstood where the pixels are too many, too few, or out of nothing; `native`, `compressed`: bytes there are.

    Attributes that are absent or odd are left to the job that needs them: it fails where a person sees it. So are native
    pixels that are too long: every reader knows how many it needs, some devices pad them to whole blocks, and they are kept
    and sent on as they came; a job takes them for damaged.
    """
    if image.frames > MAX_FRAMES:
        raise TooMuch(f"expected at most {MAX_FRAMES} frames")
    size = (image.rows * image.columns * image.samples * image.frames * image.bits_allocated + 7) // 8
    if size > MAX_IMAGE_BYTES:
        raise TooMuch(f"expected an image of at most {MAX_IMAGE_BYTES} bytes")
    harmless = min(image.frames * HARMLESS_FRAME_BYTES, HARMLESS_BYTES)
    if compressed is not None and size > max(harmless, MAX_RATIO * compressed):
        raise TooMuch(f"expected an image of at most {MAX_RATIO} times its compressed bytes")
    present, of = _SHARED_COLOUR.get(image.photometric_interpretation, (1, 1))
    if native is not None and native < size * present // of:
        raise NotUnderstood("PixelData is shorter than Rows, Columns and NumberOfFrames say")


def check_value(tag: int, vr: str, length: int) -> None:
    """Raise TooMuch for a value that is not pixels; `vr` is empty where the transfer syntax tells none, PS3.6 says then."""
    if length <= MAX_TEXT_BYTES:
        return
    vr = vr or dictionary_vr(tag)
    if vr in _TEXT:
        raise TooMuch(f"expected at most {MAX_TEXT_BYTES} bytes in a text")
    if length > MAX_VALUE_BYTES and vr != "SQ":
        raise TooMuch(f"expected at most {MAX_VALUE_BYTES} bytes in a value that is not pixels")


def dictionary_vr(tag: int) -> str:
    """What PS3.6 says; empty where it does not know the attribute, as no private one (PS3.5 7.8.1: their groups are odd)."""
    if tag >> 16 & 1:
        return ""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""
