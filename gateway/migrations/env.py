"""Alembic's entry: runs on the connection that `upgrade` hands over; the engine's tables in the same file are not ours."""

from alembic import context

from gateway.migrations import VERSION_TABLE
from gateway.rows import (
    accounts,
    candidates,
    contacts,
    hosts,
    indices,
    performed,
    repetition,
    retrieval,
    ruleset,
    searches,
    tables,
    trail,
    verdicts,
    workitems,
)
from gateway.rows.columns import PREFIX, Table, UtcDateTime

__all__ = (
    "accounts",
    "candidates",
    "contacts",
    "hosts",
    "indices",
    "performed",
    "repetition",
    "retrieval",
    "ruleset",
    "searches",
    "tables",
    "trail",
    "verdicts",
    "workitems",
)  # their import makes their tables known

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
    render_item=lambda _kind, item, _context: "sa.DateTime()" if isinstance(item, UtcDateTime) else False,
    include_name=lambda name, kind, _parents: kind != "table" or str(name).startswith(PREFIX),
)
with context.begin_transaction():
    context.run_migrations()
