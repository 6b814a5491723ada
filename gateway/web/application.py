"""The application: pages, REST, assets and errors of one site."""

from collections import Counter
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

import gateway
from gateway.web import failures, found
from gateway.web.dicomweb.store import storage
from gateway.web.guard import Application, Guard
from gateway.web.oidc import Issuer
from gateway.web.render import ASSETS
from gateway.web.rest._shapes import Problem
from gateway.web.site import Site
from gateway.web.who import Anybody

_BODY_BYTES = 1024 * 1024
"""An operation that takes more says so itself (max_body_size)."""
_REST, _DICOMWEB = "/api/v1", "/dicom-web"

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused, in words", "content": _PROBLEM},
    "5XX": {"description": "The gateway or its database failed", "content": _PROBLEM},
}
_TOKEN = Security(HTTPBearer(auto_error=False, description="A token of /me"))


async def _knows(request: Request) -> None:
    """What a query does not know it refuses, as a body does: who asks for some of a list would be told all of it."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    asked = Counter(name for name, _ in request.query_params.multi_items())
    told = {name: "expected once" if name in known else "unknown here" for name in asked if name not in known or asked[name] > 1}
    if told:
        raise RequestValidationError([{"loc": ("query", name), "msg": what} for name, what in told.items()])


assets = APIRouter()


@assets.get("/assets/{digest}/{name}", include_in_schema=False)
def _asset(digest: str, name: str, _nobody: Anybody) -> Response:
    known = ASSETS.get(name)
    if known is None:
        raise HTTPException(404)
    kept = "public, max-age=31536000, immutable" if digest == known.digest else "no-cache"
    return Response(known.content, media_type=known.media_type, headers={"Cache-Control": kept})


def application(site: Site) -> Application:
    return Guard(inner(site), site=site)


class _Described(FastAPI):
    """Its description is made when somebody asks for it: that takes nearly as long as finding all pages."""

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            super().openapi()["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        assert self.openapi_schema is not None
        return self.openapi_schema


def inner(site: Site) -> FastAPI:
    """Without its guard. Raises ConfigError where a file of pages/ or rest/ is no page and no part of REST."""
    app = _Described(
        title="Clinical AI Gateway", version=gateway.__version__, docs_url=None, redoc_url=None,
        openapi_url=f"{_REST}/openapi.json", max_body_size=_BODY_BYTES, telemetry={"tracing": False, "metrics": False},
    )  # fmt: skip
    app.state.site, app.state.pages = site, found.parts("pages")
    app.state.issuer = Issuer(site.config.web.oidc) if site.config.web.oidc else None
    app.state.storage = storage(site)
    app.include_router(assets)
    for page in app.state.pages:
        app.include_router(page.router, include_in_schema=False)
    for part in found.parts("rest"):
        app.include_router(part.router, prefix=_REST, responses=_PROBLEMS, dependencies=(_TOKEN, Depends(_knows)))
    for part in found.parts("dicomweb"):
        app.include_router(part.router, prefix=_DICOMWEB, include_in_schema=False)
    failures.prepare(app)
    return app
