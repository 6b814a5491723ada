"""A Storage SCU that costs next to nothing (PS3.4 B), so that a benchmark measures who takes the instances, not who sends them.

    python -m tests.benchmarks.scu PORT AE_TITLE RUN FOLDER...

The files of each folder go over an association of its own, all at the same time, one instance after another as a scanner does.
They are read, marked with the number of the run and cut into PDUs as long as the peer takes before this says "ready" and waits
for a line; then the clock runs, from the connections to the last release. The answer is one line of JSON. Small packets go at
once and answers are acknowledged at once, because DCMTK and Orthanc write an answer in two pieces.
"""

import json
import socket
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path
from typing import Self

from pydicom.filereader import read_partial
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.benchmarks.studies import marked

Contexts = Sequence[tuple[str, Sequence[str]]]
"""A SOP Class UID and the Transfer Syntax UIDs proposed for it; the n-th has the ID 2n + 1."""
ONE_CONTEXT: Contexts = ((CTImageStorage, (ExplicitVRLittleEndian, ImplicitVRLittleEndian)),)
CALLING_AE_TITLE = "AIGATEWAY"
"""Orthanc may know senders by name; the fixture of the tests knows this one."""
LONGEST_PDU = 131_072
_ACCEPT, _P_DATA, _RELEASE, _RELEASED = 2, 4, 5, 6
_COMMAND, _LAST = 1, 2
_IMPLEMENTATION_CLASS_UID = b"2.25.42424242"


class Association:
    """Established when made, released by `release`. `accepted` are IDs of presentation contexts, `fragment` is bytes a PDU."""

    def __init__(self, port: int, called_ae_title: str, contexts: Contexts = ONE_CONTEXT) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_request(called_ae_title, contexts))
        kind, body = self.receive()
        if kind != _ACCEPT:
            self._socket.close()
            raise ConnectionRefusedError(f"answered with a PDU of type {kind}")
        items = _items(body[68:])
        self.accepted = {item[0] for code, item in items if code == 0x21 and item[2] == 0}
        user = next(_items(item) for code, item in items if code == 0x50)
        longest = next((int.from_bytes(item) for code, item in user if code == 0x51), 0) or LONGEST_PDU
        self.fragment = min(longest, LONGEST_PDU) - 6

    def store(self, message: bytes | Iterable[bytes]) -> int:
        """The status of the C-STORE-RSP (PS3.7 9.3.1.2)."""
        for part in [message] if isinstance(message, bytes) else message:
            self._socket.sendall(part)
        kind, body = self.receive()
        if kind != _P_DATA:
            raise ConnectionAbortedError(f"answered with a PDU of type {kind}")
        return _status(body[6:])

    def receive(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._read(6))
        return kind, self._read(length)

    def release(self) -> None:
        with self._socket:
            self._socket.sendall(struct.pack(">BxI4x", _RELEASE, 4))
            kind, _ = self.receive()
            if kind != _RELEASED:
                raise ConnectionAbortedError(f"answered with a PDU of type {kind}")

    def _read(self, length: int) -> bytes:
        read = bytearray()
        while len(read) < length:
            piece = self._socket.recv(length - len(read))
            if not piece:
                raise ConnectionAbortedError("closed")
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            read += piece
        return bytes(read)


@dataclass(frozen=True)
class Instance:
    """A data set's bytes behind the file meta of a PS3.10 file."""

    sop_class_uid: str
    sop_instance_uid: str
    data: memoryview

    @classmethod
    def parse(cls, content: bytes) -> Self:
        meta = read_partial(BytesIO(content), stop_when=lambda tag, _vr, _length: tag.group != 2).file_meta
        offset = 132 + 12 + int(meta.FileMetaInformationGroupLength)
        return cls(meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, memoryview(content)[offset:])

    def message(self, context_id: int, message_id: int, fragment: int) -> bytes:
        """The C-STORE-RQ in PDUs (PS3.8 9.3.5)."""
        starts = range(0, len(self.data), fragment)
        data = (p_data(context_id, _LAST if at == starts[-1] else 0, self.data[at : at + fragment]) for at in starts)
        return b"".join(chain(self.command(context_id, message_id), *data))

    def command(self, context_id: int, message_id: int) -> tuple[bytes, bytes | memoryview]:
        elements = (
            _element(0x0002, self.sop_class_uid.encode()), _element(0x0100, b"\x01\x00"),
            _element(0x0110, message_id.to_bytes(2, "little")), _element(0x0700, b"\x00\x00"),
            _element(0x0800, b"\x01\x00"), _element(0x1000, self.sop_instance_uid.encode()),
        )  # fmt: skip
        content = b"".join(elements)
        return p_data(context_id, _COMMAND | _LAST, _element(0x0000, struct.pack("<I", len(content))) + content)

    def streamed(self, fragment: int, noise: bytes, length: int) -> Iterable[bytes]:
        """The C-STORE-RQ of a data set that `length` bytes of repeated noise end; no more of it than a PDU is ever in memory."""
        piece = noise[:fragment]
        whole, rest = divmod(length, len(piece))
        yield b"".join(self.command(1, 1) + p_data(1, 0, self.data))
        yield from repeat(b"".join(p_data(1, 0, piece)), whole)
        yield b"".join(p_data(1, _LAST, piece[:rest]))


