"""One condition of a rule: compiled to CEL once, and told in words when somebody asks why.

What holds, in every condition:
- A missing or empty value never holds, but for `exists: false`.
- Of several values (VM > 1, or a path through a sequence) `is`, `one_of`, `contains` and `matches` want one that fits;
  `is_not`, `at_least`, `at_most` and `between` want all to fit.
- A value that varies over the series must fit in every instance. An expression cannot use a value that varies.
- Text is compared exactly, case included; `matches` looks for the expression (RE2: linear time) anywhere in the text.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import MappingProxyType

from cel_expr_python import cel

from gateway.decisions.vocabulary import (
    FACTS,
    FLAG,
    NUMBER,
    OTHER,
    TEXT,
    WHOLE,
    Subject,
    Varying,
    did_you_mean,
    every_attribute,
    fact,
    missing,
    told,
)
from gateway.errors import ConfigError

_MAX_EXPRESSION = 2000
_PROGRAMS, _ANSWERS = 5000, 64
_CEL_TYPES = MappingProxyType({TEXT: cel.Type.STRING, WHOLE: cel.Type.INT, NUMBER: cel.Type.DOUBLE, FLAG: cel.Type.BOOL})
_WORD = re.compile(r"[A-Za-z_]\w*")
_PATTERN = re.compile(r"""matches\(\s*(?:\w+\s*,\s*)?([rR]?(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))""")
_CEL_NOISE = re.compile(r"^[A-Z_]+: (ERROR: )?(<input>:)?| \[[A-Z_]+\]$")


@dataclass(frozen=True)
class ConditionOutcome:
    """`text` is the condition as its author wrote it in `line`; `why` names what was expected and, if it may, what was found."""

    text: str
    line: int
    held: bool
    why: str
    conditions: tuple["ConditionOutcome", ...] = ()


@dataclass(frozen=True)
class _Operator:
    """`cel` and `expected` take the operands by number or `all` of them; `{v}` is the value."""

    cel: str
    expected: str
    kinds: tuple[str, ...]
    operands: str = "one"
    every: bool = False


_OPERATORS: Mapping[str, _Operator] = MappingProxyType(
    {
        "is": _Operator("{v} == {0}", "{0}", (TEXT, WHOLE, NUMBER, FLAG)),
        "is_not": _Operator("{v} != {0}", "anything but {0}", (TEXT, WHOLE, NUMBER, FLAG), every=True),
        "one_of": _Operator("{v} in [{all}]", "one of {all}", (TEXT, WHOLE, NUMBER), "list"),
        "contains": _Operator("{v}.contains({0})", "a text with {0} in it", (TEXT,)),
        "matches": _Operator("{v}.matches({0})", "a text that matches {0}", (TEXT,)),
        "at_least": _Operator("{v} >= {0}", "at least {0}", (WHOLE, NUMBER), every=True),
        "at_most": _Operator("{v} <= {0}", "at most {0}", (WHOLE, NUMBER), every=True),
        "between": _Operator("{v} >= {0} && {v} <= {1}", "{0} to {1}", (WHOLE, NUMBER), "pair", every=True),
    }
)
OPERATORS = (*_OPERATORS, "exists")


@dataclass(frozen=True)
class Row:
    """`{attribute: KEYWORD, operator: operand}` or `{fact: NAME, ...}`; `source` is its CEL, empty for `exists`."""

    text: str
    line: int
    subject: Subject
    expected: str
    source: str
    fits: Callable[[object], bool] = field(repr=False, compare=False)

    @property
    def keywords(self) -> frozenset[str]:
        return frozenset() if self.subject.is_fact else frozenset((self.subject.name,))

    def outcome(self, attributes: Mapping[str, object], facts: Mapping[str, object]) -> ConditionOutcome:
        value = (facts if self.subject.is_fact else attributes).get(self.subject.name)
        held = self.holds(attributes, facts)
        return ConditionOutcome(self.text, self.line, held, f"expected {self.expected}; {self._found(value)}")

    def holds(self, attributes: Mapping[str, object], facts: Mapping[str, object]) -> bool:
        """The same, without words."""
        value = (facts if self.subject.is_fact else attributes).get(self.subject.name)
        return all(map(self.fits, value.values)) if isinstance(value, Varying) else self.fits(value)

    def _found(self, value: object) -> str:
        if isinstance(value, Varying):
            shown = [told(one) for one in value.values[:4]] + ["..."] * (len(value.values) > 4)
            return f"varies over the series{': ' + ' / '.join(shown) if self.subject.shown else ''}"
        if missing(value):
            return "missing"
        return f"found {told(value)}" if self.subject.shown else "the value found is not shown"


@dataclass(frozen=True)
class Expression:
    """`{expression: "CEL"}`: attributes and facts are variables, by their names. `expected` says it in words, if it has some."""

    text: str
    line: int
    source: str
    variables: frozenset[str]
    program: cel.Expression = field(repr=False, compare=False)
    expected: str = ""

    @property
    def keywords(self) -> frozenset[str]:
        return self.variables - FACTS.keys()

    def outcome(self, attributes: Mapping[str, object], facts: Mapping[str, object]) -> ConditionOutcome:
        values = {name: (facts if name in FACTS else attributes).get(name) for name in sorted(self.variables)}
        lacking = {name: value for name, value in values.items() if missing(value) or isinstance(value, Varying)}
        held = _evaluated(self.program, {name: _plain(value, name) for name, value in values.items() if name not in lacking})
        if held is not None and self.expected and not self.keywords:
            found = " ".join(told(values[name]) for name in sorted(values, reverse=True))
            return ConditionOutcome(self.text, self.line, held, f"expected {self.expected}; found {found}")
        if held is not None:
            return ConditionOutcome(self.text, self.line, held, f"expected true; it is {told(held)}")
        named = [f"{name} {'varies over the series' if value else 'missing'}" for name, value in lacking.items()]
        why = f"expected {self.expected or 'true'}; {', '.join(named) or 'it has no answer for the values found'}"
        return ConditionOutcome(self.text, self.line, held=False, why=why)

    def holds(self, attributes: Mapping[str, object], facts: Mapping[str, object]) -> bool:
        return self.outcome(attributes, facts).held


def row(subject: Subject, operator: str, operand: object, *, text: str, line: int) -> Row:
    """Raises ConfigError where operator, operand and the kind of `subject` do not go together."""
    if operator == "exists":
        wanted = _operand(operand, FLAG) is True
        expected = "a value" if wanted else "no value"
        return Row(text, line, subject, expected, "", lambda value: missing(value) is not wanted)
    how = _OPERATORS.get(operator)
    if how is None:
        near = did_you_mean(operator, OPERATORS)
        raise ConfigError([f"expected an operator ({', '.join(OPERATORS)}) for {subject.name}{near}"])
    if subject.kind not in how.kinds:
        raise ConfigError([f"expected {' or '.join(how.kinds)} for {operator}; {subject.name} has {subject.kind}"])
    operands = _operands(operand, operator, how.operands, subject.kind)
    literals = [_literal(one, subject.kind) for one in operands]
    if operator == "matches":
        _check_pattern(literals[0])
    source = how.cel.format(*literals, v="v" if subject.many else subject.variable, all=", ".join(literals))
    if subject.many:
        source = f"{subject.variable}.{'all' if how.every else 'exists'}(v, {source})"
    words = [told(one) for one in operands]
    return Row(text, line, subject, how.expected.format(*words, all=", ".join(words)), source, _fits(subject, source))


def expression(source: object, *, text: str, line: int, expected: str = "") -> Expression:
    """Raises ConfigError, with CEL's caret, where `source` is not CEL that says true or false of attributes and facts."""
    if not isinstance(source, str) or len(source) > _MAX_EXPRESSION or not source.replace("\n", " ").isprintable():
        raise ConfigError([f"expected CEL in quotes after expression, at most {_MAX_EXPRESSION} characters"])
    subjects = _subjects()
    program = _compiled(_environment(tuple(subjects.values())), source)
    if program.return_type() != cel.Type.BOOL:
        raise ConfigError(["expected an expression that is true or false"])
    for pattern in _PATTERN.findall(source):
        _check_pattern(pattern)
    return Expression(text, line, source, frozenset(_WORD.findall(source)) & subjects.keys(), program, expected)


@lru_cache(maxsize=_PROGRAMS)
def _fits(subject: Subject, source: str) -> Callable[[object], bool]:
    """Series after series has the same values: the answers to the last ones are remembered."""
    program, variable, many = _compiled(_environment((subject,)), source), subject.variable, subject.many

    @lru_cache(maxsize=_ANSWERS, typed=True)
    def answer(value: object) -> bool:
        values = list(value) if isinstance(value, tuple) else [value]
        return _evaluated(program, {variable: values if many else value}) is True

    def fits(value: object) -> bool:
        return not missing(value) and answer(tuple(value) if isinstance(value, list) else value)

    return fits


def _plain(value: object, name: str) -> object:
    """CEL takes lists only, and wants one where the keyword's VM allows several values."""
    if _subjects()[name].many:
        return list(value) if isinstance(value, list | tuple) else [value]
    return value


def _operands(operand: object, operator: str, count: str, kind: str) -> list[object]:
    if count == "one":
        return [_operand(operand, kind)]
    if not isinstance(operand, list) or not operand or (count == "pair" and len(operand) != 2):
        raise ConfigError([f"expected {'[low, high]' if count == 'pair' else 'a list of values'} after {operator}"])
    values = [_operand(one, kind) for one in operand]
    if count == "pair" and values != sorted(values):  # type: ignore[type-var]
        raise ConfigError([f"expected the lower number first after {operator}"])
    return values


def _operand(value: object, kind: str) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        TEXT: isinstance(value, str) and value != "" and value.isprintable(),
        FLAG: isinstance(value, bool),
        WHOLE: number and isinstance(value, int) and abs(value) < 2**63,
        NUMBER: number and math.isfinite(value),  # type: ignore[arg-type]
    }
    if not fits[kind]:
        raise ConfigError([f"expected {kind}{' (in quotes, where YAML reads something else)' if kind == TEXT else ''}"])
    return value


