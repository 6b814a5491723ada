"""Peers that a person adds while the gateway serves: every process takes them up, the trail tells of them, no secret gets out."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom import build_context
from sqlalchemy import select, update

from gateway.acts import admin
from gateway.acts.peering import add_peer, change_peer, disable_peer, echo_peer, list_peers, probe_peer, remove_peer, show_peer
from gateway.acts.resend import resend
from gateway.acts.retire import retire_peer, waiting
from gateway.configuration.config import parse
from gateway.engine import Queues
from gateway.errors import ConfigError
from gateway.roster import HIDDEN, Roster, known
from gateway.rows.contacts import Contact
from gateway.rows.tables import Delivery, OutputInstance
from gateway.rows.trail import AuditEvent
from gateway.serving.plan import plan
from gateway.store import Store
from tests.peers_fixture import running_http, running_orthanc, running_scp
from tests.ports import free_port
from tests.rows_fixture import NOW, OUTPUT, STUDY, a_delivery, a_job, a_series
from tests.synthetic import ct_series
from tests.world import World

LATER = NOW + timedelta(minutes=1)
ANN = {"actor": "ann", "now": NOW}
PACS = {"name": "pacs", "protocol": "dimse", "host": "10.0.0.1", "port": 104, "ae_title": "ORTHANC"}
LATE = {"name": "late", "protocol": "dimse", "host": "10.0.0.2", "port": 104, "ae_title": "LATE"}
WEB = {"name": "web", "protocol": "dicomweb", "url": "https://pacs.example/dicom-web", "token": "S3CRET"}


@pytest.fixture
def roster(db) -> Roster:
    return a_roster(db)


def a_roster(db, **more: object) -> Roster:
    roster = Roster(parse({"peers": [PACS], **more}, where="test"), db)
    roster.refresh()
    return roster


def told(db) -> list[tuple[str, str, dict[str, object]]]:
    with db() as session:
        events = session.scalars(select(AuditEvent).order_by(AuditEvent.id)).all()
        return [(event.act, event.actor, event.detail) for event in events]


def test_a_peer_that_was_added_stands_beside_those_of_the_file_in_every_process(db, roster: Roster) -> None:
    elsewhere = a_roster(db)

    add_peer(db, roster, LATE, **ANN)

    assert "late" not in elsewhere
    assert elsewhere.refresh()
    assert not elsewhere.refresh()
    assert list(elsewhere) == list(roster) == ["pacs", "late"]
    assert elsewhere["late"].calling_ae_title == "AIGATEWAY"
    assert [(entry.place, entry.state) for entry in roster.entries] == [("gateway.toml", "in use"), ("added", "in use")]


def test_a_name_of_the_file_wins_and_is_changed_there_only(db, roster: Roster) -> None:
    with pytest.raises(ConfigError, match="one of this name already"):
        add_peer(db, roster, {**LATE, "name": "pacs"}, **ANN)
    add_peer(db, roster, LATE, **ANN)
    theirs = Roster(parse({"peers": [{**LATE, "port": 105}]}, where="test"), db)
    theirs.refresh()

    assert (list(theirs), theirs["late"].port) == (["late"], 105)
    for act in (
        lambda: change_peer(db, theirs, "late", {"port": 1}, **ANN),
        lambda: disable_peer(db, theirs, "late", disabled=True, **ANN),
        lambda: remove_peer(db, theirs, "late", ruled=(), **ANN),
    ):
        with pytest.raises(ConfigError, match=r"it stands in gateway\.toml: change it there"):
            act()


def test_everything_that_is_wrong_with_a_peer_is_told_at_once_and_nothing_is_written(db, roster: Roster, tmp_path: Path) -> None:
    watching = a_roster(db, folders=[{"path": str(tmp_path)}])

    with pytest.raises(ConfigError) as wrong:
        add_peer(db, roster, {**LATE, "port": 0, "ae_title": "X" * 17, "speed": 9}, **ANN)
    with pytest.raises(ConfigError) as swallowed:
        add_peer(db, watching, {"name": "f", "protocol": "folder", "path": str(tmp_path / "in"), "proof": "query"}, **ANN)
    with pytest.raises(ConfigError, match="protocol: expected one of dicomweb, dimse, folder"):
        add_peer(db, roster, {"name": "x", "protocol": "ftp"}, **ANN)

    assert len(wrong.value.problems) == 3
    assert len(swallowed.value.problems) == 2
    assert told(db) == []
    assert list(a_roster(db)) == ["pacs"]


def test_every_act_is_told_with_digests_and_without_secrets(db, roster: Roster) -> None:
    add_peer(db, roster, WEB, **ANN)
    change_peer(db, roster, "web", {"token": "N3W", "timeout_seconds": 5}, actor="bob", now=LATER)
    disable_peer(db, roster, "web", disabled=True, **ANN)
    disable_peer(db, roster, "web", disabled=False, **ANN)
    remove_peer(db, roster, "web", ruled=(), **ANN)

    acts = told(db)
    assert [act for act, _, _ in acts] == ["peer.added", "peer.changed", "peer.disabled", "peer.enabled", "peer.removed"]
    (_, _, added), (_, who, changed), _, _, (_, _, removed) = acts
    assert (who, changed["keys"]) == ("bob", ["timeout_seconds", "token"])
    assert added["before"] == removed["after"] == ""
    assert added["after"] == changed["before"] != changed["after"] == removed["before"]
    assert "S3CRET" not in json.dumps(acts)
    assert "N3W" not in json.dumps(acts)


def test_a_secret_is_never_shown_and_stays_where_a_form_brings_its_stand_in_back(db, roster: Roster) -> None:
    add_peer(db, roster, {**WEB, "headers": {"X-Key": "S3CRET"}}, **ANN)

    entry = show_peer(db, roster, "web").entry
    change_peer(db, roster, "web", {**entry.shown, "timeout_seconds": 7}, **ANN)

    assert entry.shown == {"url": WEB["url"], "token": HIDDEN, "headers": HIDDEN}
    assert "S3CRET" not in repr((entry, roster["web"], entry.row))
    assert (roster["web"].token, roster["web"].timeout_seconds) == ("S3CRET", 7)
    assert change_peer(db, roster, "web", {"timeout_seconds": 7}, **ANN) == "peer web is as it was"
    change_peer(db, roster, "web", {"headers": None}, **ANN)
    assert roster["web"].headers is None


def test_a_secret_can_lie_in_a_file_that_is_read_when_it_is_used(db, roster: Roster, tmp_path: Path) -> None:
    file = tmp_path / "token"
    with running_http((200, {}, b"[]"), (200, {}, b"[]")) as (url, requests):
        with pytest.raises(ConfigError, match="token_file: expected a file"):
            add_peer(db, roster, {"name": "web", "protocol": "dicomweb", "url": url, "token_file": str(file)}, **ANN)
        file.write_text("first\n")
        add_peer(db, roster, {"name": "web", "protocol": "dicomweb", "url": url, "token_file": str(file)}, **ANN)
        echo_peer(roster, "web")
        file.write_text("second\n")
        echo_peer(roster, "web")

    assert [headers["Authorization"] for headers, _ in requests] == ["Bearer first", "Bearer second"]


def test_a_secret_does_not_follow_a_peer_to_another_address_unasked(db, roster: Roster) -> None:
    add_peer(db, roster, WEB, **ANN)

    for change in (
        {"url": "http://10.9.9.9/dicom-web"},
        {"verify": False},
        {"url": "http://10.9.9.9/dicom-web", "token": HIDDEN},
    ):
        with pytest.raises(ConfigError, match="say token again"):
            change_peer(db, roster, "web", change, **ANN)
    assert roster["web"].url == WEB["url"]

    change_peer(db, roster, "web", {"url": "http://10.9.9.9/dicom-web", "token": "N3W"}, **ANN)
    change_peer(db, roster, "web", {"token": None}, **ANN)
    change_peer(db, roster, "web", {"url": "http://10.9.9.8/dicom-web"}, **ANN)  # it has no secret any more
    assert roster["web"].url == "http://10.9.9.8/dicom-web"


def test_who_has_no_other_way_to_the_files_of_this_machine_names_those_of_one_folder_only(
    db, roster: Roster, tmp_path: Path
) -> None:
    secrets, outside = tmp_path / "secrets", tmp_path / "outside"
    secrets.mkdir()
    (secrets / "token").write_text("x")
    (secrets / "link").symlink_to(outside)
    outside.write_text("root:*:20228")
    web = {"name": "web", "protocol": "dicomweb", "url": WEB["url"]}

    for path in (outside, secrets / ".." / "outside", secrets / "link", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"token_file: expected a file in .*secrets"):
            add_peer(db, roster, {**web, "token_file": str(path)}, within=secrets, **ANN)
    add_peer(db, roster, {**web, "token_file": str(secrets / "token")}, within=secrets, **ANN)
    with pytest.raises(ConfigError, match="token_file: expected a file in"):
        change_peer(db, roster, "web", {"token_file": str(outside)}, within=secrets, **ANN)
    change_peer(db, roster, "web", {"token_file": str(outside)}, **ANN)  # at the machine
    change_peer(db, roster, "web", {"token_file": str(outside), "timeout_seconds": 9}, within=secrets, **ANN)
    with pytest.raises(ConfigError, match="token_file: expected a file in"):
        change_peer(db, roster, "web", {"url": "http://10.9.9.9/dicom-web"}, within=secrets, **ANN)


def test_a_folder_in_the_store_is_no_peer(db, tmp_path: Path) -> None:
    here = a_roster(db, store={"folder": str(tmp_path)})

    with pytest.raises(ConfigError, match="expected a folder outside the store"):
        add_peer(db, here, {"name": "disk", "protocol": "folder", "path": str(tmp_path / "results")}, **ANN)


def test_a_row_that_is_wrong_on_this_machine_is_no_peer_of_it_and_takes_nothing(db, roster: Roster, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("x")
    add_peer(db, roster, {"name": "web", "protocol": "dicomweb", "url": WEB["url"], "token_file": str(file)}, **ANN)
    file.unlink()

    here = a_roster(db)

    assert (list(here), here.takes("web"), here.takes("pacs")) == (["pacs"], False, True)
    assert [(entry.state, bool(entry.problems)) for entry in here.entries] == [("in use", False), ("wrong", True)]
    with pytest.raises(ConfigError, match="token_file"):
        echo_peer(here, "web")
    assert not here.refresh()

    file.write_text("x")
    assert here.refresh()
    assert (here.takes("web"), here.refresh()) == (True, False)


def test_a_peer_that_something_still_goes_to_is_not_removed(db, roster: Roster) -> None:
    add_peer(db, roster, LATE, **ANN)
    a_series(db)
    job = a_job(db, send_to=["late"])
    a_delivery(db, job, peer="late")

    with pytest.raises(ConfigError) as refused:
        remove_peer(db, roster, "late", ruled=["late"], **ANN)

    assert [problem.partition(": ")[2] for problem in refused.value.problems] == [
        "1 deliveries are on their way to it: let them end, cancel them, or retire it",
        "1 jobs will send to it: let them end, or cancel them",
        "a rule sends to it: change the rules first",
    ]
    with db.begin() as session:
        session.execute(update(Delivery).values(state="cancelled"))
    admin.cancel_job(db, job, **ANN)
    assert remove_peer(db, roster, "late", ruled=["pacs"], **ANN) == "peer late is removed; its deliveries stay on record"
    assert "late" not in a_roster(db)


def test_a_peer_that_two_remove_at_once_is_removed_by_one_and_the_others_are_told(db, roster: Roster) -> None:
    add_peer(db, roster, LATE, **ANN)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(remove_peer, db, a_roster(db), "late", ruled=(), **ANN) for _ in range(8)]
    problems = [one.exception() for one in asked if one.exception() is not None]

    assert len(problems) == 7
    assert {type(one) for one in problems} == {ConfigError}


def test_a_retry_says_that_it_waits_for_a_peer_that_is_disabled_or_not_there_and_no_longer_why_it_failed(
    db, database_url: str, roster: Roster
) -> None:
    queues = Queues(database_url)
    add_peer(db, roster, LATE, **ANN)
    a_series(db)
    job = a_job(db, state="done")
    delivery = a_delivery(db, job, peer="late", state="failed", reason="the peer does not take it")
    gone = a_delivery(db, job, peer="gone", state="failed", reason="the peer does not take it")

    def retry(delivery: int) -> tuple[str, str]:
        said = admin.retry_delivery(db, queues, delivery, obstacle=roster.obstacle, **ANN)
        with db() as session:
            return said, session.get_one(Delivery, delivery).reason

    disable_peer(db, roster, "late", disabled=True, **ANN)
    waits = "waits: peer late is disabled"
    assert retry(delivery) == retry(delivery) == (f"delivery {delivery} {waits}", waits)
    assert retry(gone)[0] == f"delivery {gone} waits: peer gone is not there any more"
    disable_peer(db, roster, "late", disabled=False, **ANN)
    with db.begin() as session:
        row = session.get_one(Delivery, delivery)
        row.state, row.attempts = "failed", 1
    assert retry(delivery) == (f"delivery {delivery} is queued again", "")
    queues.close()


@pytest.fixture
def waits(db) -> dict[str, int]:
    """Deliveries to a peer that is gone, by their state; the second that is queued goes behind the first."""
    a_series(db)
    job, made = a_job(db, state="done"), {}
    for number, (name, ticket) in enumerate(
        {"queued": "0", "behind": "", "held": "0", "failed": "0", "sent": "1", "sending": "0", "proved": "0"}.items()
    ):
        uid = f"1.2.3.{number}"
        with db.begin() as session:
            session.add(OutputInstance(sop_instance_uid=uid, job=job, study_instance_uid=STUDY, series_instance_uid="1", sop_class_uid="1.2", modality="SR", sha256="9" * 64, size=1, created_at=NOW))  # fmt: skip
        state = {"behind": "queued"}.get(name, name)
        made[name] = a_delivery(db, job, sop_instance_uid=uid, state=state, ticket=ticket, peer="gone")
    a_delivery(db, job, peer="pacs")
    return made


def test_everything_that_waits_for_a_peer_that_is_gone_is_given_up_at_once_with_a_reason(
    db, database_url: str, waits: dict[str, int]
) -> None:
    queues = Queues(database_url)
    assert waiting(db, "gone") == 5

    said = retire_peer(db, queues, "gone", reason="switched off", count=5, **ANN)
    queues.close()

    assert said == [
        "5 deliveries to gone are cancelled: switched off",
        "1 more are being sent: where that fails, they wait again, and can be given up then",
    ]
    with db() as session:
        found = {name: session.get_one(Delivery, key) for name, key in waits.items()}
        assert [one.state for one in session.scalars(select(Delivery).where(Delivery.peer == "pacs"))] == ["queued"]
    assert {name for name, one in found.items() if one.state == "cancelled"} == waits.keys() - {"sending", "proved"}
    assert found["queued"].reason == "cancelled by ann: switched off"
    assert found["sent"].reason.endswith("switched off: it was sent, it is not proved, and nobody looks for it any more")
    assert found["behind"].ticket == ""  # it had no turn meanwhile
    cancelled = [(actor, detail["reason"]) for act, actor, detail in told(db) if act == "delivery.cancelled"]
    assert cancelled == [("ann", "switched off")] * 5


def test_what_waits_behind_one_that_is_being_sent_to_a_peer_that_is_gone_has_no_turn(db, waits: dict[str, int]) -> None:
    with db.begin() as session:
        session.get_one(Delivery, waits["queued"]).state = "sending"
    queues = Queues(db.kw["bind"].url.render_as_string(hide_password=False))

    retire_peer(db, queues, "gone", reason="switched off", count=4, **ANN)
    queues.close()

    with db() as session:
        assert [session.get_one(Delivery, waits[name]).state for name in ("queued", "behind")] == ["sending", "cancelled"]


@pytest.mark.parametrize(
    ("peer", "reason", "count", "problem"),
    [
        ("gone", "switched off", 4, "5 deliveries would be given up, not 4: look again"),
        ("gone", " ", 5, "expected a reason"),
        ("nobody", "switched off", 0, "no delivery waits for it"),
    ],
)
def test_nothing_is_given_up_of_which_a_person_was_told_otherwise(
    db, database_url: str, waits: dict[str, int], peer: str, reason: str, count: int, problem: str
) -> None:
    queues = Queues(database_url)
    with pytest.raises(ConfigError, match=problem):
        retire_peer(db, queues, peer, reason=reason, count=count, **ANN)
    queues.close()

    assert waiting(db, "gone") == 5


def test_a_peer_is_listed_with_its_last_success_what_waits_and_what_went_wrong(db, roster: Roster) -> None:
    a_series(db)
    job = a_job(db)
    assert [(line.succeeded_at, line.awaited, line.errors) for line in list_peers(db, roster)] == [(None, 0, [])]
    a_delivery(db, job, state="failed", reason="the peer does not take it", attempts=3)
    with db.begin() as session:
        session.add(OutputInstance(sop_instance_uid="1.2.3", job=job, study_instance_uid="1", series_instance_uid="1", sop_class_uid="1.2", modality="SR", sha256="9" * 64, size=1, created_at=NOW))  # fmt: skip
        session.add(OutputInstance(sop_instance_uid="1.2.4", job=job, study_instance_uid="1", series_instance_uid="1", sop_class_uid="1.2", modality="SR", sha256="9" * 64, size=1, created_at=NOW))  # fmt: skip
    a_delivery(db, job, sop_instance_uid="1.2.3", state="proved", sent_at=NOW, proved_at=LATER, reason="stored")
    a_delivery(db, job, sop_instance_uid="1.2.4")

    (line,) = list_peers(db, roster)

    assert (line.succeeded_at, line.awaited, line.deliveries) == (LATER, 1, {"failed": 1, "queued": 1})
    assert [one.reason for one in line.errors] == ["the peer does not take it"]


def test_what_a_pacs_takes_is_found_out_by_negotiation_and_kept(db) -> None:
    takes = [build_context(SegmentationStorage, ExplicitVRLittleEndian), build_context(CTImageStorage)]
    with running_scp(contexts=takes, commits=False) as scp:
        roster = a_roster(db, peers=[{**PACS, "host": "127.0.0.1", "port": scp.port, "ae_title": "SCP"}])

        probe_peer(db, roster, "pacs", **ANN)

    probe = show_peer(db, roster, "pacs").probe
    assert probe is not None
    found = {what: (works, note) for what, works, note in probe.found}
    assert (probe.at, probe.actor, probe.reason) == (NOW, "ann", "")
    assert [found[what][0] for what in ("C-ECHO", "C-FIND, Study Root", "storage commitment")] == [True, True, False]
    assert found["Segmentation Storage"] == (True, "Explicit VR")
    assert found["CT Image Storage"] == (True, "Implicit VR, Explicit VR, deflated")
    assert found["Comprehensive 3D SR Storage"][0] is False
    assert found["Enhanced SR Storage"] == (False, "")


def test_a_peer_that_does_not_answer_a_probe_is_kept_so(db) -> None:
    roster = a_roster(db, peers=[{**PACS, "host": "127.0.0.1", "port": free_port()}])

    probe = probe_peer(db, roster, "pacs", **ANN)

    assert (probe.found, probe.reason) == ([], "no connection: connection refused")
    assert told(db)[-1][2]["reason"] == probe.reason


def test_a_dicomweb_service_tells_which_of_its_three_it_does(tmp_path: Path) -> None:
    with running_orthanc(tmp_path) as orthanc:
        config = parse({"gateway": {"data_dir": str(tmp_path)}, "peers": [
            {"name": "web", "protocol": "dicomweb", "url": orthanc.dicomweb}, {"name": "disk", "protocol": "folder", "path": str(tmp_path)},
        ]}, where="test")  # fmt: skip
        peers = known(config)

        empty = {one.what: one.works for one in peers["web"].probe()}
        buffer = BytesIO()
        ct_series(1)[0].save_as(buffer, enforce_file_format=True)
        (tmp_path / "one.dcm").write_bytes(buffer.getvalue())
        peers["web"].send(tmp_path / "one.dcm")
        full = {one.what: one.works for one in peers["web"].probe()}
        held = json.loads(orthanc.get("/instances"))

    assert empty == {"QIDO-RS": True, "WADO-RS": None, "STOW-RS": True}
    assert full == {"QIDO-RS": True, "WADO-RS": True, "STOW-RS": True}
    assert len(held) == 1
    assert [(one.what, one.works) for one in peers["disk"].probe()] == [("can be written", True)]


def test_rules_may_name_a_peer_that_was_added(tmp_path: Path, database_url: str, db) -> None:
    world = World(tmp_path / "world", database_url, "127.0.0.1:1")
    rules = world.folder / "rules.yaml"
    rules.write_text(rules.read_text().replace("[pacs]", "[late]"))
    config = known_config(world)
    add_peer(db, Roster(config, db), {"name": "late", "protocol": "folder", "path": "x"}, **ANN)

    with pytest.raises(ConfigError, match="send_to"):
        plan(config)

    assert plan(config, added=known(config)).rules.rules[0].send_to == ("late",)


def test_a_rule_for_nobody_is_told_the_peers_each_once(tmp_path: Path, database_url: str, db) -> None:
    world = World(tmp_path / "world", database_url, "127.0.0.1:1", ({"name": "disk", "protocol": "folder", "path": "y"},))
    rules = world.folder / "rules.yaml"
    rules.write_text(re.sub(r"send_to: .*", "send_to: [nobody]", rules.read_text()))
    config = known_config(world)
    add_peer(db, Roster(config, db), {"name": "late", "protocol": "folder", "path": "x"}, **ANN)

    with pytest.raises(ConfigError, match="expected send_to: one of ") as raised:
        plan(config, added=known(config))

    assert [str(raised.value).count(name) for name in ("disk", "late")] == [1, 1]


def known_config(world: World):
    from gateway.configuration.config import load

    return load(world.config)


def test_a_gateway_that_serves_takes_up_a_peer_and_lets_it_go_without_a_restart(tmp_path: Path, database_url: str, db) -> None:
    """Its lane, its deliveries; while it is disabled what is to go to it waits."""
    world, place = World(tmp_path / "world", database_url, "127.0.0.1:1"), tmp_path / "late"
    queues, (ds,) = Queues(database_url), ct_series(1)
    place.mkdir()
    a_series(db)
    job = a_job(db, state="done")
    with world, world.start():
        here, keys = Roster(known_config(world), db), an_output(db, world.store, job, ds)
        add_peer(db, here, {"name": "late", "protocol": "folder", "path": str(place)}, **ANN)
        resend(db, queues, sop_instance_uid=keys, to="late", peers=here, **ANN)
        world.wait_until(lambda: [one.peer for one in world.deliveries() if one.state == "proved"] == ["late"])
        assert len(list(place.rglob("*.dcm"))) == 1

        disable_peer(db, here, "late", disabled=True, **ANN)
        world.wait_until(lambda: len(world.logged("peers.changed")) == 2)
        resend(db, queues, sop_instance_uid=keys, to="late", peers=here, **ANN)
        with pytest.raises(ConfigError, match="1 deliveries are on their way"):
            remove_peer(db, here, "late", ruled=(), **ANN)
        assert [one.state for one in world.deliveries()] == ["queued"]

        disable_peer(db, here, "late", disabled=False, **ANN)
        world.wait_until(lambda: [one.state for one in world.deliveries()] == ["proved"])
        remove_peer(db, here, "late", ruled=(), **ANN)
        world.wait_until(lambda: len(world.logged("peers.changed")) == 4)
    queues.close()
    with db() as session:
        assert session.scalars(select(Contact)).all() == []


def an_output(db, store: Store, job: int, ds) -> str:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    stored = store.put([buffer.getvalue()])
    with db.begin() as session:
        session.add(OutputInstance(sop_instance_uid=ds.SOPInstanceUID, job=job, study_instance_uid=ds.StudyInstanceUID, series_instance_uid=ds.SeriesInstanceUID, sop_class_uid=ds.SOPClassUID, modality="CT", sha256=stored.sha256, size=stored.size, created_at=NOW))  # fmt: skip
    return str(ds.SOPInstanceUID)


def test_the_command_line_shows_a_peer_and_what_it_takes(tmp_path: Path, database_url: str, db) -> None:
    world = World(tmp_path / "world", database_url, "127.0.0.1:1")

    probed, shown = world.run("peers", "probe", "pacs"), world.run("peers", "show", "pacs")
    wrong = world.run("peers", "add", "x", "dimse", "port")

    assert "can be written  yes" in probed.stdout
    assert "last success never" in shown.stdout
    assert "can be written  yes" in shown.stdout
    assert (wrong.returncode, wrong.stderr) == (1, "port: expected KEY=VALUE\n")
    assert OUTPUT not in shown.stdout
