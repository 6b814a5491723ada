"""The doorman: opens the ports, starts the ingest processes behind them, and has filed what they promise.

A process that dies takes its own associations with it and nothing else: what it had promised is read from its journal, what
it had not is removed, and another takes its place. The ports stay open meanwhile, because they are the doorman's: who calls
waits in the sockets' queues. (With SO_REUSEPORT each process would have a queue of its own that dies with it, and the kernel
would deal associations out by chance instead of to who is free.)
"""

import json
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import structlog

from gateway.configuration.sections import Config
from gateway.doors.policy import Policy
from gateway.doors.tally import Tally
from gateway.doors.visits import Limits
from gateway.errors import ConfigError
from gateway.filing import Books, Filing, told
from gateway.machine.folders import claim
from gateway.machine.listening import listen, why
from gateway.serving.doorway import terms

_BATCHES = 8
_NICE = 5  # what was promised can wait a little, who calls should not
_LOOK_SECONDS = 0.25
_BURST_SECONDS, _PAUSE_SECONDS = 2.0, 0.1
_RESPAWN_SECONDS = 1.0
_STOP_SECONDS = 10.0
_FILED_SECONDS = 10.0
_TELL_SECONDS = 1.0
_PORT_SECONDS = 15.0

_logger = structlog.get_logger()


@dataclass(frozen=True)
class _Process:
    """An ingest process, and the filing of what it promises. Nobody takes its folder over before both it and we have ended."""

    number: int
    filing: Filing
    alive: IO[str]
    popen: "subprocess.Popen[bytes]"
    began: float

    def tell(self, **message: object) -> None:
        """One line on its standard input; nobody hears it where the process has ended."""
        assert self.popen.stdin is not None
        with suppress(OSError):
            self.popen.stdin.write(json.dumps(message).encode() + b"\n")
            self.popen.stdin.flush()


