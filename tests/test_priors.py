"""Earlier studies that a pipeline wants come from real archives before its job runs; without them it runs, or is held."""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet
from sqlalchemy import select

from gateway.dicom.instance import Incoming, Origin
from gateway.doors.door import Arrival, Door
from gateway.errors import OutOfResources, Unreachable
from gateway.ingest.dimse import TRANSFER_SYNTAXES
from gateway.peers import load_protocols, make_peer
from gateway.rows.searches import Prior, PriorSearch, PriorState, SearchState
from gateway.rows.tables import Association, Instance, JobState, OutputInstance
from gateway.rows.trail import AuditEvent
from tests.peers_fixture import Orthanc, running_dcmqrscp, running_orthanc, running_scp
from tests.ports import free_port
from tests.rows_fixture import NOW, a_job, a_series
from tests.scp_fixture import accepting
from tests.synthetic import ct_series
from tests.test_kill import SEEKING
from tests.world import World, retention_took, send

RULES = """\
rules:
  - {name: compare, when: {all: [{attribute: SeriesDescription, is: Axial}]}, pipeline: compare, send_to: [pacs]}
  - {name: only, when: {all: [{attribute: SeriesDescription, is: only}]}, pipeline: compare_only, send_to: [pacs]}
  - {name: anyway, when: {all: [{attribute: SeriesDescription, is: anyway}]}, pipeline: compare_anyway, send_to: [pacs]}
"""
SLICES = 4


def series(seed: int, day: str, **more: object) -> list[Dataset]:
    return ct_series(SLICES, seed=seed, StudyDate=day, **more)


CURRENT, PRIOR = series(1, "20260102"), series(2, "20250101")
OLDER, OLDEST = series(3, "20240101"), series(4, "20100101")
OTHERS = series(5, "20250601", PatientID="CANARY-ID2")
HELD_THERE = [*PRIOR, *OLDER, *OLDEST, *OTHERS]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), DicomAlwaysAllowGet=True, DicomAlwaysAllowFind=True) as running:
        assert set(send(HELD_THERE, running.dicom_port, calling="AIGATEWAY", called="ORTHANC")) == {0x0000}
        yield running


@pytest.fixture(scope="module")
def dcmqrscp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_dcmqrscp(tmp_path_factory.mktemp("dcmqr")) as port:
        assert set(send(HELD_THERE, port, called="DCMQR")) == {0x0000}
        yield port


def dimse(port: int, ae_title: str) -> dict[str, object]:
    return {
        "name": "archive", "protocol": "dimse", "host": "127.0.0.1", "port": port, "ae_title": ae_title, "timeout_seconds": 20,
    }  # fmt: skip


def table(kind: str, request: pytest.FixtureRequest) -> dict[str, object]:
    if kind == "dcmqrscp":
        return dimse(request.getfixturevalue("dcmqrscp"), "DCMQR")
    orthanc = request.getfixturevalue("orthanc")
    if kind == "dimse":
        return dimse(orthanc.dicom_port, "ORTHANC")
    return {"name": "archive", "protocol": kind, "url": orthanc.dicomweb if kind == "dicomweb" else orthanc.url}


@contextmanager
def world_beside(archive: dict[str, object], folder: Path, triton: str, database_url: str = "") -> Iterator[World]:
    peers = ({"name": "pacs", "protocol": "folder", "path": str(folder / "world" / "pacs")}, archive)
    url, settings = database_url or f"sqlite:///{folder / 'gateway.db'}", {"priors": {"peers": ["archive"]}}
    with World(folder / "world", url, triton, peers, rules=RULES, settings=settings) as world:
        yield world


