"""About: what other rows say of the thing that an audit event tells of, for a message to somebody who has none of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.auditing.elements import About, Node
from gateway.rows.tables import Association, Instance, OutputInstance, Series, Study
from gateway.rows.trail import AuditEvent


def about(
    session: Session, events: Sequence[AuditEvent], *, ae_title: str, peers: Mapping[str, Node], patients: bool
) -> Iterator[About]:
    """One for each event, in their order; a query a table, however many events."""
    held = _Rows(session, events)
    patient_ids = held.patient_ids() if patients else {}
    for event in events:
        study, caller = held.study(event), held.association(event)
        address = caller.address if caller else _word(event, "address")
        called = (caller.called_ae_title if caller else _word(event, "called_ae_title")) or ae_title
        came = bool(_word(event, "called_ae_title"))  # it was not let in, and so has no row: its actor is who called
        calling = caller.calling_ae_title if caller else event.actor if came else ""
        yield About(
            study_instance_uid=study, patient_id=patient_ids.get(study, ""), instances=held.instances(event),
            caller=Node(calling, address), peer=peers.get(_word(event, "peer"), Node(_word(event, "ae_title"))),
            ours=Node(called),
        )  # fmt: skip


class _Rows:
    def __init__(self, session: Session, events: Sequence[AuditEvent]) -> None:
        self._session, self._events = session, events
        uids = {uid for event in events for uid in _uids(event)}
        associations = {_word(event, "association") for event in events}
        self._associations = {row.id: row for row in session.scalars(select(Association).where(Association.id.in_(associations)))}
        of_ours = select(OutputInstance.sop_instance_uid, OutputInstance.sop_class_uid, OutputInstance.study_instance_uid)
        received = select(Instance.sop_instance_uid, Instance.sop_class_uid, Series.study_instance_uid).join(Series)
        self._instances = {
            **_by_uid(session.execute(of_ours.where(OutputInstance.sop_instance_uid.in_(uids)))),
            **_by_uid(session.execute(received.where(Instance.sop_instance_uid.in_(uids)))),
        }
        of_series = select(Series.series_instance_uid, Series.study_instance_uid)
        series = {event.series_instance_uid for event in events}
        found = session.execute(of_series.where(Series.series_instance_uid.in_(series)))
        self._studies = {uid: study for uid, study in found}  # noqa: C416 - rows are no tuples to mypy

    def patient_ids(self) -> dict[str, str]:
        studies = {self.study(event) for event in self._events}
        found = select(Study.study_instance_uid, Study.patient_id).where(Study.study_instance_uid.in_(studies))
        return {study: patient_id for study, patient_id in self._session.execute(found)}  # noqa: C416

    def study(self, event: AuditEvent) -> str:
        """That of the event, or of its series, or of its instance."""
        known = self._instances.get(event.sop_instance_uid)
        return event.study_instance_uid or self._studies.get(event.series_instance_uid, "") or (known[1] if known else "")

    def association(self, event: AuditEvent) -> Association | None:
        return self._associations.get(_word(event, "association"))

    def instances(self, event: AuditEvent) -> Mapping[str, tuple[str, ...]]:
        of_class: dict[str, tuple[str, ...]] = {}
        for uid in _uids(event):
            if uid in self._instances:
                sop_class = self._instances[uid][0]
                of_class[sop_class] = (*of_class.get(sop_class, ()), uid)
        return of_class


def _by_uid(found: Iterable[Any]) -> dict[str, tuple[str, str]]:
    return {uid: (sop_class, study) for uid, sop_class, study in found}


def _uids(event: AuditEvent) -> list[str]:
    outputs = event.detail.get("outputs")
    named = [event.sop_instance_uid, *(outputs if isinstance(outputs, list) else [])]
    return [uid for uid in named if isinstance(uid, str) and uid]


def _word(event: AuditEvent, key: str) -> str:
    value = event.detail.get(key)
    return value if isinstance(value, str) else ""
