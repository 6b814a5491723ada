"""How urgent a job is: its rule, the AE title that was called, and RequestedProcedurePriority (PS3.3 C.4.11) have a say."""

from collections.abc import Collection

from gateway.decisions.rules import PRIORITIES

REQUESTED = "RequestedProcedurePriority"
STAT, ROUTINE, BACKGROUND = PRIORITIES
_URGENT, _LOW = frozenset(("STAT", "HIGH")), "LOW"


def decide(rule: str, *, called: Collection[str], stat_ae_titles: Collection[str], requested: Collection[str]) -> tuple[str, str]:
    """The priority, and what decided it: "rule", "called AE title" or the attribute's keyword.

    `rule` is the most urgent of the rules that made the job; `called` and `requested` are what was found in the series. STAT
    and HIGH make it stat, LOW makes routine background, anything else says nothing.
    """
    values = {value.strip().upper() for value in requested}
    if rule == STAT:
        return STAT, "rule"
    if not set(stat_ae_titles).isdisjoint(called):
        return STAT, "called AE title"
    if values & _URGENT:
        return STAT, REQUESTED
    if values == {_LOW} and rule == ROUTINE:
        return BACKGROUND, REQUESTED
    return rule, "rule"
