"""The texts of gateway.toml and of the environment (GATEWAY_DIMSE__PORT=11113): read, and told where something is wrong."""

import difflib
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from gateway.dicom.uids import is_uid
from gateway.errors import ConfigError

_PREFIX = "GATEWAY_"

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """`values` by section; `where` they are from; `names` of the variables that set (section, key)."""

    values: dict[str, Any]
    where: str
    names: Mapping[tuple[str, str], str]

    def problem(self, place: Sequence[str], expected: str, *, by_variable: bool) -> str:
        """What was expected at section, key and so on; told of the variable that set it, where one may have."""
        section, *keys = place
        for place_set, name in self.names.items():
            if by_variable and place_set == (section, keys[0] if keys else place_set[1]):
                return f"{name}: {expected}"
        return f"{self.where}: [{section}]{''.join(f' {key}' for key in keys)}: {expected}"


def read(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """The values of the file (None: there is none) under those of the environment. Raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text("utf-8")) if path else {}
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: expected TOML: {lowered(str(error))}"]) from error
    overrides = _overrides(environment)
    for (section, key), (name, value) in overrides.items():
        table = values.get(section)
        if isinstance(table, list):  # of which one it is meant for, the name does not say
            raise ConfigError([f"{name}: expected a key of a section: those of [[{section}]] are set in the file alone"])
        values[section] = {**(table if isinstance(table, dict) else {}), key: value}
    return Settings(values, str(path or "defaults"), {place: name for place, (name, _) in overrides.items()})


def check_names_once(names: Sequence[str], owners: str) -> None:
    """Raise ValueError with those that stand there twice."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"expected names that no two {owners} share: {', '.join(twice)}")


def check_apart(folders: Sequence[Path]) -> None:
    """The data folder is the first: what is watched is emptied, so neither it nor another may lie in one that is. ValueError."""
    places = [folder.resolve() for folder in folders]
    for one, other in itertools.permutations(places, 2):
        if one.is_relative_to(other):
            raise ValueError("expected folders apart from each other and from data_dir, none within another")


def listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def some(found: tuple[T, ...]) -> tuple[T, ...]:
    """As they are; raise ValueError where there are none."""
    if not found:
        raise ValueError("expected at least one, or no such key")
    return found


def lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def network(text: str) -> str:
    """As policy.py reads it; raise ValueError otherwise."""
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError("expected a network such as 10.1.0.0/16 or fd00::/8, its host bits zero, or an address") from error


def sop_class_uid(text: str) -> str:
    """The UID, also where the keyword stands for it; raise ValueError otherwise."""
    if is_uid(text):
        return text
    from pydicom import uid  # noqa: PLC0415 - every command would start three times as slowly, for a key that few set

    known = {name: str(one) for name, one in vars(uid).items() if isinstance(one, uid.UID) and one.type == "SOP Class"}
    if text not in known:
        near = difflib.get_close_matches(text, known, n=1)
        meant = f", did you mean {near[0]!r}?" if near else ", such as CTImageStorage"
        raise ValueError(f"expected the UID or the keyword of a SOP class{meant}")
    return known[text]


def _overrides(environment: Mapping[str, str]) -> dict[tuple[str, str], tuple[str, Any]]:
    """The variable's name and its value, by the section and key that it sets: GATEWAY_SECTION__KEY=value."""
    found = {}
    for name, text in environment.items():
        section, _, key = name.removeprefix(_PREFIX).lower().partition("__")
        if name.startswith(_PREFIX) and section and key:
            found[section, key] = (name, _value(text))
    return found


def _value(text: str) -> Any:
    """Lists are written as in TOML; everything else is text that the key's type reads."""
    if not text.lstrip().startswith("["):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
