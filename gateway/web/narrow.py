"""What somebody narrows a list to: fields of an address. What names a patient comes in a form, and no name is in any address.

A list that was searched has an address all the same, so that a reader comes back to it from what it led to: the text stands there
as only the sign-in that looked for it can read it.
"""

import base64
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from cryptography.fernet import Fernet, InvalidToken
from fastapi import Depends, Form, Query, Request
from pydantic import BaseModel, BeforeValidator, Field

from gateway.access.passwords import digest
from gateway.views.wanted import Wanted
from gateway.web.site import Site
from gateway.web.who import cookie

Day = Annotated[date | None, BeforeValidator(lambda value: value or None)]


class Narrow(BaseModel):
    """`sought` is `text` as an address has it; days are of `zone`, both included; `after` is the cursor of a page."""

    text: str = Field(default="", max_length=200)
    sought: str = Field(default="", max_length=2000)
    state: str = Field(default="", max_length=40)
    modality: str = Field(default="", max_length=16)
    rule: str = Field(default="", max_length=200)
    peer: str = Field(default="", max_length=64)
    pipeline: str = Field(default="", max_length=64)
    since: Day = None
    until: Day = None
    after: str = Field(default="", max_length=200)
    zone: str = "UTC"
    """[gateway] time_zone, whatever an address says."""

    @property
    def wanted(self) -> Wanted:
        return Wanted(
            text=self.text.strip(), state=self.state, modality=self.modality, rule=self.rule, peer=self.peer,
            pipeline=self.pipeline, since=self._begin(self.since),
            until=self._begin(self.until and self.until + timedelta(days=1)),
        )  # fmt: skip

    @property
    def is_narrow(self) -> bool:
        return any(value for name, value in self if name not in ("after", "zone"))

    def query(self, **changes: str) -> str:
        """For an address, with its question mark, where there is anything to say."""
        fields = {**dict(self), "after": "", **changes}
        said = {name: value for name, value in fields.items() if value and name not in ("text", "zone")}
        return f"?{urlencode(said)}" if said else ""

    def _begin(self, day: date | None) -> datetime | None:
        return datetime.combine(day, time(), ZoneInfo(self.zone)).astimezone(UTC) if day else None


def _in_address(request: Request, narrow: Annotated[Narrow, Query()]) -> Narrow:
    try:
        text = _cipher(request).decrypt(narrow.sought).decode()
    except InvalidToken:  # nothing was sought, or in another sign-in
        text = ""
    return _told(request, narrow, text=text, sought=narrow.sought if text else "")


def _in_form(request: Request, narrow: Annotated[Narrow, Form()]) -> Narrow:
    sought = _cipher(request).encrypt(narrow.text.strip().encode()).decode() if narrow.text.strip() else ""
    return _told(request, narrow, sought=sought)


def _told(request: Request, narrow: Narrow, **changes: str) -> Narrow:
    site: Site = request.app.state.site
    return narrow.model_copy(update={**changes, "zone": site.config.gateway.time_zone})


def _cipher(request: Request) -> Fernet:
    secret = request.cookies.get(cookie(request.app.state.site), "")
    return Fernet(base64.urlsafe_b64encode(bytes.fromhex(digest(f"sought {secret}"))))


InAddress = Annotated[Narrow, Depends(_in_address)]
InForm = Annotated[Narrow, Depends(_in_form)]