@dataclass
class Outcome:
    """Of one association: instances acknowledged with 0x0000 and their bytes, seconds that each took, and what went wrong."""

    acknowledged: int = 0
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def p_data(context_id: int, control: int, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    return struct.pack(">BxIIBB", _P_DATA, len(data) + 6, len(data) + 2, context_id, control), data


def send(port: int, called_ae_title: str, contexts: Contexts, messages: list[bytes]) -> Outcome:
    outcome = Outcome()
    try:
        association = Association(port, called_ae_title, contexts)
        for message in messages:
            began = time.perf_counter()
            status = association.store(message)
            outcome.seconds.append(time.perf_counter() - began)
            if status == 0:
                outcome.acknowledged, outcome.bytes = outcome.acknowledged + 1, outcome.bytes + len(message)
            else:
                outcome.errors.append(f"status 0x{status:04X}")
        association.release()
    except OSError as error:
        outcome.errors.append(f"{type(error).__name__}: {error}")
    return outcome


def main() -> None:
    port, called_ae_title, run, *folders = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
    series = [[Instance.parse(marked(file.read_bytes(), run)) for file in sorted(Path(one).iterdir())] for one in folders]
    contexts = [(uid, [ExplicitVRLittleEndian]) for uid in sorted({one.sop_class_uid for one in chain(*series)})]
    probe = Association(port, called_ae_title, contexts)  # tells the length of a PDU
    probe.release()
    assert len(probe.accepted) == len(contexts), "expected a peer that takes what is sent"
    ids = {uid: 2 * n + 1 for n, (uid, _) in enumerate(contexts)}
    cut = [
        [one.message(ids[one.sop_class_uid], n % 0xFFFF + 1, probe.fragment) for n, one in enumerate(instances)]
        for instances in series
    ]
    del series
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(len(cut)) as pool:
        began = time.monotonic()
        outcomes = list(pool.map(lambda messages: send(port, called_ae_title, contexts, messages), cut))
        ended = time.monotonic()
    print(json.dumps({"began": began, "ended": ended, "outcomes": [vars(outcome) for outcome in outcomes]}))


def _request(called_ae_title: str, contexts: Contexts) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    proposed = [
        _item(
            0x20,
            bytes((2 * n + 1, 0, 0, 0)) + _item(0x30, uid.encode()) + b"".join(_item(0x40, one.encode()) for one in syntaxes),
        )
        for n, (uid, syntaxes) in enumerate(contexts)
    ]
    user = _item(0x51, struct.pack(">I", LONGEST_PDU)) + _item(0x52, _IMPLEMENTATION_CLASS_UID)
    titles = called_ae_title.ljust(16).encode() + CALLING_AE_TITLE.ljust(16).encode()
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + _item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(proposed)
    body += _item(0x50, user)
    return struct.pack(">BxI", 1, len(body)) + body


def _item(code: int, content: bytes) -> bytes:
    return struct.pack(">BxH", code, len(content)) + content


def _items(content: bytes) -> list[tuple[int, bytes]]:
    found = []
    while content:
        code, length = struct.unpack_from(">BxH", content)
        found.append((code, content[4 : 4 + length]))
        content = content[4 + length :]
    return found


def _element(number: int, value: bytes) -> bytes:
    """Of group 0000, in Implicit VR Little Endian (PS3.7 6.3.1)."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


def _status(command: bytes) -> int:
    while command:
        number, length = struct.unpack_from("<2xHI", command)
        if number == 0x0900:
            return int.from_bytes(command[8 : 8 + length], "little")
        command = command[8 + length :]
    raise ConnectionAbortedError("answered without a status")


if __name__ == "__main__":
    main()
