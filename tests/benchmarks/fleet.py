"""Several gateway processes of one database and one store, and how far they have come."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy.exc import DBAPIError

from gateway.db import Database, open_database
from gateway.inference.tritonserver import TritonServer
from gateway.store import Store
from tests.benchmarks.cluster import Cluster, running_cluster
from tests.benchmarks.keeper import Kept
from tests.benchmarks.reckoning import Count, count
from tests.peers_fixture import Orthanc, running_orthanc
from tests.world import RULES, World

ROOT = Path(__file__).parent.parent.parent
RECEIVE, WORK, EVERYTHING = "receive", "work", ""
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Site:
    """What all processes of a run share."""

    folder: Path
    database_url: str
    triton: str
    pacs: Orthanc
    quiet_seconds: float = 10

    def kept(self, role: str, number: int = 0) -> Kept:
        """A process with a data_dir and a port of its own, to be entered."""
        pacs = {
            "name": "pacs",
            "protocol": "dimse",
            "host": "127.0.0.1",
            "port": self.pacs.dicom_port,
            "ae_title": self.pacs.ae_title,
        }
        settings = {
            "completeness": {"quiet_seconds": self.quiet_seconds},
            "delivery": {"retry_seconds": 1, "retry_at_most_seconds": 10},
            "store": {"keep_free_bytes": 0, "folder": str(self.folder / "store")},
        }
        name = f"{role or 'gateway'}{number}"
        return Kept(World(self.folder / name, self.database_url, self.triton, (pacs,), RULES, settings), role)

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @contextmanager
    def database(self) -> Iterator[Database]:
        db = open_database(self.database_url.replace("postgresql://", "postgresql+psycopg://"))
        try:
            yield db
        finally:
            db.kw["bind"].dispose()


class Watch:
    """While entered: the latest count, taken a few times a second; while the database is away, the one before."""

    def __init__(self, db: Database) -> None:
        self.count, self.changed_at = Count(), time.monotonic()
        self._db, self._stopping = db, threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def still_seconds(self) -> float:
        return time.monotonic() - self.changed_at

    def _look(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                now = count(self._db)
            except DBAPIError:
                continue
            if now != self.count:
                self.count, self.changed_at = now, time.monotonic()


@contextmanager
def surroundings(folder: Path, triton: str = "") -> Iterator[tuple[Cluster, str, Orthanc]]:
    """PostgreSQL, a Triton with the tests' models (unless one runs already), and the PACS; its C-FIND is the proof."""
    with ExitStack() as stack:
        if not triton:
            log = folder / "triton.log"
            server = TritonServer([ROOT / "tests" / "models"], log_file=log, environment=ROOT / ".venv-triton")
            triton = stack.enter_context(server).url
        (folder / "pacs").mkdir()
        pacs = stack.enter_context(running_orthanc(folder / "pacs"))
        yield stack.enter_context(running_cluster()), triton, pacs


def wait_up(kept: Sequence[Kept], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not all(one.is_up for one in kept):
        assert time.monotonic() < end, "\n".join(one.world.log[-3000:] for one in kept if not one.is_up)
        time.sleep(0.1)
