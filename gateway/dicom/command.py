"""Command sets (PS3.7 6.3, E): Implicit VR Little Endian, group 0000. No I/O."""

import struct
from dataclasses import dataclass

C_STORE, C_GET, C_FIND, C_MOVE, C_ECHO, C_CANCEL, N_EVENT_REPORT, N_SET, N_ACTION, N_CREATE = (
    0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0FFF, 0x0100, 0x0120, 0x0130, 0x0140,
)  # fmt: skip
RESPONSE = 0x8000
SUCCESS, UNRECOGNIZED_OPERATION = 0x0000, 0x0211
PENDING = 0xFF  # the first byte of both its statuses
_NO_DATA_SET, _MEDIUM = 0x0101, 0
_WITH_PRIORITY = (C_STORE, C_GET, C_FIND, C_MOVE)
_SOP_CLASS, _REQUESTED_CLASS, _FIELD, _MESSAGE_ID, _RESPONDED = 0x0002, 0x0003, 0x0100, 0x0110, 0x0120
_PRIORITY, _DATA_SET_TYPE, _STATUS, _COMMENT, _ERROR_ID, _INSTANCE, _REQUESTED_INSTANCE, _EVENT, _ACTION = (
    0x0700, 0x0800, 0x0900, 0x0902, 0x0903, 0x1000, 0x1001, 0x1002, 0x1008,
)  # fmt: skip
_MOVE_TO, _COMPLETED, _FAILED, _WARNING, _ORIGINATOR = 0x0600, 0x1021, 0x1022, 0x1023, 0x1030


@dataclass(frozen=True)
class Command:
    """A message's command set; UIDs are as they came but for their padding."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    type_id: int = 0
    """Action or event type (PS3.7 E.2)."""
    status: int | None = None
    """Of a response."""
    completed: int = 0
    """Sub-operations of C-GET or C-MOVE that have brought their instance, with a warning or without."""
    failed: int = 0
    move_originator: str = ""
    """The AE title that asked for what a C-STORE brings (PS3.7 9.1.1.1)."""

    @property
    def is_response(self) -> bool:
        return self.field & RESPONSE != 0 and self.field != C_CANCEL


def read(data: bytes | bytearray) -> Command:
    """Raises ValueError where a length runs past the end, an element is not of group 0000, or a mandatory one is missing."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("expected an element of a command set")
        group, element, length = struct.unpack_from("<HHI", data, at)
        at += 8
        if group != 0 or length > len(data) - at:
            raise ValueError("expected a command set")
        found[element] = bytes(data[at : at + length])
        at += length
    field = _number(found, _FIELD)
    return Command(
        field,
        _number(found, _RESPONDED if field & RESPONSE or field == C_CANCEL else _MESSAGE_ID),
        _number(found, _DATA_SET_TYPE) != _NO_DATA_SET,
        _uid(found, _SOP_CLASS) or _uid(found, _REQUESTED_CLASS),
        _uid(found, _INSTANCE) or _uid(found, _REQUESTED_INSTANCE),
        next((_number(found, kind) for kind in (_ACTION, _EVENT) if kind in found), 0),
        _number(found, _STATUS) if _STATUS in found else None,
        _count(found, _COMPLETED) + _count(found, _WARNING),
        _count(found, _FAILED),
        found[_ORIGINATOR].decode("latin-1").strip("\0 ") if _ORIGINATOR in found else "",
    )


def respond(command: Command, status: int, comment: str = "", error_id: int = 0) -> bytes:
    """The command set of the response; `comment` is cut to the 64 characters of an LO."""
    return _set(
        (_SOP_CLASS, _padded(command.sop_class_uid, 0)), (_FIELD, _us(command.field | RESPONSE)),
        (_RESPONDED, _us(command.message_id)), (_DATA_SET_TYPE, _us(_NO_DATA_SET)), (_STATUS, _us(status)),
        (_COMMENT, _padded(comment[:64], 32)), (_ERROR_ID, _us(error_id) if error_id else b""),
        (_INSTANCE, _padded(command.sop_instance_uid, 0)),
        (_EVENT, _us(command.type_id) if command.field == N_EVENT_REPORT else b""),
        (_ACTION, _us(command.type_id) if command.field == N_ACTION else b""),
    )  # fmt: skip


def request(
    field: int, message_id: int, *, sop_class_uid: str, sop_instance_uid: str = "", type_id: int = 0, move_to: str = "",
    has_data_set: bool,
) -> bytes:  # fmt: skip
    """The command set of a request of a C- service, N-EVENT-REPORT or N-ACTION; `type_id` as in Command."""
    sop_class, instance = (_REQUESTED_CLASS, _REQUESTED_INSTANCE) if field == N_ACTION else (_SOP_CLASS, _INSTANCE)
    kind = _us(type_id) if type_id else b""
    return _set(
        (sop_class, _padded(sop_class_uid, 0)), (_FIELD, _us(field)), (_MESSAGE_ID, _us(message_id)),
        (_MOVE_TO, _padded(move_to, 32)), (_PRIORITY, _us(_MEDIUM) if field in _WITH_PRIORITY else b""),
        (_DATA_SET_TYPE, _us(1 if has_data_set else _NO_DATA_SET)), (instance, _padded(sop_instance_uid, 0)),
        (_ACTION if field == N_ACTION else _EVENT, kind),
    )  # fmt: skip


def cancel(message_id: int) -> bytes:
    """The command set of a C-CANCEL-RQ (PS3.7 9.3.2.3), which is not answered itself."""
    return _set((_FIELD, _us(C_CANCEL)), (_RESPONDED, _us(message_id)), (_DATA_SET_TYPE, _us(_NO_DATA_SET)))


def _set(*elements: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in elements if value)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _number(found: dict[int, bytes], element: int) -> int:
    value = found.get(element, b"")
    if len(value) != 2:
        raise ValueError("expected the mandatory elements of a command set")
    return int.from_bytes(value, "little")


def _count(found: dict[int, bytes], element: int) -> int:
    """0 where it is not told, or not as a US: all counts are optional."""
    return _number(found, element) if len(found.get(element, b"")) == 2 else 0


def _uid(found: dict[int, bytes], element: int) -> str:
    """One NUL of padding is allowed (PS3.5 9.1), everything else belongs to the value."""
    return found.get(element, b"").removesuffix(b"\0").decode("latin-1")


def _us(number: int) -> bytes:
    return struct.pack("<H", number)


def _padded(text: str, padding: int) -> bytes:
    value = text.encode("latin-1", "replace")
    return value + bytes((padding,)) * (len(value) % 2)
