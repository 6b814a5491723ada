"""When is a series complete? By evidence, and with the reason in a sentence that is stored: DICOM has no message for it.

The first signal of _ORDER that knows anything decides. Says it that the series is whole, the waiting is over as soon as a
short silence follows the end of the associations. Says it that something is missing, the series waits until its deadline;
then `at_deadline` decides. Where no signal knows anything the quiet time is the last resort.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

CONFIRM_SECONDS = 0.5
"""A source that counts as many instances as there are is asked twice, so far apart: it may still be receiving itself."""
_ORDER = ("performed", "source", "geometry", "declared", "numbers", "association")
_PAUSES = 3


class Says(StrEnum):
    WHOLE = "whole"
    SHORT = "short"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Signal:
    """What one kind of evidence says of a series; `why` is part of a sentence, with numbers and without names."""

    name: str
    says: Says
    why: str


class Decision(StrEnum):
    WAIT = "wait"
    LOOK = "look"
    """At the headers, and at the source's count: they have not been asked about these instances."""
    COMPLETE = "complete"
    PARTIAL = "partial"
    HELD = "held"
    FAILED = "failed"


AT_DEADLINE = {"partial": Decision.PARTIAL, "hold": Decision.HELD, "fail": Decision.FAILED}


@dataclass(frozen=True)
class Policy:
    """Seconds without an instance: `settle_seconds` where evidence suffices, `quiet_seconds` where there is none, both after all
    associations ended; `deadline_seconds` when one never ends, or something is missing.

    `ignore` names signals that are not believed; `source` is the peer that is asked how many instances the series has;
    `one_association`: who sends it is known to send a series over one association.
    """

    quiet_seconds: float
    deadline_seconds: float
    settle_seconds: float = 0.5
    at_deadline: str = "hold"
    source: str = ""
    ignore: Collection[str] = ()
    one_association: bool = False
    where: tuple["Where", ...] = ()

    def of(self, modality: str, calling_ae_titles: Collection[str]) -> "Policy":
        """The first of `where` that fits the series and all who sent it; else this one."""
        return next((one.policy for one in self.where if one.fits(modality, calling_ae_titles)), self)

    @property
    def first_look(self) -> timedelta:
        """After an instance came, or the association ended."""
        return timedelta(seconds=min(self.settle_seconds, self.quiet_seconds))


@dataclass(frozen=True)
class Where:
    """The policy for series of these modalities that came from these calling AE titles; empty: of all, from all."""

    policy: Policy
    modalities: Collection[str] = ()
    calling_ae_titles: Collection[str] = ()

    def fits(self, modality: str, calling_ae_titles: Collection[str]) -> bool:
        return (not self.modalities or modality in self.modalities) and (
            not self.calling_ae_titles or set(calling_ae_titles) <= set(self.calling_ae_titles)
        )


@dataclass(frozen=True)
class Counted:
    """How many instances of the series `peer` has, None where it does not say; the same since `since`."""

    peer: str
    count: int | None
    since: datetime


@dataclass(frozen=True)
class Performed:
    """What the modality says that it made of the series in steps that have ended (PS3.4 F.7), and how much of that is `here`.

    `is_open`: a procedure step of the study is in progress.
    """

    made: int
    here: int
    is_open: bool


@dataclass(frozen=True)
class Evidence:
    """What is known of a series: its instances, the associations that carried any of them, what was found in its headers.

    Times are aware. `signals` is None while nobody has looked at the headers of these instances. `whole_associations` were
    released, with everything in them taken. `broken_off`: one that carried any was aborted or lost, or had to leave something
    for later, and its sender has not come back to the study since. `listening_since`: silence before that is none, for nobody
    could come in; None: it is not known. `forced_by`: the person who said that it is complete.
    """

    instances: int
    associations: int
    open_associations: int
    first_received_at: datetime
    last_received_at: datetime
    signals: tuple[Signal, ...] | None = ()
    source: Counted | None = None
    whole_associations: int = 0
    forced_by: str = ""
    performed: Performed | None = None
    broken_off: bool = False
    listening_since: datetime | None = None

    @property
    def quiet_since(self) -> datetime:
        return max(self.last_received_at, self.listening_since or self.last_received_at)

    @property
    def spread(self) -> timedelta:
        """From the first instance to the last."""
        return max(timedelta(), self.last_received_at - self.first_received_at)


@dataclass(frozen=True)
class Verdict:
    """`due` is when to look again if nothing new has come by then; None when decided, or with nothing to wait for.

    `signals` is all that spoke, `missing` what a partial, held or failed series lacks.
    """

    decision: Decision
    reason: str
    due: datetime | None
    signals: tuple[Signal, ...] = ()
    missing: str = ""

    @property
    def complete(self) -> bool:
        return self.decision in (Decision.COMPLETE, Decision.PARTIAL)