def comment(world: World) -> str:
    (report,) = [dcmread(path) for path in world.pacs_files()]
    return next(item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT" and "priors" in item.TextValue)


def assert_compared_once(world: World) -> None:
    (job,) = world.jobs()
    assert (job.state, job.reason) == (JobState.DONE, "")
    assert f"prior {PRIOR[0].SeriesInstanceUID}, 366 days before, from archive" in job.notes
    assert f"1 priors: 366 days before, {SLICES} slices of " in comment(world)
    with world.database() as db, db() as session:
        rows = {row.series_instance_uid: row for row in session.scalars(select(Prior))}
        came = session.scalars(select(Instance).where(Instance.series_instance_uid == PRIOR[0].SeriesInstanceUID)).all()
        ingests = {session.get_one(Association, one.association).ingest for one in came}
    assert rows[PRIOR[0].SeriesInstanceUID].state == PriorState.HERE
    assert (rows[OLDER[0].SeriesInstanceUID].state, rows[OLDER[0].SeriesInstanceUID].reason) == (
        PriorState.PASSED, "a newer study was taken",
    )  # fmt: skip
    assert len(rows) == 2  # what is too old, or of another patient, is not looked into
    assert len(came) == SLICES
    assert ingests == {"prior"}


def test_a_derived_series_of_ours_is_no_prior(orthanc, tmp_path, triton):
    with world_beside(dimse(orthanc.dicom_port, "ORTHANC"), tmp_path, triton) as world:
        world.start()
        with world.database() as db:
            a_series(db)
            job = a_job(db, state=JobState.DONE)
            with db.begin() as session:
                session.add(OutputInstance(sop_instance_uid="2.25.7", job=job, study_instance_uid="2.25.8", series_instance_uid=PRIOR[0].SeriesInstanceUID, sop_class_uid="1.2", modality="CT", sha256="8" * 64, size=1, created_at=NOW))  # fmt: skip
        world.send(CURRENT)
        world.wait_settled(3)

        with world.database() as db, db() as session:
            rows = {row.series_instance_uid: (row.state, row.reason) for row in session.scalars(select(Prior))}
        assert rows[PRIOR[0].SeriesInstanceUID] == (PriorState.PASSED, "this gateway made it")
        assert rows[OLDER[0].SeriesInstanceUID] == (PriorState.HERE, "")


@pytest.mark.parametrize(
    ("kind", "database_url"), [("dicomweb", "sqlite"), ("dcmqrscp", "postgresql")], indirect=["database_url"]
)
def test_a_job_gets_the_newest_fitting_study_that_its_source_has(kind, request, database_url, tmp_path, triton):
    with world_beside(table(kind, request), tmp_path, triton, database_url) as world:
        world.start()
        world.send(CURRENT)
        world.wait_settled(2)

        assert_compared_once(world)
        assert world.story(PRIOR).series.reason.endswith("fetched as a prior for a job, starts none itself")
        shown = world.run("jobs", "show", "1").stdout
        assert re.search(rf"here {PRIOR[0].SeriesInstanceUID} at archive, 366 days before", shown)
        assert re.search(rf"passed {OLDER[0].SeriesInstanceUID} at archive, 732 days before: a newer study was taken", shown)
        with world.database() as db, db() as session:
            acts = list(session.scalars(select(AuditEvent.act)))
        assert (acts.count("priors.sought"), acts.count("priors.done")) == (1, 1)
        assert world.run("audit", "verify").returncode == 0


@pytest.mark.parametrize("kind", ["orthanc", "dicomweb", "dimse"])
def test_every_protocol_with_queries_says_what_it_has_of_a_patient(kind, request):
    peer = make_peer(table(kind, request), protocols=load_protocols())

    studies = peer.studies_of("CANARY-ID")

    days = {one["StudyInstanceUID"]: one["StudyDate"] for one in studies}
    assert days == {str(one[0].StudyInstanceUID): one[0].StudyDate for one in (PRIOR, OLDER, OLDEST)}
    assert {one["PatientID"] for one in studies} == {"CANARY-ID"}
    (told,) = peer.series_of(str(PRIOR[0].StudyInstanceUID))
    assert (told["SeriesInstanceUID"], told["Modality"]) == (str(PRIOR[0].SeriesInstanceUID), "CT")
    assert told["NumberOfSeriesRelatedInstances"] == str(SLICES)
    assert peer.studies_of("NOBODY") == []


def test_what_the_door_does_not_take_now_is_refused_to_who_gives_it_and_tried_again_later(dcmqrscp):
    peer = make_peer(dimse(dcmqrscp, "DCMQR"), protocols=load_protocols())
    asked, told = [], []

    def full(incoming: Incoming) -> Arrival:
        asked.append(incoming)
        raise OutOfResources("the store's disk is nearly full")

    with pytest.raises(Unreachable, match="0xA702"):  # none of its sub-operations succeeded
        peer.get(PRIOR[0].StudyInstanceUID, PRIOR[0].SeriesInstanceUID, "CT", TRANSFER_SYNTAXES, full, told.append)

    assert len(told) == len(asked) == SLICES
    assert {str(one) for one in told} == {"the store's disk is nearly full"}
    assert {one.sop_instance_uid for one in asked} <= {one.SOPInstanceUID for one in PRIOR}
    assert {(one.sop_class_uid, one.transfer_syntax_uid) for one in asked} == {(CTImageStorage, ExplicitVRLittleEndian)}


def test_a_peer_that_gives_a_part_of_a_series_gives_not_all_of_it_whether_or_not_it_counts(tmp_path):
    other = series(2, "20250101", SOPClassUID=SecondaryCaptureImageStorage)[0]
    ae, port = AE("SCP"), free_port()
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)

    def on_c_get(_: evt.Event) -> Iterator[object]:
        yield 2
        yield 0xFF00, PRIOR[0]
        yield 0xFF00, other  # in no presentation context

    with accepting(ae, port, [(evt.EVT_C_GET, on_c_get)]), closing(Door(tmp_path, clock=lambda: NOW, keep_free_bytes=0)) as door:
        peer, opened = (
            make_peer(dimse(port, "SCP"), protocols=load_protocols()),
            partial(door.open, origin=Origin("prior", "1"), maximum_bytes=2**31),
        )
        missed = peer.get(PRIOR[0].StudyInstanceUID, PRIOR[0].SeriesInstanceUID, "CT", TRANSFER_SYNTAXES, opened, lambda _: None)

    assert missed == 1


