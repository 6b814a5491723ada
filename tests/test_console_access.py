"""Who may what in the console and over REST: every operation, every role, and what attackers try (OWASP, standards.md 4.6)."""

import re
import socket
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from gateway.access import people, signin
from gateway.auditing.audit import Act
from gateway.errors import ConfigError
from gateway.rows.accounts import Right
from gateway.rows.trail import AuditEvent
from gateway.web import application, found, render
from gateway.web.who import Needs, cookie
from tests.console_fixture import PASSWORD, ROLES, ConsolePlace, a_console

OPEN = {
    "/assets/{digest}/{name}", "/sign-in", "/setup", "/healthz", "/readyz", "/metrics", "/oidc/start", "/oidc/back",
    "/api/v1/openapi.json",
}  # fmt: skip
"""All that somebody sees who is not signed in."""
HOSTILE = "<script>alert(1)</script>\"'%n; DROP TABLE gw_account--\u202e\N{GRINNING FACE}"


def operations() -> list[tuple[str, str, Right | None]]:
    """Path, method and needed role of everything that can be asked for."""
    listed = []
    parts = [("", part.router) for part in found.parts("pages")] + [("/api/v1", part.router) for part in found.parts("rest")]
    parts += [("/dicom-web", part.router) for part in found.parts("dicomweb")]
    for prefix, router in [*parts, ("", application.assets)]:
        for one in router.routes:
            if isinstance(one, APIWebSocketRoute):  # it says by itself who may listen: test_workitems
                continue
            assert isinstance(one, APIRoute), one
            needed = [need.call.needed for need in one.dependant.dependencies if isinstance(need.call, Needs)]
            assert len(needed) == 1, f"{one.path} does not say who may"
            listed += [(prefix + one.path, method, needed[0]) for method in one.methods]
    return listed


OPERATIONS, PROGRAMS = operations(), ("/api/", "/dicom-web/")


def filled(path: str) -> str:
    return re.sub(r"{[^}]+}", "0", path)  # nothing is numbered 0: no token, and so not the one in use, is revoked


def bearer(console: ConsolePlace, name: str, **changes: object) -> dict[str, str]:
    values = {"label": "tests", "role": name, "days": 1, "actor": name, "now": console.site.clock()} | changes
    return {"Authorization": f"Bearer {people.make_token(console.db, name, **values).secret}"}


def test_only_what_must_be_is_open_to_everybody() -> None:
    assert {path for path, _, needed in OPERATIONS if needed is None} <= OPEN


def test_nobody_gets_anywhere_without_being_signed_in(console: ConsolePlace) -> None:
    client = console.client()
    for path, method, needed in OPERATIONS:
        if needed is not None:
            answer = client.request(method, filled(path))
            if path.startswith(PROGRAMS):
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
            else:
                assert answer.status_code == 303, path
                assert answer.headers["location"].startswith("/sign-in"), path


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_its_operations_say_and_no_more(console: ConsolePlace, role: str) -> None:
    """Unsafe requests of pages come without CSRF token here: who may is refused for that, who may not for the role."""
    client, headers = console.client(role), bearer(console, role)
    for path, method, needed in OPERATIONS:
        if needed is None:
            continue
        answer = client.request(method, filled(path), headers=headers if path.startswith(PROGRAMS) else None)
        if not Right(role).includes(needed):
            assert answer.status_code == 403, (path, method)
            assert f"needs the role {needed}" in answer.text
        elif method != "GET" and not path.startswith(PROGRAMS):
            assert answer.status_code == 403, (path, method)
            assert "did not come from a page of this sign-in" in answer.text
        else:
            assert answer.status_code not in {401, 403}, (path, method)
            assert answer.status_code < 500, (path, method)


@pytest.mark.parametrize("token", ["", "0" * 64, "of another sign-in"])
def test_a_wrong_csrf_token_is_refused(console: ConsolePlace, token: str) -> None:
    client = console.client("administrator")
    shown = console.client("administrator").token("/me") if token.startswith("of") else token

    for fields, headers in (({"csrf": shown}, {}), ({}, {"X-CSRF-Token": shown})):
        answer = client.post("/people/viewer/disable", data=fields, headers=headers)
        assert answer.status_code == 403
    assert people.show_person(console.db, "viewer").disabled_at is None


