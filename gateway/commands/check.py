"""`gateway check`: everything that is wrong with a configuration, at once and in words; nothing is changed by it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from gateway import migrations
from gateway.acts import rulebook
from gateway.commands import ground
from gateway.commands.reach import asked, moved, unsent
from gateway.configuration.config import understood
from gateway.configuration.oversight import SyntheticSection
from gateway.configuration.sections import SYNTHETIC, Config, GatewaySection, RulesSection
from gateway.db import Database, durability, open_database, open_engine, takes_writes
from gateway.decisions.rules import load_taken
from gateway.dicom.uids import secret_uid
from gateway.errors import ConfigError, GatewayError
from gateway.inference.modelfolder import unloadable
from gateway.inference.triton import Triton
from gateway.inference.tritonserver import problems
from gateway.migrations import Schema
from gateway.peers import Peer, Proof
from gateway.peers.dimse import Dimse
from gateway.roster import Roster, known
from gateway.rows.ruleset import RuleVersion
from gateway.serving.hosts import check_shared, wrong_clock
from gateway.serving.plan import Plan, plan
from gateway.work.restored import refuse_older, without_files

_SCHEMAS = {
    Schema.MISSING: "has no tables yet, `gateway serve` makes them",
    Schema.OLDER: "has older tables, `gateway serve` brings them up to date",
    Schema.CURRENT: "has the tables of this version",
    Schema.NEWER: "was made by a newer gateway: use that version",
}


@dataclass(frozen=True)
class Finding:
    good: bool
    text: str


def check_all(path: Path | None) -> list[Finding]:
    """Keys, data folder, database, pipelines, rules, peers, whom it tells, and models, each whatever the others say."""
    try:
        config, wrong = understood(path)
    except ConfigError as error:
        return [Finding(good=False, text=problem) for problem in error.problems]
    keys = [Finding(good=False, text=problem) for problem in wrong]
    if not keys:
        keys = [Finding(good=True, text=f"{path or 'defaults (there is no gateway.toml here)'}: every key is known")]
    database = _database(config)
    here = [*keys, *(Finding(*one) for one in ground.found(config)), *database]
    with _asked(config, database) as db:
        return [*here, *_served(config, db), *_planned(config, db)]


def rules_in_words(ready: Plan) -> Finding:
    """Of the file. A gateway without rules keeps everything and does nothing: that is told as wrong."""
    file, rules = ready.config.rules.file, ready.rules.rules
    if not rules:
        missing = "has no rules" if file.exists() else "there is no such file"
        return Finding(good=False, text=f"{file}: {missing}: series are kept, none is worked on")
    return Finding(good=True, text=f"{file}: {len(rules)} rules: {', '.join(rule.name for rule in rules)}")


@contextmanager
def _asked(config: Config, database: Sequence[Finding]) -> Iterator[Database | None]:
    """The database, where it is there and in order."""
    url = make_url(config.database_url)
    is_missing = url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()  # to ask it would make it
    if is_missing or not all(finding.good for finding in database):
        yield None
        return
    db = open_database(config.database_url)
    try:
        yield db
    finally:
        db.kw["bind"].dispose()


def _served(config: Config, db: Database | None) -> Iterator[Finding]:
    """What `serve` would refuse, or would not go well."""
    if db is None:
        return
    try:
        yield from _refused(config, db)
        if wrong := wrong_clock(db, datetime.now(UTC)):
            yield Finding(good=False, text=wrong)
        if count := without_files(config, db=db):
            what = f"{count} instances of the latest series have no file: it is older than the database, or has lost them"
            yield Finding(good=False, text=f"store {config.store_folder}: {what}: bring its backup back, or have them sent again")
    except SQLAlchemyError:  # it has no tables, or older ones: told above
        return


def _refused(config: Config, db: Database) -> Iterator[Finding]:
    for check in (partial(refuse_older, config), partial(check_shared, config.store_folder)):
        try:
            check(db=db)
        except ConfigError as error:
            yield from (Finding(good=False, text=problem) for problem in error.problems)


def _database(config: Config) -> list[Finding]:
    engine, kind = open_engine(config.database_url), "PostgreSQL"
    try:
        if engine.dialect.name == "sqlite":
            file = Path(engine.url.database or "")
            kind = f"SQLite in {file}"
            if not file.exists():
                good, text = ground.writable("data_dir", file.parent)
                if good and file.parent != config.gateway.data_dir and not file.parent.exists():  # `serve` makes no other folder
                    good, text = False, f"{kind}: there is no folder {file.parent}"
                return [Finding(good, f"database: {kind}, will be made" if good else f"database: {text}")]
        found, unsafe, is_read_only = migrations.state(engine), durability(engine), not takes_writes(engine)
    except ConfigError as error:
        return [Finding(good=False, text=str(error))]
    finally:
        engine.dispose()
    state = Finding(found is not Schema.NEWER, f"database: {kind} {_SCHEMAS[found]}")
    if is_read_only:
        state = Finding(good=False, text=f"database: {kind} can only be read: it is a standby, or is told so")
    return [state, *(Finding(config.database.unsafe, f"database: {kind}: {what}") for what in unsafe)]


def _planned(config: Config, db: Database | None) -> Iterator[Finding]:
    roster = _roster(config)
    added = [entry for entry in roster.entries if entry.row is not None] if roster else []
    wrong, ready = _survey(config, [entry.name for entry in added])
    yield from (Finding(good=False, text=problem) for problem in wrong)
    if ready is None:
        return
    yield Finding(good=True, text=f"pipelines: {', '.join(ready.pipelines)}")
    if ready.config.rules == config.rules:
        yield from _rules(ready, [entry.name for entry in added], db)
    with ThreadPoolExecutor(8) as pool:
        named = [(name, peer) for name, peer in ready.peers.items() if name != SYNTHETIC]  # that one is made by `serve`
        named += [(entry.name, entry.peer) for entry in added if entry.peer is not None and entry.is_active]
        yield from (echoes := list(pool.map(_echo, named)))
        moving = [(name, peer) for name, peer in named if isinstance(peer, Dimse) and peer.fetch == "move"]
        found = pool.map(lambda one: Finding(*moved(config, *one)), moving)
        told = {one.text for one in echoes}  # that a peer does not answer is told once
        yield from (one for one in found if one.text.replace(": fetch:", ":", 1) not in told)
        sent_to = {name for rule in ready.rules.rules for name in rule.send_to}
        for told_so in pool.map(lambda one: unsent(config, *one), [one for one in named if one[0] in sent_to]):
            yield from (Finding(good=False, text=text) for text in told_so)
        yield from pool.map(lambda ask: Finding(*ask()), asked(config, ready.addressees))
    yield from (Finding(good=False, text=problem) for entry in added for problem in entry.problems)
    yield from _models(ready)


def _rules(ready: Plan, added: Sequence[str], db: Database | None) -> Iterator[Finding]:
    """The file's, and those in force: from the first start on the database has them."""
    file, present = ready.config.rules.file, _in_force(db)
    if present is None or file.exists():
        yield rules_in_words(ready)
    if present is None:
        return
    version = f"rules: version {present.number}, which is in force"
    if file.exists() and ready.rules.digest != present.digest:
        yield Finding(good=True, text=f"{version}, says something else than {file}: `gateway rules plan` shows what")
    names = {*(str(table.get("name")) for table in ready.config.peers), *added}
    taken = load_taken(present.text, pipelines=ready.pipelines, peers=names, version=present.number).rules
    yield from (Finding(good=False, text=f"{version}: rule {one.name!r}: {one.problem}") for one in taken if one.problem)
    if not file.exists():
        yield Finding(good=True, text=f"{version}: {len(taken)} rules")


