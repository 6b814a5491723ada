"""People are told of what the trail says: all of it, in time, not too often, without patient data."""

import hashlib
import hmac
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.errors import ConfigError, NoticeError
from gateway.rows.trail import AuditEvent, AuditSink
from gateway.telling.digest import SHOWN
from gateway.telling.happening import TOLD, USUAL, Kind, happening
from gateway.telling.herald import Herald
from gateway.telling.notices import addressee, load_ways
from gateway.telling.wording import Wording
from tests.certificates import Authority
from tests.collector_fixture import server_context
from tests.notices_fixture import Hook, Mailbox, mail_server, web_server
from tests.peers_fixture import running_tcp
from tests.rows_fixture import NOW, only_read

ROOT = Path(__file__).parent.parent
WAYS = load_ways()
UID = re.compile(r"\d+(\.\d+){5,}")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self):
        return self.now

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)


class Way:
    """Keeps what it is told, unless it is `away`."""

    def __init__(self) -> None:
        self.told, self.away = [], ""

    def tell(self, told) -> None:
        if self.away:
            raise NoticeError(self.away)
        self.told.append(told)


@pytest.fixture
def heralds(db: Database):
    made = []

    def make(clock: Clock, way: object = None, **table: object) -> Herald:
        ways = WAYS if way is None else {"way": lambda _: way}
        known = addressee({"name": "ops", "protocol": "way"} | table, ways=ways, source="gw1", console="https://gw.example")
        made.append(Herald(db, known, clock=clock))
        made[-1].look()  # from here on it is told
        return made[-1]

    yield make
    for one in made:
        one._turn.give_back()


def made(table: dict[str, object]):
    return addressee({"name": "ops"} | table, ways=WAYS, source="gw1", console="")


def record(db: Database, act: Act, count: int = 1, **values: object) -> None:
    with db.begin() as session:
        for _ in range(count):
            audit.record(session, act, **({"at": NOW} | values))


def acts(db: Database, act: Act) -> int:
    with db() as session:
        return session.scalar(select(func.count()).where(AuditEvent.act == act))


def a_telling(way, *kinds: Kind):
    """What `way` would be told of one event of each kind."""
    from gateway.telling.digest import Digest
    from gateway.telling.happening import Happening

    digest = Digest()
    for number, kind in enumerate(kinds or (Kind.JOB_FAILED,), 1):
        digest.add(Happening(number, NOW, kind, "job 7: it failed: Größe", 7, "pacs"))
    return Wording("gw1", "https://gw.example").told(digest, "ops", NOW)


def test_two_hundred_failures_make_one_notice_that_counts_them_and_tells_the_latest(db: Database, heralds) -> None:
    way, clock = Way(), Clock()
    herald = heralds(clock, way)
    record(db, Act.JOB_FAILED, 199, job=7, reason="expected 20 slices")
    record(db, Act.DELIVERY_FAILED, job=8, peer="pacs", reason="the peer does not take it (0xA900)")
    herald.look()
    assert way.told == []

    clock.pass_(seconds=6)
    herald.look()

    (told,) = way.told
    assert told.subject == "gw1: 200 events: job failed (199), delivery failed"
    assert (told.count, dict(told.counts), len(told.events)) == (200, {"job failed": 199, "delivery failed": 1}, SHOWN)
    assert told.text.count("expected 20 slices") == SHOWN - 1
    assert told.text.rstrip().endswith(
        "delivery failed: job 8, pacs: the peer does not take a result: the peer does not take it (0xA900)  https://gw.example/jobs/8"
    )
    assert acts(db, Act.NOTICE_SENT) == 1


def test_the_next_notice_waits_for_its_time_and_tells_all_that_happened_meanwhile(db: Database, heralds) -> None:
    way, clock = Way(), Clock()
    herald = heralds(clock, way, every_minutes=10)
    record(db, Act.JOB_FAILED, job=1)
    herald.look()
    clock.pass_(seconds=6)
    herald.look()
    for job in (2, 3):
        record(db, Act.JOB_FAILED, job=job)
        clock.pass_(minutes=4)
        herald.look()
    assert [told.count for told in way.told] == [1]

    clock.pass_(minutes=2)
    herald.look()

    assert [told.count for told in way.told] == [1, 2]
    assert "job 2: it failed" in way.told[1].text


