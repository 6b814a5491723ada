"""verdicts on completeness with their evidence, associations that came whole, jobs on series that lack something"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_series_verdict",
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("missing", sa.String(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("last_received_at", sa.DateTime(), nullable=False),
        sa.Column("signals", sa.JSON(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("source_count", sa.Integer(), nullable=True),
        sa.Column("source_since", sa.DateTime(), nullable=True),
        sa.Column("forced_by", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["gw_series.series_instance_uid"], name=op.f("fk_gw_series_verdict_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", "revision", name=op.f("pk_gw_series_verdict")),
    )
    op.add_column("gw_association", sa.Column("whole", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("gw_job", sa.Column("partial", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("gw_job", "partial")
    op.drop_column("gw_association", "whole")
    op.drop_table("gw_series_verdict")
