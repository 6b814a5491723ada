"""Replay: what a draft of the rules would have made of past series, beside what the rules in force make of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select

from gateway.db import Database
from gateway.decisions.rules import Rule, RuleSet, matched, roles
from gateway.rows.tables import Series, SeriesState
from gateway.work.kept import Keep, Kept

_EXAMPLES = 5


@dataclass(frozen=True)
class Wish:
    """A job as rules want it of one series."""

    pipeline: str
    send_to: tuple[str, ...]
    rules: tuple[str, ...]


@dataclass
class RuleChange:
    """How often a rule matches now and would match; `examples` are series that it would gain or lose."""

    rule: str
    matches: int = 0
    would_match: int = 0
    gained: int = 0
    lost: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SeriesChange:
    """What would change for one series: job by job, in words."""

    series_instance_uid: str
    matches: tuple[str, ...]
    would_match: tuple[str, ...]
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Replay:
    """`unkept` are series of which nothing was kept: nothing is said of them."""

    series: int
    unkept: int
    unmatched: int
    would_be_unmatched: int
    new_jobs: int
    lost_jobs: int
    changed_peers: int
    rules: tuple[RuleChange, ...]
    changed: tuple[SeriesChange, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def replay(db: Database, keep: Keep, *, before: RuleSet, after: RuleSet, since: datetime) -> Replay:
    """Over all series that were settled since; the latest revision of each."""
    query = select(Series.series_instance_uid, Series.revision).where(
        Series.complete_at >= since, Series.state != SeriesState.RECEIVING
    )
    with db() as session:
        found = [(uid, revision) for uid, revision in session.execute(query.order_by(Series.complete_at))]
    tally = _Tally(before, after)
    for uid, revision in found:
        kept = keep.get(uid, revision)
        if kept is not None:
            tally.look(uid, kept)
    return tally.told(len(found))


def wishes(rules: Iterable[Rule]) -> dict[str, Wish]:
    """By pipeline: rules that name the same one share its job; what runs in the shadow is a wish of its own."""
    found: dict[str, Wish] = {}
    for rule in rules:
        name = f"{rule.pipeline} in the shadow" if rule.shadow else rule.pipeline
        known = found.get(name, Wish(name, (), ()))
        peers = dict.fromkeys((*known.send_to, *rule.send_to))
        found[name] = Wish(name, tuple(peers), (*known.rules, rule.name))
    return found


def _companions(now: Sequence[str], then: Sequence[str]) -> Iterable[str]:
    yield from (f"may be the {role}" for role in then if role not in now)
    yield from (f"is not the {role} any more" for role in now if role not in then)


class _Tally:
    def __init__(self, before: RuleSet, after: RuleSet) -> None:
        self.before, self.after = before, after
        self.keywords = before.keywords | after.keywords
        names = dict.fromkeys(rule.name for rule in (*after.rules, *before.rules))
        self.rules = {name: RuleChange(name) for name in names}
        self.seen = self.unmatched = self.would_be_unmatched = 0
        self.new = self.lost = self.peers = 0
        self.changed: list[SeriesChange] = []

    def look(self, uid: str, kept: Kept) -> None:
        attributes = kept.attributes(self.keywords)
        now, then = (matched(rules, attributes, kept.facts) for rules in (self.before, self.after))
        self.seen += 1
        was, is_then = (roles(rules, attributes, kept.facts) for rules in (self.before, self.after))
        self.unmatched += not (now or was)
        self.would_be_unmatched += not (then or is_then)
        now_names, then_names = [rule.name for rule in now], [rule.name for rule in then]
        self._count(uid, set(now_names), set(then_names))
        jobs = (*self._jobs(wishes(now), wishes(then)), *_companions(was, is_then))
        if jobs or now_names != then_names:
            self.changed.append(SeriesChange(uid, tuple(now_names), tuple(then_names), jobs))

    def _count(self, uid: str, now: set[str], then: set[str]) -> None:
        for name in now | then:
            change = self.rules[name]
            change.matches += name in now
            change.would_match += name in then
            change.gained += name in then - now
            change.lost += name in now - then
            if (name in now) != (name in then) and len(change.examples) < _EXAMPLES:
                change.examples.append(uid)

    def _jobs(self, now: Mapping[str, Wish], then: Mapping[str, Wish]) -> Iterable[str]:
        for pipeline, wish in then.items():
            if pipeline not in now:
                self.new += 1
                yield f"new job {pipeline} to {', '.join(wish.send_to)}"
            elif set(wish.send_to) != set(now[pipeline].send_to):
                self.peers += 1
                yield f"{pipeline} goes to {', '.join(wish.send_to)} instead of {', '.join(now[pipeline].send_to)}"
        for pipeline in now.keys() - then.keys():
            self.lost += 1
            yield f"no job {pipeline} any more"

    def told(self, series: int) -> Replay:
        return Replay(
            series, series - self.seen, self.unmatched, self.would_be_unmatched, self.new, self.lost, self.peers,
            tuple(self.rules.values()), tuple(self.changed),
        )  # fmt: skip