def test_a_finding_waits_for_no_other_notice_but_for_a_server_that_is_away(db: Database, heralds) -> None:
    way, clock = Way(), Clock()
    herald = heralds(clock, way, on=["job failed", "finding"], every_minutes=10)
    for act, seconds in ((Act.JOB_FAILED, 6), (Act.JOB_FAILED, 60), (Act.FINDING_STATED, 6)):
        record(db, act, job=1, pipeline="ich", findings=["Haemorrhage: Present"])
        herald.look()
        clock.pass_(seconds=seconds)
        herald.look()
    assert [dict(told.counts) for told in way.told] == [{"job failed": 1}, {"job failed": 1, "finding": 1}]

    way.away = "nobody answers"
    record(db, Act.FINDING_STATED, job=2, pipeline="ich", findings=["Haemorrhage: Present"])
    with capture_logs() as logs:
        for _ in range(120):
            clock.pass_(seconds=1)
            herald.look()
    assert 2 <= len([one for one in logs if one["event"] == "notice.failed"]) <= 6


def test_of_what_is_a_pipelines_only_those_that_were_named_are_told_and_all_that_is_none(db: Database, heralds) -> None:
    way, clock = Way(), Clock()
    herald = heralds(clock, way, pipelines=["ich"])
    for pipeline in ("ich", "lungs"):
        record(db, Act.JOB_FAILED, job=1, pipeline=pipeline)
    record(db, Act.DOOR_CLOSED)
    herald.look()
    clock.pass_(seconds=6)
    herald.look()

    assert [dict(told.counts) for told in way.told] == [{"job failed": 1, "door closed": 1}]


def test_only_what_somebody_asked_for_is_told(db: Database, heralds) -> None:
    way, clock = Way(), Clock()
    herald = heralds(clock, way, on=["delivery held"])
    record(db, Act.JOB_FAILED, job=1)
    record(db, Act.DELIVERY_HELD, job=1, peer="pacs")
    record(db, Act.INSTANCE_RECEIVED)
    herald.look()
    clock.pass_(seconds=6)
    herald.look()

    assert [told.counts for told in way.told] == [{"delivery held": 1}]


def test_who_is_new_is_not_told_of_old_times_and_one_that_restarts_misses_nothing(db: Database, heralds) -> None:
    record(db, Act.JOB_FAILED, 3, job=1)
    first, second, clock = Way(), Way(), Clock()
    herald = heralds(clock, first)
    clock.pass_(minutes=1)
    herald.look()
    assert first.told == []
    herald.stop()
    record(db, Act.JOB_FAILED, job=2)

    herald = heralds(clock, second)
    clock.pass_(minutes=1)
    herald.look()

    assert [told.count for told in second.told] == [1]


def test_while_the_way_is_away_nothing_is_lost_and_the_trail_says_so_once(db: Database, heralds) -> None:
    way, clock = Way(), Clock()
    herald = heralds(clock, way)
    way.away = "the mail server cannot be used (ConnectionRefusedError)"
    for _ in range(5):
        record(db, Act.JOB_FAILED, 10, job=1)
        clock.pass_(hours=1)
        herald.look()
        herald.look()
    assert acts(db, Act.NOTICE_FAILED) == 1
    with db() as session:
        assert session.get_one(AuditSink, "notice.ops").reason == way.away

    way.away = ""
    clock.pass_(hours=1)
    herald.look()

    assert [told.counts for told in way.told] == [{"job failed": 50, "notice failed": 1}]
    with db() as session:
        assert session.get_one(AuditSink, "notice.ops").reason == ""


def test_a_notice_comes_once_while_the_database_can_only_be_read(db: Database, heralds) -> None:
    clock, way = Clock(), Way()
    herald = heralds(clock, way, every_minutes=0)
    record(db, Act.JOB_FAILED, job=1)
    herald.look()
    clock.pass_(minutes=1)

    with only_read(db):
        for _ in range(5):
            herald.look()
            clock.pass_(minutes=1)
    herald.look()
    record(db, Act.JOB_FAILED, job=2)
    for _ in range(2):
        clock.pass_(minutes=1)
        herald.look()

    assert [(told.count, told.events[-1]["job"]) for told in way.told] == [(1, 1), (1, 2)]
    assert acts(db, Act.NOTICE_SENT) == 2


