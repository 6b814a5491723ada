"""Silence: has somebody who is expected to send been silent for too long? Pure: time is an argument, the zone too."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Expectation:
    """`calling_ae_title` is heard of at least every `after`, on these days (0 is Monday) from `begins` to `ends`.

    Hours that end where they begin, or before, go on into the next day.
    """

    calling_ae_title: str
    days: frozenset[int]
    begins: time
    ends: time
    after: timedelta
    zone: tzinfo

    def silent_since(self, now: datetime, last: datetime | None) -> datetime | None:
        """Since when there is a silence to tell of; None while there is none. `last` is when it was heard of.

        At the beginning of the hours the clock starts anew: what was not sent at night was not expected.
        """
        for begin, end in self._hours(now):
            since = max(begin, last) if last is not None else begin
            if begin <= now < end and now - since >= self.after:
                return since if last is None else last
        return None

    def says(self, last: datetime | None) -> str:
        when = f"since {last.astimezone(self.zone):%Y-%m-%d %H:%M}" if last is not None else "ever"
        days = ", ".join(_NAMES[day] for day in sorted(self.days))
        hours = "" if self.begins == self.ends else f" from {self.begins:%H:%M} to {self.ends:%H:%M}"
        return f"{self.calling_ae_title} has sent nothing {when}; it is expected to on {days}{hours}"

    def _hours(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Those of today, and those of yesterday that may go on; in UTC, because a day may have 23 or 25 hours."""
        today = now.astimezone(self.zone).date()
        for day in (today, today - timedelta(days=1)):
            if day.weekday() in self.days:
                last = day if self.ends > self.begins else day + timedelta(days=1)
                yield self._at(datetime.combine(day, self.begins)), self._at(datetime.combine(last, self.ends))

    def _at(self, local: datetime) -> datetime:
        return local.replace(tzinfo=self.zone).astimezone(UTC)
