"""Searches: what was sought in a list becomes an address of that list (narrow.py)."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.web.narrow import InForm
from gateway.web.render import go
from gateway.web.who import Viewer

NAVIGATION = None
router = APIRouter()


@router.post("/studies")
@router.post("/series")
@router.post("/jobs")
@router.post("/deliveries")
def search(request: Request, _person: Viewer, narrow: InForm) -> Response:
    return go(request, f"{request.url.path}{narrow.query()}")
