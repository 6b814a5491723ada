"""Who follows which workitems, and what they are to be told (PS3.4 CC.2.3 and CC.2.4, PS3.18 11.10 to 11.12).

An AE title belongs to who subscribed it first, for as long as it follows anything: nobody else subscribes for it or reads what
it is told. An event is a row until it was told, so that it is told at least once, by whichever process the other side is
connected to. Deletion locks are not granted: a workitem that has ended is kept for its days, followed or not.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydicom import Dataset
from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, changed, insert_once
from gateway.dicom.procedure import PROGRESS, SOP_CLASS_UID, items
from gateway.dicom.query import BadQuery, fits_within, parse, paths
from gateway.errors import Damaged, GatewayError
from gateway.rows.workitems import FINAL, Report, Subscription, Workitem

WORKLIST, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
"""Well-known UIDs: every workitem, and those that a filter fits."""
STATE, UNWANTED, PROGRESSED = 1, 2, 3
"""Event Type IDs (table CC.2.4-1): UPS State Report, UPS Cancel Requested, UPS Progress Report."""
AE_TITLE = re.compile(r"[\x21-\x5B\x5D-\x7E]([\x20-\x5B\x5D-\x7E]{0,14}[\x21-\x5B\x5D-\x7E])?")
_FILTERS = frozenset(
    ("ProcedureStepLabel", "WorklistLabel", "ScheduledProcedureStepPriority", "InputReadinessState", "StudyInstanceUID")
) | {f"Scheduled{one}CodeSequence.CodeValue" for one in ("Workitem", "StationName", "StationClass", "StationGeographicLocation")}
"""Nothing of these is a patient's: a filter is kept in a row."""
_BETWEEN_KEYS = re.compile(",(?=[^,=]+=)")  # a list of UIDs has commas too
_AT_ONCE, _EXISTING, _SUBSCRIPTIONS = 50, 5000, 500
KEPT = timedelta(days=7)
"""What nobody has come for in that time is told to nobody."""


class NotYours(GatewayError):
    """Somebody else follows with this AE title."""


class NotFollowed(GatewayError):
    """There is no such subscription, or nothing that it could be to."""


@dataclass(frozen=True)
class Told:
    """An event as it goes to a subscriber; `document` is the store's key of the workitem's data set at that time."""

    report: int
    uid: str
    kind: int
    state: str
    document: str


def subscribe(
    db: Database,
    ae_title: str,
    target: str,
    pairs: Iterable[tuple[str, str]],
    *,
    read: Callable[[str], Dataset],
    actor: str,
    now: datetime,
) -> None:
    """To a workitem or, with a well-known UID, to all there are and will be; each tells its state at once.

    `read` gives the data set of a document. Safe to repeat. Raises NotYours, NotFollowed and BadQuery.
    """
    if target not in (WORKLIST, FILTERED):
        _follow_these(db, ae_title, target, [target], actor, now)
        return
    wanted = _filter(pairs) if target == FILTERED else []
    with db.begin() as session:  # first: whatever is new from here on is followed
        _check(session, ae_title, actor)
        values = {"wanted": wanted, "suspended": False}
        mine = {"ae_title": ae_title, "sop_instance_uid": target}
        if not insert_once(session, Subscription, person=actor, made_at=now, **mine, **values):
            session.execute(update(Subscription).filter_by(**mine).values(**values))
    _follow_these(db, ae_title, target, _fitting(db, wanted, read), actor, now)


def unsubscribe(db: Database, ae_title: str, target: str, *, actor: str, now: datetime) -> None:
    """From a worklist: from everything. Raises NotYours and NotFollowed."""
    with db.begin() as session:
        _check(session, ae_title, actor)
        gone, untold = (delete(rows).where(rows.ae_title == ae_title) for rows in (Subscription, Report))
        if target not in (WORKLIST, FILTERED):
            gone, untold = gone.where(Subscription.sop_instance_uid == target), untold.where(Report.sop_instance_uid == target)
        if not changed(session, gone):
            raise NotFollowed("expected a subscription of this AE title")
        session.execute(untold)
        _tell(session, ae_title, target, actor, now, follows=False)


def suspend(db: Database, ae_title: str, target: str, *, actor: str, now: datetime) -> None:
    """New workitems are not followed any more; those that are stay. Raises NotYours and NotFollowed."""
    with db.begin() as session:
        _check(session, ae_title, actor)
        mine = (Subscription.ae_title == ae_title) & (Subscription.sop_instance_uid == target)
        suspended = changed(session, update(Subscription).where(mine).values(suspended=True))
        if target not in (WORKLIST, FILTERED) or not suspended:
            raise NotFollowed("expected a subscription of this AE title to the worklist")
        _tell(session, ae_title, target, actor, now, follows=False)


def may_listen(db: Database, ae_title: str, actor: str) -> bool:
    """Whether what that AE title is told is for `actor`. Nobody's is for nobody: it may be another one's in a moment."""
    with db() as session:
        return _owner(session, ae_title) == actor


def follow(session: Session, row: Workitem, workitem: Dataset, now: datetime) -> None:
    """A new workitem, for who follows the worklist."""
    everywhere = select(Subscription).where(Subscription.sop_instance_uid.in_((WORKLIST, FILTERED)), ~Subscription.suspended)
    for one in session.scalars(everywhere).all():
        if not one.wanted or _fits(workitem, one.wanted):
            insert_once(
                session, Subscription, ae_title=one.ae_title, sop_instance_uid=row.sop_instance_uid, person=one.person, wanted=[],
                suspended=False, made_at=now,
            )  # fmt: skip


