"""What comes beside instances: messages of storage commitment and of procedure steps, and who takes them.

A procedure step (PS3.4 F.7) is begun by N-CREATE and changed by N-SET; we are its SCP.
"""

from gateway.dicom.command import N_CREATE, N_SET, Command
from gateway.dicom.instance import Origin
from gateway.dicom.modality import PROCEDURE_STEP, read_changed, read_created
from gateway.dicom.uids import is_uid
from gateway.doors.door import Door
from gateway.errors import InvalidUid, NoSuchClass
from gateway.ingest import _commitment
from gateway.ingest._acse import Context
from gateway.ingest._commitment import COMMITMENT

__all__ = ["COMMITMENT", "NOTICES", "PROCEDURE_STEP", "take"]

_STEPS = frozenset((N_CREATE, N_SET))
NOTICES = _commitment.NOTICES | _STEPS


def take(command: Command, data: bytes, context: Context, door: Door, origin: Origin) -> None:
    """Durable when this returns; raises Refused with a status of the message (PS3.7 10.1.3.1.9, 10.1.5.1.6 for steps)."""
    if command.field not in _STEPS:
        _commitment.take(command, data, context, door, origin)
        return
    if {context.abstract_syntax, command.sop_class_uid} != {PROCEDURE_STEP}:
        raise NoSuchClass("expected Modality Performed Procedure Step and its presentation context")
    if not is_uid(command.sop_instance_uid):
        raise InvalidUid("expected a SOP Instance UID as in PS3.5 9.1 in the request")
    if command.field == N_CREATE:
        door.begin_step(origin, command.sop_instance_uid, read_created(data, context.transfer_syntax))
    else:
        door.change_step(origin, command.sop_instance_uid, read_changed(data, context.transfer_syntax))
