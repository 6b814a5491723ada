"""The rows. Between two verbs of the conveyor lies a committed row of one of these tables and nothing else.

State diagrams (a row only ever moves along these arrows):

    series     receiving -> complete | held | failed -> receiving (a late instance, revision + 1; or a person says it is complete)
    job        queued -> running -> done | failed; running -> queued (try again); queued | failed -> cancelled;
               failed -> queued (a person)
    delivery   queued -> sending -> sent -> proved; sending -> queued (try again) | failed; sent -> queued (the peer has it not);
               queued -> held (whose it is has changed); queued -> unwanted (its peer is not sent such objects); any but proved ->
               cancelled; held | failed | unwanted -> queued (a person)
    commitment asked -> checked -> reported | failed; asked | checked -> waiting; any -> asked (asked again; its peer came)

Patient name, ID, birth date and accession number are columns of `study` and of no other table.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, BigKey, Digest, Folded, Table, Uid, folded


class SeriesState(StrEnum):
    RECEIVING = "receiving"
    COMPLETE = "complete"
    HELD = "held"
    """Something is missing, and a rule wants it: it waits for that, or for a person."""
    FAILED = "failed"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    """The peer says that it took it; nothing has proved it yet."""
    PROVED = "proved"
    HELD = "held"
    """Not sent before a person says so."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNWANTED = "unwanted"
    """Its peer is sent other kinds of objects only (outputs/kinds.py)."""


class CommitmentState(StrEnum):
    ASKED = "asked"
    CHECKED = "checked"
    WAITING = "waiting"  # checked, and no configured peer has the AE title of who asked
    REPORTED = "reported"
    FAILED = "failed"


class Study(Table):
    """The keys are what people search by: the same as the columns that they are of, in any case and spelling."""

    __tablename__ = f"{PREFIX}study"
    study_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    patient_name: Mapped[str]
    patient_id: Mapped[str] = mapped_column(index=True)
    patient_birth_date: Mapped[str]
    accession_number: Mapped[str] = mapped_column(index=True)
    first_received_at: Mapped[datetime]
    patient_name_key: Mapped[str] = mapped_column(Folded, default=folded("patient_name"), index=True)
    patient_id_key: Mapped[str] = mapped_column(Folded, default=folded("patient_id"), index=True)
    accession_number_key: Mapped[str] = mapped_column(Folded, default=folded("accession_number"), index=True)


class Series(Table):
    __tablename__ = f"{PREFIX}series"
    series_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(Study.study_instance_uid))
    modality: Mapped[str]
    state: Mapped[str] = mapped_column(default=SeriesState.RECEIVING, index=True)
    revision: Mapped[int] = mapped_column(default=1)
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    due_at: Mapped[datetime]
    """When settle looks next, while receiving."""
    complete_at: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(default="")
    """Why it is held to be complete, and what follows from that."""
    held: Mapped[str] = mapped_column(default="", index=True)
    """Why a person should look at it, once it is complete (verdicts.Held); empty where nobody has to."""
    gone_at: Mapped[datetime | None] = mapped_column(index=True)
    """When retention had taken the files of all its instances; empty again when one comes."""


class Association(Table):
    __tablename__ = f"{PREFIX}association"
    __table_args__ = (Index(None, "calling_ae_title", "ended_at"),)
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    ingest: Mapped[str]
    calling_ae_title: Mapped[str]
    called_ae_title: Mapped[str]
    address: Mapped[str]
    executor: Mapped[str]
    """The process that holds the connection; when that has died the association has ended."""
    began_at: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
    whole: Mapped[bool] = mapped_column(default=False)  # released, with everything in it taken
    broken: Mapped[bool] = mapped_column(default=False)  # its sender may come back with the rest (Ended)


class Instance(Table):
    __tablename__ = f"{PREFIX}instance"
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(Series.series_instance_uid), index=True)
    association: Mapped[str] = mapped_column(ForeignKey(Association.id))
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    transfer_syntax_uid: Mapped[str] = mapped_column(Uid)
    sha256: Mapped[str] = mapped_column(Digest)
    size: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]
    gone_at: Mapped[datetime | None]
    """When retention took its file; the row stays."""


class Version(Table):
    """An instance that is kept apart, never the input of a job: a person may look at it, `reason` says why."""

    __tablename__ = f"{PREFIX}version"
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    sha256: Mapped[str] = mapped_column(Digest, primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(default="", server_default="")


class Segment(Table):
    """How far a segment of a door's journal was read: written with the rows that were made of it, so that none is made twice."""

    __tablename__ = f"{PREFIX}segment"
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)


class RuleOutcome(Table):
    """What each condition of a rule said of a series: the answer to "why"."""

    __tablename__ = f"{PREFIX}rule_outcome"
    series_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(Series.series_instance_uid), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    rule: Mapped[str] = mapped_column(primary_key=True)
    matched: Mapped[bool]
    explanation: Mapped[dict[str, Any]]
    rules_digest: Mapped[str] = mapped_column(Digest)
    rules_version: Mapped[int | None]
    at: Mapped[datetime]


