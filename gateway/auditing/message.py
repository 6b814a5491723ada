"""Message: an audit event as a DICOM audit message (PS3.15 A.5), the XML that an audit record repository takes.

Every act is told, so that both sides count the same; the table `_TOLD` says as what. An act that DICOM has no event for (a job
that was made, or tried again) is carried as Instances Accessed with its outcome, and names itself in an EventTypeCode of
ours, as every message does. A message holds:

    the event           EventID, action, UTC time, outcome; the reason in words
    who took part       caller, peer and gateway in the roles of A.5.3, AE titles as "AETITLES=..."; or the person
    which system tells  [audit] source
    what it is about    the study, with the instances of each SOP class where the event names some; in what tells of
                        instances also the patient; for an alert the node; for the use of the trail the trail
    which event it is   its number in the trail, its hash, and its details, so that one that comes twice can be told

One event is about one study, so a message is about one patient. Of the patient it tells the ID and nothing else, which
A.5.3.5 to A.5.3.8 demand. Where no study is known (a refused instance, a storage commitment) it tells of none.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from types import MappingProxyType
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from gateway.auditing.audit import Act
from gateway.auditing.elements import (
    PRIVATE_SCHEME,
    About,
    Code,
    Told,
    alert,
    came,
    coded,
    did,
    nothing,
    ran,
    saw,
    study_and_patient,
    text,
    the_event,
    trail,
    went,
)
from gateway.rows.trail import AuditEvent

_OUTCOMES = (0, 4, 8, 12)


def message(event: AuditEvent, about: About, *, source: str, is_brief: bool = False) -> bytes:
    """`is_brief` leaves out what can be long: details and instances, for a transport that takes no long message."""
    told = Told(event, about, source, is_brief)
    kind, action, types = _TOLD.get(event.act, _OTHER)
    root = Element("AuditMessage")
    _identification(SubElement(root, "EventIdentification"), told, kind.event, action, types)
    root.extend(kind.participants(told))
    SubElement(root, "AuditSourceIdentification", AuditSourceID=text(source))
    root.extend(kind.objects(told))
    root.append(the_event(told))
    xml: bytes = tostring(root, encoding="utf-8", xml_declaration=False)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + xml


def _identification(parent: Element, told: Told, identity: Code, action: str, types: Iterable[Code]) -> None:
    event = told.event
    parent.set("EventActionCode", action)
    parent.set("EventDateTime", event.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"))
    parent.set("EventOutcomeIndicator", str(min((one for one in _OUTCOMES if one >= event.outcome), default=_OUTCOMES[-1])))
    parent.append(coded("EventID", identity))
    parent.extend(coded("EventTypeCode", code) for code in (*types, Code(event.act, event.act, PRIVATE_SCHEME)))
    reason = event.detail.get("reason")
    if reason and not told.is_brief:
        SubElement(parent, "EventOutcomeDescription").text = text(str(reason))


class _Kind(NamedTuple):
    """A section of A.5.3: the event, who takes part in it, what it is about."""

    event: Code
    participants: Callable[[Told], Iterable[Element]]
    objects: Callable[[Told], Iterable[Element]]


_APPLICATION_ACTIVITY = _Kind(Code("110100", "Application Activity"), ran, nothing)
_AUDIT_LOG_USED = _Kind(Code("110101", "Audit Log Used"), did, trail)
_BEGIN_TRANSFERRING = _Kind(Code("110102", "Begin Transferring DICOM Instances"), went, study_and_patient)
_ACCESSED = _Kind(Code("110103", "DICOM Instances Accessed"), did, study_and_patient)
_CAME = _Kind(Code("110104", "DICOM Instances Transferred"), came, study_and_patient)
_WENT = _Kind(Code("110104", "DICOM Instances Transferred"), went, study_and_patient)
_DELETED = _Kind(Code("110105", "DICOM Study Deleted"), did, study_and_patient)
_AUTHENTICATION = _Kind(Code("110114", "User Authentication"), did, nothing)
_SECURITY_ALERT = _Kind(Code("110113", "Security Alert"), saw, alert)
_ATTRIBUTES = Code("110137", "User Security Attributes Changed")
_SOFTWARE = Code("110131", "Software Configuration")

_NETWORK = Code("110128", "Network Configuration")

_ROWS: tuple[tuple[_Kind, str, tuple[Code, ...], tuple[Act, ...]], ...] = (
    (_APPLICATION_ACTIVITY, "E", (Code("110120", "Application Start"),), (Act.GATEWAY_STARTED,)),
    (_APPLICATION_ACTIVITY, "E", (Code("110121", "Application Stop"),), (Act.GATEWAY_STOPPED,)),
    (_AUDIT_LOG_USED, "R", (), (Act.AUDIT_SIGNED, Act.AUDIT_VERIFIED, Act.AUDIT_EXPORTED)),
    (_BEGIN_TRANSFERRING, "E", (), (Act.DELIVERY_STARTED,)),
    (_CAME, "C", (), (Act.INSTANCE_RECEIVED, Act.INSTANCE_MISSING, Act.INSTANCE_REFUSED)),
    (_CAME, "R", (), (Act.INSTANCE_REPEATED,)),
    (_CAME, "U", (), (Act.SERIES_REOPENED,)),
    (_WENT, "C", (), (Act.DELIVERY_SENT, Act.DELIVERY_RETRIED, Act.DELIVERY_FAILED)),
    (_WENT, "R", (), (Act.DELIVERY_PROVED,)),
    (_ACCESSED, "C", (), (Act.JOB_DONE,)),
    (_ACCESSED, "R", (), (Act.SERIES_COMPLETE, Act.JOB_CREATED, Act.JOB_STARTED, Act.JOB_RETRIED, Act.JOB_FAILED)),
    (_ACCESSED, "R", (), (Act.JOB_ORDERED, Act.SERIES_HELD, Act.SERIES_FAILED, Act.SERIES_FORCED)),
    (_ACCESSED, "R", (), (Act.SERIES_TAKEN, Act.SERIES_PASSED, Act.PRIORS_SOUGHT, Act.PRIORS_DONE)),
    (_ACCESSED, "R", (), (Act.JOB_CANCELLED, Act.DELIVERY_CANCELLED, Act.DELIVERY_UNWANTED, Act.FINDING_STATED)),
    (_ACCESSED, "R", (), (Act.COMMITMENT_ASKED, Act.COMMITMENT_REPORTED)),
    (_ACCESSED, "R", (), (Act.COMMITMENT_RETRIED, Act.COMMITMENT_FAILED, Act.SERIES_RELEASED, Act.JOB_RELEASED)),
    (_ACCESSED, "U", (), (Act.STEP_PERFORMED,)),
    (_ACCESSED, "D", (), (Act.OUTPUT_RETRACTED,)),
    (_ACCESSED, "C", (), (Act.WORKITEM_CREATED,)),
    (_ACCESSED, "U", (), (Act.WORKITEM_UPDATED, Act.WORKITEM_CLAIMED, Act.WORKITEM_COMPLETED, Act.WORKITEM_CANCELED)),
    (_ACCESSED, "R", (), (Act.WORKITEM_UNWANTED, Act.WORKITEM_FOLLOWED)),
    (_ACCESSED, "D", (), (Act.WORKITEM_REMOVED,)),
    (_DELETED, "D", (), (Act.FILE_REMOVED,)),
    (_SECURITY_ALERT, "E", (Code("110126", "Node Authentication"),), (Act.ASSOCIATION_REJECTED,)),
    (_SECURITY_ALERT, "E", (_NETWORK,), (Act.PEER_ADDED, Act.PEER_CHANGED, Act.PEER_DISABLED, Act.PEER_ENABLED)),
    (_SECURITY_ALERT, "E", (_NETWORK,), (Act.PEER_REMOVED, Act.PEER_PROBED)),
    (_SECURITY_ALERT, "E", (Code("110133", "Audit Recording Stopped"),), (Act.COLLECTOR_DOWN,)),
    (_SECURITY_ALERT, "E", (Code("110134", "Audit Recording Started"),), (Act.COLLECTOR_UP,)),
    (_SECURITY_ALERT, "E", (_SOFTWARE,), (Act.CONFIG_READ, Act.CONFIG_REFUSED)),
    (_SECURITY_ALERT, "E", (_SOFTWARE,), (Act.RULES_WRITTEN, Act.RULES_APPROVED, Act.RULES_ACTIVATED)),
    (_SECURITY_ALERT, "E", (), (Act.DOOR_CLOSED, Act.DOOR_OPENED, Act.INSTANCE_VERSION, Act.INSTANCE_STRAY)),
    (_SECURITY_ALERT, "E", (), (Act.INSTANCE_ALARMING, Act.DELIVERY_LOST, Act.DELIVERY_HELD, Act.DELIVERY_LATE)),
    (_SECURITY_ALERT, "E", (), (Act.PROOF_UNKNOWN, Act.DATABASE_RESTORED, Act.SOURCE_AWAY, Act.SOURCE_BACK)),
    (_SECURITY_ALERT, "E", (_ATTRIBUTES,), (Act.PERSON_CHANGED,)),
    (_AUTHENTICATION, "E", (Code("110122", "Login"),), (Act.PERSON_SIGNED_IN, Act.PERSON_NOT_SIGNED_IN)),
    (_AUTHENTICATION, "E", (Code("110123", "Logout"),), (Act.PERSON_SIGNED_OUT,)),
    (_SECURITY_ALERT, "E", (), (Act.NOTICE_FAILED, Act.ALARM_RAISED, Act.ALARM_ENDED)),
    (_ACCESSED, "R", (), (Act.NOTICE_SENT, Act.RETRIEVAL_DONE, Act.RETRIEVAL_FAILED)),
)
_TOLD: Mapping[str, tuple[_Kind, str, tuple[Code, ...]]] = MappingProxyType(
    {act: (kind, action, types) for kind, action, types, acts in _ROWS for act in acts}
)
_OTHER = (_ACCESSED, "R", ())
"""An act of a later version, which shares the database."""
