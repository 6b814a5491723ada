"""The models that jobs ask: a Triton elsewhere, or an embedded one, started when it is first needed and again when it died."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from gateway.config import TritonSection
from gateway.errors import ConfigError, ModelUnavailable
from gateway.pipeline import Infer
from gateway.triton import ModelIdentity, Triton
from gateway.tritonserver import TritonServer

_logger = structlog.get_logger()


class Models:
    """`infer` and `identity` by model name; raises ModelUnavailable while there is no Triton."""

    def __init__(self, section: TritonSection, *, folders: Sequence[Path], log_file: Path) -> None:
        self._section, self._folders = section, tuple(folders)
        self._lock = threading.Lock()
        self._triton: Triton | None = None
        self._server: TritonServer | None = None
        if section.url == "embedded":
            self._server = TritonServer(self._folders, log_file=log_file, environment=section.environment)

    def infer(self, model: str) -> Infer:
        return self._asked().infer(model)

    def identity(self, model: str) -> ModelIdentity:
        return self._asked().identity(model)

    def ready(self) -> dict[str, bool]:
        """Every model that Triton knows, and whether it answers."""
        return self._asked().models()

    def start(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Start the embedded Triton now, so that the first job need not wait for it. Raises ConfigError, ModelUnavailable."""
        with self._lock:
            self._open(progress)

    def stop(self) -> None:
        with self._lock:
            if self._triton is not None:
                self._triton.close()
                self._triton = None
            if self._server is not None:
                self._server.stop()

    def _asked(self) -> Triton:
        try:
            with self._lock:
                return self._open(lambda _: None)
        except ConfigError as error:
            raise ModelUnavailable(str(error)) from error

    def _open(self, progress: Callable[[str], None]) -> Triton:
        server, timeout = self._server, self._section.timeout_seconds
        if server is not None and not server.alive:
            if self._triton is not None:
                self._triton.close()
                self._triton = None
                _logger.warning("triton.died")
            server.start(progress)
            _logger.info("triton.started", url=server.url, pid=server.pid)
        if self._triton is None:
            self._triton = (
                Triton(server.url, timeout_seconds=timeout, shared_memory=True, repositories=self._folders)
                if server is not None
                else Triton(self._section.url, timeout_seconds=timeout, shared_memory=self._section.shared_memory)
            )
        return self._triton
