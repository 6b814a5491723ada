"""HTTP/1.1 for the DICOMweb ingest and the console: uvicorn with h11, in a thread of its own, with limits that it does not have.

h11 and not httptools: it is Python, so that a hostile request costs time at worst; it bounds what it holds of a request's head;
and it hands on all headers, so that a request with two framings can be refused (RFC 9112 6.3).
"""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from socket import IPPROTO_TCP, TCP_NODELAY, socket
from typing import Any, Self, cast

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.machine.crowd import crowded
from gateway.machine.tls import names, words

MAXIMUM_HEAD_BYTES = 16 * 1024
_BACKLOG = 512
_CHANNEL_BYTES = 4096
"""Of a message that somebody sends into a websocket: there is nothing to be said."""
Application = Callable[[Any, Any, Any], Awaitable[None]]

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Bounds:
    """`head_seconds`: how long a request's head, a TLS handshake, and a client that does not read its answer may take."""

    maximum_connections: int
    head_seconds: float
    grace_seconds: int
    """How long requests that are under way may go on when the server is closed."""


class Served:
    """`application` on a listening socket until closed. `channels`: it takes websockets too."""

    def __init__(
        self,
        application: Application,
        listening: socket,
        bounds: Bounds,
        tls: Callable[[], ssl.SSLContext] | None,
        *,
        name: str = "dicomweb",
        channels: bool = False,
    ) -> None:
        config = uvicorn.Config(
            cast("Any", application),
            loop="asyncio",
            http=cast("Any", partial(Connection, bounds)),
            ws="websockets-sansio" if channels else "none",
            ws_max_size=_CHANNEL_BYTES,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # its texts may quote a request
            access_log=False,
            proxy_headers=False,  # an address is the other end's, whatever it says
            server_header=False,
            timeout_keep_alive=cast("Any", bounds.head_seconds),
            timeout_graceful_shutdown=bounds.grace_seconds,
            h11_max_incomplete_event_size=MAXIMUM_HEAD_BYTES,
        )
        config.load()
        # Its connections inherit it; without, the delay of the second packet of each answer is 40 ms.
        listening.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._server = _Server(config, listening, bounds, _Current.of(tls) if tls else None)
        self._thread = threading.Thread(target=self._server.run, name=name)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


class _Current(ssl.SSLContext):
    """asyncio takes one context for all connections; this one asks for each which one it is now."""

    current: Callable[[], ssl.SSLContext]

    @classmethod
    def of(cls, current: Callable[[], ssl.SSLContext]) -> Self:
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made.current = current
        return made

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        context = self.current()
        context.sslobject_class = _Told
        return context.wrap_bio(*arguments, **options)


class _Told(ssl.SSLObject):
    """The log says why a handshake failed: asyncio tells nobody, and the other side sees no more than an end."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            _logger.warning("handshake.failed", reason=words(error))
            raise


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, listening: socket, bounds: Bounds, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._listening, self._bounds, self._tls = listening, bounds, tls

    async def startup(self, sockets: list[socket] | None = None) -> None:  # noqa: ARG002 - as uvicorn calls it
        """As uvicorn's own, with a deadline for the handshake."""
        loop = asyncio.get_running_loop()
        connection = partial(
            cast("Any", self.config.http_protocol_class), config=self.config, server_state=self.server_state, app_state={}
        )
        tls = {"ssl": self._tls, "ssl_handshake_timeout": self._bounds.head_seconds} if self._tls else {}
        self.servers = [await loop.create_server(connection, sock=self._listening, backlog=_BACKLOG, **cast("Any", tls))]
        self.started = True


class Connection(H11Protocol):
    """A connection that ends when it has to make room, or when the other side takes too long over a head or our answer.

    `scope["state"]["names"]` are those of the other side's certificate: none where it showed none, None without TLS.
    """

    def __init__(self, bounds: Bounds, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._bounds = bounds
        self._deadline: asyncio.TimerHandle | None = None
        self.made_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.made_at = self.loop.time()
        if len(self.connections) > self._bounds.maximum_connections and self._make_room() is self:
            return
        tls = transport.get_extra_info("ssl_object")
        self.app_state = {"names": names(tls.getpeercert()) if tls else None}
        self._arm(self._late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._waiting():
            self._disarm()
        elif self._deadline is None and not self.transport.is_closing():
            self._arm(self._late)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._disarm()
            self._arm(self._unread)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """From here on another protocol has the connection, with pings of its own."""
        self._disarm()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _make_room(self) -> "Connection":
        """Of those that are silent, the oldest of the address that has most of them is cut off: this one, where no other is."""
        silent = [one for one in self.connections if isinstance(one, Connection) and one.is_silent]
        silent.sort(key=lambda one: one.made_at)
        oldest = silent[crowded([one.client[0] if one.client else "" for one in silent])]
        self.connections.discard(oldest)  # those that come at once do not choose the same
        oldest.transport.abort()
        return oldest

    @property
    def is_silent(self) -> bool:
        """It waits for a request's head, and its last answer has gone."""
        return self._waiting() and not self.transport.get_write_buffer_size()

    def _waiting(self) -> bool:
        """For a request's head, the first or the next."""
        return self.cycle is None or self.cycle.response_complete

    def _late(self) -> None:
        self._deadline = None
        if self._waiting():
            self.transport.abort()

    def _unread(self) -> None:
        self._deadline = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _arm(self, then: Callable[[], None]) -> None:
        self._deadline = self.loop.call_later(self._bounds.head_seconds, then)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
