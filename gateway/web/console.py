"""The console's server: listens in a thread of its own, beside everything else and never in its way.

A port that is taken is told, and tried again; what scanners send and models compute goes on meanwhile.
"""

import socket
import threading
from collections.abc import Callable
from ssl import SSLContext
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.access import people
from gateway.access.signin import forget_ended
from gateway.configuration.webkeys import WebSection
from gateway.machine.listening import listen, why
from gateway.machine.served import Bounds, Served
from gateway.machine.tls import ServerContext
from gateway.web.application import application
from gateway.web.site import Site, site_of

__all__ = ("Console", "site_of")

_BOUNDS = Bounds(maximum_connections=512, head_seconds=30.0, grace_seconds=3)
_AGAIN_SECONDS, _FORGET_SECONDS = 5.0, 3600.0

_logger = structlog.get_logger()


class Console:
    """Serves while it is entered. Raises ConfigError where a page or a certificate is no good."""

    def __init__(self, site: Site) -> None:
        self._site, self._application, self._tls = site, application(site), _context(site.config.web)
        self._listening: socket.socket | None = None
        self._served: Served | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="console", daemon=True)

    def __enter__(self) -> Self:
        self.setup = self._first()
        """The secret that the first administrator needs; empty where there is somebody."""
        if self.setup:
            _logger.info("web.setup", path=str(self._site.setup_file))
        self._serve()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self._served is not None:
            self._served.close()
        self._site.health.close()

    @property
    def port(self) -> int | None:
        """None while it cannot listen."""
        return int(self._listening.getsockname()[1]) if self._listening else None

    @property
    def url(self) -> str:
        web = self._site.config.web
        scheme = "https" if web.certificate else "http"
        host = f"[{web.host}]" if ":" in web.host else web.host
        return web.url or f"{scheme}://{host}:{self.port or web.port}"

    def _first(self) -> str:
        """Where the database is away just now, whoever opens the console is asked for it all the same."""
        try:
            return "" if people.is_anybody(self._site.db) else people.setup_secret(self._site.setup_file)
        except SQLAlchemyError:
            return ""

    def _go_on(self) -> None:
        waited = 0.0
        while not self._stopped.wait(_AGAIN_SECONDS):
            waited += _AGAIN_SECONDS
            if self._served is None or not self._served.is_alive:
                self._serve()
            if waited >= _FORGET_SECONDS:
                waited = 0.0
                self._forget()

    def _serve(self) -> None:
        web = self._site.config.web
        try:
            self._listening = listen(web.host, web.port)
        except OSError as error:
            _logger.error("web.not_listening", host=web.host, port=web.port, reason=why(error))
            return
        self._served = Served(self._application, self._listening, _BOUNDS, self._tls, name="web", channels=True)
        _logger.info("web.started", url=self.url)

    def _forget(self) -> None:
        try:
            forget_ended(self._site.db, lives=self._site.lives, now=self._site.clock())
        except Exception as error:  # noqa: BLE001 - boundary: the database may be away, and is asked again in an hour
            _logger.warning("web.not_forgotten", error=type(error).__name__)


def _context(web: WebSection) -> Callable[[], SSLContext] | None:
    return ServerContext.of_console(web.certificate, web.key).current if web.certificate and web.key else None
