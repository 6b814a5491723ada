"""There and back: sign-in at the identity provider of [web.oidc]."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from gateway.access import people, signin
from gateway.access.signin import NotLetIn
from gateway.errors import ConfigError
from gateway.web.enter import address, entered, form, held_up, ours
from gateway.web.oidc import Issuer, Proved
from gateway.web.render import sentence
from gateway.web.site import Here, Site
from gateway.web.who import Anybody, cookie, give, take

NAVIGATION = None
_BACK = "/oidc/back"
router = APIRouter()


@router.get("/oidc/start")
async def start(request: Request, _nobody: Anybody, here: Here, then: str = "/") -> Response:
    issuer = _issuer(request)
    if held := held_up(request, here):
        return held
    base = here.config.web.url or f"{request.url.scheme}://{request.url.netloc}"
    try:
        answer, kept = await issuer.begin(request, base + _BACK, ours(then))
    except NotLetIn as error:
        return await _refused(request, here, error)
    here.limits.sign_ins.give_back(address(request))
    give(answer, here, "oidc", kept, seconds=600)
    return answer


@router.get(_BACK)
async def back(request: Request, _nobody: Anybody, here: Here) -> Response:
    issuer = _issuer(request)
    begun = issuer.begun(request.cookies.get(cookie(here, "oidc"), ""))
    if begun is None:  # anybody can ask for this, or have a browser ask: it is neither told nor counted
        problem = "This sign-in was not begun here, or too long ago: begin it again."
        return form(request, here, "sign-in.html", status=403, problem=problem)
    if held := held_up(request, here):
        return held
    try:
        proved, then = await issuer.end(request, begun)
        secret = await run_in_threadpool(_enter, here, issuer.name, proved, address(request))
    except (NotLetIn, ConfigError) as error:
        return await _refused(request, here, error)
    here.limits.sign_ins.give_back(address(request))
    answer = entered(here, secret, then)
    take(answer, here, "oidc")
    return answer


def _enter(here: Site, issuer: str, proved: Proved, where: str) -> str:
    now = here.clock()
    if proved.role is None:
        people.has_left(here.db, issuer=issuer, subject=proved.subject, now=now)
        raise NotLetIn("the identity provider knows you, but you have no role in this gateway: ask an administrator")
    name = people.from_elsewhere(here.db, issuer=issuer, subject=proved.subject, name=proved.name, role=proved.role, now=now)
    return signin.begin(here.db, name, address=where, now=now)


async def _refused(request: Request, here: Site, error: NotLetIn | ConfigError) -> Response:
    await run_in_threadpool(signin.refused, here.db, address=address(request), now=here.clock(), reason=str(error))
    return form(request, here, "sign-in.html", status=403, problem=sentence(error))


def _issuer(request: Request) -> Issuer:
    issuer: Issuer | None = request.app.state.issuer
    if issuer is None:
        raise HTTPException(404)
    return issuer
