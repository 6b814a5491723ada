"""Signed heads of the audit trail (Ed25519), a line each, kept outside the database: what was cut off or written anew shows.

A line is JSON: how many events there were, the hash of the last, when, with which key (SHA-256 of its 32 public bytes), and
the signature of the same line without it, written as chain.canonical does.
"""

import base64
import json
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from heapq import nlargest
from pathlib import Path
from typing import Any

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from gateway.auditing import audit, chain
from gateway.auditing.audit import Act
from gateway.auditing.chain import Entry, Finding, Head, canonical
from gateway.configuration.sections import Config
from gateway.crash import crash_point
from gateway.db import Database, insert_once, lock, snapshot
from gateway.errors import ConfigError
from gateway.machine.disk import sync_folder
from gateway.rows.trail import AuditEvent, AuditSink

_NAME, _FEW = "heads", 100

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Signed(Head):
    """The head of the chain at a time, as a signed line tells it."""

    at: datetime


@dataclass(frozen=True)
class Heads:
    """What a file of signed heads holds; `problem` names its first line that cannot be believed.

    `whole_of`: the key (SHA-256) of which it should have every signature that the trail tells of; a copy may lack the last.
    """

    signed: tuple[Signed, ...] = ()
    problem: str = ""
    whole_of: str = ""

    @property
    def last(self) -> int:
        return max((head.position for head in self.signed), default=0)


def heads_file(config: Config) -> Path:
    return config.audit.heads or config.gateway.data_dir / "audit-heads.jsonl"


def key_file(config: Config) -> Path:
    return config.audit.key or config.gateway.data_dir / "audit.key"


