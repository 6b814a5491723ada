"""The schema's history (alembic), and the one way to bring a database up to date: the engine's tables, then ours."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from gateway.errors import ConfigError

VERSION_TABLE = "gw_schema_version"
_LOCK = 7400


def _scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def upgrade(engine: Engine) -> None:
    """Bring our tables up to date; many processes may start at once. A newer schema than this version's is refused."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            connection.commit()
        _refuse_newer(MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision())
        config = _scripts()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
        connection.commit()


def _refuse_newer(current: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_scripts()).walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(["the database was made by a newer gateway: expected a schema version that this one knows"])
