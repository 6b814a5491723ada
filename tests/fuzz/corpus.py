"""What the fuzzer begins with: real data sets where they are at hand, and small ones made up, whole and broken."""

import os
import warnings
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.synthetic import ct_series

DATA = Path(os.environ.get("GATEWAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
MANY = {"nasty_small", "charsets"}
"""Folders of which every file is another story; of others, two are enough."""
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
UNDEFINED = b"\xff\xff\xff\xff"


def real_files(longest: int) -> Iterator[bytes]:
    """The beginnings of real PS3.10 files, up to their pixels, at most `longest` bytes; none where GATEWAY_TEST_DATA is missing."""
    for folder in sorted(DATA.iterdir()) if DATA.is_dir() else ():
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in islice(files, None if folder.name in MANY else 2):
            yield _before_pixels(file)[:longest]


def real_data_sets(longest: int) -> Iterator[bytes]:
    """The same without preamble and file meta, as far as they have any."""
    for whole in real_files(longest + 1024):
        at = 132 if whole[128:132] == b"DICM" else 0
        while whole[at : at + 2] == b"\2\0":
            long = whole[at + 4 : at + 6] in (b"OB", b"UN")
            at += 12 + int.from_bytes(whole[at + 8 : at + 12], "little") if long else 8 + whole[at + 6] + whole[at + 7] * 256
        yield whole[at : at + longest]


def instance(rows: int = 4) -> Dataset:
    (ds,) = ct_series(1, rows, rows)
    return ds


def encoded(ds: Dataset, *, implicit: bool) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    write_dataset(buffer, ds)
    return buffer.getvalue()


def made_up() -> Iterator[bytes]:
    """Data sets in both VR encodings: native, compressed, nested; then what is wrong with them."""
    for implicit in (False, True):
        plain, nested, frames = instance(), instance(), instance()
        inner = Dataset()
        inner.CodeValue, inner.CodeMeaning = "1", "one"
        for _ in range(3):
            outer = Dataset()
            outer.ConceptNameCodeSequence, outer.ContentSequence = [inner], [inner, Dataset()]
            inner = outer
        nested.ContentSequence = [inner]
        nested.add_new(0x00091010, "UN", ITEM + (8).to_bytes(4, "little") + b"\x08\0\x05\0\0\0\0\0")
        frames.NumberOfFrames, frames.PixelData = 2, encapsulate([b"\xff\xd8one", b"\xff\xd8two"])
        frames["PixelData"].is_undefined_length = True
        if implicit:
            del frames.PixelData
        whole = encoded(plain, implicit=implicit)
        yield from (whole, encoded(nested, implicit=implicit), encoded(frames, implicit=implicit))
        yield from (whole[: len(whole) // 2], whole + ITEM_END + bytes(4), whole[:-3])
    yield b"\x08\0\x40\x11SQ\0\0" + UNDEFINED + (ITEM + UNDEFINED) * 40
    yield b"\x08\0\x40\x11" + UNDEFINED + (ITEM + UNDEFINED + b"\x08\0\x40\x11" + UNDEFINED) * 34
    yield (
        b"\x09\0\x10\x10UN\0\0"
        + (48).to_bytes(4, "little")
        + b"".join(ITEM + bytes((n, 0, 0, 0)) for n in (40, 24, 8))
        + bytes(24)
    )
    yield b"\x08\0\x40\x11UN\0\0" + UNDEFINED + ITEM + UNDEFINED + ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)


def _before_pixels(file: Path) -> bytes:
    whole = file.read_bytes()
    buffer = BytesIO(whole)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcmread(buffer, stop_before_pixels=True)
    except Exception:  # some are broken, that is what they are for
        return whole
    return whole[: buffer.tell()]
