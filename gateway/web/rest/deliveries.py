"""Deliveries: where results go, and results that go again or are taken back."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from gateway.acts import admin
from gateway.acts.resend import resend
from gateway.acts.retract import retract
from gateway.serving.stages import equipment
from gateway.views import lists, stories
from gateway.views.wanted import Wanted
from gateway.web.number import Key
from gateway.web.rest._lists import DeliverySearch, items
from gateway.web.rest._shapes import (
    Asked,
    CursorQuery,
    DeliveryShape,
    Done,
    EventShape,
    Items,
    Limit,
    OutputShape,
    Shape,
    StudyShape,
    Text,
    Uid,
    Word,
    done,
)
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer

router = APIRouter(tags=["deliveries"])


class DeliveryLine(Shape):
    delivery: DeliveryShape
    output: OutputShape
    study: StudyShape | None
    series_instance_uid: str


class DeliveryStory(Shape):
    delivery: DeliveryShape
    output: OutputShape
    events: list[EventShape]


class Which(Asked):
    """A result of ours, or all those of a job."""

    job: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    sop_instance_uid: Uid | None = None


class Resend(Which):
    to: Text | None = None
    """A peer; without one, all that it went to."""


class Retract(Which):
    reason: Text
    """quality, safety, wrong-patient, mwl or retention."""


@router.get("/deliveries")
def list_deliveries(
    _person: Viewer, here: Here, state: Word = "", peer: Word = "", after: CursorQuery = "", limit: Limit = 50
) -> Items[DeliveryLine]:
    """The latest first."""
    return items(lists.deliveries(here.db, Wanted(state=state, peer=peer), after=after, limit=limit), DeliveryLine)


@router.post("/deliveries/search")
def search_deliveries(_person: Viewer, here: Here, search: DeliverySearch) -> Items[DeliveryLine]:
    return items(lists.deliveries(here.db, search.wanted, after=search.after, limit=search.limit), DeliveryLine)


@router.get("/deliveries/{delivery}")
def show_delivery(_person: Viewer, here: Here, delivery: Key) -> DeliveryStory:
    return DeliveryStory.model_validate(stories.show_delivery(here.db, delivery))


@router.post("/deliveries/{delivery}/retry")
def retry_delivery(person: Operator, here: Here, delivery: Key) -> Done:
    """The same bytes under the same UID."""
    return done(
        admin.retry_delivery(here.db, here.queues, delivery, obstacle=here.roster.obstacle, actor=person.name, now=here.clock())
    )


@router.post("/deliveries/{delivery}/cancel")
def cancel_delivery(person: Operator, here: Here, delivery: Key) -> Done:
    return done(admin.cancel_delivery(here.db, here.queues, delivery, actor=person.name, now=here.clock()))


@router.post("/results/resend")
def resend_results(person: Operator, here: Here, which: Resend) -> Done:
    told = resend(
        here.db, here.queues, **which.model_dump(), peers=here.roster, actor=person.name, now=here.clock(),
    )  # fmt: skip
    return done(told)


@router.post("/results/retract")
def retract_results(person: Operator, here: Here, which: Retract) -> Done:
    """A rejection note goes to every peer that has them (IHE IOCM); what has not gone out never does."""
    told = retract(
        here.db, here.queues, **which.model_dump(), actor=person.name, now=here.clock(), equipment=equipment(), store=here.store,
    )  # fmt: skip
    return done(told)
