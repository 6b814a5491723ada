"""Peers: where results go, what waits for each, whether it answers; and those that are added while the gateway serves."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from gateway.acts import peering, rulebook
from gateway.acts.peering import PeerLine
from gateway.acts.retire import retire_peer
from gateway.errors import ConfigError, DeliveryError
from gateway.web.rest._shapes import Asked, DeliveryShape, Done, Shape, Text, done
from gateway.web.site import Here
from gateway.web.who import Administrator, Operator, Viewer

router = APIRouter(prefix="/peers", tags=["peers"])
_Name = Annotated[str, Path(min_length=1, max_length=64)]
"""With `:path` also one with a slash in it, which an address writes as %2F."""
_Value = Text | bool | int | float | list[Text] | None


class PeerShape(Shape):
    """`settings` without secrets, `deliveries` counted by state, `errors` the latest that went wrong."""

    name: str
    protocol: str
    place: str
    """gateway.toml, where alone it is changed, or added."""
    state: str
    problems: list[str]
    settings: dict[str, Any]
    deliveries: dict[str, int]
    to_give_up: int
    succeeded_at: datetime | None
    errors: list[DeliveryShape]


class Peers(Shape):
    items: list[PeerShape]


class Change(Asked):
    """Keys as in [[peers]] of gateway.toml; null takes one away."""

    settings: Annotated[dict[str, _Value], Field(max_length=40)]


class New(Change):
    name: Text
    protocol: Text


class Retired(Asked):
    """`count` is `to_give_up` of the peer, as it was told to who asks."""

    reason: Annotated[Text, Field(min_length=1)]
    count: Annotated[int, Field(ge=0, lt=2**31)]


class Probed(Shape):
    """`found`: what was asked for, whether it works, and a note."""

    at: datetime
    reason: str
    found: list[Any]


def _peer(line: PeerLine) -> PeerShape:
    entry = line.entry
    return PeerShape(
        name=entry.name, protocol=entry.protocol, place=entry.place, state=entry.state, problems=list(entry.problems),
        settings=entry.shown, deliveries=dict(line.deliveries), to_give_up=line.to_give_up, succeeded_at=line.succeeded_at,
        errors=[DeliveryShape.model_validate(one) for one in line.errors],
    )  # fmt: skip


@router.get("")
def list_peers(_person: Viewer, here: Here) -> Peers:
    return Peers(items=[_peer(line) for line in peering.list_peers(here.db, here.roster)])


@router.get("/{name:path}")
def show_peer(_person: Viewer, here: Here, name: _Name) -> PeerShape:
    return _peer(peering.show_peer(here.db, here.roster, name))


@router.post("", status_code=201)
def add_peer(person: Administrator, here: Here, new: New) -> Done:
    table = {key: value for key, value in new.settings.items() if value is not None}
    table |= {"name": new.name, "protocol": new.protocol}
    return done(
        peering.add_peer(here.db, here.roster, table, actor=person.name, now=here.clock(), within=here.config.secrets_folder)
    )


@router.patch("/{name:path}")
def change_peer(person: Administrator, here: Here, name: _Name, change: Change) -> Done:
    return done(
        peering.change_peer(
            here.db, here.roster, name, change.settings, actor=person.name, now=here.clock(), within=here.config.secrets_folder
        )
    )


@router.delete("/{name:path}")
def remove_peer(person: Administrator, here: Here, name: _Name) -> Done:
    """Where no rule names it and nothing is on its way to it."""
    ruled = rulebook.sent_to(here.db, **here.names)
    return done(peering.remove_peer(here.db, here.roster, name, ruled=ruled, actor=person.name, now=here.clock()))


@router.post("/{name:path}/disable")
def disable(person: Administrator, here: Here, name: _Name) -> Done:
    """What is to go there waits."""
    return done(peering.disable_peer(here.db, here.roster, name, disabled=True, actor=person.name, now=here.clock()))


@router.post("/{name:path}/enable")
def enable(person: Administrator, here: Here, name: _Name) -> Done:
    return done(peering.disable_peer(here.db, here.roster, name, disabled=False, actor=person.name, now=here.clock()))


@router.post("/{name:path}/retire")
def retire(person: Administrator, here: Here, name: _Name, which: Retired) -> Done:
    """Give up everything that waits for it or failed there; also of one that is not configured any more."""
    return done(
        retire_peer(here.db, here.queues, name, reason=which.reason, count=which.count, actor=person.name, now=here.clock())
    )


@router.post("/{name:path}/echo")
def echo(_person: Operator, here: Here, name: _Name) -> Done:
    """Ask it whether it answers; 409 says in words why it does not."""
    try:
        return done(peering.echo_peer(here.roster, name))
    except DeliveryError as error:
        raise ConfigError([str(error)]) from error


@router.post("/{name:path}/probe")
def probe(person: Operator, here: Here, name: _Name) -> Probed:
    """Ask it what it takes, and keep the answer."""
    return Probed.model_validate(peering.probe_peer(here.db, here.roster, name, actor=person.name, now=here.clock()))
