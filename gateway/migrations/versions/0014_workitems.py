"""workitems (UPS-RS), who follows them, and what those are to be told"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "gw_workitem",
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("document", sa.String(64), nullable=False),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("is_ours", sa.Boolean(), nullable=False),
        sa.Column("job", _KEY, nullable=True),
        sa.Column("made_job", sa.Boolean(), nullable=False),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("ticket", sa.String(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("gone_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_gw_workitem")),
    )
    for column in ("state", "job", "due_at", "made_at", "ended_at"):
        op.create_index(op.f(f"ix_gw_workitem_{column}"), "gw_workitem", [column], unique=False)
    op.create_table(
        "gw_workitem_document",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_gw_workitem_document")),
    )
    for column in ("sop_instance_uid", "made_at"):
        op.create_index(op.f(f"ix_gw_workitem_document_{column}"), "gw_workitem_document", [column], unique=False)
    op.create_table(
        "gw_subscription",
        sa.Column("ae_title", sa.String(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("suspended", sa.Boolean(), nullable=False),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("ae_title", "sop_instance_uid", name=op.f("pk_gw_subscription")),
    )
    op.create_index(op.f("ix_gw_subscription_sop_instance_uid"), "gw_subscription", ["sop_instance_uid"], unique=False)
    op.create_table(
        "gw_workitem_report",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("ae_title", sa.String(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("document", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_workitem_report")),
        sa.UniqueConstraint("ae_title", "id", name=op.f("uq_gw_workitem_report_ae_title_id")),
    )
    op.create_index(op.f("ix_gw_workitem_report_at"), "gw_workitem_report", ["at"], unique=False)


def downgrade() -> None:
    for table in ("gw_workitem_report", "gw_subscription", "gw_workitem_document", "gw_workitem"):
        op.drop_table(table)
