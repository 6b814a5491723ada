"""Rules: their versions, an editor that says what is wrong, a trial with dropped files, and a replay over past series."""

from datetime import timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Form, Query, Request, UploadFile
from fastapi.responses import Response

from gateway.acts import rulebook
from gateway.acts.replay import replay
from gateway.acts.trial import samples, tried
from gateway.decisions.arrival import arrival
from gateway.decisions.document import MAX_CHARACTERS
from gateway.decisions.rules import RuleSet, load, load_taken
from gateway.errors import ConfigError
from gateway.serving.stages import equipment
from gateway.web.found import Navigation
from gateway.web.number import BELOW, FROM, Key
from gateway.web.render import go, page, sentence
from gateway.web.site import Here, Site
from gateway.web.who import Administrator, Operator, Viewer
from gateway.work.kept import Keep

NAVIGATION = Navigation("Rules", "/rules", 50)
_FILES_BYTES = 512 * 1024 * 1024
Text = Annotated[str, Form(max_length=2 * MAX_CHARACTERS)]
Number = Annotated[int | None, Query(ge=FROM, lt=BELOW)]
Chosen = Annotated[int | None, Form(ge=FROM, lt=BELOW)]
router = APIRouter()


@router.get("/rules")
def show(request: Request, _person: Viewer, here: Here) -> Response:
    lines, rules = rulebook.history(here.db), _in_force(here).rules
    refused, canaries = [rule.problem for rule in rules if rule.problem], [rule for rule in rules if rule.canary]
    return page(request, "rules.html", lines=lines, active=rulebook.active(here.db), refused=refused, canaries=canaries)


@router.get("/rules/draft")
@router.get("/rules/edit")
def edit(request: Request, _person: Administrator, here: Here, number: Number = None) -> Response:
    text = ""
    if number is not None or rulebook.active(here.db):
        text = rulebook.text_of(here.db, number)
    return page(request, "rules_edit.html", text=text, problems=(), note="", **_words(here))


@router.post("/rules/edit")
def begin(request: Request, _person: Administrator, here: Here, rule: Text, number: Chosen = None) -> Response:
    """The editor, with a suggested rule after those of a version (or of the one in force); nothing is kept yet."""
    rule = rule.replace("\r\n", "\n")
    if number is not None or rulebook.active(here.db):
        rule = f"{rulebook.text_of(here.db, number).rstrip()}\n{rule.removeprefix('rules:').lstrip(chr(10))}"
    return page(request, "rules_edit.html", text=rule, problems=_problems(here, rule), note="", **_words(here))


@router.post("/rules/check")
def check(request: Request, _person: Administrator, here: Here, text: Text = "") -> Response:
    return page(request, "rules_problems.html", problems=_problems(here, text), count=len(text.splitlines()))


@router.post("/rules/draft")
def draft(
    request: Request, person: Administrator, here: Here, text: Text = "", note: Annotated[str, Form(max_length=500)] = ""
) -> Response:
    text = text.replace("\r\n", "\n")
    problems = _problems(here, text)
    if problems:
        return page(request, "rules_edit.html", status=422, text=text, problems=problems, note=note, **_words(here))
    number = rulebook.store(here.db, text, note=note, actor=person.name, now=here.clock(), **here.names)
    return go(request, f"/rules/versions/{number}", f"Version {number} is kept. It is not in force yet.")


@router.get("/rules/versions/{number}")
def show_one(request: Request, _person: Viewer, here: Here, number: Key) -> Response:
    text = rulebook.text_of(here.db, number)
    line = next(one for one in rulebook.history(here.db) if one.version.number == number)
    active = rulebook.active(here.db)
    changes = rulebook.difference(here.db, active.number, number) if active and active.number != number else []
    return page(request, "rules_version.html", line=line, text=text, active=active, changes=changes)


@router.post("/rules/versions/{number}/approve")
def approve(request: Request, person: Administrator, here: Here, number: Key) -> Response:
    return _said(request, number, rulebook.approve(here.db, number, actor=person.name, now=here.clock()))


@router.post("/rules/versions/{number}/activate")
def activate(request: Request, person: Administrator, here: Here, number: Key) -> Response:
    return _said(request, number, rulebook.activate(here.db, number, **_act(person.name, here)))


@router.post("/rules/rollback")
def rollback(request: Request, person: Administrator, here: Here) -> Response:
    said = rulebook.rollback(here.db, **_act(person.name, here))
    return go(request, "/rules", sentence(said))


@router.get("/rules/versions/{number}/replay")
def replayed(
    request: Request, _person: Operator, here: Here, number: Key, days: Annotated[float, Query(gt=0, le=366)] = 7
) -> Response:
    before, after = _in_force(here), load(rulebook.text_of(here.db, number), **here.names)
    since = here.clock() - timedelta(days=days)
    found = replay(here.db, Keep(here.store.headers), before=before, after=after, since=since)
    return page(request, "rules_replay.html", found=found, days=days, number=number)


@router.post("/rules/test", max_body_size=_FILES_BYTES)
def try_files(request: Request, _person: Operator, here: Here, files: list[UploadFile], number: Chosen = None) -> Response:
    """Nothing of the files is kept."""
    rules = _in_force(here) if number is None else load_taken(rulebook.text_of(here.db, number), **here.names, version=number)
    found, others = samples(one.file for one in files)
    came = arrival(here.clock(), zone=ZoneInfo(here.config.gateway.time_zone), caller="")
    takes = {name: pipeline.needs for name, pipeline in here.plan.pipelines.items()}
    said = [tried(one, rules, equipment=equipment(), pipelines=takes, peers=here.peers, arrival=came) for one in found]
    return page(request, "rules_tried.html", said=said, others=others, number=number)


def _in_force(here: Site) -> RuleSet:
    return rulebook.Current(here.db, lambda: here.plan.pipelines, lambda: here.roster.names)()


def _problems(here: Site, text: str) -> tuple[str, ...]:
    try:
        load(text, **here.names)
    except ConfigError as error:
        return tuple(error.problems)
    return ()


def _words(here: Site) -> dict[str, Any]:
    return {"pipelines": sorted(here.plan.pipelines), "peers": here.peers}


def _act(actor: str, here: Site) -> dict[str, Any]:
    return {**here.names, "approval": here.config.rules.approval, "actor": actor, "now": here.clock()}


def _said(request: Request, number: int, said: str) -> Response:
    return go(request, f"/rules/versions/{number}", sentence(said))
