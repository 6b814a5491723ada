"""Deliveries: each result on its way to each peer, until it is proved to be there; what an operator can do about it."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.acts import admin
from gateway.acts.resend import resend
from gateway.rows.tables import DeliveryState
from gateway.views import lists, stories
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.narrow import InAddress
from gateway.web.number import Key
from gateway.web.render import go, live, sentence
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer

NAVIGATION = Navigation("Deliveries", "/deliveries", 40)
router = APIRouter()


@router.get("/deliveries")
@router.get("/deliveries/rows")
def show(request: Request, _person: Viewer, here: Here, news: News, narrow: InAddress) -> Response:
    found = lists.deliveries(here.db, narrow.wanted, after=narrow.after)
    return live(
        request, "deliveries", news=news, rows=found.rows, following=found.following, narrow=narrow, states=list(DeliveryState),
        peers=here.peers,
    )  # fmt: skip


@router.get("/deliveries/{delivery}")
@router.get("/deliveries/{delivery}/now")
def show_one(request: Request, _person: Viewer, here: Here, news: News, delivery: Key) -> Response:
    return live(request, "delivery", title=f"Delivery {delivery}", news=news, story=stories.show_delivery(here.db, delivery))


@router.post("/deliveries/{delivery}/retry")
def retry(request: Request, person: Operator, here: Here, delivery: Key) -> Response:
    said = admin.retry_delivery(
        here.db, here.queues, delivery, obstacle=here.roster.obstacle, actor=person.name, now=here.clock()
    )
    return _told(request, delivery, said)


@router.post("/deliveries/{delivery}/cancel")
def cancel(request: Request, person: Operator, here: Here, delivery: Key) -> Response:
    said = admin.cancel_delivery(here.db, here.queues, delivery, actor=person.name, now=here.clock())
    return _told(request, delivery, said)


@router.post("/deliveries/{delivery}/resend")
def send_again(request: Request, person: Operator, here: Here, delivery: Key) -> Response:
    row = stories.show_delivery(here.db, delivery).delivery
    said = resend(
        here.db, here.queues, sop_instance_uid=row.sop_instance_uid, to=row.peer, peers=here.roster, actor=person.name,
        now=here.clock(),
    )  # fmt: skip
    return _told(request, delivery, *said)


def _told(request: Request, delivery: int, *said: str) -> Response:
    return go(request, f"/deliveries/{delivery}", *map(sentence, said))
