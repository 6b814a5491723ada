"""A new administrator's path through the console, in a real browser on a real gateway: nothing is known but the setup secret."""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console_fixture import PASSWORD, assert_accessible, shot
from tests.synthetic import ct_series
from tests.world import RULES, World, free_port, pacs

PATIENT, SKIPPED = "PATH^CHOSEN", "PATH^SKIPPED"


@pytest.fixture
def world(tmp_path: Path, migrated_sqlite: Path, triton: str) -> World:
    (tmp_path / "var").mkdir()
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    settings = {"web": {"port": free_port()}}
    with World(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", triton, rules=RULES, settings=settings) as world:
        yield world.start()


def sign_up(page: Page, world: World) -> None:
    """The first administrator, with the secret that lies on the gateway's machine."""
    secret = (world.folder / "var" / "setup-secret").read_text().strip()
    expect(page).to_have_url(re.compile("/setup"))
    page.get_by_label("Setup secret").fill(secret)
    page.get_by_label("Your name").fill("ann")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def add_a_pacs(page: Page) -> None:
    """And ask whether it is there."""
    port = free_port()
    with pacs(port):
        page.get_by_role("link", name="Peers").click()
        page.get_by_label("Add a peer").select_option("dimse")
        page.get_by_role("button", name="Add").click()
        for field, value in (("name", "archive"), ("host", "127.0.0.1"), ("port", str(port)), ("ae_title", "SCP")):
            page.locator(f"input[name={field}]").fill(value)
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_text("Peer archive is added.")).to_be_visible()
        page.get_by_role("button", name="Ask whether it is there").click()
        expect(page.get_by_role("status")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)


def test_a_new_administrator_adds_a_pacs_watches_a_study_and_learns_why_another_was_skipped(
    world: World, chromium: Browser
) -> None:
    url = f"http://127.0.0.1:{world.settings['web']['port']}"
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB", timezone_id="UTC")
    page = context.new_page()
    page.set_default_timeout(30_000)
    world.wait_until(lambda: world.logged("web.started"))
    page.goto(url + "/")
    sign_up(page, world)
    expect(page.get_by_text("Nothing. Everything goes by itself.")).to_be_visible()

    add_a_pacs(page)
    assert set(world.send(ct_series(4, seed=11, PatientName=PATIENT))) == {0x0000}
    assert set(world.send(ct_series(1, seed=12, PatientName=SKIPPED))) == {0x0000}

    page.get_by_role("link", name="Studies").click()
    page.get_by_label("Search").fill("path chosen")
    page.get_by_role("button", name="Show", exact=True).click()
    page.locator("#rows").get_by_role("link", name="PATH CHOSEN").click()
    page.locator("table.rows").get_by_role("link").first.click()
    expect(page.locator(".timeline")).to_contain_text("proved by", timeout=60_000)
    expect(page.locator("details.rule", has_text="chest CT")).to_contain_text("matched")
    shot(page, "path-watched")
    page.get_by_role("link", name="Look at the images").click()
    expect(page.locator(".under")).to_be_visible()

    page.get_by_role("link", name="Series", exact=True).click()
    page.get_by_label("State").select_option("no rule matched")
    page.get_by_label("Search").fill("path skipped")
    page.get_by_role("button", name="Show", exact=True).click()
    page.locator("#rows").get_by_role("link", name="CT, 1 instance").click()
    expect(page.locator("details.rule").locator(".unheld", has_text="slices").last).to_be_visible(timeout=30_000)
    assert_accessible(page)
    shot(page, "path-skipped")
    context.close()
