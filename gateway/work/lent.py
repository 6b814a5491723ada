"""Lent: what is here only because a job wanted it as a prior, so that it starts none itself; and who else has sent it."""

from collections.abc import Callable, Collection

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from gateway.ingest.move import MOVE
from gateway.ingest.retrieve import LENT, PRIOR
from gateway.rows.searches import Prior, PriorState
from gateway.rows.tables import Association, Instance, Series, SeriesState
from gateway.work.weigh import brought


def is_lent(session: Session, series_instance_uid: str, title_of: Callable[[str], str]) -> bool:
    """Whether all who brought of it, for the first time or again, were asked for it by us.

    Who says that he was (C-MOVE) is believed where he is the peer that we asked for this very series; `title_of` has AE titles of
    peers that are asked so. What somebody sends as well is worked on.
    """
    who = select(Association.ingest, Association.calling_ae_title).where(Association.id.in_(brought((series_instance_uid,))))
    came = session.execute(who.distinct()).all()
    wanted = select(Prior.peer).where(Prior.series_instance_uid == series_instance_uid, Prior.state != PriorState.PASSED)
    asked = {title_of(peer) for peer in session.scalars(wanted.distinct())}
    return bool(came) and all(ingest == PRIOR or (ingest == MOVE and title in asked) for ingest, title in came)


def was_moved(session: Session, series_instance_uid: str, ae_title: str) -> bool:
    """Whether anything of it came from there, and said that it was asked for."""
    mine = Association.id.in_(brought((series_instance_uid,))) & (Association.ingest == MOVE)
    return bool(session.scalar(select(exists().where(mine, Association.calling_ae_title == ae_title))))


def settled_as_lent(session: Session, series: Collection[str]) -> set[str]:
    """Those of `series` whose instances nobody had sent of his own accord when they were settled, as far as they were."""
    was_sent = exists().where(
        Instance.series_instance_uid == Series.series_instance_uid, Instance.association == Association.id,
        Association.ingest.not_in(LENT),
    )  # fmt: skip
    mine = Series.series_instance_uid.in_(series) & (Series.state == SeriesState.COMPLETE)
    return set(session.scalars(select(Series.series_instance_uid).where(mine, ~was_sent)))


def sent_over(session: Session, last: Instance) -> Association:
    """Over which the `last` instance of a series came; where we had asked for that one, what somebody sent of the series last."""
    origin = session.get_one(Association, last.association)
    if origin.ingest not in LENT:
        return origin
    mine = select(Association).where(
        Association.id.in_(brought((last.series_instance_uid,))), Association.ingest.not_in(LENT)
    )  # fmt: skip
    return session.scalars(mine.order_by(Association.began_at.desc()).limit(1)).first() or origin
