"""How the checks read an object, and how they say what they expected."""

from collections.abc import Iterator

from pydicom import Dataset

from gateway.outputs import Encoding

_SHORTENED = 1e-6


def unmet(*expectations: tuple[bool, str]) -> Iterator[str]:
    return (f"expected {sentence}" for is_met, sentence in expectations if not is_met)


def algorithm(encoding: Encoding) -> list[str]:
    """Its manufacturer, name, version and Device UID."""
    one = encoding.algorithm
    return [one.manufacturer, one.name, one.version, one.device_uid]


def text(data_set: Dataset, keyword: str) -> str:
    """Absent and empty are the same: Type 2 attributes of a result are empty where the source has none."""
    return str(data_set.get(keyword) or "")


def code(data_set: Dataset, keyword: str) -> str:
    """Of more than 16 characters, or a URN, it has another attribute (PS3.3 8.8)."""
    item = data_set[keyword][0]
    return str(item.get("CodeValue") or item.get("LongCodeValue") or item.URNCodeValue)


def is_near(made: Dataset, source: Dataset, keyword: str) -> bool:
    """The same numbers, but for decimal strings that were too long."""
    pairs = zip(made[keyword].value, source[keyword].value, strict=True)
    return all(abs(float(one) - float(other)) < _SHORTENED for one, other in pairs)
