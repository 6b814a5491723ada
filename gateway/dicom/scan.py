"""The pre-scan of a data set (PS3.5 7, PS3.3 C.7.6.3): is it whole, is it of a sane size, and whose is it? Nothing is decoded.

What passes can be read later; what does not is refused at the door, while the other side still owns it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.uid import ImplicitVRLittleEndian

from gateway.dicom.limits import Image, check_image
from gateway.dicom.walk import Read, Walk, wanting

# Top-level attributes whose bytes are kept.
SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
CHARACTER_SET, ACCESSION_NUMBER, MODALITY = 0x00080005, 0x00080050, 0x00080060
PATIENT_NAME, PATIENT_ID, PATIENT_BIRTH_DATE = 0x00100010, 0x00100020, 0x00100030
_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100
_PIXEL_DATA = 0x7FE00010
_KEPT = wanting(
    (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, CHARACTER_SET, ACCESSION_NUMBER, MODALITY,
     PATIENT_NAME, PATIENT_ID, PATIENT_BIRTH_DATE, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _BITS)
)  # fmt: skip

__all__ = ["Read", "Scan", "in_memory", "scan"]

_WHOLE = re.compile(r"[+]?[0-9]+")


@dataclass(frozen=True)
class Scan:
    """`values` are the raw bytes of the kept attributes; `pixel_bytes` is the length of native PixelData, else None."""

    values: Mapping[int, bytes]
    pixel_bytes: int | None

    def text(self, tag: int) -> str:
        """A value in the default repertoire, without its padding (one NUL or spaces, PS3.5 6.2)."""
        value = self.values.get(tag, b"")
        return value.removesuffix(b"\0").decode("latin-1").strip(" ")


def scan(read: Read, size: int, transfer_syntax_uid: str) -> Scan:
    """Walk the `size` bytes of a little endian data set, the file meta not counted; raise NotUnderstood where they are not one.

    Deflated and big endian syntaxes are not for this function: the door does not negotiate them.
    """
    walk = Walk(read, size, implicit=transfer_syntax_uid == ImplicitVRLittleEndian, wanted=_KEPT)
    walk.run()
    found = Scan(walk.values, walk.native.get(_PIXEL_DATA))
    check_image(_image(found), native=min(walk.native.values(), default=None), compressed=walk.compressed)
    return found


def in_memory(data: bytes | memoryview) -> Read:
    """A data set that is in memory, for `scan`."""
    return lambda offset, count: bytes(data[offset : offset + count])


def _image(found: Scan) -> Image:
    rows, columns, samples, bits = (_number(found.values.get(tag, b"")) for tag in (_ROWS, _COLUMNS, _SAMPLES, _BITS))
    frames = found.text(_FRAMES)
    return Image(
        rows=rows,
        columns=columns,
        samples=samples,
        bits_allocated=bits,
        frames=max(1, int(frames)) if _WHOLE.fullmatch(frames) else 1,
        photometric_interpretation=found.text(_PHOTOMETRIC),
    )


def _number(value: bytes) -> int:
    """US, or UL as some write it; 0 where it is neither."""
    return int.from_bytes(value, "little") if len(value) in (2, 4) else 0
