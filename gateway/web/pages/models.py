"""Models: which ones pipelines ask, whether Triton answers for them, and what they do."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.errors import ModelUnavailable
from gateway.views.modelwork import work_of
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.render import live
from gateway.web.site import Here
from gateway.web.who import Viewer

NAVIGATION = Navigation("Models", "/models", 60)
router = APIRouter()


@router.get("/models")
@router.get("/models/now")
def show(request: Request, _person: Viewer, here: Here, news: News) -> Response:
    return live(request, "models", news=news, **here.recent.get("models", lambda: _values(here)))


def _values(here: Here) -> dict[str, Any]:
    try:
        seen, problem = here.models.seen(), ""
    except ModelUnavailable as error:
        seen, problem = {}, str(error)
    pipelines = sorted(here.plan.pipelines.items())
    needed = {pipeline.model for _, pipeline in pipelines}
    work = work_of(here.db, sorted(needed), now=here.clock())
    return {
        "pipelines": pipelines, "seen": seen, "problem": problem, "work": work, "url": here.config.triton.url,
        "others": sorted(set(seen) - needed), "slots": here.config.triton.slots,
    }  # fmt: skip
