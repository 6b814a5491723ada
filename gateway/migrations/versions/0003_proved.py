"""proof of delivery, a chained audit trail and what told it, files that retention took"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _delivery() -> list[sa.Column[Any]]:
    return [
        sa.Column("study_instance_uid", sa.String(64), nullable=False, server_default=""),
        sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("unanswered", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("late_at", sa.DateTime(), nullable=True),
        sa.Column("looks", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("transaction_uid", sa.String(64), nullable=False, server_default=""),
        sa.Column("asked_at", sa.DateTime(), nullable=True),
        sa.Column("proved_at", sa.DateTime(), nullable=True),
        sa.Column("proof", sa.String(), nullable=False, server_default=""),
    ]


def _audit() -> list[sa.Column[Any]]:
    return [
        sa.Column("previous", sa.String(64), nullable=False, server_default=""),
        sa.Column("hash", sa.String(64), nullable=False, server_default=""),
    ]


_APPEND_ONLY = "the audit trail is append only"


def _guard_audit() -> None:
    """Who writes by mistake is stopped; who drops the guard first is found by the chain (chain.py)."""
    if op.get_bind().dialect.name == "sqlite":
        for act in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER gw_audit_event_no_{act} BEFORE {act.upper()} ON gw_audit_event"
                f" BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION gw_audit_append_only() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER gw_audit_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON gw_audit_event"
        " FOR EACH STATEMENT EXECUTE FUNCTION gw_audit_append_only()"
    )


def _unguard_audit() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for act in ("update", "delete"):
            op.execute(f"DROP TRIGGER gw_audit_event_no_{act}")
        return
    op.execute("DROP TRIGGER gw_audit_event_append_only ON gw_audit_event")
    op.execute("DROP FUNCTION gw_audit_append_only()")


def upgrade() -> None:
    for column in _delivery():
        op.add_column("gw_delivery", column)
    op.execute(
        "UPDATE gw_delivery SET study_instance_uid = (SELECT study_instance_uid FROM gw_output_instance AS output"
        " WHERE output.sop_instance_uid = gw_delivery.sop_instance_uid)"
    )
    op.execute("UPDATE gw_delivery SET ticket = '' WHERE state = 'sent'")  # of before there was a proof: nothing is looked for
    op.create_index(op.f("ix_gw_delivery_transaction_uid"), "gw_delivery", ["transaction_uid"])
    op.create_index(op.f("ix_gw_delivery_peer_study_instance_uid"), "gw_delivery", ["peer", "study_instance_uid"])
    for table in ("gw_series", "gw_instance", "gw_output_instance"):
        op.add_column(table, sa.Column("gone_at", sa.DateTime(), nullable=True))
    for table in ("gw_series", "gw_output_instance"):
        op.create_index(op.f(f"ix_{table}_gone_at"), table, ["gone_at"])
    op.add_column("gw_output_instance", sa.Column("retracts", sa.String(64), nullable=False, server_default=""))
    op.create_index(op.f("ix_gw_job_instance_sop_instance_uid"), "gw_job_instance", ["sop_instance_uid"])
    for column in _audit():
        op.add_column("gw_audit_event", column)
    op.create_index(op.f("ix_gw_audit_event_sop_instance_uid"), "gw_audit_event", ["sop_instance_uid"])
    op.create_table(
        "gw_audit_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_audit_head")),
    )
    op.execute("INSERT INTO gw_audit_head (id, position, hash) SELECT 1, COALESCE(MAX(id), 0), '' FROM gw_audit_event")
    _guard_audit()
    op.create_table(
        "gw_audit_sink",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gw_audit_sink")),
    )
    op.create_table(
        "gw_filed",
        sa.Column("executor", sa.String(), nullable=False),
        sa.Column("filed_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("executor", name=op.f("pk_gw_filed")),
    )
    op.create_table(
        "gw_store_mark",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("mark", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_store_mark")),
    )


def downgrade() -> None:
    op.drop_table("gw_store_mark")
    op.drop_table("gw_filed")
    op.drop_table("gw_audit_sink")
    _unguard_audit()
    op.drop_table("gw_audit_head")
    op.drop_index(op.f("ix_gw_job_instance_sop_instance_uid"), "gw_job_instance")
    op.drop_index(op.f("ix_gw_audit_event_sop_instance_uid"), "gw_audit_event")
    for column in _audit():
        op.drop_column("gw_audit_event", column.name)
    op.drop_column("gw_output_instance", "retracts")
    for table in ("gw_series", "gw_output_instance"):
        op.drop_index(op.f(f"ix_{table}_gone_at"), table)
    for table in ("gw_series", "gw_instance", "gw_output_instance"):
        op.drop_column(table, "gone_at")
    op.drop_index(op.f("ix_gw_delivery_peer_study_instance_uid"), "gw_delivery")
    op.drop_index(op.f("ix_gw_delivery_transaction_uid"), "gw_delivery")
    for column in _delivery():
        op.drop_column("gw_delivery", column.name)
