"""People and tokens, for administrators; and everybody's own name and role."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from gateway.access import people
from gateway.errors import ConfigError
from gateway.rows.accounts import Right
from gateway.web.number import Key
from gateway.web.rest._shapes import Asked, Done, Items, Shape, Text, done
from gateway.web.site import Here
from gateway.web.who import Administrator, Viewer

router = APIRouter(tags=["people"])
_Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9._@+-]{1,64}$")]


class Myself(Shape):
    name: str
    role: str


class Person(Shape):
    name: str
    role: str
    created_at: datetime
    disabled_at: datetime | None


class New(Asked):
    name: Text
    role: Text
    password: Text


class Role(Asked):
    role: Text


class Password(Asked):
    password: Text


class TokenShape(Shape):
    id: int
    account: str
    label: str
    role: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


class NewToken(Asked):
    label: Text
    role: Text
    days: Annotated[int, Field(ge=1, le=people.TOKEN_DAYS)] = 90


class MadeToken(Shape):
    """`secret` is told here and never again."""

    token: TokenShape
    secret: str


@router.get("/me")
def show_me(person: Viewer) -> Myself:
    return Myself.model_validate(person)


@router.get("/people")
def list_people(_person: Administrator, here: Here) -> Items[Person]:
    return Items(items=[Person.model_validate(one) for one in people.list_people(here.db)])


@router.post("/people", status_code=201)
def add_person(person: Administrator, here: Here, new: New) -> Done:
    return done(people.add_person(here.db, **new.model_dump(), actor=person.name, now=here.clock()))


@router.get("/people/{name}")
def show_person(_person: Administrator, here: Here, name: _Name) -> Person:
    return Person.model_validate(people.show_person(here.db, name))


@router.put("/people/{name}/role")
def change_role(person: Administrator, here: Here, name: _Name, asked: Role) -> Done:
    return done(people.change_role(here.db, name, role=asked.role, actor=person.name, now=here.clock()))


@router.put("/people/{name}/password")
def set_password(person: Administrator, here: Here, name: _Name, asked: Password) -> Done:
    return done(people.set_password(here.db, name, password=asked.password, actor=person.name, now=here.clock()))


@router.post("/people/{name}/disable")
def disable(person: Administrator, here: Here, name: _Name) -> Done:
    return done(people.disable(here.db, name, actor=person.name, now=here.clock()))


@router.post("/people/{name}/enable")
def enable(person: Administrator, here: Here, name: _Name) -> Done:
    return done(people.enable(here.db, name, actor=person.name, now=here.clock()))


@router.get("/tokens")
def list_tokens(_person: Administrator, here: Here) -> Items[TokenShape]:
    return Items(items=[TokenShape.model_validate(one) for one in people.list_tokens(here.db)])


@router.post("/people/{name}/tokens", status_code=201)
def make_token(person: Administrator, here: Here, name: _Name, asked: NewToken) -> MadeToken:
    """An administrator's only in one's own name: else one person could be the second who agrees to rules."""
    if name != person.name and asked.role == Right.ADMINISTRATOR:
        raise ConfigError(["a token of an administrator is made by that person, or by `gateway tokens make` on this machine"])
    made = people.make_token(here.db, name, **asked.model_dump(), actor=person.name, now=here.clock())
    return MadeToken.model_validate(made)


@router.post("/tokens/{token}/revoke")
def revoke_token(person: Administrator, here: Here, token: Key) -> Done:
    return done(people.revoke_token(here.db, token, actor=person.name, now=here.clock()))
