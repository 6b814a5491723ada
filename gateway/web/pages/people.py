"""People: who may use the console and as what; and what everybody sees of their own account."""

from typing import Annotated

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import Response

from gateway.access import people
from gateway.access.signin import Person
from gateway.errors import ConfigError
from gateway.rows.accounts import Right
from gateway.web.found import Navigation
from gateway.web.number import Key
from gateway.web.render import go, page
from gateway.web.site import Here, Site
from gateway.web.who import Administrator, Viewer

NAVIGATION = Navigation("People", "/people", 90, Right.ADMINISTRATOR)
Name = Annotated[str, Path(max_length=64)]
Text = Annotated[str, Form(max_length=300)]
router = APIRouter()


@router.get("/people")
def show(request: Request, _person: Administrator, here: Here) -> Response:
    return _people(request, here)


@router.post("/people")
def add(
    request: Request, person: Administrator, here: Here, name: Text = "", role: Text = "", password: Text = "", again: Text = ""
) -> Response:
    try:
        _check_same(password, again)
        told = people.add_person(here.db, name, role=role, password=password, actor=person.name, now=here.clock())
    except ConfigError as error:
        return _people(request, here, status=409, problems=error.problems, name=name, role=role)
    return go(request, "/people", told)


@router.post("/people/{name}/role")
def change_role(request: Request, person: Administrator, here: Here, name: Name, role: Text = "") -> Response:
    return go(request, "/people", people.change_role(here.db, name, role=role, actor=person.name, now=here.clock()))


@router.post("/people/{name}/disable")
def disable(request: Request, person: Administrator, here: Here, name: Name) -> Response:
    return go(request, "/people", people.disable(here.db, name, actor=person.name, now=here.clock()))


@router.post("/people/{name}/enable")
def enable(request: Request, person: Administrator, here: Here, name: Name) -> Response:
    return go(request, "/people", people.enable(here.db, name, actor=person.name, now=here.clock()))


@router.post("/people/{name}/sign-out")
def end_sign_ins(request: Request, person: Administrator, here: Here, name: Name) -> Response:
    return go(request, "/people", people.end_sign_ins(here.db, name, actor=person.name, now=here.clock()))


@router.post("/people/{name}/password")
def set_password(
    request: Request, person: Administrator, here: Here, name: Name, password: Text = "", again: Text = ""
) -> Response:
    try:
        _check_same(password, again)
        told = people.set_password(here.db, name, password=password, actor=person.name, now=here.clock())
    except ConfigError as error:
        return _people(request, here, status=409, problems=error.problems)
    return go(request, "/people", told)


@router.get("/me")
def show_me(request: Request, person: Viewer, here: Here) -> Response:
    return _me(request, here, person)


@router.post("/me/password")
def change_password(
    request: Request, person: Viewer, here: Here, present: Text = "", password: Text = "", again: Text = ""
) -> Response:
    wait = here.limits.sign_ins.wait(person.name)
    try:
        if wait:
            raise ConfigError([f"there were too many attempts: try again in {int(wait) + 1} seconds"])
        _check_same(password, again)
        told = people.set_password(
            here.db, person.name, password=password, present=present, actor=person.name, now=here.clock(), keep=person.digest
        )
    except ConfigError as error:
        return _me(request, here, person, status=409, problems=error.problems)
    here.limits.sign_ins.give_back(person.name)
    return go(request, "/me", told)


@router.post("/me/sign-out")
def end_my_sign_ins(request: Request, person: Viewer, here: Here) -> Response:
    told = people.end_sign_ins(here.db, person.name, actor=person.name, now=here.clock(), keep=person.digest)
    return go(request, "/me", told)


@router.post("/me/tokens")
def make_token(
    request: Request, person: Viewer, here: Here, label: Text = "", role: Text = "", days: Annotated[int, Form()] = 90
) -> Response:
    """The secret is in this answer and nowhere else."""
    try:
        made = people.make_token(
            here.db, person.name, label=label, role=role, days=days, actor=person.name, now=here.clock()
        )  # fmt: skip
    except ConfigError as error:
        return _me(request, here, person, status=409, problems=error.problems)
    return _me(request, here, person, secret=made.secret)


@router.post("/me/tokens/{token}/revoke")
def revoke_token(request: Request, person: Viewer, here: Here, token: Key) -> Response:
    return go(request, "/me", people.revoke_token(here.db, token, actor=person.name, now=here.clock(), of=person.name))


def _people(request: Request, here: Site, *, status: int = 200, **values: object) -> Response:
    fields: dict[str, object] = {"problems": (), "name": "", "role": Right.VIEWER} | values
    return page(request, "people.html", status=status, rows=people.list_people(here.db), roles=list(Right), **fields)


def _me(request: Request, here: Site, person: Person, *, status: int = 200, **values: object) -> Response:
    fields: dict[str, object] = {"problems": (), "secret": ""} | values
    return page(
        request, "me.html", status=status, account=people.show_person(here.db, person.name), now=here.clock(),
        tokens=people.list_tokens(here.db, person.name), sign_ins=people.list_sign_ins(here.db, person.name),
        roles=[one for one in Right if person.may(one)], **fields,
    )  # fmt: skip


def _check_same(password: str, again: str) -> None:
    if password != again:
        raise ConfigError(["the two passwords are not the same"])
