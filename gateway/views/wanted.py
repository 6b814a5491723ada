"""What a list is narrowed to: a search by patient, accession number or any UID, states, and what became of a series.

Every way finds by an index and a bounded number of rows, however many there are.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select, union
from sqlalchemy.orm import Session

from gateway.db import Database
from gateway.errors import ConfigError
from gateway.rows.candidates import Candidate
from gateway.rows.columns import fold
from gateway.rows.tables import (
    Delivery,
    DeliveryState,
    Instance,
    Job,
    JobState,
    OutputInstance,
    RuleOutcome,
    Series,
    SeriesState,
    Study,
    Version,
)

MOST_FOUND = 1000
"""So many studies a search finds at most: who finds more has to say more of what is looked for."""
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Wanted:
    """What a list is narrowed to; an empty field narrows nothing.

    `text`: the beginning of a patient's name or ID or of an accession number, in any case, or a whole UID of anything.
    `state` is one of the rows' own, or one of `CONSEQUENCES` for series.
    """

    text: str = ""
    state: str = ""
    modality: str = ""
    rule: str = ""
    peer: str = ""
    pipeline: str = ""
    since: datetime | None = None
    until: datetime | None = None


def unmatched() -> ColumnElement[bool]:
    """A complete series that no rule wanted. Said without "=", or SQLite would look through all that are complete."""
    beside = exists().where(Candidate.series_instance_uid == Series.series_instance_uid, Candidate.role != "")
    return Series.state.not_in(UNFINISHED) & ~exists().where(_of_it(), RuleOutcome.matched) & ~beside


def _of_it() -> ColumnElement[bool]:
    return (RuleOutcome.series_instance_uid == Series.series_instance_uid) & (RuleOutcome.revision == Series.revision)


def _failed() -> ColumnElement[bool]:
    jobs = select(Job.series_instance_uid).where(Job.state == JobState.FAILED)
    stuck = select(Delivery.job).where(Delivery.state.in_((DeliveryState.FAILED, DeliveryState.HELD)))
    return Series.series_instance_uid.in_(jobs.union(select(Job.series_instance_uid).where(Job.id.in_(stuck))))


def undecided() -> ColumnElement[bool]:
    """A complete series that waits for a person: a rule that cannot be followed wanted it, others beside it lack (Held)."""
    return Series.held.in_(("refused", "failed", "gone", "lacking"))


UNFINISHED = tuple(state for state in SeriesState if state is not SeriesState.COMPLETE)
CONSEQUENCES = {"no rule matched": unmatched, "something failed": _failed, "not decided": undecided}
"""What a list of series can be narrowed to beside their states."""


def of_series(session: Session, query: Select[Any], wanted: Wanted) -> Select[Any]:
    """Those of this modality, that this rule wanted, of which something goes to this peer."""
    if wanted.modality:
        query = query.where(Series.modality == wanted.modality)
    if wanted.rule:
        mine = select(RuleOutcome.series_instance_uid).where(RuleOutcome.matched, RuleOutcome.rule == wanted.rule)
        query = _few_or_many(session, query, mine, mine.where(_of_it()))
    if wanted.peer:
        mine = select(Job.series_instance_uid).join(Delivery, Delivery.job == Job.id)
        by_job = Job.series_instance_uid == Series.series_instance_uid, Delivery.peer.concat("") == wanted.peer
        query = _few_or_many(session, query, mine.where(Delivery.peer == wanted.peer), mine.where(*by_job))
    return query


def _few_or_many(session: Session, query: Select[Any], mine: Select[Any], of_it: Select[Any]) -> Select[Any]:
    """Series in `mine`, whose rows are asked for one series by `of_it`.

    Where they are few they are named; where they are many the list finds a page of them soon, in its own order. No database
    knows which it is, and each of them chooses the slow way for one of both; an offset keeps them from choosing.
    """
    few = session.scalars(mine.limit(MOST_FOUND)).all()
    if len(few) < MOST_FOUND:
        query = query.where(Series.series_instance_uid.in_(set(few)))
    return query.where(of_it.correlate(Series).offset(0).exists())


def is_cut(db: Database, text: str) -> bool:
    """Whether more studies begin like that than a search looks at."""
    with db() as session:
        return (session.scalar(select(func.count()).select_from(sought(text).subquery())) or 0) >= MOST_FOUND


def sought(text: str) -> Any:
    """The Study Instance UIDs that `text` finds, each way by an index, and a bounded number of them."""
    arms = [
        _beginning(column, fold(text)) for column in (Study.patient_name_key, Study.patient_id_key, Study.accession_number_key)
    ]
    if "." in text and set(text) <= set("0123456789."):
        of_series = select(Series.study_instance_uid)
        arms += [
            select(Study.study_instance_uid).where(Study.study_instance_uid == text),
            of_series.where(Series.series_instance_uid == text),
            of_series.join(Instance, Instance.series_instance_uid == Series.series_instance_uid).where(
                Instance.sop_instance_uid == text
            ),
            of_series.join(Version, Version.series_instance_uid == Series.series_instance_uid).where(
                Version.sop_instance_uid == text
            ),
            select(OutputInstance.study_instance_uid).where(OutputInstance.sop_instance_uid == text),
        ]
    return union(*(select(arm.limit(MOST_FOUND).subquery()) for arm in arms))


def _beginning(column: Any, prefix: str) -> Select[Any]:
    return select(Study.study_instance_uid).where(column >= prefix, column < prefix + _LAST)


def within(query: Select[Any], column: Any, wanted: Wanted) -> Select[Any]:
    if wanted.since is not None:
        query = query.where(column >= wanted.since)
    return query if wanted.until is None else query.where(column < wanted.until)


def in_state(query: Select[Any], column: Any, state: str, states: Any) -> Select[Any]:
    if not state:
        return query
    if state not in list(states):
        raise ConfigError([f"expected one of the states {', '.join(states)}"])
    return query.where(column == state)
