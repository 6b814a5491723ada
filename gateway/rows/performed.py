"""The rows of procedure steps that modalities tell of (PS3.4 F.7): UIDs and states only."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, Table, Uid


class ProcedureStep(Table):
    __tablename__ = f"{PREFIX}procedure_step"
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    state: Mapped[str]
    """modality.StepState"""
    ae_title: Mapped[str]
    began_at: Mapped[datetime]
    changed_at: Mapped[datetime] = mapped_column(index=True)


class PerformedSeries(Table):
    """The SOP Instance UIDs that a step says it has made of a series."""

    __tablename__ = f"{PREFIX}performed_series"
    sop_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(ProcedureStep.sop_instance_uid), primary_key=True)
    """Of the step."""
    series_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True, index=True)
    instances: Mapped[list[Any]]
