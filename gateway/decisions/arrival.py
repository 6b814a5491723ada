"""When a series began to arrive, and from whom, as facts for rules."""

from datetime import datetime
from zoneinfo import ZoneInfo

from gateway.decisions.window import DAYS


def arrival(at: datetime, *, zone: ZoneInfo, caller: str) -> dict[str, object]:
    """weekday, time_of_day: of the first instance, by the hospital's clocks. caller: its name in [[callers]], if known."""
    local = at.astimezone(zone)
    return {"weekday": DAYS[local.weekday()], "time_of_day": f"{local:%H:%M}", "caller": caller}
