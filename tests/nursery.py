"""A process that has the gateway's imports behind it and forks gateways: a test that starts one saves their seconds.

Each is a process of its own, as `python -m gateway` would be, with its arguments, its environment and its output, and can be
killed as one. It is no child of the test's process, so `Fork` hears from the nursery how it ended.
"""

import atexit
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from queue import SimpleQueue

import gateway

_LATER = (
    "dbos._sys_db_sqlite", "grpc.experimental", "numpy.ma", "smtplib", "typer._adapters", "uvicorn.lifespan.off",
    "uvicorn.loops.asyncio", "uvicorn.protocols.websockets.websockets_sansio_impl",
)  # fmt: skip
"""Modules that libraries import when they are needed."""


class Fork:
    """A gateway; like a `subprocess.Popen`, as far as tests ask."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode, self._ended = pid, -1, threading.Event()

    def poll(self) -> int | None:
        return self.returncode if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("gateway", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def ended(self, code: int) -> None:
        self.returncode = code
        self._ended.set()


class Nursery:
    """One for each process of tests; it ends with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"COLUMNS": "400"},
        )  # fmt: skip
        self._lock, self._begun = threading.Lock(), SimpleQueue[Fork]()
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self._process.kill)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path, errors: Path) -> Fork:
        """`gateway ARGUMENTS`, or `python ARGUMENTS` where they begin with `-m` and a module that has a `main`.

        What it says is appended to the files. TESTS_BUT of the environment are statements that come first: a patience of the
        product that is less for this process.
        """
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps([*arguments, dict(environment), str(output), str(errors)]) + "\n")
            self._process.stdin.flush()
            return self._begun.get(timeout=120)

    def _listen(self) -> None:
        forks: dict[int, Fork] = {}
        assert self._process.stdout is not None
        for line in self._process.stdout:
            pid, code = json.loads(line)
            if code is None:
                forks[pid] = Fork(pid)
                self._begun.put(forks[pid])
            else:
                forks.pop(pid).ended(code)


nursery = cache(Nursery)


def _serve() -> None:
    """Fork as asked on standard input, and say on standard output who began and who ended how."""
    _import_all()
    gc.freeze()  # what is here already is not looked through for garbage in each of them
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    orders, half = sys.stdin.fileno(), b""
    while True:
        ready = select.select([orders, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _tell_who_ended()
        if orders in ready:
            read = os.read(orders, 65536)
            if not read:
                return
            *lines, half = (half + read).split(b"\n")
            for line in lines:
                *arguments, environment, output, errors = json.loads(line)
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    os.close(woken), os.close(wake)
                    _become(arguments, environment, output, errors)
                print(json.dumps([pid, None]), flush=True)


def _import_all() -> None:
    """What a gateway imports, or reads once, by the time it has dealt with a series."""
    for module in walk_packages(gateway.__path__, "gateway."):
        if module.name != "gateway.__main__" and not module.name.startswith("gateway.migrations."):
            import_module(module.name)
    for name in _LATER:
        import_module(name)
    import_module("sqlalchemy.orm").configure_mappers()
    standard = import_module("highdicom._standard_utils")
    for read in (standard.get_module_attribute_map, standard.get_iod_module_map, standard.get_sop_class_iod_map):
        read()


def _tell_who_ended() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        print(json.dumps([pid, os.waitstatus_to_exitcode(status)]), flush=True)


def _become(arguments: Sequence[str], environment: Mapping[str, str], output: str, errors: str) -> None:
    """What `python -m gateway ARGUMENTS` does after its imports, or `python ARGUMENTS`; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, name in enumerate((os.devnull, output, errors)):
        opened = os.open(name, os.O_APPEND | os.O_CREAT | (os.O_WRONLY if number else os.O_RDONLY), 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    sys.modules["gateway.crash"]._AT = environment.get("GATEWAY_CRASH_AT", "")
    module, sys.argv = "gateway.cli", ["gateway", *arguments]
    if arguments[0] == "-m":
        _, *sys.argv = arguments
        module = sys.argv[0]
    code = 1
    try:
        exec(environment.get("TESTS_BUT", ""), {})
        import_module(module).main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
        os._exit(code)


if __name__ == "__main__":
    _serve()
