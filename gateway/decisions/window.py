"""Time windows of rules: `{time: ["19:00", "07:00"], days: [fri, sat]}` as CEL over the facts `weekday` and `time_of_day`."""

import json
import re

from gateway.errors import ConfigError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00")


def window(hours: object, days: object) -> tuple[str, str]:
    """CEL, and in words what is expected. Raises ConfigError.

    `hours` are from (included) and to (left out), in quotes, as YAML reads 07:00 as a number; None is the whole day.
    A window over midnight belongs to the day on which it begins.
    """
    begin, end = ("00:00", "24:00") if hours is None else _hours(hours)
    chosen = DAYS if days is None else _days(days)
    words = f"{begin} to {end}" + ("" if days is None else f" on {', '.join(chosen)}")
    if begin < end:
        return f'time_of_day >= "{begin}" && time_of_day < "{end}" && {_on(chosen)}', words
    after = tuple(DAYS[(DAYS.index(day) + 1) % len(DAYS)] for day in chosen)
    return f'(time_of_day >= "{begin}" && {_on(chosen)}) || (time_of_day < "{end}" && {_on(after)})', words


def _hours(hours: object) -> tuple[str, str]:
    if isinstance(hours, list) and len(hours) == 2 and all(isinstance(one, str) and _TIME.fullmatch(one) for one in hours):
        begin, end = hours
        if begin not in (end, "24:00"):
            return begin, end
    raise ConfigError(['expected ["HH:MM", "HH:MM"], in quotes and not twice the same, after time'])


def _days(days: object) -> tuple[str, ...]:
    if isinstance(days, list) and days and set(map(str, days)) <= set(DAYS):
        return tuple(day for day in DAYS if day in days)
    raise ConfigError([f"expected a list of {', '.join(DAYS)} after days"])


def _on(days: tuple[str, ...]) -> str:
    return f"weekday in {json.dumps(days)}"
