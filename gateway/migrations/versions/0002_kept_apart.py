"""why an instance is kept apart, how far a journal was read, and who asked for storage commitment"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("gw_version", sa.Column("reason", sa.String(), nullable=False, server_default=""))
    op.create_table(
        "gw_segment",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gw_segment")),
    )
    op.create_table(
        "gw_commitment",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("ae_title", sa.String(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("failures", sa.JSON(), nullable=False),
        sa.Column("association", sa.String(36), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("ticket", sa.String(), nullable=False),
        sa.Column("asked_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("checked_at", sa.DateTime(), nullable=True),
        sa.Column("reported_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_commitment")),
        sa.UniqueConstraint(
            "transaction_uid", "ae_title", "digest", name=op.f("uq_gw_commitment_transaction_uid_ae_title_digest")
        ),
    )
    op.create_index(op.f("ix_gw_commitment_state"), "gw_commitment", ["state"])


def downgrade() -> None:
    op.drop_table("gw_commitment")
    op.drop_table("gw_segment")
    op.drop_column("gw_version", "reason")
