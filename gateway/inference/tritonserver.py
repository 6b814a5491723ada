"""An NVIDIA Triton of our own: `[triton] url = "embedded"`. Installed, started, watched and stopped here.

The server comes from the PyPI wheel nvidia-pytriton and lives in an environment of its own, because its Python backend answers
with empty tensors under numpy 2. Only the binary, its libraries and the stub for that environment's Python are used.

The process never outlives the gateway: setpriv(1) gives it a parent-death signal before it becomes Triton (no code of ours runs
between fork and exec, so this is safe with threads), and the stubs of the Python backend end when their Triton is gone. The
signal comes when the *thread* that forked ends (prctl(2)), which is why a thread of its own starts the process and waits for it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import venv
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from gateway.errors import ConfigError, ModelUnavailable
from gateway.inference import sharedmemory
from gateway.machine.listening import free_ports
from gateway.machine.logfile import keep_short, shorten

Progress = Callable[[str], None]

NOT_INSTALLED = "NVIDIA Triton is not installed: run `gateway models install-server` or set [triton] url"

# Our models need torch and numpy; the wheel's other requirements belong to a Python client that we do not use.
_PIP_STEPS = (("--no-deps", "nvidia-pytriton==0.7.0"), ("numpy>=1.26,<2", "torch==2.13.0"))
_ASK_ENVIRONMENT = (
    "import json,sys,sysconfig as s;"
    "print(json.dumps([s.get_path('purelib'), s.get_config_var('LIBDIR') or '', '%d.%d' % sys.version_info[:2]]))"
)
# Model code is foreign: it gets what it needs to run, and not the gateway's passwords.
_ENVIRONMENT_KEPT = ("CUDA_", "NVIDIA_", "OMP_", "MKL_", "LANG", "LC_", "HOME", "TMPDIR", "TZ")
# Of threads that compute together those that are ready first would wait by spinning, on the very processor that the others need
# as soon as anything else runs on the machine: a model then took five times as long.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

_DECLARED = re.compile(r"^\s*(input|output)\s*[:\[{]", re.MULTILINE)


def default_environment() -> Path:
    """Beside the environment that runs the gateway: `.venv` has its `.venv-triton`."""
    own = Path(sys.prefix)
    return own.with_name(f"{own.name}-triton")


def install(environment: Path, progress: Progress) -> None:
    """Make the server's environment (250 MB of downloads with a CPU build of torch) with what pip is configured to see.

    Which build of torch comes, CPU or CUDA, is the package index's choice. Raises ConfigError when pip fails.
    """
    progress(f"making {environment}")
    venv.EnvBuilder(with_pip=True, symlinks=True).create(environment)
    pip: list[str | Path] = [environment / "bin" / "python", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    for step in _PIP_STEPS:
        with subprocess.Popen([*pip, *step], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                progress(line.strip())
        if process.returncode != 0:
            raise ConfigError([f"NVIDIA Triton: pip could not install {step[-1]} into {environment}"])


@dataclass(frozen=True)
class _Installation:
    site: Path
    library_folder: str
    python: str
    environment: Path

    @property
    def root(self) -> Path:
        return self.site / "pytriton" / "tritonserver"

    @property
    def stub(self) -> Path:
        return self.root / "python_backend_stubs" / self.python / "triton_python_backend_stub"

    def problems(self) -> list[str]:
        """What is missing, in words."""
        found = []
        if not self.root.is_dir():
            found.append(f"{NOT_INSTALLED} (no nvidia-pytriton in {self.environment})")
        elif not self.stub.is_file():
            found.append(f"NVIDIA Triton: this wheel has no Python backend for Python {self.python}: take Python 3.11")
        if shutil.which("setpriv") is None:
            found.append("NVIDIA Triton: the program setpriv (util-linux) is not installed")
        return found

    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT_KEPT)}
        libraries = [str(self.site / "nvidia_pytriton.libs"), self.library_folder, os.environ.get("LD_LIBRARY_PATH", "")]
        return (
            _ENVIRONMENT
            | kept
            | {
                "PATH": f"{self.environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
                "PYTHONPATH": str(self.site),
            }
        )


def _installation(environment: Path) -> _Installation:
    python = environment / "bin" / "python"
    if not python.exists():
        raise ConfigError([f"{NOT_INSTALLED} (no environment at {environment})"])
    answer = subprocess.run([python, "-I", "-c", _ASK_ENVIRONMENT], capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode != 0:
        raise ConfigError([f"NVIDIA Triton: the Python in {environment} does not run"])
    site, library_folder, version = json.loads(answer.stdout)
    installation = _Installation(Path(site), library_folder, version, environment)
    if problems := installation.problems():
        raise ConfigError(problems)
    return installation


def problems(environment: Path | None) -> list[str]:
    """What keeps an embedded Triton from starting, in words; `environment` None: default_environment()."""
    try:
        _installation(environment or default_environment())
    except ConfigError as error:
        return list(error.problems)
    return []


class TritonServer:
    """One Triton on loopback, serving `repositories` (folders of model folders); `with` starts and stops it.

    `url` is its gRPC address and `http_url` its HTTP address, both known after start(). A model that does not load does not
    stop the server: ask Triton.models(). What the server prints goes to `log_file`.
    """

    def __init__(
        self, repositories: Sequence[Path], *, log_file: Path, environment: Path | None = None, timeout_seconds: float = 180
    ) -> None:
        self.repositories = tuple(path.resolve() for path in repositories)
        self.url = self.http_url = ""
        self._environment = environment or default_environment()
        self._log_file = log_file
        self._timeout_seconds = timeout_seconds
        self._regions = f"{sharedmemory.prefix()}server{id(self)}_"
        self._stubs: list[psutil.Process] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._backends = log_file.with_suffix(".backends").resolve()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """False too when a model's process has ended: this Triton never starts it again, and says that the model is ready."""
        return self._running and all(_runs(stub) for stub in self._stubs)

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, progress: Progress = lambda _: None) -> None:
        """Returns when every model was loaded or has failed to. Raises ConfigError (not installed), ModelUnavailable (ended)."""
        installation = _installation(self._environment)
        sharedmemory.forget_the_dead()
        if not self.url:
            self.url, self.http_url = (f"127.0.0.1:{port}" for port in free_ports(2))
        _lay_out_backends(installation, self._backends / "python")
        self._launch(self._command(installation), installation.variables())
        try:
            self._wait(progress)
        except BaseException:
            self.stop()
            raise
        self._stubs = psutil.Process(self.pid).children()

    def revive(self) -> bool:
        """Start it again, under the same addresses, if it or a model's process has ended; whether that was needed.

        The models are then read anew from their folders: tell Triton.reloaded(). Raises what start() raises.
        """
        if self.alive:
            return False
        self.stop()
        self.start()
        return True

    def stop(self) -> None:
        """Ask, wait, insist; nothing of the server is left behind. Safe to repeat."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            with suppress(ProcessLookupError):  # its session: Triton if it hangs, and any stub that does
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            sharedmemory.forget(self._regions)
        shutil.rmtree(self._backends, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _command(self, installation: _Installation) -> list[str]:
        grpc_port, http_port = (url.rpartition(":")[2] for url in (self.url, self.http_url))
        return [
            *("setpriv", "--pdeathsig", "KILL", "--", str(installation.root / "bin" / "tritonserver")),
            *(f"--model-repository={path}" for path in self.repositories if path.is_dir()),  # else it serves nothing
            f"--backend-directory={self._backends}",
            f"--backend-config=python,shm-region-prefix-name={self._regions}",
            *("--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}", "--http-address=127.0.0.1", f"--http-port={http_port}"),
            *("--allow-metrics=false", "--exit-on-error=false", "--strict-readiness=false", "--exit-timeout-secs=3"),
            *(() if _any_completes_itself(self.repositories) else ("--disable-auto-complete-config",)),
        ]

    def _launch(self, command: list[str], variables: dict[str, str]) -> None:
        started = threading.Event()

        def keep() -> None:
            shorten(self._log_file)
            with self._log_file.open("ab") as log:
                # A session of its own: Ctrl-C is the gateway's to handle.
                process = self._process = subprocess.Popen(
                    command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            started.set()
            keep_short(self._log_file, process.pid)
            process.wait()

        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=keep, name="tritonserver", daemon=True).start()
        if not started.wait(timeout=30):
            raise ModelUnavailable(f"NVIDIA Triton could not be started (see {self._log_file})")

    def _wait(self, progress: Progress) -> None:
        began = time.monotonic()
        while not _answers(f"http://{self.http_url}/v2/health/ready"):
            seconds = time.monotonic() - began
            if not self._running:
                raise ModelUnavailable(f"NVIDIA Triton ended while it started (see {self._log_file})")
            if seconds > self._timeout_seconds:
                raise ModelUnavailable(f"NVIDIA Triton was not ready in {self._timeout_seconds:.0f} s (see {self._log_file})")
            progress(f"NVIDIA Triton loads its models ({seconds:.0f} s)")
            time.sleep(0.25)


def _lay_out_backends(installation: _Installation, folder: Path) -> None:
    """The Python backend wants the stub of the running Python beside its library; the wheel keeps them apart."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (*(installation.root / "backends" / "python").iterdir(), installation.stub):
        (folder / path.name).symlink_to(path)


def _any_completes_itself(repositories: Sequence[Path]) -> bool:
    """Whether a model leaves its inputs or outputs to its code to tell: then Triton starts each model twice, once to ask it."""
    for folder in (path for repository in repositories for path in repository.glob("*/")):
        configuration = folder / "config.pbtxt"
        said = set(_DECLARED.findall(configuration.read_text("utf-8", "replace"))) if configuration.is_file() else set()
        if said != {"input", "output"} or any(b"auto_complete_config" in code.read_bytes() for code in folder.glob("*/model.py")):
            return True
    return False


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own http:// address
            return bool(answer.status == 200)
    except OSError:
        return False
