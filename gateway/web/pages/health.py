"""Is it alive, is it ready: for load balancers and whoever restarts processes. It tells nobody anything else."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response

from gateway.web.site import Here
from gateway.web.who import Anybody

NAVIGATION = None
router = APIRouter()


@router.get("/healthz")
def alive(_nobody: Anybody) -> Response:
    """That there is an answer is the answer."""
    return PlainTextResponse("alive\n")


@router.get("/readyz")
def ready(_nobody: Anybody, here: Here) -> Response:
    """200 while database, store, models and doors of this process are there, else 503; the log says which is not."""
    is_ready = not here.health.missing()
    return PlainTextResponse("ready\n" if is_ready else "not ready\n", 200 if is_ready else 503)
