"""Series and studies: what came, why it settled as it did, and what a person does about it."""

from fastapi import APIRouter

from gateway.acts import forced
from gateway.views import lists, stories
from gateway.views.wanted import Wanted
from gateway.web.rest._lists import SeriesSearch, StudySearch, items
from gateway.web.rest._shapes import (
    CursorQuery,
    DeliveryShape,
    Done,
    Items,
    JobShape,
    Limit,
    OutcomeShape,
    OutputShape,
    SeriesShape,
    Shape,
    StudyShape,
    UidPath,
    Word,
    done,
)
from gateway.web.site import Here
from gateway.web.who import Operator, Viewer

router = APIRouter(tags=["series"])


class SeriesLine(Shape):
    series: SeriesShape
    study: StudyShape
    instances: int
    jobs: list[JobShape]


class StudyLine(Shape):
    study: StudyShape
    series: list[SeriesLine]


class JobStory(Shape):
    job: JobShape
    gone: int
    """How many of its instances retention took."""
    outputs: list[OutputShape]
    deliveries: list[DeliveryShape]
    superseded_by: list[int]


class SeriesStory(Shape):
    study: StudyShape
    series: SeriesShape
    instances: int
    size: int
    versions: int
    """Instances that came again with other bytes, kept apart."""
    outcomes: list[OutcomeShape]
    jobs: list[JobStory]


@router.get("/series")
def list_series(
    _person: Viewer, here: Here, state: Word = "", modality: Word = "", after: CursorQuery = "", limit: Limit = 50
) -> Items[SeriesLine]:
    """The series that grew last, first."""
    return items(lists.series(here.db, Wanted(state=state, modality=modality), after=after, limit=limit), SeriesLine)


@router.post("/series/search")
def search_series(_person: Viewer, here: Here, search: SeriesSearch) -> Items[SeriesLine]:
    return items(lists.series(here.db, search.wanted, after=search.after, limit=search.limit), SeriesLine)


@router.get("/series/{series_instance_uid}")
def show_series(_person: Viewer, here: Here, series_instance_uid: UidPath) -> SeriesStory:
    return SeriesStory.model_validate(stories.show_series(here.db, series_instance_uid))


@router.post("/series/{series_instance_uid}/complete")
def complete_series(person: Operator, here: Here, series_instance_uid: UidPath) -> Done:
    """Take it as it is, without waiting for more."""
    return done(
        forced.complete_series(here.db, here.queues, series_instance_uid, actor=person.name, now=here.clock())
    )  # fmt: skip


@router.post("/series/{series_instance_uid}/hold")
def hold_series(person: Operator, here: Here, series_instance_uid: UidPath) -> Done:
    return done(forced.hold_series(here.db, series_instance_uid, actor=person.name, now=here.clock()))


@router.get("/studies")
def list_studies(
    _person: Viewer, here: Here, modality: Word = "", after: CursorQuery = "", limit: Limit = 50
) -> Items[StudyLine]:
    """The studies that came last, first, with all of their series."""
    return items(lists.studies(here.db, Wanted(modality=modality), after=after, limit=limit), StudyLine)


@router.post("/studies/search")
def search_studies(_person: Viewer, here: Here, search: StudySearch) -> Items[StudyLine]:
    return items(lists.studies(here.db, search.wanted, after=search.after, limit=search.limit), StudyLine)
