"""The audit trail, and where an instance is from and went."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BeforeValidator, Field

from gateway.auditing import events
from gateway.views.provenance import provenance
from gateway.web.number import BELOW, FROM
from gateway.web.rest._shapes import (
    DeliveryShape,
    EventShape,
    JobShape,
    Limit,
    OutcomeShape,
    OutputShape,
    SeriesShape,
    Shape,
    UidPath,
)
from gateway.web.site import Here
from gateway.web.who import Viewer

router = APIRouter(tags=["audit"])
_Uid = Annotated[str, Query(pattern=r"^[0-9.]{0,64}$")]
_Job = Annotated[int | None, Query(ge=FROM, lt=BELOW)]


class Events(Shape):
    """The latest, the oldest of them first."""

    items: list[EventShape]


class Result(Shape):
    output: OutputShape
    deliveries: list[DeliveryShape]


class Input(Shape):
    sop_instance_uid: str
    sha256: str


class Made(Shape):
    result: Result
    job: JobShape
    rules: list[OutcomeShape]
    inputs: list[Input]
    supersedes: list[str]
    superseded_by: list[str]
    retracted_by: list[str]


class Origin(Shape):
    ingest: str
    calling_ae_title: str
    called_ae_title: str
    address: str


class Work(Shape):
    job: JobShape
    results: list[Result]


class Came(Shape):
    series: SeriesShape
    origin: Origin
    apart: Annotated[int, BeforeValidator(len), Field(description="Other bytes that came under its UID")]
    work: list[Work]


class Provenance(Shape):
    """A result of ours that somebody sent back to us was both made and came."""

    sop_instance_uid: str
    made: Made | None
    came: Came | None
    events: list[EventShape]


@router.get("/audit")
def list_audit(_person: Viewer, here: Here, series: _Uid = "", job: _Job = None, limit: Limit = 50) -> Events:
    found = events.latest(here.db, limit=limit, series=series or None, job=job)
    return Events(items=[EventShape.model_validate(one) for one in found])


@router.get("/instances/{sop_instance_uid}/provenance")
def show_provenance(_person: Viewer, here: Here, sop_instance_uid: UidPath) -> Provenance:
    return Provenance.model_validate(provenance(here.db, sop_instance_uid))
