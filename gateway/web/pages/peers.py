"""Peers: where results go, whether that works, what each accepts; administrators add and change those beside gateway.toml."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from gateway.acts import peering
from gateway.acts.retire import retire_peer
from gateway.acts.rulebook import sent_to
from gateway.errors import ConfigError, DeliveryError
from gateway.peers import Key
from gateway.roster import HIDDEN
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.render import go, live, page, sentence
from gateway.web.site import Here, Site
from gateway.web.who import Administrator, Operator, Viewer

NAVIGATION = Navigation("Peers", "/peers", 50)
Name = Annotated[str, Query(max_length=200)]
Protocol = Annotated[str, Query(max_length=50)]
router = APIRouter()


class Filled(BaseModel):
    """A form that was filled in: a field for each key of the protocol; `name` of a peer that is new."""

    model_config = ConfigDict(extra="allow")
    name: str = ""


@router.get("/peers")
@router.get("/peers/now")
def show(request: Request, _person: Viewer, here: Here, news: News) -> Response:
    return live(request, "peers", news=news, lines=peering.list_peers(here.db, here.roster), protocols=here.roster.protocols)


@router.get("/peer")
@router.get("/peer/now")
def show_one(request: Request, _person: Viewer, here: Here, news: News, name: Name) -> Response:
    return live(request, "peer", title=f"Peer {name}", news=news, line=peering.show_peer(here.db, here.roster, name))


@router.get("/peer/new")
def ask_new(request: Request, _person: Administrator, here: Here, protocol: Protocol) -> Response:
    return _form(request, here, protocol)


@router.post("/peer/new")
def add(request: Request, person: Administrator, here: Here, protocol: Protocol, filled: Annotated[Filled, Form()]) -> Response:
    try:
        table = {key: value for key, value in _read(here.roster.keys_of(protocol), filled).items() if value is not None}
        table |= {"name": filled.name.strip(), "protocol": protocol}
        said = peering.add_peer(
            here.db, here.roster, table, actor=person.name, now=here.clock(), within=here.config.secrets_folder
        )
    except ConfigError as error:
        return _form(request, here, protocol, filled=filled, problems=error.problems)
    return go(request, f"/peer?{_named(filled.name.strip())}", sentence(said))


@router.get("/peer/edit")
def ask_change(request: Request, _person: Administrator, here: Here, name: Name) -> Response:
    entry = peering.show_peer(here.db, here.roster, name).entry
    filled = Filled(**{"name": name, **{key: _text(value) for key, value in entry.shown.items()}})
    return _form(request, here, entry.protocol, filled=filled, known=name)


@router.post("/peer/edit")
def change(request: Request, person: Administrator, here: Here, name: Name, filled: Annotated[Filled, Form()]) -> Response:
    protocol = peering.show_peer(here.db, here.roster, name).entry.protocol
    try:
        changes = _read(here.roster.keys_of(protocol), filled)
        said = peering.change_peer(
            here.db, here.roster, name, changes, actor=person.name, now=here.clock(), within=here.config.secrets_folder
        )
    except ConfigError as error:
        return _form(request, here, protocol, filled=filled, known=name, problems=error.problems)
    return go(request, f"/peer?{_named(name)}", sentence(said))


@router.post("/peer/echo")
def echo(request: Request, _person: Operator, here: Here, name: Name) -> Response:
    try:
        return _told(request, name, peering.echo_peer(here.roster, name))
    except DeliveryError as error:
        return _told(request, name, str(error), is_problem=True)


@router.post("/peer/probe")
def probe(request: Request, person: Operator, here: Here, name: Name) -> Response:
    found = peering.probe_peer(here.db, here.roster, name, actor=person.name, now=here.clock())
    return _told(request, name, found.reason or "what it accepts stands below", is_problem=bool(found.reason))


@router.post("/peer/disable")
def disable(request: Request, person: Administrator, here: Here, name: Name) -> Response:
    return _told(request, name, _disable(here, name, person.name, disabled=True))


@router.post("/peer/enable")
def enable(request: Request, person: Administrator, here: Here, name: Name) -> Response:
    return _told(request, name, _disable(here, name, person.name, disabled=False))


@router.post("/peer/retire")
def retire(
    request: Request,
    person: Administrator,
    here: Here,
    name: Name,
    reason: Annotated[str, Form(max_length=300)],
    count: Annotated[int, Form()],
) -> Response:
    said = retire_peer(here.db, here.queues, name, reason=reason, count=count, actor=person.name, now=here.clock())
    return go(request, f"/peer?{_named(name)}", *map(sentence, said))


@router.post("/peer/remove")
def remove(request: Request, person: Administrator, here: Here, name: Name) -> Response:
    ruled = sent_to(here.db, **here.names)
    said = peering.remove_peer(here.db, here.roster, name, ruled=ruled, actor=person.name, now=here.clock())
    return go(request, "/peers", sentence(said))


def _disable(here: Site, name: str, actor: str, *, disabled: bool) -> str:
    return peering.disable_peer(here.db, here.roster, name, disabled=disabled, actor=actor, now=here.clock())


def _form(
    request: Request, here: Site, protocol: str, *, filled: Filled | None = None, known: str = "", problems: tuple[str, ...] = ()
) -> Response:
    """What was filled in comes back, but for secrets."""
    keys = here.roster.keys_of(protocol)
    typed: Mapping[str, Any] = (filled or Filled()).model_extra or {}
    values = {key.name: _shown(key, str(typed.get(key.name, ""))) for key in keys}
    return page(
        request, "peer_form.html", status=409 if problems else 200, protocol=protocol, keys=keys, values=values, known=known,
        name=filled.name if filled else "", problems=problems, hidden=HIDDEN,
    )  # fmt: skip


def _shown(key: Key, text: str) -> str:
    return text if not key.secret or text == HIDDEN else ""


def _read(keys: list[Key], filled: Filled) -> dict[str, Any]:
    """The value of each key; None where the field is empty."""
    typed: Mapping[str, Any] = filled.model_extra or {}
    return {key.name: key.read(str(typed.get(key.name, "")).strip()) for key in keys}


def _text(value: Any) -> str:
    """As a person would write it in gateway.toml, text without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'"{key}" = "{text}"' for key, text in value.items()) + "}"
    return str(value)


def _told(request: Request, name: str, said: str, *, is_problem: bool = False) -> Response:
    return go(request, f"/peer?{_named(name)}", sentence(said), is_problem=is_problem)


def _named(name: str) -> str:
    return urlencode({"name": name})
