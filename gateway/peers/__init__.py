"""Ways out: one file per protocol, found by its name; the same name stands in gateway.toml (`protocol = "dimse"`).

A file offers `def peer(settings: Mapping[str, object]) -> Peer`: it reads its `[[peers]]` table and raises ConfigError with
everything that is wrong in it. Files whose name begins with an underscore are no protocols.
"""

import socket
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints

from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from gateway.configuration.protocols import Offer, load
from gateway.configuration.protocols import is_host as is_host
from gateway.configuration.protocols import is_seconds as is_seconds
from gateway.configuration.protocols import is_text as is_text
from gateway.configuration.protocols import read_settings as read_settings
from gateway.configuration.protocols import setting as setting
from gateway.errors import ConfigError, DeliveryError, Rejected, Unreachable

if TYPE_CHECKING:
    from gateway.configuration.sections import Config

BUILT_IN = Path(__file__).parent
STORED, DUPLICATE, NOT_UNDERSTOOD, NOT_SUPPORTED, PROCESSING_FAILURE = 0x0000, 0x0111, 0xC000, 0x0122, 0x0110
SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 * 1024))
"""No 40 ms wait for the peer's delayed acknowledgement; and bytes wait for a slow network here, where timeouts see them move."""
STUDY_KEYS = ("StudyInstanceUID", "StudyDate", "PatientID", "IssuerOfPatientID")
SERIES_KEYS = ("SeriesInstanceUID", "Modality", "BodyPartExamined", "NumberOfSeriesRelatedInstances")
"""What is asked of a patient's studies, and of a study's series (PS3.4 C.6.2.1)."""
_HERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_OPEN = {"name", "protocol", "host", "port", "ae_title", "url", "path", "proof"}
_RETRIED = (PROCESSING_FAILURE, 0x0213)
_OFFER = Offer(__name__, BUILT_IN, "peer", "def peer(settings: Mapping[str, object]) -> Peer")


@dataclass(frozen=True)
class Sent:
    """The peer says that it holds the instance: `status` is 0x0000, 0x0111 (it has it already) or Bxxx (a warning, stored)."""

    status: int
    note: str


class Proof(StrEnum):
    """How it is found out that a peer has what it took."""

    NONE = "none"
    """Not at all: a delivery stays sent."""
    QUERY = "query"
    """It is asked for the instance (C-FIND, QIDO-RS)."""
    COMMITMENT = "commitment"
    """It is asked to keep it, and reports (PS3.4 J.3)."""
    READ_BACK = "read-back"
    """What is there is read and compared."""


@dataclass(frozen=True)
class Sought:
    """An instance of ours that a peer is asked for; `path` is the PS3.10 file."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    path: Path


@dataclass(frozen=True)
class Capability:
    """What was found out of a peer by asking it, in our words; `works` None: it could not be found out."""

    what: str
    works: bool | None
    note: str = ""


@dataclass(frozen=True)
class Key:
    """A key of a protocol's table, for a form: `expected` says in words what `check` demands."""

    name: str
    expected: str
    default: str
    secret: bool
    check: Callable[[Any], bool]

    def read(self, text: str) -> Any:
        """What was typed: text where that fits, else a value as in TOML; None where nothing was."""
        if not text or self.check(text):
            return text or None
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text


class Peer(Protocol):
    """A configured remote system.

    A peer that sends many better together also has `send_many` as below, without `peer`; one that can be asked what it
    accepts has `probe() -> Sequence[Capability]`, which raises Unreachable or Rejected, and changes nothing there.
    One that is sent some kinds of our objects only has `objects: Sequence[str] | None` (outputs/kinds.py).
    """

    @property
    def proof(self) -> Proof: ...

    @property
    def concurrency(self) -> int:
        """Deliveries at a time."""
        ...

    @property
    def per_minute(self) -> int | None:
        """Deliveries begun in a minute, of all processes together; None: as many as there are."""
        ...

    def holds(self, sought: Sought) -> bool:
        """Whether the peer has exactly this instance, by query or by reading it back; raises Unreachable or Rejected."""
        ...

    def patient_of(self, study_instance_uid: str) -> str | None:
        """The Patient ID under which the peer has the study; None where it has no such study; raises Unreachable or Rejected."""
        ...

    def request_commitment(self, transaction_uid: str, instances: Sequence[tuple[str, str]]) -> None:
        """Ask the peer to keep the instances (SOP class and instance UIDs); its answer comes later, to our listener.

        Raises Unreachable or Rejected, also where the protocol has no storage commitment.
        """
        ...

    def send(self, path: Path) -> Sent:
        """Deliver the PS3.10 file's bytes as they are; raise Unreachable (try again), Unanswered (it may be there), Rejected."""
        ...

    def echo(self) -> str:
        """A sentence about how the peer answered; raise Unreachable or Rejected."""
        ...


MakePeer = Callable[[Mapping[str, object]], Peer]


def send_many(peer: Peer, paths: Iterable[Path]) -> Iterator[tuple[Path, Sent | DeliveryError]]:
    """Each path and what became of it, as it goes; one that fails does not stop the others."""
    together = getattr(peer, "send_many", None)
    if together is not None:
        yield from together(paths)
        return
    for path in paths:
        try:
            yield path, peer.send(path)
        except DeliveryError as error:
            yield path, error


def probe(peer: Peer) -> list[Capability]:
    """What the peer accepts; of a protocol that cannot tell more, whether it answers. Raises Unreachable or Rejected."""
    ask = getattr(peer, "probe", None)
    return list(ask()) if ask is not None else [Capability("answers", works=True, note=peer.echo())]


