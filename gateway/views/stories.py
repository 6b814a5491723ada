"""Stories: everything that is known of one series, one job, one delivery."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from gateway.db import Database, lock
from gateway.errors import ConfigError
from gateway.rows.candidates import Candidate
from gateway.rows.searches import Prior, PriorInstance, PriorSearch, PriorState
from gateway.rows.tables import (
    Delivery,
    Instance,
    Job,
    JobCompanion,
    JobInstance,
    OutputInstance,
    RuleOutcome,
    Series,
    Study,
    Version,
)
from gateway.rows.trail import AuditEvent
from gateway.rows.verdicts import SeriesVerdict


@dataclass(frozen=True)
class SeriesStory:
    """Everything that is known of one series: whose it is, why it settled as it did, what became of it."""

    study: Study
    series: Series
    instances: int
    size: int
    versions: int
    outcomes: Sequence[RuleOutcome]
    jobs: Sequence["JobStory"]
    verdict: SeriesVerdict | None = None
    """What was found out of the completeness of its present revision."""
    candidates: Sequence[Candidate] = ()
    """For which pipelines it was weighed against the other series of its study, and what came of that."""


@dataclass(frozen=True)
class Results:
    """Results of one series, or notes that take some back, of which the same became; `deliveries` are theirs, by peer."""

    outputs: Sequence[OutputInstance]
    deliveries: Sequence[Sequence[Delivery]]

    @property
    def others(self) -> int:
        """How many there are besides the first, by which they are named."""
        return len(self.outputs) - 1

    @property
    def size(self) -> int:
        return sum(one.size for one in self.outputs)


@dataclass(frozen=True)
class JobStory:
    """`inputs` are the store's keys of the exact instances that the job works on, `gone` how many of them retention took.

    `superseded_by` are the jobs of later revisions of the series that take its place.
    """

    job: Job
    inputs: Sequence[str]
    gone: int
    outputs: Sequence[OutputInstance]
    deliveries: Sequence[Delivery]
    superseded_by: Sequence[int]
    search: PriorSearch | None = None
    priors: Sequence[Prior] = ()
    """The earlier series that sources have: those that it gets first, the others with why not."""
    companions: Sequence[JobCompanion] = ()
    """The other series of the study that it gets, by role; their instances are inputs too."""

    @property
    def retracted(self) -> frozenset[str]:
        """The results that were taken back."""
        return frozenset(one.retracts for one in self.outputs if one.retracts)

    @property
    def standing(self) -> Sequence[OutputInstance]:
        """The results that were not."""
        retracted = self.retracted
        return [one for one in self.outputs if not one.retracts and one.sop_instance_uid not in retracted]

    @property
    def results(self) -> Sequence[Results]:
        """A derived series has hundreds: those of which the same became are told as one."""
        mine: dict[str, list[Delivery]] = {one.sop_instance_uid: [] for one in self.outputs}
        for delivery in self.deliveries:
            mine[delivery.sop_instance_uid].append(delivery)
        alike, retracted = dict[Any, list[OutputInstance]](), self.retracted
        for one in self.outputs:
            series = "" if one.retracts else one.series_instance_uid
            fate = [(to.peer, to.state, to.reason, to.status, to.proof) for to in mine[one.sop_instance_uid]]
            key = (one.modality, series, one.sop_instance_uid in retracted, one.gone_at is None, *fate)
            alike.setdefault(key, []).append(one)
        return [Results(found, [*zip(*(mine[one.sop_instance_uid] for one in found), strict=True)]) for found in alike.values()]


@dataclass(frozen=True)
class DeliveryStory:
    """One output on its way to one peer; `events` are its attempts, the oldest first."""

    delivery: Delivery
    output: OutputInstance
    events: Sequence[AuditEvent]


def show_series(db: Database, series_instance_uid: str) -> SeriesStory:
    """Raises ConfigError where there is no such series."""
    with db() as session:
        series = known(session, Series, series_instance_uid)
        mine = Instance.series_instance_uid == series_instance_uid
        count, size = session.execute(select(func.count(), func.coalesce(func.sum(Instance.size), 0)).where(mine)).one()
        versions = select(func.count()).select_from(Version).where(Version.series_instance_uid == series_instance_uid)
        outcomes = select(RuleOutcome).where(
            RuleOutcome.series_instance_uid == series_instance_uid, RuleOutcome.revision == series.revision
        )
        jobs = session.scalars(select(Job).where(Job.series_instance_uid == series_instance_uid).order_by(Job.id)).all()
        return SeriesStory(
            study=session.get_one(Study, series.study_instance_uid),
            series=series,
            instances=count,
            size=int(size),
            versions=session.scalar(versions) or 0,
            outcomes=session.scalars(outcomes.order_by(RuleOutcome.rule)).all(),
            jobs=[_story(session, job) for job in jobs],
            verdict=session.get(SeriesVerdict, (series_instance_uid, series.revision)),
            candidates=session.scalars(
                select(Candidate)
                .where(Candidate.series_instance_uid == series_instance_uid)
                .order_by(Candidate.revision, Candidate.pipeline, Candidate.role)
            ).all(),
        )


def show_job(db: Database, job_id: int) -> JobStory:
    with db() as session:
        return _story(session, known(session, Job, job_id))


def show_delivery(db: Database, delivery_id: int) -> DeliveryStory:
    with db() as session:
        delivery = known(session, Delivery, delivery_id)
        output = session.get_one(OutputInstance, delivery.sop_instance_uid)
        told = select(AuditEvent).where(AuditEvent.job == delivery.job, AuditEvent.sop_instance_uid == output.sop_instance_uid)
        events = [event for event in session.scalars(told.order_by(AuditEvent.id)) if event.detail.get("peer") == delivery.peer]
        return DeliveryStory(delivery, output, events)


def here(db: Database, series_instance_uid: str) -> list[tuple[str, str]]:
    """SOP Instance UIDs and digests of what the store has of the series."""
    mine = select(Instance.sop_instance_uid, Instance.sha256).where(
        Instance.series_instance_uid == series_instance_uid, Instance.gone_at.is_(None)
    )
    with db() as session:
        return [(uid, sha256) for uid, sha256 in session.execute(mine.order_by(Instance.sop_instance_uid))]


def known(session: Session, table: Any, key: object, *, to_change: bool = False) -> Any:
    """The row, or ConfigError; with `to_change` nobody else changes it before this transaction ends."""
    try:
        return lock(session, table, key) if to_change else session.get_one(table, key)
    except NoResultFound as error:
        raise ConfigError([f"there is no {table.__name__.lower()} {key}"]) from error


def gone(session: Session, job: Job) -> int:
    """How many of the instances that the job works on retention took."""
    return _gone(session, JobInstance, JobInstance.job == job.id)


def gone_of_priors(session: Session, job: Job) -> int:
    """The same of those that it gets beside them."""
    mine = select(Prior.id).where(Prior.job == job.id, Prior.state == PriorState.HERE)
    return _gone(session, PriorInstance, PriorInstance.prior.in_(mine))


def _gone(session: Session, inputs: type[JobInstance | PriorInstance], mine: ColumnElement[bool]) -> int:
    same = (Instance.sop_instance_uid == inputs.sop_instance_uid) & (Instance.sha256 == inputs.sha256)
    taken = select(func.count()).select_from(inputs).join(Instance, same)
    return session.scalar(taken.where(mine, Instance.gone_at.is_not(None))) or 0


def _story(session: Session, job: Job) -> JobStory:
    inputs = session.scalars(select(JobInstance.sha256).where(JobInstance.job == job.id)).all()
    outputs = session.scalars(select(OutputInstance).where(OutputInstance.job == job.id)).all()
    deliveries = session.scalars(select(Delivery).where(Delivery.job == job.id).order_by(Delivery.id)).all()
    later = select(Job.id).where(Job.series_instance_uid == job.series_instance_uid, Job.id > job.id, Job.supersedes == job.id)
    priors = session.scalars(select(Prior).where(Prior.job == job.id).order_by(Prior.id)).all()
    return JobStory(
        job, inputs, gone(session, job), outputs, deliveries, session.scalars(later.order_by(Job.id)).all(),
        session.get(PriorSearch, job.id), priors, companions_of(session, job),
    )  # fmt: skip


def companions_of(session: Session, job: Job) -> Sequence[JobCompanion]:
    return session.scalars(select(JobCompanion).where(JobCompanion.job == job.id).order_by(JobCompanion.role)).all()
