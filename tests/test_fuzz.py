"""The fuzzer: a short run of each target finds nothing, what it once found stays found, and a planted defect is seen."""

import os
import struct
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway.dicom import scan
from gateway.dicom.walk import Walk
from gateway.doors import journal
from gateway.doors.door import Arrival, Door
from gateway.errors import NotUnderstood
from gateway.ingest._multipart import Multipart
from tests.fuzz import associations, bodies, datasets, segments
from tests.fuzz.__main__ import main
from tests.fuzz.session import Session, run
from tests.fuzz.targets import FOUND, TARGETS, fuzz

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom warns of what is wrong with a value; the gateway drops that
needs_atheris = pytest.mark.skipif(find_spec("atheris") is None, reason="needs atheris, which has wheels for Linux on x86-64")
PLANTED = "LONGEST, TOKENS, HELD = 64, [b'ab'], []\ndef seeds():\n    yield b'abc'\ndef fuzz(data):\n"


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """A target of these lines, which the engine can import."""
    (folder / "planted.py").write_text(PLANTED + "".join(f"    {line}\n" for line in body.split("\n")))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "planted"


def session(module: str, folder: Path, *, seconds: int = 3, patience: int = 20) -> Session:
    return run("one", module, seconds=seconds, seed=1, keep=folder / "kept", say=print, patience=patience)


@needs_atheris
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_no_defect(name: str, tmp_path: Path) -> None:
    found = session(TARGETS[name], tmp_path)

    assert found.defect == ""
    assert found.runs > 0


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_fuzzer_begins_with_is_no_defect(name: str) -> None:
    seeds = list(import_module(TARGETS[name]).seeds())

    for seed in seeds:
        fuzz(name, seed)
    assert seeds


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_failed_is_no_defect_any_more(name: str) -> None:
    for path in sorted((FOUND / name).glob("*")):
        fuzz(name, path.read_bytes())


@needs_atheris
def test_an_input_that_fails_is_written_to_a_file_which_the_command_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = planted(tmp_path, monkeypatch, "if data[:1] == b'Q':\n    raise ValueError")
    monkeypatch.setitem(TARGETS, "scan", module)
    monkeypatch.setattr(
        sys, "argv", ["fuzz", "--target", "scan", "--seconds", "30", "--seed", "1", "--keep", str(tmp_path / "kept")]
    )

    assert main() == 1

    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.read_bytes()[:1] == b"Q"
    assert str(kept) in capsys.readouterr().out


@needs_atheris
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("if data[:1] == b'Q':\n    while True: pass", "timeout"),
        ("import os\nHELD.append(os.dup(0)) if len(HELD) < 500 else None\nimport time; time.sleep(0.01)", "more descriptors"),
        ("import time\nHELD.append(bytearray(b'x' * 2**21)) if len(HELD) < 150 else None\ntime.sleep(0.02)", "memory grew"),
    ],
    ids=["an input without an end", "descriptors that stay open", "memory that is held"],
)
def test_a_defect_that_raises_nothing_is_seen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: str) -> None:
    found = session(planted(tmp_path, monkeypatch, body), tmp_path, seconds=5, patience=2)

    assert told in found.defect


# Each target sees what it is there for: what is broken on purpose here


def first(module: object) -> bytes:
    return next(module.seeds())


def test_the_scan_target_sees_an_error_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "check_image", lambda *_, **__: {}["absent"])

    with pytest.raises(KeyError):
        datasets.fuzz(first(datasets))


def test_the_scan_target_sees_a_walk_that_depends_on_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Walk.run

    def forgetful(walk: Walk) -> None:
        right(walk)
        if len(walk._window) < walk._size:
            walk.values.clear()

    monkeypatch.setattr(Walk, "run", forgetful)

    with pytest.raises(AssertionError, match="whatever the window"):
        datasets.fuzz(first(datasets))


def test_the_pdu_target_sees_a_success_without_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Door, "kept", lambda *_: None)

    with pytest.raises(AssertionError, match="expected a promise for each success"):
        associations.fuzz(first(associations))


def test_the_pdu_target_sees_an_unexpected_error_that_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Door, "kept", lambda *_: {}["absent"])

    with pytest.raises(AssertionError, match="expected no unexpected error"):
        associations.fuzz(first(associations))


def test_the_pdu_target_sees_a_descriptor_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(journal.Segment, "close", lambda segment: left.append(segment._file))

    with pytest.raises(AssertionError, match="expected no descriptor to be left"):
        associations.fuzz(first(associations))
    for descriptor in left:
        os.close(descriptor)


def test_the_pdu_target_sees_a_door_that_keeps_what_the_scan_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arrival, "keep", lambda arrival: arrival._door.kept(arrival, scan.Scan({}, None)))

    with pytest.raises(NotUnderstood):
        for seed in associations.seeds():
            associations.fuzz(seed)


def test_the_multipart_target_sees_parts_that_depend_on_how_a_body_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Multipart._after_delimiter

    def hasty(multipart: Multipart, data: bytes, at: int) -> int:
        return len(data) if data[at:] == b"\r" else right(multipart, data, at)

    monkeypatch.setattr(Multipart, "_after_delimiter", hasty)

    with pytest.raises(AssertionError, match="however the body is cut up"):
        for extra in range(300):
            bodies.fuzz(b"\r\n--b0\r\n\r\nx\r\n--b0--" + bytes(extra))


def test_the_multipart_target_sees_an_error_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "read_meta", lambda head: struct.unpack("<I", head))

    with pytest.raises(struct.error):
        bodies.fuzz(first(bodies))


def test_the_journal_target_sees_a_reader_that_believes_what_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_head", lambda _name, size, encoded, check: struct.pack("<QIQQ", size, len(encoded), check, 0))
    segments._committed.cache_clear()
    record_at = segments._committed().ends[0] - 2

    try:
        with pytest.raises((AssertionError, ValueError)):
            segments.fuzz(struct.pack("<BHHB", 0, record_at, 0, ord("z")))
    finally:
        segments._committed.cache_clear()
