"""Matching: rules, and what they say of a series with a reason for each condition."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256

from gateway.decisions.conditions import ConditionOutcome, Expression, Row

PRIORITIES = ("stat", "routine", "background")
OTHERWISE = "otherwise"
_LOOP_GUARD = ConditionOutcome(
    "(always)", 0, held=False, why="expected images; results (SEG, SR, KO, PR, or made by this gateway) never start a job"
)
_DISABLED = "expected a rule that is enabled; somebody has switched it off"


@dataclass(frozen=True)
class Group:
    """`kind`, all, any or none, of `conditions` must hold."""

    kind: str
    line: int
    conditions: tuple["Condition", ...]

    @property
    def keywords(self) -> frozenset[str]:
        return _keywords(self.conditions)

    def outcome(self, attributes: Mapping[str, object], facts: Mapping[str, object]) -> ConditionOutcome:
        outcomes = tuple(condition.outcome(attributes, facts) for condition in self.conditions)
        holding = sum(outcome.held for outcome in outcomes)
        held = {"all": holding == len(outcomes), "any": holding > 0, "none": holding == 0}[self.kind]
        why = f"expected {self.kind} of {len(outcomes)} to hold; {holding} did"
        return ConditionOutcome(self.kind, self.line, held, why, outcomes)

    def holds(self, attributes: Mapping[str, object], facts: Mapping[str, object]) -> bool:
        each = (condition.holds(attributes, facts) for condition in self.conditions)
        return all(each) if self.kind == "all" else any(each) is (self.kind == "any")


Condition = Row | Expression | Group


@dataclass(frozen=True)
class Canary:
    """`share` percent of the series that the rule matches also go through `pipeline`, in the shadow."""

    pipeline: str
    share: int

    def takes(self, series_instance_uid: str) -> bool:
        """For a series always the same, on every machine."""
        drawn = sha256(f"{self.pipeline} {series_instance_uid}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") % 10_000 < self.share * 100


@dataclass(frozen=True)
class Rule:
    """All `conditions` must hold; then `pipeline` runs and its outputs go to the peers of `send_to`."""

    name: str
    line: int
    pipeline: str
    send_to: tuple[str, ...]
    priority: str
    conditions: tuple[Condition, ...]
    otherwise: bool = False
    """The fallback: it matches where no other rule did."""
    enabled: bool = True
    shadow: bool = False
    """The job runs and its results are kept; nothing is sent before a person releases them. To a fallback it is no match."""
    canary: "Canary | None" = None
    level: str = "series"
    """`study`: of the series that it matches in a study the pipeline gets the best one, when the study is complete."""
    companions: Mapping[str, Group] = field(default_factory=dict)
    """By role, what another series of the study is known by that the pipeline gets beside the one that the rule matches."""
    problem: str = ""
    """Why it cannot be followed, though it was taken: a pipeline or peer that it names is gone, or it cannot be read any more."""


@dataclass(frozen=True)
class RuleSet:
    """`digest` is the SHA-256 (hex) of what the rules say, whatever their comments and layout.

    `version` is its number in the database, None where it is not from there.
    """

    digest: str
    rules: tuple[Rule, ...]
    version: int | None = None

    @property
    def keywords(self) -> frozenset[str]:
        """The attributes that matching looks at: what facts.attributes has to read."""
        return _keywords(one for rule in self.rules for one in (*rule.conditions, *rule.companions.values()))


@dataclass(frozen=True)
class Outcome:
    """What one rule says of a series."""

    rule: Rule
    matched: bool
    conditions: tuple[ConditionOutcome, ...]
    refused: bool = False
    """It would have matched, and cannot be followed: a person has to look at the series."""
    companions: Mapping[str, ConditionOutcome] = field(default_factory=dict)
    """By role, what the rule says of the series as a companion of another one."""

    @property
    def roles(self) -> list[str]:
        """Those that the series may have beside another one."""
        return [] if self.rule.problem else [role for role, one in self.companions.items() if one.held]

    @property
    def wanted(self) -> bool:
        """For a job of its own, or as a companion."""
        return self.matched or bool(self.roles)

    def as_json(self) -> dict[str, object]:
        """Plain types for json.dumps; nothing in it identifies a patient."""
        return {
            "rule": self.rule.name,
            "line": self.rule.line,
            "pipeline": self.rule.pipeline,
            "matched": self.matched,
            "shadow": self.rule.shadow,
            "refused": self.refused,
            "conditions": [asdict(condition) for condition in self.conditions],
            **({"companions": {role: asdict(one) for role, one in self.companions.items()}} if self.companions else {}),
        }


def match(rule_set: RuleSet, attributes: Mapping[str, object], facts: Mapping[str, object]) -> tuple[Outcome, ...]:
    """One outcome for each rule, in their order. `attributes` and `facts` come from facts.py. Thread safe."""
    guard = (_LOOP_GUARD,) if is_result(facts) else ()
    first = {rule.name: _outcome(rule, guard, attributes, facts) for rule in rule_set.rules if not rule.otherwise}
    taken = [name for name, one in first.items() if (one.matched or one.refused) and not one.rule.shadow]
    outcomes = (first.get(rule.name) or _fallback(rule, guard, taken) for rule in rule_set.rules)
    return tuple(outcome if guard else _as_companion(outcome, attributes, facts) for outcome in outcomes)


def matched(rule_set: RuleSet, attributes: Mapping[str, object], facts: Mapping[str, object]) -> list[Rule]:
    """The rules that match, as `match` has it, without a word on why: for very many series."""
    if is_result(facts):
        return []
    enabled = [rule for rule in rule_set.rules if rule.enabled]
    first = [
        rule
        for rule in enabled
        if not rule.otherwise and all(condition.holds(attributes, facts) for condition in rule.conditions)
    ]
    if all(rule.shadow for rule in first):
        first += [rule for rule in enabled if rule.otherwise]
    return [rule for rule in first if not rule.problem]


def roles(rule_set: RuleSet, attributes: Mapping[str, object], facts: Mapping[str, object]) -> list[str]:
    """What the series may be beside another one, as `match` has it: the role and its rule."""
    if is_result(facts):
        return []
    followed = [rule for rule in rule_set.rules if rule.enabled and not rule.problem]
    return [
        f"{role} of {rule.name}" for rule in followed for role, group in rule.companions.items() if group.holds(attributes, facts)
    ]


def is_result(facts: Mapping[str, object]) -> bool:
    """What the loop guard keeps from starting a job."""
    return bool(facts.get("ours") or facts.get("results"))


def _outcome(
    rule: Rule, guard: tuple[ConditionOutcome, ...], attributes: Mapping[str, object], facts: Mapping[str, object]
) -> Outcome:
    if not rule.enabled:
        return Outcome(
            rule, matched=False, conditions=(ConditionOutcome("enabled: false", rule.line, held=False, why=_DISABLED),)
        )
    conditions = guard + tuple(condition.outcome(attributes, facts) for condition in rule.conditions)
    return _judged(rule, conditions)


def _judged(rule: Rule, conditions: tuple[ConditionOutcome, ...]) -> Outcome:
    held = all(condition.held for condition in conditions)
    if rule.problem:
        conditions += (ConditionOutcome("(the rule itself)", rule.line, held=False, why=rule.problem),)
    return Outcome(rule, held and not rule.problem, conditions, refused=held and bool(rule.problem) and not rule.shadow)


def _as_companion(outcome: Outcome, attributes: Mapping[str, object], facts: Mapping[str, object]) -> Outcome:
    if not outcome.rule.enabled:
        return outcome
    said = {role: group.outcome(attributes, facts) for role, group in outcome.rule.companions.items()}
    return replace(outcome, companions={role: replace(one, text=f"companion {role}") for role, one in said.items()})


def _fallback(rule: Rule, guard: tuple[ConditionOutcome, ...], taken: Collection[str]) -> Outcome:
    if not rule.enabled:
        return _outcome(rule, guard, {}, {})
    why = f"expected that no other rule matches; {', '.join(taken) or 'none'} did"
    return _judged(rule, (*guard, ConditionOutcome(f"when: {OTHERWISE}", rule.line, held=not taken, why=why)))


def _keywords(conditions: Iterable[Condition]) -> frozenset[str]:
    none: frozenset[str] = frozenset()
    return none.union(*(condition.keywords for condition in conditions))
