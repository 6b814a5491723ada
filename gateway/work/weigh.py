"""Weigh: the evidence of a series' completeness, gathered from its rows, and the verdict on it written down.

Headers are read, and a source is asked, once for the instances that are there; what they said is kept with the verdict.
"""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select, union
from sqlalchemy.orm import Session

from gateway.db import insert_once
from gateway.decisions.completeness import Counted, Evidence, Performed, Says, Signal, Verdict
from gateway.dicom.modality import FINAL, StepState
from gateway.ingest.retrieve import LENT
from gateway.rows.performed import PerformedSeries, ProcedureStep
from gateway.rows.repetition import Repetition
from gateway.rows.retrieval import Retrieval
from gateway.rows.tables import Association, Instance, Series
from gateway.rows.verdicts import SeriesVerdict

_OWN = frozenset(("performed", "source", "association"))
"""Signals that come from rows."""


class Came(NamedTuple):
    """From whom its instances came, as far as the policy of its completeness asks; those that we asked for only where all are."""

    modality: str
    calling_ae_titles: frozenset[str]


def came(session: Session, series: Series) -> Came:
    mine = select(Instance.association).where(Instance.series_instance_uid == series.series_instance_uid)
    titles = select(Association.calling_ae_title).where(Association.id.in_(mine)).distinct()
    sent = frozenset(session.scalars(titles.where(Association.ingest.not_in(LENT))))
    return Came(series.modality, sent or frozenset(session.scalars(titles)))


def gather(session: Session, series: Series, listening_since: datetime | None = None) -> Evidence:
    """What the rows know; `signals` is None where the headers of these very instances have not been looked at."""
    mine = select(Instance.association).where(Instance.series_instance_uid == series.series_instance_uid).distinct()
    count = select(func.count()).select_from(Association).where(Association.id.in_(mine))
    instances = select(func.count()).select_from(Instance).where(Instance.series_instance_uid == series.series_instance_uid)
    known = Evidence(
        instances=session.scalar(instances) or 0,
        associations=session.scalar(count) or 0,
        open_associations=session.scalar(count.where(Association.ended_at.is_(None))) or 0,
        first_received_at=series.first_received_at,
        last_received_at=series.last_received_at,
        signals=None,
        whole_associations=session.scalar(count.where(Association.whole)) or 0,
        source=_announced(session, series),
        performed=_performed(session, series),
        broken_off=_is_broken_off(session, series),
        listening_since=listening_since,
    )
    found = session.get(SeriesVerdict, (series.series_instance_uid, series.revision))
    return known if found is None else _remembered(known, found)


def keep(
    session: Session, series: Series, evidence: Evidence, found: Verdict, now: datetime, *, forced_by: str | None = None
) -> None:
    """The verdict of this revision, as it is now; with what the headers said, as far as they were looked at."""
    key = {"series_instance_uid": series.series_instance_uid, "revision": series.revision}
    source, told = evidence.source, found.signals or evidence.signals or ()
    values = {
        "decision": str(found.decision), "reason": found.reason, "missing": found.missing,
        "instances": evidence.instances if told else 0, "last_received_at": evidence.last_received_at,
        "signals": [asdict(signal) for signal in told], "source": source.peer if source else "",
        "source_count": source.count if source else None, "source_since": source.since if source else None,
        "forced_by": evidence.forced_by if forced_by is None else forced_by, "at": now,
    }  # fmt: skip
    if not insert_once(session, SeriesVerdict, **key, **values):
        row = session.get_one(SeriesVerdict, tuple(key.values()), populate_existing=True)
        for name, value in values.items():
            setattr(row, name, value)


def _remembered(known: Evidence, found: SeriesVerdict) -> Evidence:
    known = replace(known, forced_by=found.forced_by)
    if (found.instances, found.last_received_at) != (known.instances, known.last_received_at):
        return known
    told = [Signal(one["name"], Says(one["says"]), one["why"]) for one in found.signals]
    source = Counted(found.source, found.source_count, found.source_since) if found.source and found.source_since else None
    return replace(known, signals=tuple(one for one in told if one.name not in _OWN), source=known.source or source)


def _performed(session: Session, series: Series) -> Performed | None:
    of_study = select(ProcedureStep.state).where(ProcedureStep.study_instance_uid == series.study_instance_uid)
    is_open = StepState.IN_PROGRESS in session.scalars(of_study)
    told = select(PerformedSeries.instances).join(ProcedureStep).where(ProcedureStep.state.in_(FINAL))
    made = {uid for uids in session.scalars(told.filter_by(series_instance_uid=series.series_instance_uid)) for uid in uids}
    if not made:
        return Performed(0, 0, is_open) if is_open else None
    mine = select(Instance.sop_instance_uid).where(Instance.series_instance_uid == series.series_instance_uid)
    return Performed(len(made), len(made.intersection(session.scalars(mine))), is_open)


def _is_broken_off(session: Session, series: Series) -> bool:
    """Whoever came back with anything of the study, and ended well, has said that there is no more.

    That is told by when instances came: an association whose process died is found to have ended only some time later.
    """
    mine = select(Association.id, Association.began_at).where(Association.id.in_(brought((series.series_instance_uid,))))
    broken = dict(session.execute(mine.where(Association.broken)).all())
    if not broken:
        return False
    of_study = select(Series.series_instance_uid).where(Series.study_instance_uid == series.study_instance_uid)
    last = select(func.max(Instance.received_at)).where(
        Instance.series_instance_uid.in_(of_study), Instance.association.in_(broken)
    )
    broken_at = max(session.scalar(last) or series.first_received_at, *broken.values())
    well = select(Association.id).where(Association.ended_at.is_not(None), ~Association.broken, Association.began_at >= broken_at)
    return session.scalar(well.where(Association.id.in_(brought(of_study))).limit(1)) is None


def brought(series: Any) -> Any:
    """The associations that brought instances of these series, for the first time or again."""
    first = select(Instance.association).where(Instance.series_instance_uid.in_(series))
    return union(first, select(Repetition.association).where(Repetition.series_instance_uid.in_(series)))


def _announced(session: Session, series: Series) -> Counted | None:
    """What the peer says that the series is taken from."""
    mine = select(Retrieval).where(Retrieval.series_instance_uid == series.series_instance_uid, Retrieval.count.is_not(None))
    row = session.scalars(mine.order_by(Retrieval.count.desc())).first()
    return Counted(row.peer, row.count, row.counted_at) if row and row.counted_at else None
