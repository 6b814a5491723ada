"""The schema's history ends in tables.py, on SQLite and on PostgreSQL."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from gateway import app, migrations
from gateway.db import open_database, open_engine
from gateway.errors import ConfigError
from gateway.migrations import Schema
from gateway.rows.columns import PREFIX, Table
from tests.nursery import nursery


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'gateway.db'}"
        return
    server, name = request.getfixturevalue("postgres"), f"empty_{uuid4().hex[:12]}"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield server.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(empty_url: str):
    engine = open_engine(empty_url)
    yield engine
    engine.dispose()


def our_tables(engine: Engine) -> list[str]:
    return sorted(
        name for name in inspect(engine).get_table_names() if name.startswith(PREFIX) and name != migrations.VERSION_TABLE
    )


def test_each_file_begins_with_its_revision_and_the_last_of_them_is_the_newest() -> None:
    scripts = ScriptDirectory.from_config(migrations._scripts())
    files = sorted((Path(migrations.__file__).parent / "versions").glob("[0-9]*.py"))

    assert [file.stem.partition("_")[0] for file in reversed(files)] == [script.revision for script in scripts.walk_revisions()]


def test_the_migrated_schema_is_the_one_of_the_tables(engine: Engine) -> None:
    migrations.upgrade(engine)

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "version_table": migrations.VERSION_TABLE,
                "include_name": lambda name, kind, _: kind != "table" or name.startswith(PREFIX),
            },
        )
        assert compare_metadata(context, Table.metadata) == []


def test_nullability_and_keys_are_those_of_the_tables(engine: Engine) -> None:
    migrations.upgrade(engine)

    inspector = inspect(engine)
    for name, table in Table.metadata.tables.items():
        found = {column["name"]: column["nullable"] for column in inspector.get_columns(name)}
        assert found == {column.name: bool(column.nullable) for column in table.columns}
        assert inspector.get_pk_constraint(name)["constrained_columns"] == [column.name for column in table.primary_key]


def test_an_upgrade_can_be_repeated_and_undone(engine: Engine) -> None:
    assert migrations.state(engine) is Schema.MISSING
    migrations.upgrade(engine)
    migrations.upgrade(engine)
    assert migrations.state(engine) is Schema.CURRENT
    assert our_tables(engine) == sorted(Table.metadata.tables)

    migrations.downgrade(engine, "base")

    assert migrations.state(engine) is Schema.MISSING
    assert our_tables(engine) == []


def test_the_engines_own_tables_are_left_alone(empty_url: str, engine: Engine) -> None:
    db = open_database(empty_url)
    app.upgrade(empty_url, db)
    db.kw["bind"].dispose()
    everything = _all_tables(engine)

    migrations.downgrade(engine, "base")

    assert everything - _all_tables(engine) == set(Table.metadata.tables)
    assert len(_all_tables(engine)) > 5


def _all_tables(engine: Engine) -> set[str]:
    engines_own = "dbos" if engine.dialect.name == "postgresql" else None
    return {name for schema in {None, engines_own} for name in inspect(engine).get_table_names(schema=schema)}


def test_a_newer_schema_is_refused_and_stays_as_it_is(engine: Engine) -> None:
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'"))

    for _ in range(2):  # the second would wait for ever if the first had kept the lock
        with pytest.raises(ConfigError, match="made by a newer gateway"):
            migrations.upgrade(engine)

    assert migrations.state(engine) is Schema.NEWER
    assert our_tables(engine) == sorted(Table.metadata.tables)


def test_an_upgrade_that_fails_leaves_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE gw_delivery (x INTEGER)"))

    with pytest.raises(Exception, match="gw_delivery"):
        migrations.upgrade(engine)

    assert migrations.state(engine) is Schema.MISSING
    assert our_tables(engine) == ["gw_delivery"]


@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_an_upgrade_beside_a_long_transaction_is_refused_and_nobody_waits_behind_it(engine: Engine) -> None:
    migrations.upgrade(engine)
    migrations.downgrade(engine, "0016")
    read = text("SELECT count(*) FROM gw_association")
    with engine.connect() as backup:
        backup.execute(read)
        with pytest.raises(ConfigError, match="somebody holds its tables, as a backup does"):
            migrations.upgrade(engine)
        with engine.connect() as other:
            assert other.execute(read).scalar_one() == 0
    assert migrations.state(engine) is Schema.OLDER

    migrations.upgrade(engine)

    assert migrations.state(engine) is Schema.CURRENT


def test_processes_may_upgrade_at_once(empty_url: str, engine: Engine, tmp_path: Path) -> None:
    environment = os.environ | {"GATEWAY_DATABASE__URL": empty_url, "GATEWAY_GATEWAY__DATA_DIR": str(tmp_path)}
    output, errors = tmp_path / "output", tmp_path / "errors"
    processes = [nursery().start(["db", "upgrade"], environment, output, errors) for _ in range(3)]

    ends = [process.wait(120) for process in processes]

    assert (errors.read_text(), ends) == ("", [0] * 3)
    assert migrations.state(engine) is Schema.CURRENT


def test_a_database_that_does_not_answer_is_told_without_its_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        migrations.state(open_engine(f"postgresql+psycopg://user:SECRET@/d?host={tmp_path}"))

    assert str(raised.value) == "database: PostgreSQL does not answer (OperationalError): check [database] url"


def test_why_postgresql_refuses_is_told_in_its_words(postgres: str) -> None:
    with pytest.raises(ConfigError) as raised:
        migrations.state(open_engine(postgres.replace("/postgres?", "/nosuch?")))

    assert str(raised.value) == 'database: PostgreSQL refuses: database "nosuch" does not exist'


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_text("a letter, not a database " * 100)

    with pytest.raises(ConfigError, match="this file is no database"):
        migrations.state(open_engine(f"sqlite:///{tmp_path / 'gateway.db'}"))