class Doorman:
    """Open from `start` to `close`. `behind_seconds`: how far filing may fall behind before nothing more is taken."""

    def __init__(
        self, config: Config, policy: Policy, incoming: Path, *, executor: str, books: Books, clock: Callable[[], datetime]
    ) -> None:
        self._config, self._policy, self._incoming, self._executor = config, policy, incoming, executor
        self._books, self._clock = books, clock
        self._sockets: dict[str, socket.socket] = {}
        self._processes: list[_Process] = []
        self._dead: list[_Process] = []
        self._wake, self._asked = threading.Event(), threading.Event()
        self._filed, self._stopping = threading.Condition(), False
        self._ended = False
        self.closed = ""
        """Why nothing is taken for now; empty: the doors are open."""
        self.filed_at, self._told_at = clock(), -_TELL_SECONDS
        """Everything that was promised here until then is filed."""
        self._opened_at = self.filed_at
        self._shared = _shared("limits", Limits.size(policy, config.dimse.processes))
        self._tally = _shared("tally", Tally.size(config.dimse.processes))
        numbers: Any = memoryview(mmap.mmap(self._tally, 0)).cast("q")
        self.tally = Tally(numbers, processes=config.dimse.processes)
        """What the ingest processes have counted; to be read."""
        self._filing = threading.Thread(target=self._file, name="filing", daemon=True)

    def start(self) -> None:
        """Raise ConfigError where a port is taken."""
        dimse, dicomweb = self._config.dimse, self._config.dicomweb
        self._sockets["dimse"] = _listen("dimse", dimse.host, dimse.port)
        if dimse.tls_port is not None:
            self._sockets["dimse_tls"] = _listen("dimse", dimse.host, dimse.tls_port)
        if dicomweb.port is not None:
            self._sockets["dicomweb"] = _listen("dicomweb", dicomweb.host, dicomweb.port)
        self._opened_at = self._clock()
        self._books.filed(self.filed_at, self.opened_at)  # first: whoever settles waits from now on for what we promise
        self._processes = [self._spawn(number) for number in range(dimse.processes)]
        self._filing.start()
        threading.Thread(target=self._watch, name="doors", daemon=True).start()

    def port(self, name: str = "dimse") -> int:
        """Of dimse, dimse_tls or dicomweb."""
        return int(self._sockets[name].getsockname()[1])

    @property
    def is_open(self) -> bool:
        """Whether callers are let in: not while filing is behind, nor once it is being closed."""
        return not self.closed and not self._stopping

    @property
    def opened_at(self) -> datetime:
        """The doors have been open since then; now, where they are closed."""
        return self._clock() if self.closed else self._opened_at

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of the ingest processes, by their numbers."""
        return {process.number: process.popen.pid for process in [*self._processes]}

    @property
    def associations(self) -> set[str]:
        """Those over which instances came and which have not ended."""
        return set().union(*(process.filing.associations for process in [*self._processes, *self._dead]))

    def close(self) -> None:
        """End the processes, then file what they promised last."""
        self._stopping = True
        for process in self._processes:
            process.tell(stop=True)
        end = time.monotonic() + _STOP_SECONDS
        for process in self._processes:
            try:
                process.popen.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
        self._ended = True
        self._wake.set()
        if self._filing.is_alive():
            self._filing.join()
        if not self._processes and not self._dead:
            with told("receive.failed"):
                self._books.filed(None, None)
        for process in [*self._processes, *self._dead]:  # what could not be filed is for who looks next
            process.alive.close()
        for listening in self._sockets.values():
            listening.close()
        os.close(self._shared)
        os.close(self._tally)

    # Filing

    def _file(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            self._wake.wait(_LOOK_SECONDS)
            self._let_burst_pass()
            began = self._clock()
            stopping = self._ended  # looked at first: then this round reads the last of what was promised
            with told("ingest.not_started"):
                self._replace_dead()
            is_filed = not [process for process in self._processes if not self._file_some(process)]
            self._dead = [process for process in self._dead if not self._bury(process)]
            if is_filed and not self._dead:
                with self._filed:
                    self.filed_at = began
                    self._filed.notify_all()
                self._tell_filed()
            if stopping:
                return

    def _tell_filed(self) -> None:
        """Those who settle elsewhere, about once a second."""
        if time.monotonic() > self._told_at + _TELL_SECONDS and not self._stopping:
            self._told_at = time.monotonic()
            with told("receive.failed"):
                self._books.filed(self.filed_at, self.opened_at)

    def filed_by(self, moment: datetime) -> datetime:
        """Until when everything that was promised is filed: `moment`, soon; or earlier, where filing does not go on."""
        self._asked.set()
        self._wake.set()
        with self._filed:
            self._filed.wait_for(lambda: self.filed_at >= moment or self._stopping, _FILED_SECONDS)
        return min(moment, self.filed_at)

    def _let_burst_pass(self) -> None:
        """While instances pour in, disk and processor are theirs; what is filed together shares its syncs and its transaction.

        Who asks for what is filed does not wait for that.
        """
        end = time.monotonic() + _BURST_SECONDS
        while self._wake.is_set() and not self._stopping and time.monotonic() < end:
            self._wake.clear()
            if self._asked.wait(_PAUSE_SECONDS):
                break
        self._asked.clear()  # before the wake: who asks after this is waited for in the next round
        self._wake.clear()

    def _replace_dead(self) -> None:
        """Those that have ended: others take their places, and their journals are read to the end. Raises OSError."""
        for process in [one for one in self._processes if one.popen.poll() is not None]:
            self._processes.remove(process)
            self._dead.append(process)
            if not self._stopping:
                _logger.error("ingest.died", pid=process.popen.pid, code=process.popen.returncode)
                if time.monotonic() - process.began < _RESPAWN_SECONDS:
                    time.sleep(_RESPAWN_SECONDS)
        living = {process.number for process in self._processes}
        for number in () if self._stopping else set(range(self._config.dimse.processes)) - living:
            self._processes.append(self._spawn(number))

    def _file_some(self, process: _Process) -> bool:
        """As much as is there, but not so much that others starve; whether everything is filed."""
        with told("receive.failed", process.filing):
            for _ in range(_BATCHES):
                if not process.filing.file():
                    return True
            self._wake.set()
        return False

    def _bury(self, process: _Process) -> bool:
        with told("receive.failed", process.filing):
            process.filing.finish()
            process.alive.close()
            return True
        return False

    # Closing

    def _watch(self) -> None:
        """Beside the filing, which may be what does not go on."""
        while not self._stopping:
            time.sleep(_LOOK_SECONDS)
            self._judge()

    def _judge(self) -> None:
        """Nothing more is taken while filing has failed, or has been behind, for too long; it opens again by itself."""
        waiting = [at for process in [*self._processes, *self._dead] if (at := process.filing.oldest) is not None]
        late = waiting and (self._clock() - min(waiting)).total_seconds() > self._config.store.behind_seconds
        reason = "what was taken before has not reached the database yet" if late else ""
        self._opened_at = min(self._opened_at, self._clock())  # which may have been set back
        if reason != self.closed:
            self.closed, self._opened_at = reason, self._clock()
            for process in self._processes:
                process.tell(closed=reason)
            with told("door.not_recorded"):  # the database may be the reason
                self._books.closed(reason)

    # Processes

    def _spawn(self, number: int) -> _Process:
        folder, alive = claim(self._incoming, f"{self._executor}.{number}")
        sockets = {name: listening.fileno() for name, listening in self._sockets.items()}
        popen = subprocess.Popen(
            [sys.executable, "-m", "gateway.serving.doorway"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            pass_fds=(*sockets.values(), self._shared, self._tally, alive.fileno()),
        )  # fmt: skip
        process = _Process(number, Filing(folder, self._books), alive, popen, time.monotonic())
        process.tell(
            folder=str(folder), sockets=sockets, shared=self._shared, tally=self._tally, process=number,
            **terms(self._config, self._policy),
        )  # fmt: skip
        process.tell(closed=self.closed)
        threading.Thread(target=self._listen_to, args=(popen,), name="ingest", daemon=True).start()
        return process

    def _listen_to(self, popen: "subprocess.Popen[bytes]") -> None:
        assert popen.stdout is not None
        while os.read(popen.stdout.fileno(), 65536):
            self._wake.set()
            time.sleep(_PAUSE_SECONDS / 2)  # not for each of what may be a thousand a second
        popen.wait()
        self._wake.set()


def _shared(name: str, numbers: int) -> int:
    """Memory for so many 64-bit numbers, all zero; its descriptor."""
    descriptor = os.memfd_create(name)
    os.ftruncate(descriptor, max(8 * numbers, mmap.PAGESIZE))
    return descriptor


def _listen(section: str, host: str, port: int) -> socket.socket:
    """The processes of a gateway that was killed hold its port until they have noticed."""
    try:
        return listen(host, port, patience_seconds=_PORT_SECONDS)
    except OSError as error:
        raise ConfigError([f"[{section}] {host}:{port} cannot be listened on: {why(error)}"]) from error
