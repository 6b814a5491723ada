"""The reckoning after a storm: what was lost, what was made twice, what is not proved, how long each stage took.

What was acknowledged is what the scanners heard; what the results are is what the PACS holds. Neither is taken from the gateway.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gateway.db import Database
from gateway.rows.tables import Delivery, DeliveryState, Instance, Job, JobState, OutputInstance, Series, SeriesState, Version
from gateway.store import Store
from tests.benchmarks.mixture import Sample
from tests.peers_fixture import Orthanc, data_set

_ENDED_JOBS = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
_ENDED_DELIVERIES = (DeliveryState.PROVED, DeliveryState.HELD, DeliveryState.FAILED, DeliveryState.CANCELLED)
RESULTS = {"SEG": 1, "SR": 1}


@dataclass(frozen=True)
class Count:
    """How far it is: series complete, jobs ended, deliveries ended, those proved; `open` is what has not come to its end."""

    complete: int = 0
    jobs: int = 0
    deliveries: int = 0
    proved: int = 0
    open: int = 0


def count(db: Database) -> Count:
    with db() as session:
        series, jobs = _states(session, Series.state), _states(session, Job.state)
        deliveries = _states(session, Delivery.state)
    complete = series[SeriesState.COMPLETE]
    ended_jobs = sum(jobs[state] for state in _ENDED_JOBS)
    ended_deliveries = sum(deliveries[state] for state in _ENDED_DELIVERIES)
    left = series.total() + jobs.total() + deliveries.total() - complete - ended_jobs - ended_deliveries
    return Count(complete, ended_jobs, ended_deliveries, deliveries[DeliveryState.PROVED], left)


@dataclass
class Findings:
    """Sentences; empty lists are the promise kept."""

    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.double or self.unproved or self.other)


def reckon(db: Database, store: Store, pacs: Orthanc, samples: Sequence[Sample], acknowledged: Iterable[Path]) -> Findings:
    findings = Findings()
    _kept(db, store, samples, set(acknowledged), findings)
    _jobs(db, samples, findings)
    _results(db, store, pacs, samples, findings)
    _proofs(db, findings)
    return findings


def canaries(logs: Iterable[Path]) -> list[str]:
    """What must stand in no log."""
    return [f"{path.parent.name}: a line of its log names a patient" for path in logs if b"CANARY" in path.read_bytes()]


def _states(session: Session, column: object) -> Counter[str]:
    return Counter({str(state): number for state, number in session.execute(select(column, func.count()).group_by(column))})


def _kept(db: Database, store: Store, samples: Sequence[Sample], acknowledged: set[Path], findings: Findings) -> None:
    with db() as session:
        rows = {uid: (sha256, series) for uid, sha256, series in session.execute(select(Instance.sop_instance_uid, Instance.sha256, Instance.series_instance_uid))}  # fmt: skip
    for sample in samples:
        for path, uid in sample.instances.items():
            if path not in acknowledged:
                continue
            if uid not in rows:
                findings.lost.append(f"{sample.kind}: an acknowledged instance has no row: {uid}")
                continue
            held = store.path(rows[uid][0])
            content = held.read_bytes() if held.exists() else b""
            if hashlib.sha256(content).hexdigest() != rows[uid][0] or data_set(content) != data_set(path):
                findings.lost.append(f"{sample.kind}: an acknowledged instance has other bytes, or none: {uid}")


def _jobs(db: Database, samples: Sequence[Sample], findings: Findings) -> None:
    """One for each wanted series, done; none for another."""
    wanted = {sample.wanted for sample in samples if sample.wanted}
    with db() as session:
        jobs = session.execute(select(Job.series_instance_uid, Job.state, Job.code, Job.reason, Job.revision)).all()
    per_series = Counter(job.series_instance_uid for job in jobs)
    findings.lost += [f"a wanted series has no job: {uid}" for uid in wanted if per_series[uid] == 0]
    findings.double += [f"a series has {n} jobs: {uid}" for uid, n in per_series.items() if n > 1 and uid in wanted]
    findings.double += [f"a series that no rule wants has a job: {uid}" for uid in per_series.keys() - wanted]
    findings.lost += [f"a job is {job.state}: {job.code} {job.reason}" for job in jobs if job.state != JobState.DONE]


def _results(db: Database, store: Store, pacs: Orthanc, samples: Sequence[Sample], findings: Findings) -> None:
    with db() as session:
        made = {output.sop_instance_uid: output.sha256 for output in session.scalars(select(OutputInstance))}
    held = _held(pacs)
    uids = Counter(uid for _, _, uid in held)
    findings.double += [f"the PACS holds {n} instances under one UID: {uid}" for uid, n in uids.items() if n > 1]
    findings.lost += [f"the PACS does not hold a result: {uid}" for uid in made.keys() - uids.keys()]
    findings.double += [f"the PACS holds what no row tells of: {uid}" for uid in uids.keys() - made.keys()]
    results: dict[str, Counter[str]] = {}
    for study, modality, _ in held:
        results.setdefault(study, Counter())[modality] += 1
    for sample in samples:
        expected = Counter(RESULTS if sample.wanted else {})
        found = results.pop(sample.study_instance_uid, Counter())
        findings.lost += [f"{sample.kind}: the PACS has no {one} of it" for one in (expected - found).elements()]
        findings.double += [f"{sample.kind}: the PACS has a {one} too many of it" for one in (found - expected).elements()]
    findings.other += [f"the PACS holds a study that was never sent: {study}" for study in results]
    for uid in made.keys() & uids.keys():
        if data_set(pacs.file(uid)) != data_set(store.path(made[uid])):
            findings.lost.append(f"the PACS holds other bytes of a result than were made: {uid}")


def _held(pacs: Orthanc) -> list[tuple[str, str, str]]:
    """Study Instance UID, modality and SOP Instance UID of everything that the PACS holds."""
    studies, series = _all(pacs, "studies"), _all(pacs, "series")
    found = []
    for instance in _all(pacs, "instances").values():
        of = series[instance["ParentSeries"]]
        study = studies[of["ParentStudy"]]
        tags = (study["MainDicomTags"]["StudyInstanceUID"], of["MainDicomTags"]["Modality"])
        found.append((*tags, instance["MainDicomTags"]["SOPInstanceUID"]))
    return found


def _all(pacs: Orthanc, level: str) -> dict[str, Any]:
    return {one["ID"]: one for one in json.loads(pacs.get(f"/{level}?expand"))}


def _proofs(db: Database, findings: Findings) -> None:
    with db() as session:
        rows = session.execute(select(Delivery.id, Delivery.state, Delivery.reason).where(Delivery.state != DeliveryState.PROVED))
        findings.unproved += [f"delivery {row.id} is {row.state}: {row.reason}" for row in rows]
        apart = session.scalar(select(func.count()).select_from(Version))
        findings.other += [f"{apart} instances are kept apart, though no other bytes were sent"] if apart else []


def received(db: Database) -> int:
    with db() as session:
        return session.scalar(select(func.count()).select_from(Instance)) or 0
