"""What is proposed, and what we accept of it (PS3.8 7.1, 9.3.2 to 9.3.4; PS3.7 D.3.3.4 for roles). pynetdicom decodes."""

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_items import MaximumLengthSubItem, SCP_SCU_RoleSelectionSubItem

from gateway.pdu import ASSOCIATE_AC
from gateway.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_ACCEPTED, _NO_SUCH_SYNTAX, _NO_SUCH_TRANSFER_SYNTAX = 0, 3, 4
_MOST_CONTEXTS = 128
_ANY_TITLES = b"ANY".ljust(16) * 2
_USER_INFORMATION = 0x50
_ITEMS = frozenset((0x10, 0x20, _USER_INFORMATION))
_USER_ITEMS = frozenset((0x51, 0x52, 0x54, 0x55))  # of PS3.7 D.3.3, those that matter here
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
    request = A_ASSOCIATE_RQ()
    try:
        # AE titles are for policy.py to judge, not for a decoder.
        request.decode(pdu[:10] + _ANY_TITLES + pdu[42:74] + _known(pdu[74:], _ITEMS))
        contexts = [
            (int(item.context_id or 0), str(item.abstract_syntax), [str(syntax) for syntax in item.transfer_syntax])
            for item in request.presentation_context
        ]
        user = request.user_information.user_data if request.user_information else []
    except Exception as error:  # a reader of foreign bytes
        raise ValueError("expected an A-ASSOCIATE-RQ") from error
    numbers = {number for number, _, _ in contexts}
    if not 0 < len(contexts) == len(numbers) <= _MOST_CONTEXTS or any(number % 2 == 0 for number in numbers):
        raise ValueError("expected 1 to 128 presentation contexts with odd IDs, each once")
    longest = next((int(item.maximum_length_received or 0) for item in user if isinstance(item, MaximumLengthSubItem)), 0)
    proposed = {abstract_syntax for _, abstract_syntax, _ in contexts}
    roles = {
        str(item.uid): (bool(item.scu_role), bool(item.scp_role))
        for item in user
        if isinstance(item, SCP_SCU_RoleSelectionSubItem) and str(item.uid) in proposed
    }
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


def _known(data: bytes, kinds: Collection[int]) -> bytes:
    """The items of these types; others are skipped (PS3.8 9.3.1)."""
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        body, at = data[at + 4 : at + 4 + length], at + 4 + length
        if at > len(data):
            raise ValueError("an item ends behind its PDU")
        if kind in kinds:
            found.append(_item(kind, _known(body, _USER_ITEMS) if kind == _USER_INFORMATION else body))
    return b"".join(found)


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
