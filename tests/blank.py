"""A database file at the present schema without rows: made once in a process of tests, and copied."""

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from gateway.app import upgrade
from gateway.db import open_database


def migrate(url: str) -> None:
    db = open_database(url)
    upgrade(url, db)
    db.kw["bind"].dispose()


@cache
def blank() -> Path:
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate(f"sqlite:///{folder / 'gateway.db'}")
    return folder / "gateway.db"