def test_a_job_waits_no_longer_than_it_says_for_a_source_that_gives_slowly(tmp_path, triton):
    ae, port, over = AE("SLOW"), free_port(), threading.Event()
    for model in (StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet):
        ae.add_supported_context(model)
    ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)

    def on_c_find(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        told = Dataset()
        for element in event.identifier:
            told[element.tag] = PRIOR[0].get(element.tag, element)
        if event.identifier.QueryRetrieveLevel != "IMAGE":  # it does not say how many there are
            yield 0xFF00, told

    def on_c_get(_: evt.Event) -> Iterator[object]:
        yield 1000
        while not over.wait(0.5):
            yield 0xFF00, PRIOR[0]

    with accepting(ae, port, [(evt.EVT_C_FIND, on_c_find), (evt.EVT_C_GET, on_c_get)]):
        with world_beside(dimse(port, "SLOW"), tmp_path, triton) as world:
            world.start()
            world.send(series(7, "20260102", SeriesDescription="anyway"))  # a second

            world.wait_until(lambda: [job.state for job in world.jobs()] == [JobState.DONE], 60)
            over.set()
            shown = world.run("jobs", "show", "1").stdout
            assert (
                f"missed {PRIOR[0].SeriesInstanceUID} at archive, 366 days before: archive: its deadline came before all of it"
                in shown
            )


def test_a_peer_that_does_not_let_us_get_says_what_to_do():
    ae, port = AE("SCP"), free_port()
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)  # and nothing that could come over it

    with running_scp() as scp, accepting(ae, port, []):
        for one in (scp.port, port):
            peer = make_peer(dimse(one, "SCP"), protocols=load_protocols())
            with pytest.raises(Unreachable, match=r'does not let us get .* set fetch = "move" for this peer'):
                peer.get("1.2", "1.2.3", "CT", TRANSFER_SYNTAXES, lambda _: pytest.fail("nothing can come"), lambda _: None)


