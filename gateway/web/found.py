"""Pages and parts of REST: one file each, found by its name (see the package's first lines)."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from fastapi import APIRouter

from gateway.errors import ConfigError
from gateway.rows.accounts import Right

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Navigation:
    """Where a page stands: its title, where it is, its place among the others, and who sees it."""

    title: str
    path: str
    order: int
    needed: Right = Right.VIEWER


@dataclass(frozen=True)
class Part:
    """A file that was found. `navigation` is None where it is not among the others."""

    name: str
    router: APIRouter
    navigation: Navigation | None


def parts(folder: Literal["pages", "rest", "dicomweb"]) -> list[Part]:
    """Raises ConfigError with the paths of the files that are none."""
    found, problems = [], []
    for path in sorted((_HERE / folder).glob("[!_]*.py")):
        module = importlib.import_module(f"gateway.web.{folder}.{path.stem}")
        part = _part(path.stem, module)
        if part is None or (folder == "pages" and not hasattr(module, "NAVIGATION")):
            problems.append(f"{path}: expected router (fastapi.APIRouter) and, in pages/, NAVIGATION (Navigation or None)")
        else:
            found.append(part)
    if problems:
        raise ConfigError(problems)
    return found


def _part(name: str, module: ModuleType) -> Part | None:
    router, navigation = getattr(module, "router", None), getattr(module, "NAVIGATION", None)
    if not isinstance(router, APIRouter) or not isinstance(navigation, Navigation | None):
        return None
    return Part(name, router, navigation)
