"""What a door writes into its journal, and receive reads from it: entries, and their JSON. Frozen, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.dicom import scan
from gateway.dicom.instance import IDENTIFYING, Incoming, Origin


@dataclass(frozen=True)
class _OfOrigin:
    """What came from somewhere, and when."""

    at: datetime
    origin: Origin


@dataclass(frozen=True)
class Kept(_OfOrigin):
    """An instance is held, `size` bytes of PS3.10 file. `values`: the attributes that say whose it is, undecoded, by hex tag."""

    incoming: Incoming
    size: int
    values: Mapping[str, str]

    @property
    def identifying(self) -> Mapping[int, bytes]:
        return {int(tag, 16): text.encode("latin-1") for tag, text in self.values.items()}


def identifying(found: scan.Scan) -> dict[str, str]:
    """What `Kept.values` holds: each value's bytes as latin-1 text, which JSON carries without loss."""
    return {f"{tag:08X}": found.values[tag].decode("latin-1") for tag in IDENTIFYING if tag in found.values}


@dataclass(frozen=True)
class Declined(_OfOrigin):
    """An instance was refused with `status`."""

    status: int
    reason: str


@dataclass(frozen=True)
class TurnedAway(_OfOrigin):
    """An association was rejected, or a connection was not let as far."""

    reason: str


@dataclass(frozen=True)
class Alarming(_OfOrigin):
    """An instance was kept that somebody should look at."""

    sop_instance_uid: str
    reason: str


@dataclass(frozen=True)
class Full:
    """The segment is full: its writer goes on in another."""

    at: datetime


@dataclass(frozen=True)
class Ended(_OfOrigin):
    """An association has ended."""

    whole: bool = False
    """It was released, and everything in it was taken."""
    broken: bool = False
    """It was aborted or lost, or something in it was put off: its sender may come back with the rest."""


@dataclass(frozen=True)
class Asked(_OfOrigin):
    """Storage commitment was asked for (PS3.4 J.3): SOP class and SOP instance UIDs by their transaction."""

    transaction_uid: str
    instances: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Reported(_OfOrigin):
    """A peer has told what it commits to keep, and with which failure reasons what it does not (PS3.4 J.3.3)."""

    transaction_uid: str
    committed: tuple[tuple[str, str], ...] = ()
    failed: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True)
class Performed(_OfOrigin):
    """A modality has begun a procedure step, or changed it (modality.Step)."""

    sop_instance_uid: str
    state: str
    study_instance_uid: str
    instances: tuple[tuple[str, str], ...] | None


Promise = Kept | Declined | TurnedAway | Alarming | Full | Ended | Asked | Reported | Performed
_KINDS: Mapping[str, type[Promise]] = {
    "kept": Kept, "declined": Declined, "turned_away": TurnedAway, "alarming": Alarming, "full": Full, "ended": Ended,
    "asked": Asked, "reported": Reported, "performed": Performed,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _KINDS.items()}
_REFERENCES = ("instances", "committed", "failed")


def record(entry: Promise) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in entry.__dataclass_fields__}  # asdict copies deeply, ten times as slowly
    values |= {"kind": _NAMES[type(entry)], "at": entry.at.isoformat()}
    if not isinstance(entry, Full):
        values["origin"] = vars(entry.origin)
    if isinstance(entry, Kept):
        values["incoming"] = vars(entry.incoming)
    return values


def promise(found: Mapping[str, Any]) -> Promise:
    """Inverse of `record`; what a later version of the gateway wrote besides is left out."""
    values = dict(found)
    kind = _KINDS[values.pop("kind")]
    values["at"] = datetime.fromisoformat(values["at"])
    if "origin" in values:
        values["origin"] = Origin(**values["origin"])
    if "incoming" in values:
        values["incoming"] = Incoming(**values["incoming"])
    for name in _REFERENCES:
        if values.get(name) is not None:
            values[name] = tuple(tuple(one) for one in values[name])
    return kind(**{name: value for name, value in values.items() if name in kind.__dataclass_fields__})
