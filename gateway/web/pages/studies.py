"""Studies: what came, by patient; one study with its series."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.errors import ConfigError
from gateway.views import lists
from gateway.views.wanted import Wanted, is_cut
from gateway.web.found import Navigation
from gateway.web.live import News
from gateway.web.narrow import InAddress
from gateway.web.render import live
from gateway.web.site import Here
from gateway.web.viewer import address, default_folder, is_installed
from gateway.web.who import Viewer

NAVIGATION = Navigation("Studies", "/studies", 10)
router = APIRouter()


@router.get("/studies")
@router.get("/studies/rows")
def show(request: Request, _person: Viewer, here: Here, news: News, narrow: InAddress) -> Response:
    wanted = narrow.wanted
    found = lists.studies(here.db, wanted, after=narrow.after)
    cut = bool(wanted.text) and is_cut(here.db, wanted.text)
    return live(request, "studies", news=news, rows=found.rows, following=found.following, narrow=narrow, cut=cut)


@router.get("/studies/{study_instance_uid}")
@router.get("/studies/{study_instance_uid}/now")
def show_one(request: Request, _person: Viewer, here: Here, news: News, study_instance_uid: str) -> Response:
    found = lists.studies(here.db, Wanted(text=study_instance_uid)).rows
    study = next((row for row in found if row.study.study_instance_uid == study_instance_uid), None)
    if study is None:
        raise ConfigError([f"there is no study {study_instance_uid}"])
    has_viewer = is_installed(here.config.web.viewer or default_folder())
    viewer = address(study_instance_uid) if has_viewer else ""
    return live(request, "study", title="Study", news=news, row=study, viewer=viewer)
