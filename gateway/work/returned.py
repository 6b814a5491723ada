"""Instances that come again (retention took their files, or a job had them fetched), and the lock on files that come and go.

A file is laid into the store before its row is written, and taken from it after its row says so. Who indexes holds the
files together with others who index, who removes holds them alone: so a row that was written has its file.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import exists, false, func, select, update
from sqlalchemy.orm import Session

from gateway.engine import SETTLE, Queues, settle_attempt
from gateway.errors import OutOfResources
from gateway.ingest.retrieve import LENT
from gateway.rows.tables import Instance, RuleOutcome, Series, SeriesState
from gateway.store import Store
from gateway.work.index import Known
from gateway.work.lent import settled_as_lent

_LOCK = 7402


def hold_files(session: Session, *, alone: bool) -> None:
    """Until the transaction ends; its first act. SQLite has one writer, which this transaction becomes."""
    if session.get_bind().dialect.name == "sqlite":
        nothing = update(Series).where(false()).values(revision=Series.revision)
        session.execute(nothing.execution_options(synchronize_session=False))
        return
    take = func.pg_advisory_xact_lock if alone else func.pg_advisory_xact_lock_shared
    session.execute(select(take(_LOCK)))


def check_filed(session: Session, known: Sequence[Known], *, store: Store) -> None:
    """Raises OutOfResources where a file was removed since it was filed: then it is to be filed again."""
    hold_files(session, alone=False)
    if not all(store.path(one.sha256).exists() for one in known):
        raise OutOfResources("retention removed a file that came again: it is filed once more")


def take_back(session: Session, known: Sequence[Known], now: datetime, *, queues: Queues, quiet: timedelta) -> None:
    """After index, which holds the series: what was gone is held again, and the row of its series says so.

    A series that waited for its files to be looked at is looked at when it has them all, and one that was a prior only when
    somebody sends it; another one stays as it was.
    """
    if not known:
        return
    quietly = {"synchronize_session": False}
    here = Series.series_instance_uid.in_({one.series for one in known}) & Series.gone_at.is_not(None)
    session.execute(update(Series).where(here).values(gone_at=None).execution_options(**quietly))
    brought = {(one.uid, one.sha256) for one in known}
    gone = select(Instance.sop_instance_uid, Instance.sha256, Instance.series_instance_uid).where(
        Instance.sop_instance_uid.in_({one.uid for one in known}), Instance.gone_at.is_not(None)
    )
    back = {uid: series for uid, sha256, series in session.execute(gone).all() if (uid, sha256) in brought}
    if back:
        mine = update(Instance).where(Instance.sop_instance_uid.in_(back))
        session.execute(mine.values(gone_at=None).execution_options(**quietly))
    sent = settled_as_lent(session, {one.series for one in known if one.entry.origin.ingest not in LENT})
    for uid in sorted(sent.union(back.values())):
        _look_again(session, session.get_one(Series, uid), now, queues, quiet)


def _look_again(session: Session, series: Series, now: datetime, queues: Queues, quiet: timedelta) -> None:
    uid = series.series_instance_uid
    is_short = exists().where(Instance.series_instance_uid == uid, Instance.gone_at.is_not(None))
    is_evaluated = exists().where(RuleOutcome.series_instance_uid == uid, RuleOutcome.revision == series.revision)
    if series.state != SeriesState.COMPLETE or session.scalar(select(is_short | is_evaluated)):
        return
    series.state, series.due_at, series.reason = SeriesState.RECEIVING, now + quiet, ""
    queues.enqueue(session, SETTLE, uid, attempt=settle_attempt(series.revision, series.due_at), lane=SETTLE, delay=quiet)
