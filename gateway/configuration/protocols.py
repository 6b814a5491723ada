"""Protocols: one file each in a folder, found by its name, which reads the keys of its tables in gateway.toml itself."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from gateway.errors import ConfigError

S = TypeVar("S")


@dataclass(frozen=True)
class Offer:
    """What every file of a folder offers: a function of the name `attribute`; `expected` is its first line."""

    package: str
    folder: Path
    """Of the package; its files are imported as its modules."""
    attribute: str
    expected: str


def load(folders: Iterable[Path], offer: Offer) -> dict[str, Callable[..., Any]]:
    """What every file of `folders` offers, by its name; later folders may not repeat one. Raises ConfigError with the paths."""
    protocols: dict[str, Callable[..., Any]] = {}
    problems = []
    for path in (path for folder in folders for path in sorted(folder.glob("[!_]*.py"))):
        try:
            make = getattr(_load(path, offer), offer.attribute, None)
        except Exception as error:  # noqa: BLE001 - a protocol is foreign code: whatever it raises, its path must be told
            problems.append(f"{path}: cannot be loaded: {type(error).__name__}: {error}")
            continue
        if not callable(make):
            problems.append(f"{path}: expected {offer.expected}")
        elif path.stem in protocols:
            problems.append(f"{path}: a protocol of this name is there already")
        else:
            protocols[path.stem] = make
    if problems:
        raise ConfigError(problems)
    return protocols


def setting(
    expected: str,
    check: Callable[[Any], bool],
    default: object = MISSING,
    *,
    secret: bool = False,
    make: Callable[[Any], object] = lambda value: value,
) -> Any:
    """A key of a table, as a dataclass field. `expected` says what `check` demands; a secret is never shown.

    `make` is what becomes of a good value.
    """
    metadata = {"expected": expected, "check": check, "make": make, "secret": secret}
    return (
        field(repr=not secret, metadata=metadata)
        if default is MISSING
        else field(default=default, repr=not secret, metadata=metadata)
    )


def read_settings(kind: type[S], table: Mapping[str, object], what: str = "peer") -> S:
    """The dataclass `kind` from a table of a `what`; raises ConfigError with all that is wrong, quoting no value."""
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    given = {key: value for key, value in table.items() if key != "protocol"}
    problems = [f"{key}: not a key of this protocol, which has {', '.join(known)}" for key in given if key not in known]
    for name, one in known.items():
        wrong = not one.metadata["check"](given[name]) if name in given else one.default is MISSING
        if wrong:
            problems.append(f"{name}: expected {one.metadata['expected']}")
    if problems:
        raise ConfigError([f"{what} {table.get('name')}: {problem}" for problem in problems])
    return kind(**{key: known[key].metadata["make"](value) for key, value in given.items()})


def is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and value.isprintable()


def is_seconds(value: object) -> bool:
    return type(value) in {int, float} and 0 < value <= 3600  # type: ignore[operator]


def is_readable(value: object) -> bool:
    """A file's name."""
    return is_text(value) and Path(str(value)).is_file()


def _load(path: Path, offer: Offer) -> ModuleType:
    if path.parent == offer.folder:
        return importlib.import_module(f"{offer.package}.{path.stem}")
    spec = importlib.util.spec_from_file_location(f"{offer.package}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
