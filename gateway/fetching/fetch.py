"""Fetch: which series of a peer are wanted, and what became of it; every act one transaction, safe to repeat.

A row is there before the first instance of its series comes, with the number that the peer has: so settle waits for all of them
(completeness.py), whoever is killed meanwhile.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, insert_once, lock
from gateway.engine import SETTLE, Queues, backoff, settle_attempt
from gateway.errors import ConfigError
from gateway.rows.retrieval import Retrieval, RetrievalState, WatchMark
from gateway.rows.tables import Instance, Series, SeriesState, Version
from gateway.work.delivery import made_here

_AT_ONCE = 20
_GONE = "the peer does not have it"
_AGAIN, _AGAIN_AT_MOST = timedelta(seconds=2), timedelta(minutes=5)


@dataclass(frozen=True)
class Offered:
    """A series that a peer told of; `due_at` is when it is taken unless something new is told of it."""

    study_instance_uid: str
    series_instance_uid: str
    due_at: datetime


def position(peer: str, *, db: Database) -> int | None:
    """The number of the last change that was looked at; None where the peer was never watched before."""
    with db() as session:
        return session.scalar(select(WatchMark.position).where(WatchMark.peer == peer))


def move_on(peer: str, reached: int, offered: Sequence[Offered], now: datetime, *, db: Database) -> None:
    """The peer's log was read up to there. What we made ourselves is not wanted, whoever has it."""
    with db.begin() as session:
        ours = made_here(session, {one.series_instance_uid for one in offered})
        for one in offered:
            if one.series_instance_uid not in ours:
                want(session, peer, one, now, anew=True)
        if not insert_once(session, WatchMark, peer=peer, position=reached, at=now):
            session.execute(update(WatchMark).where(WatchMark.peer == peer).values(position=reached, at=now))
    crash_point("fetch.wanted")


def due(peer: str, now: datetime, *, db: Database) -> Sequence[Retrieval]:
    query = select(Retrieval).where(
        Retrieval.peer == peer, Retrieval.state == RetrievalState.WANTED, Retrieval.due_at <= now
    )  # fmt: skip
    with db() as session:
        return session.scalars(query.order_by(Retrieval.due_at).limit(_AT_ONCE)).all()


def missing(series_instance_uid: str, uids: Collection[str], *, db: Database, again: bool = False) -> tuple[list[str], bool]:
    """Those of `uids` that have to come, in their order; and whether nothing of the series is here.

    What is kept apart came; what retention took was worked on: it comes once more together with something new, or where
    somebody wants it `again`.
    """
    query = select(Instance.sop_instance_uid, Instance.gone_at).where(Instance.series_instance_uid == series_instance_uid)
    with db() as session:
        here: dict[str, datetime | None] = dict(session.execute(query).all())
        apart = select(Version.sop_instance_uid).where(Version.sop_instance_uid.in_(set(uids) - here.keys()))
        here |= dict.fromkeys(session.scalars(apart))
    wanted = again or any(uid not in here for uid in uids)
    is_new = all(gone is not None for gone in here.values())
    return [uid for uid in uids if uid not in here or (wanted and here[uid] is not None)], is_new


def announce(row: Retrieval, count: int, now: datetime, *, db: Database) -> None:
    """How many there are, before the first of them comes."""
    with db.begin() as session:
        session.execute(update(Retrieval).where(Retrieval.id == row.id).values(count=count, counted_at=now))


def done(row: Retrieval, count: int, refused: int, now: datetime, *, db: Database, queues: Queues) -> None:
    """All `count` that we take are here, `refused` we do not take; unless the peer has told of more meanwhile.

    Where it has none of it any more, the number that it told stays: what came before that was not all.
    """
    is_gone = count + refused == 0
    with db.begin() as session:
        here = lock(session, Retrieval, row.id)
        here.attempts, here.reason = 0, _GONE if is_gone else ""
        if not is_gone:
            here.count, here.counted_at = count, now
        if here.wanted_at == row.wanted_at:
            here.state = RetrievalState.ORDERED if here.orders else RetrievalState.DONE
        audit.record(
            session, Act.RETRIEVAL_DONE, at=now, outcome=audit.MINOR if refused or is_gone else 0,
            study=row.study_instance_uid, series=row.series_instance_uid, peer=row.peer, instances=count, refused=refused,
            reason=here.reason,
        )  # fmt: skip
        _look_again(session, row.series_instance_uid, now, queues)
    crash_point("fetch.done")


