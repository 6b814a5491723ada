"""Series: what came, what became of it and why; one series with its time line, its evidence and what each rule said."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from gateway.acts.forced import complete_series, hold_series
from gateway.acts.order import order
from gateway.acts.release import release_series
from gateway.acts.rulebook import rule_names
from gateway.rows.tables import SeriesState
from gateway.views import lists, stories
from gateway.views.timeline import time_line
from gateway.views.wanted import CONSEQUENCES, is_cut
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.narrow import InAddress
from gateway.web.render import go, live, sentence
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer

NAVIGATION = Navigation("Series", "/series", 20)
router = APIRouter()

Short = Annotated[str, Form(max_length=64)]


@router.get("/series")
@router.get("/series/rows")
def show(request: Request, _person: Viewer, here: Here, news: News, narrow: InAddress) -> Response:
    wanted = narrow.wanted
    found = lists.series(here.db, wanted, after=narrow.after)
    return live(
        request, "series", news=news, rows=found.rows, following=found.following, narrow=narrow,
        cut=bool(wanted.text) and is_cut(here.db, wanted.text), states=[*SeriesState, *CONSEQUENCES], peers=here.peers,
        rules=here.recent.get("rules", lambda: rule_names(here.db)),
    )  # fmt: skip


@router.get("/series/{series_instance_uid}")
@router.get("/series/{series_instance_uid}/now")
def show_one(request: Request, _person: Viewer, here: Here, news: News, series_instance_uid: str) -> Response:
    story = stories.show_series(here.db, series_instance_uid)
    return live(
        request, "one_series", title="Series", news=news, story=story, line=time_line(story, here.clock()), peers=here.peers,
        apart=lists.kept_apart(here.db, series_instance_uid), pipelines=sorted(here.plan.pipelines),
    )  # fmt: skip


@router.post("/series/{series_instance_uid}/complete")
def complete(request: Request, person: Operator, here: Here, series_instance_uid: str) -> Response:
    said = complete_series(here.db, here.queues, series_instance_uid, actor=person.name, now=here.clock())
    return go(request, f"/series/{series_instance_uid}", sentence(said))


@router.post("/series/{series_instance_uid}/release")
def release(request: Request, person: Operator, here: Here, series_instance_uid: str) -> Response:
    said = release_series(here.db, here.queues, series_instance_uid, actor=person.name, now=here.clock())
    return go(request, f"/series/{series_instance_uid}", sentence(said))


@router.post("/series/{series_instance_uid}/hold")
def hold(request: Request, person: Operator, here: Here, series_instance_uid: str) -> Response:
    said = hold_series(here.db, series_instance_uid, actor=person.name, now=here.clock())
    return go(request, f"/series/{series_instance_uid}", sentence(said))


@router.post("/series/{series_instance_uid}/order")
def order_job(
    request: Request, person: Operator, here: Here, series_instance_uid: str, pipeline: Short, to: Short = ""
) -> Response:
    made = order(
        here.db, here.queues, series_instance_uid, pipeline=pipeline, pipelines=here.plan.pipelines, send_to=[to] if to else [],
        peers=here.peers, actor=person.name, now=here.clock(),
    )  # fmt: skip
    return go(request, f"/jobs/{made.job}", sentence(made))
