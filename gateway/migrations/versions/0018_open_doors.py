"""since when the doors of a process have been open"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("gw_filed", sa.Column("opened_at", sa.DateTime(), nullable=True))


def downgrade() -> None:
    op.drop_column("gw_filed", "opened_at")
