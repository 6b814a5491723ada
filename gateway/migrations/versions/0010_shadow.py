"""jobs in the shadow"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_shadow",
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=False),
        sa.Column("beside", sa.String(), nullable=False),
        sa.Column("released_at", sa.DateTime(), nullable=True),
        sa.Column("released_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["gw_job.id"], name=op.f("fk_gw_shadow_job_gw_job")),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_gw_shadow")),
    )


def downgrade() -> None:
    op.drop_table("gw_shadow")
