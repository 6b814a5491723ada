"""Ports of this machine, opened to listen on."""

import errno
import os
import socket
import time
from contextlib import ExitStack

import structlog

_BACKLOG = 512
_AGAIN_SECONDS = 0.1

_logger = structlog.get_logger()


def listen(host: str, port: int, *, patience_seconds: float = 0) -> socket.socket:
    """A socket that listens there; a port that is taken is tried for again so long. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end, is_told = time.monotonic() + patience_seconds, False
    while True:
        try:
            return socket.create_server((host, port), backlog=_BACKLOG, family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= end:
                raise
            if not is_told:
                _logger.warning("port.taken", host=host, port=port, seconds=patience_seconds)
                is_told = True
            time.sleep(_AGAIN_SECONDS)


def free_ports(count: int) -> list[int]:
    """Of 127.0.0.1: bound together, so that they differ; released for who takes them next."""
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def why(error: OSError) -> str:
    """Why nobody can listen there, in words."""
    return "unknown address" if isinstance(error, socket.gaierror) or not error.errno else os.strerror(error.errno).lower()
