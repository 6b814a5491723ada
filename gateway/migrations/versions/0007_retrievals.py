"""series that are taken from peers"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_watch_mark",
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("peer", name=op.f("pk_gw_watch_mark")),
    )
    op.create_table(
        "gw_retrieval",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=True),
        sa.Column("counted_at", sa.DateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("wanted_at", sa.DateTime(), nullable=False),
        sa.Column("orders", sa.JSON(), nullable=False),
        sa.Column("told", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_retrieval")),
        sa.UniqueConstraint("peer", "series_instance_uid", name=op.f("uq_gw_retrieval_peer_series_instance_uid")),
    )
    op.create_index(op.f("ix_gw_retrieval_series_instance_uid"), "gw_retrieval", ["series_instance_uid"])
    op.create_index(op.f("ix_gw_retrieval_state"), "gw_retrieval", ["state"])


def downgrade() -> None:
    op.drop_table("gw_retrieval")
    op.drop_table("gw_watch_mark")