def test_a_server_that_never_comes_to_an_end_is_told_of_and_asked_no_second_time_beside_that(db: Database) -> None:
    clock, asked, stopped = Clock(), [], threading.Event()

    def trickle(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        with suppress(OSError):
            while not stopped.wait(0.05):
                connection.sendall(b"x")

    with running_tcp(trickle) as port:
        table = {"protocol": "webhook", "url": f"http://127.0.0.1:{port}", "timeout_seconds": 1.0}
        herald = Herald(db, made(table), clock=clock, patience=timedelta(seconds=0.5))
        herald.look()
        record(db, Act.JOB_FAILED, job=1)
        for _ in range(4):
            herald.look()
            clock.pass_(minutes=20)
        stopped.set()
        herald._turn.give_back()

    with db() as session:
        assert session.get_one(AuditSink, "notice.ops").reason.endswith("the attempt does not end")
    assert acts(db, Act.NOTICE_FAILED) == 1
    assert len(asked) == 1


def test_of_two_processes_one_tells(db: Database, heralds) -> None:
    one, other, clock = Way(), Way(), Clock()
    heralding, waiting = heralds(clock, one), heralds(clock, other)
    record(db, Act.JOB_FAILED, job=1)
    for herald in (heralding, waiting, heralding, waiting):
        herald.look()
        clock.pass_(seconds=6)
    assert [len(one.told), len(other.told)] == [1, 0]

    heralding._turn.give_back()
    record(db, Act.JOB_FAILED, job=2)
    for _ in range(2):
        clock.pass_(minutes=6)
        waiting.look()

    assert [told.text.count("job 2") for told in other.told] == [1]


def test_a_stop_tells_what_waits(db: Database, heralds) -> None:
    way, clock = Way(), Clock()
    herald = heralds(clock, way, on=[Kind.GATEWAY_STOPPED])
    record(db, Act.GATEWAY_STOPPED)

    herald.stop()

    assert [told.subject for told in way.told] == ["gw1: gateway stopped: a gateway was stopped"]


_TELL_ONCE = """
import sys
from datetime import UTC, datetime, timedelta
from gateway.db import open_database
from gateway.telling.herald import Herald
from gateway.telling.notices import addressee, load_ways
url, hook = sys.argv[1:]
known = addressee({"name": "ops", "protocol": "webhook", "url": hook}, ways=load_ways(), source="gw1", console="")
clock = iter(datetime.now(UTC) + timedelta(minutes=minute) for minute in range(9))
herald = Herald(open_database(url), known, clock=lambda: next(clock))
herald.look()
herald.look()
"""


def test_a_death_between_the_notice_and_the_row_tells_it_again_under_the_same_key(
    db: Database, database_url: str, heralds
) -> None:
    heralds(Clock(), Way())._turn.give_back()
    record(db, Act.JOB_FAILED, 3, job=1)
    with web_server(hook := Hook()) as url:
        for point, ended in (("notice.told", -signal.SIGKILL), ("", 0)):
            words = [sys.executable, "-c", _TELL_ONCE, database_url, url]
            ran = subprocess.run(
                words, cwd=ROOT, env={**os.environ, "GATEWAY_CRASH_AT": point}, timeout=60, check=False, capture_output=True
            )
            assert ran.returncode == ended, ran.stderr

    assert [document["count"] for document in hook.documents] == [3, 3]
    assert len({headers["Idempotency-Key"] for _, headers, _ in hook.requests}) == 1


def test_a_notice_that_has_grown_since_its_answer_was_lost_is_not_the_same_again(db: Database, heralds) -> None:
    """Mail servers and programs pass over what has the Message-ID or key of one that they have taken."""
    clock = Clock()
    with web_server(hook := Hook(status=504)) as url:
        herald = heralds(clock, protocol="webhook", url=url)
        for _ in range(2):
            record(db, Act.JOB_FAILED, job=1)
            for _ in range(2):
                clock.pass_(minutes=10)
                herald.look()

    counts = [document["count"] for document in hook.documents]
    keys = [headers["Idempotency-Key"] for _, headers, _ in hook.requests]
    assert counts == [1, 3, 3]  # that the first did not arrive is told too
    assert keys[0] != keys[1] == keys[2]


def test_every_act_that_is_told_becomes_words_without_uids() -> None:
    detail = {
        "reason": "expected 1.2.840.10008.5.1.4.1.1.2 at 10.1.2.3", "peer": "pacs", "kind": "silence", "hours": 4, "version": "1",
        "notice": "ops", "uid": "1.2.840.113619.2.5",
    }  # fmt: skip
    told = [happening(1, NOW, act, 8, 7, detail) for act in sorted(TOLD)]

    assert all(one is not None and one.text and not UID.search(one.text) for one in told)
    assert {one.kind for one in told if one} | {
        Kind.NO_RESULT,
        Kind.MODEL_AWAY,
        Kind.DISK_LOW,
        Kind.CERTIFICATE,
        Kind.NOT_SIGNED,
        Kind.SYNTHETIC_FAILED,
    } == set(Kind)
    assert happening(1, NOW, Act.SERIES_COMPLETE, 0, None, {}) is None
    assert happening(1, NOW, Act.ALARM_RAISED, 4, None, {"kind": "of a later version"}) is None
    assert USUAL.isdisjoint({Kind.GATEWAY_STOPPED, Kind.FINDING})


def test_a_mail_arrives_over_starttls_after_a_login(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("mail", hosts=("localhost",))
    (tmp_path / "password").write_text("s3cret\n")
    box = Mailbox()
    with mail_server(box, tls=server_context(issued), login=("gateway", "s3cret")) as port:
        way = made(
            {
                "protocol": "email", "host": "localhost", "port": port, "from_address": "gateway@hospital.example",
                "to": ["it@hospital.example", "radiology@hospital.example"], "user": "gateway",
                "password_file": str(tmp_path / "password"), "authorities": str(authority.certificate),
            }
        ).way  # fmt: skip
        way.tell(a_telling(way))
        (tmp_path / "password").write_text("wrong")
        with pytest.raises(NoticeError, match="answered 535"):
            way.tell(a_telling(way))

    (mail,) = box.mails
    assert mail["Subject"] == "gw1: job failed: job 7: it failed: Größe"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"] == "<gw1-ops-1-1@hospital.example>"
    told = f"{NOW:%Y-%m-%d %H:%M:%S} UTC  job failed: job 7: it failed: Größe  https://gw.example/jobs/7"
    assert mail.get_content().strip() == told
    assert box.to == [["it@hospital.example", "radiology@hospital.example"]]


def test_a_mail_server_that_nobody_trusts_gets_neither_password_nor_mail(tmp_path: Path) -> None:
    issued = Authority(tmp_path / "ca").issue("mail", hosts=("localhost",))
    box = Mailbox()
    with mail_server(box, tls=server_context(issued)) as port:
        table = {"protocol": "email", "host": "localhost", "port": port, "from_address": "a@b.c", "to": ["d@e.f"]}
        way = made(table).way
        with pytest.raises(NoticeError, match="no TLS with the mail server: expected a certificate that holds: "):
            way.tell(a_telling(way))

    assert box.mails == []


def test_a_mail_server_that_refuses_is_told_in_words_of_ours() -> None:
    box = Mailbox(refused=frozenset({"gone@e.f"}))
    with mail_server(box) as port:
        table = {"protocol": "email", "host": "127.0.0.1", "port": port, "from_address": "a@b.c", "security": "none"}
        made(table | {"to": ["d@e.f", "gone@e.f"]}).way.tell(a_telling(None))
        with pytest.raises(NoticeError, match="for none of the addresses"):
            made(table | {"to": ["gone@e.f"]}).way.tell(a_telling(None))
        box.answer = "452 CANARY is full"
        with pytest.raises(NoticeError, match=r"answered 452$"):
            made(table | {"to": ["d@e.f"]}).way.tell(a_telling(None))
        with pytest.raises(NoticeError, match="cannot be used: STARTTLS extension not supported by server"):
            made(table | {"to": ["d@e.f"], "security": "starttls"}).way.tell(a_telling(None))
    with pytest.raises(NoticeError, match="ConnectionRefusedError"):
        made(table | {"to": ["d@e.f"]}).way.tell(a_telling(None))

    assert [mail["To"] for mail in box.mails] == ["d@e.f, gone@e.f"]


@pytest.mark.parametrize("answer", ["421 going down", "250 bye", ""])
def test_a_mail_that_was_taken_has_arrived_whatever_the_server_says_to_the_end(answer: str) -> None:
    """Else it would be sent again, for ever."""
    box = Mailbox(to_quit=answer)
    with mail_server(box) as port:
        table = {"protocol": "email", "host": "127.0.0.1", "port": port, "from_address": "a@b.c", "security": "none"}
        made(table | {"to": ["d@e.f"]}).way.tell(a_telling(None))

    assert len(box.mails) == 1


def test_a_webhook_gets_signed_json_and_no_redirect_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("k3y\n")
    hook = Hook()
    with web_server(hook) as url:
        way = made({"protocol": "webhook", "url": f"{url}/in", "secret_file": str(tmp_path / "secret")}).way
        way.tell(a_telling(way, Kind.JOB_FAILED, Kind.DISK_LOW))
        hook.status = 307
        with pytest.raises(NoticeError, match=r"answered 307$"):
            way.tell(a_telling(way))

    path, headers, body = hook.requests[0]
    seconds = int(NOW.timestamp())
    signed = hmac.new(b"k3y", f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    assert (path, headers["X-Gateway-Signature"]) == ("/in", f"t={seconds},v1={signed}")
    assert len(hook.requests) == 2
    document = hook.documents[0]
    assert (document["key"], document["count"], document["counts"]) == ("gw1-ops-1-2", 2, {"job failed": 1, "disk low": 1})
    assert [event["link"] for event in document["events"]] == ["https://gw.example/jobs/7"] * 2


def test_a_webhook_that_talks_on_and_on_is_told_and_not_listened_to(tmp_path: Path) -> None:
    def talk(peer: socket.socket) -> None:
        peer.recv(65536)
        with suppress(OSError):
            peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                peer.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    with running_tcp(talk) as port:
        made({"protocol": "webhook", "url": f"http://127.0.0.1:{port}/"}).way.tell(a_telling(None))


def test_a_webhook_without_its_secret_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("k3y\n")
    way = made({"protocol": "webhook", "url": "http://127.0.0.1:9/", "secret_file": str(tmp_path / "secret")}).way
    (tmp_path / "secret").unlink()

    with pytest.raises(NoticeError, match="FileNotFoundError"):
        way.tell(a_telling(None))


def test_a_chat_gets_one_text_and_its_address_may_stand_in_a_file(tmp_path: Path) -> None:
    hook = Hook()
    authority = Authority(tmp_path / "ca")
    with web_server(hook, tls=server_context(authority.issue("chat", hosts=("127.0.0.1", "localhost")))) as url:
        (tmp_path / "url").write_text(f"{url.replace('127.0.0.1', 'localhost')}/services/T0/B0/secret\n")
        table = {"protocol": "webhook", "url_file": str(tmp_path / "url"), "format": "text"}
        made(table | {"authorities": str(authority.certificate)}).way.tell(a_telling(None))
        with pytest.raises(NoticeError, match="the webhook cannot be used"):
            made(table).way.tell(a_telling(None))

    assert [set(document) for document in hook.documents] == [{"text"}]
    assert hook.documents[0]["text"].startswith("gw1: job failed: job 7")


def test_an_administrator_writes_other_words(db: Database, heralds) -> None:
    way, clock = Way(), Clock()
    herald = heralds(clock, way, subject="{{ count }} on {{ gateway }}", text="{% for e in events %}#{{ e.job }} {% endfor %}")
    record(db, Act.JOB_FAILED, 2, job=5)
    herald.look()
    clock.pass_(seconds=6)
    herald.look()

    assert [(told.subject, told.text) for told in way.told] == [("2 on gw1", "#5 #5\n")]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"protocol": "pigeon"}, "notice ops: protocol: expected one of email, webhook"),
        ({"protocol": "webhook", "url": "http://example.org/"}, "url: expected an https URL"),
        ({"protocol": "webhook"}, "expected either url or url_file"),
        ({"protocol": "webhook", "url": "https://e.org", "on": ["job fails"]}, "on: expected some of: job failed, "),
        (
            {"protocol": "webhook", "url": "https://e.org", "text": "{{ patient }}"},
            "text: expected a template that can be filled",
        ),
        (
            {"protocol": "webhook", "url": "https://e.org", "text": "{{ events.__class__.__mro__ }}"},
            "text: expected a template that can be filled",
        ),
        ({"protocol": "webhook", "url": "https://e.org", "name": "../x"}, "name: expected lower case letters"),
        ({"protocol": "webhook", "url": "https://e.org", "pipelines": "ich"}, "pipelines: expected a list of names of pipelines"),
        ({"protocol": "email", "host": "h", "from_address": "a", "to": []}, "from_address: expected an address"),
        ({"protocol": "email", "host": "h", "from_address": "a@b", "to": ["a@b"], "port": 0}, "port: expected a port"),
    ],
)
def test_what_is_wrong_with_a_notice_is_told_in_words(table: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made(table)

    assert any(problem in one for one in raised.value.problems), raised.value.problems
