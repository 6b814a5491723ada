"""An older database under a newer store: a backup that was brought back, or a trail that was cut off.

Serving on as if nothing had happened would make results again under their UIDs, with other times in them, and send them over
those that peers hold. So the gateway does not serve before a person has said that a backup was restored; from then on peers are
asked for what they hold before anything is sent to them.
"""

from datetime import datetime

from sqlalchemy import select

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.auditing.seal import Signed, heads_file, latest
from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.errors import ConfigError
from gateway.rows.tables import Instance, OutputInstance, Series, Version
from gateway.rows.workitems import WorkitemDocument
from gateway.store import place

_LATEST, _FILES = 20, 500
_AT_ONCE = 10_000
_NO_HEAD = "database: the end of its audit trail is not known any more (gw_audit_head is empty): restore a backup"


def refuse_older(config: Config, *, db: Database) -> None:
    """Raise ConfigError where a head of the trail was signed that the database does not have, or where it has none at all."""
    there, signed = _there(db), _missing(config, db=db)
    if signed is None:
        return
    what = "if you restored it, say so with `gateway db restored`, then serve"
    if signed.position > there:
        found = f"its audit trail ends at event {there}, and event {signed.position} was signed"
        raise ConfigError([f"database: {found}: it was restored from an older backup, or cut off; {what}"])
    found = f"event {signed.position} of its audit trail is not the one that was signed"
    raise ConfigError([f"database: {found}: it was restored from an older backup and served since, or written anew; {what}"])


def accept(config: Config, *, db: Database, actor: str, now: datetime) -> str:
    """Write down that a backup was restored; the signed heads are put aside, because they tell of another trail."""
    there, signed, file = _there(db), _missing(config, db=db), heads_file(config)
    if signed is None:
        raise ConfigError(["database: nothing was signed that it does not have: expected one that was restored"])
    aside = file.with_name(f"{file.stem}.until-{now:%Y%m%dT%H%M%S}{file.suffix}")
    with db.begin() as session:
        audit.record(
            session, Act.DATABASE_RESTORED, at=now, actor=actor, outcome=audit.SERIOUS, signed=signed.position, events=there
        )  # fmt: skip
    file.rename(aside)
    found = f"event {signed.position} was signed and is not in the database, which ends at event {there}"
    return f"{found}; the signed heads of before are in {aside}"


def without_rows(config: Config, *, db: Database) -> int:
    """Files of the store that the restored database does not know: `gateway send` brings them in again."""
    left = {path.stem for path in config.store_folder.glob("??/*.dcm")}  # fewer than rows, which stay
    with db() as session:
        for table in (Instance, OutputInstance, Version, WorkitemDocument):
            for digests in session.scalars(select(table.sha256).execution_options(yield_per=_AT_ONCE)).partitions():
                left.difference_update(digests)
    return len(left)


def without_files(config: Config, *, db: Database) -> int:
    """How many instances of the series that came last have no file in the store: it is older than the database, or lost them."""
    latest = select(Series.series_instance_uid).order_by(Series.last_received_at.desc()).limit(_LATEST)
    there = Instance.series_instance_uid.in_(latest) & Instance.gone_at.is_(None)
    with db() as session:
        digests = session.scalars(select(Instance.sha256).where(there).limit(_FILES)).all()
    return sum(not place(config.store_folder, digest).exists() for digest in digests)


def _missing(config: Config, *, db: Database) -> Signed | None:
    """The last head that was signed, where the database does not have it: its event is not there, or is another one."""
    signed = latest(config)
    with db() as session:
        is_there = signed is None or audit.has(session, signed)
    return None if is_there else signed


def _there(db: Database) -> int:
    with db() as session:
        head = audit.head_of(session)
    if head is None:
        raise ConfigError([_NO_HEAD])
    return head.position
