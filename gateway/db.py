"""The database: SQLite (one machine) or PostgreSQL (many); how a session begins, and how a row is inserted at most once."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import Engine, create_engine, event, update
from sqlalchemy import Table as Rows
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, sessionmaker

from gateway.tables import Table

Database = sessionmaker[Session]
Row = TypeVar("Row", bound=Table)


def open_engine(url: str) -> Engine:
    """SQLite: WAL with full sync, so that a commit survives a power cut, and writers wait for each other."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=16, max_overflow=32)
    engine = create_engine(url, pool_size=16, max_overflow=32)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def open_database(url: str) -> Database:
    return sessionmaker(open_engine(url), expire_on_commit=False)


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


def lock(session: Session, table: type[Row], key: object) -> Row:
    """The row as it is now; nobody else changes it before this transaction ends. Raises NoResultFound where there is none.

    It is a write that changes nothing, because SQLite holds others off from a transaction's first write on, not from its
    first look.
    """
    rows = cast("Rows", table.__table__)
    (column,) = rows.primary_key.columns
    session.execute(update(rows).where(column == key).values({column.name: key}))
    return session.get_one(table, key, populate_existing=True)
