"""One attempt of a stage: what the database cannot hold is told, and only a database that is away is waited for."""

from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from gateway import app
from gateway.attempt import Stage, guarded
from gateway.db import Database, open_database
from gateway.rows.tables import Segment


def attempt(db: Database, position: int) -> list[str]:
    """What is told of one that writes a row."""
    told: list[str] = []

    def act(key: str) -> None:
        with db.begin() as session:
            session.add(Segment(name=key, position=position))

    guarded(Stage("write", act, lambda key, error: told.append(f"{key}: {type(error).__name__}")), "a")
    return told


def test_what_the_database_cannot_hold_is_told(database_url: str) -> None:
    db = open_database(database_url)
    app.upgrade(database_url, db)

    too_much, once, twice = attempt(db, 1 << 70), attempt(db, 1), attempt(db, 1)

    assert too_much in (["a: DataError"], ["a: OverflowError"])  # PostgreSQL, SQLite
    assert once == []
    assert twice == ["a: IntegrityError"]
    db.kw["bind"].dispose()


def test_a_database_that_is_away_is_not_told(tmp_path: Path) -> None:
    db = open_database(f"sqlite:///{tmp_path}/no such folder/gateway.db")

    with pytest.raises(OperationalError):
        attempt(db, 1)