class Job(Table):
    __tablename__ = f"{PREFIX}job"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    input_key: Mapped[str] = mapped_column(Digest, unique=True)
    """Pipeline, its version and the bytes it works on: a resend finds its job here and makes no second one."""
    job_key: Mapped[str] = mapped_column(Digest, default="")
    """The same with the model's version and weights (uids.job_key), known when the model was asked."""
    series_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(Series.series_instance_uid), index=True)
    revision: Mapped[int]
    supersedes: Mapped[int | None] = mapped_column(BigKey)
    rules: Mapped[list[Any]]
    pipeline: Mapped[str]
    model: Mapped[str]
    send_to: Mapped[list[Any]]
    priority: Mapped[str]
    partial: Mapped[str] = mapped_column(default="")
    """What the series lacks that it works on all the same; its results say so."""
    state: Mapped[str] = mapped_column(default=JobState.QUEUED)
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    """How often in a row the process that worked on it ended: the gateway's, in the present attempt, or its model's."""
    code: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")
    notes: Mapped[list[Any]] = mapped_column(default=list)
    provenance: Mapped[dict[str, Any]] = mapped_column(default=dict)
    ticket: Mapped[str] = mapped_column(default="0")
    """Names the engine's attempt that this row waits for or is held by."""
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    inferred_at: Mapped[datetime | None]
    encoded_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class JobInstance(Table):
    """The exact input of a job."""

    __tablename__ = f"{PREFIX}job_instance"
    __table_args__ = (Index(None, "sop_instance_uid"),)
    job: Mapped[int] = mapped_column(BigKey, ForeignKey(Job.id), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    sha256: Mapped[str] = mapped_column(Digest)


class JobCompanion(Table):
    """Another series of the study that a job gets beside its own, for a role of its pipeline: its inputs are of both."""

    __tablename__ = f"{PREFIX}job_companion"
    job: Mapped[int] = mapped_column(BigKey, ForeignKey(Job.id), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(Series.series_instance_uid), index=True)


class OutputInstance(Table):
    """A DICOM object of ours: encoded once, these bytes for ever."""

    __tablename__ = f"{PREFIX}output_instance"
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    job: Mapped[int] = mapped_column(BigKey, ForeignKey(Job.id), index=True)
    study_instance_uid: Mapped[str] = mapped_column(Uid)
    series_instance_uid: Mapped[str] = mapped_column(Uid)
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    modality: Mapped[str]
    sha256: Mapped[str] = mapped_column(Digest)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    retracts: Mapped[str] = mapped_column(Uid, default="")
    """A rejection note (PS3.3 A.35.4, IHE IOCM): the SOP Instance UID of ours that it takes back."""
    gone_at: Mapped[datetime | None] = mapped_column(index=True)
    """When retention took its file; the row stays."""


class Delivery(Table):
    __tablename__ = f"{PREFIX}delivery"
    __table_args__ = (UniqueConstraint("sop_instance_uid", "peer"), Index(None, "peer", "study_instance_uid"))
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(OutputInstance.sop_instance_uid))
    job: Mapped[int] = mapped_column(BigKey, ForeignKey(Job.id))
    study_instance_uid: Mapped[str] = mapped_column(Uid, default="")
    peer: Mapped[str] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(default=DeliveryState.QUEUED)
    attempts: Mapped[int] = mapped_column(default=0)
    refusals: Mapped[int] = mapped_column(default=0)
    """How often the peer said no for good, or said yes and then did not have it."""
    unanswered: Mapped[bool] = mapped_column(default=False)
    """An answer never came: the peer may hold it, and is asked before it is sent again; until it says whether it does."""
    status: Mapped[int | None]
    """The peer's answer to the last attempt (PS3.4 B.2.3)."""
    reason: Mapped[str] = mapped_column(default="")
    ticket: Mapped[str] = mapped_column(default="0")
    """Names the engine's attempt that this row waits for or is held by; empty where there is none: one of its study goes first,
    or it was sent to a peer that proves nothing.
    """
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    late_at: Mapped[datetime | None]
    """When somebody was told that it takes long: after `sent_at`, to be proved."""
    sent_at: Mapped[datetime | None]
    looks: Mapped[int] = mapped_column(default=0)
    """How often a proof was looked for since it was sent."""
    transaction_uid: Mapped[str] = mapped_column(Uid, default="", index=True)
    """Of the storage commitment that was asked for last since it was sent (PS3.4 J.3)."""
    asked_at: Mapped[datetime | None]
    proved_at: Mapped[datetime | None]
    proof: Mapped[str] = mapped_column(default="")
    """What proved it: commitment, query or read-back."""


class Commitment(Table):
    """A request for storage commitment (PS3.4 J.3): the SOP class and instance UIDs that `ae_title` asks for."""

    __tablename__ = f"{PREFIX}commitment"
    __table_args__ = (UniqueConstraint("transaction_uid", "ae_title", "digest"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(Uid)
    ae_title: Mapped[str]
    digest: Mapped[str] = mapped_column(Digest)
    """Of the instances: the same ones are the same request repeated, others under this UID are a duplicate of it."""
    instances: Mapped[list[Any]] = mapped_column(deferred=True)
    failures: Mapped[list[Any]] = mapped_column(deferred=True, default=list)
    """Those that are not committed, with their failure reasons, once it is checked."""
    association: Mapped[str] = mapped_column(String(36))
    state: Mapped[str] = mapped_column(default=CommitmentState.ASKED, index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    """Looks while asked, reports while checked."""
    peer: Mapped[str] = mapped_column(default="")
    status: Mapped[int | None]
    reason: Mapped[str] = mapped_column(default="")
    ticket: Mapped[str] = mapped_column(default="0")
    asked_at: Mapped[datetime]
    due_at: Mapped[datetime]
    checked_at: Mapped[datetime | None]
    reported_at: Mapped[datetime | None]