def judge(status: int) -> Sent:
    """What the status of a C-STORE-RSP, or a STOW-RS failure reason, means for a delivery (PS3.4 B.2.3, PS3.7 Annex C).

    Out of resources (A7xx, 0x0213) and 0x0110 raise Unreachable: archives answer 0x0110 while their own disk or database is
    away, and that passes. Every other failure raises Rejected. The peer's error comment is not read: it may quote the data set.
    """
    words = f"{STORAGE_SERVICE_CLASS_STATUS.get(status, ('', 'a status that PS3.4 does not list'))[1]} (0x{status:04X})"
    if status == STORED:
        return Sent(status, "stored")
    if status == DUPLICATE:
        return Sent(status, "the peer has it already")
    if status >> 12 == 0xB:
        return Sent(status, f"stored with a warning: {words}")
    if status >> 8 == 0xA7 or status in _RETRIED:
        raise Unreachable(f"the peer cannot take it now: {words}")
    raise Rejected(status, f"the peer does not take it: {words}")


def load_protocols(folders: Iterable[Path] = (BUILT_IN,)) -> dict[str, MakePeer]:
    """Every file of `folders` by its name; later folders may not repeat one. Raises ConfigError with the files' paths."""
    return load(folders, _OFFER)


def make_peer(settings: Mapping[str, object], *, protocols: Mapping[str, MakePeer]) -> Peer:
    """The peer of one `[[peers]]` table; raises ConfigError with one sentence for each wrong key."""
    make = protocols.get(str(settings.get("protocol")))
    if make is None:
        raise ConfigError([f"peer {settings.get('name')}: protocol: expected one of {', '.join(sorted(protocols))}"])
    return make(settings)


def keys(make: MakePeer) -> list[Key]:
    """Of the protocol, but for the name; none where its file does not say them as a dataclass of settings."""
    kind = get_type_hints(make).get("return")
    known = [one for one in fields(kind) if one.name != "name" and "check" in one.metadata] if is_dataclass(kind) else []
    return [
        Key(one.name, one.metadata["expected"], _shown(one.default), one.metadata["secret"], one.metadata["check"])
        for one in known
    ]


def _shown(default: object) -> str:
    """As in TOML, without quotes."""
    return "" if default in (MISSING, None) else str(default).lower() if isinstance(default, bool) else str(default)


def secrets(peer: Peer | None, table: Mapping[str, object]) -> frozenset[str]:
    """The keys of its table that nobody may see; of a protocol that does not say so, or a table that is wrong, all but a few."""
    if is_dataclass(peer):
        known = {one.name: one.metadata.get("secret", True) for one in fields(peer)}
        return frozenset(key for key in table if key != "protocol" and known.get(key, True))
    return frozenset(table.keys() - _OPEN)


def one_of(*proofs: Proof) -> tuple[str, Callable[[Any], bool], Proof]:
    """The arguments of `setting` for the key `proof`: one of these, the first by default."""
    return f"one of {', '.join(proofs)}", lambda value: value in proofs, proofs[0]


def is_few(value: object) -> bool:
    return type(value) is int and 0 < value <= 64


def is_rate(value: object) -> bool:
    return type(value) is int and value > 0


def made(table: Mapping[str, Any], *, config: "Config", protocols: Mapping[str, MakePeer]) -> Peer:
    """The peer of one table. Raises ConfigError with everything that is wrong with it."""
    settings = {"calling_ae_title": config.dimse.ae_title, **table} if table.get("protocol") == "dimse" else table
    problems: list[str] = []
    checks = partial(_check_folder, table, config), partial(_check_move, settings, config)
    for check in (*checks, partial(make_peer, settings, protocols=protocols)):
        try:
            peer = check()
        except ConfigError as error:
            problems += error.problems
    if problems or peer is None:
        raise ConfigError(problems)
    return peer


def _check_folder(table: Mapping[str, Any], config: "Config") -> None:
    """A peer's folder within a watched one: results would be taken in and removed; or in the store. Raises ConfigError."""
    if table.get("protocol") != "folder":
        return
    place, watched = Path(str(table.get("path"))).resolve(), [folder.path.resolve() for folder in config.folders]
    if any(place.is_relative_to(one) for one in watched):
        raise ConfigError([f"peer {table.get('name')}: path: expected a folder that is not watched by [[folders]]"])
    if place.is_relative_to(config.store_folder.resolve()):
        raise ConfigError([f"peer {table.get('name')}: path: expected a folder outside the store"])


def _check_move(table: Mapping[str, Any], config: "Config") -> None:
    """What a peer moves comes to the AE title that asked for it. Raises ConfigError where our listener does not have that one."""
    if table.get("fetch") == "move" and table.get("calling_ae_title") != config.dimse.ae_title:
        ours = "expected the ae_title of [dimse], to which this peer is to send"
        raise ConfigError([f"peer {table.get('name')}: calling_ae_title: {ours}"])


def peer_of_file(config: "Config", name: str) -> Peer | None:
    """That of gateway.toml, which goes before one of the same name that was added. Raises ConfigError where it is wrong."""
    table = next((one for one in config.peers if one.get("name") == name), None)
    return None if table is None else made(table, config=config, protocols=load_protocols())


def own_listener(config: "Config", calling_ae_title: str, port: int | None = None) -> Peer:
    """The way any scanner reaches this gateway."""
    host = _HERE.get(config.dimse.host, config.dimse.host)
    settings = {
        "name": "this gateway", "protocol": "dimse", "host": host, "port": port or config.dimse.port,
        "ae_title": config.dimse.ae_title, "calling_ae_title": calling_ae_title,
    }  # fmt: skip
    return make_peer(settings, protocols=load_protocols())
