"""Certificates: ours, and lists of what was taken back, whose time is over or will be soon; without them nobody comes in.

Each machine has files of its own. So an alarm is of a file on a machine, and ends when that machine finds a good one there.
"""

import socket
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from sqlalchemy import update

from gateway.attempt import AWAY
from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.machine.rounds import Rounds
from gateway.rows.trail import OpenAlarm
from gateway.telling.alarms import Alarm, compare, open_alarms
from gateway.telling.happening import Kind

Tables = Sequence[Mapping[str, Any]]
_SOON = timedelta(days=14)
_LOOK_SECONDS = 60.0
_END_OF_CRL = b"-----END X509 CRL-----"
_OLDEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Named:
    """A certificate with its key, or a revocation list without one, as `name` of the configuration names it."""

    name: str
    file: Path
    key: Path | None

    @property
    def subjects(self) -> tuple[str, str, str]:
        """Of the alarms that it will be over, that it is, and that it cannot be used."""
        return str(self.file.absolute()), f"{self.file.absolute()}: over", f"{self.file.absolute()}: unusable"


@dataclass(frozen=True)
class Lasting:
    """From when until when it is good; `soon`: so long before its end people are told."""

    named: Named
    begins: datetime
    ends: datetime
    soon: timedelta

    @property
    def words(self) -> str:
        begins = f"from {self.begins:%Y-%m-%d} " if self.begins > _OLDEST else ""
        return f"{self.named.name} {self.named.file}: good {begins}until {self.ends:%Y-%m-%d %H:%M} UTC"

    def is_good(self, now: datetime) -> bool:
        """And stays so for a while."""
        return self.begins <= now < self.ends - self.soon


def lasting(config: Config, peers: Iterable[Mapping[str, Any]]) -> Iterator[Lasting]:
    """`peers` are their tables. What cannot be used is told by who needs it."""
    for one in _named(config, peers):
        try:
            yield _lasting(one)
        except (OSError, ValueError):
            continue


class Certificates:
    """Looks after those of this machine from `start` to `stop`; `peers()` are their tables as they are now."""

    def __init__(
        self,
        db: Database,
        config: Config,
        *,
        peers: Callable[[], Tables],
        clock: Callable[[], datetime],
        host: str = "",
    ) -> None:
        self._db, self._config, self._peers, self._clock = db, config, peers, clock
        self._where = f" on {host or socket.gethostname()}"
        self._unusable = frozenset[Named]()
        self._rounds = Rounds("certificates", self.look, first=0, again=_LOOK_SECONDS, event="certificates.interrupted")

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()

    def look(self) -> None:
        now, tables = self._clock(), self._peers()
        named, good = list(_named(self._config, tables)), list(lasting(self._config, tables))
        unusable = frozenset(named) - {one.named for one in good}
        broken = unusable & self._unusable  # not while somebody is replacing it
        self._unusable = unusable
        mine = {f"{subject}{self._where}" for one in named for subject in one.subjects}
        kept = {f"{subject}{self._where}" for one in unusable for subject in one.subjects}  # what serves is the one before
        with suppress(*AWAY), self._db.begin() as session:
            known = {subject: one for (kind, subject), one in open_alarms(session).items() if kind == Kind.CERTIFICATE}
            present = [alarm for one in good for alarm in self._of_time(one, now, known)]
            present += [self._of_use(one, now) for one in broken]
            if kept & known.keys():
                still = update(OpenAlarm).where(OpenAlarm.kind == Kind.CERTIFICATE, OpenAlarm.subject.in_(kept))
                session.execute(still.values(raised_at=now))
            compare(session, present, now, kinds=(Kind.CERTIFICATE,), subjects=mine - kept)

    def _of_time(self, one: Lasting, now: datetime, known: Collection[str]) -> Iterator[Alarm]:
        """Two weeks before, and once more when its time is over: the first stays on until another is there."""
        nearly, over, _ = one.named.subjects
        here, ends = f"{one.named.name} {one.named.file}{self._where}", f"{one.ends:%Y-%m-%d %H:%M} UTC"
        is_over = not one.begins <= now < one.ends
        if not one.is_good(now) and (not is_over or f"{nearly}{self._where}" in known):
            yield self._alarm(
                nearly, one.ends - one.soon, f"{here} is good until {ends}: put a new one there; no start is needed"
            )
        if is_over:
            time = f"was good until {ends}" if one.begins <= now else f"is not good before {one.begins:%Y-%m-%d %H:%M} UTC"
            yield self._alarm(over, one.ends, f"{here} {time}: whoever checks it does not connect; put another one there")

    def _of_use(self, one: Named, now: datetime) -> Alarm:
        what = "what lies there now cannot be read, or does not belong to its key"
        return self._alarm(one.subjects[2], now, f"{one.name} {one.file}{self._where}: {what}")

    def _alarm(self, subject: str, since: datetime, reason: str) -> Alarm:
        return Alarm(Kind.CERTIFICATE, f"{subject}{self._where}", since, reason)


def _named(config: Config, peers: Iterable[Mapping[str, Any]]) -> Iterator[Named]:
    ours = [("[tls] certificate", config.tls.certificate, config.tls.key), ("[tls] crl", config.tls.crl, None)]
    ours += [("[web] certificate", config.web.certificate, config.web.key)]
    ours += [("[audit] certificate", config.audit.certificate, config.audit.certificate_key)]
    ours += [(f"peer {one.get('name')}: certificate", one.get("certificate"), one.get("certificate_key")) for one in peers]
    for name, file, key in ours:
        if file:
            yield Named(name, Path(file), Path(key) if key else None)


def _lasting(one: Named) -> Lasting:
    """Raises OSError or ValueError."""
    content = one.file.read_bytes()
    if one.key is None and _END_OF_CRL in content:
        lists = [x509.load_pem_x509_crl(part + _END_OF_CRL) for part in content.split(_END_OF_CRL)[:-1]]
        nexts = [crl.next_update_utc for crl in lists if crl.next_update_utc]
        return Lasting(one, _OLDEST, min(nexts, default=datetime.max.replace(tzinfo=UTC)), soon=timedelta(0))
    times = [(made.not_valid_before_utc, made.not_valid_after_utc) for made in x509.load_pem_x509_certificates(content)]
    if one.key is not None:  # without a passphrase OpenSSL would ask a terminal for one
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(one.file, one.key, password="")
    begins, ends = max(begins for begins, _ in times), min(ends for _, ends in times)
    return Lasting(one, begins, ends, soon=min(_SOON, (ends - begins) / 5))  # one may be made for a day
