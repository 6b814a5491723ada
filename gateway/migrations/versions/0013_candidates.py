"""series that were weighed against the others of their study"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_candidate",
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("pipeline", sa.String(), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("traits", sa.JSON(), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("send_to", sa.JSON(), nullable=False),
        sa.Column("priority", sa.String(), nullable=False),
        sa.Column("priority_by", sa.String(), nullable=False),
        sa.Column("partial", sa.String(), nullable=False),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["gw_series.series_instance_uid"], name=op.f("fk_gw_candidate_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", "revision", "pipeline", name=op.f("pk_gw_candidate")),
    )
    op.create_index(op.f("ix_gw_candidate_study_instance_uid"), "gw_candidate", ["study_instance_uid"], unique=False)
    op.create_index(op.f("ix_gw_candidate_state"), "gw_candidate", ["state"], unique=False)


def downgrade() -> None:
    op.drop_table("gw_candidate")
