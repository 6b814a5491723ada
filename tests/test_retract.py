"""Taking results back and sending them again, on SQLite and on PostgreSQL; the note is judged by dciodvfy and taken by Orthanc."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from threading import Thread

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import KeyObjectSelectionDocumentStorage
from sqlalchemy import select

from gateway import app
from gateway.acts import admin
from gateway.acts.resend import resend
from gateway.acts.retract import retract
from gateway.db import Database, lock, open_database
from gateway.deliver import deliver
from gateway.engine import DELIVER, Queues
from gateway.errors import ConfigError
from gateway.outputs import Equipment
from gateway.outputs.rejection import REASONS, note_uid
from gateway.peers import load_protocols, make_peer
from gateway.rows.ruleset import Shadow
from gateway.rows.tables import Delivery, Job, OutputInstance, Study
from gateway.rows.trail import AuditEvent
from gateway.store import Store
from gateway.views import stories
from gateway.work.delivery import Pace, also
from gateway.work.shadow import release_job
from tests.peers_fixture import running_orthanc
from tests.results_fixture import lung_results
from tests.rows_fixture import SERIES, a_job, a_series
from tests.synthetic import part10
from tests.validators import dciodvfy
from tests.world import World

NOW = datetime(2026, 1, 2, 23, 40, tzinfo=UTC)
EQUIPMENT = Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1")
TITLES = {"quality": "113001", "safety": "113037", "wrong-patient": "113037", "mwl": "113038", "retention": "113039"}


class Results:
    """A job that is done, and its segmentation and report in the store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.db: Database = open_database(url)
        app.upgrade(url, self.db)
        self.queues, self.store = Queues(url), Store(folder)
        a_series(self.db)
        self.job = a_job(self.db, state="done")
        self.made = lung_results()
        with self.db.begin() as session:
            for ds in self.made:
                file = self.store.put([part10(ds)])
                session.add(OutputInstance(sop_instance_uid=ds.SOPInstanceUID, job=self.job, study_instance_uid=ds.StudyInstanceUID, series_instance_uid=ds.SeriesInstanceUID, sop_class_uid=ds.SOPClassUID, modality=ds.Modality, sha256=file.sha256, size=file.size, created_at=NOW))  # fmt: skip
        self.seg, self.sr = (str(ds.SOPInstanceUID) for ds in self.made)

    def went(self, uid: str, **states: str) -> None:
        """The object's deliveries, by peer."""
        with self.db.begin() as session:
            study = session.get_one(OutputInstance, uid).study_instance_uid
            for peer, state in states.items():
                sent_at = NOW if state in {"sent", "proved"} else None
                session.add(Delivery(sop_instance_uid=uid, job=self.job, study_instance_uid=study, peer=peer, state=state, created_at=NOW, due_at=NOW, sent_at=sent_at, attempts=1))  # fmt: skip

    def retract(self, reason: str = "quality", now: datetime = NOW, **what: object) -> list[str]:
        return retract(
            self.db, self.queues, **what, reason=reason, actor="ann", now=now, equipment=EQUIPMENT, store=self.store
        )  # fmt: skip

    def resend(self, to: str | None = None, **what: object) -> list[str]:
        peers = dict.fromkeys(("pacs", "web", "archive"))
        return resend(self.db, self.queues, **what, to=to, peers=peers, actor="ann", now=NOW + timedelta(days=1))

    def deliveries(self, uid: str) -> dict[str, Delivery]:
        with self.db() as session:
            rows = session.scalars(select(Delivery).where(Delivery.sop_instance_uid == uid)).all()
        return {row.peer: row for row in rows}

    def states(self, uid: str) -> dict[str, str]:
        return {peer: row.state for peer, row in self.deliveries(uid).items()}

    def is_waiting(self, uid: str, peer: str) -> bool:
        """Whether the engine has it to do."""
        row = self.deliveries(uid)[peer]
        return self.queues.is_alive(DELIVER, str(row.id), row.ticket)

    def note(self, uid: str) -> Dataset:
        with self.db() as session:
            return dcmread(BytesIO(self.store.read(session.get_one(OutputInstance, note_uid(uid)).sha256)))

    def events(self, act: str) -> list[AuditEvent]:
        with self.db() as session:
            return list(session.scalars(select(AuditEvent).where(AuditEvent.act == act).order_by(AuditEvent.id)))


@pytest.fixture
def results(database_url: str, tmp_path: Path) -> Iterator[Results]:
    results = Results(database_url, tmp_path / "store")
    yield results
    results.queues.close()
    results.db.kw["bind"].dispose()


# --- Taking back ---