def verdict(evidence: Evidence, *, now: datetime, policy: Policy) -> Verdict:
    """What to do with a series now: wait, look at its headers, or take it as complete, partial, held or failed.

    All times run from the last instance, so a series that still grows is never cut off; or from when the doors opened, where
    that was later. A clock that was set back waits longer.
    """
    if evidence.instances == 0:
        return Verdict(Decision.WAIT, "no instances", None)
    signals = _signals(evidence, policy)
    decisive = _decisive(signals, policy)
    missing = decisive.why if decisive and decisive.says is Says.SHORT else ""
    if evidence.forced_by and evidence.signals is not None:
        decision = Decision.PARTIAL if missing else Decision.COMPLETE
        return Verdict(decision, f"a person said that it is complete{_also(decisive)}", None, signals, missing)
    wait, decision = _wait(evidence, policy, decisive)
    quiet = max(timedelta(), now - evidence.quiet_since)
    due = evidence.quiet_since + timedelta(seconds=0 if evidence.forced_by else wait)
    if decisive and decisive.name == "source" and decisive.says is Says.WHOLE and evidence.source:
        due = max(due, evidence.source.since + timedelta(seconds=CONFIRM_SECONDS))
    is_due = now >= due and quiet >= timedelta(seconds=0 if evidence.forced_by else wait)
    parts = [
        _associations(evidence),
        f"quiet for {_seconds(quiet.total_seconds())}" + ("" if is_due else f" of {_seconds(wait)}"),
        f"{_count(evidence.instances, 'instance')}{_also(decisive)}",
    ]
    if not is_due:
        return Verdict(Decision.WAIT, ", ".join(parts), due, signals)
    if decisive is None and decision is Decision.COMPLETE:
        parts.append("nothing says how many there should be")
    return Verdict(decision, ", ".join(parts), None, signals, missing if decision is not Decision.LOOK else "")


def _wait(evidence: Evidence, policy: Policy, decisive: Signal | None) -> tuple[float, Decision]:
    """Seconds, and what follows after them."""
    ended, quiet = evidence.open_associations == 0, policy.quiet_seconds
    if evidence.signals is None:
        return (_short(evidence, policy) if ended else quiet), Decision.LOOK
    longest = max(quiet, policy.deadline_seconds)
    if decisive is None:
        is_made = evidence.performed is not None and evidence.performed.is_open
        return (quiet if ended and not is_made else longest), Decision.COMPLETE
    if decisive.says is Says.WHOLE:
        return (_short(evidence, policy) if ended else quiet), Decision.COMPLETE
    return longest, AT_DEADLINE[policy.at_deadline]


def _short(evidence: Evidence, policy: Policy) -> float:
    """A sender that takes its time between two instances is not looked at between each two of them."""
    pause = evidence.spread.total_seconds() / max(evidence.instances - 1, 1)
    return min(policy.quiet_seconds, max(policy.settle_seconds, _PAUSES * pause))


def _signals(evidence: Evidence, policy: Policy) -> tuple[Signal, ...]:
    own = (_performed(evidence), _source(evidence), _association(evidence, policy))
    return tuple(signal for signal in (*own, *(evidence.signals or ())) if signal)


def _decisive(signals: Collection[Signal], policy: Policy) -> Signal | None:
    known = {signal.name: signal for signal in signals if signal.says is not Says.NOTHING and signal.name not in policy.ignore}
    return next((known[name] for name in _ORDER if name in known), None)


def _performed(evidence: Evidence) -> Signal | None:
    """One in which more is here than was told of comes of other steps as well: those may not have ended."""
    told = evidence.performed
    if told is None:
        return None
    if not told.made:
        return Signal("performed", Says.NOTHING, "the modality is at work on the study") if told.is_open else None
    if told.here < told.made:
        return Signal("performed", Says.SHORT, f"{told.here} of {_count(told.made, 'instance')} that the modality made")
    if evidence.instances > told.made:
        return Signal("performed", Says.NOTHING, f"more instances than the {told.made} that the modality told of")
    return Signal("performed", Says.WHOLE, f"{told.here} of {_count(told.made, 'instance')} that the modality made")


def _source(evidence: Evidence) -> Signal | None:
    if evidence.source is None:
        return None
    peer, count = evidence.source.peer, evidence.source.count
    if not count:
        return Signal("source", Says.NOTHING, f"{peer} does not say how many instances the series has")
    if count < evidence.instances:
        return Signal("source", Says.NOTHING, f"{peer} has {count} of them itself so far")
    says = Says.WHOLE if count == evidence.instances else Says.SHORT
    return Signal("source", says, f"{peer} has {_count(count, 'instance')} of the series")


def _association(evidence: Evidence, policy: Policy) -> Signal | None:
    if evidence.broken_off:
        return Signal("association", Says.SHORT, "an association was broken off or put off, and its sender has not come back")
    if not policy.one_association:
        return None
    if (evidence.associations, evidence.whole_associations) != (1, 1):
        return Signal("association", Says.NOTHING, "not one association that was released with everything in it taken")
    return Signal("association", Says.WHOLE, "the one association that its sender uses for a series was released")


def _also(decisive: Signal | None) -> str:
    return f", {decisive.why}" if decisive else ""


def _associations(evidence: Evidence) -> str:
    if evidence.open_associations:
        return f"{evidence.open_associations} of {_count(evidence.associations, 'association')} not ended"
    return f"{_count(evidence.associations, 'association')} ended"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seconds(seconds: float) -> str:
    return f"{int(seconds) if seconds >= 1 else round(seconds, 1):g} s"
