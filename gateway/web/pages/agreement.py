"""Agreement: a rule's canary beside the pipeline whose place it might take. Many files are read for it, so somebody asks."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from gateway.views.agreement import agreement
from gateway.web.render import page
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer

NAVIGATION = None
_PAIRS = 50
Rule = Annotated[str, Query(min_length=1, max_length=200)]
router = APIRouter()


@router.get("/rules/agreement")
def show(request: Request, _person: Viewer, rule: Rule) -> Response:
    return page(request, "agreement.html", rule=rule, pairs=_PAIRS)


@router.get("/rules/agreement/found")
def compare(request: Request, _person: Operator, here: Here, rule: Rule) -> Response:
    found = here.recent.get(f"agreement of {rule}", lambda: agreement(here.db, here.store, rule, at_most=_PAIRS))
    return page(request, "agreement_found.html", found=found)
