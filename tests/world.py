"""A whole gateway for tests: real listener, real engine, real Triton; in this process, or in one that can be killed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from gateway import admin
from gateway.db import Database, open_database
from gateway.tables import DeliveryState, JobState, SeriesState

HERE = Path(__file__).parent
RULES = """\
rules:
  - name: chest CT
    when:
      all:
        - {attribute: Modality, is: CT}
        - {fact: slices, at_least: 2}
    pipeline: bright
    send_to: [PEERS]
"""


@dataclass
class World:
    """Where a gateway under test lives. `start()` runs `gateway serve` there, `kill()` ends it with SIGKILL."""

    folder: Path
    database_url: str
    triton: str
    peers: Sequence[Mapping[str, Any]] = ()
    rules: str = RULES
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.peers = self.peers or ({"name": "pacs", "protocol": "folder", "path": str(self.folder / "pacs")},)
        self.port = self.port or free_port()
        names = ", ".join(str(peer["name"]) for peer in self.peers)
        (self.folder / "rules.yaml").write_text(self.rules.replace("PEERS", names))
        (self.folder / "gateway.toml").write_text(self.toml())
        (self.folder / "pacs").mkdir(exist_ok=True)

    def toml(self) -> str:
        tables: dict[str, dict[str, Any]] = {
            "gateway": {"data_dir": str(self.folder / "var"), "pipelines": [str(HERE / "pipelines")]},
            "dimse": {"port": self.port},
            "database": {"url": self.database_url},
            "triton": {"url": self.triton, "shared_memory": True, "timeout_seconds": 60},
            "completeness": {"quiet_seconds": 0.3},
            "delivery": {"retry_seconds": 0.3, "retry_at_most_seconds": 2},
            "rules": {"file": str(self.folder / "rules.yaml")},
            "store": {"keep_free_bytes": 0},
            "log": {"format": "json"},
        }
        for name, values in self.settings.items():
            tables[name] = tables.get(name, {}) | dict(values)
        sections = [f"[{name}]\n" + _toml(values) for name, values in tables.items()]
        return "\n".join(sections + [f"[[peers]]\n{_toml(peer)}" for peer in self.peers])

    @property
    def config(self) -> Path:
        return self.folder / "gateway.toml"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @contextmanager
    def database(self) -> Iterator[Database]:
        db = open_database(self.database_url.replace("postgresql://", "postgresql+psycopg://"))
        try:
            yield db
        finally:
            db.kw["bind"].dispose()

    def start(self, *, crash_at: str = "") -> "World":
        environment = os.environ | {"GATEWAY_CRASH_AT": crash_at, "COLUMNS": "400"}
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.config)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.wait_until(lambda: self.listens() or self.process.poll() is not None, 60)
        return self

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def wait_for_death(self) -> int:
        """Until a crash point has ended the process."""
        assert self.process is not None
        return self.process.wait(60)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`gateway ARGUMENTS` with this world's configuration."""
        command = [sys.executable, "-m", "gateway", *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"COLUMNS": "400"}, check=False)

    def send(self, series: Sequence[Dataset], *, calling: str = "CT1", called: str = "AIGATEWAY") -> list[int]:
        return send(series, self.port, calling=calling, called=called)

    def wait_until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s in vain\n{self.log[-4000:]}"
            time.sleep(0.05)

    def jobs(self) -> list[Any]:
        with self.database() as db:
            return admin.list_jobs(db)

    def deliveries(self) -> list[Any]:
        with self.database() as db:
            return admin.list_deliveries(db)

    def settled(self, series: int = 1) -> bool:
        """Everything that arrived was settled, and everything that followed has ended."""
        with self.database() as db:
            found = admin.list_series(db)
            if len(found) < series or any(line.series.state != SeriesState.COMPLETE for line in found):
                return False
            jobs, deliveries = admin.list_jobs(db), admin.list_deliveries(db)
        ended = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
        sent = (DeliveryState.SENT, DeliveryState.FAILED, DeliveryState.CANCELLED)
        return all(job.state in ended for job in jobs) and all(delivery.state in sent for delivery in deliveries)

    def wait_settled(self, series: int = 1, seconds: float = 90) -> None:
        self.wait_until(lambda: self.settled(series), seconds)

    def pacs_files(self) -> list[Path]:
        return sorted((self.folder / "pacs").rglob("*.dcm"))


def send(series: Sequence[Dataset], port: int, *, calling: str = "CT1", called: str = "AIGATEWAY") -> list[int]:
    """C-STORE like a scanner; returns the statuses, -1 where none came. Raises ConnectionError without an association."""
    ae = AE(calling)
    ae.connection_timeout = 10
    for sop_class, syntax in sorted({(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in series}):
        ae.add_requested_context(sop_class, syntax)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        raise ConnectionError("no association")
    try:
        return [association.send_c_store(ds).get("Status", -1) if association.is_established else -1 for ds in series]
    finally:
        association.release()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _toml(values: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(text, value)) + "]"
        return str(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "".join(f"{key} = {text(value)}\n" for key, value in values.items())
