"""The database: SQLite (one machine) or PostgreSQL (many); how a session begins, and how a row is inserted at most once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import structlog
from sqlalchemy import Engine, Executable, create_engine, event, update
from sqlalchemy import Table as Rows
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, sessionmaker

from gateway.errors import ConfigError
from gateway.machine.liveness import GIVES_UP, PATIENCE
from gateway.rows.columns import Table

_logger = structlog.get_logger()

Database = sessionmaker[Session]
Row = TypeVar("Row", bound=Table)
_DURABLE = {
    "fsync": "a power cut may lose or destroy the database",
    "full_page_writes": "a power cut may destroy the database",
    "synchronous_commit": "a power cut may lose what was acknowledged",
}


def open_engine(url: str) -> Engine:
    """SQLite: WAL with full sync, so that a commit survives a power cut, and writers wait for each other.

    Errors quote no values: they may be a patient's, or a password.
    """
    if not url.startswith("sqlite"):
        return _open_postgresql(url)
    engine = create_engine(url, pool_size=16, max_overflow=32, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _open_postgresql(url: str) -> Engine:
    """A session of a host that was cut off ends, and gives the rows that it holds to the others."""
    engine = create_engine(
        url, pool_pre_ping=True, pool_size=16, max_overflow=32, hide_parameters=True, connect_args=PATIENCE,
    )  # fmt: skip

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.autocommit = True  # else the next rollback took it back
        connection.execute("; ".join(f"SET {setting}" for setting in GIVES_UP))
        connection.autocommit = False

    return engine


def durability(engine: Engine) -> list[str]:
    """What a PostgreSQL server is told not to do, so that a power cut may lose what was committed and acknowledged."""
    if engine.dialect.name == "sqlite":  # as open_engine sets it
        return []
    with engine.connect() as connection:
        found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in _DURABLE}
    return [f"{name} is off: {_DURABLE[name]}" for name, value in found.items() if value == "off"]


def takes_writes(engine: Engine) -> bool:
    """Whether it answers and anything can be written there: a standby, or a PostgreSQL that is told so, can only be read."""
    asked = "SELECT 'off'" if engine.dialect.name == "sqlite" else "SHOW transaction_read_only"
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql(asked).scalar_one() == "off")


def check_durable(db: Database, *, served_unsafe: bool) -> None:
    """Raise ConfigError where that is so, unless it is wanted."""
    problems = durability(db.kw["bind"])
    if problems and not served_unsafe:
        unless = "expected on, or unsafe = true in [database] where losing what was acknowledged does not matter"
        raise ConfigError([f"database: {problem}: {unless}" for problem in problems])
    for problem in problems:
        _logger.warning("database.unsafe", reason=problem)


def open_database(url: str) -> Database:
    return sessionmaker(open_engine(url), expire_on_commit=False)


@contextmanager
def snapshot(db: Database) -> Iterator[Session]:
    """A session that sees the database as it is now, however long it looks; for reading."""
    with db() as session:
        if session.get_bind().dialect.name == "sqlite":
            session.connection().exec_driver_sql("BEGIN")
        else:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        yield session


def insert_once(session: Session, table: type[Table], /, **values: Any) -> bool:
    """Insert the row unless one with its key is there; True when it was inserted. One statement, so no race."""
    return bool(insert_new(session, table, [values]))


def insert_new(session: Session, table: type[Table], values: Sequence[Mapping[str, Any]]) -> set[Any]:
    """Insert the rows whose key is not there yet, a repeated one once; returns the first key column of those inserted."""
    if not values:
        return set()
    rows = cast("Rows", table.__table__)
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement = insert(rows).on_conflict_do_nothing().returning(next(iter(rows.primary_key.columns)))
    return set(session.scalars(statement, list(values)))


def changed(session: Session, statement: Executable) -> bool:
    """Whether an update, or a delete, found a row: none is left where another one was faster."""
    return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def lock(session: Session, table: type[Row], key: object) -> Row:
    """The row as it is now; nobody else changes it before this transaction ends. Raises NoResultFound where there is none.

    It is a write that changes nothing, because SQLite holds others off from a transaction's first write on, not from its
    first look.
    """
    rows = cast("Rows", table.__table__)
    (column,) = rows.primary_key.columns
    session.execute(update(rows).where(column == key).values({column.name: key}))
    return session.get_one(table, key, populate_existing=True)
