"""The schema's history (alembic), what state a database is in, and the one way to bring it up to date.

A file of versions/ begins with its revision, so the state is known without alembic: only who changes a schema loads it.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, column, inspect, select, table, text
from sqlalchemy.exc import DBAPIError, OperationalError

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = "gw_schema_version"
_LOCK, _PATIENCE_SECONDS = 7400, 3
_HERE = Path(__file__).parent


class Schema(StrEnum):
    """What a database has of our tables."""

    MISSING = "missing"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


def state(engine: Engine) -> Schema:
    """Raises ConfigError, in words without password, where the database does not answer; with what PostgreSQL says itself."""
    try:
        with engine.connect() as connection:
            return _state(connection)
    except DBAPIError as error:
        what = "this file is no database, or cannot be used" if engine.dialect.name == "sqlite" else "PostgreSQL does not answer"
        said = str(error.orig).rpartition("FATAL:")[2].strip() if "FATAL:" in str(error.orig) else ""
        problem = f"PostgreSQL refuses: {said}" if said else f"{what} ({type(error.orig).__name__}): check [database] url"
        raise ConfigError([f"database: {problem}"]) from error


def upgrade(engine: Engine) -> None:
    """Bring our tables up to date in one transaction; many processes may start at once. Refuses a newer schema: ConfigError.

    So does a table that somebody holds for long, as a backup does: who waited for it would have all others wait behind.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{_PATIENCE_SECONDS}s'"))
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        found = _state(connection)
        if found is Schema.NEWER:
            raise ConfigError(["database: made by a newer gateway: expected a schema version that this one knows"])
        if found is Schema.CURRENT:
            return
        from alembic import command

        config = _scripts()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except OperationalError as error:
            if type(error.orig).__name__ != "LockNotAvailable":
                raise
            held = "somebody holds its tables, as a backup does while it runs"
            raise ConfigError(
                [f"database: {held}: expected none of that for the upgrade; try again when it has ended"]
            ) from error
        connection.commit()


def downgrade(engine: Engine, revision: str) -> None:
    """Back to `revision` ("base": none of our tables, everything in them lost)."""
    from alembic import command

    with engine.connect() as connection:
        config = _scripts()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()


def _scripts() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config


def _state(connection: Connection) -> Schema:
    if not inspect(connection).has_table(VERSION_TABLE):
        return Schema.MISSING
    current = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    known = sorted(path.stem.partition("_")[0] for path in (_HERE / "versions").glob("[0-9]*.py"))
    if current is None:
        return Schema.MISSING
    if current == known[-1]:
        return Schema.CURRENT
    return Schema.OLDER if current in known else Schema.NEWER
