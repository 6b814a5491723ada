"""Jobs: what is worked on, what waits and what failed; one job with its input, its results, and what an operator can do."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from gateway.acts import admin
from gateway.acts.resend import resend
from gateway.acts.retract import retract
from gateway.outputs.rejection import REASONS
from gateway.rows.tables import JobState
from gateway.serving.stages import equipment
from gateway.views import lists, stories
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.narrow import InAddress
from gateway.web.number import Key
from gateway.web.render import go, live, sentence
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer
from gateway.work.shadow import release_job

NAVIGATION = Navigation("Jobs", "/jobs", 30)
router = APIRouter()


@router.get("/jobs")
@router.get("/jobs/rows")
def show(request: Request, _person: Viewer, here: Here, news: News, narrow: InAddress) -> Response:
    found = lists.jobs(here.db, narrow.wanted, after=narrow.after)
    return live(
        request, "jobs", news=news, rows=found.rows, following=found.following, narrow=narrow, states=list(JobState),
        pipelines=sorted(here.plan.pipelines),
    )  # fmt: skip


@router.get("/jobs/{job}")
@router.get("/jobs/{job}/now")
def show_one(request: Request, _person: Viewer, here: Here, news: News, job: Key) -> Response:
    story = stories.show_job(here.db, job)
    return live(request, "job", title=f"Job {job}", news=news, story=story, peers=here.peers, reasons=list(REASONS))


@router.post("/jobs/{job}/retry")
def retry(request: Request, person: Operator, here: Here, job: Key) -> Response:
    said = admin.retry_job(here.db, here.queues, job, actor=person.name, now=here.clock())
    return go(request, f"/jobs/{job}", sentence(said))


@router.post("/jobs/{job}/cancel")
def cancel(request: Request, person: Operator, here: Here, job: Key) -> Response:
    return go(request, f"/jobs/{job}", sentence(admin.cancel_job(here.db, job, actor=person.name, now=here.clock())))


@router.post("/jobs/{job}/release")
def release(request: Request, person: Operator, here: Here, job: Key) -> Response:
    said = release_job(here.db, here.queues, job, actor=person.name, now=here.clock())
    return go(request, f"/jobs/{job}", sentence(said))


@router.post("/jobs/{job}/resend")
def send_again(
    request: Request, person: Operator, here: Here, job: Key, to: Annotated[str, Form(max_length=64)] = ""
) -> Response:
    said = resend(here.db, here.queues, job=job, to=to or None, peers=here.roster, actor=person.name, now=here.clock())
    return go(request, f"/jobs/{job}", *map(sentence, said))


@router.post("/jobs/{job}/retract")
def take_back(request: Request, person: Operator, here: Here, job: Key, reason: Annotated[str, Form(max_length=40)]) -> Response:
    said = retract(
        here.db, here.queues, job=job, reason=reason, actor=person.name, now=here.clock(), equipment=equipment(), store=here.store
    )  # fmt: skip
    return go(request, f"/jobs/{job}", *map(sentence, said))
