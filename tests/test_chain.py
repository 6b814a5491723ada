"""The audit trail proves itself: whole after every end of a process, and no edit, deletion or truncation goes unseen (F13, F62)."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError

from gateway import migrations
from gateway.auditing import audit, seal
from gateway.auditing.audit import Act
from gateway.auditing.chain import Finding, canonical, entry_hash
from gateway.configuration.config import parse
from gateway.db import Database
from gateway.errors import ConfigError
from gateway.rows.trail import AuditEvent, AuditSink, OpenAlarm
from gateway.rows.workitems import WorkitemDocument
from gateway.serving.notary import Notary
from gateway.store import Store
from gateway.work.restored import accept, refuse_older, without_rows
from tests.command_fixture import Command
from tests.rows_fixture import NOW, SERIES

EVENTS = 6


def tell(db: Database, count: int = 1, **detail: object) -> None:
    """So many events, each in a transaction of its own."""
    for number in range(count):
        with db.begin() as session:
            audit.record(session, Act.SERIES_COMPLETE, at=NOW, series=SERIES, instances=number, **detail)


def events(db: Database) -> list[AuditEvent]:
    with db() as session:
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.id)))


def verified(db: Database, heads: seal.Heads = seal.Heads()) -> Finding:
    return seal.verify(db, heads, watch=lambda entries, _: entries)


def assert_whole(db: Database, count: int) -> None:
    assert verified(db) == Finding(count, 0, 0, 0)
    assert [event.id for event in events(db)] == list(range(1, count + 1))


# What is written


def test_every_event_carries_the_hash_of_the_one_before(db) -> None:
    tell(db, 2)
    with db.begin() as session:
        for number in range(3):
            audit.record(session, Act.JOB_DONE, at=NOW, job=number)

    told = events(db)
    assert [event.previous for event in told] == ["", *(event.hash for event in told[:-1])]
    assert [event.job for event in told] == [None, None, 0, 1, 2]
    assert_whole(db, 5)


def test_an_empty_trail_is_whole(db) -> None:
    assert_whole(db, 0)


def test_what_is_rolled_back_leaves_no_gap(db) -> None:
    tell(db)
    for _ in range(3):
        with suppress(ZeroDivisionError), db.begin() as session:
            audit.record(session, Act.JOB_DONE, at=NOW)
            session.flush()
            raise ZeroDivisionError
    tell(db)

    assert_whole(db, 2)


def test_a_session_that_is_used_again_tells_nothing_of_what_it_gave_up(db) -> None:
    session = db()
    audit.record(session, Act.JOB_DONE, at=NOW)
    session.execute(select(1))
    session.rollback()
    audit.record(session, Act.JOB_FAILED, at=NOW)
    session.execute(select(1))
    session.close()
    audit.record(session, Act.JOB_RETRIED, at=NOW)
    session.commit()
    session.close()

    assert [event.act for event in events(db)] == ["job.retried"]
    assert_whole(db, 1)


def test_what_is_rolled_back_to_a_savepoint_did_not_happen(db) -> None:
    with db.begin() as session:
        audit.record(session, Act.JOB_CREATED, at=NOW)
        with suppress(ZeroDivisionError), session.begin_nested():
            audit.record(session, Act.JOB_FAILED, at=NOW)
            with session.begin_nested():
                audit.record(session, Act.JOB_FAILED, at=NOW)
            raise ZeroDivisionError
        with session.begin_nested():
            audit.record(session, Act.JOB_STARTED, at=NOW)
        audit.record(session, Act.JOB_DONE, at=NOW)

    assert [event.act for event in events(db)] == ["job.created", "job.started", "job.done"]
    assert_whole(db, 3)


def test_writers_at_once_make_one_chain(db) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            with suppress(ZeroDivisionError), db.begin() as session:
                audit.record(session, Act.JOB_STARTED, at=NOW, job=number, turn=turn)
                audit.record(session, Act.JOB_DONE, at=NOW, job=number, turn=turn)
                if turn % 5 == 0:
                    raise ZeroDivisionError

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert_whole(db, 8 * 16 * 2)


def test_a_process_that_is_killed_before_its_commit_leaves_the_chain_whole(db, database_url: str) -> None:
    tell(db, 2)
    program = f"""
