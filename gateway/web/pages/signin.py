"""Sign in, sign out, and the first administrator of a gateway that has nobody yet."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from gateway.access import people, signin
from gateway.access.signin import NotLetIn
from gateway.errors import ConfigError
from gateway.rows.accounts import Right
from gateway.web.enter import address, entered, form, held_up, ours
from gateway.web.render import sentence
from gateway.web.site import Here
from gateway.web.who import Anybody, Viewer, take

NAVIGATION = None
_LONGEST = 300
Text = Annotated[str, Form(max_length=_LONGEST)]
router = APIRouter()


@router.get("/sign-in")
def ask(request: Request, person: Anybody, here: Here, then: str = "/") -> Response:
    if here.config.web.oidc is None and not people.is_anybody(here.db):
        return RedirectResponse("/setup", 303)
    if person is not None:
        return RedirectResponse(ours(then), 303)
    return form(request, here, "sign-in.html", then=ours(then))


@router.post("/sign-in")
def enter(
    request: Request, _nobody: Anybody, here: Here, name: Text = "", password: Text = "", then: Annotated[str, Form()] = "/"
) -> Response:
    if held := held_up(request, here, then=ours(then), name=name):
        return held
    try:
        secret = signin.sign_in(here.db, name, password, address=address(request), now=here.clock())
    except NotLetIn as error:
        return form(request, here, "sign-in.html", status=403, then=ours(then), name=name, problem=sentence(error))
    here.limits.sign_ins.give_back(address(request))
    return entered(here, secret, then)


@router.post("/sign-out")
def leave(_request: Request, person: Viewer, here: Here) -> Response:
    signin.sign_out(here.db, person, now=here.clock())
    answer = RedirectResponse("/sign-in", 303, {"Clear-Site-Data": '"cache", "storage"'})
    take(answer, here, "session")
    return answer


@router.get("/setup")
def ask_first(request: Request, _nobody: Anybody, here: Here) -> Response:
    if people.is_anybody(here.db):
        return RedirectResponse("/sign-in", 303)
    return form(request, here, "setup.html", file=here.setup_file)


@router.post("/setup")
def make_first(
    request: Request, _nobody: Anybody, here: Here, secret: Text = "", name: Text = "", password: Text = "", again: Text = ""
) -> Response:
    wait = here.limits.sign_ins.wait(address(request))
    expected = people.setup_secret(here.setup_file) if not people.is_anybody(here.db) else ""
    problem = ""
    if wait:
        problem = f"There were too many attempts from this address: try again in {int(wait) + 1} seconds."
    elif not expected or not hmac.compare_digest(secret.strip().encode("utf-8", "replace"), expected.encode()):
        problem = "The setup secret is another one: it stands in the file named above, on the machine of the gateway."
    elif password != again:
        problem = "The two passwords are not the same."
    else:
        try:
            people.add_person(
                here.db, name, role=Right.ADMINISTRATOR, password=password, actor="setup", now=here.clock(), first=True
            )
        except ConfigError as error:
            problem = str(error)
    if problem:
        return form(request, here, "setup.html", status=409, name=name, file=here.setup_file, problem=problem)
    here.setup_file.unlink(missing_ok=True)
    return entered(here, signin.begin(here.db, name, address=address(request), now=here.clock()), "/")