def test_what_another_site_has_a_browser_send_is_refused_even_with_a_token(console: ConsolePlace) -> None:
    client = console.client("administrator")

    answer = client.post("/me/sign-out", data={"csrf": client.token("/me")}, headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403


def test_the_cookie_of_a_sign_in_opens_no_rest_and_a_token_no_page(console: ConsolePlace) -> None:
    rest = next(path for path, method, needed in OPERATIONS if path.startswith("/api/") and method == "GET" and needed)

    assert console.client("administrator").get(filled(rest)).status_code == 401
    assert console.client().get("/people", headers=bearer(console, "administrator")).status_code == 303


def test_a_sign_in_gets_a_cookie_that_scripts_and_other_sites_do_not(console: ConsolePlace) -> None:
    client = console.client()
    client.cookies.set(cookie(console.site), "chosen by an attacker")

    answer = client.act("/sign-in", name="viewer", password=PASSWORD)

    (given,) = [one for one in answer.headers.get_list("set-cookie") if one.startswith(cookie(console.site) + "=")]
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(given.split("; "))
    assert "chosen" not in given
    assert len(given.split("=")[1].split(";")[0]) >= 43


@pytest.mark.parametrize(
    "then",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\t/evil",
        "http:evil",
    ],
)
def test_after_sign_in_nobody_is_sent_to_another_site(console: ConsolePlace, then: str) -> None:
    client = console.client()

    answer = client.act("/sign-in", name="viewer", password=PASSWORD, then=then)

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert console.client("viewer").get("/sign-in", params={"then": then}).headers["location"] == "/"


def test_after_sign_in_a_person_comes_to_where_they_wanted(console: ConsolePlace) -> None:
    client = console.client()

    asked = client.get("/me?x=1")
    answer = client.act("/sign-in", name="viewer", password=PASSWORD, then="/me?x=1")

    assert asked.headers["location"] == "/sign-in?then=%2Fme%3Fx%3D1"
    assert answer.headers["location"] == "/me?x=1"


@pytest.mark.parametrize(("length", "kept"), [(1500, True), (5000, False)])
def test_a_long_address_keeps_nobody_from_signing_in(console: ConsolePlace, length: int, kept: bool) -> None:
    client, wanted = console.client(), "/studies?sought=" + "x" * length

    asked = client.get(wanted, follow_redirects=True)
    answer = client.act("/sign-in", name="viewer", password=PASSWORD, then=wanted)

    assert asked.status_code == 200
    assert answer.headers["location"] == (wanted if kept else "/")


def test_every_answer_tells_browsers_what_to_refuse(console: ConsolePlace) -> None:
    for path in ("/", "/sign-in", "/nowhere", "/healthz", f"/assets/x/{next(iter(render.ASSETS))}", "/api/v1/openapi.json"):
        headers = console.client("viewer").get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert console.client("viewer").get("/").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/assets/x/../../../etc/passwd", "/assets/x/%2e%2e%2f%2e%2e%2fsite.py", "/assets/x/..%5csite.py"]
)
def test_assets_are_the_files_that_were_shipped_and_no_other(console: ConsolePlace, path: str) -> None:
    host, port = console.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:  # a client would tidy the path up
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 404")
    assert b"root:" not in answer


def test_a_name_that_somebody_else_points_here_is_refused(console: ConsolePlace) -> None:
    assert console.client().get("/sign-in", headers={"Host": "evil.example"}).status_code == 421


def test_a_body_that_is_too_long_is_refused(console: ConsolePlace) -> None:
    client = console.client("administrator")

    def endless():
        for _ in range(3):
            yield b"x" * 700_000

    assert client.post("/people", content=b"x" * 2_000_000).status_code == 413
    assert (
        client.post("/people", content=endless(), headers={"Content-Type": "application/x-www-form-urlencoded"}).status_code
        == 413
    )


