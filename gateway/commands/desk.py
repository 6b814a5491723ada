"""The desk: where a person asks at the command line. A gateway's database, and the screen; who acts comes to workdesk.py."""

import os
import pwd
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import structlog
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import DataError, SQLAlchemyError

from gateway import migrations
from gateway.attempt import FAILING, named
from gateway.auditing import audit, events, seal
from gateway.auditing.chain import Entry, canonical
from gateway.commands.screen import Screen
from gateway.configuration.sections import Config
from gateway.db import Database, open_database, open_engine, snapshot
from gateway.errors import ConfigError, GatewayError
from gateway.views import lists, stories
from gateway.views.provenance import provenance
from gateway.views.wanted import Wanted
from gateway.work import restored

_AGAIN_SECONDS = 0.5
_UNREADY = {
    migrations.Schema.MISSING: "database: there are no tables yet: run `gateway serve`, or `gateway db upgrade`",
    migrations.Schema.OLDER: "database: made by an older gateway: stop that one and run `gateway db upgrade`",
    migrations.Schema.NEWER: "database: made by a newer gateway: use that version",
}

Kind = TypeVar("Kind", bound="Desk")

_logger = structlog.get_logger()


class Desk:
    """Open until closed. A database that `gateway serve` has not prepared is refused in words and left as it is."""

    def __init__(self, config: Config, out: Console) -> None:
        self._config, self._url, self._screen = config, config.database_url, Screen(out)
        self._db = _opened(config.database_url)

    def close(self) -> None:
        self._db.kw["bind"].dispose()

    def series_list(self, limit: int) -> None:
        self._screen.series_list(lists.series(self._db, Wanted(), limit=limit).rows)

    def series_show(self, series_instance_uid: str) -> None:
        self._screen.series_story(stories.show_series(self._db, series_instance_uid))

    def series_held(self, why: str, limit: int) -> None:
        self._screen.held(lists.held_series(self._db, why=why, limit=limit))

    def jobs_list(self, state: str | None, limit: int) -> None:
        self._screen.jobs(row.job for row in lists.jobs(self._db, Wanted(state=state or ""), limit=limit).rows)

    def jobs_show(self, job: int) -> None:
        self._screen.job_story(stories.show_job(self._db, job))

    def deliveries_list(self, state: str | None, limit: int) -> None:
        found = lists.deliveries(self._db, Wanted(state=state or ""), limit=limit)
        self._screen.deliveries((row.delivery, 0) for row in found.rows)

    def deliveries_show(self, delivery: int) -> None:
        self._screen.delivery_story(stories.show_delivery(self._db, delivery))

    def audit_list(self, limit: int, series: str | None, job: int | None) -> None:
        self._screen.events(events.latest(self._db, limit=limit, series=series, job=job))

    def audit_show(self, sop_instance_uid: str) -> None:
        self._screen.provenance(provenance(self._db, sop_instance_uid))

    def audit_export(self, since: datetime | None) -> None:
        """A line an event, as chain.py writes what it hashes; the trail tells that it was taken, after its end."""
        count = 0
        with snapshot(self._db) as session:
            for row in audit.rows(session, since=since):
                count += 1
                chained = {"previous": row["previous"], "hash": row["hash"]}
                self._screen.out.file.write(f"{canonical(audit.fields_of(row) | chained)}\n")

        try:
            with self._db.begin() as session:
                told = since.isoformat() if since else ""
                audit.record(session, audit.Act.AUDIT_EXPORTED, at=_now(), actor=_actor(), events=count, since=told)
        except SQLAlchemyError:  # a head that was changed fits no further event
            _logger.warning("audit.not_told", count=count)

    def audit_verify(self, heads: Path | None, public_key: Path | None) -> bool:
        """True where nothing is wrong with the trail."""
        signed = self._heads(heads, public_key)
        found = seal.verify(self._db, signed, watch=self._watch)
        self._screen.finding(found, signed)
        try:
            seal.verified(self._db, found, **self._by)
        except SQLAlchemyError:  # a head that was changed fits no further event
            self._screen.line("[red]the trail takes no further events[/]")
            return False
        return not found.problem

    def _heads(self, heads: Path | None, public_key: Path | None) -> seal.Heads:
        if heads is None:
            return seal.heads(self._config, public_key)
        key = seal.public_key(public_key or seal.public_key_file(self._config))
        with heads.open(encoding="utf-8", errors="replace") as lines:
            return seal.read(lines, key)

    def _watch(self, entries: Iterable[Entry], total: int) -> Iterable[Entry]:
        out = self._screen.out
        with Progress(console=out, transient=True, disable=not out.is_terminal) as progress:
            yield from progress.track(entries, total=total, description=f"verifying {total} events")

    def db_restored(self) -> None:
        self._screen.line(restored.accept(self._config, db=self._db, **self._by))
        left = restored.without_rows(self._config, db=self._db)
        if left:
            advice = "copy them elsewhere and `gateway send` the copies to bring them in again"
            self._screen.line(f"{left} files in {self._config.store_folder} have no row: {advice}")

    @property
    def _by(self) -> dict[str, Any]:
        """Who acts, and when."""
        return {"actor": _actor(), "now": _now()}

    def _say(self, what: str) -> None:
        """What an act says, which may be foreign text."""
        self._screen.line(escape(what))


@contextmanager
def opened(kind: type[Kind], config: Config, out: Console) -> Iterator[Kind]:
    """A desk of that kind, until closed."""
    with closing(kind(config, out)) as desk, in_words():
        yield desk


@contextmanager
def in_words() -> Iterator[None]:
    """A database that fails, or cannot hold what somebody typed, is told without a stack: GatewayError."""
    try:
        yield
    except (DataError, OverflowError) as error:
        raise GatewayError("expected values that the database can hold: a number or a time is too large") from error
    except FAILING as error:
        raise GatewayError(f"the database failed ({named(error)}): see to it, and try again") from error


def reach(config: Config, *, patience: timedelta = timedelta(0)) -> None:
    """Make the data folder where it is missing, and see that the database answers. Raises ConfigError, OSError.

    `patience`: for so long a PostgreSQL may be about to start, as when a machine boots that has both.
    """
    config.gateway.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_engine(config.database_url)
    try:
        _await(engine, patience.total_seconds() if engine.dialect.name == "postgresql" else 0)
    finally:
        engine.dispose()


def _await(engine: Engine, seconds: float) -> None:
    end, is_told = time.monotonic() + seconds, False
    while True:
        try:
            migrations.state(engine)
        except ConfigError as error:
            if time.monotonic() >= end:
                raise
            if not is_told:
                _logger.warning("database.awaited", reason=str(error), seconds=seconds)
            is_told = True
            time.sleep(_AGAIN_SECONDS)
        else:
            return


def _opened(url: str) -> Database:
    """Raises ConfigError where the database is not there, does not answer, or is not one of this version."""
    file = Path(make_url(url).database or "")
    if url.startswith("sqlite") and not file.is_file():
        raise ConfigError([f"database: {file} is not there: run `gateway serve` first, or name its gateway.toml with --config"])
    db = open_database(url)
    try:
        found = migrations.state(db.kw["bind"])
        if found is not migrations.Schema.CURRENT:
            raise ConfigError([_UNREADY[found]])
    except ConfigError:
        db.kw["bind"].dispose()
        raise
    return db


def _actor() -> str:
    """The person's name on this machine, whatever the environment says; in a container there may be only a number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _now() -> datetime:
    return datetime.now(UTC)
