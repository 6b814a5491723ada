"""Audit messages go over UDP and TLS as RFC 5424, 5425 and 5426 say, to nobody but the collector that was meant."""

import socket
import ssl
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from gateway.errors import CollectorError
from gateway.telling import syslog
from gateway.telling.syslog import LONGEST_DATAGRAM, Line, frame, line
from tests.certificates import Authority
from tests.collector_fixture import TlsCollector, server_context, udp_collector, wait_until
from tests.ports import free_port

NOW = datetime(2026, 1, 2, 10, 11, 12, 345678, tzinfo=UTC)


def a_line(url: str, authority: Authority | None = None, issued=None) -> Line:
    return line(
        url, authorities=authority.certificate if authority else None, certificate=issued.certificate if issued else None,
        certificate_key=issued.key if issued else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


def test_a_message_has_the_header_of_rfc_5424() -> None:
    made = frame(b"<AuditMessage/>", at=NOW.astimezone(timezone(timedelta(hours=2))), host="gw.example", process=4321)

    assert made == b"<85>1 2026-01-02T10:11:12.345678Z gw.example gateway 4321 DICOM+RFC3881 - \xef\xbb\xbf<AuditMessage/>"


def test_a_host_name_that_the_header_cannot_hold_breaks_no_field() -> None:
    assert frame(b"", at=NOW, host="my gäteway\n", process=1).split(b" ")[2] == b"my-g-teway-"
    assert frame(b"", at=NOW, host="", process=1).split(b" ")[2] == b"-"


def test_a_message_is_one_datagram() -> None:
    messages = [frame(b"<one/>", at=NOW, host="h", process=1), b"x" * LONGEST_DATAGRAM]
    with udp_collector() as (port, received):
        way = a_line(f"udp://127.0.0.1:{port}")
        way.open()
        way.send(messages)
        wait_until(lambda: len(received) == 2)
        way.close()

    assert received == messages


def test_datagrams_that_have_waited_do_not_come_faster_than_they_are_read() -> None:
    messages = [frame(b"<one/>", at=NOW, host="h", process=number) for number in range(300)]
    with udp_collector() as (port, received):
        way = a_line(f"udp://127.0.0.1:{port}")
        way.open()
        began = time.monotonic()
        way.send(messages)
        took = time.monotonic() - began
        wait_until(lambda: len(received) >= 300)
        way.close()

    assert received == messages
    assert took >= 0.3, "expected a millisecond for each: who reads them loses what comes faster"


def test_a_datagram_that_would_be_too_long_is_not_sent() -> None:
    with udp_collector() as (port, received):
        way = a_line(f"udp://127.0.0.1:{port}")
        way.open()
        with pytest.raises(CollectorError, match="at most 65000 bytes"):
            way.send([b"short", b"x" * (LONGEST_DATAGRAM + 1)])
        way.close()

    assert received == []


def test_a_udp_port_where_nobody_listens_is_noticed() -> None:
    way = a_line(f"udp://127.0.0.1:{free_port()}")
    way.open()

    with pytest.raises(CollectorError, match="Connection refused"):
        way.send([b"one"])
    way.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_go_over_tls_each_after_its_count_of_octets(authority: Authority, version: ssl.TLSVersion) -> None:
    context = server_context(authority.issue("collector", hosts=("localhost",)))
    context.minimum_version = context.maximum_version = version
    messages = [b"<85>1 - - - - - -", "ä 12 ".encode() * 40_000, b"8 \n"]
    with TlsCollector(context) as collector:
        way = a_line(collector.url, authority)
        way.open()
        way.send(messages[:1])
        assert way.is_open
        way.send(messages[1:])
        wait_until(lambda: len(collector.frames) == 3)
        way.close()

    assert collector.frames == messages
    assert not way.is_open


def test_a_host_name_is_checked_and_so_is_who_signed(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    cases = {
        "another host": (authority.issue("collector", hosts=("elsewhere.example",)), "localhost", authority, "localhost"),
        "no host": (authority.issue("collector"), "127.0.0.1", authority, "127.0.0.1"),
        "another authority": (stranger.issue("collector", hosts=("localhost",)), "127.0.0.1", authority, "issuer"),
        "expired": (authority.issue("late", hosts=("localhost",), expired=True), "127.0.0.1", authority, "expired"),
        "authorities of the system": (authority.issue("c", hosts=("localhost",)), "127.0.0.1", None, "certificate that holds"),
    }
    for issued, host, trusted, words in cases.values():
        with TlsCollector(server_context(issued)) as collector:
            way = a_line(f"tls://{host}:{collector.port}", trusted)
            with pytest.raises(CollectorError, match=words):
                way.open()
            assert not way.is_open
            assert collector.frames == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_our_certificate_is_shown_and_that_it_is_missing_is_noticed(authority: Authority, version: ssl.TLSVersion) -> None:
    context = server_context(authority.issue("collector", hosts=("localhost",)), authority)
    context.minimum_version = context.maximum_version = version
    with TlsCollector(context) as collector:
        way = a_line(collector.url, authority, authority.issue("gateway"))
        way.open()
        way.send([b"one"])
        wait_until(lambda: collector.frames == [b"one"])
        way.close()

        with pytest.raises(CollectorError, match=r"expected a (TLS handshake|collector)"):
            a_line(collector.url, authority).open()
        assert collector.frames == [b"one"]


def test_tls_older_than_1_2_is_not_spoken(authority: Authority) -> None:
    context = server_context(authority.issue("collector", hosts=("localhost",)))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with TlsCollector(context) as collector, pytest.raises(CollectorError, match="expected a TLS handshake"):
        a_line(collector.url, authority).open()


def test_that_the_collector_hung_up_is_seen_before_something_is_sent_into_the_void(authority: Authority) -> None:
    with TlsCollector(server_context(authority.issue("c", hosts=("localhost",))), hangs_up_after=1) as collector:
        way = a_line(collector.url, authority)
        way.open()
        way.send([b"one"])
        wait_until(lambda: not way.is_open)
        way.close()


def test_a_collector_that_hangs_up_while_it_is_told_raises(authority: Authority) -> None:
    with TlsCollector(server_context(authority.issue("c", hosts=("localhost",))), hangs_up_after=1) as collector:
        way = a_line(collector.url, authority)
        way.open()
        with pytest.raises(CollectorError, match="expected"):
            for _ in range(100):
                way.send([b"x" * 1_000_000] * 10)
        way.close()


@pytest.mark.parametrize("url", ["tls://127.0.0.1:{port}", "tls://no.such.host.invalid:6514", "udp://no.such.host.invalid:514"])
def test_a_collector_that_is_not_there_is_told_in_words(url: str) -> None:
    with pytest.raises(CollectorError, match=r"Connection refused|a host name that is known"):
        a_line(url.format(port=free_port())).open()


def test_a_collector_that_says_nothing_is_told_in_words(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "_CONNECT_SECONDS", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(CollectorError, match=r"^expected a collector that answers in time$"),
    ):
        a_line(f"tls://127.0.0.1:{silent.getsockname()[1]}", authority).open()


def test_files_that_hold_no_certificates_are_told_in_words(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for missing in (tmp_path / "empty.pem", tmp_path / "absent.pem"):
        for settings in ({"authorities": missing}, {"authorities": authority.certificate, "certificate": missing}):
            way = line("tls://127.0.0.1:1", **({"certificate": None, "certificate_key": None} | settings))
            with pytest.raises(CollectorError, match=r"PEM files in .* of \[audit\]"):
                way.open()


def test_addresses_of_ipv6_are_understood() -> None:
    assert a_line("udp://[::1]:514")._address == ("::1", 514)
    assert a_line("tls://[::1]:6514")._address == ("::1", 6514)
