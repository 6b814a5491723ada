"""What an Orthanc with our plugin asks (deploy/orthanc): to be looked at, whether the door is open, and for pipelines."""

from typing import Annotated

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from gateway.errors import ConfigError
from gateway.fetching import fetch
from gateway.web.rest._shapes import Uid
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer
from gateway.work.progress import state_of

router = APIRouter(prefix="/orthanc", tags=["orthanc"])


class Door(BaseModel):
    open: bool


class Order(BaseModel):
    """Of a pipeline on a series which `peer` (a name of [[peers]]) has."""

    peer: Annotated[str, Field(max_length=64)]
    study_instance_uid: Uid
    series_instance_uid: Uid
    pipeline: Annotated[str, Field(max_length=64)]


class Said(BaseModel):
    said: str


@router.post("/poke", status_code=204)
def poke(_: Viewer, here: Here) -> None:
    """There may be something new."""
    if here.watches is not None:
        here.watches.poke()


@router.get("/door")
def door(_: Viewer, here: Here) -> Door:
    return Door(open=here.doorman is None or here.doorman.is_open)


@router.get("/pipelines")
def pipelines(_: Viewer, here: Here) -> list[str]:
    return sorted(here.plan.pipelines)


@router.post("/orders", status_code=202)
def orders(asked: Order, person: Operator, here: Here) -> Said:
    """The series is taken, if it is not here, then worked on; what comes of it goes to the peer."""
    if here.watches is None or asked.peer not in here.watches.names:
        raise HTTPException(422, "expected a peer whose series are taken from there")
    if asked.pipeline not in here.plan.pipelines:
        raise HTTPException(422, f"expected a pipeline: {', '.join(sorted(here.plan.pipelines))}")
    try:
        fetch.ask(
            asked.peer, asked.study_instance_uid, asked.series_instance_uid, asked.pipeline, actor=person.name, now=here.clock(),
            db=here.db,
        )  # fmt: skip
    except ConfigError as error:
        raise HTTPException(422, str(error)) from error
    here.watches.poke()
    return Said(said=f"{asked.pipeline} is ordered")


@router.get("/series/{series_instance_uid}")
def series(series_instance_uid: Uid, _: Viewer, here: Here) -> Said:
    """How far the work on it is."""
    with here.db() as session:
        return Said(said=state_of(session, series_instance_uid))
