"""Pages and parts of REST: one file each, found by its name (see the package's first lines)."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

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


def pages() -> list[Part]:
    """Raises ConfigError with the paths of the files that are none."""
    return list(_parts("pages"))


def rest() -> list[Part]:
    return list(_parts("rest"))


def dicomweb() -> list[Part]:
    return list(_parts("dicomweb"))


def _parts(folder: str) -> Iterator[Part]:
    problems = []
    for path in sorted((_HERE / folder).glob("[!_]*.py")):
        module = importlib.import_module(f"gateway.web.{folder}.{path.stem}")
        part = _part(path.stem, module)
        if part is None or (folder == "pages" and not hasattr(module, "NAVIGATION")):
            problems.append(f"{path}: expected router (fastapi.APIRouter) and, in pages/, NAVIGATION (Navigation or None)")
        else:
            yield part
    if problems:
        raise ConfigError(problems)


def _part(name: str, module: ModuleType) -> Part | None:
    router, navigation = getattr(module, "router", None), getattr(module, "NAVIGATION", None)
    if not isinstance(router, APIRouter) or not isinstance(navigation, Navigation | None):
        return None
    return Part(name, router, navigation)
