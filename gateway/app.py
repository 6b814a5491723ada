"""Wiring: from a configuration to a gateway that serves. The one place where the stages meet what they depend on."""

import fcntl
import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import structlog
from sqlalchemy import select

import gateway
from gateway import audit, engine, migrations
from gateway.audit import Act
from gateway.commit import commit, commit_failed, resume
from gateway.completeness import Policy
from gateway.db import Database, open_database
from gateway.deliver import deliver, deliver_failed
from gateway.doorman import Doorman
from gateway.engine import COMMIT, DELIVER, RUN, SETTLE, SWEEP, Lane, Queues, Stage, Worker, model_lane, peer_lane
from gateway.errors import ConfigError, GatewayError
from gateway.filing import Books
from gateway.models import Models
from gateway.outputs import Equipment
from gateway.peers import Peer, load_protocols, make_peer
from gateway.pipeline import Pipeline, load_pipelines
from gateway.receive import Found, association_ended, executor_died, forget, positions, receive
from gateway.rules import RuleSet
from gateway.rules import load as load_rules
from gateway.run import run, run_failed
from gateway.sections import Config
from gateway.settle import settle, settle_failed
from gateway.store import Store
from gateway.sweep import schedule, sweep
from gateway.tables import Association
from gateway.tls import ServerContext

_HOME = Path(gateway.__file__).parent.parent
# A job makes very many DICOM elements, none of them garbage before it ends: looking for some at every 700th is wasted.
_GARBAGE = (50_000, 20, 20)
_PEER_SLOTS, _SETTLE_SLOTS, _COMMIT_SLOTS = 2, 2, 2

T = TypeVar("T")

_logger = structlog.get_logger()


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Plan:
    """A configuration whose every part was found and understood."""

    config: Config
    pipelines: Mapping[str, Pipeline]
    peers: Mapping[str, Peer]
    rules: RuleSet

    @property
    def model_folders(self) -> tuple[Path, ...]:
        return (_HOME / "triton_models", *self.config.triton.models)


def plan(config: Config) -> Plan:
    """Load pipelines, peers and rules; raise ConfigError with everything that is wrong with any of them."""
    problems: list[str] = []
    pipelines = _collected(problems, lambda: load_pipelines((_HOME / "pipelines", *config.gateway.pipelines))) or {}
    protocols = _collected(problems, load_protocols) or {}
    peers = {}
    for table in config.peers:
        settings = {"calling_ae_title": config.dimse.ae_title, **table} if table.get("protocol") == "dimse" else table
        peer = _collected(problems, partial(make_peer, settings, protocols=protocols))
        if peer is not None:
            peers[str(table.get("name"))] = peer
    if config.tls.certificate:
        _collected(problems, lambda: ServerContext(**config.tls.model_dump()))
    problems += _swallowed(config)
    names = [str(table.get("name")) for table in config.peers]
    rules = _collected(problems, lambda: _rules(config.rules.file, pipelines, names))
    if problems or rules is None:
        raise ConfigError(problems)
    return Plan(config, pipelines, peers, rules)


def _swallowed(config: Config) -> list[str]:
    """A peer's folder within a watched one: results would be taken in and removed."""
    watched = [folder.path.resolve() for folder in config.folders]
    return [
        f"peer {table.get('name')}: path: expected a folder that is not watched by [[folders]]"
        for table in config.peers
        if table.get("protocol") == "folder"
        and any(Path(str(table.get("path"))).resolve().is_relative_to(one) for one in watched)
    ]


