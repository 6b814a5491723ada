"""The rule sets in the database: immutable versions, which of them is in force, and what a person does with them.

    draft -> (approved by another person) -> active -> retired -> active (rolled back)

`[rules] file` becomes version 1 at the first start; from then on the database is what counts. An activation is one row with the
next number, so of two people who change the version in force at once one is told so. What is in force is read anew by
every settle, in every process on every machine.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from difflib import unified_diff
from enum import StrEnum
from pathlib import Path
from typing import TypedDict, Unpack

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, undefer

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, changed, insert_once
from gateway.decisions.rules import RuleSet, load, load_taken
from gateway.errors import ConfigError
from gateway.rows.ruleset import RuleActivation, RuleVersion

_NOTE_AT_MOST = 500
_TRIES = 5


class Names(TypedDict):
    """What rules may name."""

    pipelines: Collection[str]
    peers: Collection[str]


class _OtherWasFirst(Exception):
    """Another process that started at the same time made version 1."""


class VersionState(StrEnum):
    DRAFT = "draft"
    APPROVED = "approved"
    ACTIVE = "active"
    RETIRED = "retired"


@dataclass(frozen=True)
class VersionLine:
    """A version in a list; `activations` are when it came into force, and by whom."""

    version: RuleVersion
    state: VersionState
    activations: tuple[RuleActivation, ...]


@dataclass
class Current:
    """The rule set in force, for settle: asked for each time, read when another version came or a name did."""

    db: Database
    pipelines: Callable[[], Collection[str]]
    peers: Callable[[], Collection[str]]
    _read: tuple[object, RuleSet] = field(default=(None, RuleSet("", ())), repr=False)
    """What it was read for, and what was read: replaced as one, as many threads ask."""

    def __call__(self) -> RuleSet:
        pipelines, peers = frozenset(self.pipelines()), frozenset(self.peers())
        with self.db() as session:
            number = active_number(session)
            key = (number, pipelines, peers)
            known, rules = self._read
            if key == known:
                return rules
            rules = RuleSet("", ())
            if number is not None:
                text = session.get_one(RuleVersion, number).text
                rules = load_taken(text, pipelines=pipelines, peers=peers, version=number)
        self._read = (key, rules)
        return rules


def begin(db: Database, file: Path, *, now: datetime, **names: Unpack[Names]) -> None:
    """The file becomes version 1 where there is none yet. Raises ConfigError with all that is wrong with it."""
    with db() as session:
        if active_number(session) is not None or not file.exists():
            return
    text, rules = read(file, **names)
    with suppress(_OtherWasFirst), db.begin() as session:
        number = _store(session, text, rules, note=f"first start, {file.name}", actor="gateway", now=now)
        if not insert_once(session, RuleActivation, id=1, number=number, actor="gateway", at=now):
            raise _OtherWasFirst
        _tell(session, Act.RULES_ACTIVATED, number, rules.digest, "", actor="gateway", now=now)


def read(file: Path, **names: Unpack[Names]) -> tuple[str, RuleSet]:
    """Raises ConfigError, each problem with the file, its line and what was expected there."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: expected a readable text file"]) from error
    try:
        return text, load(text, **names)
    except ConfigError as error:
        raise ConfigError([f"{file}: {problem}" for problem in error.problems]) from error


def active_number(session: Session) -> int | None:
    return session.scalars(select(RuleActivation.number).order_by(RuleActivation.id.desc()).limit(1)).first()


def sent_to(db: Database, *, pipelines: Collection[str], peers: Collection[str]) -> set[str]:
    """The peers that the rules in force send to."""
    rules = Current(db, lambda: pipelines, lambda: peers)().rules
    return {peer for rule in rules for peer in rule.send_to}


def history(db: Database) -> list[VersionLine]:
    """Every version, the newest first."""
    with db() as session:
        versions = session.scalars(select(RuleVersion).order_by(RuleVersion.number.desc())).all()
        activations = session.scalars(select(RuleActivation).order_by(RuleActivation.id)).all()
    active = activations[-1].number if activations else None
    mine = {one.number: tuple(row for row in activations if row.number == one.number) for one in versions}
    return [VersionLine(one, _state(one, active, mine[one.number]), mine[one.number]) for one in versions]


def active(db: Database) -> RuleVersion | None:
    """The version in force, with its text."""
    with db() as session:
        number = active_number(session)
        return None if number is None else _known(session, number)


def rule_names(db: Database) -> list[str]:
    """Of the version in force."""
    present = active(db)
    rules = load_taken(present.text, pipelines=(), peers=(), version=present.number).rules if present else ()
    return [rule.name for rule in rules]


def text_of(db: Database, number: int | None = None) -> str:
    """The text of a version, by default of the one in force. Raises ConfigError where there is no such version."""
    with db() as session:
        chosen = active_number(session) if number is None else number
        if chosen is None:
            raise ConfigError(["no rules are in force yet: `gateway rules apply` takes a file"])
        return _known(session, chosen).text


def difference(db: Database, before: int, after: int) -> list[str]:
    """The lines that differ, as `diff -u` tells them."""
    old, new = text_of(db, before), text_of(db, after)
    return list(unified_diff(old.splitlines(), new.splitlines(), f"version {before}", f"version {after}", lineterm=""))


