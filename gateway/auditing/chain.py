"""The hash chain of the audit trail: what an entry's hash is of, and which entry is the first that is not as it was written.

`hash` is the SHA-256 of the hash of the entry before ("" for the first), followed by the canonical JSON of all other columns:
keys in the order of their code points, no spaces, UTF-8, numbers as Python writes them (RFC 8785 for all that is stored here
but some floats). Whoever has the exported lines can follow the chain without this program.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

FIRST = ""
"""What comes before the first entry."""


@dataclass(frozen=True)
class Entry:
    """One row; `fields` are its columns without `previous` and `hash`."""

    id: int
    previous: str
    hash: str
    fields: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Head:
    """Where the chain ended at some time: in the database now, or in a signed line."""

    position: int
    hash: str


@dataclass(frozen=True)
class Finding:
    """`bad` is the first event that is not as it was written, and `problem` what is wrong; "" where the chain is whole.

    `unchained` events are from before the chain began: nothing proves them. Of the signed heads `heads` match, the last of
    them that of event `signed`. `unsigned_since` (ISO 8601) is when the first event after the last signed head was written.
    """

    events: int
    unchained: int
    heads: int
    signed: int
    bad: int | None = None
    problem: str = ""
    unsigned_since: str = field(default="", compare=False)


def canonical(value: object) -> str:
    """Raises ValueError for a number that JSON does not have."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def entry_hash(previous: str, fields: Mapping[str, Any]) -> str:
    return sha256((previous + canonical(fields)).encode("utf-8", "surrogatepass")).hexdigest()


def verify(entries: Iterable[Entry], head: Head | None, heads: Sequence[Head] = ()) -> Finding:
    """Walk all `entries` in the order of their ids; `head` is the database's own, `heads` are those that were signed."""
    walk = _Walk(heads)
    for entry in entries:
        if problem := walk.step(entry):
            return walk.finding(*problem)
    return walk.finding(*(walk.end(head) or (None, "")))


_Problem = tuple[int, str]


class _Walk:
    """How far the chain is whole."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self._signed: dict[int, list[str]] = {}
        for head in heads:
            self._signed.setdefault(head.position, []).append(head.hash)
        self._last = self._before_last = Head(0, FIRST)
        self._unchained = self._chained = self._matched = 0
        self._proved = 0

    def finding(self, bad: int | None, problem: str) -> Finding:
        return Finding(self._unchained + self._chained, self._unchained, self._matched, self._proved, bad, problem)

    def step(self, entry: Entry) -> _Problem | None:
        """What is wrong with `entry`, or shown by it to be wrong with one before."""
        if not entry.hash and not self._chained:
            self._unchained += 1
            self._last = Head(entry.id, FIRST)
        else:
            if problem := self._missing(entry) or self._changed(entry):
                return problem
            self._chained += 1
            self._before_last, self._last = self._last, Head(entry.id, entry.hash)
        return self._contradicted(entry)

    def end(self, head: Head | None) -> _Problem | None:
        position, last = self._last.position, self._last
        signed = max(self._signed, default=0)
        if signed > position:
            return position + 1, f"missing at the end: a signed head says that there were {signed} events"
        if head is None:
            return position + 1, "the head of the chain was deleted: whether events are missing at the end is unknown"
        if head.position > position:
            return position + 1, f"missing at the end: the head says that there were {head.position} events"
        if head.position < position:
            return head.position + 1, f"inserted at the end, or the head was changed: it says that there were {head.position}"
        return None if head.hash == last.hash else (position, "replaced at the end, or the head was changed: it has another hash")

    def _missing(self, entry: Entry) -> _Problem | None:
        expected = self._last.position + 1
        if entry.id == expected:
            return None
        return expected, f"deleted: event {entry.id} comes after event {self._last.position}"

    def _changed(self, entry: Entry) -> _Problem | None:
        follows, is_whole = entry.previous == self._last.hash, _is_whole(entry)
        if follows and is_whole:
            return None
        if not entry.hash:
            return entry.id, "inserted, or stripped of its hash: it has none"
        if follows:
            return entry.id, "edited: its hash is not the one of its columns"
        return self._not_followed(entry, is_whole=is_whole)

    def _not_followed(self, entry: Entry, *, is_whole: bool) -> _Problem:
        """`entry` was written after another one than is before it now."""
        last = self._last
        if not self._chained:
            return last.position or entry.id, "deleted, or stripped of its hash: the chain does not begin here"
        if entry.previous == self._before_last.hash:
            return last.position, f"inserted: what is now event {entry.id} was written after event {self._before_last.position}"
        if is_whole:
            return last.position, f"replaced: event {entry.id} was written after another one"
        return entry.id, "moved or replaced: it does not follow the event before, and its hash is not the one of its columns"

    def _contradicted(self, entry: Entry) -> _Problem | None:
        for signed in self._signed.get(entry.id, ()):
            if signed != entry.hash:
                return entry.id, f"written anew: the signed head of event {entry.id} is of other events after {self._proved}"
            self._matched += 1
            self._proved = entry.id
        return None


def _is_whole(entry: Entry) -> bool:
    """What is no JSON was not written here."""
    try:
        return entry.hash == entry_hash(entry.previous, entry.fields)
    except (ValueError, TypeError):
        return False
