"""Which pipelines a series goes to: rules.yaml, checked as a whole when it is saved, and matched with a reason for each line.

    rules:
      - name: chest CT, lungs
        when:                                  # all, any, none; they nest
          all:
            - {attribute: Modality, is: CT}
            - {fact: slices, at_least: 20}
        pipeline: ct_lung
        send_to: [pacs]
        priority: routine                      # stat | routine | background

conditions.py says what a condition means. Whatever the rules say, results never start a job: a series of SEG, SR, KO or PR,
or one made by this gateway, matches no rule (the loop guard).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

import yaml

from gateway.conditions import ConditionOutcome, Expression, Row, expression, row
from gateway.document import Document
from gateway.errors import ConfigError
from gateway.uids import digest
from gateway.vocabulary import attribute, fact

PRIORITIES = ("stat", "routine", "background")
MAX_RULES = 500
_ROW = "{attribute: KEYWORD, OPERATOR: VALUE}, {fact: NAME, OPERATOR: VALUE}, {expression: CEL} or a group"
_GROUPS = ("all", "any", "none")
_KEYS = ("name", "when", "pipeline", "send_to", "priority")
_LOOP_GUARD = ConditionOutcome(
    "(always)", 0, held=False, why="expected images; results (SEG, SR, KO, PR, or made by this gateway) never start a job"
)


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


Condition = Row | Expression | Group


@dataclass(frozen=True)
class Rule:
    """All `conditions` must hold; then `pipeline` runs and its outputs go to the peers of `send_to`."""

    name: str
    line: int
    pipeline: str
    send_to: tuple[str, ...]
    priority: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class RuleSet:
    """`digest` is the SHA-256 (hex) of what the rules say, whatever their comments and layout."""

    digest: str
    rules: tuple[Rule, ...]

    @property
    def keywords(self) -> frozenset[str]:
        """The attributes that matching looks at: what facts.attributes has to read."""
        return _keywords(condition for rule in self.rules for condition in rule.conditions)


@dataclass(frozen=True)
class Outcome:
    """What one rule says of a series."""

    rule: Rule
    matched: bool
    conditions: tuple[ConditionOutcome, ...]

    def as_json(self) -> dict[str, object]:
        """Plain types for json.dumps; nothing in it identifies a patient."""
        return {
            "rule": self.rule.name,
            "line": self.rule.line,
            "pipeline": self.rule.pipeline,
            "matched": self.matched,
            "conditions": [asdict(condition) for condition in self.conditions],
        }


def match(rule_set: RuleSet, attributes: Mapping[str, object], facts: Mapping[str, object]) -> tuple[Outcome, ...]:
    """One outcome for each rule, in their order. `attributes` and `facts` come from facts.py. Thread safe."""
    guard = (_LOOP_GUARD,) if facts.get("ours") or facts.get("results") else ()
    outcomes = []
    for rule in rule_set.rules:
        conditions = guard + tuple(condition.outcome(attributes, facts) for condition in rule.conditions)
        outcomes.append(Outcome(rule, all(condition.held for condition in conditions), conditions))
    return tuple(outcomes)


def load(text: str, *, pipelines: Collection[str], peers: Collection[str]) -> RuleSet:
    """Read rules.yaml; raise ConfigError with every problem, each with its line, its rule and what was expected there."""
    document = Document(text)
    rules = _Reader(document, pipelines, peers).rules()
    if document.problems:
        raise ConfigError(document.problems)
    return RuleSet(digest(document.content()), rules)


def _keywords(conditions: Iterable[Condition]) -> frozenset[str]:
    none: frozenset[str] = frozenset()
    return none.union(*(condition.keywords for condition in conditions))


class _Reader:
    """Reads rules off the nodes of `document`; once it has a problem, what comes back is not used."""

    def __init__(self, document: Document, pipelines: Collection[str], peers: Collection[str]) -> None:
        self.document = document
        self.pipelines = pipelines
        self.peers = peers

    def rules(self) -> tuple[Rule, ...]:
        document = self.document
        nodes = document.items(document.mapping(document.root, ("rules",)).get("rules"), document.root, "rules")
        if len(nodes) > MAX_RULES:
            document.problem(document.root, f"expected at most {MAX_RULES} rules")
            return ()
        rules: dict[str, Rule] = {}
        for node in nodes:
            rule = self.rule(node)
            if rule.name and rule.name in rules:
                document.problem(node, f"expected a name of its own; the rule of line {rules[rule.name].line} has it already")
            rules[rule.name] = rule
            document.heading = ""
        return tuple(rules.values())

    def rule(self, node: yaml.Node) -> Rule:
        document = self.document
        name = next((str(value.value) for key, _, value in document.pairs(node) if key == "name"), "")
        document.heading = f"rule {name!r}" if name else ""
        parts = document.mapping(node, _KEYS)
        priority = document.choice(parts["priority"], node, "priority", PRIORITIES) if "priority" in parts else "routine"
        peers = document.items(parts.get("send_to"), node, "send_to")
        send_to = tuple(document.choice(peer, node, "send_to", self.peers) for peer in peers)
        if len(set(send_to)) < len(send_to):
            document.problem(parts["send_to"], "expected each peer once")
        return Rule(
            name=document.word(parts.get("name"), node, "name"),
            line=node.start_mark.line + 1,
            pipeline=document.choice(parts.get("pipeline"), node, "pipeline", self.pipelines),
            send_to=send_to,
            priority=priority,
            conditions=self.groups(parts.get("when"), node),
        )

    def groups(self, node: yaml.Node | None, parent: yaml.Node) -> tuple[Condition, ...]:
        """Conditions that must all hold: the members of `all`; any and none as groups."""
        parts = self.document.mapping(node, _GROUPS) if node else {}
        if not parts:
            self.document.problem(node or parent, "expected all, any or none, with conditions, after when")
        conditions: list[Condition] = []
        for kind, members in parts.items():
            read = map(self.condition, self.document.items(members, members, kind))
            inner = tuple(condition for condition in read if condition)
            conditions.extend(inner if kind == "all" else [Group(kind, members.start_mark.line + 1, inner)])
        return tuple(conditions)

    def condition(self, node: yaml.Node) -> Condition | None:
        pairs = self.document.pairs(node)
        keys = {key: value for key, _, value in pairs}
        if keys.keys() & set(_GROUPS):
            inner = self.groups(node, node)
            return inner[0] if len(inner) == 1 else Group("all", node.start_mark.line + 1, inner)
        about = next((one for one in ("attribute", "fact", "expression") if one in keys), "")
        wanted = 1 if about == "expression" else 2
        if not about or not len(pairs) == len(keys) == wanted:
            self.document.problem(node, f"expected {_ROW}")
            return None
        try:
            return self.row_or_expression(node, about, {key: self.document.value(value) for key, value in keys.items()})
        except ConfigError as error:
            for expected in error.problems:
                self.document.problem(node, expected)
        return None

    def row_or_expression(self, node: yaml.Node, about: str, values: dict[str, object]) -> Row | Expression:
        text, line = self.document.written(node), node.start_mark.line + 1
        subject = values.pop(about)
        if about == "expression":
            return expression(subject, text=text, line=line)
        ((operator, operand),) = values.items()
        named = attribute(str(subject)) if about == "attribute" else fact(str(subject))
        return row(named, operator, operand, text=text, line=line)