def _literal(value: object, kind: str) -> str:
    return repr(float(value)) if kind == NUMBER else json.dumps(value, ensure_ascii=False)  # type: ignore[arg-type]


def _check_pattern(literal: str) -> None:
    """RE2 decides: no look-around, no back references, bounded repetition, and so no catastrophe."""
    if _evaluated(_compiled(_environment(()), f'"".matches({literal})'), {}) is None:
        raise ConfigError(["expected a regular expression (RE2 syntax) for matches"])


def _compiled(environment: cel.Env, source: str) -> cel.Expression:
    try:
        return environment.compile(source)
    except RuntimeError as error:
        raise ConfigError([f"expected CEL, column and reason: {_CEL_NOISE.sub('', str(error))}"]) from error


def _evaluated(program: cel.Expression, data: Mapping[str, object]) -> bool | None:
    """None where there is no answer: CEL gives errors back as values of another type, and raises when its budget is spent."""
    try:
        result = program.eval(data=data)
    except RuntimeError:
        return None
    return result.value() is True if result.type() == cel.Type.BOOL else None


@cache
def _environment(subjects: tuple[Subject, ...]) -> cel.Env:
    types = {one.variable: _CEL_TYPES[one.kind] for one in subjects}
    return cel.NewEnv(
        variables={one.variable: cel.Type.List(types[one.variable]) if one.many else types[one.variable] for one in subjects}
    )


@cache
def _subjects() -> Mapping[str, Subject]:
    """Everything that an expression may name."""
    attributes = {name: subject for name, subject in every_attribute().items() if subject.kind != OTHER}
    return MappingProxyType(attributes | {name: fact(name) for name in FACTS})
