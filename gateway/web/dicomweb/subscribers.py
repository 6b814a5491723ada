"""UPS-RS (PS3.18 11.10 to 11.13): who follows workitems, and the websocket that tells them what happens.

What is to be told are rows, whoever wrote them: the channel looks for them, and forgets each when it was sent. A channel takes a
token and no cookie, so that no page of another site opens one.
"""

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.access import signin
from gateway.errors import Damaged
from gateway.web.dicomweb.retrieve import base
from gateway.web.dicomweb.workitems import answered, warning
from gateway.web.site import Here, Site
from gateway.web.who import Viewer, token_of
from gateway.workitems import subscriptions, ups
from gateway.workitems.subscriptions import Told

router = APIRouter()
_LOOK_SECONDS, _AWAY_SECONDS, _CHECK_SECONDS = 0.5, 5.0, 30.0
_POLICY, _LATER = 1008, 1013
"""Close codes of RFC 6455 7.4.1 and of IANA's registry."""
_SUBSCRIBER = "/workitems/{workitem}/subscribers/{ae_title}"


@router.post(_SUBSCRIBER, status_code=201)
def subscribe(request: Request, workitem: str, ae_title: str, person: Viewer, here: Here) -> Response:
    """To a workitem, or to a worklist by its well-known UID; `deletionlock=true` is not granted."""
    pairs = request.query_params.multi_items()
    with answered(request):
        subscriptions.subscribe(
            here.db, ae_title, workitem, pairs, read=lambda document: ups.read(here.store, document), actor=person.name,
            now=here.clock(),
        )  # fmt: skip
    locked = request.query_params.get("deletionlock", "false").lower() == "true"
    channel = base(request).replace("http", "ws", 1)
    return Response(
        status_code=201,
        headers=warning(request, "Deletion Lock not granted." if locked else "")
        | {"Content-Location": f"{channel}/subscribers/{ae_title}"},
    )


@router.delete(_SUBSCRIBER)
def unsubscribe(request: Request, workitem: str, ae_title: str, person: Viewer, here: Here) -> Response:
    with answered(request):
        subscriptions.unsubscribe(here.db, ae_title, workitem, actor=person.name, now=here.clock())
    return Response()


@router.post(f"{_SUBSCRIBER}/suspend")
def suspend(request: Request, workitem: str, ae_title: str, person: Viewer, here: Here) -> Response:
    with answered(request):
        subscriptions.suspend(here.db, ae_title, workitem, actor=person.name, now=here.clock())
    return Response()


@router.websocket("/subscribers/{ae_title}")
async def channel(websocket: WebSocket, ae_title: str) -> None:
    site: Site = websocket.app.state.site
    listener = await run_in_threadpool(_listener, site, websocket, ae_title)
    if not listener:
        await websocket.close(_POLICY)
        return
    if not site.channels.acquire(blocking=False):
        await websocket.close(_LATER)
        return
    try:
        await websocket.accept()
        await _tell(site, websocket, ae_title, listener)
    except WebSocketDisconnect:
        return
    finally:
        site.channels.release()


async def _tell(site: Site, websocket: WebSocket, ae_title: str, listener: str) -> None:
    gone = asyncio.create_task(_until_closed(websocket))
    try:
        await _tell_until(gone, site, websocket, ae_title, listener)
    finally:
        gone.cancel()


async def _tell_until(gone: "asyncio.Task[None]", site: Site, websocket: WebSocket, ae_title: str, listener: str) -> None:
    """Or until who listens may not any more."""
    clock = asyncio.get_running_loop().time
    checked = clock()
    while not gone.done():
        pause = _LOOK_SECONDS
        try:
            if clock() - checked > _CHECK_SECONDS:
                checked = clock()
                if not await run_in_threadpool(_listener, site, websocket, ae_title):
                    await websocket.close(_POLICY)
                    return
            found = await run_in_threadpool(_events, site, ae_title, listener)
            for text in (text for _, text in found if text):
                await websocket.send_text(text)
            if found:
                await run_in_threadpool(subscriptions.done, site.db, [told.report for told, _ in found])
                continue
        except SQLAlchemyError:  # it is told when the database is back
            pause = _AWAY_SECONDS
        await asyncio.wait([gone], timeout=pause)


def _events(site: Site, ae_title: str, listener: str) -> list[tuple[Told, str]]:
    """With their texts; empty where the data set is not there any more: nobody can be told of it."""
    return [(told, _text(site, told)) for told in subscriptions.waiting(site.db, ae_title, listener)]


def _text(site: Site, told: Told) -> str:
    try:
        event = subscriptions.event(told, ups.read(site.store, told.document))
    except Damaged:
        return ""
    found: dict[str, Any] = event.to_json_dict(suppress_invalid_tags=True)
    return json.dumps(found)


def _listener(site: Site, websocket: WebSocket, ae_title: str) -> str:
    """Whose AE title it is, where that is who asks; else empty."""
    token = token_of(websocket.headers)
    person = signin.who_has_token(site.db, token, now=site.clock()) if token else None
    return person.name if person is not None and subscriptions.may_listen(site.db, ae_title, person.name) else ""


async def _until_closed(websocket: WebSocket) -> None:
    """There is nothing to be said to us."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
