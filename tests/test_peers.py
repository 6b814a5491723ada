"""Protocols are files; a table in gateway.toml is checked whole; what a peer's status means for a delivery."""

import sys
import textwrap
from pathlib import Path

import pytest

from gateway.errors import ConfigError, Rejected, Unreachable
from gateway.peers import Proof, Sent, judge, load_protocols, make_peer, send_many

PROTOCOLS = load_protocols()


def test_the_built_in_protocols_are_the_files_of_the_package():
    assert sorted(PROTOCOLS) == ["dicomweb", "dimse", "folder", "orthanc"]


def test_a_file_dropped_into_a_folder_is_a_protocol(tmp_path, instances):
    (tmp_path / "bin.py").write_text(
        textwrap.dedent("""
        from __future__ import annotations
        from dataclasses import dataclass
        from gateway.peers import Sent, read_settings, setting, is_text

        @dataclass(frozen=True)
        class Bin:
            name: str = setting("a name", is_text)

            def send(self, path):
                return Sent(0, f"{self.name} took {path.name}")

            def echo(self):
                return "hollow"

        def peer(settings):
            return read_settings(Bin, settings)
        """)
    )

    protocols = load_protocols([tmp_path])
    made = make_peer({"name": "dustbin", "protocol": "bin"}, protocols=protocols)

    assert list(send_many(made, instances[:1])) == [(instances[0], Sent(0, "dustbin took 0.stored"))]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("send = print", "expected def peer(settings: Mapping[str, object]) -> Peer"),
        ("import a_module_that_is_not_there", "cannot be loaded: ModuleNotFoundError"),
        ("def peer(", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_file_that_is_no_protocol_stops_the_start_with_its_path(tmp_path, source, problem):
    path = tmp_path / "broken.py"
    path.write_text(source)

    with pytest.raises(ConfigError) as raised:
        load_protocols([tmp_path])

    assert raised.value.problems[0].startswith(f"{path}: {problem}")


def test_a_second_file_of_one_name_stops_the_start(tmp_path):
    (tmp_path / "dimse.py").write_text("def peer(settings): ...")

    with pytest.raises(ConfigError, match="a protocol of this name is there already"):
        load_protocols([Path(sys.modules["gateway.peers"].__file__).parent, tmp_path])


def test_everything_wrong_in_a_table_is_said_at_once_without_its_values():
    keys = (
        "name, host, port, ae_title, calling_ae_title, timeout_seconds, proof, concurrency, per_minute, objects, fetch, worklist,"
        " tls, verify, certificate, certificate_key, certificate_name"
    )

    with pytest.raises(ConfigError) as raised:
        make_peer(
            {
                "name": "pacs",
                "protocol": "dimse",
                "host": "10.0.0.1",
                "port": "104",
                "ae_title": "FAR TOO LONG A TITLE",
                "hots": "10.0.0.2",
                "timeout_seconds": -1,
            },
            protocols=PROTOCOLS,
        )

    assert raised.value.problems == (
        f"peer pacs: hots: not a key of this protocol, which has {keys}",
        "peer pacs: port: expected a whole number from 1 to 65535",
        "peer pacs: ae_title: expected 1 to 16 ASCII characters without backslash",
        "peer pacs: timeout_seconds: expected seconds, more than 0 and at most 3600",
    )


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"protocol": "carrier pigeon"}, "peer p: protocol: expected one of dicomweb, dimse, folder"),
        ({"protocol": "folder"}, "peer p: path: expected the path of a folder"),
        ({"protocol": "dicomweb", "url": "ftp://host/"}, "peer p: url: expected http:// or https://"),
        ({"protocol": "dicomweb", "url": "http://user:secret@host/"}, "peer p: url: expected http:// or https://"),
        (
            {"protocol": "dicomweb", "url": "http://host/", "user": "ann"},
            "peer p: expected a token, or user and password together",
        ),
        ({"protocol": "folder", "path": "/p", "proof": "query"}, "peer p: proof: expected one of read-back, none"),
        ({"protocol": "dicomweb", "url": "http://host/", "proof": "commitment"}, "peer p: proof: expected one of query, none"),
        ({"protocol": "folder", "path": "/p", "concurrency": 0}, "peer p: concurrency: expected a whole number from 1 to 64"),
        ({"protocol": "folder", "path": "/p", "per_minute": True}, "peer p: per_minute: expected a whole number, 1 or more"),
        ({"protocol": "folder", "path": "/p", "objects": []}, "peer p: objects: expected a list of some of"),
        ({"protocol": "folder", "path": "/p", "objects": "reports"}, "peer p: objects: expected a list of some of"),
        ({"protocol": "dicomweb", "url": "http://host/", "objects": ["SEG"]}, "peer p: objects: expected a list of some of"),
        ({"protocol": "dicomweb", "url": "http://host/", "verify": "/no/such/file"}, "peer p: verify: expected true, false, or"),
        ({"protocol": "dicomweb", "url": "http://host/", "verify": __file__}, "peer p: verify: expected true, false, or"),
    ],
)
def test_a_wrong_table_is_refused_with_peer_key_and_what_was_expected(table, expected):
    with pytest.raises(ConfigError) as raised:
        make_peer({"name": "p", **table}, protocols=PROTOCOLS)

    assert raised.value.problems[0].startswith(expected)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("protocol", "settings", "proof"),
    [
        ("dimse", {"host": "h", "port": 104, "ae_title": "A"}, Proof.QUERY),
        ("dicomweb", {"url": "http://host/"}, Proof.QUERY),
        ("folder", {"path": "/p"}, Proof.READ_BACK),
    ],
)
def test_a_peer_proves_its_deliveries_unless_its_table_says_otherwise(protocol, settings, proof):
    table = {"name": "p", "protocol": protocol, **settings}

    assert make_peer(table, protocols=PROTOCOLS).proof is proof
    assert make_peer({**table, "proof": "none"}, protocols=PROTOCOLS).proof is Proof.NONE


@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000, 0xB006, 0xB007])
def test_success_duplicate_and_warnings_are_delivered(status):
    assert judge(status).status == status


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110, 0x0213])
def test_a_peer_without_resources_is_tried_again(status):
    with pytest.raises(Unreachable, match=f"0x{status:04X}"):
        judge(status)


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0117, 0x0122, 0x0124, 0xFE00, 0x1234])
def test_every_other_status_is_final(status):
    with pytest.raises(Rejected) as raised:
        judge(status)

    assert raised.value.status == status