def test_a_note_goes_to_every_peer_that_has_the_result_and_to_no_other(results: Results) -> None:
    results.went(results.seg, pacs="proved", web="sent", archive="cancelled")

    (said,) = results.retract(sop_instance_uid=results.seg)

    assert said == f"{results.seg} is retracted; the note goes to pacs, web"
    assert results.states(note_uid(results.seg)) == {"pacs": "queued", "web": "queued"}
    assert results.is_waiting(note_uid(results.seg), "pacs")
    assert results.states(results.seg) == {"pacs": "proved", "web": "sent", "archive": "cancelled"}


def test_the_note_says_which_result_is_taken_back_why_and_whose_it_is(results: Results) -> None:
    results.retract("wrong-patient", sop_instance_uid=results.sr)

    note, rejected = results.note(results.sr), results.made[1]
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (reference,) = series.ReferencedSOPSequence
    assert note.SOPClassUID == KeyObjectSelectionDocumentStorage
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (rejected.StudyInstanceUID, rejected.SeriesInstanceUID)
    assert reference.ReferencedSOPInstanceUID == results.sr
    assert (note.PatientID, note.PatientName, note.StudyInstanceUID) == (rejected.PatientID, rejected.PatientName, rejected.StudyInstanceUID)  # fmt: skip
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
    assert "another patient" in next(item.TextValue for item in note.ContentSequence if item.ValueType == "TEXT" and "TextValue" in item and "back" in item.TextValue)  # fmt: skip
    with results.db() as session:
        row = session.get_one(OutputInstance, note.SOPInstanceUID)
    assert (row.retracts, row.job, row.modality) == (results.sr, results.job, "KO")


def test_a_whole_job_is_taken_back_result_by_result(results: Results) -> None:
    results.went(results.seg, pacs="proved")
    results.went(results.sr, pacs="proved")

    assert len(results.retract(job=results.job)) == 2

    assert results.states(note_uid(results.seg)) == results.states(note_uid(results.sr)) == {"pacs": "queued"}


def test_the_trail_says_who_took_what_back_and_why(results: Results) -> None:
    results.went(results.seg, pacs="sent")

    results.retract("safety", sop_instance_uid=results.seg)

    (event,) = results.events("output.retracted")
    assert (event.actor, event.sop_instance_uid, event.job) == ("ann", results.seg, results.job)
    assert event.detail == {"reason": "safety", "note": note_uid(results.seg), "peers": ["pacs"]}


def test_a_result_that_is_taken_back_twice_has_one_note_with_the_first_reason(results: Results) -> None:
    results.went(results.seg, pacs="proved")
    results.retract("quality", sop_instance_uid=results.seg)
    first = results.note(results.seg)

    assert results.retract("safety", NOW + timedelta(days=1), job=results.job)[0] == f"{results.seg} was retracted already"

    assert results.note(results.seg) == first
    assert len(results.deliveries(note_uid(results.seg))) == 1
    assert len(results.events("output.retracted")) == 2  # the report's is the second


@pytest.mark.parametrize("state", ["queued", "held", "failed"])
def test_what_has_not_gone_out_never_does(results: Results, state: str) -> None:
    results.went(results.seg, pacs=state)

    (said,) = results.retract(sop_instance_uid=results.seg)

    assert said.endswith("it went to nobody, and nobody gets the note")
    row = results.deliveries(results.seg)["pacs"]
    assert (row.state, row.reason) == ("cancelled", "retracted by ann")
    assert results.states(note_uid(results.seg)) == {}
    with pytest.raises(ConfigError, match="its result was retracted"):
        admin.retry_delivery(results.db, results.queues, row.id, actor="ann", now=NOW)
    with pytest.raises(ConfigError, match="it was retracted"):
        results.resend(sop_instance_uid=results.seg)


def test_where_the_answer_was_lost_the_peer_may_have_it_and_gets_the_note(results: Results) -> None:
    results.went(results.seg, pacs="queued")
    with results.db.begin() as session:
        session.scalars(select(Delivery)).one().unanswered = True

    results.retract(sop_instance_uid=results.seg)

    assert results.states(results.seg) == {"pacs": "cancelled"}
    assert results.states(note_uid(results.seg)) == {"pacs": "queued"}


def test_where_a_person_gave_up_looking_for_a_proof_the_peer_may_have_it_and_gets_the_note(results: Results) -> None:
    results.went(results.seg, pacs="sent")
    delivery = results.deliveries(results.seg)["pacs"].id
    admin.cancel_delivery(results.db, results.queues, delivery, actor="ann", now=NOW)

    results.retract(sop_instance_uid=results.seg)

    assert results.states(note_uid(results.seg)) == {"pacs": "queued"}


