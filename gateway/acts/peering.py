"""Peering: what a person may ask and do about peers. Every act is audited with who did it, and with no secret.

Those of gateway.toml are shown, asked and probed like the others, and changed in that file only. A change is checked whole before
it is written, and every process of the gateway works by it a second later.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, insert_once, lock
from gateway.dicom.uids import digest
from gateway.errors import ConfigError, DeliveryError
from gateway.peers import Peer, is_text, probe, secrets
from gateway.roster import FILE, HIDDEN, Entry, Roster
from gateway.rows.contacts import Contact, Probe
from gateway.rows.tables import Commitment, CommitmentState, Delivery, DeliveryState, Job, JobState
from gateway.work.delivery import UNPROVED

_AWAITED = (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.HELD)
_WRONG = (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.HELD, DeliveryState.FAILED)
_SHOWN_ERRORS = 5
_ADDRESS = frozenset({"protocol", "url", "token_url", "host", "port", "verify"})
"""Keys that say where a secret goes, and who may read it there."""


@dataclass(frozen=True)
class PeerLine:
    """One peer: `deliveries` counts those that are not done by state, `errors` are those with a reason, the latest first."""

    entry: Entry
    deliveries: Mapping[str, int]
    succeeded_at: datetime | None
    errors: Sequence[Delivery]
    probe: Probe | None

    @property
    def awaited(self) -> int:
        """Deliveries that have not come to an end."""
        return sum(count for state, count in self.deliveries.items() if state != DeliveryState.FAILED)

    @property
    def to_give_up(self) -> int:
        """Those that end where it is retired: all but what is being sent."""
        return sum(count for state, count in self.deliveries.items() if state != DeliveryState.SENDING)


def list_peers(db: Database, roster: Roster) -> list[PeerLine]:
    """Those of gateway.toml, then those that were added."""
    with db() as session:
        return [_line(session, entry) for entry in roster.entries]


def show_peer(db: Database, roster: Roster, name: str) -> PeerLine:
    """Raises ConfigError where there is no such peer."""
    entry = _entry(roster, name)
    with db() as session:
        return _line(session, entry)


def add_peer(
    db: Database, roster: Roster, table: Mapping[str, Any], *, actor: str, now: datetime, within: Path | None = None
) -> str:
    """`table` as it would stand in gateway.toml. Raises ConfigError with everything that is wrong with it.

    `within`: where files with secrets must lie, for who has no other way to the files of this machine.
    """
    name, settings = str(table.get("name", "")), {key: value for key, value in table.items() if key != "name"}
    _check_files(name, settings, settings, within)
    peer = roster.make(table)
    if not is_text(table.get("name")):
        raise ConfigError(["peer: name: expected a name"])
    if name in {entry.name for entry in roster.entries}:
        raise ConfigError([f"peer {name}: there is one of this name already"])
    with db.begin() as session:
        values = {"settings": settings, "disabled": False, "added_at": now, "added_by": actor, "changed_at": now}
        if not insert_once(session, Contact, name=name, changed_by=actor, **values):
            raise ConfigError([f"peer {name}: there is one of this name already"])
        after = _digest(Entry(name, {**settings, "name": name}, peer))
        audit.record(session, Act.PEER_ADDED, at=now, actor=actor, peer=name, before="", after=after, keys=sorted(settings))
    roster.refresh()
    return f"peer {name} is added"


def change_peer(
    db: Database, roster: Roster, name: str, changes: Mapping[str, Any], *, actor: str, now: datetime, within: Path | None = None
) -> str:
    """Some keys of its table; None takes a key away, HIDDEN leaves it as it is. Raises ConfigError with all that is wrong.

    `within` as above.
    """
    given = {key: value for key, value in changes.items() if value != HIDDEN and key != "name"}
    with db.begin() as session:
        row, before = _to_change(session, roster, name)
        settings = {key: value for key, value in {**row.settings, **given}.items() if value is not None}
        keys = sorted(key for key in {*row.settings, *settings} if row.settings.get(key) != settings.get(key))
        if not keys:
            return f"peer {name} is as it was"
        _check_files(name, settings, keys, within)
        peer = roster.make({**settings, "name": name})
        kept = sorted(secrets(peer, settings) - given.keys())
        if kept and not _ADDRESS.isdisjoint(keys):
            raise ConfigError(
                [f"peer {name}: say {', '.join(kept)} again: what nobody sees must not go to another address unasked"]
            )
        row.settings, row.changed_at, row.changed_by = settings, now, actor
        after = _digest(Entry(name, {**settings, "name": name}, peer))
        audit.record(session, Act.PEER_CHANGED, at=now, actor=actor, peer=name, before=before, after=after, keys=keys)
    roster.refresh()
    return f"peer {name} is changed"


def disable_peer(db: Database, roster: Roster, name: str, *, disabled: bool, actor: str, now: datetime) -> str:
    """While it is disabled what is to go to it waits, and nothing is lost; it goes when the peer is enabled again."""
    act, words = (Act.PEER_DISABLED, "disabled") if disabled else (Act.PEER_ENABLED, "enabled")
    with db.begin() as session:
        row, before = _to_change(session, roster, name)
        if row.disabled == disabled:
            return f"peer {name} is {words} already"
        row.disabled, row.changed_at, row.changed_by = disabled, now, actor
        audit.record(session, act, at=now, actor=actor, peer=name, before=before, after=before)
    roster.refresh()
    return f"peer {name} is {words}"


def remove_peer(db: Database, roster: Roster, name: str, *, ruled: Collection[str], actor: str, now: datetime) -> str:
    """`ruled` are the names that the rules in force send to. Raises ConfigError while something may still go to it."""
    with db.begin() as session:
        row, before = _to_change(session, roster, name)
        problems = _needs(session, name)
        if name in ruled:
            problems.append(f"peer {name}: a rule sends to it: change the rules first")
        if problems:
            raise ConfigError(problems)
        session.delete(row)
        audit.record(session, Act.PEER_REMOVED, at=now, actor=actor, peer=name, before=before, after="")
    roster.refresh()
    return f"peer {name} is removed; its deliveries stay on record"


def echo_peer(roster: Roster, name: str) -> str:
    """A sentence about how it answered. Raises ConfigError where it cannot be asked, Unreachable or Rejected where it did not."""
    return _peer(roster, name).echo()


def probe_peer(db: Database, roster: Roster, name: str, *, actor: str, now: datetime) -> Probe:
    """Ask it what it takes, and keep the answer, also where there was none. Raises ConfigError where it cannot be asked."""
    peer, reason = _peer(roster, name), ""
    try:
        found = [[one.what, one.works, one.note] for one in probe(peer)]
    except DeliveryError as error:
        found, reason = [], str(error)
    with db.begin() as session:
        row = session.merge(Probe(peer=name, at=now, actor=actor, reason=reason, found=found))
        audit.record(
            session, Act.PEER_PROBED, at=now, actor=actor, outcome=audit.MINOR if reason else 0, peer=name, reason=reason,
            accepted=sum(one[1] is True for one in found), asked=len(found),
        )  # fmt: skip
    return row


def _check_files(name: str, table: Mapping[str, Any], changed: Collection[str], within: Path | None) -> None:
    """Else whoever may add a peer reads the first line of any file: it is sent to a server of his own. Raises ConfigError."""
    if within is None:
        return
    moved = not _ADDRESS.isdisjoint(changed)
    files = {key: Path(str(table[key])) for key in table if key.endswith("_file") and (moved or key in changed)}
    wrong = [key for key, path in files.items() if not path.resolve().is_relative_to(within.resolve())]
    if wrong:
        raise ConfigError([f"peer {name}: {key}: expected a file in {within}; `gateway peers` takes others" for key in wrong])


def _needs(session: Session, name: str) -> list[str]:
    """What has not come to its end and wants this peer."""
    mine = Delivery.peer == name
    waiting = select(func.count()).select_from(Delivery).where(mine, Delivery.state.in_(_AWAITED) | UNPROVED)
    reports = select(func.count()).select_from(Commitment)
    reports = reports.where(Commitment.peer == name, Commitment.state == CommitmentState.CHECKED)
    unfinished = select(Job.send_to).where(Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
    counts = {
        "deliveries are on their way to it: let them end, cancel them, or retire it": session.scalar(waiting) or 0,
        "reports of storage commitment wait for it": session.scalar(reports) or 0,
        "jobs will send to it: let them end, or cancel them": sum(name in send_to for send_to in session.scalars(unfinished)),
    }
    return [f"peer {name}: {count} {what}" for what, count in counts.items() if count]


def _line(session: Session, entry: Entry) -> PeerLine:
    mine = Delivery.peer == entry.name
    counted = select(Delivery.state, func.count()).where(mine, Delivery.state.in_(_WRONG) | UNPROVED).group_by(Delivery.state)
    succeeded = select(func.coalesce(Delivery.proved_at, Delivery.sent_at)).where(mine, Delivery.sent_at.is_not(None))
    wrong = select(Delivery).where(mine, Delivery.reason != "", Delivery.state.in_(_WRONG))
    counts: dict[str, int] = dict(session.execute(counted).all())
    return PeerLine(
        entry,
        counts,
        session.scalar(succeeded.order_by(Delivery.id.desc()).limit(1)),
        session.scalars(wrong.order_by(Delivery.id.desc()).limit(_SHOWN_ERRORS)).all(),
        session.get(Probe, entry.name),
    )


def _to_change(session: Session, roster: Roster, name: str) -> tuple[Contact, str]:
    """Its row, which nobody else changes now, and the digest of it. Raises ConfigError."""
    entry = _entry(roster, name)
    if entry.row is None:
        raise ConfigError([f"peer {name}: it stands in {FILE}: change it there"])
    try:
        row = lock(session, Contact, name)
    except NoResultFound as error:
        raise ConfigError([f"there is no peer {name!r} any more: somebody else has removed it"]) from error
    return row, _digest(Entry(name, {**row.settings, "name": name}, entry.peer))


def _peer(roster: Roster, name: str) -> Peer:
    entry = _entry(roster, name)
    if entry.peer is None:
        raise ConfigError(entry.problems)
    return entry.peer


def _entry(roster: Roster, name: str) -> Entry:
    found = {entry.name: entry for entry in roster.entries}
    if name not in found:
        raise ConfigError([f"there is no peer {name!r}; known: {', '.join(found) or 'none'}"])
    return found[name]


def _digest(entry: Entry) -> str:
    """Of what may be shown of it: a short secret could be guessed from a digest."""
    return digest(entry.protocol, entry.shown)
