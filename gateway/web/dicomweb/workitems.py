"""UPS-RS (PS3.18 11.4 to 11.9): workitems created, retrieved, updated, claimed, ended, searched, and asked to be canceled.

Operators order and perform, viewers look. A request's data set is DICOM JSON; XML is not read at all.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from pydicom import Dataset

from gateway.dicom.procedure import BadWorkitem, parse
from gateway.dicom.query import BadQuery, Broad
from gateway.dicom.uids import secret_uid
from gateway.errors import OutOfResources
from gateway.web.dicomweb.retrieve import base, taken
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer
from gateway.workitems import ups
from gateway.workitems.subscriptions import NotFollowed, NotYours

router = APIRouter()
_JSON = "application/dicom+json"
_TAKEN = (_JSON, "application/json")
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (Broad, 413), (BadQuery, 400), (BadWorkitem, 400), (NotYours, 403), (NotFollowed, 404), (ups.NoWorkitem, 404),
    (ups.GoneWorkitem, 410), (ups.Conflict, 409), (OutOfResources, 503),
)  # fmt: skip


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if body and kind not in _TAKEN:
        raise HTTPException(415, f"expected {_JSON}")
    return body


Body = Annotated[bytes, Depends(_body)]


@contextmanager
def answered(request: Request) -> Iterator[None]:
    """Errors of ours as statuses; a conflict says in a Warning what is in the way (PS3.18 11.7.3)."""
    try:
        yield
    except tuple(kind for kind, _ in _STATUSES) as error:
        status = next(status for kind, status in _STATUSES if isinstance(error, kind))
        headers = warning(request, str(error)) if status == 409 else {"Retry-After": "5"} if status == 503 else {}
        raise HTTPException(status, str(error), headers) from error


def warning(request: Request, text: str) -> dict[str, str]:
    return {"Warning": f"299 {base(request)}: {text}"} if text else {}


def told(request: Request, found: list[Dataset]) -> Response:
    taken(request, _TAKEN, "")
    return Response(json.dumps([one.to_json_dict(suppress_invalid_tags=True) for one in found]), media_type=_JSON)


@router.post("/workitems", status_code=201)
def create(request: Request, person: Operator, here: Here, body: Body) -> Response:
    """`?workitem=UID` or `?UID`; without one, the data set's own, or one of ours."""
    with answered(request):
        asked = parse(body)
        uid = _parameter(request, "workitem") or str(asked.get("SOPInstanceUID") or secret_uid())
        is_modified = ups.create(here.db, here.store, here.queues, asked, uid, actor=person.name, now=here.clock())
    headers = warning(request, "The UPS was created with modifications." if is_modified else "")
    return Response(status_code=201, headers=headers | {"Location": f"{base(request)}/workitems/{uid}"})


@router.get("/workitems")
def search(request: Request, _person: Viewer, here: Here) -> Response:
    with answered(request):
        found = ups.search(here.db, here.store, request.query_params.multi_items())
    return told(request, found) if found else Response(status_code=204)


@router.get("/workitems/{workitem}")
def retrieve(request: Request, workitem: str, _person: Viewer, here: Here) -> Response:
    with answered(request):
        return told(request, [ups.retrieve(here.db, here.store, workitem)])


@router.post("/workitems/{workitem}")
def update(request: Request, workitem: str, person: Operator, here: Here, body: Body) -> Response:
    """`?transaction=UID` or `?UID` while it is in progress."""
    transaction = _parameter(request, "transaction")
    with answered(request):
        ups.change(
            here.db, here.store, here.queues, workitem, parse(body), transaction, actor=person.name, now=here.clock()
        )  # fmt: skip
    return Response(headers={"Content-Location": f"{base(request)}/workitems/{workitem}"})


@router.put("/workitems/{workitem}/state")
def change_state(request: Request, workitem: str, person: Operator, here: Here, body: Body) -> Response:
    with answered(request):
        said = ups.change_state(here.db, here.store, workitem, parse(body), actor=person.name, now=here.clock())
    return Response(headers=warning(request, said) | {"Content-Location": f"{base(request)}/workitems/{workitem}"})


@router.post("/workitems/{workitem}/cancelrequest", status_code=202)
def request_cancel(request: Request, workitem: str, person: Operator, here: Here, body: Body) -> Response:
    """The body says why, or is empty."""
    with answered(request):
        asked = parse(body) if body else Dataset()
        said = ups.request_cancel(here.db, here.store, workitem, asked, actor=person.name, now=here.clock())
    return Response(status_code=202, headers=warning(request, said))


def _parameter(request: Request, name: str) -> str:
    """By its name, or a UID alone as older editions have it."""
    pairs: list[tuple[str, Any]] = request.query_params.multi_items()
    return next((str(value or key) for key, value in pairs if key == name or not value), "")
