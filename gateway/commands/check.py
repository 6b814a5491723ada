"""`gateway check`: everything that is wrong with a configuration, at once and in words; nothing is changed by it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from gateway import migrations
from gateway.auditing.seal import heads_file
from gateway.commands.reach import asked
from gateway.configuration.config import understood
from gateway.configuration.oversight import SyntheticSection
from gateway.configuration.sections import SYNTHETIC, Config, GatewaySection, RulesSection
from gateway.db import durability, open_database, open_engine
from gateway.errors import ConfigError, GatewayError
from gateway.inference.triton import Triton
from gateway.inference.tritonserver import problems
from gateway.migrations import Schema
from gateway.peers import Peer, Proof
from gateway.roster import Roster, known
from gateway.serving.plan import Plan, plan
from gateway.work.restored import refuse_older

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
    database = _database(config.database_url, served_unsafe=config.database.unsafe)
    data_dir = config.gateway.data_dir
    here = [*keys, _data_dir(data_dir), *_private(data_dir), *_folders(config), *database]
    return [*here, *_trail(config, database), *_planned(config)]


def rules_in_words(ready: Plan) -> Finding:
    """A gateway without rules keeps everything and does nothing: that is told as wrong."""
    file, rules = ready.config.rules.file, ready.rules.rules
    if not rules:
        missing = "has no rules" if file.exists() else "there is no such file"
        return Finding(good=False, text=f"{file}: {missing}: series are kept, none is worked on")
    return Finding(good=True, text=f"{file}: {len(rules)} rules: {', '.join(rule.name for rule in rules)}")


def _data_dir(folder: Path) -> Finding:
    """The folder, or the nearest one above it where it would be made."""
    near = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not near.is_dir():
        return Finding(good=False, text=f"data_dir {folder}: {near} is no folder")
    try:
        with TemporaryFile(dir=near):
            pass
    except OSError as error:
        return Finding(good=False, text=f"data_dir {folder}: {near} cannot be written: {error.strerror}")
    return Finding(good=True, text=f"data_dir {folder}: can be written{'' if folder.exists() else ', will be made'}")


def _private(folder: Path) -> Iterator[Finding]:
    if folder.exists() and folder.stat().st_mode & 0o007:
        what = f"images and passwords: chmod o-rwx {folder}"
        yield Finding(good=False, text=f"data_dir {folder}: everybody on this machine may look into it, at {what}")


def _folders(config: Config) -> Iterator[Finding]:
    for folder in config.folders:
        good = folder.path.is_dir()
        yield Finding(good, f"[[folders]] {folder.path}: " + ("is watched" if good else "there is no such folder"))


def _trail(config: Config, database: Sequence[Finding]) -> Iterator[Finding]:
    """Whether `serve` would refuse it: said where the database can be asked."""
    url = make_url(config.database_url)
    is_missing = url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()  # to ask it would make it
    if is_missing or not all(finding.good for finding in database) or not heads_file(config).exists():
        return
    db = open_database(config.database_url)
    try:
        refuse_older(config, db=db)
    except ConfigError as error:
        yield from (Finding(good=False, text=problem) for problem in error.problems)
    except SQLAlchemyError:  # it has no tables, or older ones: told above
        return
    finally:
        db.kw["bind"].dispose()


def _database(url: str, *, served_unsafe: bool) -> list[Finding]:
    engine, kind = open_engine(url), "PostgreSQL"
    try:
        if engine.dialect.name == "sqlite":
            file = Path(make_url(url).database or "")
            kind = f"SQLite in {file}"
            if not file.exists():
                beside = _data_dir(file.parent)
                return [Finding(beside.good, f"database: {kind}, will be made" if beside.good else f"database: {beside.text}")]
        found, unsafe = migrations.state(engine), durability(engine)
    except ConfigError as error:
        return [Finding(good=False, text=str(error))]
    finally:
        engine.dispose()
    state = Finding(found is not Schema.NEWER, f"database: {kind} {_SCHEMAS[found]}")
    return [state, *(Finding(served_unsafe, f"database: {kind}: {what}") for what in unsafe)]


def _planned(config: Config) -> Iterator[Finding]:
    roster = _roster(config)
    added = [entry for entry in roster.entries if entry.row is not None] if roster else []
    wrong, ready = _survey(config, [entry.name for entry in added])
    yield from (Finding(good=False, text=problem) for problem in wrong)
    if ready is None:
        return
    yield Finding(good=True, text=f"pipelines: {', '.join(ready.pipelines)}")
    if ready.config.rules == config.rules:
        yield rules_in_words(ready)
    with ThreadPoolExecutor(8) as pool:
        named = [(name, peer) for name, peer in ready.peers.items() if name != SYNTHETIC]  # that one is made by `serve`
        yield from pool.map(_echo, named)
        yield from pool.map(_echo, [(entry.name, entry.peer) for entry in added if entry.peer is not None and entry.is_active])
        yield from pool.map(lambda ask: Finding(*ask()), asked(config, ready.addressees))
    yield from (Finding(good=False, text=problem) for entry in added for problem in entry.problems)
    yield from _models(ready)


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
        return Finding(good=True, text=f"peer {name}: {peer.echo()}; {proof}")
    except GatewayError as error:
        return Finding(good=False, text=f"peer {name}: {error}")


def _models(ready: Plan) -> Iterator[Finding]:
    section, place = ready.config.triton, "the model folders"
    if section.url == "embedded":
        missing = problems(section.environment)
        yield from map(partial(Finding, False), missing or ())  # noqa: FBT003 - good=False
        if not missing:
            yield Finding(good=True, text="NVIDIA Triton is installed")
        served = {folder.name for repository in ready.model_folders for folder in repository.glob("*/")}
    else:
        place = f"Triton at {section.url}"
        triton = Triton(section.url, timeout_seconds=5)
        try:
            served = {name for name, is_ready in triton.models().items() if is_ready}
        except GatewayError as error:
            yield Finding(good=False, text=f"{place}: {error}")
            return
        finally:
            triton.close()
    for name, pipeline in ready.pipelines.items():
        good = pipeline.model in served
        yield Finding(good, f"model {pipeline.model}: " + ("served" if good else f"missing in {place}; pipeline {name} needs it"))