def store(db: Database, text: str, *, note: str = "", actor: str, now: datetime, **names: Unpack[Names]) -> int:
    """Keep a draft and return its number; the latest version's, where that says the same. Raises ConfigError."""
    rules = load(text, **names)
    if len(note) > _NOTE_AT_MOST or not note.isprintable():
        raise ConfigError([f"expected a note of at most {_NOTE_AT_MOST} printable characters"])
    with db.begin() as session:
        latest = session.scalars(select(RuleVersion).order_by(RuleVersion.number.desc()).limit(1)).first()
        if latest is not None and latest.digest == rules.digest:
            return latest.number
        return _store(session, text, rules, note=note, actor=actor, now=now)


def apply(db: Database, text: str, *, note: str = "", approval: bool, actor: str, now: datetime, **names: Unpack[Names]) -> str:
    """Keep the text as a version and put it in force; where another person has to agree it stays a draft. Raises ConfigError."""
    wanted = load(text, **names).digest
    present = active(db)
    if present is not None and present.digest == wanted:
        return f"version {present.number} is in force and says the same: nothing is changed"
    number = store(db, text, note=note, actor=actor, now=now, **names)
    if approval:
        with db() as session:
            if not _known(session, number).approver:
                return f"version {number} is a draft: another person approves or activates it ([rules] approval)"
    return activate(db, number, approval=approval, actor=actor, now=now, **names)


def approve(db: Database, number: int, *, actor: str, now: datetime) -> str:
    """A second person agrees. Raises ConfigError where that is the author."""
    with db.begin() as session:
        version = _known(session, number)
        if version.author == actor:
            raise ConfigError([f"version {number} is yours: expected another person's approval"])
        open_one = update(RuleVersion).where(RuleVersion.number == number, RuleVersion.approver == "")
        if not changed(session, open_one.values(approver=actor, approved_at=now)):
            raise ConfigError([f"version {number} is approved already"])
        _tell(session, Act.RULES_APPROVED, number, version.digest, version.digest, actor=actor, now=now)
    return f"version {number} is approved"


def activate(db: Database, number: int, *, approval: bool, actor: str, now: datetime, **names: Unpack[Names]) -> str:
    """It is in force from now on, everywhere. Raises ConfigError where it does not fit any more, or a second person has to agree.

    With `approval` that is whoever approves it or activates it, and is not its author; a version that was in force before had it.
    """
    with db.begin() as session:
        version = _known(session, number)
        last = session.scalars(select(RuleActivation).order_by(RuleActivation.id.desc()).limit(1)).first()
        if last is not None and last.number == number:
            raise ConfigError([f"version {number} is in force already"])
        load(version.text, **names)
        was_active = session.scalar(select(func.count()).where(RuleActivation.number == number))
        if approval and actor == version.author and not version.approver and not was_active:
            raise ConfigError(
                [f"version {number} is yours: another person activates it, or approves it first ([rules] approval)"]
            )
        position = last.id + 1 if last else 1
        if not insert_once(session, RuleActivation, id=position, number=number, actor=actor, at=now):
            raise ConfigError(["somebody else has changed the version in force just now: look again"])
        before = _known(session, last.number).digest if last else ""
        _tell(session, Act.RULES_ACTIVATED, number, version.digest, before, actor=actor, now=now)
    return f"version {number} is in force"


def rollback(db: Database, *, approval: bool, actor: str, now: datetime, **names: Unpack[Names]) -> str:
    """The version that was in force before this one is again. Raises ConfigError where there was none."""
    with db() as session:
        numbers = session.scalars(select(RuleActivation.number).order_by(RuleActivation.id.desc()).limit(2)).all()
    if len(numbers) < 2:
        raise ConfigError(["expected a version that was in force before this one; there is none"])
    return activate(db, numbers[1], approval=approval, actor=actor, now=now, **names)


def _store(session: Session, text: str, rules: RuleSet, *, note: str, actor: str, now: datetime) -> int:
    values = {"text": text, "digest": rules.digest, "rules": len(rules.rules), "note": note, "author": actor, "written_at": now}
    for _ in range(_TRIES):
        number = 1 + (session.scalar(select(func.max(RuleVersion.number))) or 0)
        if insert_once(session, RuleVersion, number=number, approver="", **values):
            _tell(session, Act.RULES_WRITTEN, number, rules.digest, "", actor=actor, now=now)
            return number
    raise ConfigError(["others store versions at this moment: try again"])


def _tell(session: Session, act: Act, number: int, digest: str, before: str, *, actor: str, now: datetime) -> None:
    audit.record(session, act, at=now, actor=actor, version=number, rules_digest=digest, before=before)


def _known(session: Session, number: int) -> RuleVersion:
    version = session.get(RuleVersion, number, options=[undefer(RuleVersion.text)])
    if version is None:
        raise ConfigError([f"there is no version {number} of the rules: `gateway rules history` names them"])
    return version


def _state(version: RuleVersion, active: int | None, activations: Collection[RuleActivation]) -> VersionState:
    if version.number == active:
        return VersionState.ACTIVE
    if activations:
        return VersionState.RETIRED
    return VersionState.APPROVED if version.approver else VersionState.DRAFT
