"""The demonstration's PACS: a real Orthanc where one is installed, else a folder. What is shown is read back from it."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError

from gateway.errors import ConfigError
from gateway.machine.listening import free_ports

_TRIES, _START_SECONDS = 3, 60
_FAILED = "the demonstration's Orthanc did not start: its log lies beside its files"


class Pacs(Protocol):
    """`name` is for the person who watches, `peer` is its table in gateway.toml."""

    @property
    def name(self) -> str: ...

    @property
    def peer(self) -> dict[str, Any]: ...

    def instances(self, study_instance_uid: str) -> list[bytes]:
        """The PS3.10 files that the PACS holds of a study."""
        ...


@dataclass(frozen=True)
class FolderPacs:
    folder: Path

    @property
    def name(self) -> str:
        return f"the folder {self.folder}"

    @property
    def peer(self) -> dict[str, Any]:
        return {"name": "pacs", "protocol": "folder", "path": str(self.folder)}

    def instances(self, study_instance_uid: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted((self.folder / study_instance_uid).rglob("*.dcm"))]


@dataclass(frozen=True)
class OrthancPacs:
    url: str
    dicom_port: int

    @property
    def name(self) -> str:
        return f"Orthanc, {self.url}"

    @property
    def peer(self) -> dict[str, Any]:
        return {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": self.dicom_port, "ae_title": "ORTHANC"}

    def instances(self, study_instance_uid: str) -> list[bytes]:
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}}
        found = json.loads(self._ask("/tools/find", json.dumps(query).encode()))
        return [self._ask(f"/instances/{instance}/file") for instance in found]

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", data=body, timeout=30) as response:  # noqa: S310 - our own loopback URL
            data: bytes = response.read()
        return data


def orthanc() -> str | None:
    """The program, where it is installed; daemons are not on everybody's PATH."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def pacs(folder: Path, calling_ae_title: str, program: str | None) -> Iterator[Pacs]:
    """Orthanc, or a folder without `program`; it knows the gateway, and ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    if program is None:
        yield FolderPacs(folder)
        return
    for _ in range(_TRIES):
        with _running(folder, calling_ae_title, program) as started:
            if started is not None:
                yield started
                return
    raise ConfigError([_FAILED])


@contextmanager
def _running(folder: Path, calling_ae_title: str, program: str) -> Iterator[OrthancPacs | None]:
    """None where it has ended by itself, as when another program has taken one of its ports meanwhile."""
    http_port, dicom_port = free_ports(2)
    configuration = {
        "Name": "Demonstration PACS", "StorageDirectory": str(folder), "IndexDirectory": str(folder), "Plugins": [],
        "HttpPort": http_port, "DicomPort": dicom_port, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "DicomAlwaysAllowStore": False, "DicomCheckModalityHost": True,
        "DicomModalities": {"gateway": [calling_ae_title, "127.0.0.1", 104]},
    }  # fmt: skip
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration, indent=2))
    with (folder / "orthanc.log").open("w") as log, subprocess.Popen([program, file], stdout=log, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{http_port}"
            yield OrthancPacs(url, dicom_port) if _answers(f"{url}/system", process) else None
        finally:
            process.terminate()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """False where the process has ended. Raises ConfigError where it does neither for too long."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310 - our own loopback URL
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            return process.poll() is None  # or it was another program that answered
    raise ConfigError([_FAILED])
