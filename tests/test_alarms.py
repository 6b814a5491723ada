"""Somebody is told of what should have happened and has not, once, and once more when it is over."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from gateway.auditing.audit import Act
from gateway.configuration.config import parse
from gateway.configuration.oversight import AlarmsSection, SilenceSection
from gateway.db import Database, open_database
from gateway.decisions.silence import Expectation
from gateway.errors import ConfigError
from gateway.rows.tables import Association, Job
from gateway.rows.trail import AuditEvent, OpenAlarm
from gateway.telling.lookout import look_out
from tests.rows_fixture import NOW, a_job, a_series

BERLIN = ZoneInfo("Europe/Berlin")
WEEKDAYS = frozenset(range(5))
PLENTY = 10**12


def at(text: str) -> datetime:
    """In Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def expected(begins: str = "07:00", ends: str = "18:00", *, minutes: int = 60, days: frozenset[int] = WEEKDAYS) -> Expectation:
    return Expectation("CT1", days, time.fromisoformat(begins), time.fromisoformat(ends), timedelta(minutes=minutes), BERLIN)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    db = open_database(database_url)
    a_series(db)
    yield db
    db.kw["bind"].dispose()


def look(db: Database, now: datetime, *silences: SilenceSection, **settings: object) -> None:
    look_out(
        now, settings=AlarmsSection(**settings), silences=silences, time_zone="UTC", free_bytes=PLENTY, keep_free_bytes=0, db=db
    )


def test_an_alarm_that_is_raised_stands_in_the_log_once(db: Database) -> None:
    a_job(db, created_at=NOW - timedelta(hours=2))

    with capture_logs() as logs:
        look(db, NOW, no_result_minutes=60)
        look(db, NOW + timedelta(minutes=1), no_result_minutes=60)

    (line,) = (one for one in logs if one["event"] == "alarm.raised")
    assert (line["log_level"], line["reason"]) == ("warning", "no result for 60 minutes, and 1 jobs wait as long")


def told(db: Database) -> list[tuple[str, str, str]]:
    with db() as session:
        events = session.scalars(
            select(AuditEvent).where(AuditEvent.act.in_((Act.ALARM_RAISED, Act.ALARM_ENDED))).order_by(AuditEvent.id)
        )
        return [(one.act.removeprefix("alarm."), one.detail["kind"], one.detail["subject"]) for one in events]


def hear(db: Database, ended_at: datetime | None) -> None:
    with db.begin() as session:
        session.execute(update(Association).values(ended_at=ended_at))


@pytest.mark.parametrize(
    ("now", "last", "since"),
    [
        ("2026-03-03 08:30", "2026-03-03 07:20", "2026-03-03 07:20"),  # a Tuesday
        ("2026-03-03 08:19", "2026-03-03 07:20", None),
        ("2026-03-03 07:59", "2026-03-02 17:00", None),  # the night does not count
        ("2026-03-03 08:00", "2026-03-02 17:00", "2026-03-02 17:00"),
        ("2026-03-03 08:00", None, "2026-03-03 07:00"),
        ("2026-03-03 18:00", None, None),
        ("2026-03-07 12:00", None, None),  # a Saturday
    ],
)
def test_a_silence_is_one_within_the_hours_only(now: str, last: str | None, since: str | None) -> None:
    found = expected().silent_since(at(now), at(last) if last else None)

    assert found == (at(since) if since else None)


@pytest.mark.parametrize(
    ("now", "is_silent"),
    [("2026-03-06 23:30", True), ("2026-03-07 05:59", True), ("2026-03-07 06:00", False), ("2026-03-08 01:00", False)],
)
def test_hours_over_midnight_belong_to_the_day_on_which_they_begin(now: str, is_silent: bool) -> None:
    friday = expected("22:00", "06:00", days=frozenset({4}))

    assert (friday.silent_since(at(now), None) is not None) == is_silent


