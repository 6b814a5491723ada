"""Every real file of the developers' data, the broken ones included, by STOW-RS: kept byte for byte, or refused as it should be."""

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import httpx2
import pytest
from pydicom import Dataset

from gateway.dicom import scan
from gateway.dicom.filemeta import read_meta
from gateway.dicom.instance import Incoming, check
from gateway.doors import visits
from gateway.doors.door import Door
from gateway.doors.entry import Kept, promise
from gateway.doors.journal import entries, segments
from gateway.doors.policy import Policy
from gateway.errors import Refused
from gateway.ingest import Terms
from gateway.ingest.dicomweb import Limits, Server, Storage
from gateway.ingest.dimse import STORAGE, TRANSFER_SYNTAXES
from tests.conftest import ROOT
from tests.peers_fixture import data_set

DATA = Path(os.environ.get("GATEWAY_TEST_DATA") or ROOT / "../shared/data")
FOLDERS = sorted(path.name for path in DATA.iterdir() if path.is_dir()) if DATA.is_dir() else []
HEAD = b"--b0\r\nContent-Type: application/dicom\r\n\r\n"
TYPE = 'multipart/related; type="application/dicom"; boundary=b0'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "door").mkdir()
    policy = Policy("AIGATEWAY")
    door = Door(tmp_path / "door", clock=lambda: datetime.now(UTC), keep_free_bytes=0)
    storage = Storage(
        admit=policy.admit_request, terms=Terms(STORAGE, TRANSFER_SYNTAXES, 2**31), limits=Limits(grace_seconds=1),
        counted=visits.Limits(policy, maximum_associations=1, maximum_per_address=1, maximum_half_open=1),
    )  # fmt: skip
    running = Server(socket.create_server(("127.0.0.1", 0)), storage, door=door, tls=None)
    yield running
    running.close()
    door.close()


def expected(file: bytes) -> int:
    """The status that these bytes deserve; 0x0000 where nothing is wrong with them."""
    try:
        meta = read_meta(file)
        if meta is None:
            return 0xC000
        if meta.sop_class_uid not in STORAGE:
            return 0x0122
        if meta.transfer_syntax_uid not in TRANSFER_SYNTAXES:
            return 0xC122
        found = scan.scan(scan.in_memory(file[meta.offset :]), len(file) - meta.offset, meta.transfer_syntax_uid)
        check(Incoming(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid), found)
    except Refused as error:
        return error.dimse_status
    return 0x0000


def verdict(answer: Dataset) -> int:
    failed = [item.FailureReason for name in ("FailedSOPSequence", "OtherFailuresSequence") for item in answer.get(name, [])]
    assert len(failed) + len(answer.get("ReferencedSOPSequence", [])) == 1
    return int(failed[0]) if failed else 0x0000


@pytest.mark.parametrize("folder", FOLDERS or [pytest.param("", marks=pytest.mark.skip(reason=f"{DATA} is not here"))])
def test_real_files_over_the_web_are_kept_byte_for_byte_or_refused_with_their_status(
    server: Server, tmp_path: Path, folder: str
) -> None:
    files = [path.read_bytes() for path in sorted((DATA / folder).rglob("*")) if path.is_file()]
    url = f"http://127.0.0.1:{server.port}/dicom-web/studies"
    with httpx2.Client(trust_env=False, timeout=60) as client:
        answers = [client.post(url, content=HEAD + file + b"\r\n--b0--\r\n", headers={"Content-Type": TYPE}) for file in files]

    statuses = [verdict(Dataset.from_json(answer.text)) for answer in answers]
    assert [hex(status) for status in statuses] == [hex(expected(file)) for file in files]
    kept = [
        data_set(one.segment.read_bytes()[one.data_at : one.data_at + one.data_size])
        for segment in segments(tmp_path / "door")
        for one in entries(segment, 0)
        if isinstance(promise(one.record), Kept)
    ]
    taken = [
        file[found.offset :]
        for file, status in zip(files, statuses, strict=True)
        if not status and (found := read_meta(BytesIO(file).getvalue()))
    ]
    assert sorted(kept) == sorted(taken)
