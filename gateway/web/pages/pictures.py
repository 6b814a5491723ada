"""Pictures: a series looked through plane by plane, with the segments of a job over it and what was measured beside it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import PlainTextResponse, Response

from gateway.errors import ConfigError, Unsuitable
from gateway.imaging.plane import WINDOWS
from gateway.rows.tables import OutputInstance
from gateway.views import stories
from gateway.views.pictures import Plane, inputs_of_job
from gateway.web.number import Key
from gateway.web.render import page
from gateway.web.site import Here
from gateway.web.who import Viewer

NAVIGATION = None
router = APIRouter()

_KEPT = {"Cache-Control": "private, max-age=86400, immutable"}
"""What the bytes under a UID show never changes; only the browser of who is signed in keeps it."""
Place = Annotated[int, Path(ge=0)]
Window = Annotated[str, Query(max_length=20)]


@router.get("/jobs/{job}/picture")
def show_job(
    request: Request, _person: Viewer, here: Here, job: Key, plane: int = -1, window: Window = "", segmentation: str = ""
) -> Response:
    """With the segments of `segmentation`, or of the first that there is."""
    story = stories.show_job(here.db, job)
    outputs = [one for one in story.outputs if one.gone_at is None]
    drawn = [one for one in outputs if one.modality == "SEG"]
    chosen = next((one for one in drawn if one.sop_instance_uid == segmentation), drawn[0] if drawn else None)
    values = _values(here, inputs_of_job(here.db, job), plane, window, f"/jobs/{job}/planes/")
    if chosen is not None and values["planes"]:
        values |= _overlay(here, chosen, values["planes"], plane, f"/jobs/{job}/overlays/{chosen.sop_instance_uid}/")
    return page(
        request, "picture.html", job=story.job, story=story, series=story.job.series_instance_uid, drawn=drawn,
        tables=_tables(here, outputs), **values,
    )  # fmt: skip


@router.get("/series/{series_instance_uid}/picture")
def show_series(
    request: Request, _person: Viewer, here: Here, series_instance_uid: str, plane: int = -1, window: Window = ""
) -> Response:
    stories.show_series(here.db, series_instance_uid)
    inputs = stories.here(here.db, series_instance_uid)
    values = _values(here, inputs, plane, window, f"/series/{series_instance_uid}/planes/{len(inputs)}/")
    return page(request, "picture.html", job=None, story=None, series=series_instance_uid, drawn=[], tables=[], **values)


@router.get("/jobs/{job}/planes/{place}.png")
def plane_of_job(_person: Viewer, here: Here, job: Key, place: Place, window: Window = "") -> Response:
    return _png(here, inputs_of_job(here.db, job), place, partial(here.pictures.image, window=window))


@router.get("/series/{series_instance_uid}/planes/{count}/{place}.png")
def plane_of_series(
    _person: Viewer, here: Here, series_instance_uid: str, count: int, place: Place, window: Window = ""
) -> Response:
    """`count` is how many instances there were when the page was made: with others in it, the places are others."""
    inputs = stories.here(here.db, series_instance_uid)
    if len(inputs) != count:
        return PlainTextResponse("The series has grown since: load the page again.", 409)
    return _png(here, inputs, place, partial(here.pictures.image, window=window))


@router.get("/jobs/{job}/overlays/{sop_instance_uid}/{place}.png")
def overlay_of_job(_person: Viewer, here: Here, job: Key, sop_instance_uid: str, place: Place) -> Response:
    with here.db() as session:
        output = session.get(OutputInstance, sop_instance_uid)
    if output is None or output.job != job:
        raise ConfigError(["there is no such result of this job"])
    return _png(here, inputs_of_job(here.db, job), place, partial(here.pictures.overlay, output.sha256))


def _png(here: Here, inputs: Sequence[tuple[str, str]], place: int, draw: Callable[[Plane], bytes]) -> Response:
    try:
        planes = here.pictures.planes(inputs)
        if place >= len(planes):
            raise ConfigError(["there is no such plane"])
        return Response(draw(planes[place]), media_type="image/png", headers=_KEPT)
    except Unsuitable as error:
        return PlainTextResponse(_sentence(error), 422)


def _values(here: Here, inputs: Sequence[tuple[str, str]], place: int, window: str, source: str) -> dict[str, Any]:
    """`place` below 0: the middle one."""
    try:
        planes, problem = here.pictures.planes(inputs), "" if inputs else "There are no images of it here: retention took them."
    except Unsuitable as error:
        planes, problem = (), _sentence(error)
    at = min(place, len(planes) - 1) if place >= 0 else len(planes) // 2
    return {
        "planes": planes, "at": at, "problem": problem, "window": window if window in WINDOWS else "", "windows": list(WINDOWS),
        "source": source, "overlay": "", "segments": {}, "chosen": None,
    }  # fmt: skip


def _overlay(here: Here, chosen: OutputInstance, planes: Sequence[Plane], place: int, source: str) -> dict[str, Any]:
    try:
        drawn = here.pictures.drawn(chosen.sha256)
    except Unsuitable as error:
        return {"problem": _sentence(error)}
    found: dict[str, Any] = {"overlay": source, "segments": drawn.segments, "chosen": chosen}
    fullest = drawn.fullest(planes)
    if place < 0 and fullest is not None:
        found["at"] = fullest
    return found


def _tables(here: Here, outputs: Sequence[OutputInstance]) -> list[tuple[OutputInstance, Any, str]]:
    """What each report measured, or why that cannot be shown."""
    found: list[tuple[OutputInstance, Any, str]] = []
    for output in outputs:
        if output.modality == "SR" and not output.retracts:
            try:
                found.append((output, here.pictures.measured(output.sha256), ""))
            except Unsuitable as error:
                found.append((output, None, _sentence(error)))
    return found


def _sentence(error: Unsuitable) -> str:
    return f"It cannot be drawn: {error}."
