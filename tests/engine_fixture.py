"""A worker in a process of its own: stages that write down what they did. The engine is one per process, and killable here.

`python -m tests.engine_fixture URL FOLDER` serves the lanes `quick` (4 at a time), `single` (1) and `held` (1, while
FOLDER/ready is there) until SIGTERM comes. A key says what its work does: `sleep SECONDS ...`, `raise ...`, `wait ...` (until FOLDER/go is there, then write to the database).
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text

from gateway import log
from gateway.attempt import Stage
from gateway.db import open_database
from gateway.engine import Lane, Queues, Worker
from tests.nursery import Fork, nursery

QUICK, SINGLE, HELD = "quick", "single", "held"


@dataclass
class Process:
    """What the process has written down: `begun KEY`, `done KEY`, `failed KEY ERROR`, `buried EXECUTOR`."""

    process: Fork
    folder: Path
    executor: str

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """As SIGTERM stops a gateway: what runs may end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@dataclass(frozen=True)
class Journal:
    path: Path

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def count(self, line: str) -> int:
        return self.lines.count(line)

    def wait_for(self, line: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while line not in self.lines:
            assert time.monotonic() < end, f"waited {seconds} s for {line!r}, there is {self.lines}"
            time.sleep(0.02)


@contextmanager
def worker(url: str, folder: Path) -> Iterator[Process]:
    output, errors = folder / f"output-{uuid4()}", folder / "log"
    process = nursery().start(["-m", "tests.engine_fixture", url, str(folder)], os.environ, output, errors)
    try:
        end = time.monotonic() + 60
        while not (output.exists() and output.read_text().endswith("\n")):
            assert process.poll() is None, errors.read_text()
            assert time.monotonic() < end, errors.read_text()
            time.sleep(0.02)
        yield Process(process, folder, output.read_text().strip())
    finally:
        process.kill()
        process.wait()


def enqueue(
    url: str, key: str, *, attempt: str = "1", lane: str = QUICK, delay: float = 0, rank: int = 1, commit: bool = True
) -> None:
    db, queues = open_database(url), Queues(url)
    try:
        with db() as session:
            queues.enqueue(session, "work", key, attempt=attempt, lane=lane, delay=timedelta(seconds=delay), rank=rank)
            if commit:
                session.commit()
    finally:
        queues.close()
        db.kw["bind"].dispose()


def main() -> None:
    url, folder = sys.argv[1], Path(sys.argv[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # of the threads that begin here too: it is waited for below
    log.configure()
    db = open_database(url)

    def note(line: str) -> None:
        with (folder / "journal").open("a") as journal:
            journal.write(line + "\n")

    def work(key: str) -> None:
        note(f"begun {key}")
        what, *more = key.split()
        if what == "sleep":
            time.sleep(float(more[0]))
        if what == "raise":
            raise ValueError("CANARY^NAME")
        while what == "wait" and not (folder / "go").exists():
            time.sleep(0.02)
        if what == "wait":
            with db.begin() as session:
                session.execute(text("UPDATE gw_schema_version SET version_num = version_num"))
        note(f"done {key}")

    stage = Stage("work", work, lambda key, error: note(f"failed {key} {type(error).__name__}"))
    worker = Worker(url, [stage], watched=list, buried=lambda executor: note(f"buried {executor}"))
    worker.start((Lane(QUICK, 4), Lane(SINGLE, 1), Lane(HELD, 1, ready=(folder / "ready").exists)))
    print(worker.executor, flush=True)
    signal.sigwait({signal.SIGTERM})
    worker.stop(timedelta(seconds=5))
    os._exit(0)


if __name__ == "__main__":
    main()
