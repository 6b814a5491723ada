"""Rules: their versions, which of them is in force, and how another one comes into force."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import AfterValidator, Field

from gateway.acts import rulebook
from gateway.errors import ConfigError
from gateway.web.number import Key
from gateway.web.rest._shapes import Asked, Done, Shape, Text, done
from gateway.web.site import Here
from gateway.web.who import Administrator, Viewer

router = APIRouter(prefix="/rules", tags=["rules"])


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("expected text without NUL")
    return text


class VersionShape(Shape):
    number: int
    digest: str
    rules: int
    author: str
    written_at: datetime
    note: str
    approver: str
    approved_at: datetime | None


class Version(Shape):
    version: VersionShape
    state: str
    """draft, approved, active or retired."""


class Versions(Shape):
    """The newest first."""

    items: list[Version]


class Written(Shape):
    number: int
    text: str


class Draft(Asked):
    """rules.yaml as it would stand in a file."""

    text: Annotated[str, Field(max_length=500_000), AfterValidator(_storable)]
    note: Text = ""


@router.get("")
def list_versions(_person: Viewer, here: Here) -> Versions:
    return Versions(items=[Version.model_validate(line) for line in rulebook.history(here.db)])


@router.get("/active")
def show_active(_person: Viewer, here: Here) -> Written:
    """What is in force."""
    found = rulebook.active(here.db)
    if found is None:
        raise ConfigError(["there is no version in force"])
    return Written(number=found.number, text=rulebook.text_of(here.db, found.number))


@router.get("/{number}")
def show_version(_person: Viewer, here: Here, number: Key) -> Written:
    return Written(number=number, text=rulebook.text_of(here.db, number))


@router.post("", status_code=201)
def draft(person: Administrator, here: Here, asked: Draft) -> Done:
    """Keep a new version, which is not in force yet; 409 tells everything that is wrong with it."""
    number = rulebook.store(
        here.db, asked.text, note=asked.note, **here.names, actor=person.name, now=here.clock()
    )  # fmt: skip
    return done(f"version {number} is kept")


@router.post("/{number}/approve")
def approve(person: Administrator, here: Here, number: Key) -> Done:
    return done(rulebook.approve(here.db, number, actor=person.name, now=here.clock()))


@router.post("/{number}/activate")
def activate(person: Administrator, here: Here, number: Key) -> Done:
    approval = here.config.rules.approval
    told = rulebook.activate(here.db, number, **here.names, approval=approval, actor=person.name, now=here.clock())
    return done(told)


@router.post("/rollback")
def rollback(person: Administrator, here: Here) -> Done:
    """The version that was in force before is again."""
    approval = here.config.rules.approval
    return done(rulebook.rollback(here.db, **here.names, approval=approval, actor=person.name, now=here.clock()))
