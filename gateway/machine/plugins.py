"""Plugins: Python files in folders, each of which offers one thing, under the file's name. They are foreign code."""

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from gateway.errors import ConfigError

T = TypeVar("T")


def files(folders: Iterable[Path]) -> list[Path]:
    """Of each folder in turn; those that begin with an underscore are nobody's."""
    return [path for folder in folders for path in sorted(folder.glob("[!_]*.py"))]


def load_each(folders: Iterable[Path], take: Callable[[Path], T | None], *, kind: str, expected: str) -> dict[str, T]:
    """What `take` finds in every file, by its name; later folders may not repeat one. Raises ConfigError with the paths."""
    folders, offered = tuple(folders), dict[str, T]()
    problems = [f"{folder}: there is no such folder of {kind}s" for folder in folders if not folder.is_dir()]
    for path in files(folders):
        try:
            found = take(path)
        except Exception as error:  # noqa: BLE001 - whatever foreign code raises, its path must be told
            problems.append(f"{path}: cannot be loaded: {type(error).__name__}: {error}")
            continue
        if found is None:
            problems.append(f"{path}: expected {expected}")
        elif path.stem in offered:
            problems.append(f"{path}: a {kind} of this name is there already")
        else:
            offered[path.stem] = found
    if problems:
        raise ConfigError(problems)
    return offered


def load_file(path: Path, name: str) -> ModuleType:
    """The module `name` from a file; raises whatever is wrong with it."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