def test_the_note_follows_a_result_that_is_just_being_sent(results: Results) -> None:
    results.went(results.seg, pacs="sending")

    results.retract(sop_instance_uid=results.seg)

    assert results.states(results.seg) == {"pacs": "sending"}
    assert results.states(note_uid(results.seg)) == {"pacs": "queued"}
    assert results.deliveries(note_uid(results.seg))["pacs"].ticket == ""


def test_what_is_taken_back_in_the_shadow_stays_there_when_its_job_is_released(results: Results) -> None:
    with results.db.begin() as session:
        session.add(Shadow(job=results.job, beside="", released_by=""))
    results.retract(sop_instance_uid=results.seg)

    release_job(results.db, results.queues, results.job, actor="bob", now=NOW)

    assert results.states(results.seg) == {}
    assert results.states(results.sr) == {"pacs": "queued"}


def test_a_result_that_is_just_given_to_a_further_peer_is_taken_back_from_there_too(results: Results) -> None:
    results.went(results.seg, pacs="proved")
    retracting = Thread(target=results.retract, kwargs={"sop_instance_uid": results.seg})

    with results.db.begin() as session:
        also(session, lock(session, Job, results.job), ["archive"], NOW, queues=results.queues)
        session.flush()
        retracting.start()
        retracting.join(1)
    retracting.join()

    assert results.states(results.seg) == {"pacs": "proved", "archive": "cancelled"}


def test_what_cannot_be_taken_back_is_told(results: Results) -> None:
    with pytest.raises(ConfigError, match="SOP Instance UID of a result of ours"):
        results.retract(sop_instance_uid="1.2.3")
    with pytest.raises(ConfigError, match="expected a reason, one of: quality, safety, wrong-patient, mwl"):
        results.retract("mood", job=results.job)
    results.retract(sop_instance_uid=results.seg)
    with pytest.raises(ConfigError, match="not the note that takes one back"):
        results.retract(sop_instance_uid=note_uid(results.seg))


def test_a_result_whose_file_and_study_are_gone_is_told_to_need_its_header(results: Results) -> None:
    with results.db() as session:
        results.store.discard(session.get_one(OutputInstance, results.seg).sha256)

    with pytest.raises(ConfigError, match="the note needs its header"):
        results.retract(sop_instance_uid=results.seg)

    assert results.events("output.retracted") == []


def test_a_result_whose_file_retention_took_is_taken_back_from_what_rows_say_of_it(results: Results, tmp_path: Path) -> None:
    results.went(results.seg, pacs="proved")
    with results.db.begin() as session:
        row = session.get_one(OutputInstance, results.seg)
        session.add(Study(study_instance_uid=row.study_instance_uid, patient_name="Grün^Ünal", patient_id="7", patient_birth_date="19500101", accession_number="A7", first_received_at=NOW))  # fmt: skip
        row.gone_at = NOW
        results.store.discard(row.sha256)

    results.retract(sop_instance_uid=results.seg)

    note, path = results.note(results.seg), tmp_path / "note.dcm"
    path.write_bytes(part10(note))
    (named,) = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert (str(note.PatientName), note.PatientID, note.AccessionNumber, note.PatientSex) == ("Grün^Ünal", "7", "A7", "")
    assert (note.StudyInstanceUID, named.ReferencedSOPInstanceUID) == (row.study_instance_uid, results.seg)
    assert results.states(note_uid(results.seg)) == {"pacs": "queued"}
    assert dciodvfy(path) == []


@pytest.mark.parametrize("reason", REASONS)
def test_dciodvfy_finds_nothing_in_a_note_of_any_reason(tmp_path: Path, migrated_sqlite: Path, reason: str) -> None:
    results = Results(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path / "store")

    results.retract(reason, job=results.job)

    for number, uid in enumerate((results.seg, results.sr)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(results.note(uid)))
        assert dciodvfy(path) == []
        assert results.note(uid).ConceptNameCodeSequence[0].CodeValue == TITLES[reason]


