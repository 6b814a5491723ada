"""PDUs as bytes (PS3.8 9.3) and the messages in them (PS3.7 9.3), by pynetdicom's codec. No I/O."""

import struct
from collections.abc import Sequence

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import build_context

from gateway.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 1, 2, 3, 4, 5, 6, 7
COMMAND, LAST = 1, 2
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

Context = tuple[str, str]
"""SOP Class UID and the one Transfer Syntax UID proposed for it; the n-th proposed has the ID 2n + 1."""


def associate_rq(
    contexts: Sequence[Context], *, called: str, calling: str, maximum_length: int, scp_of: Sequence[str] = ()
) -> bytes:
    """`scp_of` are the SOP classes of which we propose to be the SCP, and not the SCU (PS3.7 D.3.3.4)."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(_APPLICATION_CONTEXT)
    primitive.called_ae_title, primitive.calling_ae_title = called, calling
    proposed = [build_context(UID(sop_class), UID(transfer_syntax)) for sop_class, transfer_syntax in contexts]
    for n, context in enumerate(proposed):
        context.context_id = 2 * n + 1
    primitive.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = maximum_length
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive.user_information = [length, implementation, version]
    for sop_class in scp_of:
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = UID(sop_class), False, True
        primitive.user_information.append(role)
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def accepted(pdu: bytes, contexts: Sequence[Context]) -> tuple[dict[Context, int], int]:
    """From an A-ASSOCIATE-AC: IDs of the accepted contexts, and the longest PDU in bytes that the peer takes (0: any).

    A context whose proposed role is refused is not accepted. A peer that accepts the context and says nothing about roles is
    taken at its word, though PS3.7 D.3.3.4 has it refuse the role: one that means that aborts when it is sent a request.
    """
    accept = A_ASSOCIATE_AC()
    accept.decode(pdu)
    answer = accept.to_primitive()
    results = answer.presentation_context_definition_results_list
    if not results:  # mandatory (PS3.8 9.3.3); the codec lets rubbish pass as an empty list, which would read as a refusal
        raise ValueError("expected the results of presentation contexts")
    refused = {
        str(role.sop_class_uid)
        for role in answer.user_information
        if isinstance(role, SCP_SCU_RoleSelectionNegotiation) and not role.scp_role
    }
    syntaxes = {one.context_id: one.transfer_syntax for one in results if one.result == 0}
    taken = {
        context: 2 * n + 1
        for n, context in enumerate(contexts)
        if context[1] in syntaxes.get(2 * n + 1, ()) and context[0] not in refused
    }
    return taken, int(answer.maximum_length_received or 0)


def reason(pdu: bytes) -> str:
    """Why an A-ASSOCIATE-RJ (PS3.8 9.3.4), in words."""
    reject = A_ASSOCIATE_RJ()
    try:
        reject.decode(pdu)
        return str(reject.reason_str).lower().replace("ae title", "AE title")
    except Exception:  # noqa: BLE001 - a reader of foreign bytes
        return "for no reason that PS3.8 lists"


def p_data(context_id: int, control: int, data: bytes) -> bytes:
    """One PDU of one fragment; `control` is the message control header (PS3.8 E.2)."""
    return p_data_head(context_id, control, len(data)) + data


def p_data_head(context_id: int, control: int, length: int) -> bytes:
    """What stands before `length` bytes of data in such a PDU."""
    return struct.pack(">BxIIBB", P_DATA, length + 6, length + 2, context_id, control)


def release_rq() -> bytes:
    return struct.pack(">BxI4x", RELEASE_RQ, 4)


def release_rp() -> bytes:
    return struct.pack(">BxI4x", RELEASE_RP, 4)


def abort(*, source: int = 0, reason: int = 0) -> bytes:
    """`source` 2: the provider (a PDU that PS3.8 does not allow, `reason` of 9.3.8); 0: the user."""
    return struct.pack(">BxI2xBB", ABORT, 4, source, reason)


def associate_rj(result: int, source: int, why: int) -> bytes:
    return struct.pack(">BxIxBBB", ASSOCIATE_RJ, 4, result, source, why)


def fragments(pdu: bytes) -> list[tuple[int, int, bytes]]:
    """Context ID, message control header and data of each in a P-DATA-TF; raises ValueError where they do not fill it."""
    found, at = [], 6
    while at < len(pdu):
        length = int.from_bytes(pdu[at : at + 4])
        if length < 2 or at + 4 + length > len(pdu):
            raise ValueError("expected presentation data values that fill their PDU")
        found.append((pdu[at + 4], pdu[at + 5], pdu[at + 6 : at + 4 + length]))
        at += 4 + length
    return found
