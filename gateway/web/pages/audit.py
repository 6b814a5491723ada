"""Audit: what happened, looked for and told; where one instance came from or went; and whether the trail is as it was written."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from gateway.auditing import events
from gateway.auditing.audit import Act
from gateway.auditing.events import Told
from gateway.errors import ConfigError
from gateway.views.provenance import provenance
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.number import BELOW, FROM
from gateway.web.render import go, live, page
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer

NAVIGATION = Navigation("Audit", "/audit", 70)
router = APIRouter()


Uid = Annotated[str, StringConstraints(strip_whitespace=True, max_length=64, pattern=r"^[0-9.]*$")]
"""As it was copied from somewhere, with the space around it."""


class Asked(BaseModel):
    """Of which events somebody wants to read; `before` is the number of the event that the page ends before."""

    act: str = Field(default="", max_length=40)
    actor: str = Field(default="", max_length=64)
    uid: Uid = ""
    job: Annotated[Annotated[int, Field(ge=FROM, lt=BELOW)] | None, BeforeValidator(lambda value: value or None)] = None
    bad: bool = False
    before: int | None = Field(default=None, ge=1, lt=2**63)

    @property
    def told(self) -> Told:
        return Told(act=self.act, actor=self.actor.strip(), uid=self.uid, job=self.job, is_bad=self.bad)


@router.get("/audit")
@router.get("/audit/rows")
def show(request: Request, _person: Viewer, here: Here, news: News, asked: Annotated[Asked, Query()]) -> Response:
    found = events.events(here.db, asked.told, before=asked.before)
    return live(request, "audit", news=news, found=found, asked=asked, acts=list(Act))


@router.get("/audit/instance")
def find(request: Request, _person: Viewer, uid: Annotated[Uid, Query(min_length=1)]) -> Response:
    return go(request, f"/audit/instances/{uid}")


@router.get("/audit/instances/{sop_instance_uid}")
def instance(request: Request, _person: Viewer, here: Here, sop_instance_uid: str) -> Response:
    return page(request, "provenance.html", found=provenance(here.db, sop_instance_uid))


@router.get("/audit/verification")
@router.get("/audit/verification/now")
def verification(request: Request, _person: Viewer, here: Here) -> Response:
    return live(request, "verification", walk=here.verification.latest)


@router.post("/audit/verification")
def verify(request: Request, person: Operator, here: Here) -> Response:
    if not here.verification.begin(person.name):
        raise ConfigError(["expected no walk over the trail to be under way: look at that one"])
    return go(request, "/audit/verification")
