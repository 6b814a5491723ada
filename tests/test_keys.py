"""`gateway keys` shows every key there is, in a gateway.toml that can be begun with."""

import re
import tomllib
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.commands.keys import everything
from gateway.configuration.config import load
from gateway.configuration.forms import Section
from gateway.configuration.sections import Config
from gateway.peers.dimse import Dimse
from gateway.peers.folder import Folder
from gateway.telling.notices import Common
from gateway.telling.notices.email import Email
from tests.command_fixture import Command

KEY = re.compile(r"#([a-z_]+) =(.*)")
HEADER = re.compile(r"#?(\[+[a-z._]+\]+)")


def tables() -> list[tuple[str, dict[str, str]]]:
    """Each table with its keys, and the text behind the sign of equality."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in everything().splitlines():
        if header := HEADER.fullmatch(line):
            found.append((header[1], {}))
        elif key := KEY.fullmatch(line):
            assert key[1] not in found[-1][1], f"{key[1]} stands twice in {found[-1][0]}"
            found[-1][1][key[1]] = key[2].strip()
    return found


def test_what_is_shown_sets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(everything())

    assert load(file, {}) == load(None, {})


def test_every_key_that_is_uncommented_is_its_default(tmp_path: Path) -> None:
    lines = [line for line in everything().splitlines() if HEADER.fullmatch(line) or KEY.fullmatch(line)]
    begin = next(n for n, line in enumerate(lines) if line == "#[[peers]]")
    single, current = [], ""
    for line in lines[:begin]:
        current = line if HEADER.fullmatch(line) else current
        if not current.startswith("#") and not line.endswith(("# not set", "# has to be set")):
            single.append(line.removeprefix("#"))
    file = tmp_path / "gateway.toml"
    file.write_text("\n".join(single))

    assert load(file, {}) == load(None, {})
    assert len(tomllib.loads(file.read_text())) > 15


@pytest.mark.parametrize("name", [name for name, field in Config.model_fields.items() if isinstance(field.default, Section)])
def test_every_key_of_a_section_is_there(name: str) -> None:
    shown = dict(tables())
    for key in type(Config.model_fields[name].default).model_fields:
        assert key in shown[f"[{name}]"] or {f"[{name}.{key}]", f"[[{name}.{key}]]"} & shown.keys(), key


def test_the_tables_of_which_there_may_be_many_are_there_for_each_protocol() -> None:
    found = tables()

    assert Counter(header for header, _ in found if header.startswith("[[")) == {
        "[[callers]]": 1, "[[folders]]": 1, "[[silence]]": 1, "[[completeness.where]]": 1, "[[peers]]": 4, "[[notices]]": 2,
    }  # fmt: skip
    of = {keys["protocol"].strip('"'): set(keys) - {"protocol"} for header, keys in found if "protocol" in keys}
    assert of["dimse"] == {one.name for one in fields(Dimse)}
    assert of["folder"] == {one.name for one in fields(Folder)}
    assert of["email"] == {one.name for kind in (Common, Email) for one in fields(kind)}


def test_what_a_key_is_for_and_what_it_may_be_stands_above_it() -> None:
    lines = everything().splitlines()

    assert lines[lines.index("#behind_seconds = 30") - 1].startswith("# They are told so too while what they were acknowledged")
    assert lines[lines.index('#at_deadline = "hold"') - 1].endswith("Known: partial, hold, fail.")
    assert lines[lines.index("#ae_title =  # has to be set") - 1] == "# 1 to 16 ASCII characters without backslash"


def test_the_command_shows_it(gateway: Command) -> None:
    assert gateway("", "keys") == (0, everything(), "")
