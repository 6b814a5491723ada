"""The overview says what needs a person, in words, and which peers take results."""

import re
from html import unescape

import pytest

from gateway.acts.peering import add_peer, disable_peer
from gateway.rows.tables import Series
from gateway.telling.alarms import Alarm, compare
from gateway.telling.happening import Kind
from tests.console_fixture import ConsolePlace
from tests.rows_fixture import NOW, SERIES, a_delivery, a_job, a_series


@pytest.fixture
def page(console: ConsolePlace) -> str:
    """As one line of text, of a gateway where a lot is wrong."""
    db, roster = console.db, console.site.roster
    for name in ("busy", "mute"):
        table = {"name": name, "protocol": "folder", "path": str(console.folder)}
        add_peer(db, roster, table, actor="ann", now=NOW)
    disable_peer(db, roster, "busy", disabled=True, actor="ann", now=NOW)
    a_series(db)
    job = a_job(db, state="failed")
    a_delivery(db, job, peer="busy")
    a_delivery(db, job, peer="mute", state="sent", sent_at=NOW, late_at=NOW, reason="not proved yet: no connection")
    with db.begin() as session:
        session.get_one(Series, SERIES).held = "refused"
        compare(session, [Alarm(Kind.MODEL_AWAY, "nosuch", NOW, "model nosuch does not answer")], NOW, kinds=[])
    text = console.client("viewer").get("/").text
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_the_overview_says_what_needs_a_person_and_which_peers_take_results(page: str) -> None:
    for words in (
        "1 job failed Its reason stands there: retry or cancel.",
        "1 series is not decided on The reason stands there",
        "busy is disabled 1 delivery waits.",
        "mute took 1 result long ago, not proved yet: no connection",
        "Model nosuch does not answer",
        "Peers took none yet pacs disabled busy takes results mute",
    ):
        assert words in page
