"""What every way to sign in shares: the forms of who is nobody yet, the cookie of who has come in, and where they go then."""

import secrets

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from gateway.web.render import page
from gateway.web.site import Site
from gateway.web.who import cookie, csrf_of, give, take

_LONGEST = 2000


def form(request: Request, here: Site, template: str, *, status: int = 200, **values: object) -> Response:
    """Its token needs a cookie, which is made here."""
    made = "" if csrf_of(request) else secrets.token_urlsafe(16)
    if made:
        request.cookies[cookie(here, "form")] = made
    oidc = here.config.web.oidc
    shown = {"name": "", "problem": "", "then": "/", "elsewhere": oidc.name if oidc else ""}
    answer = page(request, template, status=status, **(shown | values))
    if made:
        give(answer, here, "form", made)
    return answer


def held_up(request: Request, here: Site, **values: object) -> Response | None:
    """The answer to an address from which there were too many sign-ins; else this one counts until it is given back."""
    wait = here.limits.sign_ins.wait(address(request))
    problem = f"There were too many sign-ins from this address: try again in {int(wait) + 1} seconds."
    return form(request, here, "sign-in.html", status=429, problem=problem, **values) if wait else None


def entered(here: Site, secret: str, then: str) -> Response:
    """Whatever cookie there was before is of no use any more (session fixation)."""
    answer = RedirectResponse(ours(then), 303)
    give(answer, here, "session", secret)
    take(answer, here, "form")
    return answer


def ours(then: str) -> str:
    """Where to go after sign-in: a path of ours, never another site's address, nor one that is longer than ours are."""
    is_path = (
        len(then) <= _LONGEST and then.startswith("/") and not then.startswith("//") and "\\" not in then and then.isprintable()
    )
    return then if is_path else "/"


def address(request: Request) -> str:
    return request.client.host if request.client else ""
