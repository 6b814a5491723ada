"""What people look for is found by every way in, a page at a time, on SQLite and on PostgreSQL; the overview counts it."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update

from gateway import migrations
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import open_database, open_engine
from gateway.errors import ConfigError
from gateway.rows.columns import fold
from gateway.rows.tables import Association, Delivery, Instance, Job, OutputInstance, RuleOutcome, Series, Study
from gateway.rows.trail import AuditSink
from gateway.telling.alarms import Alarm, compare
from gateway.telling.happening import Kind
from gateway.views import lists, wanted
from gateway.views.overview import Overview, overview, took
from gateway.views.wanted import Wanted, is_cut

NOW = datetime(2026, 1, 2, 10, 30, tzinfo=UTC)
PATIENTS = ("Müller^Jörg", "MULLER^ANNA", "SMITH^JOHN=山田^太郎", "O'HARA^<b>")


def uid(kind: int, number: int) -> str:
    return f"2.25.{kind}{number}"


@pytest.fixture
def db(db):
    with db.begin() as session:
        session.add(Association(id="a", ingest="dimse", calling_ae_title="CT1", called_ae_title="AIGATEWAY", address="127.0.0.1", executor="x", began_at=NOW))  # fmt: skip
        for number, name in enumerate(PATIENTS):
            at = NOW - timedelta(hours=number)
            session.add(Study(study_instance_uid=uid(1, number), patient_name=name, patient_id=f"Pat-{number}", patient_birth_date="", accession_number=f"ACC{number}", first_received_at=at))  # fmt: skip
            session.flush()
            session.add(Series(series_instance_uid=uid(2, number), study_instance_uid=uid(1, number), modality="CT" if number else "MR", state="complete" if number else "receiving", reason="", first_received_at=at, last_received_at=at, due_at=at))  # fmt: skip
            session.flush()
            session.add(Instance(sop_instance_uid=uid(3, number), series_instance_uid=uid(2, number), association="a", sop_class_uid="1.2", transfer_syntax_uid="1.2", sha256="5" * 64, size=1, received_at=at))  # fmt: skip
            session.add(RuleOutcome(series_instance_uid=uid(2, number), revision=1, rule="chest", matched=number in {1, 2}, explanation={"conditions": []}, rules_digest="6" * 64, at=at))  # fmt: skip
        for number, state in ((1, "done"), (2, "failed")):
            session.add(Job(id=number, input_key=f"{number:064}", series_instance_uid=uid(2, number), revision=1, rules=["chest"], pipeline="lungs", model="m", send_to=["pacs"], priority="routine", state=state, created_at=NOW, due_at=NOW, ended_at=NOW))  # fmt: skip
        session.flush()
        session.add(OutputInstance(sop_instance_uid=uid(4, 1), job=1, study_instance_uid=uid(1, 1), series_instance_uid=uid(5, 1), sop_class_uid="1.2", modality="SEG", sha256="8" * 64, size=1, created_at=NOW))  # fmt: skip
        session.flush()
        for peer, state in (("pacs", "proved"), ("archive", "queued"), ("research", "held")):
            session.add(Delivery(sop_instance_uid=uid(4, 1), job=1, study_instance_uid=uid(1, 1), peer=peer, state=state, attempts=2, reason="no connection", created_at=NOW - timedelta(hours=1), due_at=NOW, proved_at=NOW if state == "proved" else None))  # fmt: skip
    return db


def found(db, ask, **narrowed: object) -> list[int]:
    """The numbers of the studies whose rows are listed."""
    return [int(row.study.patient_id[-1]) for row in ask(db, Wanted(**narrowed)).rows]


LOOKED_FOR = {
    "müller": [0, 1], "MULLER jo": [0], "muller, anna": [1], "o'hara": [3], "pat-2": [2], "PAT": [0, 1, 2, 3], "acc1": [1],
    "hara": [], "%": [], uid(1, 2): [2], uid(2, 3): [3], uid(3, 0): [0], uid(4, 1): [1], "2.25.9": [],
}  # fmt: skip
NARROWED = (
    ({}, [0, 1, 2, 3]), ({"state": "receiving"}, [0]), ({"state": "no rule matched"}, [3]),
    ({"state": "something failed"}, [1, 2]), ({"modality": "MR"}, [0]), ({"rule": "chest"}, [1, 2]), ({"peer": "archive"}, [1]),
    ({"since": NOW - timedelta(hours=1)}, [0, 1]), ({"until": NOW - timedelta(hours=1)}, [2, 3]),
)  # fmt: skip


def test_a_study_is_found_by_the_beginning_of_what_people_know_of_it_and_by_any_uid(db) -> None:
    for looked_for, numbers in LOOKED_FOR.items():
        assert found(db, lists.studies, text=looked_for) == numbers
        assert found(db, lists.series, text=looked_for) == numbers
        assert found(db, lists.jobs, text=looked_for) == [number for number in numbers[::-1] if number in {1, 2}]
        assert found(db, lists.deliveries, text=looked_for) == [1, 1, 1] * (1 in numbers)
        assert not is_cut(db, looked_for)


@pytest.mark.parametrize("most", [wanted.MOST_FOUND, 1], ids=["few", "many"])
def test_series_are_narrowed_by_what_became_of_them(db, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(wanted, "MOST_FOUND", most)  # a rule or a peer of more series than that is looked for another way
    for narrowed, numbers in NARROWED:
        assert found(db, lists.series, **narrowed) == numbers


def test_jobs_and_deliveries_are_narrowed_by_state_pipeline_and_peer(db) -> None:
    assert found(db, lists.jobs, state="failed") == [2]
    assert found(db, lists.jobs, pipeline="lungs") == [2, 1]
    assert found(db, lists.jobs, pipeline="other") == []
    assert [row.delivery.peer for row in lists.deliveries(db, Wanted(state="held")).rows] == ["research"]
    assert [row.delivery.state for row in lists.deliveries(db, Wanted(peer="pacs")).rows] == ["proved"]


@pytest.mark.parametrize("ask", [lists.studies, lists.series, lists.jobs, lists.deliveries])
def test_pages_follow_each_other_without_a_gap_or_a_repetition(db, ask) -> None:
    whole = [vars(row) for row in ask(db, Wanted()).rows]

    pages, after = [], ""
    for _ in range(len(whole)):
        page = ask(db, Wanted(), after=after, limit=1)
        pages += page.rows
        after = page.following
    assert after == ""
    assert len(pages) == len(whole) > 1
    assert [first_uid(row) for row in pages] == [first_uid(row) for row in ask(db, Wanted()).rows]


def first_uid(row) -> object:
    return (
        (getattr(row, "delivery", None) and row.delivery.id) or (getattr(row, "job", None) and row.job.id) or row.study.patient_id
    )


@pytest.mark.parametrize("cursor", ["x", "1~2~3", "2026-01-01T00:00:00~2.25.1", "-"])
def test_a_cursor_that_is_none_is_refused(db, cursor: str) -> None:
    with pytest.raises(ConfigError, match="expected the cursor of a page"):
        lists.studies(db, Wanted(), after=cursor)


def test_a_series_is_listed_with_what_became_of_it(db) -> None:
    row = lists.series(db, Wanted(text=uid(2, 1))).rows[0]

    assert (row.instances, [job.state for job in row.jobs]) == (1, ["done"])
    assert row.deliveries == {1: {"proved": 1, "queued": 1, "held": 1}}


def test_the_overview_counts_what_goes_through_what_waits_and_what_needs_a_person(db) -> None:
    told = overview(db, NOW)

    assert (told.receiving, told.jobs, told.deliveries) == (1, {"queued": 0, "running": 0}, {"queued": 1, "sending": 0})
    assert (told.failed_jobs, told.failed_deliveries, told.held_deliveries, told.held_series, told.unmatched) == (1, 0, 1, 0, 1)
    assert away(told) == [("archive", 1, "no connection")]
    assert (told.oldest_job, told.oldest_delivery) == (None, NOW - timedelta(hours=1))
    assert [(hour.series, hour.jobs, hour.deliveries) for hour in told.hours[-4:]] == [(1, 0, 0), (1, 0, 0), (1, 0, 0), (1, 2, 1)]
    assert (told.door, told.collector) == ("", "")


def away(told: Overview) -> list[tuple[str, int, str]]:
    return [(one.peer, one.waiting, one.reason) for one in told.away]


def test_a_peer_is_away_while_it_is_tried_again_and_what_waits_behind_is_counted(db) -> None:
    with db.begin() as session:
        session.add(OutputInstance(sop_instance_uid=uid(4, 2), job=1, study_instance_uid=uid(1, 1), series_instance_uid=uid(5, 2), sop_class_uid="1.2", modality="SR", sha256="9" * 64, size=1, created_at=NOW))  # fmt: skip
        session.flush()
        session.add(Delivery(sop_instance_uid=uid(4, 2), job=1, study_instance_uid=uid(1, 1), peer="archive", ticket="", created_at=NOW, due_at=NOW))  # fmt: skip
        session.execute(update(Delivery).where(Delivery.peer == "archive", Delivery.attempts > 0).values(state="sending"))

    assert away(overview(db, NOW)) == [("archive", 2, "no connection")]


def test_a_peer_that_nothing_goes_to_is_away_with_what_waits_for_it(db) -> None:
    with db.begin() as session:
        session.execute(update(Delivery).where(Delivery.peer == "archive").values(attempts=0, reason=""))
    assert away(overview(db, NOW)) == []

    assert away(overview(db, NOW, obstacle=lambda peer: f"{peer} is disabled")) == [("archive", 1, "archive is disabled")]


def test_only_a_peer_that_was_sent_something_has_taken_results(db) -> None:
    with db.begin() as session:
        session.execute(update(Delivery).where(Delivery.peer == "pacs").values(sent_at=NOW))

    assert took(db, ["pacs", "archive", "other"]) == {"pacs"}


@pytest.mark.parametrize("why", ["refused", "failed", "gone"])
def test_a_series_that_the_rules_could_not_decide_on_needs_a_person(db, why: str) -> None:
    with db.begin() as session:
        session.execute(update(Series).where(Series.series_instance_uid == uid(2, 3)).values(held=why))

    told = overview(db, NOW)

    assert told.undecided == 1
    assert found(db, lists.series, state="not decided") == [3]


def test_the_overview_tells_of_alarms_that_are_on(db) -> None:
    with db.begin() as session:
        compare(session, [Alarm(Kind.MODEL_AWAY, "nosuch", NOW, "model nosuch does not answer")], NOW, kinds=[Kind.MODEL_AWAY])

    assert [(one.kind, one.reason) for one in overview(db, NOW).alarms] == [("model away", "model nosuch does not answer")]


def test_the_overview_tells_of_a_closed_door_and_of_a_collector_that_is_down(db) -> None:
    with db.begin() as session:
        audit.record(session, Act.GATEWAY_STARTED, at=NOW)
        audit.record(session, Act.DOOR_CLOSED, at=NOW, reason="the disk is nearly full")
        session.add(AuditSink(name="syslog", position=0, at=NOW, reason="no connection"))
    told = overview(db, NOW)
    assert (told.door, told.collector) == ("the disk is nearly full", "no connection")

    with db.begin() as session:
        audit.record(session, Act.DOOR_OPENED, at=NOW)
    assert overview(db, NOW).door == ""


def test_the_overview_tells_whom_no_notice_reaches(db) -> None:
    with db.begin() as session:
        for name, reason in (("notice.ops", "the mail server answered 450"), ("notice.chat", ""), ("syslog", "no connection")):
            session.add(AuditSink(name=name, position=0, at=NOW, reason=reason))

    assert overview(db, NOW).notices == {"ops": "the mail server answered 450"}


def test_studies_that_were_there_before_are_found_after_the_upgrade(database_url: str) -> None:
    engine = open_engine(database_url)
    migrations.downgrade(engine, "0005")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gw_study (study_instance_uid, patient_name, patient_id, patient_birth_date, accession_number, first_received_at) VALUES ('2.25.8', 'Ärmel^Ä', 'p', '', '', '2026-01-01 00:00:00.000000')"))  # fmt: skip

    migrations.upgrade(engine)

    engine.dispose()
    db = open_database(database_url)
    assert [row.study.study_instance_uid for row in lists.studies(db, Wanted(text="armel a")).rows] == ["2.25.8"]
    db.kw["bind"].dispose()


def test_what_is_looked_for_is_folded_like_what_is_stored() -> None:
    assert fold("Müller^Jörg^^Dr.=山田^太郎") == "muller jorg dr. 山田 太郎"
    assert fold("  DOE,  john ") == "doe john"
    assert fold("STRASSE") == fold("Straße")
