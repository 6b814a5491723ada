"""The gateway as the performer of workitems: claimed, ordered, followed and ended, each step once (PS3.4 CC, IHE AIW-I)."""

import signal
import threading
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from pydicom import Dataset
from sqlalchemy import select, update

from gateway.access import people
from gateway.acts.order import order as place_order
from gateway.auditing.audit import Act
from gateway.db import open_database
from gateway.dicom.procedure import parse
from gateway.engine import PERFORM, RUN, Queues
from gateway.pipeline import Needs, Pipeline
from gateway.rows.retrieval import Retrieval
from gateway.rows.tables import Delivery, Job, OutputInstance, Series
from gateway.rows.trail import AuditEvent
from gateway.rows.workitems import Workitem, WorkitemDocument
from gateway.store import Store
from gateway.sweep import sweep
from gateway.workitems import ups
from gateway.workitems.perform import Place, perform
from gateway.workitems.subscriptions import subscribe, waiting
from tests.ports import free_port
from tests.rows_fixture import NOW, SERIES, STUDY, a_delivery, a_series
from tests.synthetic import ct_series
from tests.workitem_fixture import item, json_of, order
from tests.world import World

PIPELINES = {name: Pipeline("1", name, Needs("CT"), lambda *_: ()) for name in ("bright", "lungs")}
UID = "2.25.77"
NOBODYS = """\
rules:
  - {name: magnetic resonance, when: {all: [{attribute: Modality, is: MR}]}, pipeline: bright, send_to: [PEERS]}
"""


class Pacs:
    ae_title = "PACS"


class Orthanc:
    take = "series"


