"""Sign-in at an identity provider: a real one (small, ours), a real browser, and tokens that nobody should believe."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from joserfc.jwk import RSAKey
from playwright.sync_api import Browser, expect

from gateway.access import people, signin
from gateway.auditing.audit import Act
from gateway.configuration.config import parse
from gateway.errors import ConfigError
from gateway.rows.accounts import Right
from gateway.rows.trail import AuditEvent
from gateway.web.who import cookie
from tests.console_fixture import ConsolePlace, a_console, assert_accessible, shot
from tests.oidc_fixture import Provider, a_provider

PEOPLE = {
    "subject-1": {"preferred_username": "a.miller", "groups": ["staff", "ai-admins"]},
    "subject-2": {"preferred_username": "b.jones", "groups": ["ai-readers"]},
    "subject-3": {"preferred_username": "c.nobody", "groups": ["kitchen"]},
    "subject-4": {"preferred_username": "<script>alert(1)</script>", "groups": ["ai-readers"]},
    "subject-6": {"preferred_username": "d.leaver", "groups": ["ai-readers"]},
    "subject-5": {"preferred_username": "local", "groups": ["ai-admins"]},
}


@dataclass
class Both:
    console: ConsolePlace
    provider: Provider

    def sign_in(self, subject: str):
        """Without a browser: what the last answer is."""
        client = self.console.client()
        there = client.get("/oidc/start", params={"then": "/me"}).headers["location"]
        back = client.get(there, params={"subject": subject}) if "?" not in there else client.get(f"{there}&subject={subject}")
        return client, client.get(back.headers["location"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("oidc")
    (folder / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    with a_provider(PEOPLE) as provider:
        (folder / "secret").write_text(provider.client_secret + "\n")
        oidc = provider.section | {
            "client_secret_file": str(folder / "secret"), "name": "Hospital account", "role_claim": "groups",
            "administrators": ["ai-admins"], "viewers": ["ai-readers"],
        }  # fmt: skip
        with a_console(folder, f"sqlite:///{folder / 'gateway.db'}", web={"oidc": oidc}) as console:
            now = console.site.clock()
            people.add_person(console.db, "local", role="viewer", password="correct horse battery", actor="tests", now=now)
            yield Both(console, provider)


def acts(console: ConsolePlace, act: Act) -> list[AuditEvent]:
    with console.db() as session:
        return list(session.query(AuditEvent).filter_by(act=act).order_by(AuditEvent.id))


def test_a_person_of_the_hospital_signs_in_with_their_account_there(both: Both, chromium: Browser) -> None:
    with both.console.visit(chromium, also=both.provider.issuer) as page:
        page.goto(both.console.url + "/people")
        shot(page, "sign-in-elsewhere")
        assert_accessible(page)
        page.get_by_role("link", name="Hospital account").click()
        page.get_by_role("link", name="subject-1").click()
        expect(page).to_have_url(both.console.url + "/people")
        expect(page.get_by_role("row", name="a.miller")).to_contain_text("signs in elsewhere")
    account = people.show_person(both.console.db, "a.miller")
    assert (account.role, account.subject, account.password_hash) == (Right.ADMINISTRATOR, "subject-1", "")
    assert acts(both.console, Act.PERSON_SIGNED_IN)[-1].actor == "a.miller"


def test_the_role_is_what_the_provider_says_at_each_sign_in(both: Both) -> None:
    both.sign_in("subject-2")
    both.provider.spoil = {"groups": ["ai-admins"]}
    client, answer = both.sign_in("subject-2")
    both.provider.spoil = {}

    assert answer.headers["location"] == "/me"
    assert client.get("/people").status_code == 200
    assert people.show_person(both.console.db, "b.jones").role == Right.ADMINISTRATOR
    both.sign_in("subject-2")
    assert people.show_person(both.console.db, "b.jones").role == Right.VIEWER


@pytest.mark.parametrize(
    ("subject", "words"),
    [("subject-3", "you have no role in this gateway"), ("subject-5", "somebody of that name is there already")],
)
def test_who_has_no_role_or_the_name_of_another_is_not_let_in_and_it_is_told(both: Both, subject: str, words: str) -> None:
    client, answer = both.sign_in(subject)

    assert answer.status_code == 403
    assert words in answer.text.lower()
    assert client.get("/").status_code == 303
    assert words in acts(both.console, Act.PERSON_NOT_SIGNED_IN)[-1].detail["reason"].lower()


@pytest.mark.parametrize("groups", [["kitchen"], 7])
def test_who_has_no_role_any_more_is_out_with_their_tokens_until_there_is_one_again(both: Both, groups: object) -> None:
    db, now = both.console.db, both.console.site.clock()
    client, _ = both.sign_in("subject-6")
    made = people.make_token(db, "d.leaver", label="x", role="viewer", days=365, actor="d.leaver", now=now)
    assert client.get("/").status_code == 200

    both.provider.spoil = {"groups": groups}
    refused = [both.sign_in("subject-6")[1].status_code for _ in range(2)]
    both.provider.spoil = {}
    told = [event.detail["reason"] for event in acts(both.console, Act.PERSON_CHANGED) if event.actor == both.provider.issuer]

    assert refused == [403, 403]
    assert client.get("/").status_code == 303
    assert signin.who_has_token(db, made.secret, now=now) is None
    out = "signed out: without a role at the identity provider"
    assert told[-3:] == [f"token {made.token.id} revoked", out, out]
    assert both.sign_in("subject-6")[1].status_code == 303
    assert signin.who_has_token(db, made.secret, now=now) is None


def test_a_name_that_is_no_name_becomes_the_subject(both: Both) -> None:
    both.sign_in("subject-4")

    assert people.show_person(both.console.db, "subject-4").role == Right.VIEWER


@pytest.mark.parametrize(
    "spoil",
    [
        {"iss": "http://evil.example"}, {"aud": "somebody-else"}, {"aud": ["somebody-else"], "azp": "somebody-else"},
        {"nonce": "of another sign-in"}, {"exp": 1_000_000_000}, {"sub": ""},
    ],
)  # fmt: skip
def test_a_token_that_is_not_for_this_sign_in_lets_nobody_in(both: Both, spoil: dict[str, object]) -> None:
    both.provider.spoil = spoil
    try:
        client, answer = both.sign_in("subject-1")
    finally:
        both.provider.spoil = {}

    assert answer.status_code == 403
    assert client.get("/").status_code == 303


def test_a_token_that_somebody_else_signed_lets_nobody_in(both: Both) -> None:
    both.provider.signs_with = RSAKey.generate_key(2048, {"kid": "k1"}, private=True)
    try:
        assert both.sign_in("subject-1")[1].status_code == 403
    finally:
        both.provider.signs_with = None


def test_a_sign_in_that_another_browser_began_is_not_ended_here(both: Both) -> None:
    began = both.console.client()
    there = began.get("/oidc/start").headers["location"]
    back = began.get(f"{there}&subject=subject-1").headers["location"]

    other = both.console.client()
    assert other.get(back).status_code == 403
    other.get("/oidc/start")
    assert other.get(back).status_code == 403
    assert began.get(back).status_code == 303
    assert began.get(back).status_code == 403


def test_who_began_no_sign_in_floods_no_trail_and_who_did_is_stopped_after_some_failures(both: Both) -> None:
    allowance, before = both.console.site.limits.sign_ins, len(acts(both.console, Act.PERSON_NOT_SIGNED_IN))
    stranger, client = both.console.client(), both.console.client()
    stranger.cookies.set(cookie(both.console.site, "oidc"), "nonsense")
    client.get("/oidc/start")

    unknown = [stranger.get("/oidc/back?code=x&state=y") for _ in range(30)]
    told = len(acts(both.console, Act.PERSON_NOT_SIGNED_IN)) - before
    failed = [client.get("/oidc/back?code=x&state=y").status_code for _ in range(25)]
    started = client.get("/oidc/start").status_code
    for _ in range(int(allowance.burst)):
        allowance.give_back("127.0.0.1")

    assert {answer.status_code for answer in unknown} == {403}
    assert "was not begun here" in unknown[0].text
    assert told == 0
    assert (failed[0], failed[-1], started) == (403, 429, 429)
    assert len(acts(both.console, Act.PERSON_NOT_SIGNED_IN)) - before == failed.count(403) <= allowance.burst


def test_where_to_go_afterwards_is_never_another_site(both: Both) -> None:
    client = both.console.client()
    there = client.get("/oidc/start", params={"then": "https://evil.example/"}).headers["location"]

    assert client.get(client.get(f"{there}&subject=subject-2").headers["location"]).headers["location"] == "/"


def test_without_an_identity_provider_there_is_no_such_page(console: ConsolePlace) -> None:
    assert console.client().get("/oidc/start").status_code == 404
    assert console.client().get("/oidc/back").status_code == 404


@pytest.mark.parametrize(
    ("change", "words"),
    [({"issuer": "http://idp.example"}, "https"), ({"issuer": "idp"}, "https"), ({"viewers": []}, "at least one role")],
)
def test_settings_that_would_let_in_anybody_or_nobody_are_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    oidc = {"issuer": "https://idp.example", "client_id": "x", "client_secret_file": str(tmp_path / "s"), "viewers": ["a"]}

    with pytest.raises(ConfigError, match=words):
        parse({"web": {"oidc": oidc | change}}, where="tests")
    assert parse({"web": {"oidc": oidc}}, where="tests")
