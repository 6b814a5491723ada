"""STOW-RS origin server (PS3.18 10.5): POST to /dicom-web/studies and /dicom-web/studies/{study}, one instance a part.

A body is never held: what has come is handed on to a worker thread, a batch at a time, while the next batch comes. 200 means
that every instance is durable.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from socket import socket
from typing import Any
from uuid import uuid4

import structlog

from gateway import log
from gateway.dicom.instance import Origin
from gateway.doors import visits
from gateway.doors.door import Door
from gateway.doors.policy import Caller, Rejection
from gateway.ingest import Terms
from gateway.ingest._answer import JSON, Answer, Refusal, answer, refusal
from gateway.ingest._multipart import Malformed, Multipart, TooMuch
from gateway.ingest._request import Body, Gone, Head, read_head
from gateway.ingest._stow import Outcome, Submission
from gateway.machine.served import Bounds, Served

Admit = Callable[[str, frozenset[str] | None], Caller | Rejection]
"""By address and certificate names (None without TLS). Quick: no I/O."""

_BATCH_BYTES = 1024 * 1024
_LINGER_SECONDS = 2.0
_ANY = 2**63
_TOLD = frozenset((400, 403, 408, 413, 415, 429))
"""Refusals that the trail tells of; the others are mistakes of address, or ours."""

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """Of a request, and of how many there may be. `idle_seconds` is for what should come: a head, more of a body, a handshake."""

    maximum_body_bytes: int | None = None
    maximum_parts: int = 10_000
    maximum_part_header_bytes: int = 8192
    maximum_requests: int = 32
    maximum_connections: int = 256
    idle_seconds: float = 30.0
    grace_seconds: int = 5


class Server:
    """Takes requests from a listening socket until it is closed. `tls` is asked for each connection's context; None: no TLS."""

    def __init__(
        self, listening: socket, storage: "Storage", *, door: Door, tls: Callable[[], ssl.SSLContext] | None
    ) -> None:  # fmt: skip
        self._storage, limits = storage, storage.limits
        self.port: int = listening.getsockname()[1]
        bounds = Bounds(limits.maximum_connections, limits.idle_seconds, limits.grace_seconds)
        self._served = Served(partial(storage.serve, door), listening, bounds, tls)

    def close(self) -> None:
        """Take no more requests; those under way have `grace_seconds` to come to their end."""
        self._storage.take_no_more()
        self._served.close()
        self._storage.close()


class Storage:
    """What becomes of Store requests, whoever listens: `serve` is the ASGI application of one door.

    Each counts among `counted` as an association of its caller.
    """

    def __init__(self, *, admit: Admit, counted: visits.Limits, terms: Terms, limits: Limits) -> None:
        self._admit, self._counted, self._terms, self.limits = admit, counted, terms, limits
        self._requests, self._closing = 0, False
        # A request has one at a time; after a broken one, a second waits for it in order to end the request.
        self._workers = ThreadPoolExecutor(2 * limits.maximum_requests, "dicomweb")

    def take_no_more(self) -> None:
        self._closing = True

    def close(self) -> None:
        self._workers.shutdown()

    async def serve(self, door: Door, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        body = Body(receive, idle_seconds=self.limits.idle_seconds, maximum_bytes=self.limits.maximum_body_bytes)
        try:
            answered = await self._answer(door, scope, body)
        except Gone:
            return
        await _send(send, answered, body)

    async def _answer(self, door: Door, scope: Mapping[str, Any], body: Body) -> Answer:
        client = scope["client"]
        origin = Origin("dicomweb", str(uuid4()), address=client[0] if client else "")
        outcomes: list[Outcome] = []
        accepted = JSON
        try:
            caller = self._admit(origin.address, scope["state"]["names"])
            if isinstance(caller, Rejection):
                raise Refusal(403, caller.words)
            head = read_head(scope, maximum_body_bytes=self.limits.maximum_body_bytes)
            accepted = head.accepted
            await self._store(door, head, body, origin, caller, outcomes)
            return answer(outcomes, accepted)
        except Gone:
            raise
        except Refusal as error:
            if error.status in _TOLD:
                await self._run(door.turn_away, origin, f"HTTP {error.status}: {error}")
            return refusal(error, outcomes, accepted)
        except Exception as error:  # noqa: BLE001 - boundary: the client is told, the server goes on (habit 25)
            _logger.error("request.failed", error=type(error).__name__, stack=log.stack_without_values(error))
            return refusal(Refusal(500, "unexpected error"), outcomes, accepted)

    async def _store(
        self, door: Door, head: Head, body: Body, origin: Origin, caller: Caller, outcomes: list[Outcome]
    ) -> None:  # fmt: skip
        """Hand the body through the door. `outcomes` grows with each instance that is stored or refused."""
        closed = "expected fewer requests at a time" if self._requests >= self.limits.maximum_requests else door.closed
        if closed or self._closing:
            raise Refusal(503, closed or "the gateway is being stopped")
        multipart = Multipart(
            head.boundary,
            maximum_header_bytes=self.limits.maximum_part_header_bytes,
            maximum_parts=self.limits.maximum_parts,
        )
        terms = replace(
            self._terms,
            study_instance_uid=head.study_instance_uid,
            sop_classes=frozenset(filter(caller.allows, self._terms.sop_classes)),
            maximum_instance_bytes=min(caller.maximum_instance_bytes or _ANY, self._terms.maximum_instance_bytes),
        )
        submission = Submission(door, origin, multipart, terms, outcomes)
        if (rejection := self._counted.begin_request(caller, time.monotonic())) is not None:
            raise Refusal(429, rejection.words)
        self._requests += 1
        try:
            await self._stream(submission, body, caller)
        except Malformed as error:
            raise Refusal(400, str(error)) from error
        except TooMuch as error:
            raise Refusal(413, str(error)) from error
        finally:
            self._requests -= 1
            self._counted.end_request(caller)
            await asyncio.shield(self._run(submission.end))

    async def _stream(self, submission: Submission, body: Body, caller: Caller) -> None:
        """A batch is on its way to the disk while the next one is read: these two are all of a body that is ever in memory.

        Who sends faster than its megabytes a second is read from no further for a while, and answered later.
        """
        under_way: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        under_way.set_result(None)
        held: list[bytes] = []
        size = 0
        try:
            while not body.ended:
                held.append(await body.read())
                received = len(held[-1])
                size += received
                if size >= _BATCH_BYTES or under_way.done():
                    await under_way
                    under_way = self._run(submission.take, b"".join(held))
                    held, size = [], 0
                if pause := self._counted.pause(caller, received, time.monotonic()):
                    await asyncio.sleep(pause)
            await under_way
            await self._run(submission.finish, b"".join(held))
        except (Gone, Refusal):  # what came whole before is stored, as over any other association
            await under_way
            await self._run(submission.take, b"".join(held))
            raise
        finally:
            await asyncio.gather(under_way, return_exceptions=True)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """In a worker thread: the door blocks on the disk."""
        return asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)


async def _send(send: Any, answered: Answer, body: Body) -> None:
    headers = {
        "content-type": answered.media_type,
        "content-length": str(len(answered.body)),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **answered.headers,
    }
    unread = not body.ended
    if unread:
        headers["connection"] = "close"
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answered.status, "headers": encoded})
    await send({"type": "http.response.body", "body": answered.body, "more_body": unread})
    if unread:
        await body.drain(_LINGER_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
