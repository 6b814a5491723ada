"""The audit trail reaches its collector whole and in its order, whatever happens to either of them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from lxml import etree
from sqlalchemy import select

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.configuration.oversight import AuditSection
from gateway.db import Database
from gateway.rows.trail import AuditEvent, AuditSink
from gateway.telling.collector import Collector
from tests.certificates import Authority
from tests.collector_fixture import TlsCollector, number_of, server_context, udp_collector, wait_until, xml_of
from tests.ports import free_port
from tests.rows_fixture import NOW, SERIES, SOURCE, STUDY, a_job, a_series, only_read
from tests.test_message import details, objects, participants, problems

ROOT = Path(__file__).parent.parent


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="module")
def context(authority: Authority):
    return server_context(authority.issue("collector", hosts=("localhost",)))


@pytest.fixture
def collectors(authority: Authority, db: Database):
    """Makes one for a URL; all are stopped in the end."""
    made = []

    def make(url: str, clock: Clock | None = None, **section: object) -> Collector:
        settings = AuditSection(syslog=url, authorities=authority.certificate, source="gw1", **section)
        peers = [{"name": "pacs", "protocol": "dimse", "ae_title": "PACS", "host": "pacs.example"}]
        made.append(Collector(db, settings, clock=clock or Clock(), ae_title="AIGATEWAY", peers=lambda: peers))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def record(db: Database, count: int, **values: object) -> None:
    with db.begin() as session:
        for number in range(count):
            audit.record(session, Act.JOB_RETRIED, **({"at": NOW, "outcome": 4, "job": number} | values))


def tell_all(collector: Collector) -> None:
    while collector.tell() == timedelta(0):
        pass


def newest(db: Database) -> int:
    with db() as session:
        return max(session.scalars(select(AuditEvent.id)), default=0)


def acts(db: Database, *wanted: Act) -> list[str]:
    with db() as session:
        return list(session.scalars(select(AuditEvent.act).where(AuditEvent.act.in_(wanted)).order_by(AuditEvent.id)))


def position(db: Database) -> int:
    with db() as session:
        return session.get_one(AuditSink, "syslog").position


def test_the_whole_trail_is_told_once_and_in_its_order(db: Database, collectors, context) -> None:
    record(db, 250)
    with TlsCollector(context) as server:
        collector = collectors(server.url)
        tell_all(collector)
        record(db, 3)
        tell_all(collector)
        wait_until(lambda: len(server.frames) == 253)

        assert server.numbers == list(range(1, 254))
        assert len(server.connections) == 1
        assert position(db) == 253


def test_a_message_tells_what_the_rows_say_of_the_event(db: Database, collectors, context) -> None:
    a_series(db)
    job = a_job(db)
    with db.begin() as session:
        audit.record(session, Act.INSTANCE_RECEIVED, at=NOW, actor="CT1", series=SERIES, instance=SOURCE, association="a")
        audit.record(session, Act.JOB_DONE, at=NOW, series=SERIES, job=job, outputs=[SOURCE])
        audit.record(session, Act.ASSOCIATION_REJECTED, at=NOW, actor="EVIL", called_ae_title="GW2", address="10.0.0.6")
        audit.record(session, Act.DELIVERY_SENT, at=NOW, study=STUDY, peer="pacs")
    with TlsCollector(context) as server:
        tell_all(collectors(server.url))
        wait_until(lambda: len(server.frames) == 5)
    _, came, done, rejected, sent = [etree.fromstring(xml_of(frame)) for frame in server.frames]

    assert [problems(root) for root in (came, done, rejected, sent)] == [[]] * 4
    assert participants(came) == [("CT1", "AETITLES=CT1", "true", "110153"), ("gw1", "AETITLES=AIGATEWAY", "false", "110152")]
    assert came.xpath("ActiveParticipant[1]/@NetworkAccessPointID") == ["127.0.0.1"]
    assert objects(came) == {"110180": STUDY, "2": "CANARY-ID", "audit-event": "2"}
    assert objects(done) == {"110180": STUDY, "2": "CANARY-ID", "audit-event": "3"}
    assert done.xpath("//SOPClass[@UID='1.2']/Instance/@UID") == [SOURCE]
    assert participants(rejected) == [("gw1", "AETITLES=GW2", "true", ""), ("EVIL", "AETITLES=EVIL", "false", "")]
    assert participants(sent)[1] == ("pacs", "AETITLES=PACS", "false", "110152")
    assert b"NAME" not in b"".join(server.frames)
    with db() as session:
        assert details(came)["hash"] == session.get_one(AuditEvent, 2).hash


def test_patients_are_not_told_where_the_configuration_says_so(db: Database, collectors, context) -> None:
    a_series(db)
    with TlsCollector(context) as server:
        tell_all(collectors(server.url, patients=False))
        wait_until(lambda: server.frames)

        assert objects(etree.fromstring(xml_of(server.frames[0]))) == {"110180": STUDY, "audit-event": "1"}
        assert b"CANARY" not in server.frames[0]


def test_what_happened_while_the_collector_was_away_arrives_in_order_when_it_is_back(db: Database, collectors, context) -> None:
    clock, port = Clock(), free_port()
    collector = collectors(f"tls://127.0.0.1:{port}", clock)
    record(db, 1)
    delays = []
    while clock.now < NOW + timedelta(hours=24):
        delays.append(collector.tell())
        record(db, 100 if newest(db) < 1000 else 0)
        clock.now += delays[-1]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (timedelta(seconds=1), timedelta(minutes=5))
    assert acts(db, Act.COLLECTOR_DOWN, Act.COLLECTOR_UP) == [Act.COLLECTOR_DOWN]
    assert newest(db) >= 1000

    with TlsCollector(context, port=port) as server:
        tell_all(collector)
        tell_all(collector)
        wait_until(lambda: len(server.frames) >= newest(db))

        assert server.numbers == list(range(1, newest(db) + 1))
    assert acts(db, Act.COLLECTOR_DOWN, Act.COLLECTOR_UP) == [Act.COLLECTOR_DOWN, Act.COLLECTOR_UP]
    assert position(db) == newest(db)


def test_a_collector_that_is_away_again_and_again_is_told_of_twice_each_time(db: Database, collectors, context) -> None:
    clock, port = Clock(), free_port()
    collector = collectors(f"tls://127.0.0.1:{port}", clock)
    received = []
    for _ in range(3):
        record(db, 5)
        assert [collector.tell() > timedelta(0) for _ in range(4)] == [True] * 4
        with TlsCollector(context, port=port) as server:
            tell_all(collector)
            tell_all(collector)
            wait_until(lambda: server.numbers and server.numbers[-1] == newest(db))
            received += server.numbers

    assert sorted(set(received)) == list(range(1, newest(db) + 1))
    assert acts(db, Act.COLLECTOR_DOWN, Act.COLLECTOR_UP) == [Act.COLLECTOR_DOWN, Act.COLLECTOR_UP] * 3


def test_a_collector_that_hangs_up_at_once_is_tried_ever_more_rarely(db: Database, collectors, context) -> None:
    clock = Clock()
    record(db, 300)
    with TlsCollector(context, hangs_up_after=1) as server:
        collector = collectors(server.url, clock)
        for _ in range(40):
            clock.now += collector.tell()

    assert clock.now - NOW > timedelta(hours=1)
    assert position(db) < newest(db)


def test_what_went_out_last_is_repeated_over_the_next_connection_when_there_is_more(db: Database, collectors, context) -> None:
    with TlsCollector(context) as server:
        collector = collectors(server.url)
        record(db, 2)
        tell_all(collector)
        record(db, 3)
        tell_all(collector)
        wait_until(lambda: len(server.frames) == 5)
        server.hang_up()
        wait_until(lambda: not collector._line.is_open)

        assert collector.tell() > timedelta(0)
        assert len(server.connections) == 1
        record(db, 1)
        tell_all(collector)
        wait_until(lambda: len(server.connections) == 2 and len(server.connections[1]) == 4)

        assert [number_of(frame) for frame in server.connections[1]] == [3, 4, 5, 6]
        assert acts(db, Act.COLLECTOR_DOWN) == []


def test_the_trail_is_told_once_while_the_database_can_only_be_read(db: Database, collectors, context) -> None:
    record(db, 2)
    with TlsCollector(context) as server:
        collector = collectors(server.url)
        tell_all(collector)
        record(db, 3)
        with only_read(db):
            for _ in range(4):
                assert collector.tell() > timedelta(0)
        tell_all(collector)
        record(db, 1)
        tell_all(collector)
        wait_until(lambda: 6 in server.numbers)

        assert server.numbers == [1, 2, 3, 4, 5, 6]
        assert position(db) == 6


def test_a_collector_that_is_another_is_told_nothing_and_that_is_told(db: Database, collectors, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    record(db, 3)
    with TlsCollector(server_context(stranger.issue("collector", hosts=("localhost",)))) as server:
        collector = collectors(server.url)

        assert collector.tell() == timedelta(seconds=1)
        assert collector.tell() == timedelta(seconds=2)
        assert server.frames == []
    with db() as session:
        (down,) = session.scalars(select(AuditEvent).where(AuditEvent.act == Act.COLLECTOR_DOWN))
        assert session.get_one(AuditSink, "syslog").reason == down.detail["reason"]
    assert down.outcome == audit.SERIOUS
    assert down.detail["waiting"] == 3
    assert "expected a certificate that holds" in down.detail["reason"]


def test_one_of_two_gateways_tells_and_the_other_takes_over(db: Database, collectors, context) -> None:
    with TlsCollector(context) as server:
        first, second = collectors(server.url), collectors(server.url)
        record(db, 2)
        tell_all(first)
        record(db, 2)

        assert second.tell() == timedelta(seconds=5)
        wait_until(lambda: len(server.frames) == 2)
        first._line.close()  # stop() would tell the rest
        first.stop()
        second.tell()
        wait_until(lambda: len(server.connections) == 2 and len(server.connections[1]) == 2)

    assert server.numbers == [1, 2, 3, 4]


def test_the_thread_tells_what_comes_and_at_its_stop_what_is_left(db: Database, collectors, context) -> None:
    with TlsCollector(context) as server:
        collector = collectors(server.url)
        collector.start()
        record(db, 1)
        wait_until(lambda: server.frames)
        record(db, 150)
        collector.stop()
        wait_until(lambda: len(server.frames) == 151)

    assert server.numbers == list(range(1, 152))


def test_without_a_collector_there_is_no_thread_and_nothing_is_written(db: Database, collectors) -> None:
    collector = collectors("")
    before = threading.active_count()

    collector.start()

    assert threading.active_count() <= before
    with db() as session:
        assert session.get(AuditSink, "syslog") is None


def test_over_udp_a_message_that_is_too_long_is_told_in_brief(db: Database, collectors) -> None:
    record(db, 1)
    record(db, 1, notes=["x" * 1000] * 100)
    record(db, 1)
    with udp_collector() as (port, received):
        tell_all(collectors(f"udp://127.0.0.1:{port}"))
        wait_until(lambda: len(received) == 3)

    assert [number_of(frame) for frame in received] == [1, 2, 3]
    roots = [etree.fromstring(xml_of(frame)) for frame in received]
    assert [problems(root) for root in roots] == [[]] * 3
    assert "notes" not in details(roots[1])


def test_over_udp_a_port_where_nobody_listens_keeps_the_trail_waiting(db: Database, collectors) -> None:
    port = free_port()
    collector = collectors(f"udp://127.0.0.1:{port}")
    record(db, 5)
    for _ in range(5):
        assert collector.tell() > timedelta(0)
    assert acts(db, Act.COLLECTOR_DOWN, Act.COLLECTOR_UP) == [Act.COLLECTOR_DOWN]

    with udp_collector(port) as (_, received):
        tell_all(collector)
        tell_all(collector)
        wait_until(lambda: len(received) == 7)

    assert [number_of(frame) for frame in received] == list(range(1, 8))


_TELL_ONCE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from gateway.telling.collector import Collector
from gateway.db import open_database
from gateway.configuration.oversight import AuditSection
url, syslog, authorities = sys.argv[1:]
section = AuditSection(syslog=syslog, authorities=Path(authorities), source="gw1")
collector = Collector(open_database(url), section, clock=lambda: datetime.now(UTC))
collector.tell()
"""


