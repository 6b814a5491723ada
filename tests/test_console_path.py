"""A new administrator's path through the console, in a real browser on a real gateway without peers and rules.

Nothing is known but the setup secret; every step but the scanner's is one that a page offers.
"""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console_fixture import PASSWORD, assert_accessible, shot
from tests.ports import free_port
from tests.synthetic import ct_series, part10
from tests.world import World, pacs

EARLIER, CHOSEN, SKIPPED = "PATH^EARLIER", "PATH^CHOSEN", "PATH^SKIPPED"


@pytest.fixture
def world(tmp_path: Path, migrated_sqlite: Path, triton: str) -> World:
    (tmp_path / "var").mkdir()
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    settings = {"web": {"port": free_port()}}
    with World(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", triton, settings=settings) as world:
        world.peers = ()
        world.config.write_text(world.toml())
        (tmp_path / "rules.yaml").unlink()
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


def add_a_pacs(page: Page, port: int) -> None:
    """And ask whether it is there."""
    page.get_by_role("link", name="Add a PACS").click()
    page.get_by_label("Add a peer").select_option("dimse")
    page.get_by_role("button", name="Add").click()
    for field, value in (
        ("name", "archive"),
        ("host", "127.0.0.1"),
        ("port", str(port)),
        ("ae_title", "SCP"),
        ("proof", "query"),
    ):
        page.locator(f"input[name={field}]").fill(value)
    shot(page, "path-peer")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_text("Peer archive is added.")).to_be_visible()
    page.get_by_role("button", name="Ask whether it is there").click()
    expect(page.get_by_role("status")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def write_a_rule(page: Page, files: list[Path]) -> None:
    """From files that are dropped; tried on them, replayed over what came before, and put in force."""
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="Begin with a file").click()
    page.get_by_label("Drop DICOM files here").set_input_files(files)
    expect(page.locator("#tried")).to_contain_text("No rules are in force")
    shot(page, "path-dropped")
    page.get_by_role("button", name="Write this rule").click()
    expect(page.get_by_label("Rules (YAML)")).to_have_value(re.compile(r"send_to: \[archive\]"))
    page.get_by_label("Why").fill("the first rule")
    shot(page, "path-rule")
    page.get_by_role("button", name="Keep as a draft").click()

    expect(page.get_by_role("heading", level=1)).to_contain_text("draft")
    page.get_by_label("Drop DICOM files here").set_input_files(files)
    expect(page.locator("#tried summary", has_text="CT CHEST")).to_contain_text("matches")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#tried")).to_contain_text("1 series. 1 job more")
    shot(page, "path-replayed")
    page.locator("details.act > summary", has_text="Put in force").click()
    page.get_by_role("button", name="Put in force").click()
    expect(page.get_by_role("status")).to_contain_text("is in force")


def look_for(page: Page, text: str, *, of: str, state: str = "") -> None:
    page.get_by_role("link", name=of, exact=True).click()
    if state:
        page.get_by_label("State").select_option(state)
    page.get_by_label("Search").fill(text)
    page.get_by_role("button", name="Show", exact=True).click()


def test_a_new_administrator_comes_from_the_first_sign_in_to_a_result_and_to_why_another_study_was_skipped(
    world: World, chromium: Browser, tmp_path: Path
) -> None:
    files = [tmp_path / f"{number}.dcm" for number in range(4)]
    for file, ds in zip(files, ct_series(4, seed=9), strict=True):
        file.write_bytes(part10(ds))
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB", timezone_id="UTC")
    page = context.new_page()
    page.set_default_timeout(30_000)
    world.wait_until(lambda: world.logged("web.started"))
    page.goto(f"http://127.0.0.1:{world.settings['web']['port']}/")
    sign_up(page, world)
    expect(page.get_by_text("Nothing. Everything goes by itself.")).to_be_visible()
    expect(page.get_by_text("No rules are in force")).to_be_visible()

    port = free_port()
    with pacs(port):
        add_a_pacs(page, port)
        assert set(world.send(ct_series(4, seed=10, PatientName=EARLIER))) == {0x0000}
        world.wait_settled()
        write_a_rule(page, files)

        assert set(world.send(ct_series(4, seed=11, PatientName=CHOSEN))) == {0x0000}
        assert set(world.send(ct_series(1, seed=12, PatientName=SKIPPED))) == {0x0000}
        world.wait_settled(3)

        look_for(page, "path chosen", of="Studies")
        page.locator("#rows").get_by_role("link", name="PATH CHOSEN").click()
        page.locator("table.rows").get_by_role("link").first.click()
        expect(page.locator(".timeline")).to_contain_text("proved by query", timeout=60_000)
        expect(page.locator("details.rule", has_text="CT CHEST")).to_contain_text("matched")
        shot(page, "path-watched")
        page.get_by_role("link", name="Look at the images").click()
        expect(page.locator(".under")).to_be_visible()

    look_for(page, "path skipped", of="Series", state="no rule matched")
    page.locator("#rows").get_by_role("link", name="CT, 1 instance").click()
    expect(page.locator("details.rule").locator(".unheld", has_text="slices").last).to_be_visible()
    assert_accessible(page)
    shot(page, "path-skipped")
    context.close()
