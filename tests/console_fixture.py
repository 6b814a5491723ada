"""The console of a real gateway, people of each role in it, and a real Chromium that looks at it.

    def test_x(console, chromium):
        with console.visit(chromium, "operator") as page:      # signed in; 1280 wide, or width=390 for a phone
            page.goto(console.url + "/series")
            shot(page, "series")                                # kept as $GATEWAY_TEST_OUTPUT/series.png
            assert_accessible(page)

`visit` fails the test when the browser asked another host for anything, and when the page told an error in its console (a script
that the policy refused, a missing file). `console.client("viewer")` is the same without a browser: an httpx2 client with that
person's cookie; `client.post(path, data)` adds the CSRF token.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from gateway.access import people, signin
from gateway.app import Gateway
from gateway.configuration.config import parse
from gateway.configuration.roles import Role
from gateway.db import Database
from gateway.serving.plan import plan
from gateway.web.console import Console, site_of
from gateway.web.site import Site
from gateway.web.who import cookie

HERE = Path(__file__).parent
AXE = HERE / "console" / "node_modules" / "axe-core" / "axe.min.js"
OUTPUT = Path(os.environ.get("GATEWAY_TEST_OUTPUT") or HERE.parent / ".test-output")
PASSWORD = "correct horse battery staple"
ROLES = ("viewer", "operator", "administrator")
_ANSWERS = (
    "Failed to load resource", "Response Status Error Code", "htmx:afterRequest", "htmx:sendError", "htmx:responseError", "htmx:timeout",
    "error in event listener of type:  IMAGE_LOAD",
)  # fmt: skip
"""What a browser's console says of an answer that was an error, or did not come: tests look at what the page says of it."""
WIDE, PHONE = (1280, 800), (390, 844)


class Client(httpx2.Client):
    """Requests of one person, as a page's: a POST carries the CSRF token."""

    def token(self, path: str = "/sign-in") -> str:
        found = re.search(r'X-CSRF-Token": "([0-9a-f]+)"', self.get(path, follow_redirects=True).text)
        assert found
        return found.group(1)

    def act(self, path: str, /, **fields: Any) -> httpx2.Response:
        return self.post(path, data=fields | {"csrf": self.token("/me")})


@dataclass
class ConsolePlace:
    """A gateway that serves the console only; rows are the test's (rows_fixture)."""

    site: Site
    url: str
    folder: Path
    clients: list[Client] = field(default_factory=list)

    @property
    def db(self) -> Database:
        return self.site.db

    def add_people(self) -> None:
        for role in ROLES:
            people.add_person(self.db, role, role=role, password=PASSWORD, actor="tests", now=self.site.clock())

    def secret(self, name: str) -> str:
        """Of a new sign-in, which the browser would hold."""
        return signin.begin(self.db, name, address="127.0.0.1", now=self.site.clock())

    def client(self, name: str = "") -> Client:
        """Of somebody who is signed in, or of nobody."""
        cookies = {cookie(self.site): self.secret(name)} if name else None
        # Certificates take long to load, and nobody looks at one here.
        self.clients.append(Client(base_url=self.url, cookies=cookies, timeout=30, verify=False))
        return self.clients[-1]

    @contextmanager
    def visit(self, chromium: Browser, name: str = "", *, width: int = WIDE[0], also: str = "") -> Iterator[Page]:
        """`also` is another server of this machine that may be asked."""
        size = next(size for size in (WIDE, PHONE) if size[0] == width)
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, locale="en-GB", timezone_id="UTC", ignore_https_errors=True
        )
        if name:
            context.add_cookies([{"name": cookie(self.site), "value": self.secret(name), "url": self.url}])
        asked: list[str] = []
        told: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.set_default_timeout(30_000)
        try:
            yield page
            page.evaluate("0")  # what the page has told until now has come when this answer comes
        finally:
            seen = list(told)  # but not what it tells when our leaving cuts its requests off
            context.close()
        ours = (self.url + "/", "data:", "blob:", *([also + "/"] if also else []))
        elsewhere = [url for url in asked if not url.startswith(ours)]
        assert not elsewhere, "a request left the host"
        assert not [one for one in seen if not one.startswith(_ANSWERS)], seen


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's, headless; it knows no name but this machine's."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: chromium)")
    expect.set_options(timeout=30_000)  # pages look for news every two seconds, and a machine with other work is slow
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",
                "--enable-unsafe-swiftshader",
                "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
            ],
        )
        yield browser
        browser.close()


@contextmanager
def a_console(folder: Path, database_url: str, **sections: Any) -> Iterator[ConsolePlace]:
    """Open while it is entered; `sections` are of gateway.toml."""
    values = {
        "gateway": {"data_dir": str(folder / "var"), "pipelines": [str(HERE / "pipelines")]},
        "web": {"port": 0},
        "database": {"url": database_url, "unsafe": True},
        "triton": {"url": "127.0.0.1:1"},
        "rules": {"file": str(folder / "rules.yaml")},
        "peers": [{"name": "pacs", "protocol": "folder", "path": str(folder / "pacs")}],
    }
    (folder / "var").mkdir(parents=True, exist_ok=True)
    (folder / "pacs").mkdir(exist_ok=True)
    for name, section in sections.items():
        values[name] = values[name] | section if isinstance(values.get(name), dict) else section
    with Gateway(plan(parse(values, where="tests")), frozenset({Role.WEB})) as running:
        site = site_of(running)
        with Console(site) as opened:
            scheme = "https" if site.config.web.certificate else "http"
            place = ConsolePlace(site, f"{scheme}://127.0.0.1:{opened.port}", folder)
            yield place
            for client in place.clients:
                client.close()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[ConsolePlace]:
    """With people of the three roles, named after them, whose password is PASSWORD."""
    folder = tmp_path_factory.mktemp("console")
    shutil.copy(migrated_sqlite, folder / "gateway.db")
    with a_console(folder, f"sqlite:///{folder / 'gateway.db'}") as place:
        place.add_people()
        yield place


def shot(page: Page, name: str) -> None:
    """A picture of the whole page, for a person to look at; CI keeps them."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=OUTPUT / f"{name}.png", full_page=True)


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing serious."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed (npm ci in tests/console)")
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("async () => (await axe.run()).violations")
    serious = [one for one in found if one["impact"] in {"serious", "critical"}]
    assert not serious, [(one["id"], [node["html"] for node in one["nodes"]][:5]) for one in serious]


def assert_fits(page: Page) -> None:
    """Nobody has to scroll sideways to read the page."""
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
