"""earlier studies that are sought for a job, and which of them it gets"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "gw_prior_search",
        sa.Column("id", BIG, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("chosen", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("ticket", sa.String(), nullable=False),
        sa.Column("begun_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("deadline_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["id"], ["gw_job.id"], name=op.f("fk_gw_prior_search_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_prior_search")),
    )
    op.create_index(op.f("ix_gw_prior_search_state"), "gw_prior_search", ["state"], unique=False)
    op.create_table(
        "gw_prior",
        sa.Column("id", BIG, nullable=False),
        sa.Column("job", BIG, nullable=False),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("days_before", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["gw_prior_search.id"], name=op.f("fk_gw_prior_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_prior")),
        sa.UniqueConstraint("job", "series_instance_uid", name=op.f("uq_gw_prior_job_series_instance_uid")),
    )
    op.create_index(op.f("ix_gw_prior_series_instance_uid"), "gw_prior", ["series_instance_uid"], unique=False)
    op.create_table(
        "gw_prior_instance",
        sa.Column("prior", BIG, nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["prior"], ["gw_prior.id"], name=op.f("fk_gw_prior_instance_prior")),
        sa.PrimaryKeyConstraint("prior", "sop_instance_uid", name=op.f("pk_gw_prior_instance")),
    )


def downgrade() -> None:
    op.drop_table("gw_prior_instance")
    op.drop_table("gw_prior")
    op.drop_table("gw_prior_search")