import os, signal
from datetime import datetime, UTC
from sqlalchemy import event
from sqlalchemy.orm import Session
from gateway.auditing import audit
from gateway.db import open_database
event.listen(Session, "before_commit", lambda session: os.kill(os.getpid(), signal.SIGKILL))  # after the chain's own
with open_database({database_url!r}).begin() as session:
    audit.record(session, audit.Act.JOB_DONE, at=datetime.now(UTC))
"""
    killed = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    tell(db)

    assert killed.returncode == -signal.SIGKILL
    assert_whole(db, 3)


def test_a_walk_sees_the_trail_as_it_was_when_it_began(db) -> None:
    tell(db, 3)

    def watch(entries, total):
        for entry in entries:
            tell(db)  # somebody goes on meanwhile
            yield entry

    assert seal.verify(db, seal.Heads(), watch=watch).events == 3
    assert_whole(db, 6)


def test_events_from_before_the_chain_are_told_as_that(db) -> None:
    engine = db.kw["bind"]
    migrations.downgrade(engine, "0002")
    with engine.begin() as connection:
        for number in (4, 7):
            connection.execute(
                text(
                    "INSERT INTO gw_audit_event (id, at, act, actor, outcome, study_instance_uid, series_instance_uid,"
                    f" sop_instance_uid, detail) VALUES ({number}, '2026-01-02', 'job.done', 'gateway', 0, '', '', '', '{{}}')"
                )
            )
    migrations.upgrade(engine)
    tell(db, 3)

    assert verified(db) == Finding(5, 2, 0, 0)
    assert [event.id for event in events(db)] == [4, 7, 8, 9, 10]


# What is hashed is what is read back

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=12,
)
MOMENTS = st.datetimes(
    datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(detail=JSON, at=MOMENTS, actor=TEXTS, job=st.none() | st.integers(0, 2**62))
def test_whatever_is_told_its_hash_is_of_what_is_read_back(db, detail, at, actor, job) -> None:
    with db.begin() as session:
        audit.record(session, Act.JOB_DONE, at=at, actor=actor, job=job, detail=detail)

    assert verified(db).problem == ""
    with db() as session:
        assert session.scalars(select(AuditEvent).order_by(AuditEvent.id.desc()).limit(1)).one().at == at


@given(JSON)
def test_the_canonical_form_of_a_value_is_that_of_what_its_json_says(value) -> None:
    assert canonical(json.loads(json.dumps(value))) == canonical(value)
    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(st.dictionaries(st.text(), st.integers()))
def test_the_canonical_form_knows_no_order_of_keys(value) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


def test_the_canonical_form_is_the_one_of_the_standard() -> None:
    assert canonical({"b": [1, True, None, 0.5], "a": "ä\n"}) == '{"a":"ä\\n","b":[1,true,null,0.5]}'


def test_half_a_character_is_replaced(db) -> None:
    tell(db, reason="a\ud800b")

    assert events(db)[0].detail["reason"] == "a?b"
    assert_whole(db, 1)


def test_a_number_that_json_does_not_have_is_refused(db) -> None:
    with pytest.raises(ValueError, match="JSON"), db.begin() as session:
        audit.record(session, Act.JOB_DONE, at=NOW, seconds=float("nan"))


# What is not as it was written


def unguarded(db: Database, *statements: str) -> None:
    """As whoever owns the database can: the trigger goes first."""
    with db.begin() as session:
        if session.get_bind().dialect.name == "sqlite":
            for name in ("update", "delete"):
                session.execute(text(f"DROP TRIGGER IF EXISTS gw_audit_event_no_{name}"))
        else:
            session.execute(text("DROP TRIGGER IF EXISTS gw_audit_event_append_only ON gw_audit_event"))
        for statement in statements:
            session.execute(text(statement))


@pytest.mark.parametrize("statement", ["UPDATE gw_audit_event SET actor = 'x'", "DELETE FROM gw_audit_event WHERE id = 1"])
def test_a_row_cannot_be_changed_or_deleted_by_mistake(db, statement: str) -> None:
    tell(db, 2)

    with pytest.raises(DBAPIError, match="the audit trail is append only"), db.begin() as session:
        session.execute(text(statement))

    assert_whole(db, 2)


def rewrite(db: Database, first: int, **values: object) -> None:
    """Change an event and give it, and it only, the hash that then is right."""
    with db.begin() as session:
        row = session.get_one(AuditEvent, first)
        for name, value in values.items():
            setattr(row, name, value)
        row.hash = hash_of(row)


def hash_of(row: AuditEvent) -> str:
    columns = {column.name: getattr(row, column.name) for column in AuditEvent.__table__.columns}
    return entry_hash(row.previous, audit.fields_of(columns))


def rewrite_all_after(db: Database, first: int, **values: object) -> None:
    """The whole chain anew from an event on, and the head with it: what somebody with this program's source can do."""
    with db.begin() as session:
        rows = session.scalars(select(AuditEvent).where(AuditEvent.id >= first - 1).order_by(AuditEvent.id)).all()
        for name, value in values.items():
            setattr(rows[1], name, value)
        for before, row in pairwise(rows):
            row.previous = before.hash
            row.hash = hash_of(row)
        session.execute(text("UPDATE gw_audit_head SET hash = :hash"), {"hash": rows[-1].hash})


