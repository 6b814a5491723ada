"""Sections of gateway.toml that say who else is told of what happens: audit, alarms, and programs that watch the gateway."""

import re
from datetime import time
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.configuration.forms import AeTitle, Section, SyslogUrl, matching
from gateway.configuration.settings import some

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TracesUrl = Annotated[
    str, matching(re.compile(r"|https?://[^\s?#@]+"), "expected the whole address, as http://collector:4318/v1/traces")
]
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"
_HOURS = re.compile(f"{_CLOCK}-{_CLOCK}")


class AlarmsSection(Section):
    """What is looked at every minute; an alarm is told once, and once more when it is over."""

    no_result_minutes: float = Field(default=30, ge=0)
    """No job came to its end for so long, and jobs wait as long; 0: nobody is told."""
    free_bytes: int = Field(default=5 * 1024**3, ge=0)
    """Less free space than this on the store's disk, or than [store] keep_free_bytes."""


class SilenceSection(Section):
    """A sender that is expected to be heard of; the hours are those of [gateway] time_zone."""

    calling_ae_title: AeTitle
    days: Annotated[tuple[Day, ...], AfterValidator(some)] = DAYS[:5]
    hours: Annotated[str, matching(_HOURS, "expected hours such as 07:00-18:00; 00:00-00:00 is the whole day")] = "00:00-00:00"
    """Those that begin before midnight and end after it belong to the day before."""
    after_minutes: float = Field(default=60, gt=0)

    @property
    def begins(self) -> time:
        return time.fromisoformat(self.hours[:5])

    @property
    def ends(self) -> time:
        return time.fromisoformat(self.hours[6:])


class SyntheticSection(Section):
    """A synthetic study that goes the whole way now and then."""

    every_minutes: float = Field(default=0, ge=0)
    """0: never. Its rows and its part of the trail stay, so an hour is better than a minute."""
    within_minutes: float = Field(default=15, gt=0)
    """People are told when its results are not proved after so long."""
    pipeline: str = ""
    """Which pipeline it tries."""
    peer: str = ""
    """A test peer of [[peers]] that gets the results, and the notes that take them back; by default a folder beside the store."""
    calling_ae_title: AeTitle = "SYNTHETIC"
    """It must be let in where [[callers]] are named."""

    @model_validator(mode="after")
    def _knows_what(self) -> Self:
        if self.every_minutes and not self.pipeline:
            raise ValueError("every_minutes expects a pipeline")
        return self


class TracingSection(Section):
    """What happened to each series, told to a collector of OpenTelemetry; without a url nothing is."""

    url: TracesUrl = ""
    """OTLP over HTTP, the whole address: http://collector:4318/v1/traces."""
    authorities: Path | None = None
    """Who must have signed the collector's certificate (PEM); by default those that this machine trusts."""


class AuditSection(Section):
    """The trail itself is in the database; these say who else is told of it."""

    heads: Path | None = None
    """Where signed heads of the chain go, a line each; by default data_dir/audit-heads.jsonl. Best on another machine's disk."""
    key: Path | None = None
    """The Ed25519 key (PEM) that signs them; by default data_dir/audit.key, made at the first start."""
    sign_seconds: float = Field(default=300, gt=0)
    syslog: SyslogUrl = ""
    """A collector of DICOM audit messages (PS3.15 A.5): RFC 5425 over TLS, RFC 5426 over UDP."""
    authorities: Path | None = None
    """Who must have signed the collector's certificate (PEM)."""
    certificate: Path | None = None
    """Ours, for a collector that asks for one; with its key."""
    certificate_key: Path | None = None
    source: str = "gateway"
    """AuditSourceID of the messages: which system this is."""
    patients: bool = True
    """Tell the collector the Patient ID too, as PS3.15 A.5 wants it; nothing else of the patient is ever told."""
