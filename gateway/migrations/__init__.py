"""The schema's history (alembic), what state a database is in, and the one way to bring it up to date."""

from enum import StrEnum
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from gateway.errors import ConfigError

VERSION_TABLE = "gw_schema_version"
_LOCK = 7400


class Schema(StrEnum):
    """What a database has of our tables."""

    MISSING = "missing"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


def state(engine: Engine) -> Schema:
    """Raises ConfigError, in words without address or password, where the database does not answer."""
    try:
        with engine.connect() as connection:
            return _state(connection)
    except DBAPIError as error:
        what = "this file is no database, or cannot be used" if engine.dialect.name == "sqlite" else "PostgreSQL does not answer"
        raise ConfigError([f"database: {what} ({type(error.orig).__name__}): check [database] url"]) from error


def upgrade(engine: Engine) -> None:
    """Bring our tables up to date in one transaction; many processes may start at once. Refuses a newer schema: ConfigError."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        if _state(connection) is Schema.NEWER:
            raise ConfigError(["database: made by a newer gateway: expected a schema version that this one knows"])
        config = _scripts()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def downgrade(engine: Engine, revision: str) -> None:
    """Back to `revision` ("base": none of our tables, everything in them lost)."""
    with engine.connect() as connection:
        config = _scripts()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()


def _scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _state(connection: Connection) -> Schema:
    scripts = ScriptDirectory.from_config(_scripts())
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if current is None:
        return Schema.MISSING
    if current == scripts.get_current_head():
        return Schema.CURRENT
    return Schema.OLDER if current in {script.revision for script in scripts.walk_revisions()} else Schema.NEWER
