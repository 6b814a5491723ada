"""What a tree of processes costs, read from /proc: CPU seconds and peak memory. And a fair start for every timed run."""

import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.1
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14; mmap has no name for it yet
QUIET_CORES = 0.25


def tree(pid: int) -> Iterator[psutil.Process]:
    """The process and all that descend from it."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        yield process
        yield from process.children(recursive=True)


def cpu_seconds(pid: int) -> float:
    """Of the tree, with the children that it has waited for."""
    total = 0.0
    for process in tree(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mb(pid: int) -> float:
    """Resident memory of the tree now; pages that processes share count for each."""
    return sum(kilobytes for _, kilobytes in _status(pid, "VmRSS:")) / 1024


def machine_seconds() -> float:
    """CPU seconds that this machine has spent on anything, the time that its host took away included."""
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / _TICKS


class PeakMemory:
    """While entered: the most that a tree held, in MB, as the sum of its processes' own high-water marks (VmHWM).

    The marks are set back at the start and read ten times a second, for processes that end before the run does. `parts` are
    those of the largest sum, by process ID.
    """

    def __init__(self, pid: int) -> None:
        self.parts: dict[int, float] = {}
        self._pid, self._ended = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def mb(self) -> float:
        return sum(self.parts.values())

    def __enter__(self) -> Self:
        for process in tree(self._pid):
            with suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._ended.wait(_SAMPLE_SECONDS)
            parts = {pid: kilobytes / 1024 for pid, kilobytes in _status(self._pid, "VmHWM:")}
            if sum(parts.values()) > self.mb:
                self.parts = parts


def fair_start(megabytes: int, patience_seconds: float) -> None:
    """What earlier runs left to the disk is written; memory is at hand; the machine has nothing else to do, or patience ended.

    A virtual machine that gives free pages back to its host pays for the first touch of a page with more than the work that
    is measured: so many megabytes are touched and let go.
    """
    os.sync()
    with mmap.mmap(-1, megabytes << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(_POPULATE_WRITE)
        except OSError:
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = 1
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline and _busy_cores(0.3) > QUIET_CORES:
        pass


def _busy_cores(seconds: float) -> float:
    before, began = machine_seconds(), time.monotonic()
    time.sleep(seconds)
    return (machine_seconds() - before) / (time.monotonic() - began)


def _status(pid: int, key: str) -> Iterator[tuple[int, int]]:
    """Process ID and kilobytes, for each process of the tree that has not ended."""
    for process in tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith(key):
                    yield process.pid, int(line.split()[1])