def test_who_guesses_passwords_waits_longer_each_time(console: ConsolePlace) -> None:
    now = console.site.clock()
    people.add_person(console.db, "guessed", role="viewer", password=PASSWORD, actor="tests", now=now)

    def waits(password: str, after: timedelta = timedelta(0)) -> timedelta:
        """How long from then on, when that was refused."""
        with pytest.raises(signin.NotLetIn, match="try again in 5 minutes"):
            signin.sign_in(console.db, "guessed", password, address="a", now=now + after)
        until = people.show_person(console.db, "guessed").not_before
        return until - now - after if until else timedelta(0)

    assert [waits("wrong") for _ in range(4)] == [timedelta(0)] * 4
    assert waits("wrong") == waits(PASSWORD) == waits("wrong") == timedelta(seconds=1)
    assert waits("wrong", timedelta(seconds=1)) == waits(PASSWORD, timedelta(seconds=1)) == timedelta(seconds=2)
    assert signin.sign_in(console.db, "guessed", PASSWORD, address="a", now=now + timedelta(seconds=4))


def test_an_address_that_guesses_names_is_stopped(tmp_path: Path, migrated_sqlite: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}") as place:
        place.add_people()
        client = place.client()
        token = client.token()
        answers = [client.post("/sign-in", data={"name": f"n{i}", "password": "x", "csrf": token}) for i in range(25)]
        assert [one.status_code for one in answers[:20]] == [403] * 20
        assert 429 in {one.status_code for one in answers[20:]}
        assert "too many sign-ins from this address" in answers[-1].text


@pytest.mark.parametrize("often", [0, 7])
def test_whether_there_is_such_a_name_is_not_told_however_often_it_is_tried(console: ConsolePlace, often: int) -> None:
    now, texts = console.site.clock(), set()
    people.add_person(console.db, f"tried-{often}", role="viewer", password=PASSWORD, actor="tests", now=now)
    for name in (f"tried-{often}", "nobody1"):
        for _ in range(often):
            with pytest.raises(signin.NotLetIn):
                signin.sign_in(console.db, name, "wrong", address="a", now=now)
        texts.add(console.client().act("/sign-in", name=name, password="x" * 12).text.replace(name, "NAME"))

    assert len({re.sub(r"[0-9a-f]{64}", "TOKEN", text) for text in texts}) == 1


def test_what_was_typed_as_a_name_is_in_the_trail_only_if_it_is_one(console: ConsolePlace) -> None:
    console.client().act("/sign-in", name="CANARY-typed-a-password-here", password="x")
    console.client().act("/sign-in", name="operator", password="x")

    with console.db() as session:
        told = [event.actor for event in session.query(AuditEvent).filter_by(act=Act.PERSON_NOT_SIGNED_IN)]
    assert told[-2:] == ["unknown", "operator"]


def test_nothing_that_lets_in_is_in_the_database(console: ConsolePlace) -> None:
    secret = console.secret("viewer")
    token = bearer(console, "viewer")["Authorization"].removeprefix("Bearer ")

    kept = b"".join(path.read_bytes() for path in console.folder.glob("gateway.db*") if path.is_file())

    for hidden in (secret, token, PASSWORD):
        assert hidden.encode() not in kept


def test_a_sign_in_ends_when_nothing_is_done_and_at_the_latest_after_its_hours(console: ConsolePlace) -> None:
    now, lives = console.site.clock(), console.site.lives
    idle, acting = console.secret("viewer"), console.secret("viewer")

    def who(secret: str, after: timedelta, *, is_act: bool = False) -> signin.Person | None:
        return signin.who_signed_in(console.db, secret, lives=lives, now=now + after, is_act=is_act)

    assert who(idle, timedelta(minutes=29))
    assert who(idle, timedelta(minutes=31)) is None
    for minutes in range(20, 12 * 60, 20):
        assert who(acting, timedelta(minutes=minutes), is_act=True)
    assert who(acting, timedelta(hours=12, minutes=1)) is None


def test_a_page_that_looks_for_news_keeps_nobody_signed_in(console: ConsolePlace) -> None:
    client = console.client("viewer")
    ended = console.site.clock() - timedelta(minutes=20)
    with console.db.begin() as session:
        session.execute(signin.update(signin.SignIn).where(signin.SignIn.account == "viewer").values(seen_at=ended))

    client.get("/overview/now?seen=0")

    with console.db() as session:
        assert {one.seen_at for one in session.query(signin.SignIn).filter_by(account="viewer")} == {ended}


