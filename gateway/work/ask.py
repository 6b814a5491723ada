"""Ask: a request for storage commitment that a door has promised to answer becomes a row, and work for commit."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import insert_once
from gateway.dicom.uids import digest
from gateway.doors.entry import Asked
from gateway.engine import COMMIT, Queues, ticket
from gateway.rows.tables import Commitment, CommitmentState

FIRST_LOOK = timedelta(seconds=1)
"""What was acknowledged just before, over another association, may not be indexed yet."""


def ask(session: Session, asked: Asked, now: datetime, *, queues: Queues) -> None:
    """One row for a Transaction UID and its instances; asked again once it was checked, it is checked and reported again, now."""
    key = {
        "transaction_uid": asked.transaction_uid, "ae_title": asked.origin.calling_ae_title,
        "digest": digest(sorted(asked.instances)),
    }  # fmt: skip
    values = {
        "state": CommitmentState.ASKED, "association": asked.origin.association, "asked_at": asked.at, "due_at": now + FIRST_LOOK,
        "failures": [], "attempts": 0,
    }  # fmt: skip
    is_new = insert_once(session, Commitment, instances=[list(one) for one in asked.instances], **key, **values)
    commitment = session.scalars(select(Commitment).filter_by(**key).with_for_update()).one()
    if not is_new and commitment.state == CommitmentState.ASKED:  # it will be looked at
        commitment.association, commitment.asked_at = asked.origin.association, asked.at
    else:
        _begin(commitment, values, ticket(0, asked.at))
        queues.enqueue(session, COMMIT, str(commitment.id), attempt=commitment.ticket, lane=COMMIT, delay=FIRST_LOOK)
    audit.record(
        session, Act.COMMITMENT_ASKED, at=asked.at, actor=asked.origin.calling_ae_title, transaction=asked.transaction_uid,
        instances=len(asked.instances), association=asked.origin.association, repeated=not is_new,
    )  # fmt: skip


def _begin(commitment: Commitment, values: dict[str, object], attempt: str) -> None:
    for name, value in values.items():
        setattr(commitment, name, value)
    commitment.ticket, commitment.reason, commitment.status = attempt, "", None
