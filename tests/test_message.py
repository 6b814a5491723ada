"""Audit messages are what PS3.15 A.5 says, whatever the event holds."""

import inspect
import re
from base64 import b64decode
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from pydicom.sr._concepts_dict import concepts

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.auditing.elements import About, Node
from gateway.auditing.message import message
from gateway.rows.trail import AuditEvent

HERE = Path(__file__).parent
EXAMPLE = HERE.parent.parent / "shared" / "lab" / "audit_example.xml"
SCHEMA = etree.RelaxNG(etree.parse(HERE / "audit_message.rng"))
NOW = datetime(2026, 1, 2, 10, 11, 12, 345678, tzinfo=UTC)
ABOUT = About(
    study_instance_uid="1.2.3",
    patient_id="CANARY-ID",
    instances={"1.2.840.10008.5.1.4.1.1.2": ("1.2.3.4", "1.2.3.5")},
    caller=Node("CT1", "10.0.0.5"),
    peer=Node("PACS", "pacs.example"),
    ours=Node("AIGATEWAY"),
)
WORDS = st.text(max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
HOSTILE = "]]><!--&amp;\"'</AuditMessage>\x00\x0b\ud800\uffff\r\n\t\N{GRINNING FACE}"


def an_event(act: str = Act.INSTANCE_RECEIVED, **values: object) -> AuditEvent:
    row = {
        "id": 17, "previous": "", "hash": "a" * 64, "at": NOW, "act": act, "actor": "gateway", "outcome": 0, "job": None,
        "study_instance_uid": "", "series_instance_uid": "1.2.3.9", "sop_instance_uid": "", "detail": {},
    }  # fmt: skip
    return AuditEvent(**(row | values))


def parsed(event: AuditEvent, about: About = ABOUT, **more: object) -> etree._Element:
    return etree.fromstring(message(event, about, source="gw1", **more))


def problems(root: etree._Element) -> list[str]:
    SCHEMA.validate(root)
    return [str(one) for one in SCHEMA.error_log] if not SCHEMA.validate(root) else []


def participants(root: etree._Element) -> list[tuple[str, str, str, str]]:
    return [
        (
            one.get("UserID"),
            one.get("AlternativeUserID", ""),
            one.get("UserIsRequestor"),
            "".join(one.xpath("RoleIDCode/@csd-code")),
        )
        for one in root.iterfind("ActiveParticipant")
    ]


def objects(root: etree._Element) -> dict[str, str]:
    found = root.iterfind("ParticipantObjectIdentification")
    return {one.find("ParticipantObjectIDTypeCode").get("csd-code"): one.get("ParticipantObjectID") for one in found}


def details(root: etree._Element) -> dict[str, str]:
    found = root.xpath("ParticipantObjectIdentification[last()]/ParticipantObjectDetail")
    return {one.get("type"): b64decode(one.get("value")).decode("utf-8") for one in found}


@pytest.mark.parametrize("act", Act)
@settings(max_examples=30, deadline=None)
@given(
    actor=WORDS, outcome=st.sampled_from([0, 1, 4, 8, 12, 13]), detail=st.dictionaries(WORDS, VALUES, max_size=4),
    patient_id=WORDS, study=WORDS, reason=WORDS, peer=WORDS, brief=st.booleans(),
)  # fmt: skip
def test_every_act_becomes_a_valid_message_whatever_its_details(
    act: Act, actor: str, outcome: int, detail: dict, patient_id: str, study: str, reason: str, peer: str, brief: bool
) -> None:
    event = an_event(act, actor=actor, outcome=outcome, detail={**detail, "reason": reason, "peer": peer})
    about = About(study, patient_id, {study: (actor, patient_id)}, Node(actor, peer), Node(peer, actor), Node(actor))

    root = parsed(event, about, is_brief=brief)

    assert problems(root) == []
    assert root.xpath("EventIdentification/EventTypeCode[last()]/@csd-code") == [str(act)]


def test_the_example_of_the_laboratory_is_valid() -> None:
    if not EXAMPLE.exists():
        pytest.skip("the developers' shared folder is not here")

    assert problems(etree.parse(EXAMPLE).getroot()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda root: root.find("EventIdentification").set("EventOutcomeIndicator", "1"),
        lambda root: root.find("EventIdentification").set("EventActionCode", "X"),
        lambda root: root.find("EventIdentification").set("EventDateTime", "yesterday"),
        lambda root: root.find("EventIdentification/EventID").attrib.pop("originalText"),
        lambda root: root.find("ActiveParticipant").attrib.pop("UserIsRequestor"),
        lambda root: [root.remove(one) for one in root.findall("ActiveParticipant")],
        lambda root: root.remove(root.find("AuditSourceIdentification")),
        lambda root: (one := root.find("ParticipantObjectIdentification")).remove(one.find("ParticipantObjectName")),
        lambda root: root.find(".//ParticipantObjectDetail").set("value", "not base64!"),
        lambda root: root.find(".//SOPClass").attrib.pop("NumberOfInstances"),
        lambda root: root.append(etree.Element("Note")),
    ],
)
def test_a_message_that_the_schema_does_not_allow_is_found(spoil) -> None:
    root = parsed(an_event())
    assert problems(root) == []

    spoil(root)

    assert problems(root)


