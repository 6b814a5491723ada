"""Jobs: what is made of a series, tried again and cancelled."""

from fastapi import APIRouter

from gateway.acts import admin
from gateway.views import lists, stories
from gateway.views.wanted import Wanted
from gateway.web.number import Key
from gateway.web.rest._lists import JobSearch, items
from gateway.web.rest._shapes import (
    CursorQuery,
    DeliveryShape,
    Done,
    Items,
    JobShape,
    Limit,
    OutputShape,
    Shape,
    StudyShape,
    Word,
    done,
)
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer

router = APIRouter(prefix="/jobs", tags=["jobs"])


class JobLine(Shape):
    job: JobShape
    study: StudyShape
    modality: str
    deliveries: dict[str, int]
    """Counted by state."""


class CompanionShape(Shape):
    role: str
    series_instance_uid: str


class JobStory(Shape):
    job: JobShape
    inputs: list[str]
    """SHA-256 of the exact instances that it works on."""
    companions: list[CompanionShape]
    """The other series of the study that it gets; their instances are among the inputs."""
    gone: int
    """How many of them retention took."""
    outputs: list[OutputShape]
    deliveries: list[DeliveryShape]
    superseded_by: list[int]


@router.get("")
def list_jobs(
    _person: Viewer, here: Here, state: Word = "", pipeline: Word = "", after: CursorQuery = "", limit: Limit = 50
) -> Items[JobLine]:
    """The latest first."""
    return items(lists.jobs(here.db, Wanted(state=state, pipeline=pipeline), after=after, limit=limit), JobLine)


@router.post("/search")
def search_jobs(_person: Viewer, here: Here, search: JobSearch) -> Items[JobLine]:
    return items(lists.jobs(here.db, search.wanted, after=search.after, limit=search.limit), JobLine)


@router.get("/{job}")
def show_job(_person: Viewer, here: Here, job: Key) -> JobStory:
    return JobStory.model_validate(stories.show_job(here.db, job))


@router.post("/{job}/retry")
def retry_job(person: Operator, here: Here, job: Key) -> Done:
    """A failed one is queued again, a waiting one starts now."""
    return done(admin.retry_job(here.db, here.queues, job, actor=person.name, now=here.clock()))


@router.post("/{job}/cancel")
def cancel_job(person: Operator, here: Here, job: Key) -> Done:
    return done(admin.cancel_job(here.db, job, actor=person.name, now=here.clock()))
