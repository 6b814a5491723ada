"""Receive: what doors have promised becomes files in their place and rows, in batches, in the order it came.

An instance is durable when its journal entry is (door.py); here it is filed under its digest and indexed (index.py), with its
audit event and the work that follows in one transaction, which also says how far the journal was read. So everything
may be repeated, and nothing is indexed twice.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, delete, select, union, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, insert_once
from gateway.dicom.commitment import Outcome
from gateway.dicom.instance import identity
from gateway.doors.entry import Alarming, Asked, Declined, Ended, Kept, Performed, Promise, Reported, TurnedAway
from gateway.doors.journal import Entry
from gateway.engine import Queues
from gateway.ingest.move import MOVE, SENT
from gateway.rows.repetition import Repetition
from gateway.rows.tables import Association, Instance, Segment, Series, SeriesState
from gateway.store import Store
from gateway.work.ask import ask
from gateway.work.heed import heed, look_soon
from gateway.work.index import Known, index
from gateway.work.returned import check_filed, take_back

Found = tuple[Entry, Promise]
"""What was promised, and where it lies."""
Told = Callable[[Session, Outcome, str, datetime], None]
"""What to do with a report on storage commitment of that AE title, now, in the transaction that reads it."""

_COME_BACK = (SENT, MOVE, "dicomweb")
"""Over these senders keep what was not acknowledged and come again with it; over the others nobody does."""

_logger = structlog.get_logger()


def receive(
    found: Sequence[Found],
    now: datetime,
    *,
    store: Store,
    db: Database,
    queues: Queues,
    quiet: timedelta,
    executor: str,
    told: Told,
) -> None:
    """File and index what a door promised; raises OutOfResources or DBAPIError, and then may be asked again.

    `quiet` is when settle looks at a series first, `executor` the process that answers for the associations.
    """
    kept = [(lies, one) for lies, one in found if isinstance(one, Kept)]
    digests = store.file(lies for lies, _ in kept)
    crash_point("receive.filed")
    known = [Known(one, sha256, identity(one.identifying)) for (_, one), sha256 in zip(kept, digests, strict=True) if sha256]
    torn = [one for (_, one), sha256 in zip(kept, digests, strict=True) if not sha256]
    try:
        with db.begin() as session:
            _move_on(session, found)
            check_filed(session, known, store=store)
            index(session, known, now, queues=queues, quiet=quiet, executor=executor)
            take_back(session, known, now, queues=queues, quiet=quiet)
            _write_down(session, [one for _, one in found], torn)
            for _, one in found:
                if isinstance(one, Asked):
                    ask(session, one, now, queues=queues)
                elif isinstance(one, Reported):
                    outcome = Outcome(one.transaction_uid, one.committed, one.failed)
                    told(session, outcome, one.origin.calling_ae_title, now)
                elif isinstance(one, Performed):
                    heed(session, one, now=now, queues=queues, quiet=quiet)
            ended = [one for _, one in found if isinstance(one, Ended)]
            _how(session, ended)
            _end(session, Association.id.in_([one.origin.association for one in ended]), now, queues, quiet)
    except (DataError, IntegrityError):  # one that the database cannot hold must not keep the others waiting
        if len(found) == 1:
            _set_aside(found, db=db)
            return
        for single in found:
            receive((single,), now, store=store, db=db, queues=queues, quiet=quiet, executor=executor, told=told)
        return
    crash_point("receive.committed")


def positions(*, db: Database) -> dict[str, int]:
    """How far each segment was read."""
    with db() as session:
        return dict(session.execute(select(Segment.name, Segment.position)).all())


def forget(segments: Sequence[str], *, db: Database) -> None:
    """They are no more."""
    with db.begin() as session:
        session.execute(delete(Segment).where(Segment.name.in_(segments)))


def association_lost(association: str, now: datetime, *, db: Database, queues: Queues, quiet: timedelta) -> None:
    """Nothing says how it ended: the process that held it has died, or could not write it down. Safe to repeat."""
    _lose(Association.id == association, now, db=db, queues=queues, quiet=quiet)


def executor_died(executor: str, now: datetime, *, db: Database, queues: Queues, quiet: timedelta) -> None:
    """A process that died took its associations with it; safe to repeat."""
    _lose(Association.executor == executor, now, db=db, queues=queues, quiet=quiet)


def _move_on(session: Session, found: Sequence[Found]) -> None:
    for segment, reached in {lies.segment.stem: lies.end for lies, _ in found}.items():
        if not insert_once(session, Segment, name=segment, position=reached):
            session.execute(update(Segment).where(Segment.name == segment).values(position=reached))


def _write_down(session: Session, promises: Iterable[Promise], torn: Iterable[Kept]) -> None:
    for one in promises:
        if isinstance(one, Declined):
            audit.record(
                session, Act.INSTANCE_REFUSED, at=one.at, actor=one.origin.calling_ae_title or one.origin.ingest,
                outcome=audit.MINOR, status=f"0x{one.status:04X}", reason=one.reason, association=one.origin.association,
            )  # fmt: skip
        elif isinstance(one, TurnedAway):
            audit.record(
                session, Act.ASSOCIATION_REJECTED, at=one.at, actor=one.origin.calling_ae_title or one.origin.ingest,
                outcome=audit.MINOR, reason=one.reason, called_ae_title=one.origin.called_ae_title, address=one.origin.address,
            )  # fmt: skip
        elif isinstance(one, Alarming):
            audit.record(
                session, Act.INSTANCE_ALARMING, at=one.at, actor=one.origin.calling_ae_title or one.origin.ingest,
                outcome=audit.MINOR, instance=one.sop_instance_uid, reason=one.reason, address=one.origin.address,
            )  # fmt: skip
    for kept in torn:
        _missing(session, kept, "its bytes are not those that came: it was not acknowledged, unless the disk has damaged them")


def _set_aside(found: Sequence[Found], *, db: Database) -> None:
    """The bytes stay in the store, and the trail says so; nothing of what could not be written is repeated here."""
    with db.begin() as session:
        _move_on(session, found)
        for _, one in found:
            _logger.error("instance.not_indexed")
            if isinstance(one, Kept):
                _missing(session, one, "the database does not take its values; its file stays in the store")


def _missing(session: Session, kept: Kept, reason: str) -> None:
    audit.record(
        session, Act.INSTANCE_MISSING, at=kept.at, outcome=audit.SERIOUS, instance=kept.incoming.sop_instance_uid,
        association=kept.origin.association, reason=reason,
    )  # fmt: skip


def _how(session: Session, ended: Sequence[Ended]) -> None:
    """Also of one that was given up with its process before this was read: it ends again, as it did."""
    for one in ended:
        if one.origin.ingest in _COME_BACK:
            mine = update(Association).where(Association.id == one.origin.association)
            session.execute(mine.values(whole=one.whole, broken=one.broken, ended_at=None))


def _lose(these: ColumnElement[bool], now: datetime, *, db: Database, queues: Queues, quiet: timedelta) -> None:
    """What a process took with it when it died."""
    with db.begin() as session:
        lost = (these, Association.ended_at.is_(None), Association.ingest.in_(_COME_BACK))
        session.execute(update(Association).where(*lost).values(broken=True))
        _end(session, these, now, queues, quiet)


def _end(session: Session, these: ColumnElement[bool], now: datetime, queues: Queues, quiet: timedelta) -> None:
    """What came over them need not wait for more."""
    open_ones = update(Association).where(these, Association.ended_at.is_(None)).values(ended_at=now)
    ended = session.scalars(open_ones.returning(Association.id)).all()
    if not ended:
        return
    mine = select(Instance.series_instance_uid).where(Instance.association.in_(ended))
    again = select(Repetition.series_instance_uid).where(Repetition.association.in_(ended))
    brought = set(session.scalars(union(mine, again)))
    studies = select(Series.study_instance_uid).where(Series.series_instance_uid.in_(brought))
    others = select(Series.series_instance_uid).where(
        Series.study_instance_uid.in_(studies), Series.state == SeriesState.RECEIVING
    )  # where the sender had broken off, its return tells of these too
    for uid in sorted(brought.union(session.scalars(others))):
        look_soon(session, uid, now, queues, quiet)
