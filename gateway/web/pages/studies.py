"""Studies: what came, by patient; one study with its series."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.errors import ConfigError
from gateway.views import lists
from gateway.views.wanted import Wanted, is_cut
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.narrow import InAddress, InForm, Narrow
from gateway.web.render import go, page
from gateway.web.site import Here
from gateway.web.viewer import address, default_folder, is_installed
from gateway.web.who import Viewer

NAVIGATION = Navigation("Studies", "/studies", 10)
router = APIRouter()


@router.get("/studies")
def show(request: Request, _person: Viewer, here: Here, news: News, narrow: InAddress) -> Response:
    return _list(request, "studies.html", here, narrow, news)


@router.post("/studies")
def search(request: Request, _person: Viewer, narrow: InForm) -> Response:
    return go(request, f"/studies{narrow.query()}")


@router.get("/studies/rows")
def rows(request: Request, _person: Viewer, here: Here, news: News, narrow: InAddress) -> Response:
    return _list(request, "studies_rows.html", here, narrow, news)


@router.get("/studies/{study_instance_uid}")
def show_one(request: Request, _person: Viewer, here: Here, news: News, study_instance_uid: str) -> Response:
    return _one(request, "study.html", here, study_instance_uid, news)


@router.get("/studies/{study_instance_uid}/now")
def show_one_now(request: Request, _person: Viewer, here: Here, news: News, study_instance_uid: str) -> Response:
    return _one(request, "study_now.html", here, study_instance_uid, news)


def _list(request: Request, template: str, here: Here, narrow: Narrow, news: int) -> Response:
    wanted = narrow.wanted
    found = lists.studies(here.db, wanted, after=narrow.after)
    cut = bool(wanted.text) and is_cut(here.db, wanted.text)
    return page(request, template, news=news, rows=found.rows, following=found.following, narrow=narrow, cut=cut)


def _one(request: Request, template: str, here: Here, uid: str, news: int) -> Response:
    found = lists.studies(here.db, Wanted(text=uid)).rows
    study = next((row for row in found if row.study.study_instance_uid == uid), None)
    if study is None:
        raise ConfigError([f"there is no study {uid}"])
    has_viewer = is_installed(here.config.web.viewer or default_folder())
    return page(request, template, news=news, row=study, viewer=address(uid) if has_viewer else "")
