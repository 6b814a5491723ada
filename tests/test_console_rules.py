"""The rules' pages in a real browser: a rule is written from a dropped file, tried, replayed, put in force, and rolled back."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from pydicom.uid import DeflatedExplicitVRLittleEndian

from gateway.acts import rulebook
from gateway.acts.peering import add_peer, remove_peer
from gateway.acts.rulebook import VersionState
from gateway.decisions import facts
from gateway.outputs import Equipment
from gateway.roster import Roster
from gateway.rows.tables import Series
from gateway.work.kept import Keep
from tests.console_fixture import PASSWORD, ConsolePlace, assert_accessible, assert_fits, shot
from tests.rows_fixture import SERIES, a_series
from tests.synthetic import ct_series, part10

RULE = "rules:\n  - {name: '%s', when: {all: [{attribute: Modality, is: %s}]}, pipeline: bright, send_to: [pacs]}\n"


@pytest.fixture(scope="module")
def world(console: ConsolePlace) -> ConsolePlace:
    """One series of which its headers were kept."""
    a_series(console.db)
    headers = ct_series(3)
    known = facts.facts(
        headers, equipment=Equipment("a", "b", "1", "1"), calling_ae_title="CT1", called_ae_title="", ingest="dimse"
    )
    Keep(console.site.store.headers).put(SERIES, 1, headers, known)
    with console.db.begin() as session:
        session.get(Series, SERIES).complete_at = datetime.now(UTC)
    return console


def states(world: ConsolePlace) -> dict[int, str]:
    return {line.version.number: line.state for line in rulebook.history(world.db)}


def write(world: ConsolePlace, page: Page, text: str) -> int:
    """A draft, by hand; its number."""
    page.goto(world.url + "/rules/edit")
    page.get_by_label("Rules (YAML)").fill(text)
    page.get_by_role("button", name="Keep as a draft").click()
    page.wait_for_url("**/rules/versions/*")
    return int(page.url.rpartition("/")[2])


def put_in_force(page: Page) -> None:
    page.locator("details.act > summary", has_text="Put in force").click()
    page.get_by_role("button", name="Put in force").click()
    expect(page.get_by_role("status")).to_contain_text("is in force")


def test_an_administrator_writes_a_rule_from_a_dropped_file(world: ConsolePlace, chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "slice.dcm"
    file.write_bytes(part10(ct_series(1)[0]))
    with world.visit(chromium, "administrator") as page:
        page.goto(world.url + "/rules")
        assert_accessible(page)
        page.get_by_label("Drop DICOM files here").set_input_files(file)
        expect(page.get_by_text("A rule that would take this series")).to_be_visible()
        text = page.locator("#tried pre").text_content()
        assert "CANARY" not in page.content()

        page.goto(world.url + "/rules/edit")
        box = page.get_by_label("Rules (YAML)")
        box.fill("")  # it opens with the version in force, where there is one
        box.press_sequentially("rules: [")
        expect(page.locator("#problems")).to_contain_text("line 1: expected YAML")
        box.fill(text)
        expect(page.locator("#problems")).to_contain_text("Nothing is wrong with it")
        page.get_by_label("Why").fill("from a file")
        page.get_by_role("button", name="Keep as a draft").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("draft")

        page.get_by_label("Drop DICOM files here").set_input_files(file)
        expect(page.locator("#tried")).to_contain_text("matches")
        expect(page.locator("#tried")).to_contain_text("expected CT; found CT")
        shot(page, "rules-tried")
        assert_fits(page)
        assert_accessible(page)
        put_in_force(page)
    assert VersionState.ACTIVE in states(world).values()


def test_a_draft_is_replayed_before_it_is_put_in_force_and_is_rolled_back(world: ConsolePlace, chromium: Browser) -> None:
    with world.visit(chromium, "administrator") as page:
        first = write(world, page, RULE % ("first", "CT"))
        put_in_force(page)
        second = write(world, page, RULE % ("second", "MR"))
        assert "+  - {name: 'second'" in page.locator("pre.diff").inner_text()

        page.get_by_role("button", name="Replay").click()
        expect(page.locator("#tried")).to_contain_text("no job bright any more")
        shot(page, "rules-replay")
        put_in_force(page)
        assert states(world)[second] == VersionState.ACTIVE

        page.goto(world.url + "/rules")
        page.locator("details.act > summary", has_text="Roll back").click()
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("status")).to_contain_text(f"Version {first} is in force")
        shot(page, "rules")
    assert states(world)[first] == VersionState.ACTIVE


def test_a_wrong_draft_is_refused_with_its_lines_and_what_was_written_stays(world: ConsolePlace) -> None:
    answer = world.client("administrator").act("/rules/draft", text=RULE % ("x", "CT") + "  - {name: y}\n")

    assert answer.status_code == 422
    assert re.search(r"line 3, rule &#39;y&#39;: expected pipeline", answer.text)
    assert "name: y" in answer.text


def test_a_rule_may_name_a_peer_that_cannot_be_used_on_this_machine(world: ConsolePlace, tmp_path: Path) -> None:
    """Elsewhere it can, or here in a moment: what is to go there waits, and REST and the command line take such a rule too."""
    token, roster = tmp_path / "token", world.site.roster
    token.write_text("x")
    table = {"name": "web", "protocol": "dicomweb", "url": "http://127.0.0.1:1", "token_file": str(token)}
    add_peer(world.db, Roster(world.site.config, world.db), table, actor="ann", now=datetime.now(UTC))
    token.unlink()
    roster.refresh()
    assert "web" not in roster

    answer = world.client("administrator").act("/rules/check", text=RULE.replace("pacs", "web") % ("x", "CT"))

    remove_peer(world.db, roster, "web", ruled=(), actor="ann", now=datetime.now(UTC))
    assert "Nothing is wrong with it." in answer.text


def test_hostile_names_are_words_on_every_page(world: ConsolePlace, chromium: Browser) -> None:
    with world.visit(chromium, "administrator") as page:
        number = write(world, page, RULE % ("<img src=x onerror=alert(1)>''; DROP TABLE gw_series; -- {{ 7*7 }}", "CT"))
        page.goto(world.url + f"/rules/versions/{number}")

        assert page.locator("img").count() == 0
        expect(page.locator("pre").last).to_contain_text("<img src=x onerror=alert(1)>")


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 403), ("", 303)])
def test_only_an_administrator_changes_rules(world: ConsolePlace, role: str, status: int) -> None:
    before = states(world)
    client = world.client(role)

    answers = (
        [
            client.act(path)
            for path in ("/rules/draft", "/rules/rollback", "/rules/versions/1/activate", "/rules/versions/1/approve")
        ]
        if role
        else [client.get("/rules")]
    )

    assert {answer.status_code for answer in answers} == {status}
    assert states(world) == before


def test_a_file_that_a_few_bytes_of_deflate_could_make_huge_is_not_read(world: ConsolePlace) -> None:
    ds = ct_series(1)[0]
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    client = world.client("operator")

    answer = client.post("/rules/test", data={"csrf": client.token("/me")}, files={"files": part10(ds)})

    assert answer.status_code == 200
    assert "None of these files is a DICOM instance of a series in a transfer syntax that is taken here" in answer.text


def test_a_viewer_reads_the_rules_and_tries_nothing(world: ConsolePlace) -> None:
    client = world.client("viewer")

    assert client.get("/rules").status_code == 200
    assert client.get("/rules/edit").status_code == 403
    assert "Drop DICOM files" not in client.get("/rules").text


def test_what_was_typed_is_back_after_a_sign_in_that_ended_meanwhile(world: ConsolePlace, chromium: Browser) -> None:
    typed = RULE % ("typed for an hour", "CT")
    with world.visit(chromium, "administrator") as page:
        page.goto(world.url + "/rules/edit")
        box = page.get_by_label("Rules (YAML)")
        box.fill(typed)
        page.context.clear_cookies()
        page.get_by_role("button", name="Keep as a draft").click()
        for field, value in (("Name", "administrator"), ("Password", PASSWORD)):
            page.get_by_label(field).fill(value)
        page.get_by_role("button", name="Sign in").click()

        expect(page.get_by_role("heading", level=1)).to_have_text("Change the rules")
        expect(page.get_by_text("What you had typed and not kept is back.")).to_be_visible()
        expect(box).to_have_value(typed)
        expect(page.locator("#problems")).to_contain_text("Nothing is wrong with it")
        assert_accessible(page)

        page.get_by_role("button", name="Keep as a draft").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("draft")
        page.goto(world.url + "/rules/edit")
        expect(page.get_by_text("What you had typed")).to_be_hidden()
        expect(box).not_to_have_value(typed)

        box.fill("rules: [")
        page.goto(world.url + "/rules")
        page.goto(world.url + "/rules/edit")
        expect(box).to_have_value("rules: [")
        page.get_by_role("button", name="Begin again").click()
        expect(box).not_to_have_value("rules: [")


def test_what_is_refused_stands_where_the_answer_would(world: ConsolePlace, chromium: Browser) -> None:
    with world.visit(chromium, "administrator") as page:
        page.goto(world.url + "/rules/edit")
        page.get_by_label("Rules (YAML)").fill("a" * 600_000)
        expect(page.locator("#problems")).to_contain_text("Something in this request is not as expected.")
        expect(page.locator("#problems main")).to_have_count(0)
