"""QIDO-RS (PS3.18 10.6): studies, series and instances that the gateway holds."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydicom import Dataset

from gateway.dicom.query import BadQuery, parse
from gateway.views import holdings
from gateway.web.site import Here
from gateway.web.who import Viewer

router = APIRouter()
_JSON = "application/dicom+json"


@router.get("/studies")
def studies(request: Request, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "studies")


@router.get("/series")
def series(request: Request, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "series")


@router.get("/instances")
def instances(request: Request, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "instances")


@router.get("/studies/{study}/series")
def series_of_study(request: Request, study: str, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "series", StudyInstanceUID=study)


@router.get("/studies/{study}/instances")
def instances_of_study(request: Request, study: str, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "instances", StudyInstanceUID=study)


@router.get("/studies/{study}/series/{series}/instances")
def instances_of_series(request: Request, study: str, series: str, _person: Viewer, here: Here) -> Response:
    return _found(request, here, "instances", StudyInstanceUID=study, SeriesInstanceUID=series)


def _found(request: Request, here: Here, level: str, **within: str) -> Response:
    try:
        query = parse([*request.query_params.multi_items(), *within.items()])
        found = holdings.search(here.db, level, query, here.store.path)
    except BadQuery as error:
        raise HTTPException(413 if isinstance(error, holdings.Broad) else 400, str(error)) from error
    if not found:
        return Response(status_code=204)
    root = str(request.base_url).rstrip("/") + "/dicom-web"
    return JSONResponse([_answer(one, root) for one in found], media_type=_JSON)


def _answer(found: Dataset, root: str) -> dict[str, Any]:
    parts = (("studies", "StudyInstanceUID"), ("series", "SeriesInstanceUID"), ("instances", "SOPInstanceUID"))
    found.RetrieveURL = "/".join([root, *(f"{word}/{found[keyword].value}" for word, keyword in parts if keyword in found)])
    return found.to_json_dict(suppress_invalid_tags=True)
