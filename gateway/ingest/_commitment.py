"""The N-ACTION of Storage Commitment, push model (PS3.4 J.3.2), as its SCP: what is asked for, or why it is refused. No I/O."""

from gateway.command import Command
from gateway.commitment import COMMITMENT, REQUEST, WELL_KNOWN, Reference, read_request
from gateway.errors import NoSuchAction, NoSuchClass, NoSuchInstance
from gateway.ingest._acse import Context

__all__ = ["COMMITMENT", "requested"]


def requested(command: Command, data: bytes, context: Context) -> tuple[str, tuple[Reference, ...]]:
    """Transaction UID and instances; raises Refused with a status of N-ACTION (PS3.7 10.1.4.1.10)."""
    if {context.abstract_syntax, command.sop_class_uid} != {COMMITMENT}:
        raise NoSuchClass("expected the Storage Commitment Push Model and its presentation context")
    if command.sop_instance_uid != WELL_KNOWN:
        raise NoSuchInstance("expected the well-known instance of storage commitment")
    if command.type_id != REQUEST:
        raise NoSuchAction("expected action type 1, request storage commitment")
    return read_request(data, context.transfer_syntax)
