"""Instances of many makers through the listener (PS3.4 B): kept byte for byte, as DCMTK's own listener receives them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from gateway.errors import DeliveryError, Rejected
from gateway.peers import load_protocols, make_peer, send_many
from gateway.rows.trail import AuditEvent
from tests.conftest import ROOT
from tests.gate_fixture import Gate, open_gate
from tests.peers_fixture import data_set, running_storescp

DATA = Path(os.environ.get("GATEWAY_TEST_DATA") or ROOT / "../shared/data")
FOLDERS = sorted(path.name for path in DATA.iterdir() if path.is_dir()) if DATA.is_dir() else []


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Gate]:
    with open_gate(tmp_path_factory.mktemp("gate"), migrated_sqlite) as gate:
        yield gate


def part10_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[128:132] == b"DICM")


# What is wrong with each file is wrong in the file itself: its file meta names another class or instance, or its end is missing.
REFUSED = {
    "charsets/chrJapMulti.dcm": 0x0117,
    "charsets/chrJapMultiExplicitIR6.dcm": 0x0117,
    "charsets/chrSQEncoding.dcm": 0xA900,
    "charsets/chrSQEncoding1.dcm": 0xA900,
    "nasty_small/MR_truncated.dcm": 0xC000,
    "nasty_small/rtplan_truncated.dcm": 0xC000,
    "nasty_small/UN_sequence.dcm": 0xA900,
    "nasty_small/decimal_rescale.dcm": 0xA900,
    "nasty_small/no_meta_group_length.dcm": 0xA900,
    "nasty_small/badVR.dcm": 0x0117,
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_instances_are_kept_byte_for_byte_or_refused_with_their_status(
    open_to_all: Gate, real_data: Path, folder: str
) -> None:
    files = part10_files(real_data / folder)
    settings = {"name": "gate", "protocol": "dimse", "host": "127.0.0.1", "port": open_to_all.port, "ae_title": "AIGATEWAY"}
    peer = make_peer(settings | {"calling_ae_title": "CT1"}, protocols=load_protocols())

    before = len(open_to_all.refusals())
    outcomes = dict(send_many(peer, files))

    refused = [
        one.status for one in outcomes.values() if isinstance(one, Rejected) and str(one).startswith("the peer does not take it")
    ]
    assert sorted(refused) == sorted(status for name, status in REFUSED.items() if name.startswith(f"{folder}/"))
    assert sorted(open_to_all.refusals()[before:]) == sorted(refused)
    taken = [path for path, outcome in outcomes.items() if not isinstance(outcome, DeliveryError)]
    assert {data_set(path) for path in taken} <= open_to_all.stored()
    assert not [event for event in open_to_all.rows(AuditEvent) if event.act == "instance.missing"]


# DCMTK's storescu proposes one compressed transfer syntax at a time, named by an option; HTJ2K and MPEG it does not send.
OPTIONS = {
    JPEGBaseline8Bit: "-xy", JPEGExtended12Bit: "-xx", JPEGLosslessSV1: "-xs", JPEG2000Lossless: "-xv", JPEG2000: "-xw",
    JPEGLSLossless: "-xt", JPEGLSNearLossless: "-xu", RLELossless: "-xr", ExplicitVRLittleEndian: "-xe", ImplicitVRLittleEndian: "-xi",
}  # fmt: skip


def sent_by_storescu(files: list[Path], port: int) -> None:
    for syntax, option in OPTIONS.items():
        same = [path for path in files if _syntax(path) == syntax]
        if same:
            _dcmtk(
                "storescu", "-R", option, "--no-halt", "-aet", "CT1", "-aec", "AIGATEWAY", "127.0.0.1", str(port), *map(str, same)
            )


def sent_by_dcmsend(files: list[Path], port: int) -> None:
    options = ("--no-halt", "--no-illegal-proposal", "--decompress-never", "-aet", "CT1", "-aec", "AIGATEWAY")
    _dcmtk("dcmsend", *options, "127.0.0.1", str(port), *map(str, files))


@pytest.mark.parametrize("sent", [sent_by_storescu, sent_by_dcmsend])
def test_what_dcmtk_sends_is_kept_byte_for_byte_as_dcmtk_itself_receives_it(
    tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch, sent: Callable[[list[Path], int], None]
) -> None:
    reference = tmp_path / "reference"
    reference.mkdir()
    chosen = [path for folder in FOLDERS for path in part10_files(real_data / folder)[:4]]  # further slices tell nothing new
    files = [path for path in chosen if _syntax(path) in OPTIONS]

    with monkeypatch.context() as among_themselves:
        among_themselves.setenv("TCP_NODELAY", "1")  # they wait 40 ms for each other otherwise, several times a file
        with running_storescp(reference, "+xa", "--unique-filenames") as port:
            sent(files, port)
    with open_gate(tmp_path) as gate:
        sent(files, gate.port)
        kept, refused = gate.bytes_held(), gate.refusals()

    received = {data_set(path) for path in reference.iterdir()}
    assert len(received) > len(files) / 2
    assert received <= kept  # DCMTK 3.6.7 does not know label maps, the gateway does
    assert refused == []


@cache
def _syntax(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).file_meta.get("TransferSyntaxUID"))


def _dcmtk(program: str, *arguments: Any) -> None:
    if shutil.which(program) is None:
        pytest.skip("needs the Debian package dcmtk")
    environment = os.environ | {"TCP_NODELAY": "1"}
    subprocess.run([program, *arguments], check=False, capture_output=True, timeout=120, env=environment)
