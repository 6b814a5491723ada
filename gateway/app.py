"""Wiring: from a configuration to a gateway that serves. The one place where the stages meet what they depend on."""

import gc
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

import structlog
from sqlalchemy import select

import gateway
from gateway import engine, filing, migrations
from gateway.acts import rulebook
from gateway.acts.order import order
from gateway.acts.rulebook import Current
from gateway.attempt import AWAY, named
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.commit import resume
from gateway.configuration.roles import Role
from gateway.configuration.sections import Config
from gateway.db import Database, check_durable, open_database
from gateway.engine import Queues, Worker
from gateway.errors import GatewayError
from gateway.fetching.archives import Archives
from gateway.fetching.sources import Sources
from gateway.fetching.take import Surroundings, terms
from gateway.fetching.watch import Watches
from gateway.fetching.worklist import Worklist
from gateway.inference.breaker import Breaker
from gateway.inference.models import Models
from gateway.machine.liveness import Presence, only_one
from gateway.machine.rounds import Rounds
from gateway.prove import told
from gateway.receive import Found, association_lost, executor_died, forget, positions, receive
from gateway.roster import Roster
from gateway.rows.tables import Association
from gateway.serving.doorman import Doorman
from gateway.serving.hosts import Hosts, share
from gateway.serving.inherit import Heir
from gateway.serving.notary import Notary
from gateway.serving.plan import Plan
from gateway.serving.rehearsal import Rehearsal
from gateway.serving.reread import Reread
from gateway.serving.stages import Stages
from gateway.store import Store
from gateway.sweep import schedule
from gateway.telling.metrics import Meter
from gateway.telling.tellers import Tellers
from gateway.work.restored import refuse_older

# A job makes very many DICOM elements, none of them garbage before it ends: looking for some at every 700th is wasted.
_GARBAGE = (50_000, 20, 20)
_FOLLOW_SECONDS, _RUN_ON_SECONDS = 1.0, 10.0

_logger = structlog.get_logger()


def now() -> datetime:
    return datetime.now(UTC)


