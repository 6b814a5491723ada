"""synthetic studies that went the whole way, or did not"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_rehearsal",
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("begun_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("removed_at", sa.DateTime(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("series_instance_uid", name=op.f("pk_gw_rehearsal")),
    )
    op.create_index(op.f("ix_gw_rehearsal_begun_at"), "gw_rehearsal", ["begun_at"])


def downgrade() -> None:
    op.drop_table("gw_rehearsal")