def _in_force(db: Database | None) -> RuleVersion | None:
    try:
        return None if db is None else rulebook.active(db)
    except SQLAlchemyError:  # it has no tables, or older ones: told above
        return None


def _roster(config: Config) -> Roster | None:
    """None where no protocol can be loaded: the plan tells."""
    try:
        return known(config)
    except ConfigError:
        return None


def _survey(config: Config, added: Sequence[str]) -> tuple[tuple[str, ...], Plan | None]:
    """What is wrong, and the plan; one that is refused is made again from the parts that are good by themselves."""
    wrong, ready = _tried(config, added)
    if ready is not None:
        return wrong, ready
    nothing = {"peers": (), "notices": (), "synthetic": SyntheticSection()}
    bare = config.model_copy(update=nothing | {"rules": RulesSection(file=config.gateway.data_dir / "without rules")})
    if _tried(bare)[1] is None:
        bare = bare.model_copy(update={"gateway": GatewaySection(data_dir=config.gateway.data_dir)})
    good = tuple(table for table in config.peers if _tried(bare.model_copy(update={"peers": (table,)}))[1] is not None)
    rest = bare.model_copy(update={"peers": good})
    return wrong, _tried(rest.model_copy(update={"rules": config.rules}), added)[1] or _tried(rest)[1]


def _tried(config: Config, added: Sequence[str] = ()) -> tuple[tuple[str, ...], Plan | None]:
    try:
        return (), plan(config, added=added)
    except ConfigError as error:
        return error.problems, None


def _echo(named: tuple[str, Peer]) -> Finding:
    name, peer = named
    try:
        proof = "nothing proves deliveries" if peer.proof is Proof.NONE else f"deliveries are proved by {peer.proof}"
        answer = peer.echo()
        if peer.proof is Proof.QUERY:
            peer.patient_of(secret_uid())  # of no study: whether it can be asked
        return Finding(good=True, text=f"peer {name}: {answer}; {proof}")
    except GatewayError as error:
        return Finding(good=False, text=f"peer {name}: {error}")


def _models(ready: Plan) -> Iterator[Finding]:
    section, place = ready.config.triton, "the model folders"
    if section.url == "embedded":
        missing = problems(section.environment)
        yield from map(partial(Finding, False), missing or ())  # noqa: FBT003 - good=False
        if not missing:
            yield Finding(good=True, text="NVIDIA Triton is installed")
        for folder in ready.model_folders:
            if not folder.is_dir():
                yield Finding(good=False, text=f"[triton] models {folder}: there is no such folder")
        known = unloadable(ready.model_folders)
    else:
        place = f"Triton at {section.url}"
        triton = Triton(section.url, timeout_seconds=5)
        try:
            known = {name: () for name, is_ready in triton.models().items() if is_ready}
        except GatewayError as error:
            yield Finding(good=False, text=f"{place}: {error}")
            return
        finally:
            triton.close()
    for name, pipeline in ready.pipelines.items():
        wrong = known.get(pipeline.model, [f"missing in {place}; pipeline {name} needs it"])
        yield from (Finding(not wrong, f"model {pipeline.model}: {text}") for text in wrong or ["served"])