class Gateway:
    """A gateway that serves while it is entered: listener, worker, embedded Triton. `port` is the listener's."""

    def __init__(self, ready: Plan, roles: frozenset[Role] = frozenset(Role), *, file: Path | None = None) -> None:
        self._plan, self._roles, config = ready, roles, ready.config
        self.store = Store(config.store_folder, keep_free_bytes=config.store.keep_free_bytes)
        self.db: Database = open_database(config.database_url)
        self.queues = Queues(config.database_url)
        log_file = config.gateway.data_dir / "triton.log"
        self.models = Models(config.triton, folders=ready.model_folders, log_file=log_file)
        self._breaker = Breaker(self.models)
        self._tellers = Tellers(self.db, config, addressees=ready.addressees, peers=lambda: self.roster.tables, clock=now)
        self.roster = Roster(config, self.db)
        self._worklist = Worklist(lambda: self.roster.active, clock=now)
        self._sources = Sources(self.roster, clock=now)
        self._archives = Archives(lambda: self.roster.active, self.surroundings)
        self._rules = Current(self.db, pipelines=lambda: ready.pipelines, peers=lambda: self.roster.names)
        self.worker = Worker(config.database_url, self._stages(), watched=self._associated, buried=self._buried)
        self._hosts = Hosts(self.db, self.worker.executor, alone=config.database_url.startswith("sqlite"))
        self._quiet = config.completeness.policy.first_look
        self.doorman: Doorman | None = None
        self.watches = Watches(lambda: self.roster.active, self.surroundings())
        away = partial(self._breaker.away, [one.model for one in ready.pipelines.values()])
        self.meter = Meter(self.db, store=config.store_folder, doors=lambda: self.doorman, away=away, clock=now)
        self._reread = Reread(file, config, roster=self.roster, db=self.db, clock=now, executor=self.worker.executor)
        self._close = ExitStack()
        self._followed = 0

    def __enter__(self) -> Self:
        """Raises GatewayError where it cannot serve, or the database fails before it does."""
        try:
            self._enter()
        except AWAY as error:
            failed = f"the database failed while the gateway started ({named(error)})"
            raise GatewayError(f"{failed}: see to it, and start again") from error
        return self

    def _enter(self) -> None:
        with ExitStack() as stack:
            config = self._plan.config
            stack.enter_context(only_one(config.gateway.data_dir))
            stack.callback(self.db.kw["bind"].dispose)
            stack.callback(self.queues.close)
            upgrade(config.database_url, self.db)
            refuse_older(config, db=self.db)
            check_durable(self.db, served_unsafe=config.database.unsafe)
            self.roster.refresh()
            self._followed = self.roster.generation
            rulebook.begin(self.db, config.rules.file, pipelines=self._plan.pipelines, peers=self.roster.names, now=now())
            share(config.store_folder, db=self.db)
            self.store.forget_unfinished()
            stack.enter_context(self.store.working())
            gc.set_threshold(*_GARBAGE)
            for teller in (self._tellers, notary := Notary(self.db, config, clock=now)):
                stack.callback(teller.stop)
            stack.callback(self._record_stop)
            self._record(Act.GATEWAY_STARTED)
            notary.start()
            self._tellers.start()
            heir = Heir(self.store, books=self._books(), left=lambda left, dead: self._hosts.forget(left, now(), dead=dead))
            heir.look()
            if Role.RECEIVE in self._roles:
                self.doorman = self._doorman()
            self._start_work(stack)
            self._open_doors(stack)
            stack.callback(heir.close)
            heir.start()
            stack.enter_context(Rounds("follow", self._look, again=_FOLLOW_SECONDS, event="follow.interrupted"))
            port, role = self.doorman and self.doorman.port(), ",".join(sorted(self._roles))
            _logger.info("gateway.started", port=port, role=role, version=gateway.__version__)
            self._close = stack.pop_all()

    def _open_doors(self, stack: ExitStack) -> None:
        if self.doorman is not None:
            stack.callback(self.doorman.close)
            self.doorman.start()
            rehearsal = Rehearsal(
                self.db, self.queues, self.config, peers=self.roster, store=self.store, port=self.port, clock=now
            )
            stack.enter_context(rehearsal)
            stack.callback(self.watches.stop)
            self.watches.follow()

    def _start_work(self, stack: ExitStack) -> None:
        """The worker; or, where another process works, what tells it that we live."""
        if Role.WORK not in self._roles:
            presence = Presence(self._plan.config.database_url, self.worker.executor, lambda _: self._end_lost())
            presence.start()
            stack.callback(presence.stop)
            return
        self._breaker.start()
        self.worker.start(self._stages().lanes())
        stack.callback(self._stop_work)
        schedule(now(), timedelta(0), db=self.db, queues=self.queues)
        resume(now(), peers=self.roster, db=self.db, queues=self.queues)

    def _look(self) -> None:
        """For what a person changed elsewhere, in whichever process; while the database is away others tell that it is."""
        with suppress(*AWAY):
            self._reread.look()
            self.roster.refresh()
            if self._followed != (generation := self.roster.generation):  # also where a page of this process has read it already
                _logger.info("peers.changed", count=len(self.roster))
                if self.is_working:
                    self.worker.add(self._stages().peer_lanes())
                    resume(now(), peers=self.roster, db=self.db, queues=self.queues)
                if self.doorman is not None:
                    self.watches.follow()
                self._followed = generation  # not before: where the database went away meanwhile, all of it comes again

    def _stop_work(self) -> None:
        """What runs may end; what runs long loses its model, and so goes back to its lane for who lives."""
        self._breaker.stop()
        later = threading.Timer(_RUN_ON_SECONDS, self.models.stop)
        later.start()
        self.worker.stop()
        later.cancel()
        self.models.stop()

    def __exit__(self, *_: object) -> None:
        """Doors first, then the work in hand; what does not end in time goes on after the next start."""
        self._close.close()
        _logger.info("gateway.stopped")

    @property
    def config(self) -> Config:
        return self._plan.config

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def is_working(self) -> bool:
        return Role.WORK in self._roles

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
        if self.is_working:
            threading.Thread(target=self.start_models, name="triton", daemon=True).start()

    def _doorman(self) -> Doorman:
        config, executor = self._plan.config, self.worker.executor
        return Doorman(config, config.policy, self.store.incoming, executor=executor, books=self._books(), clock=now)

    def surroundings(self) -> Surroundings:
        config = self._plan.config
        return Surroundings(
            db=self.db, queues=self.queues, books=self._books(), clock=now, incoming=self.store.incoming,
            executor=self.worker.executor, keep_free_bytes=config.store.keep_free_bytes,
            terms=terms(config.dimse.maximum_instance_bytes),
            order=partial(order, self.db, self.queues, pipelines=self._plan.pipelines, peers=self.roster),
        )  # fmt: skip

    def _books(self) -> filing.Books:
        db, queues, quiet = self.db, self.queues, self._quiet
        tell = partial(told, queues=queues, pace=self._stages().pace)

        def do_receive(found: Sequence[Found]) -> None:
            receive(found, now(), store=self.store, db=db, queues=queues, quiet=quiet, executor=self.worker.executor, told=tell)

        return filing.Books(
            receive=do_receive,
            positions=partial(positions, db=db),
            forget=partial(forget, db=db),
            lost=lambda association: association_lost(association, now(), db=db, queues=queues, quiet=quiet),
            closed=self._doors_closed,
            filed=self._hosts.tell,
        )

    def _doors_closed(self, reason: str) -> None:
        act = Act.DOOR_CLOSED if reason else Act.DOOR_OPENED
        _logger.warning(str(act), reason=reason)
        with self.db.begin() as session:
            audit.record(session, act, at=now(), outcome=audit.SERIOUS if reason else 0, reason=reason)

    def _stages(self) -> Stages:
        return Stages(
            plan=self._plan, peers=self.roster, clock=now, filed_at=self._filed_at, filed_by=self._filed_by, rules=self._rules,
            listening_since=lambda: self.doorman.opened_at if self.doorman else self._hosts.listening_since(),
            store=self.store, models=self._breaker, worklist=self._worklist, sources=self._sources, archives=self._archives,
            db=self.db, queues=self.queues, traces=self._tellers.traces,
        )  # fmt: skip

    def _filed_at(self) -> datetime:
        return self._hosts.filed(self.doorman.filed_at if self.doorman else now())

    def _filed_by(self, moment: datetime) -> datetime:
        return self._hosts.filed(self.doorman.filed_by(moment) if self.doorman else moment)

    def _associated(self) -> set[str]:
        """Processes that hold associations which have not ended."""
        self._end_lost()
        with self.db() as session:
            return set(session.scalars(select(Association.executor).where(Association.ended_at.is_(None)).distinct()))

    def _end_lost(self) -> None:
        """Those of ours whose end could not be written, or that broke off while their first instance was still being indexed."""
        if self.doorman is None:
            return
        mine = select(Association.id).where(Association.ended_at.is_(None), Association.executor == self.worker.executor)
        with self.db() as session:
            held = set(session.scalars(mine))
        for association in held - self.doorman.associations - self.watches.associations - self._archives.associations:
            association_lost(association, now(), db=self.db, queues=self.queues, quiet=self._quiet)

    def _buried(self, executor: str) -> None:
        executor_died(executor, now(), db=self.db, queues=self.queues, quiet=self._quiet)

    def _record(self, act: Act) -> None:
        with self.db.begin() as session:
            audit.record(session, act, at=now(), version=gateway.__version__, executor=self.worker.executor)

    def _record_stop(self) -> None:
        with filing.told("stop.not_recorded"):
            self._record(Act.GATEWAY_STOPPED)


def upgrade(database_url: str, db: Database) -> None:
    """Bring the database up to date: the engine's tables and ours."""
    engine.migrate(database_url)
    migrations.upgrade(db.kw["bind"])
