"""The house rules (style.md) that a program can check; ruff, mypy and import-linter keep the others."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import cli, crash

ROOT = Path(__file__).parent.parent
PRODUCT = sorted(path for folder in ("gateway", "pipelines") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8")) for path in (*PRODUCT, *TESTS)}

LONGEST = 300
LONGER: dict[str, str] = {}
"""Modules over that length, and why."""
MOST_AT_THE_ROOT = 20
NAMELESS = {"utils", "util", "helpers", "helper", "common", "manager", "service", "base", "misc", "core", "lib", "tools"}
SYNONYMS = {
    "destination": "peer, send_to", "exam": "study", "dispatch": "delivery", "payload": "incoming", "heartbeat": "lease",
    "rerun": "revision", "stable": "complete", "receiver": "ingest", "sender": "origin", "route": "rule", "push": "send",
}  # fmt: skip
"""Words that the glossary has another one for, in no name of ours (a library's own names are its own)."""
FOREIGN_NAMES = {"is_stable"}
NAMES_A_PIPELINE = {"demo.py": "the demonstration is one pipeline's", "rules.py": "its docstring shows a rule"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def places(node_of: type[ast.AST], paths: list[Path]) -> Iterator[tuple[str, ast.AST]]:
    for path in paths:
        for node in ast.walk(TREES[path]):
            if isinstance(node, node_of):
                yield f"{name(path)}:{getattr(node, 'lineno', 0)}", node


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(package: str, paths: list[Path]) -> set[str]:
    return {name(path) for path in paths if any(module.split(".")[0] == package for module in imported(path))}


def tracked() -> list[Path]:
    """What is in the repository, or will be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is not a git repository")
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            yield path, path.read_text("utf-8")
        except UnicodeDecodeError:
            continue


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_no_module_is_longer_than_can_be_read_at_once(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())

    assert lines <= LONGEST or name(path) in LONGER
    assert lines > LONGEST or name(path) not in LONGER, "it is short enough now: take it off the list"


@pytest.mark.parametrize("path", [*PRODUCT, *TESTS], ids=name)
def test_every_module_is_named_after_what_it_does(path: Path) -> None:
    words = set(path.stem.split("_"))

    assert not words & NAMELESS


@pytest.mark.parametrize("path", [path for path in PRODUCT if path.name != "__init__.py" or len(path.read_text()) > 0], ids=name)
def test_every_module_says_in_its_first_line_what_it_is(path: Path) -> None:
    assert ast.get_docstring(TREES[path])


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_names_use_the_words_of_the_glossary(path: Path) -> None:
    for node in ast.walk(TREES[path]):
        for attribute in ("id", "name", "attr", "arg"):
            identifier = getattr(node, attribute, None)
            if isinstance(identifier, str) and identifier not in FOREIGN_NAMES:
                words = re.sub(r"([a-z])([A-Z])", r"\1_\2", identifier).lower().split("_")
                banned = {word: SYNONYMS[word] for word in (one.removesuffix("s") for one in words) if word in SYNONYMS}
                assert not banned, f"line {getattr(node, 'lineno', '?')}: {identifier}"


@pytest.mark.parametrize("path", [path for path in PRODUCT if path.name != "scan.py"], ids=name)
def test_attributes_are_named_by_keyword_and_not_by_tag_number(path: Path) -> None:
    """scan.py reads bytes, where there are only numbers."""
    text = path.read_text("utf-8")

    assert not re.findall(r"\b0x[0-9A-Fa-f]{8}\b", text)
    assert not re.findall(r"[\[(]\s*0x[0-9A-Fa-f]{4}\s*,\s*0x[0-9A-Fa-f]{4}\s*[\])]", text)


def test_no_test_uses_mocks() -> None:
    assert not {name(path) for path in TESTS if {"mock", "unittest.mock", "pytest_mock"} & imported(path)}
    assert not [place for place, node in places(ast.Name, TESTS) if isinstance(node, ast.Name) and "Mock" in node.id]


def test_no_function_changes_a_global() -> None:
    assert not [place for place, _ in places(ast.Global, [*PRODUCT, *TESTS])]


def test_every_crash_point_is_passed_once_and_every_one_that_is_passed_is_listed() -> None:
    passed = [
        node.args[0].value
        for _, node in places(ast.Call, PRODUCT)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crash_point"
        if isinstance(node.args[0], ast.Constant)
    ]

    assert sorted(passed) == sorted(crash.POINTS)


def test_untrusted_text_is_parsed_by_pydantic_in_the_configuration_and_the_web_only() -> None:
    found = importers("pydantic", PRODUCT) | importers("pydantic_settings", PRODUCT)

    assert all(file.startswith(("gateway/web/", "gateway/configuration/")) for file in found), found


def test_what_is_at_the_root_is_the_story_and_what_everybody_leans_on() -> None:
    """Everything else has a folder, whose first line says what is in it."""
    files = {path.stem for path in (ROOT / "gateway").glob("[!_]*.py")}

    assert {"receive", "settle", "run", "deliver", "prove", "sweep", "app"} <= files
    assert len(files) <= MOST_AT_THE_ROOT


def test_only_one_file_names_the_engine() -> None:
    assert importers("dbos", PRODUCT) == {"gateway/engine.py"}


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [
        ("gateway.serving.doorway", {"sqlalchemy", "pydantic", "dbos", "uvicorn", "gateway.db", "gateway.configuration"}),
        (
            "gateway.commands.desk",
            {"alembic", "dbos", "pydicom", "pynetdicom", "highdicom", "numpy", "gateway.app", "gateway.engine"},
        ),
        ("gateway.commands.sending", {"sqlalchemy", "dbos", "highdicom", "gateway.app"}),
        ("gateway.cli", {"sqlalchemy", "pydicom", "gateway.commands.desk"}),
    ],
)
def test_who_receives_knows_no_database_and_who_only_asks_does_not_wait_for_what_acts(module: str, unloaded: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    assert module in loaded
    assert not unloaded & set(loaded)


def test_an_ingest_process_takes_along_nothing_that_it_does_not_need() -> None:
    program = """if True:
        import runpy, sys
        try:
            runpy.run_module("gateway.serving.doorway", run_name="__main__")
        except ValueError:  # it was given no settings
            print(*[name for name, module in sys.modules.items() if module])
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )

    loaded = set(ran.stdout.split())
    assert "pydicom" in loaded
    assert not loaded & {"PIL", "gdcm", "numpy", "requests", "rich", "sqlalchemy", "pydantic", "uvicorn"}


def test_who_sends_does_not_wait_for_what_decodes_pixels(tmp_path: Path) -> None:
    program = """if True:
        import sys
        from gateway.cli import app
        from gateway.errors import ConfigError
        try:
            app(["send", sys.argv[1]])
        except ConfigError:  # this gateway does not answer
            print(*sys.modules)
            import numpy  # whoever wants it afterwards has it
    """
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    loaded = set(ran.stdout.split())
    assert {"gateway.commands.sending", "pydicom"} <= loaded
    assert not loaded & {"PIL", "gdcm", "numpy", "requests", "structlog", "sqlalchemy"}


def test_the_gateway_names_no_pipeline() -> None:
    pipelines = {path.stem for path in (ROOT / "pipelines").glob("[!_]*.py")}
    assert pipelines

    named = {
        path.name
        for path in PRODUCT
        if path.is_relative_to(ROOT / "gateway") and any(one in path.read_text() for one in pipelines)
    }
    assert named <= set(NAMES_A_PIPELINE)


def test_stages_are_the_verb_of_their_file() -> None:
    for verb in ("receive", "settle", "run", "deliver", "sweep"):
        tree = TREES[ROOT / "gateway" / f"{verb}.py"]
        assert verb in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_everything_is_caught_at_boundaries_only() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in PRODUCT)
    caught = [place for place, node in places(ast.ExceptHandler, PRODUCT) if _catches_all(node)]

    assert len(caught) <= 2 * lines / 1000, caught


