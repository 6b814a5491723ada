"""Live parts that many look at are rendered once, and yet each gets what is theirs: their token, their buttons, and nothing older."""

import re
import time

import pytest
from sqlalchemy import update

from gateway.access import people
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.rows.tables import Job
from gateway.web import shared
from tests.console_fixture import PASSWORD, Client, ConsolePlace
from tests.rows_fixture import a_job, a_series

LOOK_SECONDS = 0.6
"""Until then the console has seen that something happened."""


@pytest.fixture(scope="module")
def job(console: ConsolePlace) -> int:
    a_series(console.db)
    return a_job(console.db, state="failed", reason="first")


@pytest.fixture(autouse=True)
def nothing_kept(console: ConsolePlace) -> None:
    """Of what the test before has looked at, which is as good as new for a moment."""
    console.site.shared._kept.clear()


def changed(console: ConsolePlace, reason: str, *, told: bool = True) -> None:
    """The job has another reason; what is not told in the trail, no page asks for."""
    with console.db.begin() as session:
        session.execute(update(Job).values(reason=reason))
        if told:
            audit.record(session, Act.JOB_RETRIED, at=console.site.clock())
    time.sleep(LOOK_SECONDS * told)


def part(client: Client, path: str, seen: int = 0) -> str:
    answer = client.get(f"{path}{'&' if '?' in path else '?'}seen={seen}")
    assert answer.status_code in {200, 204}
    return answer.text


def seen(text: str) -> int:
    return int(re.findall(r"seen=(\d+)", text)[0])


def test_two_who_may_the_same_get_the_same_text_with_a_token_of_their_own(console: ConsolePlace, job: int) -> None:
    one, other = console.client("operator"), console.client("operator")
    changed(console, "second")
    mine = part(one, f"/jobs/{job}/now")
    changed(console, "behind its back", told=False)

    theirs = part(other, f"/jobs/{job}/now")

    assert "second" in mine
    assert one.token() != other.token()
    assert (mine.count(one.token()), theirs.count(other.token())) == (mine.count('name="csrf"'),) * 2 != (0, 0)
    assert theirs == mine.replace(one.token(), other.token())
    assert shared.CSRF not in mine


@pytest.mark.parametrize("roles", [("operator", "viewer"), ("viewer", "operator")])
def test_who_may_less_never_gets_the_buttons_of_who_may_more(console: ConsolePlace, job: int, roles: tuple[str, str]) -> None:
    changed(console, "third")

    shown = {role: part(console.client(role), f"/jobs/{job}/now") for role in roles}

    assert "Retry" in shown["operator"]
    assert "Retry" not in shown["viewer"]
    assert 'name="csrf"' not in shown["viewer"]


@pytest.mark.parametrize("path", ["/", "/jobs", "/series", "/deliveries", "/peers", "/audit"])
def test_a_whole_page_is_nobody_elses_whatever_its_address_says(console: ConsolePlace, job: int, path: str) -> None:
    changed(console, "whole")

    shown = {role: part(console.client(role), path) for role in ("administrator", "viewer")}

    assert {role: re.findall(r'<span class="role">(\w+)<', text) for role, text in shown.items()} == {
        "administrator": ["administrator"], "viewer": ["viewer"],
    }  # fmt: skip


def test_a_list_in_which_nobody_sees_more_is_shared_by_all_roles_and_only_by_those_who_narrowed_it_alike(
    console: ConsolePlace, job: int
) -> None:
    changed(console, "fourth")
    mine = part(console.client("viewer"), "/jobs/rows")
    changed(console, "behind its back", told=False)

    assert "fourth" in mine
    assert part(console.client("administrator"), "/jobs/rows") == mine
    assert "behind its back" in part(console.client("viewer"), "/jobs/rows?state=failed")


def test_what_is_kept_is_good_for_a_moment_and_never_older_than_what_was_seen(
    console: ConsolePlace, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, path = console.client("viewer"), console.client("viewer"), "/jobs/rows"
    monkeypatch.setattr(shared, "_FRESH_SECONDS", 600.0)
    before = part(one, path)
    changed(console, "in between")
    changed(console, "fifth")

    assert part(other, path) == before
    assert part(one, path, seen(before)) == ""
    whole = other.get("/jobs").text
    assert "fifth" in whole
    assert "fifth" in part(one, path, seen(whole) - 1)  # it has seen more than what is kept
    changed(console, "sixth")
    monkeypatch.setattr(shared, "_FRESH_SECONDS", 0.0)
    assert "sixth" in part(one, path, seen(whole))


def test_who_is_let_in_no_more_gets_nothing_that_others_look_at(console: ConsolePlace, job: int) -> None:
    people.add_person(console.db, "leaver", role="viewer", password=PASSWORD, actor="tests", now=console.site.clock())
    leaver, other = console.client("leaver"), console.client("viewer")
    changed(console, "seventh")
    assert part(leaver, "/jobs/rows") == part(other, "/jobs/rows")

    people.disable(console.db, "leaver", actor="tests", now=console.site.clock())
    time.sleep(LOOK_SECONDS)

    assert part(other, "/jobs/rows")
    assert leaver.get("/jobs/rows?seen=0").status_code == 303
    assert console.client().get("/jobs/rows?seen=0").status_code == 303