def test_every_act_is_told_as_the_event_that_the_enumeration_names() -> None:
    named = {}
    for line in inspect.getsource(audit).splitlines():
        if found := re.match(r'\s+[A-Z_]+ = "([a-z_.]+)"  # (11010\d|11011[0-4])\b', line):
            named[found[1]] = found[2]

    told = {act: parsed(an_event(act)).find("EventIdentification/EventID").get("csd-code") for act in Act}

    assert len(named) > 20
    assert {act: code for act, code in told.items() if named.get(act, code) != code} == {}


def test_every_act_has_a_row_of_its_own() -> None:
    from gateway.auditing import message as module

    assert set(module._TOLD) == set(Act)
    assert sum(len(acts) for *_, acts in module._ROWS) == len(Act)


@pytest.mark.parametrize("act", Act)
def test_codes_of_dicom_mean_what_they_are_said_to_mean(act: Act) -> None:
    meanings = {code: meaning for names in concepts["DCM"].values() for code, (meaning, *_) in names.items()}

    coded = parsed(an_event(act, actor="CT1")).xpath("//*[@codeSystemName='DCM']")

    assert coded
    assert [one.get("originalText") for one in coded] == [meanings[one.get("csd-code")] for one in coded]


def test_an_act_of_a_later_version_is_told_too() -> None:
    root = parsed(an_event("moon.landed"))

    assert problems(root) == []
    assert root.xpath("EventIdentification/EventTypeCode/@csd-code") == ["moon.landed"]


def test_an_instance_that_came_is_told_with_its_caller_as_the_source() -> None:
    event = an_event(
        Act.INSTANCE_RECEIVED, actor="CT1", sop_instance_uid="1.2.3.4", at=NOW.astimezone(timezone(timedelta(hours=1)))
    )

    root = parsed(event)

    identification = root.find("EventIdentification")
    assert dict(identification.attrib) == {
        "EventActionCode": "C", "EventDateTime": "2026-01-02T10:11:12.345678Z", "EventOutcomeIndicator": "0",
    }  # fmt: skip
    assert participants(root) == [("CT1", "AETITLES=CT1", "true", "110153"), ("gw1", "AETITLES=AIGATEWAY", "false", "110152")]
    assert root.xpath("ActiveParticipant[1]/@*[starts-with(name(), 'Network')]") == ["10.0.0.5", "2"]
    assert objects(root) == {"110180": "1.2.3", "2": "CANARY-ID", "audit-event": "17"}
    assert root.xpath("//SOPClass/@NumberOfInstances") == ["2"]
    assert root.xpath("//Instance/@UID") == ["1.2.3.4", "1.2.3.5"]
    assert root.find("AuditSourceIdentification").get("AuditSourceID") == "gw1"


def test_a_delivery_is_told_with_the_peer_as_where_it_goes() -> None:
    root = parsed(an_event(Act.DELIVERY_RETRIED, outcome=4, detail={"peer": "pacs", "reason": "no connection"}))

    assert root.find("EventIdentification").get("EventOutcomeIndicator") == "4"
    assert root.findtext("EventIdentification/EventOutcomeDescription") == "no connection"
    assert participants(root) == [("gw1", "AETITLES=AIGATEWAY", "true", "110153"), ("pacs", "AETITLES=PACS", "false", "110152")]
    assert root.xpath("ActiveParticipant[2]/@*[starts-with(name(), 'Network')]") == ["pacs.example", "1"]


