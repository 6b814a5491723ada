"""The models that jobs ask: a Triton elsewhere, or an embedded one, started when it is first needed and again when it died."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from gateway.configuration.sections import TritonSection
from gateway.errors import ConfigError, ModelUnavailable
from gateway.inference.triton import ModelIdentity, Triton
from gateway.inference.tritonserver import TritonServer
from gateway.pipeline import Infer

Progress = Callable[[str], None]
_GLANCE_SECONDS = 2.0

_logger = structlog.get_logger()


class Models:
    """`infer` and `identity` by model name; raises ModelUnavailable while there is no Triton, and once stopped."""

    def __init__(self, section: TritonSection, *, folders: Sequence[Path], log_file: Path) -> None:
        self._section, self._folders, self._log_file = section, tuple(folders), log_file
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._triton: Triton | None = None
        self._server: TritonServer | None = None
        if section.url == "embedded":
            self._server = TritonServer(self._folders, log_file=log_file, environment=section.environment)

    def infer(self, model: str) -> Infer:
        return self._asked().infer(model)

    def identity(self, model: str) -> ModelIdentity:
        return self._asked().identity(model)

    def answers(self, model: str) -> bool:
        """Whether it could be asked now; starts the embedded Triton where that is not there."""
        try:
            return self._asked().ready(model)
        except ModelUnavailable:
            return False

    def ready(self) -> dict[str, bool]:
        """Every model that Triton knows, and whether it answers."""
        return self._asked().models()

    def seen(self) -> dict[str, bool]:
        """As ready(), asked with little patience, and without starting a Triton that is not there. Raises ModelUnavailable."""
        if self._server is not None and not self._server.alive:
            raise ModelUnavailable("Triton does not run in this process; it starts with the gateway's worker")
        triton = Triton(self._section.url if self._server is None else self._server.url, timeout_seconds=_GLANCE_SECONDS)
        try:
            return triton.models()
        finally:
            triton.close()

    def start(self, progress: Progress = lambda _: None) -> None:
        """Start the embedded Triton now, so that the first job need not wait for it. Raises ConfigError, ModelUnavailable."""
        with self._lock:
            self._open(progress)

    def stop(self) -> None:
        """For good. A Triton that is just starting is ended too: its start does not hold up the gateway's end."""
        self._stopping.set()
        if self._server is not None:
            self._server.stop()
        with self._lock:
            if self._triton is not None:
                self._triton.close()
            if self._server is not None:
                self._server.stop()

    def _asked(self) -> Triton:
        try:
            with self._lock:
                return self._open(lambda _: None)
        except ConfigError as error:
            raise ModelUnavailable(str(error)) from error

    def _open(self, progress: Progress) -> Triton:
        """A Triton that died comes back under its address, so those who ask it in other threads keep their channel."""
        if self._stopping.is_set():
            raise ModelUnavailable("expected a gateway that is not about to end")
        server, timeout = self._server, self._section.timeout_seconds
        if self._triton is None and server is None:
            self._triton = Triton(self._section.url, timeout_seconds=timeout, shared_memory=self._section.shared_memory)
        elif self._triton is None and server is not None:
            server.start(progress)
            for folder in self._folders:
                if not folder.is_dir():
                    _logger.warning("triton.no_such_folder", path=str(folder))
            _logger.info("triton.started", url=server.url, pid=server.pid)
            self._triton = Triton(
                server.url, timeout_seconds=timeout, shared_memory=True, repositories=self._folders, log=str(self._log_file)
            )
        elif self._triton is not None and server is not None and server.revive():
            _logger.warning("triton.revived", url=server.url, pid=server.pid)
            self._triton.reloaded()
        assert self._triton is not None
        return self._triton


def versions(section: TritonSection, *, folders: Sequence[Path], log_file: Path) -> dict[str, str]:
    """The version of every model that Triton knows, empty where it does not answer. Raises ModelUnavailable."""
    models = Models(section, folders=folders, log_file=log_file)
    try:
        return {name: models.identity(name).version if is_ready else "" for name, is_ready in models.ready().items()}
    finally:
        models.stop()
