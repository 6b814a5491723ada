"""When is a series complete? By evidence, and with the reason in a sentence that is stored: DICOM has no message for it."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Policy:
    """Seconds without an instance: `quiet_seconds` after all associations ended, `deadline_seconds` when one never ends."""

    quiet_seconds: float
    deadline_seconds: float


@dataclass(frozen=True)
class Evidence:
    """What is known of a series: its instances, and the associations that carried any of them. Times are aware."""

    instances: int
    associations: int
    open_associations: int
    first_received_at: datetime
    last_received_at: datetime


@dataclass(frozen=True)
class Verdict:
    """`due` is when to look again if nothing new has come by then; None when complete, or with nothing to wait for."""

    complete: bool
    reason: str
    due: datetime | None


def verdict(evidence: Evidence, *, now: datetime, policy: Policy) -> Verdict:
    """Complete after the quiet time once all associations ended, or after the deadline whatever they do.

    Both run from the last instance, so a series that still grows is never cut off. A clock that was set back waits longer.
    """
    if evidence.instances == 0:
        return Verdict(complete=False, reason="no instances", due=None)
    wait = policy.quiet_seconds if evidence.open_associations == 0 else max(policy.quiet_seconds, policy.deadline_seconds)
    quiet = max(timedelta(), now - evidence.last_received_at)
    complete = quiet >= timedelta(seconds=wait)
    parts = [
        _associations(evidence),
        f"quiet for {_seconds(quiet.total_seconds())}" + ("" if complete else f" of {_seconds(wait)}"),
        _count(evidence.instances, "instance"),
    ]
    due = None if complete else evidence.last_received_at + timedelta(seconds=wait)
    return Verdict(complete, ", ".join(parts), due)


def _associations(evidence: Evidence) -> str:
    if evidence.open_associations:
        return f"{evidence.open_associations} of {_count(evidence.associations, 'association')} not ended"
    return f"{_count(evidence.associations, 'association')} ended"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seconds(seconds: float) -> str:
    return f"{int(seconds) if seconds >= 1 else round(seconds, 1):g} s"