def test_what_a_person_did_names_the_person_as_who_asked_for_it() -> None:
    root = parsed(an_event(Act.JOB_CANCELLED, actor="ann"))

    assert [(name, is_requestor) for name, _, is_requestor, _ in participants(root)] == [("ann", "true"), ("gw1", "false")]


@pytest.mark.parametrize("act", Act)
def test_nobody_or_one_asked_for_it(act: Act) -> None:
    for actor in ("gateway", "CT1"):
        asked = [one for one in participants(parsed(an_event(act, actor=actor, detail={"peer": "pacs"}))) if one[2] == "true"]

        assert len(asked) <= 1


@pytest.mark.parametrize("act", Act)
def test_the_patient_is_told_where_the_standard_wants_it_and_only_by_the_id(act: Act) -> None:
    root = parsed(an_event(act))

    wants = root.find("EventIdentification/EventID").get("csd-code") in {"110102", "110103", "110104", "110105"}
    assert root.xpath("//ParticipantObjectIdentification[ParticipantObjectIDTypeCode/@csd-code='2']/@ParticipantObjectID") == (
        ["CANARY-ID"] if wants else []
    )
    assert etree.tostring(root).count(b"CANARY") == wants


def test_without_a_patient_id_none_is_told() -> None:
    assert objects(parsed(an_event(), About(study_instance_uid="1.2.3"))) == {"110180": "1.2.3", "audit-event": "17"}


def test_an_alert_says_what_it_is_about_and_why() -> None:
    root = parsed(an_event(Act.ASSOCIATION_REJECTED, actor="EVIL", outcome=4, detail={"reason": "not known"}), About())

    assert objects(root) == {"110182": "EVIL", "audit-event": "17"}
    detail = root.find("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert (detail.get("type"), b64decode(detail.get("value"))) == ("Alert Description", b"not known")
    assert root.xpath("EventIdentification/EventTypeCode/@csd-code") == ["110126", "association.rejected"]


def test_a_caller_that_calls_itself_gateway_is_told_as_any_other() -> None:
    about = About(caller=Node("gateway", "10.1.2.3"))

    root = parsed(an_event(Act.ASSOCIATION_REJECTED, outcome=4, detail={"reason": "not known"}), about)

    assert objects(root) == {"110182": "gateway", "audit-event": "17"}
    assert ("gateway", "AETITLES=gateway", "false", "") in participants(root)


def test_hostile_texts_end_no_element_and_come_as_they_are() -> None:
    event = an_event(actor=HOSTILE, detail={"reason": HOSTILE, "called_ae_title": "A"})

    root = parsed(event, About("1.2.3", HOSTILE, caller=Node(HOSTILE, HOSTILE)))

    assert problems(root) == []
    assert [child.tag for child in root].count("ParticipantObjectIdentification") == 3
    readable = HOSTILE.translate({0: "\ufffd", 11: "\ufffd", 0xD800: "\ufffd", 0xFFFF: "\ufffd"})
    assert objects(root)["2"] == readable
    assert details(root)["reason"] == HOSTILE.replace("\ud800", "\\ud800")


def test_the_details_say_which_event_it_is() -> None:
    event = an_event(Act.JOB_DONE, job=7, detail={"outputs": ["1.2"], "pipeline": "bright"})

    assert details(parsed(event)) == {
        "hash": "a" * 64, "actor": "gateway", "series_instance_uid": "1.2.3.9", "job": "7", "outputs": '["1.2"]', "pipeline": "bright",
    }  # fmt: skip


def test_a_brief_message_leaves_out_what_can_be_long() -> None:
    uids = tuple(f"1.2.{number}" for number in range(10_000))
    event = an_event(Act.DELIVERY_LOST, detail={"peer": "pacs", "reason": "x" * 100_000, "notes": ["y"] * 100_000})
    about = About("1.2.3", instances={"1.2": uids})

    assert len(message(event, about, source="gw1", is_brief=True)) < 5_000
    assert problems(parsed(event, about, is_brief=True)) == []
    assert parsed(event, about, is_brief=True).xpath("//SOPClass/@NumberOfInstances") == ["10000"]
