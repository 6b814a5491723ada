"""Overview: what goes through, what waits, and what needs a person."""

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.acts import rulebook
from gateway.errors import ModelUnavailable
from gateway.telling.happening import Kind
from gateway.views.overview import COUNTED, Overview, overview, took
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.render import live
from gateway.web.site import Here, Site
from gateway.web.who import Viewer

NAVIGATION = Navigation("Overview", "/", 0)
router = APIRouter()

_SHORT_BYTES = 5 * 1024**3
_OF_ALARMS: Mapping[str, str] = {Kind.MODEL_AWAY: "/models", Kind.DISK_LOW: "/#machine"}


@dataclass(frozen=True)
class Concern:
    """Something that needs a person: what it is, and where it can be looked at or mended."""

    what: str
    where: str
    advice: str


@router.get("/")
@router.get("/overview/now")
def show(request: Request, _person: Viewer, here: Here, news: News) -> Response:
    return live(request, "overview", news=news, **here.recent.get("overview", lambda: _find_out(here)))


def _find_out(here: Here) -> dict[str, Any]:
    now = here.clock()
    told = overview(here.db, now, obstacle=here.roster.obstacle)
    disk = shutil.disk_usage(here.config.store_folder)
    models, models_problem = _models(here)
    concerns = [*_concerns(told, here), *_of_the_machine(here, disk.free, models, {one.kind for one in told.alarms})]
    return {
        "glance": told, "now": now, "counted": COUNTED, "disk": disk, "concerns": concerns, "peers": list(_peers(told, here)),
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


def _peers(told: Overview, here: Site) -> Iterator[tuple[str, str, str]]:
    """Each with the badge that says whether it takes results, and its words."""
    away, have = {one.peer for one in told.away}, took(here.db, here.roster.names)
    for entry in here.roster.entries:
        if not entry.is_active:
            yield entry.name, "cancelled", entry.state
        elif entry.name in away:
            yield entry.name, "away", "away"
        else:
            yield entry.name, *(("ready", "takes results") if entry.name in have else ("cancelled", "took none yet"))


def _concerns(told: Overview, here: Site) -> Iterator[Concern]:
    if told.door:
        yield Concern(f"Senders are told to come again: {told.door}", "/audit?act=door.closed", "It opens by itself.")
    yield from _of_rows(told)
    yield from _of_peers(told, here)
    for alarm in told.alarms:
        yield Concern(f"{alarm.reason[:1].upper()}{alarm.reason[1:]}", _OF_ALARMS.get(alarm.kind, "/audit?act=alarm.raised"), "")
    if told.collector:
        advice = "Nothing is lost: events wait and follow."
        yield Concern(f"The audit collector is away: {told.collector}", "/audit?act=collector.down", advice)
    known = {str(table.get("name")) for table in here.config.notices}  # of one that was taken out the row stays
    for name in sorted(known & told.notices.keys()):
        advice = "Nothing is lost: the next notice counts what happened."
        yield Concern(f"No notice reaches {name}: {told.notices[name]}", "/audit?act=notice.failed", advice)


def _of_rows(told: Overview) -> Iterator[Concern]:
    """By how many there are: what is said of one, what of many."""
    complete, release = "Complete it, or wait for the rest.", "The reason stands there; mend the rules, then release."
    read, decide = "Its reason stands there: retry or cancel.", "Decide whether it is sent."
    retry = "Mend it and retry, or cancel."
    for count, one, many, where, advice in (
        (told.held_series, "series is held", "series are held", "/series?state=held", complete),
        (told.undecided, "series is not decided on", "series are not decided on", "/series?state=not+decided", release),
        (told.failed_jobs, "job failed", "jobs failed", "/jobs?state=failed", read),
        (told.held_deliveries, "delivery is held", "deliveries are held", "/deliveries?state=held", decide),
        (told.failed_deliveries, "delivery failed", "deliveries failed", "/deliveries?state=failed", retry),
    ):
        if count:
            yield Concern(f"{count}{'+' if count >= COUNTED else ''} {one if count == 1 else many}", where, advice)


def _of_peers(told: Overview, here: Site) -> Iterator[Concern]:
    for away in told.away:
        waiting, tried = ("1 delivery waits", "is") if away.waiting == 1 else (f"{away.waiting} deliveries wait", "are")
        where, obstacle = f"/deliveries?peer={quote(away.peer)}&state=queued", here.roster.obstacle(away.peer)
        what = f"{away.peer} {obstacle}" if obstacle else f"{away.peer} does not take results: {away.reason}"
        yield Concern(what, where, f"{waiting}." if obstacle else f"{waiting} and {tried} tried again.")
    for unproved in told.unproved:
        where, count = f"/deliveries?peer={quote(unproved.peer)}&state=sent", unproved.waiting
        what = f"{unproved.peer} took {count} result{'' if count == 1 else 's'} long ago, {unproved.reason}"
        yield Concern(what, where, "It is looked for on: mend the cause, let the peer prove in another way, or cancel.")


def _of_the_machine(here: Site, free: int, models: dict[str, bool], told: Collection[str]) -> Iterator[Concern]:
    """`told` are the kinds of alarms that are on."""
    if Kind.DISK_LOW not in told and free < max(_SHORT_BYTES, 2 * here.config.store.keep_free_bytes):
        advice = "Make room, or let retention remove what is proved ([retention])."
        yield Concern("The store's disk is nearly full", "/#machine", advice)
    if Kind.MODEL_AWAY not in told and here.plan.pipelines and not any(models.values()) and here.is_working:
        yield Concern("No model answers", "/models", "Jobs wait meanwhile; the page of the models says why.")
