"""A gateway beside a real Orthanc, and an Orthanc with our plugin in it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.access import people
from gateway.app import upgrade
from gateway.db import open_database
from gateway.rows.retrieval import Retrieval, RetrievalState, WatchMark
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


def wait_stable(world, orthanc):
    """Until Orthanc waits for no more of anything, and has written that into its log."""

    def is_stable():
        resources = [one for level in ("series", "studies") for one in json.loads(orthanc.get(f"/{level}?expand"))]
        return all(one["IsStable"] for one in resources)

    world.wait_until(is_stable)
    time.sleep(0.2)


def wait_read(world, orthanc, *, settled=True):
    """Until the log of the peer was read to the end that it has when everything is stable, which what came back becomes too."""
    wait_stable(world, orthanc)
    end = json.loads(orthanc.get("/changes?last"))["Last"]

    def is_read():
        with world.database() as db, db() as session:
            states = set(session.scalars(select(Retrieval.state)))
            return session.scalar(select(WatchMark.position)) >= end and states <= {RetrievalState.DONE}

    world.wait_until(is_read)
    if settled:
        world.wait_settled()
