"""Who asks: the person of a request, by the cookie of a sign-in (pages) or by a token (REST), and whether they may.

Every operation takes one of Viewer, Operator, Administrator or Anybody. Each of them also refuses what another site makes a
browser send (CSRF): an unsafe request of a page carries a token that only our pages know. REST looks at no cookie, so that no
other site can ask it for anything; DICOMweb looks at one where no token came, for the viewer beside the console.
"""

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers

from gateway.access import signin
from gateway.access.passwords import digest
from gateway.access.signin import Person
from gateway.rows.accounts import Right
from gateway.web.live import version_of
from gateway.web.site import Site

API, DICOMWEB = "/api/", "/dicom-web/"
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SAME = frozenset({"same-origin", "none"})


class NotSignedIn(Exception):
    """Nobody known asks."""


class NotAllowed(Exception):
    """`needed` is the role that may."""

    def __init__(self, needed: Right) -> None:
        super().__init__(needed)
        self.needed = needed


class NotOurs(Exception):
    """A request that none of our pages has made."""


def cookie(site: Site, name: str = "session") -> str:
    """Its name; the prefix has browsers refuse one that was set without TLS, or for other paths (RFC 6265bis 4.1.3.2)."""
    return f"__Host-gateway-{name}" if site.is_secure else f"gateway-{name}"


def give(answer: Response, site: Site, name: str, value: str, *, seconds: int | None = None) -> None:
    """For this browser, until it ends or for so long; no script reads it, and nothing that another site sends brings it."""
    answer.set_cookie(cookie(site, name), value, max_age=seconds, httponly=True, secure=site.is_secure, samesite="lax")


def take(answer: Response, site: Site, name: str) -> None:
    """With all that it was given with: of a name with that prefix browsers heed nothing less."""
    answer.delete_cookie(cookie(site, name), httponly=True, secure=site.is_secure, samesite="lax")


def token_of(headers: Headers) -> str:
    """The token that a request shows (RFC 6750 2.1); empty where it shows none."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else ""


def is_rest(request: Request) -> bool:
    """Whether a program asks, not a person at a page."""
    return request.url.path.startswith((API, DICOMWEB))


def _shows_token(request: Request) -> bool:
    return request.url.path.startswith(API) or (is_rest(request) and "authorization" in request.headers)


def csrf_of(request: Request) -> str:
    """What our forms carry: only who reads the cookie can make it, and it does not tell the cookie."""
    site: Site = request.app.state.site
    secret = request.cookies.get(cookie(site)) or request.cookies.get(cookie(site, "form"), "")
    return digest(f"csrf {secret}") if secret else ""


class Needs:
    """A dependency: the person, who has at least the role `needed`; with None whoever it is, or nobody."""

    def __init__(self, needed: Right | None) -> None:
        self.needed = needed

    async def __call__(self, request: Request) -> Person | None:
        person = request.state.person = await _person(request)
        if self.needed is not None:
            if person is None:
                raise NotSignedIn
            if not person.may(self.needed):
                raise NotAllowed(self.needed)
        if request.method not in _SAFE and not _shows_token(request):
            await _check_ours(request)
        return person


async def _person(request: Request) -> Person | None:
    site: Site = request.app.state.site
    if _shows_token(request):
        token = token_of(request.headers)
        return await run_in_threadpool(signin.who_has_token, site.db, token, now=site.clock()) if token else None
    secret = request.cookies.get(cookie(site), "")
    if not secret:
        return None
    return await _signed_in(site, secret, is_act="seen" not in request.query_params)


async def _signed_in(site: Site, secret: str, *, is_act: bool) -> Person | None:
    await version_of(site.pulse)
    version = site.pulse.people
    person = None if is_act else site.faces.find(secret, version)
    if person is None:
        lives, now = site.lives, site.clock()
        person = await run_in_threadpool(signin.who_signed_in, site.db, secret, lives=lives, now=now, is_act=is_act)
        site.faces.keep(secret, version, person)
    return person


async def _check_ours(request: Request) -> None:
    if request.headers.get("sec-fetch-site", "same-origin") not in _SAME:
        raise NotOurs
    expected, shown = csrf_of(request), request.headers.get(CSRF_HEADER, "")
    if not shown:
        field = (await request.form()).get(CSRF_FIELD, "")
        shown = field if isinstance(field, str) else ""
    if not expected or not hmac.compare_digest(expected.encode(), shown.encode("utf-8", "replace")):
        raise NotOurs


Viewer = Annotated[Person, Depends(Needs(Right.VIEWER))]
Operator = Annotated[Person, Depends(Needs(Right.OPERATOR))]
Administrator = Annotated[Person, Depends(Needs(Right.ADMINISTRATOR))]
Anybody = Annotated[Person | None, Depends(Needs(None))]
"""What is open to all: sign-in, assets, health."""
