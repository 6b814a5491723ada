"""A scanner for tests that writes PDUs and messages byte by byte (PS3.8 9.3, PS3.7 6.3), as right or as wrong as a test wants."""

import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom.dsutils import encode

RQ, AC, RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
COMMAND, LAST = 1, 2
UNKNOWN_CALLING, UNKNOWN_CALLED, CONGESTED, TOO_MANY = (1, 1, 3), (1, 1, 7), (2, 3, 1), (2, 3, 2)
VERIFICATION, CT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
CONTEXTS = ((1, VERIFICATION, (IMPLICIT,)), (3, CT, (EXPLICIT,)))
ECHO_CONTEXT, CT_CONTEXT = 1, 3
GONE = (BrokenPipeError, ConnectionResetError, ssl.SSLError)


@dataclass(frozen=True)
class Pdu:
    """`kind` is its type (PS3.8 9.3.1), -1 when the connection has ended instead."""

    kind: int
    data: bytes = b""


@dataclass(frozen=True)
class Answer:
    context: int
    field: int
    message_id: int
    status: int
    comment: str = ""


class Scanner:
    """A requestor that sends what a test wants it to. As a context manager it closes its connection."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None, *, address: str = "", seconds: float = 20) -> None:
        self.lengths: list[int] = []
        """Of the P-DATA PDUs that came."""
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), seconds, (address, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.socket = context.wrap_socket(self.socket)

    def __enter__(self) -> "Scanner":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pdus: bytes) -> None:
        with suppress(*GONE):  # the other side may have had enough: `read` tells
            self.socket.sendall(b"".join(pdus))

    def read(self) -> Pdu:
        head = self._exactly(6)
        if len(head) < 6:
            return Pdu(-1)
        return Pdu(head[0], self._exactly(int.from_bytes(head[2:], "big")))

    def associate(self, **request: Any) -> Pdu:
        self.send(associate_rq(**request))
        return self.read()

    def answer(self) -> Answer | Pdu:
        """The next response, or what came in its place."""
        encoded_, context, last = b"", 0, False
        while not last:
            came = self.read()
            if came.kind != P_DATA:
                return came
            self.lengths.append(len(came.data))
            rest = came.data
            while rest:
                size, context, control = struct.unpack_from(">IBB", rest)
                encoded_, rest, last = encoded_ + rest[6 : size + 4], rest[size + 4 :], bool(control & LAST)
        found = dict(elements(encoded_))
        numbers = (int.from_bytes(found.get(one, b""), "little") for one in (0x0100, 0x0120, 0x0900))
        return Answer(context, *numbers, found.get(0x0902, b"").decode().rstrip())

    def status(self) -> int:
        """Of the next response; -1 where there is none."""
        answer = self.answer()
        return answer.status if isinstance(answer, Answer) else -1

    def echo(self, message_id: int = 1) -> int:
        self.send(message(ECHO_CONTEXT, c_echo(message_id)))
        return self.status()

    def store(self, ds: Dataset, **changes: Any) -> int:
        self.send(c_store(ds, **changes))
        return self.status()

    def release(self) -> int:
        """The type of the answer."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        return self.read().kind

    def reset(self) -> None:
        """Close with a RST, as a machine that lost its power and came back."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        found = b""
        with suppress(*GONE):
            while len(found) < count and (part := self.socket.recv(count - len(found))):
                found += part
        return found


# PDUs (PS3.8 9.3)


def pdu(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(data)) + data


def pdv(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def p_data(*values: bytes) -> bytes:
    return pdu(P_DATA, b"".join(values))


def item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(data)) + data


def context_item(number: int, abstract_syntax: str, transfer_syntaxes: Sequence[str]) -> bytes:
    syntaxes = b"".join(item(0x40, syntax.encode()) for syntax in transfer_syntaxes)
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract_syntax.encode()) + syntaxes)


def associate_rq(
    *, calling: bytes = b"CT1", called: bytes = b"AIGATEWAY", contexts: Sequence[tuple[int, str, Sequence[str]]] = CONTEXTS,
    maximum_length: int = 16384, information: bytes = b"",
) -> bytes:  # fmt: skip
    """`information`: further user items. AE titles are padded to 16 bytes, longer ones are cut."""
    user = item(0x51, struct.pack(">I", maximum_length)) + item(0x52, b"1.2.3.4") + information
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(context_item(*one) for one in contexts) + item(0x50, user)
    return pdu(RQ, struct.pack(">Hxx16s16s32x", 1, called.ljust(16), calling.ljust(16)) + items)


# Messages (PS3.7 6.3, 9.3)


def command(*parts: tuple[int, bytes], group_length: int | None = None) -> bytes:
    body = b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in parts)
    return struct.pack("<HHII", 0, 0, 4, len(body) if group_length is None else group_length) + body


def elements(encoded_: bytes) -> Iterator[tuple[int, bytes]]:
    while encoded_:
        _, number, length = struct.unpack_from("<HHI", encoded_)
        yield number, encoded_[8 : 8 + length]
        encoded_ = encoded_[8 + length :]


def us(number: int) -> bytes:
    return struct.pack("<H", number)


def uid(text: str | bytes) -> bytes:
    value = text.encode("latin-1") if isinstance(text, str) else text
    return value + b"\0" * (len(value) % 2)


def c_echo(message_id: int = 1) -> bytes:
    return command((2, uid(VERIFICATION)), (0x0100, us(0x0030)), (0x0110, us(message_id)), (0x0800, us(0x0101)))


def message(context: int, command_: bytes, data: bytes | None = None, *, fragment: int = 16_000) -> bytes:
    """As P-DATA PDUs, each fragment in one of its own."""
    pdus = p_data(pdv(context, COMMAND | LAST, command_))
    if data is None:
        return pdus
    starts = range(0, max(1, len(data)), fragment)
    return pdus + b"".join(
        p_data(pdv(context, LAST * (at + fragment >= len(data)), data[at : at + fragment])) for at in starts
    )  # fmt: skip


def c_store_rq(ds: Dataset, **changes: Any) -> bytes:
    """The command set; `changes`: message_id, sop_class, sop_instance, data_set_type."""
    values = {"message_id": 1, "sop_class": ds.SOPClassUID, "sop_instance": ds.SOPInstanceUID, "data_set_type": 0} | changes
    return command(
        (2, uid(values["sop_class"])), (0x0100, us(1)), (0x0110, us(values["message_id"])), (0x0700, us(0)),
        (0x0800, us(values["data_set_type"])), (0x1000, uid(values["sop_instance"])),
    )  # fmt: skip


def c_store(ds: Dataset, *, context: int = CT_CONTEXT, fragment: int = 16_000, **changes: Any) -> bytes:
    """`changes` may also be `data`, the bytes of the data set; None for none."""
    data = changes.pop("data") if "data" in changes else encoded(ds)
    return message(context, c_store_rq(ds, **changes), data, fragment=fragment)


def encoded(ds: Dataset) -> bytes:
    """The bytes of the data set in Explicit VR Little Endian."""
    return encode(ds, is_implicit_vr=False, is_little_endian=True) or b""
