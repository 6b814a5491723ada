"""Indices for what people look at (lists.py, overview.py): each list is found in its order, however long the table is."""

from sqlalchemy import Index, text

from gateway.rows.columns import PREFIX
from gateway.rows.tables import Delivery, Job, RuleOutcome, Series, Study

INDICES = (
    Index(f"ix_{PREFIX}study_first_received_at", Study.first_received_at, Study.study_instance_uid),
    Index(f"ix_{PREFIX}series_last_received_at", Series.last_received_at, Series.series_instance_uid),
    Index(f"ix_{PREFIX}series_modality", Series.modality, Series.last_received_at, Series.series_instance_uid),
    Index(f"ix_{PREFIX}series_study_instance_uid", Series.study_instance_uid, Series.modality),
    Index(
        f"ix_{PREFIX}rule_outcome_matched", RuleOutcome.series_instance_uid, RuleOutcome.revision,
        sqlite_where=text("matched = 1"), postgresql_where=text("matched"),
    ),
    Index(
        f"ix_{PREFIX}rule_outcome_rule", RuleOutcome.rule, RuleOutcome.series_instance_uid, RuleOutcome.revision,
        sqlite_where=text("matched = 1"), postgresql_where=text("matched"),
    ),
    Index(f"ix_{PREFIX}job_state", Job.state, Job.id),
    Index(f"ix_{PREFIX}job_ended_at", Job.ended_at),
    Index(f"ix_{PREFIX}delivery_state", Delivery.state, Delivery.id),
    Index(f"ix_{PREFIX}delivery_job", Delivery.job, Delivery.peer),
    Index(f"ix_{PREFIX}delivery_proved_at", Delivery.proved_at),
)  # fmt: skip
