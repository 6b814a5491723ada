"""Gateway processes that are started again whenever they end, as systemd would (Restart=always)."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Self

from tests.world import World

_RESTART_SECONDS = 0.5
_STOP_SECONDS = 30.0


class Kept:
    """One `gateway serve` in a process group of its own; `role` is what it does, "" everything."""

    def __init__(self, world: World, role: str = "") -> None:
        self.world, self.role = world, role
        self.starts = 0
        self.ended: list[int] = []
        """Its exit codes where nobody had killed it."""
        self._since = 0
        """Where in the log its last start begins."""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._log: IO[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._log = (self.world.folder / "log").open("ab")
        self._start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.wait()
        if self._log is not None:
            self._log.close()

    @property
    def is_up(self) -> bool:
        """It serves since its last start."""
        with (self.world.folder / "log").open("rb") as log:
            log.seek(self._since)
            return b'"gateway.started"' in log.read()

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, as where its machine or its container ends."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and no further start; leaving waits for the end."""
        with self._lock:
            self._stopping.set()
        assert self._process is not None
        self._process.terminate()

    def wait(self) -> int:
        """After `stop`: its exit code; what does not end in time is killed."""
        self._thread.join(_STOP_SECONDS)
        self.kill()
        self._thread.join()
        assert self._process is not None
        return self._process.wait()

    def _keep(self) -> None:
        while True:
            assert self._process is not None
            code = self._process.wait()
            if self._stopping.is_set():
                return
            if code != -signal.SIGKILL:
                self.ended.append(code)
            self._stopping.wait(_RESTART_SECONDS)
            with self._lock:
                if self._stopping.is_set():
                    return
                self._start()

    def _start(self) -> None:
        only = ["--only", self.role] if self.role else []
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.world.config), *only]
        environment = os.environ | {"COLUMNS": "400"}
        self._since = (self.world.folder / "log").stat().st_size
        self._process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True)
        self.starts += 1
