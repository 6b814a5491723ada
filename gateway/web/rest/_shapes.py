"""What REST says of rows, and what may be asked of it; the OpenAPI document is made of these."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")
MOST = 200


def _shown(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


Uid = Annotated[str, Field(pattern=r"^[0-9.]{1,64}$")]
UidPath = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]
Text = Annotated[str, Field(max_length=300), AfterValidator(_shown)]
Cursor = Annotated[str, Field(max_length=120), AfterValidator(_shown)]
CursorQuery = Annotated[str, Query(max_length=120, description="`following` of the page before"), AfterValidator(_shown)]
Limit = Annotated[int, Query(ge=1, le=MOST)]
Word = Annotated[str, Query(max_length=64), AfterValidator(_shown)]


class Shape(BaseModel):
    """Read off a row."""

    model_config = ConfigDict(from_attributes=True, extra="ignore")


class Asked(BaseModel):
    """Sent to us: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Problem details (RFC 9457); `problems` are sentences, one for each thing that is wrong."""

    type: str
    title: str
    status: int
    detail: str
    problems: list[str] = []


class Done(BaseModel):
    """What an act did, a sentence each."""

    told: list[str]


class Items(BaseModel, Generic[T]):
    """A page of a list; `following` asks for the next one, and is empty where there is none."""

    items: list[T]
    following: str = ""


def done(told: str | Iterable[str]) -> Done:
    return Done(told=[told] if isinstance(told, str) else list(told))


class StudyShape(Shape):
    study_instance_uid: str
    patient_name: str
    patient_id: str
    patient_birth_date: str
    accession_number: str
    first_received_at: datetime


class SeriesShape(Shape):
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    state: str
    revision: int
    reason: str
    first_received_at: datetime
    last_received_at: datetime
    complete_at: datetime | None
    gone_at: datetime | None


class JobShape(Shape):
    id: int
    series_instance_uid: str
    revision: int
    supersedes: int | None
    rules: list[Any]
    pipeline: str
    model: str
    send_to: list[Any]
    priority: str
    state: str
    attempts: int
    code: str
    reason: str
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class OutputShape(Shape):
    sop_instance_uid: str
    job: int
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    modality: str
    sha256: str
    size: int
    created_at: datetime
    retracts: str
    gone_at: datetime | None


class DeliveryShape(Shape):
    id: int
    sop_instance_uid: str
    study_instance_uid: str
    job: int
    peer: str
    state: str
    attempts: int
    status: int | None
    reason: str
    created_at: datetime
    due_at: datetime
    sent_at: datetime | None
    proved_at: datetime | None
    proof: str


class EventShape(Shape):
    id: int
    at: datetime
    act: str
    actor: str
    outcome: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    job: int | None
    detail: dict[str, Any]
    hash: str


class OutcomeShape(Shape):
    rule: str
    matched: bool
    explanation: dict[str, Any]
    rules_digest: str
