"""Which pipelines a series goes to: rules.yaml, checked as a whole when it is saved, and matched with a reason for each line.

    rules:
      - name: chest CT, lungs
        when:                                  # all, any, none; they nest
          all:
            - {attribute: Modality, is: CT}
            - {fact: slices, at_least: 20}
            - {time: ["07:00", "19:00"], days: [mon, tue, wed, thu, fri]}
        pipeline: ct_lung
        send_to: [pacs]
        priority: routine                      # stat | routine | background
        enabled: true
        shadow: false                          # true: run and keep, send nothing
        canary: {pipeline: ct_lung_v2, share: 10}      # percent that another one also works on, in the shadow
        companions:                            # where the pipeline wants other series of the study beside this one: by its roles,
          pet: {all: [{attribute: Modality, is: PT}]}  # which one is which

`when: otherwise` makes the fallback: it matches where no other rule did. The order of rules has no meaning. conditions.py says
what a condition means. Whatever the rules say, results never start a job: a series of SEG, SR, KO or PR, or one made by this
gateway, matches no rule (the loop guard).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import yaml

from gateway.decisions.conditions import Expression, Row, expression, row
from gateway.decisions.document import Document
from gateway.decisions.matching import (
    OTHERWISE,
    PRIORITIES,
    Canary,
    Condition,
    Group,
    Outcome,
    Rule,
    RuleSet,
    is_result,
    match,
    matched,
    roles,
)
from gateway.decisions.vocabulary import attribute, did_you_mean, fact
from gateway.decisions.window import window
from gateway.dicom.uids import digest
from gateway.errors import ConfigError

__all__ = [
    "MAX_RULES",
    "PRIORITIES",
    "Outcome",
    "Rule",
    "RuleSet",
    "is_result",
    "load",
    "load_taken",
    "match",
    "matched",
    "roles",
]

LEVELS = ("series", "study")
MAX_RULES = 500
_ROW = "{attribute: KEYWORD, OPERATOR: VALUE}, {fact: NAME, OPERATOR: VALUE}, {time: [FROM, TO]}, {expression: CEL} or a group"
_GROUPS = ("all", "any", "none")
_CONDITIONS = "all, any or none, with conditions"
_ABOUT = {"attribute": (2,), "fact": (2,), "expression": (1,), "time": (1, 2), "days": (1,)}
"""What a condition may be about, and how many keys it then has."""
_KEYS = ("name", "when", "pipeline", "send_to", "priority", "enabled", "shadow", "canary", "level", "companions")


def load(text: str, *, pipelines: Collection[str], peers: Collection[str]) -> RuleSet:
    """Read rules.yaml; raise ConfigError with every problem, each with its line, its rule and what was expected there.

    Where `pipelines` says of each name which `roles` its companions have (pipeline.py), it is checked that rules know these.
    """
    document = Document(text)
    rules = _Reader(document, pipelines, peers).rules()
    if document.problems:
        raise ConfigError(document.problems)
    return RuleSet(digest(document.content()), rules)


def load_taken(text: str, *, pipelines: Collection[str], peers: Collection[str], version: int) -> RuleSet:
    """Read a version that was taken as right once: a rule that does not fit any more gets a `problem`, and the others go on.

    Of a rule whose conditions cannot be read nobody knows which series it is for: it is refused for all of them.
    """
    try:
        document = Document(text)
        rules = _Reader(document, pipelines, peers, lenient=True).rules()
        if document.problems:
            raise ConfigError(document.problems)
    except ConfigError as error:
        return RuleSet("", (Rule("all rules", 1, "", (), "routine", (), problem="; ".join(error.problems)),), version)
    return RuleSet(digest(document.content()), rules, version)


class _Reader:
    """Reads rules off the nodes of `document`; once it has a problem, what comes back is not used."""

    def __init__(self, document: Document, pipelines: Collection[str], peers: Collection[str], *, lenient: bool = False) -> None:
        self.document = document
        self.pipelines = pipelines
        self.peers = peers
        self.lenient = lenient

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
        known = len(document.problems)
        parts = document.mapping(node, _KEYS)
        otherwise = getattr(parts.get("when"), "value", None) == OTHERWISE
        conditions = () if otherwise else self.groups(parts.get("when"), node)
        companions = self.companions(parts.get("companions"))
        unread = len(document.problems) > known
        rule = Rule(
            name=document.word(parts.get("name"), node, "name"),
            line=node.start_mark.line + 1,
            pipeline=document.choice(parts.get("pipeline"), node, "pipeline", self.pipelines),
            send_to=self.send_to(parts.get("send_to"), node),
            priority=document.choice(parts.get("priority"), node, "priority", PRIORITIES) if "priority" in parts else "routine",
            conditions=conditions,
            otherwise=otherwise,
            enabled=document.flag(parts["enabled"], "enabled") if "enabled" in parts else True,
            shadow=document.flag(parts["shadow"], "shadow") if "shadow" in parts else False,
            level=document.choice(parts.get("level"), node, "level", LEVELS) if "level" in parts else "series",
            companions=companions,
        )
        self.check_roles(rule.pipeline, companions, parts.get("companions", node))
        problems = document.take_problems() if self.lenient else []
        rule = replace(rule, canary=self.canary(parts["canary"], companions) if "canary" in parts else None)
        self.check_unknown_roles(rule, parts.get("companions", node))
        if self.lenient:
            document.take_problems()  # without its canary a rule goes on
        return replace(rule, problem="; ".join(problems), conditions=() if unread else conditions) if problems else rule

    def companions(self, node: yaml.Node | None) -> dict[str, Group]:
        found: dict[str, Group] = {}
        if node is not None and not self.document.pairs(node):
            self.document.problem(node, f"expected companions: by role, {_CONDITIONS}")
        for role, key, value in self.document.pairs(node):
            if role in found:
                self.document.problem(key, f"expected {role} once")
            found[role] = Group("all", key.start_mark.line + 1, self.groups(value, key, f"{_CONDITIONS}, after {role}"))
        return found

    def canary(self, node: yaml.Node, companions: Collection[str]) -> Canary | None:
        document = self.document
        parts = document.mapping(node, ("pipeline", "share"))
        pipeline = document.choice(parts.get("pipeline"), node, "pipeline", self.pipelines)
        share = document.value(parts["share"]) if "share" in parts else None
        if not isinstance(share, int) or isinstance(share, bool) or not 1 <= share <= 100:
            document.problem(node, "expected share: a whole number of percent, 1 to 100")
            return None
        return Canary(pipeline, share) if pipeline and self.check_roles(pipeline, companions, node) else None

    def check_roles(self, pipeline: str, companions: Collection[str], node: yaml.Node) -> bool:
        lacking = [role for role, required in (self.roles(pipeline) or {}).items() if required and role not in companions]
        if lacking:
            self.document.problem(node, f"expected companions: {_CONDITIONS}, for {', '.join(lacking)} of pipeline {pipeline}")
        return not lacking

    def check_unknown_roles(self, rule: Rule, node: yaml.Node) -> None:
        """Of what neither its pipeline nor that of its canary has."""
        offered = [self.roles(name) for name in (rule.pipeline, rule.canary.pipeline if rule.canary else "") if name]
        known = dict.fromkeys(role for roles in offered for role in roles or ())
        unknown = [role for role in rule.companions if role not in known]
        if unknown and offered and None not in offered:
            near = did_you_mean(unknown[0], known)
            self.document.problem(node, f"expected companions among {', '.join(known) or '(there is none)'}{near}")

    def roles(self, pipeline: str) -> Mapping[str, bool] | None:
        """Of a pipeline's companions, and whether it needs each; None where nobody says."""
        offered = self.pipelines.get(pipeline) if isinstance(self.pipelines, Mapping) else None
        return None if offered is None else offered.roles

    def send_to(self, node: yaml.Node | None, parent: yaml.Node) -> tuple[str, ...]:
        peers = self.document.items(node, parent, "send_to")
        send_to = tuple(self.document.choice(peer, parent, "send_to", self.peers) for peer in peers)
        known = [peer for peer in send_to if peer]
        if len(set(known)) < len(known):
            self.document.problem(node or parent, "expected each peer once")
        return send_to

    def groups(
        self, node: yaml.Node | None, parent: yaml.Node, expected: str = f"{_CONDITIONS}, or {OTHERWISE}, after when"
    ) -> tuple[Condition, ...]:
        """Conditions that must all hold: the members of `all`; any and none as groups."""
        has_any = any(key in _GROUPS for key, _, _ in self.document.pairs(node))
        parts = self.document.mapping(node, _GROUPS) if node and has_any else {}
        if not parts:
            self.document.problem(node or parent, f"expected {expected}")
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
        about = next((one for one in _ABOUT if one in keys), "")
        if not about or len(pairs) != len(keys) or len(keys) not in _ABOUT[about]:
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
        if about in ("time", "days"):
            hours, days = values.pop("time", None), values.pop("days", None)
            if not values:
                source, expected = window(hours, days)
                return expression(source, text=text, line=line, expected=expected)
            raise ConfigError([f"expected {_ROW}"])
        subject = values.pop(about)
        if about == "expression":
            return expression(subject, text=text, line=line)
        ((operator, operand),) = values.items()
        named = attribute(str(subject)) if about == "attribute" else fact(str(subject))
        return row(named, operator, operand, text=text, line=line)
