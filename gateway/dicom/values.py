"""Values of headers as scanners write them: what cannot be read is absent, and nothing is raised."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

T = TypeVar("T")


def values(header: Dataset, keyword: str) -> list[object]:
    """The values of an attribute as pydicom reads them, one or many; empty where it is absent, empty or unreadable."""
    try:
        value = header.get(keyword)
    except Exception:  # noqa: BLE001 - foreign bytes: pydicom raises many things, and their texts carry values
        return []
    if isinstance(value, MultiValue | list | tuple) or (isinstance(value, Sequence) and not isinstance(value, str | bytes)):
        return list(value)
    return [] if value is None or value in ("", b"") else [value]


def numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """Values of a numeric attribute; empty where one of them is not finite: pydicom reads NaN, inf and letters (PS3.5 6.2)."""
    try:
        found = tuple(float(value) for value in values(header, keyword))  # type: ignore[arg-type]
    except (TypeError, ValueError, ArithmeticError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


def whole(header: Dataset, keyword: str) -> int:
    """One whole number, such as Rows; -1 where there is none."""
    found = numbers(header, keyword)
    return int(found[0]) if len(found) == 1 and found[0].is_integer() else -1


def texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Values of an attribute as text, without padding."""
    return tuple(str(value).strip() for value in values(header, keyword))


def each(headers: Sequence[Dataset], keywords: Iterable[str], function: Callable[[Dataset], T]) -> list[T]:
    """`function` of each header, called once for headers in which `keywords` have the same bytes.

    It may look at nothing else. Most attributes are the same in a whole series, and decoding them is what takes time.
    """
    tags = [Tag(keyword) for keyword in keywords]
    known: dict[tuple[Hashable, ...], T] = {}
    results = []
    for header in headers:
        key = tuple(_encoded(header, tag) for tag in tags)
        if key not in known:
            known[key] = function(header)
        results.append(known[key])
    return results


def _encoded(header: Dataset, tag: BaseTag) -> Hashable:
    if tag not in header:
        return None
    value = header.get_item(tag).value
    return value if isinstance(value, bytes) else repr(value)
