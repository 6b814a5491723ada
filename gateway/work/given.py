"""Given: what the rows say that a job works on, and what its results replace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.rows.searches import Prior, PriorInstance, PriorState
from gateway.rows.tables import Job
from gateway.work import companions, delivery
from gateway.work.load import Earlier, Inputs


@dataclass(frozen=True)
class Given:
    """`earlier`: its priors, the newest first; `companions` by role; `replaces` names the results before it."""

    inputs: Inputs
    companions: Mapping[str, Inputs]
    earlier: Sequence[Earlier]
    replaces: Sequence[Dataset]
    revision: int
    """Of the series; 0 where its results replace those of the same one, made with other companions."""


def given(session: Session, job: Job) -> Given:
    inputs = companions.inputs_of(session, job.id)
    priors = select(Prior).where(Prior.job == job.id, Prior.state == PriorState.HERE).order_by(Prior.days_before, Prior.id)
    earlier = [
        Earlier(one.series_instance_uid, one.peer, one.days_before or 0, _instances(session, one.id))
        for one in session.scalars(priors)
    ]
    replaced = delivery.replaced(session, job)
    is_same = bool(replaced) and session.get_one(Job, replaced[0].job).revision == job.revision
    return Given(inputs.pop(""), inputs, earlier, replaces(session, job), 0 if is_same else job.revision)


def replaces(session: Session, job: Job) -> list[Dataset]:
    """The names of the results whose place these take."""
    found = []
    for output in delivery.replaced(session, job):
        name = Dataset()
        name.StudyInstanceUID, name.SeriesInstanceUID = output.study_instance_uid, output.series_instance_uid
        name.SOPClassUID, name.SOPInstanceUID = output.sop_class_uid, output.sop_instance_uid
        found.append(name)
    return found


def _instances(session: Session, prior: int) -> list[tuple[str, str]]:
    mine = select(PriorInstance.sop_instance_uid, PriorInstance.sha256).where(PriorInstance.prior == prior)
    return [(uid, sha256) for uid, sha256 in session.execute(mine)]
