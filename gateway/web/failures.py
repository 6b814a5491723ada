"""What goes wrong, in words: a page that says what to do, or problem details of REST (RFC 9457). Never a value, never a stack."""

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException

from gateway import log
from gateway.attempt import named
from gateway.errors import ConfigError
from gateway.web.live import NothingNew, Shown
from gateway.web.render import page
from gateway.web.shared import CSRF
from gateway.web.who import NotAllowed, NotOurs, NotSignedIn, csrf_of, is_rest

_WORDS = {
    400: ("This request is not one that the gateway understands.", "Go back and try it again."),
    401: ("Nobody is signed in.", "Sign in, or send a token: Authorization: Bearer ..."),
    403: ("You may not do this.", "Ask an administrator."),
    404: ("There is nothing here.", "It may be gone, or the address is mistyped. The navigation leads on."),
    405: ("This address does not take that kind of request.", "The navigation leads on."),
    409: ("This cannot be done now.", "The page shows the state as it is; try what fits it."),
    413: ("That is more than the gateway takes at once.", "Send less."),
    422: ("Something in this request is not as expected.", "Correct it and try again."),
    429: ("That was too much at once.", "Wait a moment and try again."),
    500: ("Something went wrong in the gateway itself.", "Nothing was changed. The log says where; try again."),
    503: ("The database does not answer.", "What scanners send is kept meanwhile. This page works again when the database does."),
}  # fmt: skip

_NOT_OURS = "The request did not come from a page of this sign-in: load the page again and repeat it."

_logger = structlog.get_logger()


def failure(request: Request, status: int, *problems: str, headers: dict[str, str] | None = None) -> Response:
    what, advice = _WORDS.get(status, _WORDS[400 if status < 500 else 500])
    if is_rest(request):
        body: dict[str, Any] = {"type": "about:blank", "title": what, "status": status, "detail": " ".join(problems) or advice}
        if problems:
            body["problems"] = problems
        return JSONResponse(body, status, headers, media_type="application/problem+json")
    template = "refused.html" if request.headers.get("hx-request") else "failure.html"
    answer = page(request, template, status=status, code=status, what=what, advice=advice, problems=problems)
    answer.headers.update(headers or {})
    return answer


# Asked for all the time, so without a thread.
async def _nothing_new(_request: Request, _error: NothingNew) -> Response:
    return Response(status_code=204)


async def _shown(request: Request, found: Shown) -> Response:
    return HTMLResponse(found.text.replace(CSRF, csrf_of(request)))


def _not_signed_in(request: Request, _error: NotSignedIn) -> Response:
    """Whoever signs in comes back to the page that asked."""
    if is_rest(request):
        return failure(request, 401, headers={"WWW-Authenticate": "Bearer"})
    is_part = bool(request.headers.get("hx-request"))
    asks = str(request.url)
    if is_part or request.method != "GET":
        asks = request.headers.get("hx-current-url" if is_part else "referer", "")
    try:
        _, _, path, query, _ = urlsplit(asks)
    except ValueError:
        path = query = ""
    then = path + (f"?{query}" if query else "")
    where = f"/sign-in?then={quote(then, safe='')}" if then.strip("/") else "/sign-in"
    return Response(status_code=401, headers={"HX-Redirect": where}) if is_part else RedirectResponse(where, 303)


def _refused(request: Request, error: ConfigError) -> Response:
    is_missing = all(problem.startswith("there is no") for problem in error.problems)
    return failure(request, 404 if is_missing else 409, *error.problems)


def _invalid(request: Request, error: RequestValidationError) -> Response:
    return failure(request, 422, *(_told(one["loc"], one["msg"]) for one in error.errors()))


def _told(place: Sequence[str | int], what: str) -> str:
    if place == ("body",):  # none came, no object, or one that is not said to be JSON
        what = "expected a JSON object, sent with Content-Type: application/json"
    return f"{'.'.join(map(str, place[1:])) or place[0]}: {what}"


def _http(request: Request, error: HTTPException) -> Response:
    words = [] if error.detail == HTTPStatus(error.status_code).phrase else [error.detail]
    return failure(request, error.status_code, *words, headers=dict(error.headers or {}))


def _value(request: Request, _error: DataError | OverflowError) -> Response:
    """One that the database cannot hold: a NUL in a text, a number (as SQLite tells it) or a time that is too large."""
    return failure(request, 422)


def _database(request: Request, error: DBAPIError | NoConnectionFree) -> Response:
    _logger.warning("web.no_database", error=named(error))
    return failure(request, 503, headers={"Retry-After": "5"})


def _unexpected(request: Request, error: Exception) -> Response:
    _logger.error("web.failed", error=type(error).__name__, stack=log.stack_without_values(error))
    return failure(request, 500)


_ANSWERS: tuple[tuple[type[Exception], Callable[[Request, Any], Response | Awaitable[Response]]], ...] = (
    (NothingNew, _nothing_new),
    (Shown, _shown),
    (NotSignedIn, _not_signed_in),
    (NotAllowed, lambda request, error: failure(request, 403, f"This needs the role {error.needed}.")),
    (NotOurs, lambda request, _error: failure(request, 403, _NOT_OURS)),
    (ConfigError, _refused),
    (RequestValidationError, _invalid),
    (HTTPException, _http),
    (DataError, _value),
    (OverflowError, _value),
    (DBAPIError, _database),
    (NoConnectionFree, _database),
    (Exception, _unexpected),
)


def prepare(app: FastAPI) -> None:
    """Every error of ours and of the framework has its answer."""
    for kind, answer in _ANSWERS:
        app.add_exception_handler(kind, answer)
