"""A QIDO-RS query: what is asked for, and whether a data set is it (PS3.18 8.3.4 and 10.6, PS3.4 C.2.2.2).

Single values, lists of UIDs, wildcards and ranges are matched; text without regard to case. Everything about a query is
bounded before anything is looked up: its length, its number of attributes, its page.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_dict, keyword_for_tag

from gateway.dicom.uids import is_uid
from gateway.dicom.values import texts
from gateway.errors import GatewayError

LIMIT, LIMIT_AT_MOST = 100, 1000
_LENGTH_AT_MOST, _PAIRS_AT_MOST, _OFFSET_AT_MOST = 8192, 50, 10_000_000
_DEEP = 4
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_RANGE = re.compile(r"(\d{1,14}(?:\.\d{1,6})?)?-(\d{1,14}(?:\.\d{1,6})?)?")
_RANGED = frozenset(("DA", "TM", "DT"))
_WILD = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_WORDS = frozenset(("limit", "offset", "includefield", "fuzzymatching", "emptyvaluematching", "multiplevaluematching"))


class BadQuery(GatewayError):
    """A query that cannot be answered; the text says what was expected."""


class Broad(BadQuery):
    """The search fits too much to look at."""


@dataclass(frozen=True)
class Query:
    """`wanted` are values by keyword, empty ones match everything; `include` are keywords to be told beside the usual ones."""

    wanted: Mapping[str, str]
    include: tuple[str, ...]
    limit: int
    offset: int

    def fits(self, found: Dataset, *, but: Iterable[str] = ()) -> bool:
        """Whether a data set is one that is asked for; `but` are keywords that were looked at already."""
        looked_at = frozenset(but)
        return all(fits(found, keyword, value) for keyword, value in self.wanted.items() if keyword not in looked_at)


def parse(pairs: Iterable[tuple[str, str]]) -> Query:
    """The query of a request's parameters, decoded. Raises BadQuery."""
    pairs = list(pairs)
    if len(pairs) > _PAIRS_AT_MOST or sum(len(key) + len(value) for key, value in pairs) > _LENGTH_AT_MOST:
        raise BadQuery(f"expected at most {_PAIRS_AT_MOST} parameters and {_LENGTH_AT_MOST} characters")
    wanted: dict[str, str] = {}
    include: list[str] = []
    page = {"limit": LIMIT, "offset": 0}
    for key, value in pairs:
        if key in page:
            page[key] = _whole(key, value, LIMIT_AT_MOST if key == "limit" else _OFFSET_AT_MOST)
        elif key == "includefield":
            include += [_keyword(word) for word in value.split(",") if word and word != "all"]
        elif key not in _WORDS:
            wanted[_keyword(key)] = _value(_keyword(key), value)
    return Query(MappingProxyType(wanted), tuple(dict.fromkeys(include)), page["limit"], page["offset"])


def paths(pairs: Iterable[tuple[str, str]]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Those that go through sequences (`ScheduledWorkitemCodeSequence.CodeValue`) apart from the others. Raises BadQuery."""
    plain, found = [], {}
    for key, value in pairs:
        if "." not in key:
            plain.append((key, value))
            continue
        words = key.split(".")
        keywords = [keyword_for_tag(int(word, 16)) if _TAG.fullmatch(word) else word for word in words[:-1]]
        if not all(word in keyword_dict and dictionary_VR(word) == "SQ" for word in keywords) or len(words) > _DEEP:
            raise BadQuery(f"expected keywords or tags of at most {_DEEP - 1} sequences before the last one of a path")
        found[".".join([*keywords, _keyword(words[-1])])] = _value(_keyword(words[-1]), value)
    return plain, found


def fits_within(found: Dataset, path: str, wanted: str) -> bool:
    """As `fits`, of any item of the sequences on the way."""
    keyword, _, rest = path.partition(".")
    if not rest:
        return fits(found, keyword, wanted)
    return any(fits_within(item, rest, wanted) for item in found.get(keyword) or ())


def fits(found: Dataset, keyword: str, wanted: str) -> bool:
    """Whether one of the attribute's values is `wanted`: universal, list of UIDs, range, wildcard or single value matching."""
    values = texts(found, keyword)
    if wanted in ("", "*"):
        return True
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return not uids(wanted).isdisjoint(values)
    if vr in _RANGED and "-" in wanted:
        return any(_in_range(value, wanted) for value in values)
    if vr in _WILD:
        return any(glob(value.casefold(), wanted.casefold()) for value in values)
    return wanted in values


def uids(value: str) -> frozenset[str]:
    """List of UID matching: separated by a comma or a backslash (PS3.18 8.3.4.1)."""
    return frozenset(re.split(r"[,\\]", value))


def glob(text: str, pattern: str) -> bool:
    """Whether `*` (any characters) and `?` (one) make `pattern` fit all of `text`. In steps of text times pattern at most."""
    at = here = 0
    star, resume = -1, 0
    while at < len(text):
        if here < len(pattern) and pattern[here] in (text[at], "?") and pattern[here] != "*":
            at, here = at + 1, here + 1
        elif here < len(pattern) and pattern[here] == "*":
            star, resume, here = here, at, here + 1
        elif star >= 0:
            resume += 1
            at, here = resume, star + 1
        else:
            return False
    return all(character == "*" for character in pattern[here:])


def _in_range(value: str, wanted: str) -> bool:
    """Both ends are in it (PS3.4 C.2.2.2.5); an end is compared with as much of the value as it has."""
    low, _, high = wanted.partition("-")
    return value[: len(low)] >= low and (not high or value[: len(high)] <= high) and value != ""


def _value(keyword: str, value: str) -> str:
    if "\0" in value or not value.isprintable():
        raise BadQuery(f"expected printable characters for {keyword}")
    vr = dictionary_VR(keyword)
    if vr == "UI" and value not in ("", "*") and not all(map(is_uid, uids(value))):
        raise BadQuery(f"expected UIDs for {keyword}")
    if vr in _RANGED and "-" in value and not _RANGE.fullmatch(value):
        raise BadQuery(f"expected a value or a range FIRST-LAST for {keyword}")
    return value


def _keyword(word: str) -> str:
    """By keyword or as eight hexadecimal digits; the last of a path through sequences is not matched by us."""
    keyword = keyword_for_tag(int(word, 16)) if _TAG.fullmatch(word) else word
    if not keyword or keyword not in keyword_dict or dictionary_VR(keyword) == "SQ":
        raise BadQuery("expected keywords or tags of PS3.6 that are not sequences as parameters")
    return keyword


def _whole(key: str, value: str, most: int) -> int:
    if not re.fullmatch(r"\d{1,9}", value):
        raise BadQuery(f"expected a whole number, 0 or more, for {key}")
    return min(int(value), most)
