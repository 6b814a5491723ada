"""Programs that send studies to a contestant. They are made ready first; then a run's clock starts when all of them go."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, Self

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.scu import CALLING_AE_TITLE
from tests.benchmarks.studies import marked

_LIMIT_SECONDS = 300
NODELAY = {"TCP_NODELAY": "1"}
"""DCMTK's senders leave Nagle's delay on without it, which costs 40 ms an instance."""


@dataclass(frozen=True)
class Sent:
    """`seconds` are from the first connection to the last release, `acknowledged_ms` those of each answer, in order of length."""

    acknowledged: int
    bytes: int
    seconds: float
    acknowledged_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Load(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def go(self) -> Sent: ...


class Own:
    """scu.py or stow.py, in as many processes as there are commands."""

    def __init__(self, *commands: Sequence[str]) -> None:
        self._commands, self._stack = commands, ExitStack()
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for module, *arguments in self._commands:
            command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._processes.append(self._stack.enter_context(process))
        for process in self._processes:
            if self._line(process) != "ready\n":
                self.__exit__()
                raise ConnectionError("the program that sends did not get ready")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        self._stack.close()

    def go(self) -> Sent:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        told: list[dict[str, Any]] = [json.loads(self._line(process)) for process in self._processes]
        outcomes = [outcome for one in told for outcome in one["outcomes"]]
        return Sent(
            acknowledged=sum(one["acknowledged"] for one in outcomes),
            bytes=sum(one["bytes"] for one in outcomes),
            seconds=max(one["ended"] for one in told) - min(one["began"] for one in told),
            acknowledged_ms=sorted(1000 * seconds for seconds in chain(*(one["seconds"] for one in outcomes))),
            errors=list(chain(*(one["errors"] for one in outcomes))),
        )

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()


class Storescu:
    """DCMTK's storescu, one an association; its start and its look at the files are in the time. Its count is all or nothing."""

    def __init__(self, contestant: Contestant, run: int, series: Sequence[Path]) -> None:
        self._contestant, self._run, self._series = contestant, run, series
        self._folder = TemporaryDirectory()

    def __enter__(self) -> Self:
        """Copies that hold the number of the run."""
        self._copies = [Path(self._folder.name) / series.name for series in self._series]
        for series, copy in zip(self._series, self._copies, strict=True):
            copy.mkdir()
            for file in series.iterdir():
                (copy / file.name).write_bytes(marked(file.read_bytes(), self._run))
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def go(self) -> Sent:
        began = time.monotonic()
        processes = [
            subprocess.Popen(storescu(self._contestant, copy), env=os.environ | NODELAY, stderr=subprocess.DEVNULL)
            for copy in self._copies
        ]
        codes = [process.wait(_LIMIT_SECONDS) for process in processes]
        seconds = time.monotonic() - began
        sizes = [
            [file.stat().st_size for file in copy.iterdir()] for copy, code in zip(self._copies, codes, strict=True) if code == 0
        ]
        errors = [f"storescu ended with {code}" for code in codes if code]
        return Sent(sum(map(len, sizes)), sum(map(sum, sizes)), seconds, errors=errors)


def storescu(contestant: Contestant, folder: Path) -> list[str]:
    titles = ["-aet", CALLING_AE_TITLE, "-aec", contestant.ae_title]
    return ["storescu", "-xe", "-R", "+sd", *titles, "127.0.0.1", str(contestant.port), str(folder)]


def c_store(contestant: Contestant, run: int, series: Sequence[Path], *, program: str, processes: int = 2) -> Load:
    """An association for each series; as many processes as there are cores to send from."""
    if program == "storescu":
        return Storescu(contestant, run, series)
    shares = [series[n::processes] for n in range(min(processes, len(series)))]
    arguments = ("scu", str(contestant.port), contestant.ae_title, str(run))
    return Own(*([*arguments, *map(str, share)] for share in shares))


def stow(contestant: Contestant, run: int, series: Sequence[Path], *, batch: int, connections: int) -> Load:
    return Own(["stow", contestant.studies_url, str(run), str(batch), str(connections), *map(str, series)])
