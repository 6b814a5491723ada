"""Who is told, and how: one file per protocol, found by its name; the same name stands in `[[notices]]` of gateway.toml.

A file offers `def way(settings: Mapping[str, object]) -> Way`: it reads the keys of its protocol and raises ConfigError with
everything that is wrong in them. Files whose name begins with an underscore are no protocols.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, cast

from gateway.configuration.protocols import Offer, is_text, load, read_settings, setting
from gateway.errors import ConfigError
from gateway.telling.happening import USUAL, Happening, Kind
from gateway.telling.wording import SUBJECT, TEXT, Told, Wording, sample

BUILT_IN = Path(__file__).parent
_OFFER = Offer(__name__, BUILT_IN, "way", "def way(settings: Mapping[str, object]) -> Way")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_KINDS = ", ".join(Kind)


class Way(Protocol):
    """One that has `reach() -> str` too is asked by `gateway check`, which says what it returns; it raises as `tell` does."""

    def tell(self, told: Told) -> None:
        """Raises NoticeError where it did not arrive, in words without address, password or answer."""
        ...


MakeWay = Callable[[Mapping[str, object]], Way]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _are_kinds(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(one in frozenset(Kind) for one in value)


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(is_text, value))


def _is_template(value: object) -> bool:
    return isinstance(value, str) and _fills(Wording(subject=value))


def _fills(wording: Wording) -> bool:
    try:
        wording.told(sample(), "sample", sample().last.at)
    except ValueError:
        return False
    return True


def _minutes(value: object) -> bool:
    return type(value) in {int, float} and 0 <= cast("float", value) <= 24 * 60


@dataclass(frozen=True)
class Common:
    """The keys that every protocol has."""

    name: str = setting("lower case letters, digits, - and _, 32 at most", _is_name)
    on: frozenset[Kind] = setting(f"some of: {_KINDS}", _are_kinds, USUAL, make=frozenset)
    pipelines: frozenset[str] | None = setting("a list of names of pipelines", _are_names, None, make=frozenset)
    every_minutes: float = setting("minutes, 0 to 1440", _minutes, 5)
    subject: str = setting("a template that can be filled", _is_template, SUBJECT)
    text: str = setting("a template that can be filled", _is_template, TEXT)


@dataclass(frozen=True)
class Addressee:
    """One `[[notices]]` table: who is told of what, how often at most, in which words, and how.

    Of what is a pipeline's (findings, jobs that failed), those of `pipelines` only; None: of all.
    """

    name: str
    on: frozenset[Kind]
    pipelines: frozenset[str] | None
    every: timedelta
    wording: Wording
    way: Way

    def wants(self, one: Happening) -> bool:
        return one.kind in self.on and (self.pipelines is None or one.pipeline in {"", *self.pipelines})


def load_ways(folders: Iterable[Path] = (BUILT_IN,)) -> dict[str, MakeWay]:
    """Every file of `folders` by its name. Raises ConfigError with the files' paths."""
    return load(folders, _OFFER)


def addressee(table: Mapping[str, Any], *, ways: Mapping[str, MakeWay], source: str, console: str) -> Addressee:
    """Raises ConfigError with one sentence for each wrong key."""
    make = ways.get(str(table.get("protocol")))
    if make is None:
        raise ConfigError([f"notice {table.get('name')}: protocol: expected one of {', '.join(sorted(ways))}"])
    shared = {key: value for key, value in table.items() if key in Common.__dataclass_fields__}
    own = {key: value for key, value in table.items() if key == "name" or key not in shared}
    problems: list[str] = []
    found: list[Any] = []
    for read in (lambda: read_settings(Common, shared, "notice"), lambda: make(own)):
        try:
            found.append(read())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    common, way = found
    wording = Wording(source, console.rstrip("/"), common.subject, common.text)
    return Addressee(common.name, common.on, common.pipelines, timedelta(minutes=common.every_minutes), wording, way)
