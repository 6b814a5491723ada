"""Somebody is told of what should have happened and has not, once, and once more when it is over."""

from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from gateway.auditing.audit import Act
from gateway.configuration.config import parse
from gateway.configuration.oversight import AlarmsSection, SilenceSection
from gateway.db import Database
from gateway.decisions.silence import Expectation
from gateway.errors import ConfigError
from gateway.rows.tables import Association, Job
from gateway.rows.trail import AuditEvent, OpenAlarm
from gateway.telling.certificates import Certificates
from gateway.telling.lookout import look_out
from gateway.telling.tellers import Tellers
from tests.certificates import Authority
from tests.rows_fixture import NOW, a_job, a_series
from tests.test_console_serving import until

BERLIN = ZoneInfo("Europe/Berlin")
WEEKDAYS = frozenset(range(5))
PLENTY = 10**12


def at(text: str) -> datetime:
    """In Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def expected(begins: str = "07:00", ends: str = "18:00", *, minutes: int = 60, days: frozenset[int] = WEEKDAYS) -> Expectation:
    return Expectation("CT1", days, time.fromisoformat(begins), time.fromisoformat(ends), timedelta(minutes=minutes), BERLIN)


@pytest.fixture
def db(db: Database) -> Database:
    a_series(db)
    return db


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


def test_a_disk_with_little_room_is_told_once_and_is_over_when_there_is_clearly_more(db: Database) -> None:
    def look_with(free_bytes: int) -> None:
        settings = AlarmsSection(free_bytes=1000)
        look_out(NOW, settings=settings, silences=(), time_zone="UTC", free_bytes=free_bytes, keep_free_bytes=500, db=db)

    for free_bytes in (1001, 999, 1001, 999, 1099):  # as retention keeps it
        look_with(free_bytes)
    assert told(db) == [("raised", "disk low", "")]
    look_with(1100)

    assert told(db)[1:] == [("ended", "disk low", "")]


class Machine:
    """One that serves with a certificate of its own, which is good for 20 days; its file lies where that of each other does."""

    def __init__(self, db: Database, folder: Path, *, host: str) -> None:
        self.authority, self.file, self.key, self.now = (
            Authority(folder / host),
            folder / "gateway.pem",
            folder / "gateway.key",
            NOW,
        )
        self.replace()
        config = parse({"web": {"certificate": str(self.file), "key": str(self.key)}}, where="x")
        self.certificates = Certificates(db, config, peers=list, clock=lambda: self.now, host=host)

    def replace(self) -> None:
        issued = self.authority.issue("gateway")
        self.content, self.secret = issued.certificate.read_bytes(), issued.key.read_bytes()

    def look(self, *, days: float) -> None:
        """So long after its certificate was made."""
        self.now = datetime.now(UTC) + timedelta(days=days)
        self.file.write_bytes(self.content)
        self.key.write_bytes(self.secret)
        self.certificates.look()


def test_a_certificate_of_ours_is_told_before_its_time_is_over_then_when_it_is_and_when_another_is_there(
    db: Database, tmp_path: Path
) -> None:
    gw1 = Machine(db, tmp_path, host="gw1")
    soon, over = f"{gw1.file} on gw1", f"{gw1.file}: over on gw1"

    gw1.look(days=1)
    assert told(db) == []
    for days in (17, 18):
        gw1.look(days=days)
    assert told(db) == [("raised", "certificate", soon)]
    with db() as session:
        reason = session.scalars(select(OpenAlarm.reason)).one()
    assert reason.startswith(f"[web] certificate {gw1.file} on gw1 is good until ")
    assert reason.endswith(" UTC: put a new one there; no start is needed")
    for days in (21, 22):
        gw1.look(days=days)
    assert told(db)[1:] == [("raised", "certificate", over)]
    gw1.replace()
    gw1.look(days=1)

    assert told(db)[2:] == [("ended", "certificate", soon), ("ended", "certificate", over)]


def test_a_machine_with_a_new_certificate_says_nothing_of_that_of_another(db: Database, tmp_path: Path) -> None:
    gw1, gw2 = (Machine(db, tmp_path, host=name) for name in ("gw1", "gw2"))

    for hours in range(3):
        gw1.look(days=17 + hours / 24)
        gw2.look(days=1)
    assert told(db) == [("raised", "certificate", f"{gw1.file} on gw1")]
    gw2.look(days=17.5)
    gw1.replace()
    gw1.look(days=1)

    assert told(db)[1:] == [("raised", "certificate", f"{gw2.file} on gw2"), ("ended", "certificate", f"{gw1.file} on gw1")]


def test_the_certificate_of_a_machine_that_does_not_serve_any_more_is_no_alarm_for_ever(db: Database, tmp_path: Path) -> None:
    gone, here = (Machine(db, tmp_path, host=name) for name in ("gone", "here"))
    gone.look(days=17)

    here.look(days=17.9)
    assert [subject for act, _, subject in told(db) if act == "ended"] == []
    here.look(days=18.1)

    assert [subject for act, _, subject in told(db) if act == "ended"] == [f"{gone.file} on gone"]


@pytest.mark.parametrize("wrong", ["content", "secret"])
def test_a_new_certificate_that_cannot_be_used_ends_no_alarm_for_the_one_before_serves_on(
    db: Database, tmp_path: Path, wrong: str
) -> None:
    gw1 = Machine(db, tmp_path, host="gw1")
    gw1.look(days=17)
    before = gw1.secret

    gw1.replace()
    setattr(gw1, wrong, b"" if wrong == "content" else before)
    gw1.look(days=1)  # somebody may just be about to replace the other file
    assert [act for act, *_ in told(db)] == ["raised"]
    gw1.look(days=1)
    gw1.look(days=3)
    assert told(db)[1:] == [("raised", "certificate", f"{gw1.file}: unusable on gw1")]
    gw1.replace()
    gw1.look(days=3.1)

    assert [(act, subject) for act, _, subject in told(db)[2:]] == [
        ("ended", f"{gw1.file} on gw1"), ("ended", f"{gw1.file}: unusable on gw1"),
    ]  # fmt: skip


def test_a_certificate_that_is_not_made_for_long_is_not_always_about_to_end(db: Database, tmp_path: Path) -> None:
    gw1 = Machine(db, tmp_path, host="gw1")  # for 21 days

    for days in (10, 15):
        gw1.look(days=days)

    assert told(db) == []


def test_a_gateway_that_serves_looks_after_its_certificates_and_those_that_peers_tables_name(
    db: Database, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    ours, towards = authority.issue("ours", expired=True), authority.issue("towards", expired=True)
    tls = {"certificate": str(ours.certificate), "key": str(ours.key), "authorities": str(authority.certificate)}
    tls["crl"] = str(authority.crl(expired=True))
    peers = [{"name": "pacs", "certificate": str(towards.certificate), "certificate_key": str(towards.key)}]
    tellers = Tellers(db, parse({"tls": tls}, where="x"), addressees=(), peers=lambda: peers, clock=lambda: datetime.now(UTC))

    tellers.start()
    until(lambda: len(told(db)) == 3)
    tellers.stop()
    with db() as session:
        reasons = session.scalars(select(OpenAlarm.reason)).all()

    assert {reason.partition(" on ")[0] for reason in reasons} == {
        f"[tls] certificate {ours.certificate}", f"[tls] crl {tls['crl']}", f"peer pacs: certificate {towards.certificate}",
    }  # fmt: skip


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
