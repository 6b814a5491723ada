"""A gateway beside a real Orthanc, and an Orthanc with our plugin in it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.access import people
from gateway.app import upgrade
from gateway.db import open_database
from gateway.rows.retrieval import WatchMark
from tests.peers_fixture import DICOMWEB_PLUGIN, Orthanc, running_orthanc
from tests.world import RULES, World, send

PYTHON_PLUGIN = DICOMWEB_PLUGIN.with_name("libOrthancPython.so")
SCRIPT = Path(__file__).parent.parent / "deploy" / "orthanc" / "plugin.py"


@contextmanager
def orthanc_with_plugin(
    folder: Path, *, url: str, token: str = "token", section: dict | None = None, **configuration: object
) -> Iterator[Orthanc]:
    if not PYTHON_PLUGIN.exists():
        pytest.skip("needs the Debian package orthanc-python")
    more = {"Url": url, "Token": token, "Timeout": 1, **(section or {})}
    plugins = [str(DICOMWEB_PLUGIN), str(PYTHON_PLUGIN)]
    with running_orthanc(folder, Plugins=plugins, PythonScript=str(SCRIPT), AiGateway=more, **configuration) as running:
        yield running


def a_token(folder: Path) -> str:
    """Of an operator, made as an administrator would in the database of a gateway that is not served yet."""
    folder.mkdir(parents=True, exist_ok=True)
    url, now = f"sqlite:///{folder / 'gateway.db'}", datetime.now(UTC)
    db = open_database(url)
    upgrade(url, db)
    people.add_person(db, "orthanc", role="operator", password="a long sentence of words", actor="tests", now=now)
    made = people.make_token(db, "orthanc", label="orthanc", role="operator", days=30, actor="tests", now=now)
    db.kw["bind"].dispose()
    return made.secret


@contextmanager
def world_beside(orthanc, folder, triton, *, database_url="", settings=None, rules=RULES, **peer):
    """A gateway that watches this Orthanc, and sends its results there."""
    table = {
        "name": "orthanc", "protocol": "orthanc", "url": orthanc.url, "take": "series", "quiet_seconds": 3, "timeout_seconds": 5, **peer,
    }  # fmt: skip
    url = database_url or f"sqlite:///{folder / 'world' / 'gateway.db'}"
    with World(folder / "world", url, triton, (table,), settings=settings or {}, rules=rules) as world:
        yield world


def stored_in(orthanc, series, calling="gateway"):
    assert set(send(series, orthanc.dicom_port, calling="AIGATEWAY", called="ORTHANC")) == {0x0000}


def modalities(orthanc):
    return sorted(one["MainDicomTags"]["Modality"] for one in json.loads(orthanc.get("/series?expand")))


def wait_watching(world):
    """Until the log of the peer was read the first time."""

    def is_watched():
        with world.database() as db, db() as session:
            return session.scalar(select(WatchMark.peer)) is not None

    world.wait_until(is_watched)
