"""gateway.toml is read again while the gateway serves: peers at once, the rest told; a file that is wrong changes nothing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from gateway.acts.peering import add_peer
from gateway.configuration.config import load
from gateway.db import open_database
from gateway.roster import Roster
from gateway.rows.trail import AuditEvent
from gateway.serving.reread import Reread

NOW = datetime(2026, 1, 2, 10, 0, tzinfo=UTC)
FIRST = '[dimse]\nport = 104\n[[peers]]\nname = "disk"\nprotocol = "folder"\npath = "a"\n'


class Place:
    def __init__(self, url: str, file: Path) -> None:
        self.file, self.db = file, open_database(url)
        file.write_text(FIRST)
        config = load(file, {})
        self.roster = Roster(config, self.db)
        self.reread = Reread(file, config, roster=self.roster, db=self.db, clock=lambda: NOW, executor="x")

    def told(self) -> list[tuple[str, int, dict[str, object]]]:
        with self.db() as session:
            return [(one.act, one.outcome, one.detail) for one in session.scalars(select(AuditEvent).order_by(AuditEvent.id))]


@pytest.fixture
def place(database_url: str, tmp_path: Path):
    place = Place(database_url, tmp_path / "gateway.toml")
    yield place
    place.db.kw["bind"].dispose()


def test_a_file_that_did_not_change_is_not_read_again(place: Place) -> None:
    assert not place.reread.look()
    assert place.told() == []


def test_peers_of_a_changed_file_are_taken_up_beside_those_that_were_added(place: Place) -> None:
    add_peer(place.db, place.roster, {"name": "mine", "protocol": "folder", "path": "b"}, actor="ann", now=NOW)
    place.file.write_text(FIRST.replace('"a"', '"c"') + '[[peers]]\nname = "more"\nprotocol = "folder"\npath = "d"\n')

    assert place.reread.look()
    assert not place.reread.look()

    assert {name: peer.path for name, peer in place.roster.items()} == {"disk": "c", "more": "d", "mine": "b"}
    act, outcome, detail = place.told()[-1]
    assert (act, outcome, detail["changed"], detail["needs_start"], detail["executor"]) == ("config.read", 0, ["peers"], "", "x")


def test_what_needs_a_start_is_named(place: Place) -> None:
    place.file.write_text(FIRST.replace("104", "105") + "[retention]\nsources_days = 3\n")

    with capture_logs() as logs:
        assert place.reread.look()

    (logged,) = [one for one in logs if one["event"] == "config.read"]
    assert logged["reason"] == "what was changed in [dimse], [retention] needs a start"
    _, _, detail = place.told()[-1]
    assert detail["needs_start"] == "[dimse], [retention]"
    assert detail["before"] != detail["after"]


def test_a_file_that_is_wrong_changes_nothing_and_is_told_once_with_all_that_is_wrong(place: Place) -> None:
    place.file.write_text(FIRST.replace("104", "-1").replace('path = "a"', 'path = "c"\nspeed = 9'))

    assert not place.reread.look()
    assert not place.reread.look()

    ((act, outcome, detail),) = place.told()
    assert (act, outcome) == ("config.refused", 4)
    assert "[dimse] port" in str(detail["reason"])
    assert place.roster["disk"].path == "a"
    place.file.write_text(FIRST.replace('"a"', '"e"') + " ")
    assert place.reread.look()
    assert place.roster["disk"].path == "e"


def test_a_file_that_goes_away_leaves_everything_as_it_is(place: Place) -> None:
    place.file.unlink()

    place.reread.look()

    assert place.roster["disk"].path == "a"
