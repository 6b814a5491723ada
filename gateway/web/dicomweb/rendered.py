"""Rendered resources (PS3.18 10.4.1.1.3 and 8.3.5): instances and frames as pictures that a browser shows, and thumbnails.

A picture is scaled as a whole: no part of it is cut out, nothing is annotated. Of an object with many frames the first one
stands for all, of a series the instance in the middle.
"""

import math

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from gateway.errors import Unsuitable
from gateway.imaging.plane import Look
from gateway.web.dicomweb.retrieve import INSTANCE, SERIES, multipart, named, numbers, taken
from gateway.web.site import Here
from gateway.web.who import Viewer

router = APIRouter()
_JPEG = "image/jpeg"
_MEDIA_TYPES = (_JPEG, "image/png")
_QUALITY, _THUMBNAIL = 90, (128, 128)
_SIDE_AT_MOST, _FRAMES_AT_MOST = 4096, 100
_FUNCTIONS = ("linear", "linear-exact")


@router.get(f"{INSTANCE}/rendered")
@router.get(f"{INSTANCE}/frames/{{frames}}/rendered")
def rendered(request: Request, _person: Viewer, here: Here) -> Response:
    return _rendered(request, here, _FRAMES_AT_MOST)


@router.get(f"{SERIES}/thumbnail")
@router.get(f"{INSTANCE}/thumbnail")
@router.get(f"{INSTANCE}/frames/{{frames}}/thumbnail")
def thumbnail(request: Request, _person: Viewer, here: Here) -> Response:
    return _rendered(request, here, 1, viewport=_THUMBNAIL)


def _rendered(request: Request, here: Here, at_most: int, *, viewport: tuple[int, int] | None = None) -> Response:
    found = named(request, here)
    sha256, wanted = found[len(found) // 2].sha256, numbers(request.path_params.get("frames", "1"), at_most)
    chosen = taken(request, _MEDIA_TYPES, "")
    kind = next(name for name in _MEDIA_TYPES if chosen.takes(name))
    look = Look(_window(request), kind, _quality(request), _viewport(request) or viewport)
    try:
        drawn = [here.pictures.rendered(sha256, number - 1, look) for number in wanted]
    except Unsuitable as error:
        raise HTTPException(406 if wanted == [1] else 404, f"it cannot be drawn: {error}") from error
    if len(drawn) == 1 and not chosen.is_multipart:
        return Response(drawn[0], media_type=kind)
    return multipart([(kind, [one]) for one in drawn], kind)


def _window(request: Request) -> tuple[float, float] | None:
    """`window=centre,width,function`."""
    words = request.query_params.get("window", "").split(",")
    if words == [""]:
        return None
    found = [_number(word) for word in words[:2]]
    function = words[2].lower() if len(words) == 3 else _FUNCTIONS[0]
    if len(words) not in (2, 3) or function not in _FUNCTIONS or not all(map(math.isfinite, found)) or found[1] < 1:
        raise HTTPException(400, f"expected window=CENTRE,WIDTH,FUNCTION with a width from 1 on and {' or '.join(_FUNCTIONS)}")
    return found[0], found[1]


def _quality(request: Request) -> int:
    found = _number(request.query_params.get("quality", str(_QUALITY)))
    if not 1 <= found <= 100:
        raise HTTPException(400, "expected quality from 1 to 100")
    return int(found)


def _viewport(request: Request) -> tuple[int, int] | None:
    """`viewport=width,height`; the source region that may follow is not supported."""
    words = request.query_params.get("viewport", "")
    if not words:
        return None
    found = [_number(word) for word in words.split(",")]
    if len(found) != 2 or not all(1 <= one <= _SIDE_AT_MOST for one in found):
        raise HTTPException(400, f"expected viewport=WIDTH,HEIGHT, each from 1 to {_SIDE_AT_MOST} pixels")
    return int(found[0]), int(found[1])


def _number(word: str) -> float:
    """NaN, which is within no bounds, where it is none."""
    try:
        return float(word) if len(word) < 32 else math.nan
    except ValueError:
        return math.nan
