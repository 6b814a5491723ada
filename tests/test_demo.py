"""`gateway demo` as a newcomer runs it: with nothing configured, and with files of one's own."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.commands import demopacs
from gateway.errors import ConfigError
from gateway.imaging.phantom import chest_ct
from tests.conftest import ROOT
from tests.nursery import nursery
from tests.synthetic import ct_series

needs_triton = pytest.mark.skipif(
    not (ROOT / ".venv-triton").is_dir(), reason="NVIDIA Triton is not installed: run `make triton`"
)


def demo(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "gateway", "demo", "--once", "--folder", str(folder), *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, cwd=ROOT, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def forked(folder: Path) -> tuple[int, str, str]:
    """`gateway demo` on `files` in that folder, with its imports behind it: its exit code, and what it printed."""
    arguments = ["demo", str(folder / "files"), "--once", "--folder", str(folder / "demo")]
    code = nursery().start(arguments, os.environ, folder / "output", folder / "errors").wait(250)
    return code, (folder / "output").read_text(), (folder / "errors").read_text()


def program(folder: Path, *, fails: int) -> str:
    """Orthanc, but for the first starts, in which it ends by itself as where another program has taken its port."""
    script, count = folder / "orthanc.sh", folder / "starts"
    count.touch()
    script.write_text(
        f'#!/bin/sh\necho >> {count}\n[ $(wc -l < {count}) -gt {fails} ] || exit 1\nexec {demopacs.orthanc()} "$@"\n'
    )
    script.chmod(0o700)
    return str(script)


def small_phantom(folder: Path) -> Path:
    folder.mkdir()
    for number, dataset in enumerate(chest_ct(slices=80, rows=160, columns=160, now=datetime.now(UTC))):
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


@pytest.mark.skipif(demopacs.orthanc() is None, reason="Orthanc is not installed (Debian: orthanc)")
def test_an_orthanc_whose_port_was_taken_meanwhile_is_started_again_on_others(tmp_path: Path) -> None:
    with demopacs.pacs(tmp_path / "pacs", "AIGATEWAY", program(tmp_path, fails=2)) as pacs:
        assert pacs.instances("1.2.3") == []

    with (
        pytest.raises(ConfigError, match="did not start: its log lies beside its files"),
        demopacs.pacs(tmp_path / "pacs", "AIGATEWAY", program(tmp_path, fails=9)),
    ):
        pass


@needs_triton
@pytest.mark.skipif(demopacs.orthanc() is None, reason="Orthanc is not installed (Debian: orthanc)")
def test_a_chest_ct_goes_through_the_whole_gateway_and_its_results_come_back_from_orthanc(tmp_path: Path) -> None:
    told = demo(folder=tmp_path / "demo")

    assert "the PACS is Orthanc" in told
    assert "in the PACS: SEG" in told
    assert "in the PACS: SR" in told
    for step in ("last image", "complete", "job", "model", "encoded", "sent to the PACS", "proved to be there"):
        assert f"{step} +" in told
    assert "Both lungs" in told
    assert (tmp_path / "demo" / "lungs.png").read_bytes().startswith(b"\x89PNG")


@needs_triton
def test_files_of_ones_own_go_the_same_way_and_a_folder_stands_in_for_orthanc(tmp_path: Path) -> None:
    files = small_phantom(tmp_path / "files")
    code = (
        "import sys; from pathlib import Path; from rich.console import Console; from gateway.commands.demo import demonstrate;"
        "demonstrate(Path(sys.argv[1]), once=True, folder=Path(sys.argv[2]), out=Console(width=200), program=None)"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code, files, tmp_path / "demo"], capture_output=True, text=True, timeout=250, cwd=ROOT
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "the PACS is the folder" in ran.stdout
    assert len(list((tmp_path / "demo" / "pacs").rglob("*.dcm"))) == 2


@needs_triton
def test_a_series_that_no_rule_wants_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number, dataset in enumerate(ct_series(3)):
        dataset.save_as(tmp_path / "files" / f"{number}.dcm", enforce_file_format=True)

    code, told, errors = forked(tmp_path)

    assert code == 0, told + errors
    assert "no rule matched" in told
    assert "slices, at_least: 20" in told


def test_a_folder_without_dicom_files_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "notes.txt").write_text("nothing")

    code, _, errors = forked(tmp_path)

    assert code == 1
    assert "expected DICOM files" in errors
    assert "Traceback" not in errors
