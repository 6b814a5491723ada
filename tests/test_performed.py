"""Modality Performed Procedure Step (PS3.4 F.7): what a modality says that it made is evidence of whether a series is whole."""

import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from gateway.decisions.completeness import Decision, Evidence, Performed, Policy, verdict
from gateway.decisions.rules import RuleSet
from gateway.dicom.modality import Step, StepState
from gateway.doors.policy import Caller
from gateway.doors.policy import Policy as DoorPolicy
from gateway.doors.steps import Steps
from gateway.rows.performed import PerformedSeries, ProcedureStep
from gateway.rows.tables import Series, SeriesState
from gateway.rows.trail import AuditEvent
from gateway.serving.stages import equipment
from gateway.settle import settle
from gateway.work.heed import forget
from tests.door_fixture import NOW, Place, come, scanner
from tests.gate_fixture import open_gate
from tests.synthetic import ct_series
from tests.world import World, let_go_on

STEP, OTHER = "2.25.1001", "2.25.1002"
SLICES = 4


def attributes(status: str | None, series: Sequence[Dataset] = (), *, begun: Dataset | None = None) -> Dataset:
    """Of an N-CREATE for the study of `begun`, or of an N-SET that names `series`; with a patient, as a modality sends it."""
    ds = Dataset()
    ds.PatientName, ds.PatientID = "CANARY^NAME", "CANARY-ID"
    if status is not None:
        ds.PerformedProcedureStepStatus = status
    if begun is not None:
        ds.ScheduledStepAttributesSequence = [Dataset()]
        ds.ScheduledStepAttributesSequence[0].StudyInstanceUID = begun.StudyInstanceUID
    if series:
        performed = Dataset()
        performed.SeriesInstanceUID = series[0].SeriesInstanceUID
        performed.ReferencedImageSequence = [Dataset() for _ in series]
        for item, ds_ in zip(performed.ReferencedImageSequence, series, strict=True):
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds_.SOPClassUID, ds_.SOPInstanceUID
        ds.PerformedSeriesSequence = [performed]
    return ds


def modality(port: int) -> Association:
    ae = AE("CT1")
    ae.add_requested_context(ModalityPerformedProcedureStep)
    association = ae.associate("127.0.0.1", port, ae_title="AIGATEWAY")
    assert association.is_established
    return association


def create(association: Association, ds: Dataset, uid: str = STEP) -> int:
    answer, _ = association.send_n_create(ds, ModalityPerformedProcedureStep, uid)
    let_go_on(association)
    return answer.get("Status", -1)


def change(association: Association, ds: Dataset, uid: str = STEP) -> int:
    answer, _ = association.send_n_set(ds, ModalityPerformedProcedureStep, uid)
    let_go_on(association)
    return answer.get("Status", -1)


# What follows from it


@pytest.mark.parametrize(
    ("instances", "told", "decision", "why"),
    [
        (120, Performed(120, 120, is_open=False), Decision.COMPLETE, "120 of 120 instances that the modality made"),
        (118, Performed(120, 118, is_open=False), Decision.WAIT, "118 of 120 instances that the modality made"),
        (121, Performed(120, 120, is_open=False), Decision.WAIT, "of 10 s, 121 instances"),
        (120, Performed(0, 0, is_open=True), Decision.WAIT, "of 600 s, 120 instances"),
    ],
)
def test_what_the_modality_made_decides_and_nothing_runs_on_quiet_time_while_it_is_at_work(
    instances: int, told: Performed, decision: Decision, why: str
) -> None:
    evidence = Evidence(instances, 1, 0, NOW, NOW, performed=told)

    found = verdict(evidence, now=NOW + timedelta(seconds=2), policy=Policy(10, 600))

    assert found.decision is decision
    assert why in found.reason


def test_a_step_that_is_never_ended_holds_no_series_longer_than_its_deadline() -> None:
    evidence = Evidence(3, 1, 0, NOW, NOW, performed=Performed(0, 0, is_open=True))

    assert not verdict(evidence, now=NOW + timedelta(seconds=599), policy=Policy(10, 600)).complete
    assert verdict(evidence, now=NOW + timedelta(seconds=600), policy=Policy(10, 600)).complete


# At the door


def test_the_door_answers_each_message_with_the_status_that_the_standard_has_for_it(tmp_path: Path) -> None:
    series = ct_series(SLICES)
    with open_gate(tmp_path) as gate:
        association = modality(gate.port)
        statuses = [
            change(association, attributes("COMPLETED", series)),
            create(association, attributes("COMPLETED", begun=series[0])),
            create(association, attributes(None, begun=series[0])),
            create(association, attributes("IN PROGRESS")),
            create(association, attributes("IN PROGRESS", begun=series[0])),
            create(association, attributes("IN PROGRESS", begun=series[0])),
            change(association, attributes("DONE")),
            change(association, attributes(None, series[:1])),
            change(association, attributes("DISCONTINUED", series)),
        ]
        ended, _ = association.send_n_set(attributes("IN PROGRESS"), ModalityPerformedProcedureStep, STEP)
        association.release()

    assert statuses == [0x0112, 0x0106, 0x0120, 0x0120, 0x0000, 0x0111, 0x0106, 0x0000, 0x0000]
    assert (ended.Status, ended.ErrorID) == (0x0110, 0xA710)
    assert b"CANARY" not in b"".join(path.read_bytes() for path in gate.journal.rglob("*") if path.is_file())


