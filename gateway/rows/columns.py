"""What the columns of every table are made of."""

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase

PREFIX = "gw_"


class UtcDateTime(TypeDecorator[datetime]):
    """Aware in Python, UTC in the database; a naive datetime raises."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("expected an aware datetime")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


Uid = String(64)
Digest = String(64)
Folded = String().with_variant(String(collation="C"), "postgresql")
"""Text as fold() leaves it, in the order of its code points, so that what begins alike stands together in an index."""
BigKey = BigInteger().with_variant(Integer, "sqlite")


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON, str: String}  # noqa: RUF012 - SQLAlchemy's own form


def fold(text: str) -> str:
    """As people look for it: no case, no accents, the parts of a person name (PS3.5 6.2.1) with one space between them."""
    plain = unicodedata.normalize("NFKD", text).translate(dict.fromkeys(map(ord, "^=,"), " "))
    return " ".join("".join(one for one in plain if not unicodedata.combining(one)).casefold().split())


def folded(column: str) -> Callable[[Any], str]:
    """The default of a column: what is inserted into another one of the row, folded."""
    return lambda context: fold(context.get_current_parameters()[column])
