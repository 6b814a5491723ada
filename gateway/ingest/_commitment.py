"""Storage Commitment, push model, at our door (PS3.4 J.3): asked as its SCP, and told as its SCU, which has asked elsewhere."""

from gateway.dicom.command import N_ACTION, N_EVENT_REPORT, Command
from gateway.dicom.commitment import COMMITMENT, EVENTS, REQUEST, WELL_KNOWN, read_outcome, read_request
from gateway.dicom.instance import Origin
from gateway.doors.door import Door
from gateway.errors import NoSuchAction, NoSuchClass, NoSuchEvent, NoSuchInstance
from gateway.ingest._acse import Context

__all__ = ["COMMITMENT", "NOTICES", "take"]

NOTICES = frozenset((N_ACTION, N_EVENT_REPORT))
"""The messages of storage commitment that may come: a request, or what became of one of ours."""


def take(command: Command, data: bytes, context: Context, door: Door, origin: Origin) -> None:
    """Durable when this returns; raises Refused with a status of N-ACTION or N-EVENT-REPORT (PS3.7 10.1.4.1.10, 10.1.1.1.8).

    Whoever reports proposes to be the SCP (PS3.7 D.3.3.4); one that forgot to is heard all the same.
    """
    if {context.abstract_syntax, command.sop_class_uid} != {COMMITMENT}:
        raise NoSuchClass("expected the Storage Commitment Push Model and its presentation context")
    if command.sop_instance_uid != WELL_KNOWN:
        raise NoSuchInstance("expected the well-known instance of storage commitment")
    if command.field == N_ACTION:
        if command.type_id != REQUEST:
            raise NoSuchAction("expected action type 1, request storage commitment")
        door.ask(origin, *read_request(data, context.transfer_syntax))
    else:
        if command.type_id not in EVENTS:
            raise NoSuchEvent("expected event type 1 or 2, of storage commitment")
        door.report(origin, read_outcome(command.type_id, data, context.transfer_syntax))