def test_orthanc_takes_the_note_beside_the_result(tmp_path: Path) -> None:
    results = Results(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path / "store")
    with running_orthanc(tmp_path) as orthanc:
        settings = {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": "ORTHANC", "proof": "none"}  # fmt: skip
        peers = {"pacs": make_peer(settings | {"calling_ae_title": "AIGATEWAY"}, protocols=load_protocols())}
        with results.db() as session:
            peers["pacs"].send(results.store.path(session.get_one(OutputInstance, results.seg).sha256))
        results.went(results.seg, pacs="sent")
        results.retract(sop_instance_uid=results.seg)

        deliver(
            results.deliveries(note_uid(results.seg))["pacs"].id, clock=lambda: NOW, peers=peers, store=results.store, db=results.db,
            queues=results.queues, pace=Pace(),
        )  # fmt: skip

        assert results.states(note_uid(results.seg)) == {"pacs": "sent"}
        held = dcmread(BytesIO(orthanc.file(note_uid(results.seg))))
    assert held.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == results.seg  # fmt: skip


# --- Sending again ---


@pytest.mark.parametrize("state", ["sent", "proved", "failed", "cancelled"])
def test_what_ended_goes_again_as_the_same_delivery_with_a_new_attempt(results: Results, state: str) -> None:
    results.went(results.seg, pacs=state)
    before = results.deliveries(results.seg)["pacs"]

    assert results.resend(sop_instance_uid=results.seg) == [f"delivery {before.id} to pacs is queued again"]

    after = results.deliveries(results.seg)["pacs"]
    assert (after.id, after.state, after.proved_at, after.proof, after.looks) == (before.id, "queued", None, "", 0)
    assert results.is_waiting(results.seg, "pacs")
    (event,) = results.events("delivery.retried")
    assert (event.actor, event.detail) == ("ann", {"peer": "pacs", "before": state})


def test_a_peer_that_never_had_it_gets_a_delivery_of_its_own(results: Results) -> None:
    results.went(results.seg, pacs="proved")

    results.resend("archive", sop_instance_uid=results.seg)

    assert results.states(results.seg) == {"pacs": "proved", "archive": "queued"}
    assert results.is_waiting(results.seg, "archive")
    assert [event.detail["peer"] for event in results.events("delivery.retried")] == ["archive"]


def test_only_the_peer_that_is_named_gets_it_again(results: Results) -> None:
    results.went(results.seg, pacs="proved", web="proved")

    results.resend("web", sop_instance_uid=results.seg)

    assert results.states(results.seg) == {"pacs": "proved", "web": "queued"}


def test_all_results_of_a_job_go_again_one_after_the_other(results: Results) -> None:
    results.went(results.seg, pacs="proved")
    results.went(results.sr, pacs="proved")

    assert len(results.resend(job=results.job)) == 2

    assert {results.is_waiting(uid, "pacs") for uid in (results.seg, results.sr)} == {True, False}


def test_what_is_on_its_way_is_left_as_it_is(results: Results) -> None:
    results.went(results.seg, pacs="sending")

    assert results.resend(sop_instance_uid=results.seg)[0].endswith("is sending: left as it is")


def test_what_cannot_be_sent_again_is_told_and_nothing_is_sent(results: Results) -> None:
    results.went(results.seg, pacs="proved")
    with pytest.raises(ConfigError, match="one of: pacs, web, archive"):
        results.resend("elsewhere", sop_instance_uid=results.seg)
    with pytest.raises(ConfigError, match="it went to no peer yet"):
        results.resend(sop_instance_uid=results.sr)
    with results.db.begin() as session:
        session.get_one(OutputInstance, results.sr).gone_at = NOW
    with pytest.raises(ConfigError, match="retention took its file"):
        results.resend(job=results.job)

    assert results.states(results.seg) == {"pacs": "proved"}


# --- What a person sees ---


def test_jobs_that_take_the_place_of_each_other_name_each_other(results: Results) -> None:
    later = a_job(results.db, state="done", input_key="9" * 64, revision=2, supersedes=results.job)

    assert list(stories.show_job(results.db, results.job).superseded_by) == [later]
    with results.db() as session:
        assert session.get_one(Job, later).supersedes == results.job


def test_a_person_takes_back_and_sends_again_at_the_command_line(tmp_path: Path) -> None:
    peers = [{"name": name, "protocol": "folder", "path": str(tmp_path / name)} for name in ("pacs", "archive")]
    for peer in peers:
        Path(peer["path"]).mkdir()
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    world = World(tmp_path / "world", url, "127.0.0.1:1", peers=peers)
    results = Results(url, tmp_path / "world" / "var" / "store")
    results.went(results.seg, pacs="proved")
    later = a_job(results.db, state="done", input_key="9" * 64, revision=2, supersedes=results.job)

    sent = world.run("deliveries", "resend", "--job", str(results.job), "--to", "archive")
    back = world.run("retract", results.seg, "--reason", "quality")
    wrong = world.run("deliveries", "resend")

    assert sent.stdout.count("to archive is queued") == 2
    assert back.stdout == f"{results.seg} is retracted; the note goes to pacs\n"
    assert (wrong.returncode, "expected a SOP Instance UID, or --job" in wrong.stderr) == (1, True)
    shown = world.run("jobs", "show", str(results.job)).stdout
    assert f"superseded by job {later}" in shown
    assert f"takes back {results.seg}" in shown
    assert f"revision 2, supersedes job {results.job}" in world.run("series", "show", SERIES).stdout