def _collected(problems: list[str], load: Callable[[], T]) -> T | None:
    try:
        return load()
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def _rules(file: Path, pipelines: Iterable[str], peers: Iterable[str]) -> RuleSet:
    """Without a file there are no rules: every series is kept and none is worked on."""
    if not file.exists():
        return RuleSet("", ())
    try:
        return load_rules(file.read_text(), pipelines=tuple(pipelines), peers=tuple(peers))
    except ConfigError as error:
        raise ConfigError([f"{file}: {problem}" for problem in error.problems]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: expected a readable text file"]) from error


class Gateway:
    """A gateway that serves while it is entered: listener, worker, embedded Triton. `port` is the listener's."""

    def __init__(self, ready: Plan) -> None:
        self._plan, config = ready, ready.config
        self.store = Store(config.gateway.data_dir / "store", keep_free_bytes=config.store.keep_free_bytes)
        self.db: Database = open_database(config.database_url)
        self.queues = Queues(config.database_url)
        log_file = config.gateway.data_dir / "triton.log"
        self.models = Models(config.triton, folders=ready.model_folders, log_file=log_file)
        self.worker = Worker(config.database_url, self._stages(), watched=self._associated, buried=self._buried)
        self._quiet = timedelta(seconds=config.completeness.quiet_seconds)
        self.doorman: Doorman | None = None
        self._close = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            config = self._plan.config
            stack.enter_context(_only_one(config.gateway.data_dir))
            stack.callback(self.queues.close)
            upgrade(config.database_url, self.db)
            self.store.forget_unfinished()
            gc.set_threshold(*_GARBAGE)
            self._record(Act.GATEWAY_STARTED)
            self.doorman = Doorman(config, config.policy, self.store.incoming, books=self._books(), clock=now)
            self.doorman.take_over()
            self.worker.start(self._lanes())
            stack.callback(self.worker.stop)
            stack.callback(self.models.stop)
            schedule(now(), timedelta(0), db=self.db, queues=self.queues)
            resume(now(), peers=self._plan.peers, db=self.db, queues=self.queues)
            stack.callback(self.doorman.close)
            self.doorman.start()
            _logger.info("gateway.started", port=self.port, version=gateway.__version__)
            self._close = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Doors first, then the work in hand; what does not end in time goes on after the next start."""
        self._close.close()
        self._record(Act.GATEWAY_STOPPED)
        _logger.info("gateway.stopped")

    @property
    def config(self) -> Config:
        return self._plan.config

    @property
    def port(self) -> int:
        assert self.doorman is not None, "expected a gateway that was entered"
        return self.doorman.port()

    def start_models(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Load the models now; a Triton that cannot start keeps jobs waiting, not instances out."""
        try:
            self.models.start(progress)
        except GatewayError as error:
            _logger.error("triton.unavailable", reason=str(error))
            progress(str(error))

    def start_models_aside(self) -> None:
        threading.Thread(target=self.start_models, name="triton", daemon=True).start()

    def _books(self) -> Books:
        db, queues, quiet = self.db, self.queues, self._quiet

        def do_receive(found: Sequence[Found]) -> None:
            receive(found, now(), store=self.store, db=db, queues=queues, quiet=quiet, executor=self.worker.executor)

        return Books(
            receive=do_receive,
            positions=partial(positions, db=db),
            forget=partial(forget, db=db),
            ended=lambda association: association_ended(association, now(), db=db, queues=queues, quiet=quiet),
            closed=self._doors_closed,
        )

    def _doors_closed(self, reason: str) -> None:
        act = Act.DOOR_CLOSED if reason else Act.DOOR_OPENED
        _logger.warning(str(act), reason=reason)
        with self.db.begin() as session:
            audit.record(session, act, at=now(), outcome=audit.SERIOUS if reason else 0, reason=reason)

    def _stages(self) -> tuple[Stage, ...]:
        ready, config, store, db, queues = self._plan, self._plan.config, self.store, self.db, self.queues
        policy = Policy(config.completeness.quiet_seconds, config.completeness.deadline_seconds)
        retry = timedelta(seconds=config.delivery.retry_seconds)
        retry_at_most = timedelta(seconds=config.delivery.retry_at_most_seconds)

        equipment = Equipment("Clinical AI Gateway", "Clinical AI Gateway", gateway.__version__, "1")

        def do_settle(key: str) -> None:
            # As of when everything was filed: what is promised but not a row yet counts as not quiet.
            as_of = self.doorman.filed_by(now()) if self.doorman else now()
            settle(
                key, as_of, policy=policy, rules=ready.rules, pipelines=ready.pipelines, equipment=equipment, store=store, db=db,
                queues=queues,
            )  # fmt: skip

        def do_run(key: str) -> None:
            run(
                int(key), clock=now, pipelines=ready.pipelines, models=self.models, equipment=equipment, store=store, db=db,
                queues=queues,
            )  # fmt: skip

        def do_deliver(key: str) -> None:
            deliver(
                int(key), clock=now, peers=ready.peers, store=store, db=db, queues=queues, retry=retry,
                retry_at_most=retry_at_most,
            )  # fmt: skip

        def do_commit(key: str) -> None:
            commit(
                int(key), clock=now, filed=self._filed_at, peers=ready.peers, store=store, db=db, queues=queues, retry=retry,
                retry_at_most=retry_at_most,
            )  # fmt: skip

        def do_commit_failed(key: str, error: Exception) -> None:
            commit_failed(int(key), error, now(), db=db, queues=queues, retry=retry_at_most)

        return (
            Stage(SETTLE, do_settle, lambda key, error: settle_failed(key, error, now(), db=db)),
            Stage(RUN, do_run, lambda key, error: run_failed(int(key), error, now(), db=db, queues=queues)),
            Stage(DELIVER, do_deliver, lambda key, error: deliver_failed(int(key), error, now(), db=db, queues=queues)),
            Stage(COMMIT, do_commit, do_commit_failed),
            Stage(SWEEP, lambda _: sweep(now(), db=db, queues=queues), lambda _key, _error: None),
        )

    def _lanes(self) -> list[Lane]:
        models = dict.fromkeys(pipeline.model for pipeline in self._plan.pipelines.values())
        return [
            Lane(SETTLE, _SETTLE_SLOTS),
            Lane(COMMIT, _COMMIT_SLOTS, look_seconds=0.5),
            Lane(SWEEP, 1, look_seconds=5),
            *(Lane(model_lane(model), self._plan.config.triton.slots) for model in models),
            *(Lane(peer_lane(peer), _PEER_SLOTS) for peer in self._plan.peers),
        ]

    def _filed_at(self) -> datetime:
        return self.doorman.filed_at if self.doorman else datetime.min.replace(tzinfo=UTC)

    def _associated(self) -> set[str]:
        """Processes that hold associations which have not ended.

        One of ours whose end could not be written (the database was away), or that broke off while its first instance was
        still being indexed, is ended here.
        """
        open_ones = select(Association.id, Association.executor).where(Association.ended_at.is_(None))
        with self.db() as session:
            held = {row.id: row.executor for row in session.execute(open_ones)}
        mine = {association for association, executor in held.items() if executor == self.worker.executor}
        for association in mine - self.doorman.associations if self.doorman else ():
            association_ended(association, now(), db=self.db, queues=self.queues, quiet=self._quiet)
        return set(held.values())

    def _buried(self, executor: str) -> None:
        executor_died(executor, now(), db=self.db, queues=self.queues, quiet=self._quiet)

    def _record(self, act: Act) -> None:
        with self.db.begin() as session:
            audit.record(session, act, at=now(), version=gateway.__version__, executor=self.worker.executor)


def upgrade(database_url: str, db: Database) -> None:
    """Bring the database up to date: the engine's tables and ours."""
    engine.migrate(database_url)
    migrations.upgrade(db.kw["bind"])


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Two gateways on one folder would sweep each other's files: the second refuses to start."""
    with (data_dir / "gateway.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError([f"{data_dir}: another gateway serves from this folder"]) from error
        yield
