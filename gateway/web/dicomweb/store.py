"""STOW-RS (PS3.18 10.5) beside search and retrieval: an operator's images, through a door of our own for each request.

It is the code of the DICOMweb ingest (ingest/dicomweb.py), with its limits, and who comes in there comes in here: a token does
not take the place of [[callers]]. 200 means that every instance is durable; it is filed before the request ends.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from gateway.doors import visits
from gateway.filing import own_door, told
from gateway.ingest.dicomweb import Limits, Storage
from gateway.web.site import Here, Site
from gateway.web.who import Operator

router = APIRouter()
_ANY = 2**62
"""Its own limits hold ([dicomweb] maximum_body_bytes)."""


@router.post("/studies", max_body_size=_ANY)
@router.post("/studies/{study}", max_body_size=_ANY)
def store(request: Request, _person: Operator, here: Here) -> Response:
    return _Stored(here, request.app.state.storage)


class _Stored(Response):
    """The body is read, and answered, by what takes Store requests at the ingest's port too."""

    def __init__(self, here: Site, storage: Storage) -> None:
        super().__init__()
        self._here, self._storage = here, storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        around = self._here.around
        opened = own_door(
            around.books, around.incoming, f"{around.executor}.web", clock=around.clock, keep_free_bytes=around.keep_free_bytes
        )  # fmt: skip
        door, _ = await run_in_threadpool(opened.__enter__)
        door.closed = self._here.doorman.closed if self._here.doorman is not None else ""
        answer: list[Any] = []

        async def keep(message: Any) -> None:
            answer.append(message)

        try:
            await self._storage.serve(door, scope, receive, keep)
        finally:
            with told("receive.failed"):  # what it promised lies in its journal: who takes over files it
                await run_in_threadpool(opened.__exit__, None, None, None)
        for message in answer:
            await send(message)


def storage(here: Site) -> Storage:
    """One for all requests of this process: so many at a time and no more, of each caller too."""
    config = here.config
    counted = visits.Limits(
        config.policy, **config.dimse.model_dump(include={"maximum_associations", "maximum_per_address", "maximum_half_open"})
    )  # fmt: skip
    limits = Limits(config.dicomweb.maximum_body_bytes, maximum_requests=config.dicomweb.maximum_requests)
    return Storage(admit=config.policy.admit_request, counted=counted, terms=here.around.terms, limits=limits)
