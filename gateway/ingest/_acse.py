"""What is proposed, and what we accept of it (PS3.8 7.1, 9.3.2 to 9.3.4; PS3.7 D.3.3.4 for roles).

Read by hand: pynetdicom's decoder takes 18 ms for 120 presentation contexts, and has pydicom warn with what came.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.dicom.pdu import ASSOCIATE_AC
from gateway.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_ACCEPTED, _NO_SUCH_SYNTAX, _NO_SUCH_TRANSFER_SYNTAX = 0, 3, 4
_MOST_CONTEXTS = 128
_HEAD_BYTES, _LONGEST_UID = 74, 64
_CONTEXT, _ABSTRACT_SYNTAX, _TRANSFER_SYNTAX, _USER_INFORMATION, _MAXIMUM_LENGTH, _ROLES = 0x20, 0x30, 0x40, 0x50, 0x51, 0x54
_NO_TRANSFER_SYNTAX = "1.2.840.10008.1.2"  # says nothing in a context that is not accepted, but has to be there (PS3.8 9.3.3.2)


@dataclass(frozen=True)
class Context:
    """A presentation context that both ends use from now on."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class Proposal:
    """An A-ASSOCIATE-RQ. AE titles are as they came, padding and all; `maximum_length` is in bytes, 0 for any."""

    calling: str
    called: str
    maximum_length: int
    contexts: Sequence[tuple[int, str, Sequence[str]]]
    roles: Mapping[str, tuple[bool, bool]]
    titles: bytes


def proposal(pdu: bytes) -> Proposal:
    """Raises ValueError for what PS3.8 does not allow: no contexts, even or repeated IDs, more than 128 of them."""
    try:
        items = list(_items(pdu, _HEAD_BYTES))
        contexts = [_context(body) for kind, body in items if kind == _CONTEXT]
        user = [one for kind, body in items if kind == _USER_INFORMATION for one in _items(body)]
        longest = next((struct.unpack(">I", body)[0] for kind, body in user if kind == _MAXIMUM_LENGTH), 0)
        offered = [_proposed_role(body) for kind, body in user if kind == _ROLES]
    except (struct.error, ValueError) as error:
        raise ValueError("expected an A-ASSOCIATE-RQ") from error
    numbers = {number for number, _, _ in contexts}
    if not 0 < len(contexts) == len(numbers) <= _MOST_CONTEXTS or any(number % 2 == 0 for number in numbers):
        raise ValueError("expected 1 to 128 presentation contexts with odd IDs, each once")
    proposed = {abstract_syntax for _, abstract_syntax, _ in contexts}
    roles = {uid: (as_scu, as_scp) for uid, as_scu, as_scp in offered if uid in proposed}
    return Proposal(pdu[26:42].decode("latin-1"), pdu[10:26].decode("latin-1"), longest, contexts, roles, pdu[10:42])


def agree(
    proposed: Proposal, supported: Mapping[str, Sequence[str]], *, maximum_length: int, both_roles: str = ""
) -> tuple[dict[int, Context], bytes]:
    """The accepted contexts by their ID, and the A-ASSOCIATE-AC. `supported`: transfer syntaxes by abstract syntax, ours first.

    `both_roles` is the SOP class for which both ends may send requests (storage commitment, PS3.4 J.3.3).
    """
    agreed: dict[int, Context] = {}
    items = [_item(0x10, b"1.2.840.10008.3.1.1.1")]
    for number, abstract_syntax, offered in proposed.contexts:
        mine = supported.get(abstract_syntax)
        chosen = next((syntax for syntax in mine or () if syntax in offered), None)
        result = _ACCEPTED if chosen else _NO_SUCH_SYNTAX if mine is None else _NO_SUCH_TRANSFER_SYNTAX
        if chosen:
            agreed[number] = Context(abstract_syntax, chosen)
        items.append(_item(0x21, bytes((number, 0, result, 0)) + _item(0x40, (chosen or _NO_TRANSFER_SYNTAX).encode())))
    information = [_item(0x51, struct.pack(">I", maximum_length)), _item(0x52, IMPLEMENTATION_CLASS_UID.encode())]
    information += [_role(uid, roles, both=uid == both_roles) for uid, roles in proposed.roles.items()]
    information.append(_item(0x55, IMPLEMENTATION_VERSION_NAME.encode()))
    body = struct.pack(">Hxx", 1) + proposed.titles + bytes(32) + b"".join(items) + _item(0x50, b"".join(information))
    return agreed, struct.pack(">BxI", ASSOCIATE_AC, len(body)) + body


def _items(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type and body of each item from there on; which of them matter is for the caller (PS3.8 9.3.1)."""
    while at < len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        body, at = data[at + 4 : at + 4 + length], at + 4 + length
        if at > len(data):
            raise ValueError("an item ends behind its PDU")
        yield kind, body


def _context(body: bytes) -> tuple[int, str, list[str]]:
    """Its ID, abstract syntax and transfer syntaxes (PS3.8 9.3.2.2); one without an abstract syntax names none that we know."""
    (number,) = struct.unpack_from(">B3x", body)
    syntaxes = [(kind, _uid(uid)) for kind, uid in _items(body, 4)]
    abstract = next((uid for kind, uid in syntaxes if kind == _ABSTRACT_SYNTAX), "")
    return number, abstract, [uid for kind, uid in syntaxes if kind == _TRANSFER_SYNTAX]


def _proposed_role(body: bytes) -> tuple[str, bool, bool]:
    """A SOP class, and whether the requestor would be its SCU, its SCP (PS3.7 D.3.3.4.1)."""
    (length,) = struct.unpack_from(">H", body)
    as_scu, as_scp = struct.unpack_from(">??", body, 2 + length)
    return _uid(body[2 : 2 + length]), as_scu, as_scp


def _uid(value: bytes) -> str:
    """Some pad it, though PS3.8 F has it unpadded."""
    if len(value) > _LONGEST_UID:
        raise ValueError("expected a UID of at most 64 bytes")
    return value.removesuffix(b"\0").decode("ascii").strip(" ")


def shown(title: str) -> str:
    """An AE title as it may stand in logs and rows: printable ASCII, at most 16 characters."""
    return "".join(character if " " <= character <= "~" else "?" for character in title).strip()[:16]


def _role(uid: str, proposed: tuple[bool, bool], *, both: bool) -> bytes:
    """The requestor is an SCU; it may be an SCP only where both ends may ask."""
    as_scu, as_scp = proposed
    encoded = uid.encode("ascii", "replace")
    return _item(0x54, struct.pack(">H", len(encoded)) + encoded + bytes((as_scu, as_scp and both)))


def _item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(data)) + data
