"""What somebody narrows a list to: fields of an address; or of a form, where they name a patient: no name is in any address."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from pydantic import BaseModel, BeforeValidator, Field

from gateway.views.wanted import Wanted


def _day(value: Any) -> Any:
    return value or None


class Narrow(BaseModel):
    """`text` is looked for only where it comes in a form; days are UTC, both included; `after` is the cursor of a page."""

    text: str = Field(default="", max_length=200)
    state: str = Field(default="", max_length=40)
    modality: str = Field(default="", max_length=16)
    rule: str = Field(default="", max_length=200)
    peer: str = Field(default="", max_length=64)
    pipeline: str = Field(default="", max_length=64)
    since: Annotated[date | None, BeforeValidator(_day)] = None
    until: Annotated[date | None, BeforeValidator(_day)] = None
    after: str = Field(default="", max_length=200)

    @property
    def wanted(self) -> Wanted:
        return Wanted(
            text=self.text.strip(), state=self.state, modality=self.modality, rule=self.rule, peer=self.peer,
            pipeline=self.pipeline, since=_begin(self.since),
            until=_begin(self.until and self.until + timedelta(days=1)),
        )  # fmt: skip

    @property
    def is_narrow(self) -> bool:
        return any(value for name, value in self if name != "after")

    @property
    def in_address(self) -> "Narrow":
        """Without what may not be in one."""
        return self.model_copy(update={"text": ""})

    def query(self, **changes: str) -> str:
        """For an address, with its question mark, where there is anything to say."""
        said = {name: value for name, value in {**dict(self), "after": "", **changes}.items() if value and name != "text"}
        return f"?{urlencode(said)}" if said else ""

    def fields(self, **changes: str) -> dict[str, str]:
        """For a form, as hidden fields."""
        return {name: str(value) for name, value in {**dict(self), **changes}.items() if value}


def _begin(day: date | None) -> datetime | None:
    return datetime.combine(day, time(), UTC) if day else None
