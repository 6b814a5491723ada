"""The stages of the conveyor, each bound to what it depends on, and the lanes that they run on."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import gateway
from gateway.acts.rulebook import Current
from gateway.attempt import Stage
from gateway.commit import commit, commit_failed
from gateway.db import Database
from gateway.decisions.arrival import arrival
from gateway.decisions.rules import RuleSet
from gateway.deliver import deliver, deliver_failed
from gateway.doors.steps import Steps
from gateway.engine import COMMIT, DELIVER, ELECT, PERFORM, PRIORS, PROVE, RUN, SETTLE, SWEEP, Lane, Queues, model_lane, peer_lane
from gateway.fetching.archives import Archives, title_of
from gateway.fetching.priors import look_back, priors_failed
from gateway.fetching.sources import Sources
from gateway.fetching.worklist import Worklist
from gateway.inference.breaker import Breaker
from gateway.outputs import Equipment
from gateway.peers import Proof
from gateway.prove import prove, prove_failed, tell_late_ones
from gateway.roster import Roster
from gateway.rows.tables import Association, Series
from gateway.rows.trail import Rehearsed
from gateway.run import run, run_failed
from gateway.serving.plan import Plan
from gateway.settle import settle, settle_failed
from gateway.store import Store
from gateway.sweep import sweep
from gateway.telling.lookout import look_out
from gateway.telling.traces import Traces
from gateway.work.delivery import Pace
from gateway.work.elect import elect
from gateway.work.extras import Extras
from gateway.work.heed import forget
from gateway.work.kept import Keep
from gateway.work.retention import retain
from gateway.workitems.perform import Place, perform
from gateway.workitems.ups import tidy

_SETTLE_SLOTS, _COMMIT_SLOTS, _PRIOR_SLOTS, _STAT_SLOTS = 2, 2, 4, 1


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What every verb wants; `filed_at()` is until when everything promised is a row, `filed_by(moment)` waits for it.

    `listening_since()`: silence before it says nothing.
    """

    plan: Plan
    peers: Roster
    clock: Callable[[], datetime]
    filed_at: Callable[[], datetime]
    filed_by: Callable[[datetime], datetime]
    listening_since: Callable[[], datetime | None]
    rules: Current
    store: Store
    models: Breaker
    worklist: Worklist
    sources: Sources
    archives: Archives
    db: Database
    queues: Queues
    traces: Traces
    begun: dict[int, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Stage]:
        yield self._traced(SETTLE, self._settle, self._settle_failed)
        yield Stage(ELECT, self._elect, lambda _key, _error: None)
        yield Stage(PRIORS, self._look_back, self._priors_failed)
        yield self._traced(RUN, self._run, self._run_failed)
        yield self._traced(DELIVER, self._deliver, self._deliver_failed)
        yield self._traced(PROVE, self._prove, self._prove_failed)
        yield Stage(COMMIT, self._commit, self._commit_failed)
        yield Stage(PERFORM, self._perform, lambda _key, _error: None)
        yield Stage(SWEEP, self._sweep, lambda _key, _error: None)

    def _traced(self, name: str, act: Callable[[str], None], failed: Callable[[str, Exception], None]) -> Stage:
        return Stage(name, self.traces.around(name, act), failed)

    @property
    def pace(self) -> Pace:
        delivery = self.plan.config.delivery
        return Pace(
            retry=timedelta(seconds=delivery.retry_seconds), retry_at_most=timedelta(seconds=delivery.retry_at_most_seconds),
            late=timedelta(hours=delivery.late_hours), report=timedelta(hours=delivery.report_hours),
        )  # fmt: skip

    def lanes(self) -> list[Lane]:
        models = {one.model: partial(self.models.answers, one.model) for one in self.plan.pipelines.values()}
        slots = self.plan.config.triton.slots
        return [
            Lane(SETTLE, _SETTLE_SLOTS),
            Lane(COMMIT, _COMMIT_SLOTS),
            Lane(PERFORM, 1),
            Lane(PRIORS, _PRIOR_SLOTS),
            Lane(SWEEP, 1),
            *(Lane(model_lane(model), slots, ready=answers) for model, answers in models.items()),
            *(Lane(model_lane(model, "stat"), _STAT_SLOTS, ready=answers) for model, answers in models.items()),
            *self.peer_lanes(),
        ]

    def peer_lanes(self) -> list[Lane]:
        """One a peer; of a peer that is disabled, or is none any more, nothing is taken."""
        return [
            Lane(peer_lane(name), peer.concurrency, per_minute=peer.per_minute, ready=partial(self.peers.takes, name))
            for name, peer in self.peers.items()
        ]

    def _settle(self, key: str) -> None:
        # As of when everything was filed: what is promised but not a row yet counts as not quiet.
        as_of = self.filed_by(self.clock())
        settle(
            key, self.clock(), as_of=as_of, listening_since=self.listening_since(), rules=self._rules_of(key),
            arrival=self._arrival, policy=self.plan.config.completeness.policy,
            pipelines=self.plan.pipelines, equipment=equipment(), store=self.store, db=self.db, queues=self.queues,
            stat_ae_titles=self.plan.config.dimse.stat_ae_titles, ordered=self.worklist.priorities,
            count=self.sources.count, title_of=partial(title_of, self.peers), study_quiet=self._study_quiet,
            put=Keep(self.store.headers).put,
        )  # fmt: skip

    def _rules_of(self, series_instance_uid: str) -> RuleSet:
        """Of a synthetic study its own, and no other."""
        if self.plan.synthetic is not None:
            with self.db() as session:
                if session.get(Rehearsed, series_instance_uid) is not None:
                    return self.plan.synthetic
        return self.rules()

    def _arrival(self, origin: Association, series: Series) -> dict[str, object]:
        config = self.plan.config
        caller = config.policy.caller_of(origin.ingest, origin.calling_ae_title, origin.called_ae_title, origin.address)
        return arrival(series.first_received_at, zone=ZoneInfo(config.gateway.time_zone), caller=caller)

    def _settle_failed(self, key: str, error: Exception) -> None:
        settle_failed(key, error, self.clock(), db=self.db)

    @property
    def _study_quiet(self) -> timedelta:
        return timedelta(seconds=self.plan.config.completeness.study_quiet_seconds)

    def _elect(self, key: str) -> None:
        as_of = self.filed_by(self.clock())  # what is promised may belong to the study
        elect(key, as_of, pipelines=self.plan.pipelines, quiet=self._study_quiet, db=self.db, queues=self.queues)

    def _look_back(self, key: str) -> None:
        look_back(
            int(key), clock=self.clock, pipelines=self.plan.pipelines, sources=self.plan.config.priors.peers,
            archives=self.archives, store=self.store, db=self.db, queues=self.queues,
        )  # fmt: skip

    def _priors_failed(self, key: str, error: Exception) -> None:
        priors_failed(int(key), error, self.clock(), pipelines=self.plan.pipelines, db=self.db, queues=self.queues)

    def _run(self, key: str) -> None:
        delivery = self.plan.config.delivery
        run(
            int(key), clock=self.clock, pipelines=self.plan.pipelines, models=self.models, equipment=equipment(),
            store=self.store, db=self.db, queues=self.queues, begun=self.begun,
            zone=ZoneInfo(self.plan.config.gateway.time_zone), extras=Extras(delivery.pictures, delivery.structures),
        )  # fmt: skip

    def _run_failed(self, key: str, error: Exception) -> None:
        run_failed(int(key), error, self.clock(), db=self.db, queues=self.queues)

    def _deliver(self, key: str) -> None:
        deliver(int(key), clock=self.clock, peers=self.peers, store=self.store, db=self.db, queues=self.queues, pace=self.pace)

    def _deliver_failed(self, key: str, error: Exception) -> None:
        deliver_failed(int(key), error, self.clock(), db=self.db, queues=self.queues)

    def _prove(self, key: str) -> None:
        prove(int(key), clock=self.clock, peers=self.peers, store=self.store, db=self.db, queues=self.queues, pace=self.pace)

    def _prove_failed(self, key: str, error: Exception) -> None:
        prove_failed(int(key), error, self.clock(), db=self.db, queues=self.queues, retry=self.pace.retry_at_most)

    def _commit(self, key: str) -> None:
        commit(
            int(key), clock=self.clock, filed=self.filed_at, peers=self.peers, store=self.store, db=self.db,
            queues=self.queues, retry=self.pace.retry, retry_at_most=self.pace.retry_at_most,
        )  # fmt: skip

    def _commit_failed(self, key: str, error: Exception) -> None:
        commit_failed(int(key), error, self.clock(), db=self.db, queues=self.queues, retry=self.pace.retry_at_most)

    def _perform(self, key: str) -> None:
        config = self.plan.config
        perform(
            key, self.clock(),
            here=Place(
                db=self.db, store=self.store, queues=self.queues, pipelines=self.plan.pipelines, peers=self.peers,
                ae_title=config.dimse.ae_title, url=config.web.known_as,
            ),
        )  # fmt: skip

    def _sweep(self, _key: str) -> None:
        sweep(self.clock(), db=self.db, queues=self.queues)
        config = self.plan.config
        look_out(
            self.clock(), settings=config.alarms, silences=config.silence, time_zone=config.gateway.time_zone,
            free_bytes=self.store.free_bytes(), keep_free_bytes=config.store.keep_free_bytes, db=self.db,
        )  # fmt: skip
        tell_late_ones(self.clock(), late=self.pace.late, db=self.db, obstacle=self.peers.obstacle)
        unproving = [name for name, peer in self.peers.items() if peer.proof is Proof.NONE]
        with ExitStack() as last:  # whatever one of them raises keeps none from its turn
            last.callback(forget, self.clock(), db=self.db, steps=Steps(config.store_folder / "steps"))
            last.callback(tidy, self.clock(), db=self.db, store=self.store)
            retain(self.clock(), settings=config.retention, unproving=unproving, store=self.store, db=self.db)


def equipment() -> Equipment:
    return Equipment("Clinical AI Gateway", "Clinical AI Gateway", gateway.__version__, "1")
