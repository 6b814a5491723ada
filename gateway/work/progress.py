"""Progress: how far the work on a series is, in a word for whoever asked for it; and what peers were told of it."""

from collections.abc import Sequence

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from gateway.db import Database
from gateway.rows.candidates import Candidate, CandidateState
from gateway.rows.retrieval import Retrieval, RetrievalState
from gateway.rows.tables import Delivery, DeliveryState, Job, JobCompanion, JobState, Series, SeriesState
from gateway.rows.verdicts import Held

WAITING, UNWANTED, HELD, WORKING, FAILED, DELIVERING, DELIVERED = (
    "waiting", "no rule wants it", "held", "working", "failed", "delivering", "delivered",
)  # fmt: skip
LAST = (UNWANTED, FAILED, DELIVERED)
_AT_ONCE = 20


def states(peer: str, *, db: Database) -> Sequence[tuple[Retrieval, str]]:
    """Series of the peer of which it was told another state than they have now."""
    query = select(Retrieval).where(
        Retrieval.peer == peer, Retrieval.state == RetrievalState.DONE, Retrieval.told.not_in(LAST)
    )  # fmt: skip
    with db() as session:
        rows = session.scalars(query.limit(_AT_ONCE)).all()
        found = [(row, state_of(session, row.series_instance_uid)) for row in rows]
    return [(row, state) for row, state in found if state != row.told]


def note(row: Retrieval, state: str, *, db: Database) -> None:
    """The peer was told, unless the series is wanted again meanwhile."""
    with db.begin() as session:
        same = update(Retrieval).where(Retrieval.id == row.id, Retrieval.wanted_at == row.wanted_at)
        session.execute(same.values(told=state))


def state_of(session: Session, series_instance_uid: str) -> str:
    """One of the words above."""
    series = session.get(Series, series_instance_uid)
    if series is None or series.state == SeriesState.RECEIVING:
        return WAITING
    own = (Job.series_instance_uid == series_instance_uid) & (Job.revision == series.revision)
    beside = select(JobCompanion.job).where(JobCompanion.series_instance_uid == series_instance_uid)
    made = session.execute(select(Job.id, Job.state).where(own | Job.id.in_(beside))).all()
    if not made:
        mine = (Candidate.series_instance_uid == series_instance_uid) & (Candidate.state == CandidateState.WAITING)
        if session.scalar(select(exists().where(mine))):
            return WAITING
        return HELD if series.state != SeriesState.COMPLETE or series.held == Held.LACKING else UNWANTED
    found = {state for _, state in made}
    if found & {JobState.QUEUED, JobState.RUNNING}:
        return WORKING
    if JobState.FAILED in found:
        return FAILED
    sent = select(Delivery.state).where(Delivery.job.in_([key for key, _ in made])).distinct()
    return _delivered(set(session.scalars(sent)))


def _delivered(found: set[str]) -> str:
    if found & {DeliveryState.FAILED, DeliveryState.HELD}:
        return FAILED
    return DELIVERING if found & {DeliveryState.QUEUED, DeliveryState.SENDING} else DELIVERED
