"""versions of the rules, and the version and state that a series was looked at with"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_rule_version",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("rules", sa.Integer(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("written_at", sa.DateTime(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("approver", sa.String(), nullable=False),
        sa.Column("approved_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_gw_rule_version")),
    )
    op.create_table(
        "gw_rule_activation",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["gw_rule_version.number"], name=op.f("fk_gw_rule_activation_number_gw_rule_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gw_rule_activation")),
    )
    op.add_column("gw_rule_outcome", sa.Column("rules_version", sa.Integer(), nullable=True))
    op.add_column("gw_series", sa.Column("held", sa.String(), nullable=False, server_default=""))
    op.create_index(op.f("ix_gw_series_held"), "gw_series", ["held"])


def downgrade() -> None:
    op.drop_index(op.f("ix_gw_series_held"), "gw_series")
    op.drop_column("gw_series", "held")
    op.drop_column("gw_rule_outcome", "rules_version")
    op.drop_table("gw_rule_activation")
    op.drop_table("gw_rule_version")