def _catches_all(node: ast.AST) -> bool:
    kind = getattr(node, "type", None)
    return kind is None or (isinstance(kind, ast.Name) and kind.id == "Exception")


@pytest.mark.parametrize("path", [path for path in TESTS if path.name.startswith("test_")], ids=name)
def test_the_name_of_a_test_is_a_sentence(path: Path) -> None:
    functions = [
        node.name for node in ast.walk(TREES[path]) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]

    assert functions
    assert not [function for function in functions if len(function.split("_")) < 3]


def test_the_repository_names_no_path_of_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.~-])/(home|Users|root|work|mnt/[a-z]+/work)/[\w.-]+")

    assert not [(name(path), found.group()) for path, text in texts() for found in pattern.finditer(text)]


def test_the_repository_names_no_package_registry() -> None:
    pattern = re.compile(
        r"(registry|mirror|artifactory|nexus|pypi|npm|proxy)[\w-]*\.[\w-]+\.[a-z]{2,}|(extra-)?index-url\s*[= ]\s*http|\"resolved\":|trusted-host",
        re.IGNORECASE,
    )

    found = [(name(path), one.group()) for path, text in texts() for one in pattern.finditer(text) if path != Path(__file__)]
    assert not found


def test_nothing_is_left_to_do_without_an_issue() -> None:
    pattern = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")

    assert not [name(path) for path, text in texts() for _ in pattern.finditer(text) if path.suffix in (".py", ".md")]


def test_the_changelog_tells_what_is_new() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")

    assert re.search(r"^## Unreleased$", text, re.MULTILINE)
    assert re.search(r"^- \w", text, re.MULTILINE)


def commands() -> set[str]:
    """Every command of the command line, as `group command` or `command`."""
    groups = {group.name: group.typer_instance for group in cli.app.registered_groups if group.typer_instance}
    found = {str(command.name or getattr(command.callback, "__name__", "")) for command in cli.app.registered_commands}
    return found | {f"{group} {command.name}" for group, app in groups.items() for command in app.registered_commands}


def test_the_commands_that_documents_name_exist() -> None:
    known, targets = commands(), set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"serve", "demo", "check", "send", "jobs list", "deliveries show", "peers list"} <= known

    for path, text in texts():
        if path.suffix != ".md" or path.name == "CHANGELOG.md":
            continue
        for code in re.findall(r"`([^`\n]+)`|^(?:    |\$ )(.+)$", text, re.MULTILINE):
            words = "".join(code).removeprefix("$ ").split()
            if words[:1] == ["gateway"] and len(words) > 1 and words[1].isalpha():
                assert words[1] in known or " ".join(words[1:3]) in known, f"{name(path)}: {' '.join(words)}"
            if words[:1] == ["make"] and len(words) > 1:
                assert words[1] in targets, f"{name(path)}: {' '.join(words)}"


def test_the_layers_name_every_module() -> None:
    """A module that no layer names would be free to import anything."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layered = {module.strip() for layer in contract["layers"] for module in re.split(r"[|:]", layer)}
    modules = {
        path.relative_to(ROOT / "gateway").parts[0].removesuffix(".py")
        for path in PRODUCT
        if path.is_relative_to(ROOT / "gateway")
    }

    assert modules - {"__init__", "__main__"} <= layered
