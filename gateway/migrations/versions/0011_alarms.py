"""alarms that are on; by whom and when something was sent last"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_alarm",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("raised_at", sa.DateTime(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "subject", name=op.f("pk_gw_alarm")),
    )
    op.create_index(op.f("ix_gw_association_calling_ae_title_ended_at"), "gw_association", ["calling_ae_title", "ended_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_gw_association_calling_ae_title_ended_at"), "gw_association")
    op.drop_table("gw_alarm")
