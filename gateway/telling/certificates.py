"""Certificates: ours, and lists of what was taken back, whose time is over or will be soon; without them nobody comes in.

Each machine has files of its own. So an alarm is of a file on a machine, and ends when that machine finds another one there; also
when it has not repeated it for a day, for then it does not serve any more.
"""

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from sqlalchemy import update

from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.machine.rounds import Rounds
from gateway.rows.trail import OpenAlarm
from gateway.telling.alarms import Alarm, compare, open_alarms
from gateway.telling.happening import Kind

T = TypeVar("T")
Tables = Sequence[Mapping[str, Any]]
_SOON, _GIVEN_UP = timedelta(days=14), timedelta(days=1)
_LOOK_SECONDS = 60.0
_END_OF_CRL = b"-----END X509 CRL-----"
_OLDEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Lasting:
    """A file that `name` of the configuration names, and when it is good; `soon`: so long before its end people are told."""

    name: str
    file: Path
    begins: datetime
    ends: datetime
    soon: timedelta

    @property
    def words(self) -> str:
        begins = f"from {self.begins:%Y-%m-%d} " if self.begins > _OLDEST else ""
        return f"{self.name} {self.file}: good {begins}until {self.ends:%Y-%m-%d %H:%M} UTC"

    def is_good(self, now: datetime) -> bool:
        """And stays so for a while."""
        return self.begins <= now < self.ends - self.soon


def lasting(config: Config, peers: Iterable[Mapping[str, Any]]) -> Iterator[Lasting]:
    """`peers` are their tables. A file that cannot be read is told by who needs it."""
    ours = [(f"[{name}] certificate", getattr(config, name).certificate) for name in ("tls", "web", "audit")]
    ours += [(f"peer {one.get('name')}: certificate", one.get("certificate")) for one in peers]
    for name, file in ours:
        times = [(one.not_valid_before_utc, one.not_valid_after_utc) for one in _read(file, x509.load_pem_x509_certificates)]
        if times:
            begins, ends = max(one for one, _ in times), min(one for _, one in times)
            yield Lasting(name, Path(file), begins, ends, soon=min(_SOON, (ends - begins) / 5))  # one may be made for a day
    nexts = [one.next_update_utc for one in _read(config.tls.crl, _lists) if one.next_update_utc]
    if nexts and config.tls.crl:
        yield Lasting("[tls] crl", config.tls.crl, _OLDEST, min(nexts), soon=timedelta(0))


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
        self._host = host or socket.gethostname()
        self._rounds = Rounds("certificates", self.look, first=0, again=_LOOK_SECONDS, event="certificates.interrupted")

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()

    def look(self) -> None:
        now, files = self._clock(), list(lasting(self._config, self._peers()))
        present = [alarm for one in files for alarm in self._alarms(one, now)]
        of_kind = OpenAlarm.kind == Kind.CERTIFICATE
        with self._db.begin() as session:
            left = {subject for (_, subject), one in open_alarms(session).items() if one.raised_at < now - _GIVEN_UP}
            mine = {subject for one in files for subject in self._subjects(one)}
            compare(session, present, now, kinds=(Kind.CERTIFICATE,), subjects=left | mine)
            again = update(OpenAlarm).where(of_kind, OpenAlarm.subject.in_([one.subject for one in present]))
            session.execute(again.values(raised_at=now))

    def _alarms(self, one: Lasting, now: datetime) -> Iterator[Alarm]:
        """Two weeks before, and once more when its time is over: the first stays on until then and beyond."""
        nearly, over = self._subjects(one)
        where = f"{one.words}, on {self._host}"
        if not one.is_good(now):
            yield Alarm(Kind.CERTIFICATE, nearly, one.ends - one.soon, f"{where}: put a new one there; no start is needed")
        if not one.begins <= now < one.ends:
            yield Alarm(Kind.CERTIFICATE, over, one.ends, f"{where}: whoever checks it does not connect; put a new one there")

    def _subjects(self, one: Lasting) -> tuple[str, str]:
        of_file = f"{one.file.absolute()} on {self._host}"
        return of_file, f"{of_file}: over"


def _lists(content: bytes) -> list[x509.CertificateRevocationList]:
    return [x509.load_pem_x509_crl(one + _END_OF_CRL) for one in content.split(_END_OF_CRL)[:-1]]


def _read(file: Path | str | None, what: Callable[[bytes], Iterable[T]]) -> Iterable[T]:
    with suppress(OSError, ValueError):
        return what(Path(file).read_bytes()) if file else ()
    return ()
