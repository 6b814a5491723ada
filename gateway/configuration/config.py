"""gateway.toml as a Config; the environment overrides the file (GATEWAY_DIMSE__PORT=11113). All that is wrong is told at once."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.configuration.oversight import SilenceSection
from gateway.configuration.sections import CallerSection, Config, FolderSection
from gateway.configuration.settings import Settings, lowered, read
from gateway.errors import ConfigError

_WORDS = {"tuple_type": "expected a list, in square brackets", "model_type": "expected a section with keys"}
"""For what pydantic says in Python's words."""


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read `path` (None: defaults only); raise ConfigError with one sentence for each thing that is wrong."""
    return _parsed(read(path, environment))


def understood(path: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[Config, tuple[str, ...]]:
    """What `path` says without what is wrong in it, and the sentences about that. Raises ConfigError where it is no TOML."""
    found = read(path, environment)
    try:
        return _parsed(found), ()
    except ConfigError as error:
        return Config.model_validate(_without_wrong(found.values)), error.problems


def _without_wrong(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out each key that is wrong, or the whole section where no key of it is to blame."""
    try:
        Config.model_validate(values)
    except ValidationError as error:
        kept = {name: dict(section) if isinstance(section, dict) else section for name, section in values.items()}
        for section, *keys in (found["loc"] for found in error.errors(include_input=False)):
            table = kept.get(str(section))
            if keys and isinstance(table, dict):
                table.pop(keys[0], None)
            else:
                kept.pop(str(section), None)
        return _without_wrong(kept)
    return values


def parse(values: Mapping[str, Any], *, where: str) -> Config:
    """`where` the values are from opens every problem."""
    return _parsed(Settings(dict(values), where, {}))


def _parsed(settings: Settings) -> Config:
    try:
        return Config.model_validate(settings.values)
    except ValidationError as error:
        raise ConfigError([_problem(found, settings) for found in error.errors(include_input=False)]) from error


def _problem(found: Any, settings: Settings) -> str:
    place, asked = [str(part) for part in found["loc"]], lowered(found["msg"].removeprefix("Value error, "))
    expected = _unknown(place) if found["type"] == "extra_forbidden" else _WORDS.get(found["type"], asked)
    # What a check of ours says of a whole section names the keys itself: no variable is to blame.
    return settings.problem(place, expected, by_variable=len(place) > 1 or found["type"] != "value_error")


def _unknown(place: list[str]) -> str:
    known = Config.model_fields
    if len(place) > 1:
        tables: dict[str, type[BaseModel]] = {"callers": CallerSection, "folders": FolderSection, "silence": SilenceSection}
        known = tables.get(place[0], type(known[place[0]].default)).model_fields
    near = difflib.get_close_matches(place[-1], known, n=1)
    return "unknown key" + (f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}")
