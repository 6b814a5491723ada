"""Overview: what goes through, what waits, and what needs a person."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.acts import rulebook
from gateway.errors import ModelUnavailable
from gateway.views.overview import COUNTED, Overview, overview
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.render import page
from gateway.web.site import Here
from gateway.web.who import Viewer

NAVIGATION = Navigation("Overview", "/", 0)
router = APIRouter()

_SHORT_BYTES = 5 * 1024**3


@dataclass(frozen=True)
class Concern:
    """Something that needs a person: what it is, and where it can be looked at or mended."""

    what: str
    where: str
    advice: str


@router.get("/")
def show(request: Request, _person: Viewer, here: Here, news: News) -> Response:
    return page(request, "overview.html", news=news, **_values(here))


@router.get("/overview/now")
def show_now(request: Request, _person: Viewer, here: Here, news: News) -> Response:
    return page(request, "overview_now.html", news=news, **_values(here))


def _values(here: Here) -> dict[str, Any]:
    found: dict[str, Any] = here.recent.get("overview", lambda: _find_out(here))
    return found


def _find_out(here: Here) -> dict[str, Any]:
    now = here.clock()
    told = overview(here.db, now)
    disk = shutil.disk_usage(here.config.store_folder)
    models, models_problem = _models(here)
    concerns = [*_concerns(told), *_of_the_machine(here, disk.free, models)]
    return {
        "glance": told, "now": now, "counted": COUNTED, "disk": disk, "concerns": concerns, "peers": here.peers,
        "models": models, "models_problem": models_problem, "has_rules": rulebook.active(here.db) is not None,
        "highest": max([1, *(max(one.series, one.deliveries) for one in told.hours)]),
    }  # fmt: skip


def _models(here: Here) -> tuple[dict[str, bool], str]:
    """Those that pipelines ask, and whether they answer."""
    needed = sorted({pipeline.model for pipeline in here.plan.pipelines.values()})
    try:
        seen = here.models.seen()
    except ModelUnavailable as error:
        return dict.fromkeys(needed, False), str(error)
    return {name: seen.get(name, False) for name in needed}, ""


def _concerns(told: Overview) -> Iterator[Concern]:
    if told.door:
        yield Concern(f"Senders are told to come again: {told.door}", "/audit?act=door.closed", "It opens by itself.")
    counted = (
        (
            told.held_series,
            "series is held",
            "series are held",
            "/series?state=held",
            "Complete it, or wait for the rest.",
        ),
        (told.failed_jobs, "job failed", "jobs failed", "/jobs?state=failed", "Its reason stands there: retry or cancel."),
        (told.held_deliveries, "delivery is held", "deliveries are held", "/deliveries?state=held", "Decide whether it is sent."),
        (
            told.failed_deliveries,
            "delivery failed",
            "deliveries failed",
            "/deliveries?state=failed",
            "Mend it and retry, or cancel.",
        ),
    )
    for count, one, many, where, advice in counted:
        if count:
            yield Concern(f"{count}{'+' if count >= COUNTED else ''} {one if count == 1 else many}", where, advice)
    for away in told.away:
        waiting = "1 delivery waits and is" if away.waiting == 1 else f"{away.waiting} deliveries wait and are"
        where = f"/deliveries?peer={quote(away.peer)}&state=queued"
        yield Concern(f"{away.peer} does not take results: {away.reason}", where, f"{waiting} tried again.")
    for unproved in told.unproved:
        where, count = f"/deliveries?peer={quote(unproved.peer)}&state=sent", unproved.waiting
        what = f"{unproved.peer} took {count} result{'' if count == 1 else 's'} long ago, {unproved.reason}"
        yield Concern(what, where, "It is looked for on: mend the cause, let the peer prove in another way, or cancel.")
    if told.collector:
        advice = "Nothing is lost: events wait and follow."
        yield Concern(f"The audit collector is away: {told.collector}", "/audit?act=collector.down", advice)


def _of_the_machine(here: Here, free: int, models: dict[str, bool]) -> Iterator[Concern]:
    if free < max(_SHORT_BYTES, 2 * here.config.store.keep_free_bytes):
        advice = "Make room, or let retention remove what is proved ([retention])."
        yield Concern("The store's disk is nearly full", "/#machine", advice)
    if here.plan.pipelines and not any(models.values()) and here.is_working:
        yield Concern("No model answers", "/models", "Jobs wait meanwhile; the page of the models says why.")
