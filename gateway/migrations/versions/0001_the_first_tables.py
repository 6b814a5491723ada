"""the first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_association",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("ingest", sa.String(), nullable=False),
        sa.Column("calling_ae_title", sa.String(), nullable=False),
        sa.Column("called_ae_title", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("executor", sa.String(), nullable=False),
        sa.Column("began_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_association")),
    )
    op.create_index(op.f("ix_gw_association_ended_at"), "gw_association", ["ended_at"], unique=False)
    op.create_table(
        "gw_audit_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("act", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_audit_event")),
    )
    op.create_index(op.f("ix_gw_audit_event_act"), "gw_audit_event", ["act"], unique=False)
    op.create_index(op.f("ix_gw_audit_event_job"), "gw_audit_event", ["job"], unique=False)
    op.create_index(op.f("ix_gw_audit_event_series_instance_uid"), "gw_audit_event", ["series_instance_uid"], unique=False)
    op.create_table(
        "gw_study",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_name", sa.String(), nullable=False),
        sa.Column("patient_id", sa.String(), nullable=False),
        sa.Column("patient_birth_date", sa.String(), nullable=False),
        sa.Column("accession_number", sa.String(), nullable=False),
        sa.Column("first_received_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_gw_study")),
    )
    op.create_index(op.f("ix_gw_study_accession_number"), "gw_study", ["accession_number"], unique=False)
    op.create_index(op.f("ix_gw_study_patient_id"), "gw_study", ["patient_id"], unique=False)
    op.create_table(
        "gw_version",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", "sha256", name=op.f("pk_gw_version")),
    )
    op.create_index(op.f("ix_gw_version_series_instance_uid"), "gw_version", ["series_instance_uid"], unique=False)
    op.create_table(
        "gw_series",
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("first_received_at", sa.DateTime(), nullable=False),
        sa.Column("last_received_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("complete_at", sa.DateTime(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["gw_study.study_instance_uid"], name=op.f("fk_gw_series_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", name=op.f("pk_gw_series")),
    )
    op.create_index(op.f("ix_gw_series_last_received_at"), "gw_series", ["last_received_at"], unique=False)
    op.create_index(op.f("ix_gw_series_state"), "gw_series", ["state"], unique=False)
    op.create_index(op.f("ix_gw_series_study_instance_uid"), "gw_series", ["study_instance_uid"], unique=False)
    op.create_table(
        "gw_instance",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("association", sa.String(length=36), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["association"], ["gw_association.id"], name=op.f("fk_gw_instance_association")),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["gw_series.series_instance_uid"], name=op.f("fk_gw_instance_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_gw_instance")),
    )
    op.create_index(op.f("ix_gw_instance_series_instance_uid"), "gw_instance", ["series_instance_uid"], unique=False)
    op.create_table(
        "gw_job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("input_key", sa.String(length=64), nullable=False),
        sa.Column("job_key", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("supersedes", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("pipeline", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("send_to", sa.JSON(), nullable=False),
        sa.Column("priority", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("ticket", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=True),
        sa.Column("inferred_at", sa.DateTime(), nullable=True),
        sa.Column("encoded_at", sa.DateTime(), nullable=True),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["gw_series.series_instance_uid"], name=op.f("fk_gw_job_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_job")),
        sa.UniqueConstraint("input_key", name=op.f("uq_gw_job_input_key")),
    )
    op.create_index(op.f("ix_gw_job_series_instance_uid"), "gw_job", ["series_instance_uid"], unique=False)
    op.create_index(op.f("ix_gw_job_state"), "gw_job", ["state"], unique=False)
    op.create_table(
        "gw_rule_outcome",
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("matched", sa.Boolean(), nullable=False),
        sa.Column("explanation", sa.JSON(), nullable=False),
        sa.Column("rules_digest", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["gw_series.series_instance_uid"], name=op.f("fk_gw_rule_outcome_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", "revision", "rule", name=op.f("pk_gw_rule_outcome")),
    )
    op.create_table(
        "gw_job_instance",
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["gw_job.id"], name=op.f("fk_gw_job_instance_job")),
        sa.PrimaryKeyConstraint("job", "sop_instance_uid", name=op.f("pk_gw_job_instance")),
    )
    op.create_table(
        "gw_output_instance",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["gw_job.id"], name=op.f("fk_gw_output_instance_job")),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_gw_output_instance")),
    )
    op.create_index(op.f("ix_gw_output_instance_job"), "gw_output_instance", ["job"], unique=False)
    op.create_table(
        "gw_delivery",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("ticket", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["gw_job.id"], name=op.f("fk_gw_delivery_job")),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"], ["gw_output_instance.sop_instance_uid"], name=op.f("fk_gw_delivery_sop_instance_uid")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_delivery")),
        sa.UniqueConstraint("sop_instance_uid", "peer", name=op.f("uq_gw_delivery_sop_instance_uid_peer")),
    )
    op.create_index(op.f("ix_gw_delivery_job"), "gw_delivery", ["job"], unique=False)
    op.create_index(op.f("ix_gw_delivery_peer"), "gw_delivery", ["peer"], unique=False)
    op.create_index(op.f("ix_gw_delivery_state"), "gw_delivery", ["state"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_gw_delivery_state"), table_name="gw_delivery")
    op.drop_index(op.f("ix_gw_delivery_peer"), table_name="gw_delivery")
    op.drop_index(op.f("ix_gw_delivery_job"), table_name="gw_delivery")
    op.drop_table("gw_delivery")
    op.drop_index(op.f("ix_gw_output_instance_job"), table_name="gw_output_instance")
    op.drop_table("gw_output_instance")
    op.drop_table("gw_job_instance")
    op.drop_table("gw_rule_outcome")
    op.drop_index(op.f("ix_gw_job_state"), table_name="gw_job")
    op.drop_index(op.f("ix_gw_job_series_instance_uid"), table_name="gw_job")
    op.drop_table("gw_job")
    op.drop_index(op.f("ix_gw_instance_series_instance_uid"), table_name="gw_instance")
    op.drop_table("gw_instance")
    op.drop_index(op.f("ix_gw_series_study_instance_uid"), table_name="gw_series")
    op.drop_index(op.f("ix_gw_series_state"), table_name="gw_series")
    op.drop_index(op.f("ix_gw_series_last_received_at"), table_name="gw_series")
    op.drop_table("gw_series")
    op.drop_index(op.f("ix_gw_version_series_instance_uid"), table_name="gw_version")
    op.drop_table("gw_version")
    op.drop_index(op.f("ix_gw_study_patient_id"), table_name="gw_study")
    op.drop_index(op.f("ix_gw_study_accession_number"), table_name="gw_study")
    op.drop_table("gw_study")
    op.drop_index(op.f("ix_gw_audit_event_series_instance_uid"), table_name="gw_audit_event")
    op.drop_index(op.f("ix_gw_audit_event_job"), table_name="gw_audit_event")
    op.drop_index(op.f("ix_gw_audit_event_act"), table_name="gw_audit_event")
    op.drop_table("gw_audit_event")
    op.drop_index(op.f("ix_gw_association_ended_at"), table_name="gw_association")
    op.drop_table("gw_association")