def failed(row: Retrieval, reason: str, now: datetime, *, after: timedelta | None = None, db: Database) -> None:
    """It is tried again, for ever; the trail is told the first time."""
    with db.begin() as session:
        here = lock(session, Retrieval, row.id)
        here.attempts, here.reason = here.attempts + 1, reason
        here.due_at = now + (after or backoff(here.attempts, first=_AGAIN, at_most=_AGAIN_AT_MOST))
        if here.attempts == 1:
            audit.record(
                session, Act.RETRIEVAL_FAILED, at=now, outcome=audit.MINOR, study=row.study_instance_uid,
                series=row.series_instance_uid, peer=row.peer, reason=reason,
            )  # fmt: skip


def ask(peer: str, study: str, series: str, pipeline: str, *, actor: str, now: datetime, db: Database) -> None:
    """The pipeline is wanted on a series of the peer, which is taken now if it is not here. Raises ConfigError."""
    with db.begin() as session:
        if made_here(session, {series}):
            raise ConfigError(["expected a series that this gateway did not make"])
        want(session, peer, Offered(study, series, now), now, anew=True)
        key = session.scalars(select(Retrieval.id).filter_by(peer=peer, series_instance_uid=series)).one()
        row = lock(session, Retrieval, key)
        row.orders = [one for one in row.orders if one["pipeline"] != pipeline] + [{"pipeline": pipeline, "by": actor}]


def want(session: Session, peer: str, one: Offered, now: datetime, *, anew: bool = False) -> None:
    """It is taken from the peer, once; or `anew`, where something was told of it."""
    values = {"due_at": one.due_at, "wanted_at": now, "state": RetrievalState.WANTED, "attempts": 0, "reason": "", "told": ""}
    key = {"peer": peer, "series_instance_uid": one.series_instance_uid}
    if not insert_once(session, Retrieval, study_instance_uid=one.study_instance_uid, **key, **values) and anew:
        session.execute(update(Retrieval).filter_by(**key).values(**values))


def ordered(peer: str, *, db: Database) -> Sequence[Retrieval]:
    """Series that are here and settled, on which somebody wants a pipeline."""
    settled = exists().where(
        Series.series_instance_uid == Retrieval.series_instance_uid, Series.state != SeriesState.RECEIVING
    )  # fmt: skip
    query = select(Retrieval).where(Retrieval.peer == peer, Retrieval.state == RetrievalState.ORDERED, settled)
    with db() as session:
        return session.scalars(query.limit(_AT_ONCE)).all()


def fulfilled(row: Retrieval, reason: str, *, db: Database) -> None:
    """Its orders were passed on, or cannot be for that reason; unless the peer has more of it, or more is wanted, meanwhile."""
    with db.begin() as session:
        here = lock(session, Retrieval, row.id)
        if here.wanted_at == row.wanted_at:
            here.orders, here.told, here.state, here.reason = [], "", RetrievalState.DONE, reason


def _look_again(session: Session, series_instance_uid: str, now: datetime, queues: Queues) -> None:
    """Settle need not wait any longer for what is here."""
    if session.get(Series, series_instance_uid) is None:
        return
    series = lock(session, Series, series_instance_uid)
    if series.state == SeriesState.RECEIVING and now < series.due_at:
        series.due_at = now
        attempt = settle_attempt(series.revision, now)
        queues.enqueue(session, SETTLE, series_instance_uid, attempt=attempt, lane=SETTLE)
