"""QIDO-RS (PS3.18 10.6): studies, series and instances that the gateway holds."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydicom import Dataset

from gateway.dicom.query import BadQuery, Broad, parse
from gateway.views import holdings
from gateway.web.dicomweb.retrieve import SERIES, STUDY, base
from gateway.web.site import Here
from gateway.web.who import Viewer

router = APIRouter()
_JSON = "application/dicom+json"
_KEYWORDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID"}


@router.get("/studies")
def studies(request: Request, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "studies")


@router.get("/series")
@router.get(f"{STUDY}/series")
def series(request: Request, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "series")


@router.get("/instances")
@router.get(f"{STUDY}/instances")
@router.get(f"{SERIES}/instances")
def instances(request: Request, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "instances")


def _found(request: Request, here: Here, level: str) -> Response:
    within = [(_KEYWORDS[name], uid) for name, uid in request.path_params.items()]
    try:
        query = parse([*request.query_params.multi_items(), *within])
        found = holdings.search(here.db, level, query, here.store.path)
    except BadQuery as error:
        raise HTTPException(413 if isinstance(error, Broad) else 400, str(error)) from error
    if not found:
        return Response(status_code=204)
    root = base(request)
    return JSONResponse([_answer(one, root) for one in found], media_type=_JSON)


def _answer(found: Dataset, root: str) -> dict[str, Any]:
    parts = (("studies", "StudyInstanceUID"), ("series", "SeriesInstanceUID"), ("instances", "SOPInstanceUID"))
    found.RetrieveURL = "/".join([root, *(f"{word}/{found[keyword].value}" for word, keyword in parts if keyword in found)])
    return found.to_json_dict(suppress_invalid_tags=True)
