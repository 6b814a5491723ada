"""associations that were broken off, and that brought instances again"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("gw_association", sa.Column("broken", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "gw_repetition",
        sa.Column("association", sa.String(36), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["association"], ["gw_association.id"], name=op.f("fk_gw_repetition_association")),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["gw_series.series_instance_uid"], name=op.f("fk_gw_repetition_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("association", "series_instance_uid", name=op.f("pk_gw_repetition")),
    )
    op.create_index(op.f("ix_gw_repetition_series_instance_uid"), "gw_repetition", ["series_instance_uid"], unique=False)


def downgrade() -> None:
    op.drop_table("gw_repetition")
    op.drop_column("gw_association", "broken")
