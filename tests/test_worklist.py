"""The worklist says how urgent an order is: DCMTK's wlmscpfs, and one that is away."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from gateway.dicom.uids import derived_uid
from gateway.errors import Unreachable
from gateway.fetching.worklist import Worklist
from gateway.peers import load_protocols, make_peer
from gateway.peers.dimse import Dimse
from tests.peers_fixture import running_scp
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.world import World

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def order(folder: Path, accession_number: str, priority: str) -> None:
    """An entry of wlmscpfs: one file, with everything that it demands (PS3.4 table K.6-1)."""
    step = Dataset()
    step.ScheduledStationAETitle, step.Modality = "CT1", "CT"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20260102", "1000"
    step.ScheduledPerformingPhysicianName = step.ScheduledProcedureStepDescription = "x"
    step.ScheduledProcedureStepID, step.ScheduledProcedureStepLocation = "1", "x"
    step.PreMedication = step.CommentsOnTheScheduledProcedureStep = ""
    ds = Dataset()
    ds.AccessionNumber, ds.RequestedProcedurePriority = accession_number, priority
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "A^B", "1", "19500101", "F"
    ds.StudyInstanceUID, ds.RequestedProcedureID = derived_uid("order", accession_number, priority), "1"
    ds.RequestedProcedureDescription, ds.ReferringPhysicianName, ds.RequestingPhysician = "x", "A^B", "A^B"
    ds.ScheduledProcedureStepSequence = [step]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.276.0.7230010.3.1.0.1",
        ds.StudyInstanceUID,
    )
    ds.save_as(folder / f"{accession_number}{priority}.wl", enforce_file_format=True)


@contextmanager
def ris(folder: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """DCMTK's worklist; the folder for its entries, and the [[peers]] table for it."""
    program = shutil.which("wlmscpfs")
    if program is None:
        pytest.skip("wlmscpfs is not installed (Debian: dcmtk)")
    entries, port = folder / "ris" / "RIS", free_port()
    entries.mkdir(parents=True)
    (entries / "lockfile").touch()
    process = subprocess.Popen([program, "-s", "-dfp", str(entries.parent), str(port)], stdout=subprocess.DEVNULL)
    try:
        yield entries, {
            "name": "ris", "protocol": "dimse", "host": "127.0.0.1", "port": port, "ae_title": "RIS", "worklist": True, "proof": "none",
        }  # fmt: skip
    finally:
        process.kill()
        process.wait()


def made(table: dict[str, object]) -> Dimse:
    peer = make_peer(table, protocols=load_protocols())
    assert isinstance(peer, Dimse)
    return peer


def asked(peer: Dimse, accession_number: str) -> set[str]:
    """Once it is up."""
    for _ in range(600):
        try:
            return peer.requested_priorities(accession_number)
        except Unreachable as error:
            last = error
            time.sleep(0.05)
    raise last


def test_the_priorities_of_an_order_are_told_and_no_others(tmp_path: Path) -> None:
    with ris(tmp_path) as (entries, table):
        order(entries, "A1", "STAT")
        order(entries, "A1", "LOW")
        order(entries, "B2", "ROUTINE")
        order(entries, "C3", "")
        peer = made(table)

        assert asked(peer, "A1") == {"STAT", "LOW"}
        assert asked(peer, "B2") == {"ROUTINE"}
        assert asked(peer, "C3") == set()
        assert asked(peer, "unknown") == set()


def test_a_peer_that_keeps_no_worklist_is_told_in_words() -> None:
    with running_scp() as scp:
        peer = made(
            {"name": "p", "protocol": "dimse", "host": "127.0.0.1", "port": scp.port, "ae_title": "SCP", "worklist": True}
        )

        with pytest.raises(Unreachable, match="worklist = false"):
            peer.requested_priorities("A1")


def test_a_worklist_that_is_away_says_nothing_and_is_left_alone_for_a_minute(tmp_path: Path) -> None:
    with ris(tmp_path) as (entries, table):
        order(entries, "A1", "STAT")
        peer, clock = made(table), [NOW]
        assert asked(peer, "A1") == {"STAT"}
        away = made(table | {"port": free_port()})
        peers = {"ris": away}
        worklist = Worklist(lambda: peers, clock=lambda: clock[0])
        assert worklist.priorities("A1") == set()

        peers["ris"] = peer
        assert worklist.priorities("A1") == set()
        clock[0] += timedelta(minutes=1)

        assert worklist.priorities("A1") == {"STAT"}


def test_only_the_peers_that_are_a_worklist_are_asked_and_only_for_an_order(tmp_path: Path) -> None:
    nobody = {"name": "p", "protocol": "dimse", "host": "127.0.0.1", "port": free_port(), "ae_title": "SCP"}

    assert Worklist(lambda: {"p": made(nobody)}, clock=lambda: NOW).priorities("A1") == set()
    worklist = Worklist(lambda: {"p": made(nobody | {"worklist": True})}, clock=lambda: NOW)
    for no_order in (" ", "A*", "A?", "A\\B", "Ünfall", "1" * 17):  # it would be asked for others' orders, or could not be asked
        assert worklist.priorities(no_order) == set()
    assert worklist._paused == {}


def test_a_series_whose_order_is_stat_makes_a_stat_job(tmp_path: Path, triton: str) -> None:
    stat, routine = ct_series(4, seed=1, AccessionNumber="A1"), ct_series(4, seed=2, AccessionNumber="B2")
    with ris(tmp_path) as (entries, table):
        order(entries, "A1", "STAT")
        order(entries, "B2", "ROUTINE")
        assert asked(made(table), "A1") == {"STAT"}
        pacs = {"name": "pacs", "protocol": "folder", "path": str(tmp_path / "world" / "pacs")}
        with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton, (pacs, table)) as world:
            (world.folder / "rules.yaml").write_text((world.folder / "rules.yaml").read_text().replace("pacs, ris", "pacs"))
            world.start()
            world.send(stat)
            world.send(routine)
            world.wait_settled(2)

            (one,), (other,) = world.story(stat).jobs, world.story(routine).jobs
            assert (one.job.priority, other.job.priority) == ("stat", "routine")
