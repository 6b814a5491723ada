"""Pages as HTML: Jinja, which escapes every string that a template shows, and what every page has."""

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from itsdangerous import BadData, URLSafeSerializer
from jinja2 import Environment, PackageLoader, StrictUndefined

import gateway
from gateway.access.signin import Person
from gateway.views.lists import brief
from gateway.web.found import Part
from gateway.web.shared import CSRF, asks, is_live
from gateway.web.who import cookie, csrf_of, give, take

_ASSETS = Path(__file__).parent / "assets"
_PARTS = ("now", "rows")
_TOLD_SECONDS, _TOLD_LONGEST, _TOLD_MOST = 60, 1500, 5


@dataclass(frozen=True)
class Asset:
    """A file that pages load; its address names its content, so that browsers may keep it for ever."""

    content: bytes
    media_type: str
    digest: str


def _read() -> Mapping[str, Asset]:
    found = {}
    for path in sorted(_ASSETS.iterdir()):
        content, kind = path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        found[path.name] = Asset(content, kind, hashlib.sha256(content).hexdigest()[:16])
    return MappingProxyType(found)


ASSETS = _read()


def asset(name: str) -> str:
    return f"/assets/{ASSETS[name].digest}/{name}"


def when(moment: datetime | None) -> str:
    """As the page first shows it, to the second, in UTC; console.js shows it in the reader's own time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if moment else ""


def size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def sentence(said: object) -> str:
    """What an act or an error of ours says, which begins small and has no full stop."""
    words = str(said)
    return f"{words[:1].upper()}{words[1:]}."


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("gateway.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.globals |= {"asset": asset, "gateway_version": gateway.__version__}
    made.filters |= {"when": when, "size": size, "brief": brief}
    return made


_ENVIRONMENT = _environment()


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A whole page, or a part of one; its template gets `values`, the person, and what base.html wants."""
    person: Person | None = getattr(request.state, "person", None)
    csrf = csrf_of(request)
    told, asked = _told(request), asks(_ENVIRONMENT, template)
    is_shared = asked.is_part and is_live(request) and status == 200 and "news" in values
    whom = replace(person, name="", digest="") if person and is_shared else person
    text = _ENVIRONMENT.get_template(template).render(
        request=request, person=whom, csrf=CSRF if is_shared else csrf, told=told, navigation=_navigation(request, whom), **values
    )
    if is_shared:
        request.app.state.site.shared.keep(request, values["news"], text, is_of_all=not asked.who)
        text = text.replace(CSRF, csrf)
    answer = HTMLResponse(text, status)
    if told:
        take(answer, request.app.state.site, "told")
    return answer


def live(request: Request, name: str, *, title: str = "", **values: Any) -> HTMLResponse:
    """A page that keeps itself up to date (live.py); or its part, NAME_now.html or NAME_rows.html, as the path ends.

    With a `title` the page is nothing but that part.
    """
    last = request.scope["route"].path.rpartition("/")[2]
    if last in _PARTS:
        return page(request, f"{name}_{last}.html", **values)
    if title:
        return page(request, "live.html", title=title, part=f"{name}_now.html", **values)
    return page(request, f"{name}.html", **values)


def go(request: Request, path: str, *told: str, is_problem: bool = False) -> Response:
    """To another page of ours, which shows what is `told`; what an htmx form wants is a header."""
    answer: Response = RedirectResponse(path, 303)
    if request.headers.get("hx-request"):
        answer = Response(status_code=204, headers={"HX-Redirect": path})
    if told:
        shown = [one[:_TOLD_LONGEST] for one in told[:_TOLD_MOST]]
        if len(told) > _TOLD_MOST:
            shown.append(f"And {len(told) - _TOLD_MOST} more.")
        value = _signer(request).dumps({"problem": is_problem, "told": shown})
        give(answer, request.app.state.site, "told", str(value), seconds=_TOLD_SECONDS)
    return answer


def _told(request: Request) -> Any:
    value = request.cookies.get(cookie(request.app.state.site, "told"))
    if not value or request.headers.get("hx-request"):
        return None
    try:
        return _signer(request).loads(value)
    except BadData:
        return None


def _signer(request: Request) -> URLSafeSerializer:
    """Signed, so that nobody else puts words on our pages."""
    return URLSafeSerializer(csrf_of(request) or "nobody", salt="told")


def _navigation(request: Request, person: Any) -> list[Any]:
    parts: list[Part] = request.app.state.pages
    shown = [one.navigation for one in parts if one.navigation and person and person.may(one.navigation.needed)]
    return sorted(shown, key=lambda one: one.order)