def public_key_file(config: Config) -> Path:
    return key_file(config).with_suffix(".pub")


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key of that file; where there is none it is made, with its public key beside it. Raises ConfigError, OSError."""
    if not path.exists():
        _make_key(path)
    key = _loaded(path, lambda text: load_pem_private_key(text, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError([f"{path}: expected an Ed25519 key"])
    public = path.with_suffix(".pub")
    if not public.exists():
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Raises ConfigError, OSError."""
    key = _loaded(path, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError([f"{path}: expected an Ed25519 public key"])
    return key


def seal(now: datetime, *, db: Database, key: Ed25519PrivateKey, heads: Path, every: timedelta = timedelta(0)) -> bool:
    """Sign the head and append it to `heads`, durably; False where it is not time yet or nothing happened since the last.

    However many gateways with this key ask: one of them does it at a time. Each key has its own turn: a machine whose file
    lacked what another one signed would serve a database that is older than that. Raises OSError where the file cannot be
    written.
    """
    name = f"{_NAME} {_fingerprint(key.public_key())[:16]}"
    with db.begin() as session:
        session.execute(delete(AuditSink).where(AuditSink.name == _NAME))  # all machines' turn, in earlier versions
        is_first = insert_once(session, AuditSink, name=name, position=0, at=now, reason="")
        sink = lock(session, AuditSink, name)
        head = audit.head_of(session)
        if head is None or head.position < sink.position:
            _logger.error("audit.truncated", count=sink.position)
            return False
        is_due = is_first or not now - every < sink.at <= now  # a time to come is nobody's signature: it is due, too
        if not is_due or not _is_new(session, sink.position):
            return False
        _append(heads, _line(head, now, key))
        crash_point("seal.appended")
        sink.position, sink.at = head.position, now
        audit.record(session, Act.AUDIT_SIGNED, at=now, events=head.position, key=_fingerprint(key.public_key()))
    return True


def attest(head: Head, now: datetime, *, key: Ed25519PrivateKey, heads: Path) -> None:
    """Append a head to `heads` that the database does not have any more. Raises OSError."""
    _append(heads, _line(head, now, key))


def read(lines: Iterable[str], key: Ed25519PublicKey) -> Heads:
    """The heads that `key` signed. A line without an end, or torn by a crash, tells nothing and is passed over."""
    signed: list[Signed] = []
    for number, line in enumerate(lines, 1):
        told = _told(line)
        if told is None:
            continue
        if told.get("key") != _fingerprint(key):
            return Heads(tuple(signed), f"line {number} of the signed heads: expected one that is signed with the given key")
        try:
            key.verify(base64.b64decode(told.pop("signature")), canonical(told).encode())
            signed.append(Signed(int(told["position"]), str(told["hash"]), datetime.fromisoformat(told["at"])))
        except (InvalidSignature, ValueError, KeyError, TypeError):
            return Heads(tuple(signed), f"line {number} of the signed heads: its signature is not of what it says")
    return Heads(tuple(signed))


def heads(config: Config, key: Path | None = None) -> Heads:
    """Those that this gateway signed itself; none before the first. Raises ConfigError, OSError."""
    file, key = heads_file(config), key or public_key_file(config)
    if not key.exists():
        return Heads()
    with file.open(encoding="utf-8", errors="replace") if file.exists() else nullcontext(()) as lines:
        return replace(read(lines, public_key(key)), whole_of=_fingerprint(public_key(key)))


def latest(config: Config) -> Signed | None:
    """The furthest of those; of three years of them all could be verified in a minute, for which every start would wait."""
    file, key = heads_file(config), public_key_file(config)
    if not key.exists() or not file.exists():
        return None
    with file.open(encoding="utf-8", errors="replace") as lines:
        furthest = nlargest(_FEW, lines, key=_position)
    return next((one for line in furthest for one in read([line], public_key(key)).signed), None)


def verify(db: Database, heads: Heads, *, watch: Callable[[Iterable[Entry], int], Iterable[Entry]]) -> Finding:
    """Walk the whole trail as it is now; `watch` sees the entries pass and is told how many there will be."""
    told = _Told(heads)
    with snapshot(db) as session:
        head = audit.head_of(session)
        entries = watch(audit.entries(session), head.position if head else 0)
        found = chain.verify(map(told.see, entries), head, heads.signed)
    found = replace(found, unsigned_since=told.unsigned_since)
    problem = heads.problem
    if not problem and told.signed > heads.last:
        problem = f"event {told.signed} was signed, and the signed heads end with event {heads.last}: some were cut off"
    return found if found.problem else replace(found, problem=problem)


def verified(db: Database, found: Finding, *, actor: str, now: datetime) -> None:
    """That somebody looked, and what was found, is told in the trail too."""
    with db.begin() as session:
        audit.record(
            session, Act.AUDIT_VERIFIED, at=now, actor=actor, outcome=audit.SERIOUS if found.problem else 0,
            events=found.events, heads=found.heads, bad=found.bad, problem=found.problem,
        )  # fmt: skip


@dataclass
class _Told:
    """What the trail itself says of its signatures."""

    heads: Heads
    signed: int = 0
    """The last event of which the file should have a head. Those of before a backup that was brought back were put aside."""
    unsigned_since: str = ""

    def see(self, entry: Entry) -> Entry:
        act, detail = entry.fields.get("act"), entry.fields.get("detail") or {}
        if act == Act.AUDIT_SIGNED and self.heads.whole_of and detail.get("key") == self.heads.whole_of:
            self.signed = int(detail["events"])
        elif act == Act.DATABASE_RESTORED:
            self.signed = 0
        if entry.id > self.heads.last and act != Act.AUDIT_SIGNED and not self.unsigned_since:
            self.unsigned_since = str(entry.fields.get("at", ""))
        return entry


def _make_key(path: Path) -> None:
    """Whole, durable and readable by us alone before it has its name; where two make one at once, the first is the key."""
    key = Ed25519PrivateKey.generate()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _loaded(path: Path, load: Any) -> object:
    try:
        return load(path.read_bytes())
    except (ValueError, TypeError) as error:
        raise ConfigError([f"{path}: expected a key as PEM, without a password"]) from error


def _is_new(session: Session, position: int) -> bool:
    """That a head was signed is an event too, and nothing to sign another for."""
    since = select(AuditEvent.id).where(AuditEvent.id > position, AuditEvent.act != Act.AUDIT_SIGNED)
    return session.scalar(since.limit(1)) is not None


def _line(head: Head, now: datetime, key: Ed25519PrivateKey) -> str:
    told: dict[str, object] = {
        "position": head.position, "hash": head.hash, "at": now.isoformat(), "key": _fingerprint(key.public_key()),
    }  # fmt: skip
    return canonical(told | {"signature": base64.b64encode(key.sign(canonical(told).encode())).decode()})


def _append(path: Path, line: str) -> None:
    is_new = not path.exists()
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):  # a line that a crash tore gets its end
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def _told(line: str) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _position(line: str) -> int:
    """As it says, whether or not it can be believed."""
    position = (_told(line) or {}).get("position")
    return position if isinstance(position, int) else 0


def _fingerprint(key: Ed25519PublicKey) -> str:
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()