def followers(session: Session, row: Workitem) -> Sequence[str]:
    """Their AE titles."""
    return session.scalars(select(Subscription.ae_title).where(Subscription.sop_instance_uid == row.sop_instance_uid)).all()


def report(session: Session, row: Workitem, kind: int, now: datetime) -> None:
    """To everybody who follows it."""
    for ae_title in followers(session, row):
        _add(session, ae_title, row, kind, now)


def waiting(db: Database, ae_title: str, actor: str) -> list[Told]:
    """The next ones, in their order, where the AE title is `actor`'s."""
    is_theirs = exists().where(Subscription.ae_title == Report.ae_title, Subscription.person == actor)
    mine = select(Report).where(Report.ae_title == ae_title, is_theirs).order_by(Report.id).limit(_AT_ONCE)
    with db() as session:
        return [Told(one.id, one.sop_instance_uid, one.kind, one.state, one.document) for one in session.scalars(mine)]


def done(db: Database, reports: Sequence[int]) -> None:
    with db.begin() as session:
        session.execute(delete(Report).where(Report.id.in_(reports)))


def event(told: Told, workitem: Dataset) -> Dataset:
    """As a message of the event channel (PS3.18 11.13, table CC.2.4-1)."""
    message = Dataset()
    message.AffectedSOPClassUID, message.AffectedSOPInstanceUID = SOP_CLASS_UID, told.uid
    message.MessageID, message.EventTypeID = told.report % 65536, told.kind
    progress = (items(workitem, PROGRESS) or [Dataset()])[0]
    if told.kind == PROGRESSED:
        message.ProcedureStepProgressInformationSequence = [progress]
        return message
    for keyword in ("ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence"):
        if keyword in progress:
            message[keyword] = progress[keyword]
    if told.kind == STATE:
        message.ProcedureStepState, message.InputReadinessState = told.state, workitem.get("InputReadinessState", "READY")
    for contact in items(progress, "ProcedureStepCommunicationsURISequence") if told.kind == UNWANTED else ():
        message.update(contact)
    return message


def _fitting(db: Database, wanted: Sequence[Any], read: Callable[[str], Dataset]) -> list[str]:
    """Those that have not ended. Read outside a transaction: there may be many."""
    with db() as session:
        rows = select(Workitem.sop_instance_uid, Workitem.document).where(Workitem.state.not_in(FINAL))
        found = session.execute(rows.order_by(Workitem.made_at.desc()).limit(_EXISTING)).all()
    fitting = []
    for uid, document in found:
        with suppress(Damaged):  # another one took its place meanwhile
            if not wanted or _fits(read(document), wanted):
                fitting.append(uid)
    return fitting


def _follow_these(db: Database, ae_title: str, target: str, uids: Iterable[str], actor: str, now: datetime) -> None:
    with db.begin() as session:
        _check(session, ae_title, actor)
        for uid in uids:
            row = _known(session, uid)
            insert_once(
                session, Subscription, ae_title=ae_title, sop_instance_uid=uid, person=actor, wanted=[], suspended=False,
                made_at=now,
            )  # fmt: skip
            _add(session, ae_title, row, STATE, now)
        _tell(session, ae_title, target, actor, now, follows=True)


def _check(session: Session, ae_title: str, actor: str) -> None:
    if not AE_TITLE.fullmatch(ae_title):
        raise BadQuery("expected an AE title (PS3.5 6.2)")
    if _owner(session, ae_title) not in (None, actor):
        raise NotYours("expected an AE title with which nobody else follows workitems")


def _owner(session: Session, ae_title: str) -> str | None:
    return session.scalar(select(Subscription.person).where(Subscription.ae_title == ae_title).limit(1))


def _known(session: Session, uid: str) -> Workitem:
    found = session.get(Workitem, uid)
    if found is None or found.gone_at is not None:
        raise NotFollowed("there is no such workitem")
    return found


def _add(session: Session, ae_title: str, row: Workitem, kind: int, now: datetime) -> None:
    session.add(
        Report(
            ae_title=ae_title, sop_instance_uid=row.sop_instance_uid, kind=kind, state=row.state, document=row.document, at=now
        )
    )  # fmt: skip


def _filter(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Matching keys, each as a parameter or all of them in one `filter` with commas between (PS3.18 11.10.1.2)."""
    every = [one for key, value in pairs for one in (_keys(value) if key == "filter" else [(key, value)])]
    plain, within = paths((key, value) for key, value in every if key != "deletionlock")
    wanted = [[key, value] for key, value in {**parse(plain).wanted, **within}.items()]
    if not all(key in _FILTERS and len(value) <= 64 for key, value in wanted):
        raise BadQuery(f"expected of a filter no other keys than {', '.join(sorted(_FILTERS))}")
    return wanted


def _keys(text: str) -> Iterator[tuple[str, str]]:
    for one in _BETWEEN_KEYS.split(text):
        keyword, _, value = one.partition("=")
        yield keyword, value


def _fits(workitem: Dataset, wanted: Sequence[Any]) -> bool:
    return all(fits_within(workitem, key, value) for key, value in wanted)


def _tell(session: Session, ae_title: str, target: str, actor: str, now: datetime, *, follows: bool) -> None:
    audit.record(session, Act.WORKITEM_FOLLOWED, at=now, actor=actor, instance=target, ae_title=ae_title, follows=follows)