def test_a_caller_without_the_service_is_not_offered_it(tmp_path: Path) -> None:
    narrow = DoorPolicy("AIGATEWAY", (Caller("ct", services=frozenset({"store", "echo"})),))
    with open_gate(tmp_path, policy=narrow) as gate:
        ae = AE("CT1")
        ae.add_requested_context(ModalityPerformedProcedureStep)
        association = ae.associate("127.0.0.1", gate.port, ae_title="AIGATEWAY")

        assert not association.accepted_contexts

        association.abort()


# In the database


def tell(place: Place, state: str, series: Sequence[Dataset] | None = None, *, uid: str = STEP, study: str = "") -> None:
    """Through the door, and filed."""
    made = None if series is None else tuple((str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)) for ds in series)
    step = Step(state, study, made)
    (place.door.begin_step if study else place.door.change_step)(scanner(), uid, step)
    place.file()


def look(place: Place, series: Sequence[Dataset], *, seconds: float) -> Series:
    """Settle, that long after the series came; the row as it is then."""
    settle(
        series[0].SeriesInstanceUID, NOW + timedelta(seconds=seconds), policy=Policy(10, 3600), pipelines={},
        equipment=equipment(), store=place.store, rules=RuleSet("", ()), db=place.db,
        queues=place.queues,
    )  # fmt: skip
    with place.db() as session:
        return session.get_one(Series, series[0].SeriesInstanceUID)


def test_a_series_waits_while_its_step_is_in_progress_and_is_whole_as_soon_as_all_that_was_made_is_here(place: Place) -> None:
    series = ct_series(SLICES)
    tell(place, "IN PROGRESS", study=str(series[0].StudyInstanceUID))
    come(place, series[:-1])

    waiting = look(place, series, seconds=60)
    tell(place, "COMPLETED", series)
    short = look(place, series, seconds=61)
    come(place, series[-1:])
    whole = look(place, series, seconds=62)

    assert waiting.state == short.state == SeriesState.RECEIVING
    assert f"{SLICES - 1} of {SLICES} instances that the modality made" in short.reason
    assert whole.state == SeriesState.COMPLETE
    assert f"{SLICES} of {SLICES} instances that the modality made" in whole.reason
    assert place.count(AuditEvent, act="step.performed", actor="CT1") == 2


def test_settle_looks_soon_when_a_step_has_ended(place: Place) -> None:
    series = ct_series(SLICES)
    tell(place, "IN PROGRESS", study=str(series[0].StudyInstanceUID))
    come(place, series)
    late = look(place, series, seconds=60).due_at

    place.now += timedelta(seconds=60)
    tell(place, "COMPLETED", series)

    with place.db() as session:
        assert session.get_one(Series, series[0].SeriesInstanceUID).due_at < late


def test_messages_that_are_filed_again_or_the_wrong_way_round_change_nothing_of_what_has_ended(place: Place) -> None:
    series = ct_series(SLICES)
    study = str(series[0].StudyInstanceUID)
    place.door.begin_step(scanner(), STEP, Step("IN PROGRESS", study, None))
    place.door.change_step(scanner(), STEP, Step("COMPLETED", "", ((str(series[0].SeriesInstanceUID), "1.2.3"),)))
    found = place.promised()
    for one in (*reversed(found), *found):
        place.promised = lambda one=one: [one]
        place.file(again=True)

    with place.db() as session:
        step = session.get_one(ProcedureStep, STEP)
        assert (step.state, step.study_instance_uid) == (StepState.COMPLETED, study)
        assert session.get_one(PerformedSeries, (STEP, series[0].SeriesInstanceUID)).instances == ["1.2.3"]


def test_steps_of_long_ago_are_forgotten(place: Place) -> None:
    for uid in (STEP, OTHER):
        tell(place, "IN PROGRESS", uid=uid, study="1.2.3")
    steps = Steps(place.folder / "steps")

    forget(NOW + timedelta(days=29), db=place.db, steps=steps)
    kept = place.count(ProcedureStep)
    forget(NOW + timedelta(days=31), db=place.db, steps=steps)

    assert (kept, place.count(ProcedureStep)) == (2, 0)


# A whole gateway


def test_a_step_survives_a_death_before_its_answer_and_its_series_is_judged_by_it(
    migrated_sqlite: Path, tmp_path: Path, triton: str
) -> None:
    series = ct_series(SLICES)
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    (tmp_path / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    with World(tmp_path, url, triton) as world:
        world.start(crash_at="step.promised")
        association = modality(world.port)
        unanswered = create(association, attributes("IN PROGRESS", begun=series[0]))
        world.wait_until(lambda: world.logged("ingest.died"))
        world.kill()
        world.start()
        association = modality(world.port)
        again = create(association, attributes("IN PROGRESS", begun=series[0]))
        world.send(series)
        ended = change(association, attributes("COMPLETED", series))
        association.release()
        world.stop()
        world.start()
        association = modality(world.port)
        late = change(association, attributes("COMPLETED", series))
        association.release()
        story = world.wait_ended(series)

        assert world.process is not None and world.process.poll() != -signal.SIGKILL
        assert (unanswered, again, ended, late) == (-1, 0x0000, 0x0000, 0x0110)
        assert f"{SLICES} of {SLICES} instances that the modality made" in story.series.reason
        assert "CANARY" not in world.log