def insert_after(db: Database, position: int) -> None:
    """An event that never was, with the right hash, before others that move on by one."""
    for number in range(EVENTS, position, -1):
        unguarded(db, f"UPDATE gw_audit_event SET id = {number + 1} WHERE id = {number}")
    with db.begin() as session:
        before = session.get_one(AuditEvent, position)
        row = AuditEvent(id=position + 1, previous=before.hash, at=NOW, act="job.done", actor="x", outcome=0, study_instance_uid="", series_instance_uid="", sop_instance_uid="", job=None, detail={})  # fmt: skip
        row.hash = hash_of(row)
        session.add(row)


def swap(db: Database, one: int, other: int) -> None:
    update = "UPDATE gw_audit_event SET id = {} WHERE id = {}"
    unguarded(db, update.format(99, one), update.format(one, other), update.format(other, 99))


TAMPERED: dict[str, tuple[Callable[[Database], None], int, str]] = {
    "a column": (lambda db: unguarded(db, "UPDATE gw_audit_event SET actor = 'x' WHERE id = 3"), 3, "edited"),
    "a time": (lambda db: unguarded(db, "UPDATE gw_audit_event SET at = '2026-01-02 10:11:13' WHERE id = 3"), 3, "edited"),
    "a detail": (lambda db: unguarded(db, "UPDATE gw_audit_event SET detail = '{\"instances\": 3}' WHERE id = 3"), 3, "edited"),
    "a hash": (lambda db: unguarded(db, f"UPDATE gw_audit_event SET hash = '{'0' * 64}' WHERE id = 3"), 3, "edited"),
    "the last": (lambda db: unguarded(db, "UPDATE gw_audit_event SET actor = 'x' WHERE id = 6"), 6, "edited"),
    "with its hash": (lambda db: rewrite(db, 3, actor="x"), 3, "replaced"),
    "the last with its hash": (lambda db: rewrite(db, 6, actor="x"), 6, "replaced at the end"),
    "deleted": (lambda db: unguarded(db, "DELETE FROM gw_audit_event WHERE id = 3"), 3, "deleted"),
    "the first deleted": (lambda db: unguarded(db, "DELETE FROM gw_audit_event WHERE id = 1"), 1, "deleted"),
    "deleted and counted anew": (
        lambda db: unguarded(
            db, "DELETE FROM gw_audit_event WHERE id = 3", *(f"UPDATE gw_audit_event SET id = {n} WHERE id = {n + 1}" for n in (3, 4, 5)), "UPDATE gw_audit_head SET position = 5"
        ), 3, "moved or replaced"),
    "moved": (lambda db: swap(db, 3, 4), 3, "moved or replaced"),
    "inserted": (lambda db: insert_after(db, 2), 3, "inserted"),
    "inserted at the end": (lambda db: insert_after(db, 6), 7, "inserted at the end"),
    "stripped": (lambda db: unguarded(db, "UPDATE gw_audit_event SET hash = '' WHERE id = 3"), 3, "stripped"),
    "stripped from the first": (lambda db: unguarded(db, "UPDATE gw_audit_event SET hash = '' WHERE id <= 3"), 3, "stripped"),
    "truncated": (lambda db: unguarded(db, "DELETE FROM gw_audit_event WHERE id > 4"), 5, "missing at the end"),
    "all gone": (lambda db: unguarded(db, "DELETE FROM gw_audit_event"), 1, "missing at the end"),
    "the head": (lambda db: unguarded(db, "UPDATE gw_audit_head SET hash = 'x'"), 6, "the head was changed"),
    "no head": (lambda db: unguarded(db, "DELETE FROM gw_audit_head"), 7, "the head of the chain was deleted"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_the_first_event_that_is_not_as_it_was_written_is_named(db, what: str) -> None:
    tamper, bad, word = TAMPERED[what]
    tell(db, EVENTS)
    unguarded(db)
    tamper(db)

    found = verified(db)

    assert (found.bad, word in found.problem) == (bad, True), found


STRANGE = (
    "at = 'yesterday'",
    "at = 7",
    "detail = 'no json'",
    "detail = '[NaN]'",
    "actor = x'00ff'",
    "previous = 7",
    "outcome = 'x'",
)


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_only_sqlite_takes_is_named_too(db, value: str) -> None:
    tell(db, EVENTS)
    unguarded(db, f"UPDATE gw_audit_event SET {value} WHERE id = 3")

    assert verified(db).bad == 3


# What only a signed head shows


@dataclass
class Sealed:
    db: Database
    key: Ed25519PrivateKey
    file: Path

    def seal(self, now: datetime = NOW, **how: timedelta) -> bool:
        return seal.seal(now, db=self.db, key=self.key, heads=self.file, **how)

    @property
    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    @property
    def name_of_key(self) -> str:
        return hashlib.sha256(self.key.public_key().public_bytes_raw()).hexdigest()

    def verified(self) -> Finding:
        return verified(self.db, seal.read(self.lines, self.key.public_key()))


@pytest.fixture
def sealed(db, tmp_path: Path) -> Sealed:
    return Sealed(db, seal.private_key(tmp_path / "audit.key"), tmp_path / "heads.jsonl")


def test_a_head_is_signed_when_something_happened_since_the_last(sealed) -> None:
    assert not sealed.seal()
    tell(sealed.db, 2)
    assert sealed.seal()
    assert not sealed.seal()
    tell(sealed.db, 1)
    assert sealed.seal()
    assert not sealed.seal()

    assert [json.loads(line)["position"] for line in sealed.lines] == [2, 4]
    assert sealed.verified() == Finding(5, 0, 2, 4)
    assert [event.act for event in events(sealed.db)][2::2] == ["audit.signed", "audit.signed"]


def test_a_time_to_come_in_the_database_does_not_end_the_signing(sealed) -> None:
    tell(sealed.db)
    assert sealed.seal(NOW, every=timedelta(minutes=5))
    tell(sealed.db)
    with sealed.db.begin() as session:
        session.execute(update(AuditSink).values(at=NOW + timedelta(days=3000)))

    assert sealed.seal(NOW + timedelta(seconds=1), every=timedelta(minutes=5))


@pytest.mark.parametrize("kept", [0, 1])
def test_own_heads_that_lack_what_the_trail_says_was_signed_were_cut_off(sealed, kept: int) -> None:
    for _ in range(2):
        tell(sealed.db)
        sealed.seal()
    sealed.file.write_text("".join(f"{line}\n" for line in sealed.lines[:kept]) + "no JSON\n")
    there = seal.read(sealed.lines, sealed.key.public_key())

    assert verified(sealed.db, there).problem == ""  # a copy may be older
    own = verified(sealed.db, replace(there, whole_of=sealed.name_of_key))
    assert own.problem == f"event 3 was signed, and the signed heads end with event {kept}: some were cut off"
    assert verified(sealed.db, replace(there, whole_of="0" * 64)).problem == ""  # another machine signed with its own


def test_heads_that_were_put_aside_for_a_backup_are_not_missed(sealed) -> None:
    tell(sealed.db)
    sealed.seal()
    sealed.file.unlink()
    with sealed.db.begin() as session:
        audit.record(session, Act.DATABASE_RESTORED, at=NOW, signed=9, events=2)

    assert verified(sealed.db, seal.Heads(whole_of=sealed.name_of_key)).problem == ""


def test_what_is_not_signed_yet_is_told_with_its_time(sealed) -> None:
    tell(sealed.db)
    sealed.seal()
    assert sealed.verified().unsigned_since == ""
    tell(sealed.db, 2)

    assert datetime.fromisoformat(sealed.verified().unsigned_since) == NOW


def test_no_head_is_signed_before_its_time(sealed) -> None:
    every = timedelta(minutes=5)
    tell(sealed.db)
    assert sealed.seal(NOW, every=every)
    tell(sealed.db)

    assert not sealed.seal(NOW + every / 2, every=every)
    assert sealed.seal(NOW + every, every=every)


def test_gateways_that_seal_at_once_sign_one_head(sealed) -> None:
    tell(sealed.db)
    threads = [threading.Thread(target=sealed.seal) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(sealed.lines) == 1


def test_machines_with_keys_of_their_own_each_sign(db, sealed, tmp_path: Path) -> None:
    other = Sealed(db, seal.private_key(tmp_path / "other.key"), tmp_path / "other.jsonl")
    tell(db)
    every = timedelta(minutes=5)

    signed = [one.seal(at, every=every) for at in (NOW, NOW + every) for one in (sealed, other)]

    assert signed == [True, True, False, False]  # that a head was signed is nothing to sign another for
    assert [len(one.lines) for one in (sealed, other)] == [1, 1]
    assert [one.verified().problem for one in (sealed, other)] == ["", ""]


def test_a_signature_can_be_checked_with_openssl(sealed, tmp_path: Path) -> None:
    tell(sealed.db)
    sealed.seal()
    told = json.loads(sealed.lines[0])
    (tmp_path / "signature").write_bytes(base64.b64decode(told.pop("signature")))
    (tmp_path / "told").write_text(json.dumps(told, sort_keys=True, separators=(",", ":")))

    files = ["-inkey", "audit.pub", "-sigfile", "signature", "-in", "told"]
    checked = subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", *files], cwd=tmp_path, check=False)

    assert checked.returncode == 0


ANEW: dict[str, tuple[Callable[[Database], None], int, str]] = {
    "truncated, and the head made to fit": (
        lambda db: unguarded(
            db,
            "DELETE FROM gw_audit_event WHERE id > 4",
            "UPDATE gw_audit_head SET position = 4, hash = (SELECT hash FROM gw_audit_event WHERE id = 4)",
        ), 5, "missing at the end: a signed head says that there were 6 events"),
    "emptied": (
        lambda db: unguarded(db, "DELETE FROM gw_audit_event", "UPDATE gw_audit_head SET position = 0, hash = ''"),
        1, "missing at the end: a signed head says that there were 6 events"),
    "written anew": (lambda db: rewrite_all_after(db, 5, actor="x"), 6, "written anew"),
}  # fmt: skip


@pytest.mark.parametrize("what", ANEW)
def test_a_signed_head_shows_what_the_chain_alone_does_not(sealed, what: str) -> None:
    tamper, bad, word = ANEW[what]
    tell(sealed.db, 3)
    sealed.seal()
    tell(sealed.db, 2)
    sealed.seal()  # of event 6: the first signature is event 4
    unguarded(sealed.db, "DELETE FROM gw_audit_event WHERE id > 6", "UPDATE gw_audit_head SET position = 6, hash = (SELECT hash FROM gw_audit_event WHERE id = 6)")  # fmt: skip
    assert sealed.verified() == Finding(6, 0, 2, 6)
    tamper(sealed.db)

    found = sealed.verified()

    assert verified(sealed.db).problem == ""
    assert (found.bad, word in found.problem) == (bad, True), found


def test_a_process_that_is_killed_after_it_signed_leaves_heads_that_verify(sealed, database_url: str, tmp_path: Path) -> None:
    tell(sealed.db, 2)
    program = f"""
from datetime import datetime, UTC
from pathlib import Path
from gateway.auditing import seal
from gateway.db import open_database
folder = Path({str(tmp_path)!r})
seal.seal(datetime.now(UTC), db=open_database({database_url!r}), key=seal.private_key(folder / "audit.key"), heads=folder / "heads.jsonl")
"""
    environment = os.environ | {"GATEWAY_CRASH_AT": "seal.appended"}
    killed = subprocess.run([sys.executable, "-c", program], timeout=60, check=False, env=environment)
    assert (killed.returncode, len(sealed.lines)) == (-signal.SIGKILL, 1)

    assert sealed.seal()

    assert sealed.verified() == Finding(3, 0, 2, 2)


def test_a_line_that_a_power_cut_tore_is_passed_over(sealed) -> None:
    tell(sealed.db)
    sealed.seal()
    with sealed.file.open("a") as file:
        file.write('{"at":"2026-')
    tell(sealed.db)
    sealed.seal()

    assert len(sealed.lines) == 3
    assert sealed.verified() == Finding(4, 0, 2, 3)


@pytest.mark.parametrize("name", ["position", "hash", "at"])
def test_a_line_that_was_changed_is_told(sealed, name: str) -> None:
    tell(sealed.db)
    sealed.seal()
    told = json.loads(sealed.lines[0])
    changed = {"position": 7, "hash": "0" * 64, "at": "2026-01-02T10:11:13+00:00"}[name]

    read = seal.read([json.dumps(told | {name: changed})], sealed.key.public_key())

    assert read == seal.Heads((), "line 1 of the signed heads: its signature is not of what it says")


def test_a_line_that_another_key_signed_is_told(sealed) -> None:
    tell(sealed.db)
    sealed.seal()

    read = seal.read(sealed.lines, Ed25519PrivateKey.generate().public_key())

    assert read.problem == "line 1 of the signed heads: expected one that is signed with the given key"


def test_the_key_is_made_once_and_is_ours_alone(tmp_path: Path) -> None:
    first, again = (seal.private_key(tmp_path / "audit.key") for _ in range(2))

    assert first.private_bytes_raw() == again.private_bytes_raw()
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600
    assert seal.public_key(tmp_path / "audit.pub").public_bytes_raw() == first.public_key().public_bytes_raw()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.key", "audit.pub"]


@pytest.mark.parametrize("load", [seal.private_key, seal.public_key])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, load) -> None:
    (tmp_path / "audit.key").write_text("a letter")

    with pytest.raises(ConfigError, match="expected a key as PEM"):
        load(tmp_path / "audit.key")


def test_a_trail_that_was_cut_is_not_signed_again(sealed) -> None:
    tell(sealed.db, 3)
    sealed.seal()
    unguarded(sealed.db, "DELETE FROM gw_audit_event", "UPDATE gw_audit_head SET position = 0, hash = ''")
    tell(sealed.db)

    assert not sealed.seal()
    assert len(sealed.lines) == 1


# The commands


@pytest.fixture
def gateway(db, database_url: str, tmp_path: Path, gateway: Command) -> Command:
    (tmp_path / "gateway.toml").write_text(f'[gateway]\ndata_dir = "."\n[database]\nurl = "{database_url}"\n')
    return gateway


def sealed_here(db: Database, folder: Path, now: datetime = NOW) -> None:
    assert seal.seal(now, db=db, key=seal.private_key(folder / "audit.key"), heads=folder / "audit-heads.jsonl")


def test_verify_tells_what_is_proved_and_that_somebody_looked(gateway, db, tmp_path: Path) -> None:
    tell(db, 3)
    sealed_here(db, tmp_path)

    code, out, err = gateway("audit verify")

    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "4 events, the chain is whole"
    assert out.splitlines()[1].startswith("1 signed heads match, the last is of event 3, signed at 2026-01-0")
    assert [(event.act, event.outcome) for event in events(db)[4:]] == [("audit.verified", 0)]


def test_verify_without_signed_heads_tells_what_is_not_proved(gateway, db) -> None:
    tell(db, 3)

    code, out, _ = gateway("audit verify")

    assert (code, out.splitlines()[0]) == (0, "3 events, the chain is whole")
    assert out.splitlines()[1].startswith("no signed head matches")


def test_verify_names_the_first_bad_event_and_fails(gateway, db, tmp_path: Path) -> None:
    tell(db, 3)
    sealed_here(db, tmp_path)
    unguarded(db, "UPDATE gw_audit_event SET actor = 'x' WHERE id = 2")

    code, out, _ = gateway("audit verify")

    assert (code, out.splitlines()[0]) == (1, "event 2: edited: its hash is not the one of its columns")
    assert [(event.act, event.outcome, event.detail["bad"]) for event in events(db)[4:]] == [("audit.verified", 8, 2)]


def test_verify_takes_heads_and_key_from_elsewhere(gateway, db, tmp_path: Path) -> None:
    tell(db, 3)
    (tmp_path / "far").mkdir()
    sealed_here(db, tmp_path / "far")

    assert "1 signed heads match" in gateway("audit verify --heads far/audit-heads.jsonl --public-key far/audit.pub")[1]


def test_verify_fails_where_a_signed_line_cannot_be_believed(gateway, db, tmp_path: Path) -> None:
    tell(db, 3)
    sealed_here(db, tmp_path)
    file = tmp_path / "audit-heads.jsonl"
    file.write_text(file.read_text().replace('"position":3', '"position":2'))

    code, out, _ = gateway("audit verify")

    assert (code, out.splitlines()[0]) == (1, "line 1 of the signed heads: its signature is not of what it says")


def test_verify_tells_of_a_head_that_fits_no_further_event(gateway, db) -> None:
    tell(db, 3)
    unguarded(db, "UPDATE gw_audit_head SET position = 1")

    code, out, _ = gateway("audit verify")

    assert (code, out.splitlines()[-1]) == (1, "the trail takes no further events")
    assert out.startswith("event 2: inserted at the end, or the head was changed")


def test_an_export_can_be_followed_without_this_program(gateway, db) -> None:
    tell(db, 4, reason="grün", share=0.25)

    code, out, _ = gateway("audit export --format jsonl")

    last = ""
    assert (code, len(out.splitlines())) == (0, 4)
    for line in out.splitlines():
        told = json.loads(line)
        previous, hash_ = told.pop("previous"), told.pop("hash")
        text_ = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert (previous, hash_) == (last, hashlib.sha256((previous + text_).encode()).hexdigest())
        last = hash_
    with db() as session:
        event = session.scalars(select(AuditEvent).order_by(AuditEvent.id.desc()).limit(1)).one()
    assert (event.act, event.detail) == ("audit.exported", {"events": 4, "since": ""})


def test_an_export_may_begin_at_a_time(gateway, db) -> None:
    tell(db, 2)
    with db.begin() as session:
        audit.record(session, Act.JOB_DONE, at=NOW + timedelta(days=3))

    out = gateway("audit export --since 2026-01-04")[1]

    assert [json.loads(line)["act"] for line in out.splitlines()] == ["job.done"]


def test_the_sink_of_the_heads_is_one_row(sealed) -> None:
    tell(sealed.db)
    sealed.seal()

    with sealed.db() as session:
        assert session.scalar(select(func.count()).select_from(AuditSink)) == 1


def test_heads_that_cannot_be_written_are_told_and_again_when_they_can(db, tmp_path: Path) -> None:
    heads = tmp_path / "away" / "heads.jsonl"
    config = parse({"gateway": {"data_dir": str(tmp_path)}, "audit": {"heads": str(heads)}}, where="test")
    notary = Notary(db, config, clock=lambda: NOW)
    tell(db)

    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            notary._sign(timedelta(0))
    with db() as session:
        reason = session.scalars(select(OpenAlarm.reason)).one()
    heads.parent.mkdir()
    notary._sign(timedelta(0))

    assert reason.startswith(f"{heads} on ")
    assert reason.endswith("the signed heads of the trail cannot be written: no such file or directory")
    acts = [event.act for event in events(db) if event.act.startswith("alarm")]
    assert acts == [Act.ALARM_RAISED, Act.ALARM_ENDED]


def test_a_database_that_went_on_from_an_older_backup_is_not_served_before_somebody_says_so(db, tmp_path: Path) -> None:
    """As on the machine that did not serve meanwhile: there are more events than it signed, and they are other ones."""
    config = parse({"gateway": {"data_dir": str(tmp_path)}}, where="test")
    tell(db, 3)
    sealed_here(db, tmp_path)
    refuse_older(config, db=db)
    unguarded(db, "DELETE FROM gw_audit_event", "DELETE FROM gw_audit_sink", "UPDATE gw_audit_head SET position = 0, hash = ''")
    tell(db, 7, restored=True)

    with pytest.raises(ConfigError, match=r"event 3 of its audit trail is not the one .* say so with `gateway db restored`"):
        refuse_older(config, db=db)
    said = accept(config, db=db, actor="ann", now=NOW)

    assert said.startswith("event 3 was signed and is not in the database, which ends at event 7")
    refuse_older(config, db=db)
    assert verified(db, seal.heads(config)).problem == ""
    with pytest.raises(ConfigError, match="nothing was signed that it does not have"):
        accept(config, db=db, actor="ann", now=NOW)


@pytest.mark.parametrize("before", ['{"position": 2, "key": "0"}', '{"position": 9', '{"position": "9"}', "[]"])
def test_lines_of_the_signed_heads_that_are_not_ours_do_not_hide_that_the_trail_was_cut_off(
    db, tmp_path: Path, before: str
) -> None:
    """Only the furthest heads are verified: those of three years would take most of a minute, with the doors closed."""
    config = parse({"gateway": {"data_dir": str(tmp_path)}}, where="test")
    tell(db, 3)
    sealed_here(db, tmp_path)
    refuse_older(config, db=db)
    file = seal.heads_file(config)
    file.write_text(f"{before}\n{file.read_text()}")
    unguarded(db, "DELETE FROM gw_audit_event", "UPDATE gw_audit_head SET position = 0, hash = ''")

    with pytest.raises(ConfigError, match="event 3 was signed"):
        refuse_older(config, db=db)


def test_files_that_no_row_knows_are_counted_and_those_of_workitems_are_known(db, tmp_path: Path) -> None:
    config = parse({"gateway": {"data_dir": str(tmp_path)}}, where="test")
    store = Store(config.store_folder)
    known, unknown = store.put([b"workitem"]), store.put([b"instance"])
    assert known != unknown

    with db.begin() as session:
        session.add(WorkitemDocument(sha256=known.sha256, sop_instance_uid="1.2", made_at=NOW))

    assert without_rows(config, db=db) == 1


def test_a_trail_without_its_head_is_not_served_on_and_what_to_do_is_said(db: Database, tmp_path: Path) -> None:
    config = parse({"gateway": {"data_dir": str(tmp_path)}}, where="test")
    tell(db, 2)
    unguarded(db, "DELETE FROM gw_audit_head")

    with pytest.raises(ConfigError, match="restore a backup"):
        refuse_older(config, db=db)
    with pytest.raises(ConfigError, match="restore a backup"):
        accept(config, db=db, actor="x", now=NOW)
