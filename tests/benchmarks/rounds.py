"""Rounds of a benchmark: in each one every contestant has one run, and the order is turned by one place each time."""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

from tests.benchmarks.contestants import Contestant, Entered, Missing
from tests.benchmarks.load import Load
from tests.benchmarks.measure import PeakMemory, cpu_seconds, fair_start, machine_seconds
from tests.benchmarks.report import Figures, Report

T = TypeVar("T")
_DISTURBED_CORES = 0.25
_CATCH_UP_SECONDS = 120


@dataclass
class Bench:
    """`options` are those of the command line; `folder` holds studies and contestants."""

    options: Namespace
    folder: Path
    report: Report = field(default_factory=Report)
    runs: Iterator[int] = field(default_factory=count)
    disturbed: int = 0

    @contextmanager
    def contestants(self, *made: tuple[str, Entered]) -> Iterator[list[Contestant]]:
        """Those that are here and start."""
        found = []
        with ExitStack() as stack:
            for name, enter in made:
                folder = self.folder / f"contestant{next(self.runs)}"
                folder.mkdir()
                try:
                    found.append(stack.enter_context(enter(folder)))
                except Missing as error:
                    say(f"left out: {name}: {error}")
            yield found

    def interleave(self, cases: Sequence[tuple[str, T]], measure: Callable[[T], Figures]) -> dict[str, list[Figures]]:
        rounds: dict[str, list[Figures]] = {name: [] for name, _ in cases}
        for number in range(self.options.rounds):
            first = number % max(len(cases), 1)
            for name, case in [*cases[first:], *cases[:first]]:
                try:
                    figures = measure(case)
                except ConnectionError as error:
                    say(f"round {number + 1}, {name}: {error}")
                    continue
                rounds[name].append(figures)
                say(f"round {number + 1}, {name}: " + ", ".join(f"{what} {value:.4g}" for what, value in figures.items()))
        return rounds

    def fair_start(self) -> None:
        fair_start(self.options.warm_mb, self.options.patience)

    def measured(self, contestant: Contestant, load: Load, expected: int) -> Figures:
        """One run. CPU and memory are counted until the contestant has all that it acknowledged; the time ends before."""
        contestant.clear()
        before = contestant.stored()
        with load:
            self.fair_start()
            cpu, machine, own, began = cpu_seconds(contestant.pid), machine_seconds(), cpu_seconds(os.getpid()), time.monotonic()
            with PeakMemory(contestant.pid) as peak:
                sent = load.go()
                late = caught_up(contestant, before + sent.acknowledged)
            spent = cpu_seconds(contestant.pid) - cpu
            elsewhere = (machine_seconds() - machine - cpu_seconds(os.getpid()) + own) / (time.monotonic() - began)
        self.disturbed += elsewhere > _DISTURBED_CORES
        if sent.errors or sent.acknowledged != expected or late is None:
            stored = contestant.stored() - before
            say(f"{contestant.name}: {sent.acknowledged} of {expected} acknowledged, {stored} stored; {sent.errors[:1]}")
        say(f"{contestant.name}: peak memory by process: " + " + ".join(f"{mb:.0f}" for mb in peak.parts.values()) + " MB")
        figures = {
            "MB/s": sent.bytes / 1e6 / sent.seconds,
            "instances/s": sent.acknowledged / sent.seconds,
            "CPU s": spent,
            "peak MB": peak.mb,
        }
        if times := sent.acknowledged_ms:
            figures |= {"ack p50 ms": times[len(times) // 2], "p99 ms": times[min(len(times) * 99 // 100, len(times) - 1)]}
        if late is not None:
            figures["stored after s"] = late
        return figures | {"lost": expected - sent.acknowledged, "cores elsewhere": elsewhere}


def caught_up(contestant: Contestant, expected: int) -> float | None:
    """Seconds until the contestant has so many instances; None where it never has."""
    began = time.monotonic()
    while contestant.stored() < expected:
        if time.monotonic() > began + _CATCH_UP_SECONDS:
            return None
        time.sleep(0.02)
    return time.monotonic() - began


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