def test_a_death_between_the_messages_and_the_row_loses_none(
    db: Database, database_url: str, collectors, context, authority: Authority
) -> None:
    record(db, 5)
    with TlsCollector(context) as server:
        words = [sys.executable, "-c", _TELL_ONCE, database_url, server.url, str(authority.certificate)]
        died = subprocess.run(
            words,
            cwd=ROOT,
            env={**os.environ, "GATEWAY_CRASH_AT": "collector.sent"},
            timeout=60,
            check=False,
            capture_output=True,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert position(db) == 0
        record(db, 2)
        collector = collectors(server.url)
        wait_until(lambda: tell_all(collector) or len(server.frames) == 12)  # its turn goes when PostgreSQL sees its death

    assert server.numbers == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7]


_RSYSLOG = """
global(workDirectory="{folder}" maxMessageSize="256k" defaultNetstreamDriver="gtls"
  defaultNetstreamDriverCAFile="{authority}" defaultNetstreamDriverCertFile="{certificate}"
  defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" port="{port}" address="127.0.0.1" maxFrameSize="262144")
template(name="all" type="string" string="%msgid% %app-name% %timestamp:::date-rfc3339% %msg%\\n")
action(type="omfile" file="{folder}/out" template="all")
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_rsyslog_takes_the_trail_over_tls(db: Database, collectors, authority: Authority, tmp_path: Path) -> None:
    program = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or subprocess.run([program, "-v"], capture_output=True, check=False).returncode:
        pytest.skip("rsyslogd is not installed (Debian: rsyslog rsyslog-gnutls)")
    issued, port = authority.issue("collector", hosts=("localhost",)), free_port()
    values = {"authority": authority.certificate, "certificate": issued.certificate, "key": issued.key, "port": port}
    (tmp_path / "rsyslog.conf").write_text(_RSYSLOG.format(folder=tmp_path, **values))
    ours = authority.issue("gateway")
    record(db, 250)
    words = [program, "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            collector = collectors(f"tls://localhost:{port}", certificate=ours.certificate, certificate_key=ours.key)
            out = tmp_path / "out"
            wait_until(lambda: collector.tell() >= timedelta(0) and out.exists() and position(db) == newest(db))
            wait_until(lambda: out.read_bytes().count(b"\n") >= newest(db))
        finally:
            server.terminate()

    lines = out.read_bytes().splitlines()
    assert [number_of(line) for line in lines if b"job.retried" in line] == list(range(1, 251))
    assert lines[0].startswith(b"DICOM+RFC3881 gateway 2026-01-02T10:11:12")
