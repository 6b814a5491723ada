"""The elements of a DICOM audit message (PS3.15 A.5.3): who took part, and what it is about. message.py says which has which."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement

from gateway.rows.trail import AuditEvent

PRIVATE_SCHEME = "99CAIGW"
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


class Code(NamedTuple):
    value: str
    meaning: str
    scheme: str = "DCM"


class Told(NamedTuple):
    event: AuditEvent
    about: About
    source: str
    is_brief: bool

    @property
    def peer(self) -> str:
        return str(self.event.detail.get("peer") or self.event.detail.get("ae_title") or "")

    @property
    def is_by_itself(self) -> bool:
        """A caller may have that name, too."""
        return self.event.actor == "gateway" != self.about.caller.ae_title


_FROM, _TO = Code("110153", "Source Role ID"), Code("110152", "Destination Role ID")
_APPLICATION, _LAUNCHER = Code("110150", "Application"), Code("110151", "Application Launcher")
_STUDY, _NODE = Code("110180", "Study Instance UID"), Code("110182", "Node ID")
_PATIENT, _URI = Code("2", "Patient Number", "RFC-3881"), Code("12", "URI", "RFC-3881")
_EVENT = Code("audit-event", "Audit event", PRIVATE_SCHEME)


def coded(name: str, code: Code) -> Element:
    value = {"csd-code": text(code.value), "codeSystemName": code.scheme, "originalText": text(code.meaning)}
    return Element(name, value)


def _participant(name: str, node: Node, role: Code | None = None, *, is_requestor: bool) -> Element:
    element = Element("ActiveParticipant", UserID=text(name), UserIsRequestor=str(is_requestor).lower())
    if node.ae_title:
        element.set("AlternativeUserID", text(f"AETITLES={node.ae_title}"))
    if node.host:
        element.set("NetworkAccessPointID", text(node.host))
        element.set("NetworkAccessPointTypeCode", _access_point(node.host))
    if role is not None:
        element.append(coded("RoleIDCode", role))
    return element


def _access_point(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        return "1"
    return "2"


def came(told: Told) -> Iterator[Element]:
    name = "unknown" if told.is_by_itself else told.event.actor
    yield _participant(told.about.caller.ae_title or name, told.about.caller, _FROM, is_requestor=True)
    yield _participant(told.source, told.about.ours, _TO, is_requestor=False)


def went(told: Told) -> Iterator[Element]:
    yield _participant(told.source, told.about.ours, _FROM, is_requestor=told.is_by_itself)
    yield _participant(told.peer, told.about.peer, _TO, is_requestor=False)
    yield from _actor(told)


def did(told: Told) -> Iterator[Element]:
    yield from _actor(told)
    yield _participant(told.source, told.about.ours, is_requestor=told.is_by_itself)


def ran(told: Told) -> Iterator[Element]:
    yield _participant(told.source, told.about.ours, _APPLICATION, is_requestor=told.is_by_itself)
    yield from _actor(told, _LAUNCHER)


def saw(told: Told) -> Iterator[Element]:
    """Who reports it, then who did it (A.5.3.11)."""
    yield _participant(told.source, told.about.ours, is_requestor=True)
    if not told.is_by_itself:
        yield _participant(told.event.actor, told.about.caller, is_requestor=False)
    if told.peer:
        yield _participant(told.peer, told.about.peer, is_requestor=False)


def _actor(told: Told, role: Code | None = None) -> Iterator[Element]:
    if not told.is_by_itself:
        yield _participant(told.event.actor, told.about.caller, role, is_requestor=True)


def _object(identity: str, code: Code, *, kind: str, role: str, name: str = "") -> Element:
    element = Element(
        "ParticipantObjectIdentification",
        ParticipantObjectID=text(identity), ParticipantObjectTypeCode=kind, ParticipantObjectTypeCodeRole=role,
    )  # fmt: skip
    element.append(coded("ParticipantObjectIDTypeCode", code))
    SubElement(element, "ParticipantObjectName").text = name
    return element


def _detail(key: str, value: object) -> Element:
    """Base64, so that whatever it holds comes as it is."""
    words = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    encoded = b64encode(words.encode("utf-8", "backslashreplace")).decode("ascii")
    return Element("ParticipantObjectDetail", type=text(key), value=encoded)


def _study(told: Told) -> Iterator[Element]:
    study = told.about.study_instance_uid or told.event.study_instance_uid
    if not study:
        return
    element = _object(study, _STUDY, kind="2", role="3")
    if told.about.instances:
        described = SubElement(element, "ParticipantObjectDescription")
        for sop_class, uids in sorted(told.about.instances.items()):
            of_class = SubElement(described, "SOPClass", UID=text(sop_class), NumberOfInstances=str(len(uids)))
            for uid in () if told.is_brief else uids:
                SubElement(of_class, "Instance", UID=text(uid))
    yield element


def study_and_patient(told: Told) -> Iterator[Element]:
    yield from _study(told)
    if told.about.patient_id:
        yield _object(told.about.patient_id, _PATIENT, kind="1", role="1")


def alert(told: Told) -> Iterable[Element]:
    subjects = list(_study(told))
    node = told.peer or ("" if told.is_by_itself else told.event.actor)
    if node:
        subjects.append(_object(node, _NODE, kind="2", role="13"))
    reason = "" if told.is_brief else told.event.detail.get("reason")
    for subject in subjects:
        subject.insert(2, _detail("Alert Description", reason or told.event.act))
    return subjects


def trail(_told: Told) -> Iterator[Element]:
    yield _object("gateway:audit", _URI, kind="2", role="13", name="Security Audit Log")


def nothing(_told: Told) -> Iterable[Element]:
    return ()


def the_event(told: Told) -> Element:
    event = told.event
    element = _object(str(event.id), _EVENT, kind="2", role="13", name="audit event")
    own = {
        "hash": event.hash, "actor": event.actor, "series_instance_uid": event.series_instance_uid,
        "sop_instance_uid": event.sop_instance_uid, "job": event.job,
    }  # fmt: skip
    known = [(key, value) for key, value in own.items() if value not in ("", None)]
    element.extend(_detail(key, value) for key, value in (*known, *([] if told.is_brief else sorted(event.detail.items()))))
    return element


def text(value: str) -> str:
    """What XML cannot hold is replaced: control characters and halves of surrogate pairs."""
    return _NOT_XML.sub("\ufffd", value)
