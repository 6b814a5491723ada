"""Happenings: which events of the trail people are told of, and in which words. No patient, no UID, no clock.

A notice leaves the hospital's network: it goes by mail, or to a chat that somebody else runs. So it holds our own words, our
own numbers (of jobs and events) and names of the configuration, and nothing that came in with an instance.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from gateway.auditing.audit import MINOR, SERIOUS, Act

_SHOWN = 5
_UID = re.compile(r"(?<![\w.])[0-9]+(\.[0-9]+){4,}(?![\w.])")


class Kind(StrEnum):
    """What `on` of a `[[notices]]` table may name."""

    JOB_FAILED = "job failed"
    DELIVERY_FAILED = "delivery failed"
    DELIVERY_HELD = "delivery held"
    DELIVERY_LATE = "delivery late"
    DELIVERY_LOST = "delivery lost"
    COMMITMENT_FAILED = "commitment failed"
    SERIES_HELD = "series held"
    INSTANCE_APART = "instance apart"
    INSTANCE_MISSING = "instance missing"
    DOOR = "door closed"
    SOURCE = "source away"
    COLLECTOR = "collector down"
    NOTICE_FAILED = "notice failed"
    TRAIL_BROKEN = "trail broken"
    DATABASE_RESTORED = "database restored"
    SILENCE = "silence"
    NO_RESULT = "no result"
    MODEL_AWAY = "model away"
    DISK_LOW = "disk low"
    CERTIFICATE = "certificate"
    NOT_SIGNED = "trail not signed"
    SYNTHETIC_FAILED = "synthetic study failed"
    FINDING = "finding"
    GATEWAY_STARTED = "gateway started"
    GATEWAY_STOPPED = "gateway stopped"


USUAL = frozenset(Kind) - {Kind.FINDING, Kind.GATEWAY_STARTED, Kind.GATEWAY_STOPPED}
"""What is told where `on` is left out."""


@dataclass(frozen=True)
class Happening:
    """One event, as people are told of it. `number` is the event's in the trail."""

    number: int
    at: datetime
    kind: Kind
    text: str
    job: int | None = None
    peer: str = ""
    pipeline: str = ""


Words = Callable[[Mapping[str, Any]], str]
"""From an event's detail to a sentence."""


def _reason(detail: Mapping[str, Any]) -> str:
    return str(detail.get("reason") or "")


def _says(words: str) -> Words:
    return lambda detail: f"{words}: {reason}" if (reason := _reason(detail)) else words


def _late(detail: Mapping[str, Any]) -> str:
    """One that was sent says what the last look for it found; one that waits what is against it, where that is known."""
    hours, reason = f"after {detail.get('hours')} hours", _reason(detail)
    what = "not delivered" if detail.get("state") in {"queued", "sending"} else "sent, and not proved"
    return f"{what} {hours}: {reason}" if reason else f"not delivered {hours}; it is tried on"


def _findings(detail: Mapping[str, Any]) -> str:
    found = list(map(str, detail.get("findings") or ()))
    more = [f"{len(found) - _SHOWN} more"] * (len(found) > _SHOWN)
    return "; ".join([*found[:_SHOWN], *more])


