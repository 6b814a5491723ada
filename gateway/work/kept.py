"""Kept: what rules saw of a series, so that later rules can be tried on it (replay.py), also after retention took its files.

A file for each revision of a series, under the store: patient data are in it. zlib over lines; the first holds the facts, each
other one an attribute as `PATH<tab>JSON`. What varies over the series is {"varies": [...]}. A file costs no sync: after a
power cut one may be missing, and a replay counts those.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import structlog
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_dict, keyword_for_tag
from pydicom.tag import BaseTag

from gateway.decisions import facts
from gateway.decisions.vocabulary import OTHER, Varying, attribute
from gateway.dicom.enhanced import unfolded
from gateway.dicom.values import values

_FORMAT, _LEVEL = 1, 6
_DEEPEST, _MOST_PATHS = 4, 4000

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Kept:
    """`attributes` of a rule set's keywords are read when they are asked for."""

    facts: Mapping[str, object]
    lines: Mapping[str, str] = field(repr=False)

    def attributes(self, keywords: Iterable[str]) -> dict[str, object]:
        return {path: _read(self.lines[path]) for path in keywords if path in self.lines}


class Keep:
    """The files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, series_instance_uid: str, revision: int, headers: Sequence[Dataset], known: Mapping[str, object]) -> None:
        """What cannot be written is told in the log and missing in a replay; it holds up nothing."""
        path = self.path(series_instance_uid, revision)
        temporary = path.with_name(uuid4().hex)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(encoded(headers, known))
            temporary.replace(path)
        except Exception as error:  # noqa: BLE001 - it reads foreign bytes, and the series has its outcome already
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            _logger.warning("headers.unkept", error=type(error).__name__, series_instance_uid=series_instance_uid)

    def get(self, series_instance_uid: str, revision: int) -> Kept | None:
        """None where nothing (readable) was kept."""
        try:
            return decoded(self.path(series_instance_uid, revision).read_bytes())
        except (OSError, ValueError, zlib.error):
            return None

    def forget(self, before: datetime, now: datetime) -> int:
        """Remove what was written before then, in one of the 256 folders: each has its turn as the minutes go."""
        turn, gone = f"{int(now.timestamp() // 60) % 256:02x}", 0
        for path in (self._folder / turn).glob("*"):
            try:
                if path.stat().st_mtime < before.timestamp():
                    path.unlink()
                    gone += 1
            except FileNotFoundError:  # another process was faster
                continue
            except OSError as error:
                _logger.error("file.not_removed", path=str(path), error=type(error).__name__)
        return gone

    def path(self, series_instance_uid: str, revision: int) -> Path:
        name = sha256(series_instance_uid.encode()).hexdigest()[:40]
        return self._folder / name[:2] / f"{name}-{revision}"


def encoded(headers: Sequence[Dataset], known: Mapping[str, object]) -> bytes:
    frames = unfolded(headers)
    found = facts.attributes(headers, paths([*headers, *frames]))
    lines = [json.dumps({"format": _FORMAT, "facts": dict(known)})]
    lines += [f"{path}\t{_written(value)}" for path, value in found.items() if value is not None]
    return zlib.compress("\n".join(lines).encode("utf-8", "replace"), _LEVEL)


def decoded(data: bytes) -> Kept:
    """Raises ValueError or zlib.error where it is not one of ours."""
    first, *rest = zlib.decompress(data).decode().split("\n")
    head = json.loads(first)
    if head.get("format") != _FORMAT:
        raise ValueError("expected a format that this version knows")
    return Kept(head["facts"], dict(line.split("\t", 1) for line in rest))


def paths(headers: Sequence[Dataset]) -> list[str]:
    """Every attribute that a rule can name and that is there, by keyword or path through sequences."""
    found: dict[str, None] = {}
    seen: set[object] = set()
    for header in headers:
        for path in _paths(header, "", seen):
            found[path] = None
            if len(found) >= _MOST_PATHS:
                return list(found)
    return list(found)


def _paths(header: Dataset, above: str, seen: set[object]) -> Iterator[str]:
    for tag in header.keys():  # noqa: SIM118 - iterating a Dataset would read every element
        if (above, tag) in seen:
            continue
        keyword = _keyword(tag)
        path = f"{above}{keyword}"
        if not keyword or dictionary_VR(keyword) != "SQ":  # the same in every header that has it
            seen.add((above, tag))
            if keyword and attribute(path).kind != OTHER:
                yield path
            continue
        yield path
        if path.count("/") + 1 < _DEEPEST and not _is_known(header, tag, path, seen):
            for item in values(header, keyword):
                if isinstance(item, Dataset):
                    yield from _paths(item, f"{path}/", seen)


def _is_known(header: Dataset, tag: BaseTag, path: str, seen: set[object]) -> bool:
    """A sequence with the same bytes was walked in another header of the series."""
    value = header.get_item(tag).value
    if not isinstance(value, bytes):
        return False
    key = (path, value)
    known = key in seen
    seen.add(key)
    return known


def _keyword(tag: BaseTag) -> str:
    """Empty where no rule can name it: the keyword of a repeating group (overlays, curves) stands for many tags."""
    keyword = "" if tag.is_private else keyword_for_tag(tag)
    return keyword if keyword in keyword_dict else ""


def _written(value: object) -> str:
    return json.dumps({"varies": list(value.values)} if isinstance(value, Varying) else value)


def _read(line: str) -> object:
    value = json.loads(line)
    return Varying(tuple(value["varies"])) if isinstance(value, dict) else value
