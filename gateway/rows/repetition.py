"""The rows of what came again: whoever broke off and comes back sends some of it a second time."""

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, Table, Uid


class Repetition(Table):
    """An association that brought instances of a series again."""

    __tablename__ = f"{PREFIX}repetition"
    association: Mapped[str] = mapped_column(ForeignKey(f"{PREFIX}association.id"), primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(
        Uid, ForeignKey(f"{PREFIX}series.series_instance_uid"), primary_key=True, index=True
    )