def test_a_peer_that_answers_that_it_knows_no_c_get_says_what_to_do():
    ae, port = AE("SCP"), free_port()
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)

    def on_c_get(_: evt.Event) -> Iterator[object]:
        yield 1
        yield 0x0122, None

    with accepting(ae, port, [(evt.EVT_C_GET, on_c_get)]):
        peer = make_peer(dimse(port, "SCP"), protocols=load_protocols())
        with pytest.raises(Unreachable, match=r'set fetch = "move" for this peer.* \(0x0122\)'):
            peer.get("1.2", "1.2.3", "CT", TRANSFER_SYNTAXES, lambda _: pytest.fail("nothing can come"), lambda _: None)


def test_a_source_that_is_away_holds_up_no_other_job_and_a_person_may_let_one_run_without(tmp_path, triton):
    with world_beside(dimse(free_port(), "NOBODY"), tmp_path, triton) as world:
        world.start()
        only = series(6, "20260102", SeriesDescription="only")
        world.send(only)
        world.send(series(7, "20260102", SeriesDescription="anyway"))

        world.wait_until(lambda: {job.pipeline: job.state for job in world.jobs()}.get("compare_anyway") == JobState.DONE)
        world.wait_until(lambda: any(job.reason.startswith("held: ") for job in world.jobs()))

        held = next(job for job in world.jobs() if job.pipeline == "compare_only")
        assert held.state == JobState.QUEUED
        assert re.fullmatch(r"held: archive: .*; retry runs it without a prior", held.reason)
        world.wait_until(world.pacs_files)  # the job that did without is done; its report is on its way
        assert "0 priors: none" in comment(world)
        assert world.run("jobs", "retry", str(held.id)).returncode == 0
        world.wait_settled(2)
        assert {job.state for job in world.jobs()} == {JobState.DONE}


@pytest.mark.parametrize("point", SEEKING)
def test_after_a_death_while_priors_come_the_job_gets_them_and_runs_once(point, orthanc, tmp_path, triton):
    archive = {"name": "archive", "protocol": "dicomweb", "url": orthanc.dicomweb}
    with world_beside(archive, tmp_path, triton) as world:
        world.start(crash_at=point)
        world.send(CURRENT)
        assert world.wait_for_death() == -signal.SIGKILL

        world.start()
        world.wait_settled(2)

        assert_compared_once(world)


def test_a_prior_whose_files_retention_took_comes_from_its_source_again(orthanc, tmp_path, triton):
    archive = {"name": "archive", "protocol": "dicomweb", "url": orthanc.dicomweb}
    with world_beside(archive, tmp_path, triton) as world:
        world.start()
        world.send(PRIOR)  # a year ago; its own prior came with it
        world.wait_settled(2)
        retention_took(world, PRIOR)

        world.send(CURRENT)
        world.wait_settled(3)

        (job,) = [one for one in world.jobs() if one.series_instance_uid == CURRENT[0].SeriesInstanceUID]
        assert f"prior {PRIOR[0].SeriesInstanceUID}, 366 days before, from archive" in job.notes
        assert len(world.jobs()) == 2  # it starts no second job


def test_the_page_of_a_job_tells_which_study_was_taken_and_why_another_was_not(console):
    a_series(console.db)
    job = a_job(console.db, state="done")
    row = {"job": job, "peer": "archive", "study_instance_uid": "1.2.8", "modality": "CT"}
    with console.db.begin() as session:
        session.add(PriorSearch(id=job, state=SearchState.DONE, begun_at=NOW, due_at=NOW, deadline_at=NOW, ended_at=NOW))
        session.flush()
        session.add(Prior(**row, series_instance_uid="1.2.8.1", days_before=30, state=PriorState.HERE))
        session.add(
            Prior(**row, series_instance_uid="1.2.8.2", days_before=None, state=PriorState.PASSED, reason="expected modality CT")
        )

    page = console.client("viewer").get(f"/jobs/{job}").text

    assert "passed: expected modality CT" in page
    assert 'href="/series/1.2.8.1"' in page
    assert 'href="/series/1.2.8.2"' not in page
