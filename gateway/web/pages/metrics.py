"""/metrics: for Prometheus. This machine may ask without a token; from elsewhere a token of a viewer is expected."""

from ipaddress import ip_address

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from gateway.access import signin
from gateway.rows.accounts import Right
from gateway.web.site import Here
from gateway.web.who import Anybody, token_of

NAVIGATION = None
router = APIRouter()


@router.get("/metrics")
async def metrics(request: Request, _nobody: Anybody, here: Here) -> Response:
    if not _is_here(request):
        token = token_of(request.headers)
        person = await run_in_threadpool(signin.who_has_token, here.db, token, now=here.clock()) if token else None
        if person is None or not person.may(Right.VIEWER):
            return Response("expected a bearer token of a viewer\n", 401, {"WWW-Authenticate": "Bearer"}, "text/plain")
    document, media_type = await run_in_threadpool(here.meter.exposition, request.headers.get("accept", ""))
    return Response(document, media_type=media_type)


def _is_here(request: Request) -> bool:
    """Behind a proxy the address is the one that the proxy has seen, or nobody's (guard.py)."""
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False
