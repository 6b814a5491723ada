"""A finding is told: to people who asked for it, at once, when its results go out, and once of a series."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from sqlalchemy import select

from gateway.acts.retract import retract
from gateway.auditing.audit import Act
from gateway.configuration.config import parse
from gateway.decisions.completeness import Policy
from gateway.decisions.rules import load
from gateway.errors import ConfigError, ModelUnavailable
from gateway.outputs import Equipment, Output
from gateway.outputs.sr import ABSENT, PRESENT, Group, MeasurementReport
from gateway.pipeline import Infer, Needs, Pipeline, Study, load_pipelines
from gateway.rows.tables import Job
from gateway.rows.trail import AuditEvent, Rehearsed
from gateway.run import run
from gateway.serving.plan import plan
from gateway.settle import settle
from gateway.telling.happening import USUAL, Kind, happening
from gateway.work.shadow import leave, release_job
from tests.door_fixture import Place, come
from tests.notices_fixture import Hook, Mailbox, mail_server, web_server
from tests.results_fixture import CT, lung_outputs, lungs
from tests.rows_fixture import NOW
from tests.synthetic import ct_series
from tests.world import RULES, World

EQUIPMENT = Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1")
BLEEDING = load_pipelines([Path(__file__).parent / "pipelines"])["bleeding"]
LIVE = "rules:\n  - {name: all CT, when: {all: [{attribute: Modality, is: CT}]}, pipeline: ich, send_to: [pacs]}\n"
SHADOW = LIVE.replace("}\n", ", shadow: true}\n")
STATED = "Intracranial haemorrhage: Present"
OEDEMA = Code("79654002", "SCT", "Oedema")


class Models:
    """`above`: what counts as blood; `away`: so many attempts in which nobody answers."""

    version, weights = "1", "ab" * 32

    def __init__(self, above: int = -500, away: int = 0) -> None:
        self.above, self.away = above, away

    def identity(self, _model: str) -> "Models":
        if self.away:
            self.away -= 1
            raise ModelUnavailable("nobody answers")
        return self

    def infer(self, _model: str):
        return lambda arrays: {"labels": (arrays["volume"] > self.above).astype(np.uint8)}


def work(
    place: Place,
    series: Sequence[Dataset],
    rules: str = LIVE,
    *,
    name: str = "ich",
    pipeline: Pipeline = BLEEDING,
    models: Models | None = None,
    times: int = 1,
) -> int:
    """What has come of the series is settled, and the job on it is done; its number."""
    come(place, series)
    place.now += timedelta(hours=2)
    settle(
        series[0].SeriesInstanceUID, place.now, policy=Policy(10, 3600), pipelines={name: pipeline}, equipment=EQUIPMENT,
        rules=load(rules.replace("ich", name), pipelines=(name,), peers=("pacs",)), store=place.store, db=place.db, queues=place.queues,
    )  # fmt: skip
    with place.db() as session:
        job = session.scalars(select(Job.id).order_by(Job.id.desc())).first()
    for _ in range(times):
        run(
            job, clock=lambda: place.now, pipelines={name: pipeline}, models=models or Models(), equipment=EQUIPMENT, begun={},
            store=place.store, db=place.db, queues=place.queues,
        )  # fmt: skip
    return job


def told(place: Place) -> list[str]:
    """What people who asked for findings would read."""
    with place.db() as session:
        events = session.scalars(select(AuditEvent).where(AuditEvent.act == Act.FINDING_STATED).order_by(AuditEvent.id))
        found = [happening(one.id, one.at, one.act, one.outcome, one.job, one.detail) for one in events]
    assert {one.kind for one in found if one} <= {Kind.FINDING}
    return [one.text for one in found if one]


def states(*groups: Group) -> Pipeline:
    def yields(_study: Study, _infer: Infer) -> Iterable[Output]:
        yield MeasurementReport(None, groups, CT, "Triage")

    return Pipeline("1", "m", Needs("CT"), yields)


def test_what_a_report_states_to_be_present_is_told_with_its_job_and_nothing_of_the_patient(place: Place) -> None:
    series = ct_series(3, PatientName="CANARY^NAME", PatientID="CANARY-ID")

    job = work(place, series)

    assert told(place) == [f"job {job}, ich: {STATED}"]
    assert Kind.FINDING not in USUAL


def test_what_is_absent_graded_or_only_measured_is_not_told(place: Place) -> None:
    mild = Code("255604002", "SCT", "Mild")
    work(place, ct_series(3), pipeline=states(Group("a", (), OEDEMA, evaluation=ABSENT), Group("b", (), OEDEMA, evaluation=mild)))
    work(place, ct_series(3, seed=1), models=Models(above=5000))
    work(
        place, ct_series(3, seed=2), pipeline=Pipeline("1", "m", Needs("CT"), lambda study, _: lung_outputs(study.source, lungs(study.source)))
    )  # fmt: skip

    assert told(place) == []


def test_each_is_told_with_its_side_and_of_many_only_as_much_as_a_person_reads(place: Place) -> None:
    lung, air = codes.SCT.Lung, Code("36118008", "SCT", "Pneumothorax")
    sides = [Group(side.meaning, (), air, lung, side, evaluation=PRESENT) for side in (codes.SCT.Right, codes.SCT.Left)]
    many = [Group(f"{n}", (), Code(f"{n}", "99X", f"Finding {n}"), evaluation=PRESENT) for n in range(40)]

    first = work(place, ct_series(3), pipeline=states(*sides))
    work(place, ct_series(3, seed=1), pipeline=states(*many))

    assert told(place)[0] == f"job {first}, ich: Pneumothorax (Lung, Right): Present; Pneumothorax (Lung, Left): Present"
    assert told(place)[1].endswith("Finding 3: Present; Finding 4: Present; 15 more")


def test_a_job_that_is_tried_again_tells_once(place: Place) -> None:
    work(place, ct_series(3), models=Models(away=2), times=4)

    assert len(told(place)) == 1


def test_a_series_that_has_grown_tells_only_what_is_new(place: Place) -> None:
    """The same finding is no news, whichever of its revisions states it."""
    series = ct_series(8)
    work(place, series[:4])
    work(place, series[4:6])
    last = work(place, series[6:], pipeline=states(Group("a", (), Code("1386000", "SCT", "Intracranial haemorrhage"), evaluation=PRESENT),
                                                   Group("b", (), OEDEMA, evaluation=PRESENT)))  # fmt: skip
    work(place, ct_series(4, seed=1))

    assert [one.partition(", ")[2] for one in told(place)] == [f"ich: {STATED}", "ich: Oedema: Present", f"ich: {STATED}"]
    assert told(place)[1].startswith(f"job {last}, ")


def test_what_two_pipelines_state_of_a_series_is_told_of_both(place: Place) -> None:
    series = ct_series(4)
    work(place, series[:3])
    work(place, series[3:], name="second")

    assert [one.partition(", ")[2] for one in told(place)] == [f"ich: {STATED}", f"second: {STATED}"]


def test_what_is_in_the_shadow_is_told_when_a_person_lets_it_go(place: Place) -> None:
    job = work(place, ct_series(3), SHADOW)
    assert told(place) == []

    release_job(place.db, place.queues, job, actor="anna", now=place.now)

    assert told(place) == [f"job {job}, ich: {STATED}"]


def test_what_is_released_before_it_ends_is_told_when_it_ends(place: Place) -> None:
    job = work(place, ct_series(3), SHADOW, times=0)

    release_job(place.db, place.queues, job, actor="anna", now=place.now)
    assert told(place) == []
    run(
        job, clock=lambda: place.now, pipelines={"ich": BLEEDING}, models=Models(), equipment=EQUIPMENT, begun={},
        store=place.store, db=place.db, queues=place.queues,
    )  # fmt: skip

    assert len(told(place)) == 1


def test_what_was_taken_back_in_the_shadow_is_not_told_when_its_rule_leaves_that(place: Place) -> None:
    series = ct_series(3)
    job = work(place, series, SHADOW)
    retract(
        place.db, place.queues, job=job, reason="quality", actor="anna", now=place.now, equipment=EQUIPMENT, store=place.store
    )
    with place.db.begin() as session:
        assert leave(session, job, place.now, queues=place.queues)

    assert told(place) == []


def test_a_synthetic_study_tells_nobody(place: Place) -> None:
    series = ct_series(3)
    with place.db.begin() as session:
        session.add(Rehearsed(series_instance_uid=series[0].SeriesInstanceUID, study_instance_uid="1.2", begun_at=NOW, reason=""))

    work(place, series)

    assert told(place) == []


@pytest.mark.parametrize("crash_at", ["", "run.stored", "run.committed"])
def test_people_hear_of_each_by_mail_and_webhook_within_seconds_and_once_whatever_dies(
    tmp_path: Path, triton: str, crash_at: str
) -> None:
    hook, box = Hook(), Mailbox()
    with web_server(hook) as url, mail_server(box) as port:
        mail = {
            "protocol": "email", "host": "127.0.0.1", "port": port, "security": "none", "from_address": "a@b.org", "to": ["c@d.org"],
        }  # fmt: skip
        notices = (
            {"name": "chat", "protocol": "webhook", "url": url, "on": ["finding"], "pipelines": ["bleeding"]},
            {"name": "triage", "on": ["finding"], **mail},
            {"name": "others", "on": ["finding"], "pipelines": ["bright"], **mail},
        )
        rules = RULES.replace("pipeline: bright", "pipeline: bleeding")
        with World(tmp_path / "w", f"sqlite:///{tmp_path / 'gateway.db'}", triton, rules=rules, notices=notices) as world:
            world.start(crash_at=crash_at)
            for number in (1, 2):
                world.send(ct_series(3, seed=number, PatientName="CANARY^NAME", PatientID="CANARY-ID"))
                if crash_at and number == 1:
                    world.wait_for_death()
                    world.start()
                world.wait_settled(number)
                world.wait_until(lambda number=number: len(box.mails) == len(hook.documents) == number)
                late = datetime.now(UTC) - max(job.ended_at for job in world.jobs())
                assert late < timedelta(seconds=20), "the second one waits for no five minutes"
            assert world.stop() == 0

    findings = [event["text"] for document in hook.documents for event in document["events"]]
    assert findings == [f"job {number}, bleeding: {STATED}" for number in (1, 2)]
    assert [mail["Subject"] for mail in box.mails] == [f"gateway: finding: {one}" for one in findings]
    assert "CANARY" not in json.dumps(hook.documents) + "".join(mail.as_string() for mail in box.mails)


def test_a_pipeline_that_a_notice_names_is_there(tmp_path: Path) -> None:
    notice = {"name": "ops", "protocol": "webhook", "url": "https://e.org", "on": ["finding"], "pipelines": ["ihc"]}

    with pytest.raises(ConfigError) as raised:
        plan(parse({"gateway": {"data_dir": str(tmp_path)}, "notices": [notice]}, where="x"))

    assert [one for one in raised.value.problems if one.startswith("notice ops: pipelines: expected some of: ")]
