"""The viewer (viewer.py) under /viewer/: its files, to who is signed in. It asks our DICOMweb with the cookie of that sign-in."""

import mimetypes
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from gateway.web.found import Navigation
from gateway.web.render import page
from gateway.web.site import Here
from gateway.web.viewer import NOT_INSTALLED, default_folder, is_installed
from gateway.web.who import Viewer

NAVIGATION = Navigation("Viewer", "/viewer/", 45)
router = APIRouter()
# It compiles WebAssembly, starts workers from blobs and writes styles; nothing comes from, or goes to, another host.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; manifest-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "private, max-age=3600"}
mimetypes.add_type("application/wasm", ".wasm")


@router.get("/viewer")
def bare(_person: Viewer) -> Response:
    return RedirectResponse("/viewer/", 308)


@router.get("/viewer/{path:path}")
def show(request: Request, path: str, _person: Viewer, here: Here) -> Response:
    folder = (here.config.web.viewer or default_folder()).resolve()
    if not is_installed(folder):
        return page(request, "viewer.html", status=404, problem=NOT_INSTALLED)
    try:
        file = (folder / path).resolve()
        is_ours = file.is_file() and file.is_relative_to(folder)
    except (OSError, ValueError) as error:  # too long a name, or a NUL: no file of anybody's
        raise HTTPException(404) from error
    if is_ours:
        return FileResponse(file, headers=_HEADERS)
    if Path(path).suffix:
        raise HTTPException(404)
    return FileResponse(folder / "index.html", headers=_HEADERS | {"Cache-Control": "no-store"})  # it finds its own way by path
