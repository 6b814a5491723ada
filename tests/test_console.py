"""The console in a real browser: sign-in, roles, live parts, and what every page has."""

import hashlib
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from gateway import web
from tests.console_fixture import PASSWORD, ROLES, ConsolePlace, assert_accessible, assert_fits, shot
from tests.rows_fixture import a_series

HTMX = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
"""Of dist/htmx.min.js in the npm package htmx.org 2.0.11."""


def test_htmx_is_the_one_that_was_published() -> None:
    assets = Path(web.__file__).parent / "assets"

    assert hashlib.sha256((assets / "htmx.min.js").read_bytes()).hexdigest() == HTMX
    assert "Zero-Clause BSD" in (assets / "htmx.LICENSE").read_text("utf-8")


def test_a_person_signs_in_looks_and_signs_out(console: ConsolePlace, chromium: Browser) -> None:
    with console.visit(chromium) as page:
        page.goto(console.url + "/")
        expect(page).to_have_url(console.url + "/sign-in")
        shot(page, "sign-in")
        assert_accessible(page)
        page.get_by_label("Name").fill("viewer")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(console.url + "/")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(console.url + "/sign-in")
        page.goto(console.url + "/")
        expect(page).to_have_url(console.url + "/sign-in")


def test_a_wrong_password_is_told_and_the_name_kept(console: ConsolePlace, chromium: Browser) -> None:
    with console.visit(chromium) as page:
        page.goto(console.url + "/sign-in")
        page.get_by_label("Name").fill("operator")
        page.get_by_label("Password").fill("something else entirely")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("Name and password do not fit")
        expect(page.get_by_label("Name")).to_have_value("operator")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("role", ROLES)
def test_the_overview_is_shown_to_each_role(console: ConsolePlace, chromium: Browser, role: str, width: int) -> None:
    with console.visit(chromium, role, width=width) as page:
        page.goto(console.url + "/")
        shot(page, f"overview-{role}-{width}")
        assert_fits(page)
        assert_accessible(page)


def test_a_page_shows_what_happens_without_being_loaded_again(console: ConsolePlace, chromium: Browser) -> None:
    with console.visit(chromium, "viewer") as page:
        page.goto(console.url + "/")
        page.evaluate("window.wasHere = true")
        a_series(console.db)
        expect(page.locator("#counts")).to_contain_text("1")
        assert page.evaluate("window.wasHere")


def test_what_is_not_there_is_told_with_what_to_do(console: ConsolePlace, chromium: Browser) -> None:
    with console.visit(chromium, "viewer") as page:
        assert page.goto(console.url + "/nowhere").status == 404
        expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing here.")
        assert_accessible(page)
