"""Release: a series that waits for a person, or that no rule wanted, is looked at again with the rules that are in force now."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.engine import SETTLE, Queues, settle_attempt
from gateway.errors import ConfigError
from gateway.rows.tables import Instance, Series, SeriesState
from gateway.views.lists import held_series
from gateway.views.stories import known

_AT_ONCE = 1000


def release_series(db: Database, queues: Queues, series_instance_uid: str, *, actor: str, now: datetime) -> str:
    """Raises ConfigError where it is still being received, or retention took its files."""
    with db.begin() as session:
        series: Series = known(session, Series, series_instance_uid, to_change=True)
        if series.state != SeriesState.COMPLETE:
            raise ConfigError([f"series {series_instance_uid} is {series.state}: expected one that is complete"])
        mine = select(Instance.sop_instance_uid).where(Instance.series_instance_uid == series_instance_uid)
        if session.scalar(mine.where(Instance.gone_at.is_not(None)).limit(1)) is not None:
            raise ConfigError([f"series {series_instance_uid}: retention took files of it: send it again"])
        _again(session, series, queues, actor, now)
    return f"series {series_instance_uid} is looked at again"


def release_held(db: Database, queues: Queues, *, why: str = "", actor: str, now: datetime) -> list[str]:
    """All that are held (for that reason), a thousand at most; a sentence for each. What lacks something would be held again."""
    said = []
    for series in [one for one in held_series(db, why=why, limit=_AT_ONCE) if one.held]:
        try:
            said.append(release_series(db, queues, series.series_instance_uid, actor=actor, now=now))
        except ConfigError as error:
            said += error.problems
    return said


def _again(session: Session, series: Series, queues: Queues, actor: str, now: datetime) -> None:
    """The same revision: a job that was made of it is not made a second time."""
    series.state, series.due_at, series.complete_at, series.held = SeriesState.RECEIVING, now, None, ""
    attempt = settle_attempt(series.revision, now)
    queues.enqueue(session, SETTLE, series.series_instance_uid, attempt=attempt, lane=SETTLE)
    audit.record(
        session, Act.SERIES_RELEASED, at=now, actor=actor, study=series.study_instance_uid, series=series.series_instance_uid,
        revision=series.revision,
    )  # fmt: skip
