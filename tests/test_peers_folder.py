"""A folder as a peer: whole and durable, or not there at all."""

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import Rejected, Unreachable
from gateway.peers import Sought, make_peer, send_many
from tests.peers_fixture import PROTOCOLS, stored
from tests.synthetic import ct_series, part10


def folder(path):
    return make_peer({"name": "share", "protocol": "folder", "path": str(path)}, protocols=PROTOCOLS)


def test_an_instance_is_written_under_its_uids_byte_for_byte(tmp_path, instances):
    ds = ct_series(4, 32, 32)[0]
    share = tmp_path / "share"
    share.mkdir()

    outcomes = [folder(share).send(instances[0]).status for _ in range(2)]

    written = share / ds.StudyInstanceUID / ds.SeriesInstanceUID / f"{ds.SOPInstanceUID}.dcm"
    assert outcomes == [0x0000, 0x0000]
    assert [path for path in share.rglob("*") if path.is_file()] == [written]
    assert written.read_bytes() == instances[0].read_bytes()


@pytest.mark.parametrize("mode", [0o755, 0o2770, 0o700])
def test_who_may_read_a_result_is_said_by_the_folder_it_goes_to(tmp_path, instances, mode: int):
    share = tmp_path / "share"
    share.mkdir()
    share.chmod(mode)
    before = os.umask(0o077)
    try:
        folder(share).send(instances[0])
    finally:
        os.umask(before)

    (written,) = share.rglob("*.dcm")
    assert written.stat().st_mode & 0o777 == mode & 0o666
    assert {place.stat().st_mode & 0o7777 for place in (written.parent, written.parent.parent)} == {mode}


def test_other_bytes_under_the_same_uid_are_neither_replaced_nor_called_delivered(tmp_path, instances):
    share = tmp_path / "share"
    share.mkdir()
    other = stored(tmp_path, ct_series(1, 32, 32, SeriesDescription="Other"))[0]
    first = tmp_path / "first"
    first.write_bytes(part10(ct_series(4, 32, 32)[0]))
    folder(share).send(first)

    with pytest.raises(Rejected) as raised:
        folder(share).send(other)

    assert raised.value.status == 0x0111
    assert [path.read_bytes() for path in share.rglob("*.dcm")] == [first.read_bytes()]


@pytest.mark.parametrize("uid", ["../../../etc", "1..2", "1.2." + "3" * 70, ""])
def test_a_malformed_uid_never_becomes_a_path(tmp_path, uid):
    share = tmp_path / "share"
    share.mkdir()
    content = part10(ct_series(1, 8, 8)[0])
    ours = ct_series(1, 8, 8)[0].StudyInstanceUID.encode()
    element = struct.pack("<HH2sH", 0x0020, 0x000D, b"UI", len(ours) + len(ours) % 2) + ours + b"\0" * (len(ours) % 2)
    value = uid.encode() + b"\0" * (len(uid) % 2)
    path = tmp_path / "bad"
    path.write_bytes(content.replace(element, struct.pack("<HH2sH", 0x0020, 0x000D, b"UI", len(value)) + value))

    with pytest.raises(Rejected, match="expected a valid StudyInstanceUID"):
        folder(share).send(path)

    assert list(share.iterdir()) == []


def test_a_folder_that_is_not_mounted_is_waited_for(tmp_path, instances):
    with pytest.raises(Unreachable, match="the folder cannot be written: No such file or directory"):
        folder(tmp_path / "share").send(instances[0])
    with pytest.raises(Unreachable, match="the folder cannot be written"):
        folder(tmp_path / "share").echo()


def test_a_disk_that_is_full_leaves_nothing_and_is_tried_again(tmp_path, instances):
    share = tmp_path / "share"
    share.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(Unreachable, match="the folder cannot be written"):
            folder(share).send(instances[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [path for path in share.rglob("*") if path.is_file()] == []
    assert folder(share).send(instances[0]).status == 0x0000


def test_a_folder_that_can_be_written_passes_the_echo_and_stays_empty(tmp_path):
    assert folder(tmp_path).echo() == "the folder can be written"
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_synced_before_its_name_and_the_folders_after(tmp_path, instances):
    share = tmp_path / "share"
    share.mkdir()
    code = f"from gateway.peers.folder import Folder; from pathlib import Path\nFolder(name='s', path={str(share)!r}).send(Path({str(instances[0])!r}))"
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,rename,renameat,renameat2", sys.executable, "-c", code]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("needs strace")
    if done.returncode and b"ptrace" in done.stderr:
        pytest.skip("tracing is not allowed here")

    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines() if str(share) in line]

    assert [line.split("(")[0] for line in calls] == ["fsync", "rename", "fsync", "fsync", "fsync"]
    assert ".part>" in calls[0]


def test_sending_many_tells_of_each_what_became_of_it(instances):
    outcomes = list(send_many(folder("/no/such/folder"), instances[:2]))

    assert [(path, type(outcome)) for path, outcome in outcomes] == [(path, Unreachable) for path in instances[:2]]


def wanted(ds, path):
    return Sought(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.SOPClassUID, path)


def test_what_is_there_is_read_back_and_compared(tmp_path, instances):
    series = ct_series(4, 32, 32)
    share = tmp_path / "share"
    share.mkdir()
    folder(share).send(instances[0])

    assert folder(share).holds(wanted(series[0], instances[0]))
    assert not folder(share).holds(wanted(series[1], instances[1]))


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + b"\1", lambda data: data[:-1], lambda data: b""])
def test_a_file_that_is_not_byte_for_byte_ours_is_no_proof(tmp_path, instances, damage):
    share = tmp_path / "share"
    share.mkdir()
    folder(share).send(instances[0])
    (written,) = share.rglob("*.dcm")

    written.write_bytes(damage(written.read_bytes()))

    assert not folder(share).holds(wanted(ct_series(4, 32, 32)[0], instances[0]))


def test_a_folder_that_is_not_mounted_says_nothing_of_what_is_in_it(tmp_path, instances):
    with pytest.raises(Unreachable, match="the folder cannot be read: No such file or directory"):
        folder(tmp_path / "share").holds(wanted(ct_series(4, 32, 32)[0], instances[0]))


def test_our_own_file_that_cannot_be_read_is_told_as_ours(tmp_path):
    with pytest.raises(Unreachable, match="our stored file cannot be read"):
        folder(tmp_path).holds(wanted(ct_series(1, 32, 32)[0], tmp_path / "missing"))


def test_a_folder_knows_no_patients_and_commits_to_nothing(tmp_path):
    assert folder(tmp_path).patient_of("1.2.3") is None
    with pytest.raises(Rejected, match='"read-back" or "none"'):
        folder(tmp_path).request_commitment("1.2.9", [("1.2", "1.2.3")])
