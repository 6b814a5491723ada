"""`gateway send` with ZIPs: their instances arrive as they are, and of each that does not its place in the ZIP is told."""

import shlex
import tempfile
import threading
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage

from gateway.configuration.config import parse
from gateway.errors import DeliveryError
from gateway.machine.listening import listen
from gateway.peers import own_listener
from tests.command_fixture import Command
from tests.peers_fixture import data_set, running_http, running_scp
from tests.synthetic import ct_series, part10

SERIES = ct_series(4, 64, 64)
FILES = [part10(ds) for ds in SERIES]


def _dicomdir() -> bytes:
    meta = dcmread(BytesIO(FILES[0])).file_meta
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    content = DicomBytesIO()
    write_file_meta_info(content, meta)
    return FILES[0][:132] + content.getvalue() + data_set(FILES[0])


DICOMDIR = _dicomdir()


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: Command):
    """`gateway send ARGUMENTS` with that peer in a folder of its own: exit code, lines of output, lines of error."""
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))

    def run(arguments: str, peer: str) -> tuple[int, list[str], list[str]]:
        (tmp_path / "gateway.toml").write_text(f'[[peers]]\nname = "pacs"\n{peer}\n')
        code, out, err = gateway("send", *shlex.split(arguments), "--to", "pacs")
        return code, out.splitlines(), err.splitlines()

    return run


def dimse(scp) -> str:
    return f'protocol = "dimse"\nhost = "127.0.0.1"\nport = {scp.port}\nae_title = "SCP"'


def write(path: Path, *contents, compression=zipfile.ZIP_DEFLATED) -> None:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for n, content in enumerate(contents):
            archive.writestr(*(content if isinstance(content, tuple) else (f"IM{n}", content)))


def test_the_instances_of_a_zip_arrive_as_they_are_and_nothing_of_them_stays(send, tmp_path: Path) -> None:
    write(tmp_path / "study.zip", *FILES)

    with running_scp() as scp:
        ran = send("study.zip", dimse(scp))

    assert ran == (0, ["4 of 4 arrived"], [])
    assert scp.received == [data_set(file) for file in FILES]
    assert not list((tmp_path / "spool").iterdir())


def test_a_copy_is_there_only_while_it_is_sent(send, tmp_path: Path) -> None:
    write(tmp_path / "study.zip", *FILES)
    copies = []

    class Answer(list):
        def __iter__(self):
            copies.append(len(list((tmp_path / "spool").rglob("*"))))
            return super().__iter__()

    with running_http(*[Answer((200, {}, b"")) for _ in FILES]) as (url, _):
        ran = send("study.zip", f'protocol = "dicomweb"\nurl = "{url}"')

    assert (ran[1], copies) == (["4 of 4 arrived"], [2] * 4), "expected the folder and one copy"


def test_a_folder_is_sent_with_the_zips_in_it_and_without_its_dicomdir(send, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "DICOMDIR").write_bytes(DICOMDIR)
    (tmp_path / "study" / "IM0").write_bytes(FILES[0])
    write(tmp_path / "study" / "more.zip", ("DICOMDIR", DICOMDIR), FILES[1], FILES[2])

    with running_scp() as scp:
        ran = send("study", dimse(scp))

    assert ran == (0, ["3 of 3 arrived"], [])
    assert scp.received == [data_set(file) for file in FILES[:3]]


def test_what_is_wrong_in_a_zip_is_told_by_its_place_there(send, tmp_path: Path) -> None:
    write(tmp_path / "study.zip", *FILES[:3], ("CANARY^NAME.txt", b"letter"), compression=zipfile.ZIP_STORED)
    content = bytearray((tmp_path / "study.zip").read_bytes())
    content[content.index(data_set(FILES[1])) + len(data_set(FILES[1])) - 1] ^= 1
    (tmp_path / "study.zip").write_bytes(content)

    with running_scp(0x0000, 0xA700) as scp:
        code, out, err = send("study.zip", dimse(scp))

    assert (code, err) == (1, [])
    assert sorted(out) == [
        "1 of 3 arrived",
        "no DICOM file (PS3.10), left out: study.zip: entry 4",
        "not sent: study.zip: entry 2: expected an entry that is whole",
        "not sent: study.zip: entry 3: the peer cannot take it now: Refused: Out of Resources (0xA700)",
    ]
    assert not list((tmp_path / "spool").iterdir())


def test_of_a_hostile_zip_nothing_is_sent_but_of_what_lies_beside_it(send, tmp_path: Path) -> None:
    write(tmp_path / "study" / "bad.zip", FILES[0], ("../IM1", FILES[1]))
    write(tmp_path / "study" / "good.zip", FILES[2])

    with running_scp() as scp:
        ran = send("study", dimse(scp))

    assert ran == (
        1,
        ["not sent: study/bad.zip: expected entries whose names stay within a folder", "1 of 2 arrived"],
        [],
    )
    assert scp.received == [data_set(FILES[2])]


def test_a_zip_without_an_instance_is_nothing_to_send(send, tmp_path: Path) -> None:
    write(tmp_path / "study.zip", ("letter.txt", b"letter"))

    with running_scp() as scp:
        ran = send("study.zip", dimse(scp))

    assert ran == (1, [], ["study.zip: expected DICOM files (PS3.10)"])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "", "::1", "::"])
def test_our_own_listener_is_reached_wherever_it_listens(host: str) -> None:
    with listen(host, 0) as listening:
        config = parse({"dimse": {"host": host, "port": listening.getsockname()[1]}}, where="tests")
        threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True).start()

        with pytest.raises(DeliveryError, match=r"^the (peer closed the connection|connection broke: connection reset)"):
            own_listener(config, "CT1").echo()
