"""procedure steps that modalities tell of"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gw_procedure_step",
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("ae_title", sa.String(), nullable=False),
        sa.Column("began_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_gw_procedure_step")),
    )
    op.create_index(op.f("ix_gw_procedure_step_study_instance_uid"), "gw_procedure_step", ["study_instance_uid"], unique=False)
    op.create_index(op.f("ix_gw_procedure_step_changed_at"), "gw_procedure_step", ["changed_at"], unique=False)
    op.create_table(
        "gw_performed_series",
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"], ["gw_procedure_step.sop_instance_uid"], name=op.f("fk_gw_performed_series_sop_instance_uid")
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", "series_instance_uid", name=op.f("pk_gw_performed_series")),
    )
    op.create_index(
        op.f("ix_gw_performed_series_series_instance_uid"), "gw_performed_series", ["series_instance_uid"], unique=False
    )


def downgrade() -> None:
    op.drop_table("gw_performed_series")
    op.drop_table("gw_procedure_step")