def test_who_is_disabled_is_out_at_once(console: ConsolePlace) -> None:
    now = console.site.clock()
    people.add_person(console.db, "leaver", role="operator", password=PASSWORD, actor="tests", now=now)
    client, headers = console.client("leaver"), bearer(console, "leaver", role="viewer")
    assert client.get("/").status_code == 200

    people.disable(console.db, "leaver", actor="tests", now=now)

    assert client.get("/").status_code == 303
    assert signin.who_has_token(console.db, headers["Authorization"][7:], now=now) is None
    with pytest.raises(signin.NotLetIn):
        signin.sign_in(console.db, "leaver", PASSWORD, address="", now=now)


def test_a_token_ends_is_revoked_and_never_does_more_than_its_person(console: ConsolePlace) -> None:
    now = console.site.clock()
    people.add_person(console.db, "robot", role="operator", password=PASSWORD, actor="tests", now=now)
    made = people.make_token(console.db, "robot", label="x", role="operator", days=1, actor="robot", now=now)

    def who(after: timedelta = timedelta(0)) -> signin.Person | None:
        return signin.who_has_token(console.db, made.secret, now=now + after)

    assert who() == signin.Person("robot", Right.OPERATOR)
    assert who(timedelta(days=1)) is None
    with pytest.raises(ConfigError, match="may do no more"):
        people.make_token(console.db, "robot", label="x", role="administrator", days=1, actor="robot", now=now)
    people.change_role(console.db, "robot", role="viewer", actor="tests", now=now)
    assert who() == signin.Person("robot", Right.VIEWER)
    people.revoke_token(console.db, made.token.id, actor="robot", now=now, of="robot")
    assert who() is None


def test_one_administrator_is_always_left(console: ConsolePlace) -> None:
    now = console.site.clock()
    for act in (
        lambda: people.disable(console.db, "administrator", actor="administrator", now=now),
        lambda: people.change_role(console.db, "administrator", role="viewer", actor="administrator", now=now),
    ):
        with pytest.raises(ConfigError, match="one administrator is left"):
            act()
    assert people.show_person(console.db, "administrator").disabled_at is None


def test_every_change_of_a_person_is_in_the_trail_with_who_made_it(console: ConsolePlace) -> None:
    client = console.client("administrator")
    client.act("/people", name="told", role="viewer", password=PASSWORD, again=PASSWORD)
    client.act("/people/told/role", role="operator")
    client.act("/people/told/disable")
    client.act("/people/told/enable")
    client.act("/people/told/password", password=PASSWORD[::-1], again=PASSWORD[::-1])

    with console.db() as session:
        events = [
            event for event in session.query(AuditEvent).filter_by(act=Act.PERSON_CHANGED) if event.detail["person"] == "told"
        ]
    assert {event.actor for event in events} == {"administrator"}
    assert [event.detail["reason"] for event in events] == ["added", "role was viewer", "disabled", "enabled", "password"]
    assert PASSWORD not in str([event.detail for event in events])


def test_a_person_changes_their_password_with_the_present_one_and_other_sign_ins_end(console: ConsolePlace) -> None:
    people.add_person(console.db, "changer", role="viewer", password=PASSWORD, actor="tests", now=console.site.clock())
    client, other = console.client("changer"), console.client("changer")

    wrong = client.act("/me/password", present="wrong", password="another good password", again="another good password")
    right = client.act("/me/password", present=PASSWORD, password="another good password", again="another good password")

    assert (wrong.status_code, right.status_code) == (409, 303)
    assert "the present password is another one" in wrong.text
    assert (client.get("/").status_code, other.get("/").status_code) == (200, 303)
    assert console.client().act("/sign-in", name="changer", password="another good password").status_code == 303


@pytest.mark.parametrize("password", ["short", "a" * 40, "viewer-viewer-viewer", "x" * 300])
def test_a_password_that_is_easy_to_guess_is_refused(console: ConsolePlace, password: str) -> None:
    with pytest.raises(ConfigError, match="expected a password"):
        people.set_password(console.db, "viewer", password=password, actor="viewer", now=console.site.clock())


