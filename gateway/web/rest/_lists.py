"""Lists and searches over REST, a page at a time."""

from datetime import UTC
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, Field

from gateway.views.lists import Page
from gateway.views.wanted import Wanted
from gateway.web.rest._shapes import MOST, Asked, Cursor, Items, Shape, Text

L = TypeVar("L", bound=Shape)


Time = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]


class Search(Asked):
    """Patients' names are looked for in a body, because addresses are kept in logs of others."""

    text: Text = ""
    """The beginning of a patient's name or ID or of an accession number, or a whole UID of anything."""
    since: Time | None = None
    until: Time | None = None
    after: Cursor = ""
    limit: Annotated[int, Field(ge=1, le=MOST)] = 50

    @property
    def wanted(self) -> Wanted:
        return Wanted(**self.model_dump(exclude={"after", "limit"}))


class StudySearch(Search):
    modality: Text = ""


class SeriesSearch(StudySearch):
    state: Text = ""
    rule: Text = ""
    peer: Text = ""


class JobSearch(Search):
    state: Text = ""
    pipeline: Text = ""


class DeliverySearch(Search):
    state: Text = ""
    peer: Text = ""


def items(page: Page[Any], line: type[L]) -> Items[L]:
    return Items(items=[line.model_validate(row) for row in page.rows], following=page.following)
