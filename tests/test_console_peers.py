"""Peers in the console: a person adds one, sees whether it works and what it accepts, changes it, and lets it go."""

import html
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import select

from gateway.acts.peering import change_peer, show_peer
from gateway.roster import HIDDEN
from gateway.rows.tables import Job
from gateway.rows.trail import AuditEvent
from tests.console_fixture import ConsolePlace, assert_accessible, assert_fits, shot
from tests.ports import free_port
from tests.rows_fixture import a_delivery, a_job, a_series

ACTS = (
    "new?protocol=folder",
    "edit?name=disk",
    "echo?name=disk",
    "probe?name=disk",
    "disable?name=disk",
    "retire?name=disk",
    "remove?name=disk",
)


@pytest.mark.parametrize("width", [1280, 390])
def test_an_administrator_adds_a_peer_and_finds_out_what_it_accepts(
    console: ConsolePlace, chromium: Browser, tmp_path: Path, width: int
) -> None:
    with console.visit(chromium, "administrator", width=width) as page:
        page.goto(console.url + "/peers")
        page.get_by_label("Add a peer").select_option("dimse")
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_text("AIGATEWAY if empty")).to_be_visible()
        expect(page.get_by_role("link", name="Peers").first).to_have_attribute("aria-current", "page")
        page.goto(console.url + "/peers")
        page.get_by_label("Add a peer").select_option("folder")
        page.get_by_role("button", name="Add").click()
        page.get_by_label("name").first.fill("disk")
        page.get_by_label("path").fill(str(tmp_path))
        page.get_by_label("concurrency").fill("99")
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_text("concurrency: expected a whole number from 1 to 64")).to_be_visible()
        assert_accessible(page)
        assert_fits(page)
        page.get_by_label("concurrency").fill("3")
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_text("Peer disk is added.")).to_be_visible()

        page.get_by_role("button", name="Ask whether it is there").click()
        expect(page.get_by_text("The folder can be written.")).to_be_visible()
        page.get_by_role("button", name="Find out what it accepts").click()
        expect(page.get_by_role("cell", name="can be written")).to_be_visible()
        assert_accessible(page)
        assert_fits(page)
        shot(page, f"peer-{width}")

        page.locator("summary", has_text="Disable").click()
        page.get_by_role("button", name="Disable").click()
        expect(page.get_by_text("Nothing goes to it.")).to_be_visible()
        page.goto(console.url + "/peers")
        expect(page.get_by_text("disabled")).to_be_visible()
        assert_accessible(page)
        assert_fits(page)
        shot(page, f"peers-{width}")
        page.get_by_role("link", name="disk").click()
        page.locator("summary", has_text="Remove").click()
        page.get_by_role("button", name="Remove").click()
        expect(page.get_by_text("Peer disk is removed")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_an_administrator_gives_up_what_waits_for_a_peer_and_is_told_how_much_that_is(
    console: ConsolePlace, chromium: Browser, tmp_path: Path, width: int
) -> None:
    console.client("administrator").act("/peer/new?protocol=folder", name=f"off-{width}", path=str(tmp_path))
    with console.db() as session:
        known = session.scalar(select(Job.id).limit(1))
    if known is None:
        a_series(console.db)
    a_delivery(console.db, known or a_job(console.db, state="done"), peer=f"off-{width}")

    with console.visit(chromium, "administrator", width=width) as page:
        page.goto(f"{console.url}/peer?name=off-{width}")
        page.locator("summary", has_text="Retire").click()
        expect(page.get_by_text("1 deliveries that wait for it, failed, or are not proved are given up")).to_be_visible()
        assert_accessible(page)
        assert_fits(page)
        shot(page, f"peer-retire-{width}")
        page.get_by_label("Reason").fill("switched off")
        page.get_by_role("button", name="Retire").click()
        expect(page.get_by_text(f"1 deliveries to off-{width} are cancelled: switched off.")).to_be_visible()
        expect(page.locator("summary", has_text="Retire")).to_have_count(0)


def test_a_secret_never_comes_back_to_a_page_and_stays_when_the_form_is_saved(console: ConsolePlace) -> None:
    client, url = console.client("administrator"), f"http://127.0.0.1:{free_port()}/dicom-web"
    refused = client.act("/peer/new?protocol=dicomweb", name="web", url=url, token="S3CRET", concurrency="x")
    added = client.act("/peer/new?protocol=dicomweb", name="web", url=url, token="S3CRET", timeout_seconds="5")
    form, shown = client.get("/peer/edit?name=web").text, client.get("/peer?name=web").text
    saved = client.act("/peer/edit?name=web", url=url, token=HIDDEN, timeout_seconds="6")

    peer = console.site.roster["web"]
    assert (refused.status_code, added.status_code, saved.status_code) == (409, 303, 303)
    assert "S3CRET" not in refused.text + form + shown
    assert HIDDEN in form
    assert (peer.token, peer.timeout_seconds) == ("S3CRET", 6)
    unreachable = client.act("/peer/echo?name=web")
    assert unreachable.status_code == 303
    assert "No connection" in client.get("/peer?name=web").text


def test_a_list_is_typed_as_it_stands_in_the_file_and_stays_when_the_form_is_saved(console: ConsolePlace, tmp_path: Path) -> None:
    client = console.client("administrator")
    refused = client.act("/peer/new?protocol=folder", name="lists", path=str(tmp_path), objects="reports")
    client.act("/peer/new?protocol=folder", name="lists", path=str(tmp_path), objects='["segmentations", "reports"]')
    form = client.get("/peer/edit?name=lists").text
    typed = html.unescape(re.search(r'name="objects" value="([^"]*)"', form).group(1))
    saved = client.act("/peer/edit?name=lists", path=str(tmp_path), concurrency="3", objects=typed)

    peer = console.site.roster["lists"]
    assert (refused.status_code, saved.status_code) == (409, 303)
    assert (list(peer.objects), peer.concurrency) == (["segmentations", "reports"], 3)


def test_who_may_not_change_peers_is_told_and_changes_nothing(console: ConsolePlace) -> None:
    for who, allowed in (("viewer", ()), ("operator", ("echo", "probe"))):
        client = console.client(who)
        assert client.get("/peers").status_code == 200
        assert "Add a peer" not in client.get("/peers").text
        for act in (one for one in ACTS if not one.startswith(allowed or ("none",))):
            assert client.act(f"/peer/{act}", path="/").status_code == 403, (who, act)


def test_what_a_person_did_is_told_with_the_name(console: ConsolePlace, tmp_path: Path) -> None:
    client = console.client("administrator")
    client.act("/peer/new?protocol=folder", name="told/as it is?", path=str(tmp_path))

    with console.db() as session:
        event = session.query(AuditEvent).filter_by(act="peer.added").order_by(AuditEvent.id.desc()).first()
    line = show_peer(console.db, console.site.roster, "told/as it is?")
    assert (event.actor, event.detail["peer"]) == ("administrator", "told/as it is?")
    assert str(tmp_path) in client.get("/peer", params={"name": "told/as it is?"}).text
    assert line.entry.row.added_by == "administrator"
    now = console.site.clock()
    assert change_peer(console.db, console.site.roster, "told/as it is?", {}, actor="x", now=now).endswith("is as it was")


def test_a_page_of_a_peer_that_is_not_there_any_more_says_so(console: ConsolePlace, chromium: Browser, tmp_path: Path) -> None:
    administrator = console.client("administrator")
    administrator.act("/peer/new?protocol=folder", name="leaving", path=str(tmp_path))
    with console.visit(chromium, "operator") as page:
        page.goto(console.url + "/peer?name=leaving")
        administrator.act("/peer/remove?name=leaving")

        expect(page.get_by_role("alert")).to_contain_text("there is no peer 'leaving'")
        expect(page.get_by_role("button", name="Ask whether it is there")).to_have_count(0)