_ACTS: Mapping[str, tuple[Kind, int, Words]] = MappingProxyType(
    {
        Act.FINDING_STATED: (Kind.FINDING, 0, _findings),
        Act.JOB_FAILED: (Kind.JOB_FAILED, 0, _says("it failed")),
        Act.DELIVERY_FAILED: (Kind.DELIVERY_FAILED, 0, _says("the peer does not take a result")),
        Act.DELIVERY_HELD: (Kind.DELIVERY_HELD, 0, _says("held until a person decides")),
        Act.DELIVERY_LATE: (Kind.DELIVERY_LATE, 0, _late),
        Act.DELIVERY_LOST: (Kind.DELIVERY_LOST, 0, _says("the peer took a result and does not have it; it is sent again")),
        Act.COMMITMENT_FAILED: (Kind.COMMITMENT_FAILED, 0, _says("a storage commitment could not be reported")),
        Act.COMMITMENT_RETRIED: (Kind.COMMITMENT_FAILED, SERIOUS, _says("a storage commitment has nobody to be reported to")),
        Act.SERIES_COMPLETE: (Kind.SERIES_HELD, MINOR, _says("a series waits for a person")),
        Act.SERIES_HELD: (Kind.SERIES_HELD, 0, _says("a series lacks something and waits for a person")),
        Act.SERIES_FAILED: (Kind.SERIES_HELD, 0, _says("a series lacks something, and no job was made")),
        Act.INSTANCE_VERSION: (Kind.INSTANCE_APART, 0, lambda _: "other bytes came under a known UID; they are kept apart"),
        Act.INSTANCE_STRAY: (Kind.INSTANCE_APART, 0, lambda _: "a series turned up in a second study; it is kept apart"),
        Act.INSTANCE_ALARMING: (Kind.INSTANCE_APART, 0, _says("an instance was kept, but somebody should look at it")),
        Act.INSTANCE_MISSING: (Kind.INSTANCE_MISSING, 0, _says("an instance that was promised is not there")),
        Act.DOOR_CLOSED: (Kind.DOOR, 0, _says("senders are told to come again later (A700)")),
        Act.DOOR_OPENED: (Kind.DOOR, 0, lambda _: "over: instances are taken again"),
        Act.SOURCE_AWAY: (Kind.SOURCE, 0, _says("no series come from there")),
        Act.SOURCE_BACK: (Kind.SOURCE, 0, lambda _: "over: series come from there again"),
        Act.COLLECTOR_DOWN: (Kind.COLLECTOR, 0, _says("audit messages wait for the collector")),
        Act.COLLECTOR_UP: (Kind.COLLECTOR, 0, lambda _: "over: the collector takes audit messages again"),
        Act.NOTICE_FAILED: (
            Kind.NOTICE_FAILED, 0, lambda detail: f"notices wait for {detail.get('notice')}: {_reason(detail)}",
        ),
        Act.AUDIT_VERIFIED: (Kind.TRAIL_BROKEN, SERIOUS, lambda _: "the audit trail is not whole: `gateway audit verify`"),
        Act.DATABASE_RESTORED: (Kind.DATABASE_RESTORED, 0, lambda _: "a person says that an older backup was brought back"),
        Act.GATEWAY_STARTED: (Kind.GATEWAY_STARTED, 0, lambda detail: f"version {detail.get('version')} serves"),
        Act.GATEWAY_STOPPED: (Kind.GATEWAY_STOPPED, 0, lambda _: "a gateway was stopped"),
        Act.ALARM_RAISED: (Kind.SILENCE, 0, _reason),
        Act.ALARM_ENDED: (Kind.SILENCE, 0, lambda detail: f"over: {_reason(detail)}"),
    }
)  # fmt: skip
TOLD = frozenset(_ACTS)
"""The acts that may be told of."""


def happening(number: int, at: datetime, act: str, outcome: int, job: int | None, detail: Mapping[str, Any]) -> Happening | None:
    """What people are told of an event; None where it is nothing to tell of."""
    kind, least, words = _ACTS[act]
    if outcome < least:
        return None
    if act in (Act.ALARM_RAISED, Act.ALARM_ENDED):  # these name their kind themselves; one of a later version is passed over
        try:
            kind = Kind(str(detail.get("kind")))
        except ValueError:
            return None
    about = [f"job {job}"] if job is not None else []
    about += [str(detail[key]) for key in ("pipeline", "peer") if detail.get(key)]
    text = ": ".join(part for part in (", ".join(about), words(detail)) if part)
    names = (str(detail.get(key) or "") for key in ("peer", "pipeline"))
    return Happening(number, at, kind, _UID.sub("(UID)", text), job, *names)
