"""what people search studies by, and indices for the lists that they look at"""

import sqlalchemy as sa
from alembic import op

from gateway.rows.columns import fold

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEYS = ("patient_name", "patient_id", "accession_number")
_GREW: dict[str, dict[str, tuple[str, ...]]] = {
    "gw_series": {
        "last_received_at": ("last_received_at", "series_instance_uid"),
        "study_instance_uid": ("study_instance_uid", "modality"),
    },
    "gw_job": {"state": ("state", "id")},
    "gw_delivery": {"state": ("state", "id"), "job": ("job", "peer")},
}
"""Indices of one column, which have others behind it now."""
_NEW: dict[str, dict[str, tuple[str, ...]]] = {
    "gw_study": {"first_received_at": ("first_received_at", "study_instance_uid")},
    "gw_series": {"modality": ("modality", "last_received_at", "series_instance_uid")},
    "gw_job": {"ended_at": ("ended_at",)},
    "gw_delivery": {"proved_at": ("proved_at",)},
}
_MATCHED = {"matched": ("series_instance_uid", "revision"), "rule": ("rule", "series_instance_uid", "revision")}
_AT_ONCE = 1000


def upgrade() -> None:
    is_postgres = op.get_bind().dialect.name == "postgresql"
    kind = sa.String(collation="C") if is_postgres else sa.String()
    for name in _KEYS:
        op.add_column("gw_study", sa.Column(f"{name}_key", kind, nullable=False, server_default=""))
    _fold()
    for name in _KEYS:
        op.create_index(f"ix_gw_study_{name}_key", "gw_study", [f"{name}_key"])
    for table, indices in _GREW.items():
        for name, columns in indices.items():
            op.drop_index(f"ix_{table}_{name}", table_name=table)
            op.create_index(f"ix_{table}_{name}", table, list(columns))
    for table, indices in _NEW.items():
        for name, columns in indices.items():
            op.create_index(f"ix_{table}_{name}", table, list(columns))
    for name, columns in _MATCHED.items():
        op.create_index(
            f"ix_gw_rule_outcome_{name}", "gw_rule_outcome", list(columns),
            sqlite_where=sa.text("matched = 1"), postgresql_where=sa.text("matched"),
        )  # fmt: skip


def downgrade() -> None:
    for name in _MATCHED:
        op.drop_index(f"ix_gw_rule_outcome_{name}", table_name="gw_rule_outcome")
    for table, indices in _NEW.items():
        for name in indices:
            op.drop_index(f"ix_{table}_{name}", table_name=table)
    for table, indices in _GREW.items():
        for name in indices:
            op.drop_index(f"ix_{table}_{name}", table_name=table)
            op.create_index(f"ix_{table}_{name}", table, [name])
    for name in _KEYS:
        op.drop_index(f"ix_gw_study_{name}_key", table_name="gw_study")
        op.drop_column("gw_study", f"{name}_key")


def _fold() -> None:
    """The keys of the studies that are there already."""
    names = ("study_instance_uid", *_KEYS, *(f"{name}_key" for name in _KEYS))
    study = sa.table("gw_study", *(sa.column(name) for name in names))
    rows = sa.select(study.c.study_instance_uid, *(study.c[name] for name in _KEYS)).order_by(study.c.study_instance_uid)
    change = sa.update(study).where(study.c.study_instance_uid == sa.bindparam("uid"))
    change = change.values({f"{name}_key": sa.bindparam(f"to_{name}") for name in _KEYS})
    last = ""
    while found := op.get_bind().execute(rows.where(study.c.study_instance_uid > last).limit(_AT_ONCE)).all():
        folded = [{f"to_{name}": fold(value) for name, value in zip(_KEYS, row[1:], strict=True)} for row in found]
        op.get_bind().execute(change, [{"uid": row[0], **keys} for row, keys in zip(found, folded, strict=True)])
        last = found[-1][0]
