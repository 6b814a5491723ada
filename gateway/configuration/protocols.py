"""Protocols: one file each in a folder, found by its name, which reads the keys of its tables in gateway.toml itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from gateway.errors import ConfigError
from gateway.machine.plugins import load_each, load_file

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

    def offered(path: Path) -> Callable[..., Any] | None:
        name = f"{offer.package}.{path.stem}"
        module = import_module(name) if path.parent == offer.folder else load_file(path, name.replace(".", "_"))
        make = getattr(module, offer.attribute, None)
        return make if callable(make) else None

    return load_each(folders, offered, kind="protocol", expected=offer.expected)


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


def is_host(value: object) -> bool:
    """What may be looked up: Python raises UnicodeError of a part that is empty, or longer than 63 characters."""
    try:
        return is_text(value) and len(str(value).encode("idna")) > 0
    except UnicodeError:
        return False


def is_seconds(value: object) -> bool:
    return type(value) in {int, float} and 0 < value <= 3600  # type: ignore[operator]


def is_readable(value: object) -> bool:
    """A file's name."""
    return is_text(value) and Path(str(value)).is_file()
