"""companions: which other series of its study a job gets, and the candidates for that"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_KEY = ["series_instance_uid", "revision", "pipeline"]


def upgrade() -> None:
    with op.batch_alter_table("gw_candidate") as candidate:
        candidate.add_column(sa.Column("role", sa.String(), nullable=False, server_default=""))
        candidate.add_column(sa.Column("beside", sa.String(), nullable=True))
        candidate.drop_constraint(op.f("pk_gw_candidate"), type_="primary")
        candidate.create_primary_key(op.f("pk_gw_candidate"), [*_KEY, "role"])
    op.create_table(
        "gw_job_companion",
        sa.Column("job", BIG, nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["gw_job.id"], name=op.f("fk_gw_job_companion_job")),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["gw_series.series_instance_uid"], name=op.f("fk_gw_job_companion_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("job", "role", name=op.f("pk_gw_job_companion")),
    )
    op.create_index(op.f("ix_gw_job_companion_series_instance_uid"), "gw_job_companion", ["series_instance_uid"], unique=False)


def downgrade() -> None:
    op.drop_table("gw_job_companion")
    op.execute("DELETE FROM gw_candidate WHERE role <> ''")
    with op.batch_alter_table("gw_candidate") as candidate:
        candidate.drop_constraint(op.f("pk_gw_candidate"), type_="primary")
        candidate.create_primary_key(op.f("pk_gw_candidate"), _KEY)
        candidate.drop_column("role")
        candidate.drop_column("beside")
