"""The first page: how much there is of everything."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import func, select

from gateway.tables import Delivery, Job, Series
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.render import page
from gateway.web.site import Here
from gateway.web.who import Viewer

NAVIGATION = Navigation("Overview", "/", 0)
router = APIRouter()


@router.get("/")
def show(request: Request, _person: Viewer, here: Here, news: News) -> Response:
    return page(request, "start.html", news=news, counts=_counts(here))


@router.get("/start/counts")
def counts(request: Request, _person: Viewer, here: Here, news: News) -> Response:
    return page(request, "start_counts.html", news=news, counts=_counts(here))


def _counts(here: Here) -> dict[str, int]:
    tables = {"series": Series, "jobs": Job, "deliveries": Delivery}
    with here.db() as session:
        return {name: session.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables.items()}