def test_the_whole_day_and_a_day_of_25_hours() -> None:
    always = expected("00:00", "00:00", days=frozenset(range(7)), minutes=24 * 60 + 30)

    assert always.silent_since(datetime(2026, 10, 25, 22, 45, tzinfo=UTC), None) is not None  # 25 October has 25 hours
    assert always.silent_since(datetime(2026, 10, 25, 22, 15, tzinfo=UTC), None) is None
    assert always.silent_since(datetime(2026, 10, 24, 21, 59, tzinfo=UTC), None) is None


def test_a_silence_is_told_once_and_again_when_it_is_over(db: Database) -> None:
    ct1 = SilenceSection(calling_ae_title="CT1", days=("fri",), hours="07:00-18:00", after_minutes=60)  # NOW is a Friday
    hear(db, NOW)
    look(db, NOW + timedelta(minutes=59), ct1)
    assert told(db) == []

    for minutes in (61, 62, 600):  # at the end the hours are over, and it is still silent
        look(db, NOW + timedelta(minutes=minutes), ct1)
    assert told(db) == [("raised", "silence", "CT1")]
    with db() as session:
        reason = session.scalars(select(OpenAlarm)).one().reason
    assert reason == "CT1 has sent nothing since 2026-01-02 10:11; it is expected to on Friday from 07:00 to 18:00"

    hear(db, None)
    look(db, NOW + timedelta(minutes=601), ct1)

    assert told(db) == [("raised", "silence", "CT1"), ("ended", "silence", "CT1")]


def test_an_alarm_whose_expectation_was_taken_out_is_over(db: Database) -> None:
    never = SilenceSection(calling_ae_title="MR9", days=("fri",), after_minutes=1)
    look(db, NOW, never)
    look(db, NOW)

    assert told(db) == [("raised", "silence", "MR9"), ("ended", "silence", "MR9")]


def test_no_result_while_jobs_wait_is_told(db: Database) -> None:
    job = a_job(db)
    look(db, NOW + timedelta(minutes=29))
    assert told(db) == []
    look(db, NOW + timedelta(minutes=30))
    look(db, NOW + timedelta(minutes=30), no_result_minutes=0)
    look(db, NOW + timedelta(minutes=31))
    assert [act for act, *_ in told(db)] == ["raised", "ended", "raised"]

    a_job(db, input_key="8" * 64, state="done", ended_at=NOW + timedelta(minutes=20))
    look(db, NOW + timedelta(minutes=31))
    with db.begin() as session:
        session.get_one(Job, job).state = "done"

    assert told(db)[3:] == [("ended", "no result", "")]


def test_a_model_that_is_away_is_told_by_its_name(db: Database) -> None:
    job = a_job(db, code="MODEL", attempts=1)
    look(db, NOW + timedelta(seconds=30))
    look(db, NOW + timedelta(minutes=2))
    with db.begin() as session:
        session.get_one(Job, job).code = ""
    look(db, NOW + timedelta(minutes=3))

    assert told(db) == [("raised", "model away", "bright"), ("ended", "model away", "bright")]


def test_a_disk_with_little_room_is_told_before_it_is_full(db: Database) -> None:
    for free_bytes in (999, 1000):
        look_out(
            NOW,
            settings=AlarmsSection(free_bytes=1000),
            silences=(),
            time_zone="UTC",
            free_bytes=free_bytes,
            keep_free_bytes=500,
            db=db,
        )

    assert told(db) == [("raised", "disk low", ""), ("ended", "disk low", "")]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"silence": [{"calling_ae_title": "CT1", "hours": "7-18"}]}, "hours such as 07:00-18:00"),
        ({"silence": [{"calling_ae_title": "CT1", "days": []}]}, "at least one"),
        ({"silence": [{"calling_ae_title": "CT1", "after_minute": 5}]}, "did you mean 'after_minutes'?"),
    ],
)
def test_what_is_wrong_with_an_expectation_is_told_in_words(table: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("?", r"\?")):
        parse(table, where="x")
