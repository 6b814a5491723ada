"""The people page and one's own account, in a real browser, as each role, on a wide screen and on a phone."""

import pytest
from playwright.sync_api import Browser, expect

from gateway.access import people, signin
from gateway.rows.accounts import Right
from tests.console_fixture import PASSWORD, ROLES, ConsolePlace, assert_accessible, assert_fits, shot


@pytest.mark.parametrize("width", [1280, 390])
def test_an_administrator_adds_somebody_and_takes_their_rights_back(console: ConsolePlace, chromium: Browser, width: int) -> None:
    name = f"added-{width}"
    with console.visit(chromium, "administrator", width=width) as page:
        page.goto(console.url + "/")
        page.get_by_role("link", name="People").click()
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_role("combobox", name="Role", exact=True).select_option("operator")
        page.get_by_label("First password").fill(PASSWORD)
        page.locator("section").get_by_label("The same again").fill(PASSWORD)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_role("status")).to_have_text(f"{name} may sign in as operator")
        assert_fits(page)
        assert_accessible(page)
        shot(page, f"people-{width}")
        page.get_by_label(f"Role of {name}").select_option("viewer")
        page.locator("tr", has_text=name).get_by_role("button", name="Change").click()
        expect(page.get_by_role("status")).to_have_text(f"{name} is viewer now")
        page.get_by_role("button", name=f"Disable {name}").click()
        expect(page.locator("tr", has_text=name)).to_contain_text("disabled")
    account = people.show_person(console.db, name)
    assert (account.role, account.disabled_at is None) == (Right.VIEWER, False)


def test_what_is_wrong_with_somebody_new_is_told_and_what_was_typed_is_kept(console: ConsolePlace, chromium: Browser) -> None:
    with console.visit(chromium, "administrator") as page:
        page.goto(console.url + "/people")
        page.get_by_label("Name", exact=True).fill("viewer")
        page.get_by_label("First password").fill(PASSWORD)
        page.locator("section").get_by_label("The same again").fill(PASSWORD)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("somebody of that name is there already")
        expect(page.get_by_label("Name", exact=True)).to_have_value("viewer")


@pytest.mark.parametrize("role", ROLES)
def test_everybody_has_their_own_account_and_its_tokens(console: ConsolePlace, chromium: Browser, role: str) -> None:
    with console.visit(chromium, role, width=390) as page:
        page.goto(console.url + "/me")
        assert_fits(page)
        assert_accessible(page)
        page.get_by_label("What it is for").fill("night reports")
        page.get_by_role("button", name="Make a token").click()
        secret = page.locator("#secret").inner_text()
        assert_fits(page)
        shot(page, f"me-{role}-390")
        found = signin.who_has_token(console.db, secret, now=console.site.clock())
        assert found == signin.Person(role, Right.VIEWER)
        page.get_by_role("button", name="Revoke night reports").click()
        expect(page.get_by_role("status")).to_contain_text("is revoked")
    assert signin.who_has_token(console.db, secret, now=console.site.clock()) is None


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_who_may_not_change_people_is_told_who_may(console: ConsolePlace, chromium: Browser, role: str) -> None:
    with console.visit(chromium, role) as page:
        page.goto(console.url + "/")
        assert page.get_by_role("link", name="People").count() == 0
        page.goto(console.url + "/people")
        expect(page.get_by_role("heading", level=1)).to_have_text("You may not do this.")
        expect(page.get_by_role("alert")).to_have_text("This needs the role administrator.")
        assert_accessible(page)
        shot(page, f"not-allowed-{role}")


def test_a_page_that_looks_for_news_goes_to_sign_in_when_it_was_signed_out_elsewhere(
    console: ConsolePlace, chromium: Browser
) -> None:
    with console.visit(chromium, "viewer") as page:
        page.goto(console.url + "/")
        people.end_sign_ins(console.db, "viewer", actor="tests", now=console.site.clock())
        expect(page).to_have_url(console.url + "/sign-in")


def test_a_page_tells_when_the_gateway_does_not_answer_and_goes_on_by_itself(console: ConsolePlace, chromium: Browser) -> None:
    with console.visit(chromium, "viewer") as page:
        page.goto(console.url + "/")
        page.route("**/overview/**", lambda route: route.abort())
        expect(page.locator("#away")).to_contain_text("The gateway does not answer.")
        shot(page, "away")
        page.unroute("**/overview/**")
        expect(page.locator("#away")).to_have_count(0)
        page.route("**/overview/**", lambda _route: None)  # it hangs
        expect(page.locator("#away")).to_contain_text("The gateway does not answer.")


def test_who_signs_in_again_comes_back_to_the_page_that_asked(console: ConsolePlace, chromium: Browser) -> None:
    with console.visit(chromium, "viewer") as page:
        page.goto(console.url + "/jobs?state=failed")
        page.context.clear_cookies()
        page.get_by_label("Name").fill("viewer")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(console.url + "/jobs?state=failed")
    odd = console.client().post("/rules/draft", headers={"Referer": "http://[", "Sec-Fetch-Site": "same-origin"})
    assert odd.headers["location"] == "/sign-in"


def test_the_second_click_of_a_double_click_does_nothing(console: ConsolePlace, chromium: Browser) -> None:
    twice = """(button) => {
        const prevented = [];
        window.addEventListener("submit", (event) => { prevented.push(event.defaultPrevented); event.preventDefault(); });
        button.click();
        button.click();
        return prevented;
    }"""
    with console.visit(chromium, "administrator") as page:
        page.goto(console.url + "/me")
        page.get_by_label("What it is for").fill("one program")

        assert page.get_by_role("button", name="Make a token").evaluate(twice) == [False, True]
