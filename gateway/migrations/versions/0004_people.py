"""people, their sign-ins and their tokens"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_account",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gw_account")),
    )
    op.create_index(op.f("ix_gw_account_subject"), "gw_account", ["subject"])
    op.create_table(
        "gw_sign_in",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("began_at", sa.DateTime(), nullable=False),
        sa.Column("seen_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_gw_sign_in")),
        sa.ForeignKeyConstraint(["account"], ["gw_account.name"], name=op.f("fk_gw_sign_in_account")),
    )
    op.create_index(op.f("ix_gw_sign_in_account"), "gw_sign_in", ["account"])
    op.create_table(
        "gw_token",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_gw_token_digest")),
        sa.ForeignKeyConstraint(["account"], ["gw_account.name"], name=op.f("fk_gw_token_account")),
    )
    op.create_index(op.f("ix_gw_token_account"), "gw_token", ["account"])


def downgrade() -> None:
    op.drop_index(op.f("ix_gw_token_account"), "gw_token")
    op.drop_table("gw_token")
    op.drop_index(op.f("ix_gw_sign_in_account"), "gw_sign_in")
    op.drop_table("gw_sign_in")
    op.drop_index(op.f("ix_gw_account_subject"), "gw_account")
    op.drop_table("gw_account")
