"""The rows of rule sets: versions that nobody changes, and which of them was in force when."""

from datetime import datetime

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, BigKey, Digest, Table
from gateway.rows.tables import Job


class RuleVersion(Table):
    """What rules.yaml said, letter by letter. Only the approval is ever added to it."""

    __tablename__ = f"{PREFIX}rule_version"
    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(Text, deferred=True)
    digest: Mapped[str] = mapped_column(Digest)
    """Of what the rules say, whatever their comments and layout."""
    rules: Mapped[int]
    author: Mapped[str]
    written_at: Mapped[datetime]
    note: Mapped[str] = mapped_column(default="")
    approver: Mapped[str] = mapped_column(default="")
    approved_at: Mapped[datetime | None]


class RuleActivation(Table):
    """The last of them names the version in force. Numbered without a gap: who inserts the next number has made the change."""

    __tablename__ = f"{PREFIX}rule_activation"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigKey, ForeignKey(RuleVersion.number))
    actor: Mapped[str]
    at: Mapped[datetime]


class Shadow(Table):
    """A job in the shadow: its results are kept, and nothing is sent before somebody releases them."""

    __tablename__ = f"{PREFIX}shadow"
    job: Mapped[int] = mapped_column(BigKey, ForeignKey(Job.id), primary_key=True, autoincrement=False)
    beside: Mapped[str] = mapped_column(default="")
    """The pipeline beside which it runs as a canary; empty for a rule that is in the shadow itself."""
    released_at: Mapped[datetime | None]
    released_by: Mapped[str] = mapped_column(default="")
