"""The console of `gateway serve`: beside everything else and never in its way, over TLS, and by itself on another machine."""

import socket
import time
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, expect

from gateway.access import people
from gateway.app import now
from tests.certificates import Authority, client_context
from tests.console_fixture import PASSWORD, a_console, assert_accessible, shot
from tests.ports import free_port
from tests.postgres_fixture import OwnPostgres
from tests.synthetic import ct_series
from tests.world import World, send


def until(holds, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def answers(port: int, path: str = "/healthz") -> int:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}{path}", timeout=10).status_code
    except httpx2.TransportError:
        return 0


def test_a_port_that_is_taken_stops_no_instance_and_the_console_comes_when_it_is_free(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    world = World(
        tmp_path / "w", f"sqlite:///{tmp_path / 'gateway.db'}", f"127.0.0.1:{free_port()}", settings={"web": {"port": port}}
    )
    try:
        world.start()
        until(lambda: world.logged("web.not_listening"))
        assert send(ct_series(2), world.port) == [0, 0]
        taken.close()
        until(lambda: answers(port) == 200)
        assert answers(port, "/readyz") == 503, "there is no Triton"
        secret = (world.folder / "var" / "setup-secret").read_text().strip()
        assert secret not in world.log
    finally:
        taken.close()
        assert world.stop() == 0


def test_a_console_by_itself_shows_what_others_do(tmp_path: Path, own_postgres: OwnPostgres) -> None:
    port = free_port()
    world = World(
        tmp_path / "w",
        own_postgres.url,
        f"127.0.0.1:{free_port()}",
        settings={"web": {"port": port}},
        arguments=["--only", "web"],
    )
    try:
        world.start()
        until(lambda: answers(port) == 200)
        assert not world.listens(), "it receives nothing"
        assert answers(port, "/readyz") == 200, "it needs no Triton and no doors"
        with world.database() as db, httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            people.add_person(db, "viewer", role="viewer", password=PASSWORD, actor="tests", now=now())
            token = client.get("/sign-in").text.split('name="csrf" value="')[1][:64]
            assert client.post("/sign-in", data={"name": "viewer", "password": PASSWORD, "csrf": token}).status_code == 303
            assert client.get("/").status_code == 200
            own_postgres.stop()
            away = client.get("/")
            assert (away.status_code, answers(port, "/readyz"), answers(port)) == (503, 503, 200)
            assert "The database does not answer." in away.text
            own_postgres.start()
            until(lambda: client.get("/").status_code == 200)
    finally:
        assert world.stop() == 0


def test_a_console_with_a_certificate_speaks_tls_only(tmp_path: Path, migrated_sqlite: Path, chromium: Browser) -> None:
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("gateway", hosts=("localhost",))
    (tmp_path / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    web = {"certificate": str(issued.certificate), "key": str(issued.key)}
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", web=web) as place:
        port = int(place.url.rpartition(":")[2])
        assert answers(port) == 0
        with httpx2.Client(base_url=place.url, verify=client_context(authority), timeout=30) as client:
            page = client.get("/setup")
            assert page.headers["set-cookie"].startswith("__Host-gateway-form=")
            assert "Secure" in page.headers["set-cookie"]
            assert "max-age" in page.headers["strict-transport-security"]
        with place.visit(chromium) as browser:
            browser.goto(place.url + "/")
            expect(browser.get_by_role("heading", level=1)).to_have_text("The first administrator")
            shot(browser, "setup")
            assert_accessible(browser)
            browser.get_by_label("Setup secret").fill(place.site.setup_file.read_text().strip())
            browser.get_by_label("Your name").fill("first")
            browser.get_by_label("Password", exact=True).fill(PASSWORD)
            browser.get_by_label("The same again").fill(PASSWORD)
            browser.get_by_role("button", name="Begin").click()
            expect(browser).to_have_url(place.url + "/")
            expect(browser.get_by_role("link", name="People")).to_be_visible()


def test_over_tls_too_a_page_tells_once_what_an_act_did(tmp_path: Path, migrated_sqlite: Path, chromium: Browser) -> None:
    """Browsers heed no end of a cookie of TLS that does not say that it is one (RFC 6265bis 5.7)."""
    issued = Authority(tmp_path / "ca").issue("gateway", hosts=("localhost",))
    (tmp_path / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    web = {"certificate": str(issued.certificate), "key": str(issued.key)}
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", web=web) as place:
        place.add_people()
        with place.visit(chromium, "viewer") as browser:
            browser.goto(place.url + "/me")
            browser.get_by_role("button", name="Sign out everywhere else").click()
            expect(browser.get_by_role("status")).to_have_text("viewer is signed out everywhere else")

            browser.goto(place.url + "/me")

            expect(browser.get_by_role("heading", level=1)).to_have_text("viewer")
            expect(browser.get_by_role("status")).to_have_count(0)


@pytest.mark.parametrize(("key", "value"), [("certificate", "missing.pem"), ("key", "missing.key")])
def test_a_certificate_that_is_not_there_is_told_before_anything_is_served(tmp_path: Path, key: str, value: str) -> None:
    issued = Authority(tmp_path / "ca").issue("gateway", hosts=("localhost",))
    web = {"port": free_port(), "certificate": str(issued.certificate), "key": str(issued.key), key: str(tmp_path / value)}
    world = World(tmp_path / "w", f"sqlite:///{tmp_path / 'gateway.db'}", f"127.0.0.1:{free_port()}", settings={"web": web})

    ended = world.run("serve")

    assert ended.returncode == 1
    assert f"[web] {key}" in ended.stderr
