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

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from ipaddress import ip_address
from types import MappingProxyType
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from gateway.audit import Act
from gateway.trail import AuditEvent

PRIVATE_SCHEME = "99CAIGW"
_OUTCOMES = (0, 4, 8, 12)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Node:
    """A system on the network, as far as it is known."""

    ae_title: str = ""
    host: str = ""


@dataclass(frozen=True)
class About:
    """What rows other than the event's own say of it."""

    study_instance_uid: str = ""
    patient_id: str = field(default="", repr=False)
    instances: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """SOP Instance UIDs by SOP Class UID."""
    caller: Node = Node()
    peer: Node = Node()
    ours: Node = Node()


class _Code(NamedTuple):
    value: str
    meaning: str
    scheme: str = "DCM"


class _Told(NamedTuple):
    event: AuditEvent
    about: About
    source: str
    is_brief: bool

    @property
    def peer(self) -> str:
        return str(self.event.detail.get("peer") or self.event.detail.get("ae_title") or "")

    @property
    def is_by_itself(self) -> bool:
        return self.event.actor == "gateway"


_FROM, _TO = _Code("110153", "Source Role ID"), _Code("110152", "Destination Role ID")
_APPLICATION, _LAUNCHER = _Code("110150", "Application"), _Code("110151", "Application Launcher")
_STUDY, _NODE = _Code("110180", "Study Instance UID"), _Code("110182", "Node ID")
_PATIENT, _URI = _Code("2", "Patient Number", "RFC-3881"), _Code("12", "URI", "RFC-3881")
_EVENT = _Code("audit-event", "Audit event", PRIVATE_SCHEME)


def message(event: AuditEvent, about: About, *, source: str, is_brief: bool = False) -> bytes:
    """`is_brief` leaves out what can be long: details and instances, for a transport that takes no long message."""
    told = _Told(event, about, source, is_brief)
    kind, action, types = _TOLD.get(event.act, _OTHER)
    root = Element("AuditMessage")
    _identification(SubElement(root, "EventIdentification"), told, kind.event, action, types)
    root.extend(kind.participants(told))
    SubElement(root, "AuditSourceIdentification", AuditSourceID=_text(source))
    root.extend(kind.objects(told))
    root.append(_the_event(told))
    xml: bytes = tostring(root, encoding="utf-8", xml_declaration=False)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + xml


