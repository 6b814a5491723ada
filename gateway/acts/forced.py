"""Forced: what a person decides of a series. It is complete, whatever it lacks; or it is held, whatever it has."""

from datetime import datetime

from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.decisions.completeness import Decision, Verdict
from gateway.engine import SETTLE, Queues, settle_attempt
from gateway.errors import ConfigError
from gateway.rows.tables import Series, SeriesState
from gateway.views.stories import known
from gateway.work.weigh import gather, keep


def complete_series(db: Database, queues: Queues, series_instance_uid: str, *, actor: str, now: datetime) -> str:
    """Settle takes it as it is, at once; what it lacks is told with its jobs and results. Raises ConfigError otherwise."""
    with db.begin() as session:
        series = _open(session, series_instance_uid, (SeriesState.RECEIVING, SeriesState.HELD, SeriesState.FAILED))
        _write(session, series, Verdict(Decision.WAIT, f"{actor} said that it is complete", None), now, forced_by=actor)
        series.state, series.due_at, series.complete_at = SeriesState.RECEIVING, now, None
        queues.enqueue(session, SETTLE, series_instance_uid, attempt=settle_attempt(series.revision, now), lane=SETTLE)
        _tell(session, Act.SERIES_FORCED, series, actor, now)
    return f"series {series_instance_uid} is taken as it is"


def hold_series(db: Database, series_instance_uid: str, *, actor: str, now: datetime) -> str:
    """It starts nothing before a person says that it is complete, or another instance comes. Raises ConfigError otherwise."""
    with db.begin() as session:
        series = _open(session, series_instance_uid, (SeriesState.RECEIVING,))
        _write(session, series, Verdict(Decision.HELD, f"held by {actor}", None), now)
        series.state = SeriesState.HELD
        _tell(session, Act.SERIES_HELD, series, actor, now)
    return f"series {series_instance_uid} is held"


def _open(session: Session, series_instance_uid: str, states: tuple[SeriesState, ...]) -> Series:
    series: Series = known(session, Series, series_instance_uid, to_change=True)
    if series.state not in states:
        raise ConfigError([f"series {series_instance_uid} is {series.state}: expected one that is {' or '.join(states)}"])
    return series


def _write(session: Session, series: Series, found: Verdict, now: datetime, *, forced_by: str = "") -> None:
    evidence = gather(session, series)
    if evidence.instances == 0:
        raise ConfigError([f"series {series.series_instance_uid} has no instances"])
    keep(session, series, evidence, found, now, forced_by=forced_by)
    series.reason = found.reason


def _tell(session: Session, act: Act, series: Series, actor: str, now: datetime) -> None:
    audit.record(
        session, act, at=now, actor=actor, study=series.study_instance_uid, series=series.series_instance_uid,
        revision=series.revision, reason=series.reason, outcome=audit.MINOR if act is Act.SERIES_HELD else 0,
    )  # fmt: skip