class Here:
    """A gateway's rows and store, and a look at the one workitem whenever the test says so."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.db, self.store, self.queues = open_database(database_url), Store(folder), Queues(database_url)
        self.place = Place(
            db=self.db, store=self.store, queues=self.queues, pipelines=PIPELINES, peers={"pacs": Pacs(), "orthanc": Orthanc()},
            ae_title="AIGATEWAY", url="https://ai",
        )  # fmt: skip
        self.now = NOW
        a_series(self.db)

    def order(self, pipeline: str = "bright", series: str = SERIES, **more: object) -> None:
        asked = parse(_bytes(order(pipeline, series, STUDY, **more)))
        ups.create(self.db, self.store, self.queues, asked, UID, actor="ann", now=self.now)

    def look(self) -> Dataset:
        """Later than the next look is due."""
        self.now += timedelta(minutes=1)
        perform(UID, self.now, here=self.place)
        return ups.retrieve(self.db, self.store, UID)

    def row(self) -> Workitem:
        with self.db() as session:
            return session.get_one(Workitem, UID)

    def set_job(self, **values: object) -> None:
        with self.db.begin() as session:
            session.execute(update(Job).values(**values))

    def finish_job(self) -> None:
        """With a result that is in the store, on its way to the peer."""
        kept = self.store.put([b"segmentation"])
        a_delivery(self.db, self.row().job or 0)
        with self.db.begin() as session:
            session.execute(update(OutputInstance).values(sha256=kept.sha256))
            session.execute(update(Job).values(state="done", started_at=self.now))

    def acts(self) -> list[str]:
        with self.db() as session:
            mine = select(AuditEvent.act).where(AuditEvent.sop_instance_uid == UID).order_by(AuditEvent.id)
            return [act for act in session.scalars(mine) if act.startswith("workitem.")]


def _bytes(asked: list[dict[str, object]]) -> bytes:
    return httpx2.Request("POST", "http://x", json=asked).read()


def progress(workitem: Dataset) -> Dataset:
    return workitem.ProcedureStepProgressInformationSequence[0]


@pytest.fixture
def here(database_url: str, tmp_path: Path):
    made = Here(database_url, tmp_path / "store")
    yield made
    made.queues.close()
    made.db.kw["bind"].dispose()


def test_the_longer_its_series_does_not_come_the_less_often_it_is_looked_for(here: Here) -> None:
    here.order(series="2.25.404")
    waits = []
    for days in (0, 0.01, 1, 30):
        here.now = NOW + timedelta(days=days)
        for _ in range(5):
            here.now = max(here.now, here.row().due_at)
            perform(UID, here.now, here=here.place)
        waits.append((here.row().due_at - here.now).total_seconds())

    assert waits == [15, pytest.approx(50, abs=10), 600, 600]
    assert here.row().state == "SCHEDULED"


def test_a_workitem_that_names_a_pipeline_is_claimed_with_its_job_in_one_step(here) -> None:
    here.order(ScheduledProcedureStepPriority="HIGH")

    workitem = here.look()

    with here.db() as session:
        job = session.scalars(select(Job)).one()
    row = here.row()
    assert (row.state, row.is_ours, row.job, row.made_job) == ("IN PROGRESS", True, job.id, True)
    assert row.transaction_uid
    assert row.transaction_uid not in workitem.to_json()
    assert (job.pipeline, job.priority, job.send_to, job.rules) == ("bright", "stat", [], ["ordered by ann"])
    assert progress(workitem).ProcedureStepProgressDescription == f"job {job.id} is ordered"
    assert here.queues.is_alive(RUN, str(job.id), "0")
    assert here.queues.is_alive(PERFORM, UID, row.ticket)
    assert here.acts() == [Act.WORKITEM_CREATED, Act.WORKITEM_CLAIMED]


def test_it_is_completed_when_the_results_are_here_and_the_peer_has_proved_to_hold_them(here) -> None:
    here.order(OutputDestinationSequence=[item(DICOMStorageSequence=[item(DestinationAE="PACS")])])
    here.look()
    here.finish_job()

    on_the_way = here.look()
    with here.db.begin() as session:
        session.execute(update(Delivery).values(state="proved"))
    done = here.look()

    assert on_the_way.ProcedureStepState == "IN PROGRESS"
    assert progress(on_the_way).ProcedureStepProgressDescription.endswith("is done; pacs: 1 queued")
    assert "DICOMRetrievalSequence" not in output(on_the_way)
    assert done.ProcedureStepState == "COMPLETED"
    assert (progress(done).ProcedureStepProgress, output(done).DICOMRetrievalSequence[0].RetrieveAETitle) == (100, "PACS")
    assert output(done).WADORSRetrievalSequence[0].RetrieveURL == f"https://ai/dicom-web/studies/{STUDY}/series/{SERIES}"
    assert output(done).ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25." + "3" * 59
    assert here.row().due_at is None
    assert here.acts()[-1] == Act.WORKITEM_COMPLETED


def test_one_whose_peer_is_not_sent_such_objects_is_completed_and_names_no_peer(here) -> None:
    here.order(OutputDestinationSequence=[item(DICOMStorageSequence=[item(DestinationAE="PACS")])])
    here.look()
    here.finish_job()
    with here.db.begin() as session:
        session.execute(update(Delivery).values(state="unwanted"))

    done = here.look()

    assert done.ProcedureStepState == "COMPLETED"
    assert progress(done).ProcedureStepProgressDescription.endswith("is done; pacs: 1 unwanted")
    assert "DICOMRetrievalSequence" not in output(done)


def output(workitem: Dataset) -> Dataset:
    return workitem.UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence[0]


def test_results_that_are_not_there_are_not_claimed(here) -> None:
    here.order()
    here.look()
    here.finish_job()
    with here.db.begin() as session:
        session.execute(update(OutputInstance).values(sha256="9" * 64))

    workitem = here.look()

    assert workitem.ProcedureStepState == "CANCELED"
    assert progress(workitem).ReasonForCancellation.endswith("its results are not here any more")


@pytest.mark.parametrize(("state", "reason"), [("failed", "no lungs in it"), ("cancelled", "cancelled by bob")])
def test_a_job_that_does_not_come_to_its_end_cancels_it_with_the_reason(here, state: str, reason: str) -> None:
    here.order()
    here.look()
    here.set_job(state=state, reason=reason)

    workitem = here.look()

    assert workitem.ProcedureStepState == "CANCELED"
    assert progress(workitem).ReasonForCancellation.endswith(f"is {state}: {reason}")
    assert progress(workitem).ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"InputInformationSequence": []}, "expected one series"),
        ({"OutputDestinationSequence": [item(DICOMStorageSequence=[item(DestinationAE="NOBODY")])]}, "expected AE titles"),
    ],
)
def test_what_cannot_be_done_is_canceled_and_says_why(here, more: dict[str, object], reason: str) -> None:
    here.order(**more)

    workitem = here.look()

    assert workitem.ProcedureStepState == "CANCELED"
    assert reason in progress(workitem).ReasonForCancellation
    assert here.acts() == [Act.WORKITEM_CREATED, Act.WORKITEM_CLAIMED, Act.WORKITEM_CANCELED]


def test_it_waits_for_a_series_that_is_not_complete_and_for_inputs_that_are_not_ready(here) -> None:
    with here.db.begin() as session:
        session.execute(update(Series).values(state="receiving"))
    here.order(InputReadinessState="INCOMPLETE")

    first = here.look()
    with here.db.begin() as session:
        session.execute(update(Series).values(state="complete"))
    second = here.look()
    ready = parse(_bytes(json_of(InputReadinessState="READY")))
    ups.change(here.db, here.store, here.queues, UID, ready, "", actor="ann", now=here.now)
    third = here.look()

    assert [one.ProcedureStepState for one in (first, second, third)] == ["SCHEDULED", "SCHEDULED", "IN PROGRESS"]


def test_a_series_that_a_source_has_is_taken_from_there_once(here) -> None:
    source = item(DICOMRetrievalSequence=[item(RetrieveAETitle="orthanc")], StudyInstanceUID="1.2", SeriesInstanceUID="1.2.3")
    here.order(InputInformationSequence=[source])

    for _ in range(2):
        assert here.look().ProcedureStepState == "SCHEDULED"

    with here.db() as session:
        (row,) = session.scalars(select(Retrieval)).all()
    assert (row.peer, row.study_instance_uid, row.series_instance_uid, row.state) == ("orthanc", "1.2", "1.2.3", "wanted")


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's
@pytest.mark.parametrize("uid", ["1.2." + "3" * 70, "1.2\\u00003"])
def test_a_uid_that_is_none_names_no_series(here, uid: str) -> None:
    source = item(DICOMRetrievalSequence=[item(RetrieveAETitle="orthanc")], StudyInstanceUID="1.2", SeriesInstanceUID="1.2.555")
    asked = _bytes(order("bright", InputInformationSequence=[source])).replace(b"1.2.555", uid.encode())
    ups.create(here.db, here.store, here.queues, parse(asked), UID, actor="ann", now=here.now)

    workitem = here.look()

    assert workitem.ProcedureStepState == "CANCELED"
    assert "expected one series" in progress(workitem).ReasonForCancellation


@pytest.mark.parametrize(
    "more",
    [
        {"pipeline": "no such pipeline"},
        {"ScheduledStationNameCodeSequence": [item(CodeValue="OTHER", CodingSchemeDesignator="99X", CodeMeaning="x")]},
    ],
)
def test_one_of_another_performer_is_left_alone(here, more: dict[str, str]) -> None:
    here.order(**more)

    assert here.look().ProcedureStepState == "SCHEDULED"
    assert here.row().due_at is None


def test_a_look_before_its_time_does_nothing(here) -> None:
    here.order()
    here.look()
    ticket = here.row().ticket

    perform(UID, here.now, here=here.place)

    assert here.row().ticket == ticket


def test_a_cancel_request_takes_the_job_along_while_that_waits(here) -> None:
    here.order()
    here.look()

    ups.request_cancel(here.db, here.store, UID, Dataset(), actor="bob", now=here.now)

    with here.db() as session:
        job = session.scalars(select(Job)).one()
    assert (job.state, here.row().state, here.row().due_at) == ("cancelled", "CANCELED", None)


def test_a_cancel_request_is_refused_while_the_job_runs(here) -> None:
    here.order()
    here.look()
    here.set_job(state="running")

    with pytest.raises(ups.Conflict, match="chooses not to cancel"):
        ups.request_cancel(here.db, here.store, UID, Dataset(), actor="bob", now=here.now)
    assert here.row().state == "IN PROGRESS"


def test_the_job_of_somebody_else_goes_on_when_the_workitem_is_canceled(here) -> None:
    here.order()
    here.look()
    with here.db.begin() as session:
        session.execute(update(Workitem).values(made_job=False))

    ups.request_cancel(here.db, here.store, UID, Dataset(), actor="bob", now=here.now)

    with here.db() as session:
        assert session.scalars(select(Job.state)).one() == "queued"


def test_a_job_that_somebody_else_has_ordered_meanwhile_goes_on_when_the_workitem_is_canceled(here) -> None:
    here.order()
    here.look()
    asked = {"pipeline": "bright", "pipelines": PIPELINES, "send_to": ["orthanc"], "peers": [*here.place.peers]}
    place_order(here.db, here.queues, SERIES, **asked, actor="bob", now=here.now)

    ups.request_cancel(here.db, here.store, UID, Dataset(), actor="ann", now=here.now)

    with here.db() as session:
        assert session.scalars(select(Job.state)).one() == "queued"
    assert here.row().state == "CANCELED"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_failed_before_is_done_again_for_a_workitem(here, state: str) -> None:
    asked = {"pipeline": "bright", "pipelines": PIPELINES, "send_to": ["pacs"], "peers": [*here.place.peers]}
    place_order(here.db, here.queues, SERIES, **asked, actor="bob", now=here.now)
    here.set_job(state=state)
    here.order()

    looks = [here.look(), here.look()]

    assert [one.ProcedureStepState for one in looks] == ["IN PROGRESS"] * 2
    assert progress(looks[1]).ProcedureStepProgressDescription.endswith("is queued")


def test_who_follows_is_told_once_of_each_thing_that_happens(here) -> None:
    here.order()
    subscribe(here.db, "WATCH", UID, [], read=lambda key: ups.read(here.store, key), actor="ann", now=here.now)

    here.look()
    here.set_job(state="running")
    for _ in range(3):
        here.look()
    here.set_job(state="failed")
    here.look()

    assert [(one.kind, one.state) for one in waiting(here.db, "WATCH", "ann")] == [
        (1, "SCHEDULED"), (1, "IN PROGRESS"), (3, "IN PROGRESS"), (1, "CANCELED"),
    ]  # fmt: skip
    assert waiting(here.db, "WATCH", "bob") == []


def test_a_workitem_that_the_engine_forgot_is_looked_at_again(here) -> None:
    with here.db.begin() as session:
        here.order()
        session.execute(update(Workitem).values(ticket="lost"))
    later = here.now + timedelta(hours=1)

    sweep(later, db=here.db, queues=here.queues)

    assert here.row().ticket != "lost"
    assert here.queues.is_alive(PERFORM, UID, here.row().ticket)


def test_what_has_ended_goes_after_its_days_with_all_its_data_sets(here) -> None:
    here.order()
    ups.request_cancel(here.db, here.store, UID, Dataset(), actor="bob", now=here.now)
    with here.db() as session:
        documents = session.scalars(select(WorkitemDocument.sha256)).all()

    ups.tidy(here.now + timedelta(hours=1), db=here.db, store=here.store)
    left = [here.store.path(one).is_file() for one in documents]
    ups.tidy(here.now + timedelta(days=31), db=here.db, store=here.store)

    assert sorted(left) == [False, True]
    assert not any(here.store.path(one).is_file() for one in documents)
    with pytest.raises(ups.GoneWorkitem):
        ups.retrieve(here.db, here.store, UID)


def test_a_data_set_that_becomes_the_same_again_is_not_tidied_away(here) -> None:
    here.order()
    before = here.row().document
    ups.request_cancel(here.db, here.store, UID, Dataset(), actor="bob", now=here.now)
    tidying = threading.Thread(target=lambda: ups.tidy(here.now + timedelta(hours=1), db=here.db, store=here.store))

    with here.db.begin() as session:
        row = ups.find(session, UID)
        ups.keep(session, row, ups.read(here.store, before), here.store, here.now)
        tidying.start()
        tidying.join(1)
    tidying.join()

    assert here.row().document == before
    assert here.store.path(before).is_file()


# --- A whole gateway ---


def test_after_a_death_at_any_step_a_workitem_is_performed_once(tmp_path: Path, triton: str) -> None:
    series, port = ct_series(4), free_port()
    asked = order("bright", series[0].SeriesInstanceUID, series[0].StudyInstanceUID)
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton, rules=NOBODYS) as world:
        world.settings = {"web": {"port": port}}
        world.config.write_text(world.toml())
        world.start(crash_at="workitem.stored")
        assert world.send(series) == [0x0000] * 4
        world.wait_until(lambda: all(map(world.held, series)))
        world.wait_until(lambda: world.story(series).series.state == "complete")
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/dicom-web", headers=_token(world), timeout=60) as client:
            world.wait_until(lambda: _answers(client))
            with pytest.raises(httpx2.HTTPError):
                client.post(f"/workitems?workitem={UID}", json=asked)
            assert world.wait_for_death() == -signal.SIGKILL

            world.start(crash_at="perform.committed")
            world.wait_until(lambda: _answers(client))
            with suppress(httpx2.HTTPError):  # the answer may be out, or not
                client.post(f"/workitems?workitem={UID}", json=asked)
            assert world.wait_for_death() == -signal.SIGKILL

            world.start()
            world.wait_until(lambda: _answers(client))
            again = client.post(f"/workitems?workitem={UID}", json=asked).status_code
            world.wait_until(lambda: _state(client) == "COMPLETED")

            (workitem,) = client.get(f"/workitems/{UID}").json()
            found = output(Dataset.from_json(workitem))
            held = client.get(f"/studies/{found.StudyInstanceUID}/series/{found.SeriesInstanceUID}/instances").json()
        with world.database() as db, db() as session:
            acts = Counter(session.scalars(select(AuditEvent.act)))
        assert (again, len(world.jobs())) == (409, 1)
        assert {one["00080018"]["Value"][0] for one in held} == {
            one.ReferencedSOPInstanceUID for one in found.ReferencedSOPSequence
        }
        assert [acts[act] for act in (Act.WORKITEM_CREATED, Act.WORKITEM_CLAIMED, Act.WORKITEM_COMPLETED)] == [1, 1, 1]


def _token(world: World) -> dict[str, str]:
    now = datetime.now(NOW.tzinfo)
    with world.database() as db:
        people.add_person(db, "manager", role="operator", password="correct horse battery", actor="tests", now=now)
        made = people.make_token(db, "manager", label="x", role="operator", days=1, actor="tests", now=now)
    return {"Authorization": f"Bearer {made.secret}", "Content-Type": "application/dicom+json"}


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/workitems/2.25.1").status_code == 404
    except httpx2.HTTPError:
        return False


def _state(client: httpx2.Client) -> str:
    found = client.get(f"/workitems/{UID}")
    return str(found.json()[0]["00741000"]["Value"][0]) if found.status_code == 200 else ""
