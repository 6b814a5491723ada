"""What comes beside instances, and who takes it: messages of storage commitment and of procedure steps.

Storage commitment, push model (PS3.4 J.3): asked as its SCP, and told as its SCU, which has asked elsewhere. A procedure step
(PS3.4 F.7) is begun by N-CREATE and changed by N-SET; we are its SCP.
"""

from gateway.dicom.command import N_ACTION, N_CREATE, N_EVENT_REPORT, N_SET, Command
from gateway.dicom.commitment import COMMITMENT, EVENTS, REQUEST, WELL_KNOWN, read_outcome, read_request
from gateway.dicom.instance import Origin
from gateway.dicom.modality import PROCEDURE_STEP, read_changed, read_created
from gateway.dicom.uids import is_uid
from gateway.doors.door import Door
from gateway.errors import InvalidUid, NoSuchAction, NoSuchClass, NoSuchEvent, NoSuchInstance
from gateway.ingest._acse import Context

_STEPS = frozenset((N_CREATE, N_SET))
NOTICES = frozenset((N_ACTION, N_EVENT_REPORT)) | _STEPS


def take(command: Command, data: bytes, context: Context, door: Door, origin: Origin) -> None:
    """Durable when this returns; raises Refused with a status of the message (PS3.7 10.1)."""
    (_take_step if command.field in _STEPS else _take_commitment)(command, data, context, door, origin)


def _take_commitment(command: Command, data: bytes, context: Context, door: Door, origin: Origin) -> None:
    """Whoever reports proposes to be the SCP (PS3.7 D.3.3.4); one that forgot to is heard all the same."""
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


def _take_step(command: Command, data: bytes, context: Context, door: Door, origin: Origin) -> None:
    if {context.abstract_syntax, command.sop_class_uid} != {PROCEDURE_STEP}:
        raise NoSuchClass("expected Modality Performed Procedure Step and its presentation context")
    if not is_uid(command.sop_instance_uid):
        raise InvalidUid("expected a SOP Instance UID as in PS3.5 9.1 in the request")
    if command.field == N_CREATE:
        door.begin_step(origin, command.sop_instance_uid, read_created(data, context.transfer_syntax))
    else:
        door.change_step(origin, command.sop_instance_uid, read_changed(data, context.transfer_syntax))