def _identification(parent: Element, told: _Told, identity: _Code, action: str, types: Iterable[_Code]) -> None:
    event = told.event
    parent.set("EventActionCode", action)
    parent.set("EventDateTime", event.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"))
    parent.set("EventOutcomeIndicator", str(min((one for one in _OUTCOMES if one >= event.outcome), default=_OUTCOMES[-1])))
    parent.append(_coded("EventID", identity))
    parent.extend(_coded("EventTypeCode", code) for code in (*types, _Code(event.act, event.act, PRIVATE_SCHEME)))
    reason = event.detail.get("reason")
    if reason and not told.is_brief:
        SubElement(parent, "EventOutcomeDescription").text = _text(str(reason))


def _coded(name: str, code: _Code) -> Element:
    value = {"csd-code": _text(code.value), "codeSystemName": code.scheme, "originalText": _text(code.meaning)}
    return Element(name, value)


def _participant(name: str, node: Node, role: _Code | None = None, *, is_requestor: bool) -> Element:
    element = Element("ActiveParticipant", UserID=_text(name), UserIsRequestor=str(is_requestor).lower())
    if node.ae_title:
        element.set("AlternativeUserID", _text(f"AETITLES={node.ae_title}"))
    if node.host:
        element.set("NetworkAccessPointID", _text(node.host))
        element.set("NetworkAccessPointTypeCode", _access_point(node.host))
    if role is not None:
        element.append(_coded("RoleIDCode", role))
    return element


def _access_point(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        return "1"
    return "2"


def _came(told: _Told) -> Iterator[Element]:
    name = "unknown" if told.is_by_itself else told.event.actor
    yield _participant(told.about.caller.ae_title or name, told.about.caller, _FROM, is_requestor=True)
    yield _participant(told.source, told.about.ours, _TO, is_requestor=False)


def _went(told: _Told) -> Iterator[Element]:
    yield _participant(told.source, told.about.ours, _FROM, is_requestor=told.is_by_itself)
    yield _participant(told.peer, told.about.peer, _TO, is_requestor=False)
    yield from _actor(told)


def _did(told: _Told) -> Iterator[Element]:
    yield from _actor(told)
    yield _participant(told.source, told.about.ours, is_requestor=told.is_by_itself)


def _ran(told: _Told) -> Iterator[Element]:
    yield _participant(told.source, told.about.ours, _APPLICATION, is_requestor=told.is_by_itself)
    yield from _actor(told, _LAUNCHER)


def _saw(told: _Told) -> Iterator[Element]:
    """Who reports it, then who did it (A.5.3.11)."""
    yield _participant(told.source, told.about.ours, is_requestor=True)
    if not told.is_by_itself:
        yield _participant(told.event.actor, told.about.caller, is_requestor=False)
    if told.peer:
        yield _participant(told.peer, told.about.peer, is_requestor=False)


def _actor(told: _Told, role: _Code | None = None) -> Iterator[Element]:
    if not told.is_by_itself:
        yield _participant(told.event.actor, told.about.caller, role, is_requestor=True)


def _object(identity: str, code: _Code, *, kind: str, role: str, name: str = "") -> Element:
    element = Element(
        "ParticipantObjectIdentification",
        ParticipantObjectID=_text(identity), ParticipantObjectTypeCode=kind, ParticipantObjectTypeCodeRole=role,
    )  # fmt: skip
    element.append(_coded("ParticipantObjectIDTypeCode", code))
    SubElement(element, "ParticipantObjectName").text = name
    return element


def _detail(key: str, value: object) -> Element:
    """Base64, so that whatever it holds comes as it is."""
    words = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    encoded = b64encode(words.encode("utf-8", "backslashreplace")).decode("ascii")
    return Element("ParticipantObjectDetail", type=_text(key), value=encoded)


def _study(told: _Told) -> Iterator[Element]:
    study = told.about.study_instance_uid or told.event.study_instance_uid
    if not study:
        return
    element = _object(study, _STUDY, kind="2", role="3")
    if told.about.instances:
        described = SubElement(element, "ParticipantObjectDescription")
        for sop_class, uids in sorted(told.about.instances.items()):
            of_class = SubElement(described, "SOPClass", UID=_text(sop_class), NumberOfInstances=str(len(uids)))
            for uid in () if told.is_brief else uids:
                SubElement(of_class, "Instance", UID=_text(uid))
    yield element


def _study_and_patient(told: _Told) -> Iterator[Element]:
    yield from _study(told)
    if told.about.patient_id:
        yield _object(told.about.patient_id, _PATIENT, kind="1", role="1")


def _alert(told: _Told) -> Iterable[Element]:
    subjects = list(_study(told))
    node = told.peer or ("" if told.is_by_itself else told.event.actor)
    if node:
        subjects.append(_object(node, _NODE, kind="2", role="13"))
    reason = "" if told.is_brief else told.event.detail.get("reason")
    for subject in subjects:
        subject.insert(2, _detail("Alert Description", reason or told.event.act))
    return subjects


def _trail(_told: _Told) -> Iterator[Element]:
    yield _object("gateway:audit", _URI, kind="2", role="13", name="Security Audit Log")


def _nothing(_told: _Told) -> Iterable[Element]:
    return ()


def _the_event(told: _Told) -> Element:
    event = told.event
    element = _object(str(event.id), _EVENT, kind="2", role="13", name="audit event")
    own = {
        "hash": event.hash, "actor": event.actor, "series_instance_uid": event.series_instance_uid,
        "sop_instance_uid": event.sop_instance_uid, "job": event.job,
    }  # fmt: skip
    known = [(key, value) for key, value in own.items() if value not in ("", None)]
    element.extend(_detail(key, value) for key, value in (*known, *([] if told.is_brief else sorted(event.detail.items()))))
    return element


def _text(value: str) -> str:
    """What XML cannot hold is replaced: control characters and halves of surrogate pairs."""
    return _NOT_XML.sub("\ufffd", value)


class _Kind(NamedTuple):
    """A section of A.5.3: the event, who takes part in it, what it is about."""

    event: _Code
    participants: Callable[[_Told], Iterable[Element]]
    objects: Callable[[_Told], Iterable[Element]]


_APPLICATION_ACTIVITY = _Kind(_Code("110100", "Application Activity"), _ran, _nothing)
_AUDIT_LOG_USED = _Kind(_Code("110101", "Audit Log Used"), _did, _trail)
_BEGIN_TRANSFERRING = _Kind(_Code("110102", "Begin Transferring DICOM Instances"), _went, _study_and_patient)
_ACCESSED = _Kind(_Code("110103", "DICOM Instances Accessed"), _did, _study_and_patient)
_CAME = _Kind(_Code("110104", "DICOM Instances Transferred"), _came, _study_and_patient)
_WENT = _Kind(_Code("110104", "DICOM Instances Transferred"), _went, _study_and_patient)
_DELETED = _Kind(_Code("110105", "DICOM Study Deleted"), _did, _study_and_patient)
_AUTHENTICATION = _Kind(_Code("110114", "User Authentication"), _did, _nothing)
_SECURITY_ALERT = _Kind(_Code("110113", "Security Alert"), _saw, _alert)
_ATTRIBUTES = _Code("110137", "User Security Attributes Changed")
_SOFTWARE = _Code("110131", "Software Configuration")

_ROWS: tuple[tuple[_Kind, str, tuple[_Code, ...], tuple[Act, ...]], ...] = (
    (_APPLICATION_ACTIVITY, "E", (_Code("110120", "Application Start"),), (Act.GATEWAY_STARTED,)),
    (_APPLICATION_ACTIVITY, "E", (_Code("110121", "Application Stop"),), (Act.GATEWAY_STOPPED,)),
    (_AUDIT_LOG_USED, "R", (), (Act.AUDIT_SIGNED, Act.AUDIT_VERIFIED)),
    (_BEGIN_TRANSFERRING, "E", (), (Act.DELIVERY_STARTED,)),
    (_CAME, "C", (), (Act.INSTANCE_RECEIVED, Act.INSTANCE_MISSING, Act.INSTANCE_REFUSED)),
    (_CAME, "R", (), (Act.INSTANCE_REPEATED,)),
    (_CAME, "U", (), (Act.SERIES_REOPENED,)),
    (_WENT, "C", (), (Act.DELIVERY_SENT, Act.DELIVERY_RETRIED, Act.DELIVERY_FAILED)),
    (_WENT, "R", (), (Act.DELIVERY_PROVED,)),
    (_ACCESSED, "C", (), (Act.JOB_DONE,)),
    (_ACCESSED, "R", (), (Act.SERIES_COMPLETE, Act.JOB_CREATED, Act.JOB_STARTED, Act.JOB_RETRIED, Act.JOB_FAILED)),
    (_ACCESSED, "R", (), (Act.JOB_ORDERED, Act.SERIES_HELD, Act.SERIES_FAILED, Act.SERIES_FORCED)),
    (_ACCESSED, "R", (), (Act.JOB_CANCELLED, Act.DELIVERY_CANCELLED, Act.COMMITMENT_ASKED, Act.COMMITMENT_REPORTED)),
    (_ACCESSED, "R", (), (Act.COMMITMENT_RETRIED, Act.COMMITMENT_FAILED, Act.SERIES_RELEASED)),
    (_ACCESSED, "D", (), (Act.OUTPUT_RETRACTED,)),
    (_DELETED, "D", (), (Act.FILE_REMOVED,)),
    (_SECURITY_ALERT, "E", (_Code("110126", "Node Authentication"),), (Act.ASSOCIATION_REJECTED,)),
    (_SECURITY_ALERT, "E", (_Code("110133", "Audit Recording Stopped"),), (Act.COLLECTOR_DOWN,)),
    (_SECURITY_ALERT, "E", (_Code("110134", "Audit Recording Started"),), (Act.COLLECTOR_UP,)),
    (_SECURITY_ALERT, "E", (_SOFTWARE,), (Act.RULES_WRITTEN, Act.RULES_APPROVED, Act.RULES_ACTIVATED)),
    (_SECURITY_ALERT, "E", (), (Act.DOOR_CLOSED, Act.DOOR_OPENED, Act.INSTANCE_VERSION, Act.INSTANCE_STRAY)),
    (_SECURITY_ALERT, "E", (), (Act.INSTANCE_ALARMING, Act.DELIVERY_LOST, Act.DELIVERY_HELD, Act.DELIVERY_LATE)),
    (_SECURITY_ALERT, "E", (), (Act.PROOF_UNKNOWN, Act.DATABASE_RESTORED)),
    (_SECURITY_ALERT, "E", (_ATTRIBUTES,), (Act.PERSON_CHANGED,)),
    (_AUTHENTICATION, "E", (_Code("110122", "Login"),), (Act.PERSON_SIGNED_IN, Act.PERSON_NOT_SIGNED_IN)),
    (_AUTHENTICATION, "E", (_Code("110123", "Logout"),), (Act.PERSON_SIGNED_OUT,)),
    (_SECURITY_ALERT, "E", (), (Act.NOTICE_FAILED, Act.ALARM_RAISED, Act.ALARM_ENDED)),
    (_ACCESSED, "R", (), (Act.NOTICE_SENT, Act.RETRIEVAL_DONE, Act.RETRIEVAL_FAILED)),
)
_TOLD: Mapping[str, tuple[_Kind, str, tuple[_Code, ...]]] = MappingProxyType(
    {act: (kind, action, types) for kind, action, types, acts in _ROWS for act in acts}
)
_OTHER = (_ACCESSED, "R", ())
"""An act of a later version, which shares the database."""
