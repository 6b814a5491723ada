"""Who takes the instances in a benchmark: this gateway whole, DCMTK's storescp, Orthanc, pynetdicom's application.

Each is a process on a port of its own, up for as long as it is entered. storescp and Orthanc bind every address and cannot
be told otherwise; Orthanc is told to answer 127.0.0.1 only.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.measure import tree
from tests.peers_fixture import DICOMWEB_PLUGIN
from tests.ports import free_port
from tests.world import World

OURS, DCMTK, ORTHANC, PYNETDICOM = "this gateway", "DCMTK storescp", "Orthanc", "pynetdicom"
_DISCARD_PORT = 9
_NEVER_SECONDS = 10_000_000
_STOCK = """\
import sys
from pynetdicom import AE, AllStoragePresentationContexts
ae = AE("STORESCP")
ae.maximum_associations = 64
ae.supported_contexts = AllStoragePresentationContexts
ae.start_server(("127.0.0.1", int(sys.argv[1])))
"""
"""What pynetdicom's application runs, but for its limit of ten associations."""


class Missing(Exception):
    """A contestant that is not here, or does not start."""


@dataclass(frozen=True)
class Contestant:
    """`stored` counts the instances that it has; `out` is where it writes files that nothing else knows of, so that `clear` may."""

    name: str
    pid: int
    port: int
    ae_title: str
    stored: Callable[[], int]
    out: Path | None = None
    studies_url: str = ""

    def files(self) -> list[Path]:
        return list(self.out.iterdir()) if self.out else []

    def clear(self) -> None:
        for file in self.files():
            file.unlink()


Entered = Callable[[Path], AbstractContextManager[Contestant]]


@contextmanager
def ours(folder: Path, *, processes: int) -> Iterator[Contestant]:
    """`gateway serve`, with SQLite and without rules or a Triton; no series settles while it is measured."""
    database, web, port = folder / "gateway.db", free_port(), free_port()
    settings: dict[str, dict[str, Any]] = {
        "dimse": {"port": port, "processes": processes, "maximum_associations": 64, "maximum_per_address": 64},
        "dicomweb": {"port": web},
        "rules": {"file": str(folder / "none.yaml")},
        "completeness": {"quiet_seconds": _NEVER_SECONDS, "deadline_seconds": _NEVER_SECONDS},
    }
    world = World(folder, f"sqlite:///{database}", f"127.0.0.1:{_DISCARD_PORT}", settings=settings, port=port)
    with world:
        try:
            process = world.start().process
        except AssertionError as error:
            raise Missing(f"does not start: {str(error).strip().splitlines()[-1]}") from error
        assert process is not None
        try:
            url = f"http://127.0.0.1:{web}/dicom-web/studies"
            yield Contestant(OURS, process.pid, port, "AIGATEWAY", partial(_rows, database), studies_url=url)
        finally:
            members = list(tree(process.pid))
            with suppress(subprocess.TimeoutExpired):
                world.stop()
            _kill(members)


@contextmanager
def dcmtk(folder: Path) -> Iterator[Contestant]:
    """As fast as it gets: bit preserving, long PDUs, a process for each association; nothing is synced."""
    out, port = _out(folder), free_port()
    options = ("--fork", "+B", "-pdu", "131072", "-dhl", "-od", str(out), str(port))
    with _running(folder, ["storescp", *options], port) as pid:
        yield Contestant(DCMTK, pid, port, "STORESCP", partial(_files, out), out)


@contextmanager
def orthanc(folder: Path) -> Iterator[Contestant]:
    """As shipped: SQLite, what it stores is synced."""
    out, port, web = _out(folder), free_port(), free_port()
    settings = {
        "StorageDirectory": str(out),
        "IndexDirectory": str(out),
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "HttpPort": web,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {"gateway": ["AIGATEWAY", "127.0.0.1", 11112]},
        "Plugins": [str(DICOMWEB_PLUGIN)] if DICOMWEB_PLUGIN.exists() else [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    url = f"http://127.0.0.1:{web}"
    with _running(folder, ["Orthanc", str(folder / "orthanc.json")], port, web) as pid:
        studies_url = f"{url}/dicom-web/studies" if settings["Plugins"] else ""
        yield Contestant(ORTHANC, pid, port, "ORTHANC", partial(_instances, url), studies_url=studies_url)


@contextmanager
def pynetdicom(folder: Path) -> Iterator[Contestant]:
    """Its own application, as it is. It holds ten associations at a time and may reject those above."""
    out, port = _out(folder), free_port()
    command = [sys.executable, "-m", "pynetdicom", "storescp", "-q", "--bind-address", "127.0.0.1", "-od", str(out), str(port)]
    with _running(folder, command, port) as pid:
        yield Contestant(PYNETDICOM, pid, port, "STORESCP", partial(_files, out), out)


@contextmanager
def stock_pynetdicom(folder: Path) -> Iterator[Contestant]:
    """The same listener without that limit; what arrives is not stored."""
    port = free_port()
    with _running(folder, [sys.executable, "-c", _STOCK, str(port)], port) as pid:
        yield Contestant(PYNETDICOM, pid, port, "STORESCP", lambda: 0)


@contextmanager
def _running(folder: Path, command: Sequence[str], *ports: int) -> Iterator[int]:
    if shutil.which(command[0]) is None:
        raise Missing(f"{command[0]} is not installed")
    environment = os.environ | {"TCP_NODELAY": "1"}  # DCMTK's, which Orthanc uses too; without it 40 ms an instance
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
        try:
            _wait(process, ports)
            yield process.pid
        finally:
            _kill(list(tree(process.pid)))


def _wait(process: subprocess.Popen[bytes], ports: Sequence[int]) -> None:
    deadline = time.monotonic() + 30
    for port in ports:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise Missing("does not listen")
            time.sleep(0.05)


def _kill(members: Sequence[psutil.Process]) -> None:
    for member in members:
        with suppress(psutil.Error):
            member.kill()


def _out(folder: Path) -> Path:
    out = folder / "out"
    out.mkdir()
    return out


def _files(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _rows(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        return int(connection.execute("SELECT count(*) FROM gw_instance").fetchone()[0])


def _instances(url: str) -> int:
    with urllib.request.urlopen(f"{url}/statistics", timeout=60) as answer:
        return int(json.load(answer)["CountInstances"])