def test_hostile_words_are_shown_as_words(console: ConsolePlace) -> None:
    client = console.client("administrator")

    pages = [
        client.act("/people", name=HOSTILE, role="viewer", password=PASSWORD, again=PASSWORD),
        console.client().act("/sign-in", name=HOSTILE[:64], password="x", then=HOSTILE),
        client.act("/me/tokens", label=HOSTILE, role="viewer", days=1),
        client.get("/nowhere/" + HOSTILE.replace("/", "")),
        client.get("/sign-in", params={"then": HOSTILE}),
    ]

    for answer in pages:
        assert "<script>alert" not in answer.text
        assert "onerror" not in answer.text


def test_the_setup_secret_makes_the_first_administrator_and_nobody_else(tmp_path: Path, migrated_sqlite: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}") as place:
        file = place.site.setup_file
        fields = {"name": "first", "password": PASSWORD, "again": PASSWORD}
        client = place.client()
        assert client.get("/").headers["location"] == "/sign-in"
        assert client.get("/sign-in").headers["location"] == "/setup"
        assert file.stat().st_mode & 0o777 == 0o600
        secret = file.read_text().strip()
        assert client.act("/setup", secret="guessed", **fields).status_code == 409
        assert client.act("/setup", secret=secret, **fields).status_code == 303
        assert not file.exists()
        assert client.get("/people").status_code == 200
        assert place.client().get("/setup").headers["location"] == "/sign-in"
        late = place.client().act("/setup", secret=secret, **(fields | {"name": "second"}))
        assert late.status_code == 409
        assert [one.name for one in people.list_people(place.db)] == ["first"]


def test_a_gateway_tells_that_it_is_alive_and_ready_and_nothing_else(console: ConsolePlace) -> None:
    client = console.client()

    assert (client.get("/healthz").status_code, client.get("/healthz").text) == (200, "alive\n")
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (200, "ready\n")
    console.site.store._half = console.folder / "gone"
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (503, "not ready\n")
    console.site.store._half = console.site.store._incoming


def test_where_no_connection_to_the_database_is_free_that_is_no_failure_of_the_gateway(
    console: ConsolePlace, monkeypatch
) -> None:
    engine, client = console.db.kw["bind"], console.client("viewer")
    monkeypatch.setattr(engine.pool, "_timeout", 0.1)
    with ExitStack() as stack:
        with pytest.raises(NoConnectionFree):
            while True:
                stack.enter_context(engine.connect())
        answer = client.get("/jobs")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "The database does not answer." in answer.text


@pytest.mark.parametrize(
    ("host", "more", "words"), [("0.0.0.0", {}, "behind_proxy"), ("127.0.0.1", {"key": "x"}, "certificate and key")]
)
def test_a_console_that_others_could_listen_to_is_refused_in_words(host: str, more: dict[str, str], words: str) -> None:
    from gateway.configuration.config import parse

    with pytest.raises(ConfigError, match=words):
        parse({"web": {"host": host, **more}}, where="tests")
    assert parse({"web": {"host": "0.0.0.0", "behind_proxy": True}}, where="tests")


def test_behind_a_proxy_cookies_are_for_tls_and_the_last_address_counts(tmp_path: Path, migrated_sqlite: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    web = {"behind_proxy": True, "url": "https://ai.hospital"}
    with (
        a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", web=web) as place,
        httpx2.Client(base_url=place.url, timeout=30) as client,
    ):
        place.add_people()
        page = client.get("/sign-in", headers={"Host": "ai.hospital"})
        form = page.headers["set-cookie"].split(";")[0]
        token = re.search(r'name="csrf" value="([0-9a-f]+)"', page.text).group(1)
        claimed, seen = "6.6.6.6", "7.7.7.7, 10.0.0.7"
        answer = client.post(
            "/sign-in", data={"name": "viewer", "password": PASSWORD, "csrf": token},
            headers=[("Host", "ai.hospital"), ("Cookie", form), ("X-Forwarded-For", claimed), ("X-Forwarded-For", seen)],
        )  # fmt: skip
        given = next(one for one in answer.headers.get_list("set-cookie") if "session" in one)
        assert given.startswith("__Host-gateway-session=")
        assert "Secure" in given
        assert "max-age" in answer.headers["strict-transport-security"]
        with place.db() as session:
            (event,) = session.query(AuditEvent).filter_by(act=Act.PERSON_SIGNED_IN)
        assert event.detail["address"] == "10.0.0.7"
