"""The overview says what needs a person, in words, and which peers take results."""

import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

import pytest

from gateway.acts.peering import add_peer, disable_peer
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import insert_once
from gateway.rows.tables import Series
from gateway.rows.trail import AuditSink
from gateway.telling.alarms import Alarm, compare
from gateway.telling.happening import Kind
from tests.console_fixture import ConsolePlace, a_console
from tests.gate_fixture import wait
from tests.ports import free_port
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


def test_no_page_waits_for_who_compares_many_files(console: ConsolePlace) -> None:
    viewer, ended = console.client("viewer"), threading.Event()
    viewer.timeout = 20
    with ThreadPoolExecutor(2) as pool:
        compared = [pool.submit(console.site.recent.get, "agreement of all CT", lambda: ended.wait(60)) for _ in range(2)]
        wait(lambda: compared[0].running())
        try:
            assert viewer.get("/models").status_code == 200
        finally:
            ended.set()

    assert [one.result() for one in compared] == [True, True]


def test_the_overview_says_whom_no_notice_reaches(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    notices = [{"name": "ops", "protocol": "webhook", "url": f"http://127.0.0.1:{free_port()}"}]
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", notices=notices) as place:
        place.add_people()
        viewer = place.client("viewer")
        assert "No notice reaches" not in viewer.get("/").text
        for name, reason in (("notice.gone", "the mail server answered 450"), ("notice.ops", "")):
            with place.db.begin() as session:
                insert_once(session, AuditSink, name=name, position=0, at=NOW, reason=reason)
        with place.db.begin() as session:
            audit.record(session, Act.JOB_FAILED, at=NOW, reason="x")

        wait(lambda: "No notice reaches ops: the webhook cannot be used (ConnectError)" in viewer.get("/").text, 30)
        assert "gone" not in viewer.get("/").text
