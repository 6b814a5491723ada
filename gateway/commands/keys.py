"""`gateway keys`: every key of gateway.toml with its default and what it is for, as a gateway.toml in which nothing is set."""

import ast
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from textwrap import dedent, wrap
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gateway.configuration.forms import Section
from gateway.configuration.sections import Config
from gateway.peers import load_protocols
from gateway.telling.notices import Common, load_ways

_WIDTH = 120
_HEAD = """\
# Every key of gateway.toml, with its default. What you want to be otherwise, uncomment and change; the rest may go.
# The environment overrides the file: GATEWAY_DIMSE__PORT=11113. `gateway check` tells what is wrong.
"""


def everything() -> str:
    return "\n".join([_HEAD, *(f"{block}\n" for name, field in Config.model_fields.items() for block in _blocks(name, field))])


def _blocks(name: str, field: Any) -> Iterator[str]:
    """One for each table that this field of Config stands for."""
    if name == "peers":
        yield from _protocols("peers", load_protocols(), ())
    elif name == "notices":
        yield from _protocols("notices", load_ways(), (Common,))
    elif section := _section(field.annotation):
        yield from _tables(f"[{name}]" if isinstance(field.default, Section) else f"#[[{name}]]", name, section)


def _tables(header: str, name: str, section: type[Section]) -> Iterator[str]:
    """The table of a section, then those within it."""
    told, within = _told(section), list[str]()
    lines = [*_comment(section.__dict__.get("__doc__") or ""), header]
    for key, field in section.model_fields.items():
        if inner := _section(field.annotation):
            place = f"{name}.{key}"
            within += _tables(f"#[[{place}]]" if field.default == () else f"#[{place}]", place, inner)
        else:
            default = MISSING if field.is_required() else field.default
            lines += [*_comment(f"{told.get(key, '')} {_choices(field.annotation)}"), _line(key, default)]
    yield "\n".join(lines)
    yield from within


def _protocols(name: str, makers: Mapping[str, Callable[..., Any]], shared: tuple[type, ...]) -> Iterator[str]:
    """A table each; what a key has to be stands in place of what it is for."""
    for protocol, make in makers.items():
        kind = get_type_hints(make).get("return")
        settings = {one.name: one for each in (*shared, kind) if is_dataclass(each) for one in fields(each)}
        lines = [f"#[[{name}]]", f'#protocol = "{protocol}"']
        for key, one in settings.items():
            lines += [*_comment(one.metadata["expected"]), _line(key, one.default)]
        yield "\n".join(lines)


def _line(key: str, default: object) -> str:
    if default is MISSING:
        return f"#{key} =  # has to be set"
    return f"#{key} =  # not set" if default is None else f"#{key} = {_toml(default)}"


def _toml(value: object) -> str:
    if isinstance(value, tuple | list | frozenset):
        return f"[{', '.join(sorted(map(_toml, value)) if isinstance(value, frozenset) else map(_toml, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(one)}" for key, one in value.items()) + "}"
    plain = value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
    return json.dumps(plain, ensure_ascii=False)


def _choices(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return f"Known: {', '.join(map(str, get_args(annotation)))}."
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return f"Known: {', '.join(str(one.value) for one in annotation)}."
    return next(filter(None, map(_choices, get_args(annotation))), "")


def _section(annotation: object) -> type[Section] | None:
    """The section in an annotation: itself, or one that may be left out, or one of many."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)


def _told(section: type[Section]) -> dict[str, str]:
    """The text below each key in the source, from the section and those that it extends."""
    found: dict[str, str] = {}
    for one in reversed(section.__mro__):
        if one is not Section and issubclass(one, Section):
            (tree,) = ast.parse(dedent(inspect.getsource(one))).body
            found |= dict(_pairs(getattr(tree, "body", [])))
    return found


def _pairs(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for key, text in pairwise(body):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if is_text and isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name):
            yield key.target.id, str(text.value.value)  # type: ignore[attr-defined]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(" ".join(text.split()), _WIDTH)]
