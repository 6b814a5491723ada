"""Durable queues and workflows: the only file that names DBOS.

A stage is one workflow: it takes the key of a row, does one attempt, and ends. Whatever comes next (the next stage, the
next attempt, delayed) is enqueued in the transaction that writes the row, so work and data commit together or not at all.
No thread waits, nothing else polls or sleeps. A workflow has no steps of its own: a stage is safe to repeat, so recovery
starts it again from the beginning. Exactly once comes from our UIDs and rows, not from the engine.

The core of DBOS does not notice that another worker died; the one here does, by its lock (liveness.py). Nor can it be told of
new work: each of its lanes would ask the database many times a second. Here one look serves all, and wakes those with work.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import structlog
from dbos import DBOS, DBOSClient, DBOSConfig
from dbos._dbos import _get_dbos_instance
from dbos._queue import queue_worker_thread
from dbos._serialization import Serializer
from sqlalchemy import CompoundSelect, Engine, bindparam, exists, literal, select, text, union_all
from sqlalchemy.orm import Session

from gateway.attempt import AWAY, Stage, guarded, until_the_database_answers
from gateway.machine.bell import Bell
from gateway.machine.liveness import IsDead, Presence

_NAME = "gateway"
_VERSION = "1"  # of the stages' arguments, not of our release: work enqueued before an upgrade goes on after it
_LOOK_SECONDS, _LANE_SECONDS = 0.1, 10.0
_IDLE_LOOKS = 2
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_PATIENCE = {"stat": None, "routine": timedelta(0), "background": timedelta(hours=4)}
_ALIVE = ["ENQUEUED", "DELAYED", "PENDING"]
SETTLE, ELECT, PRIORS, RUN, DELIVER, PROVE, COMMIT, SWEEP = (
    "settle", "elect", "priors", "run", "deliver", "prove", "commit", "sweep",
)  # fmt: skip
PERFORM = "perform"

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Lane:
    """A queue, and how many of its workflows one worker runs at a time."""

    name: str
    slots: int
    per_minute: int | None = None
    """Starts of all workers together."""
    ready: Callable[[], bool] = lambda: True
    """While this is false, this worker takes no work of the lane."""


def model_lane(model: str, priority: str = "routine") -> str:
    """Stat has slots of its own: it never waits for a routine job to end."""
    return f"stat.{model}" if priority == "stat" else f"model.{model}"


def peer_lane(peer: str) -> str:
    return f"peer.{peer}"


class _Json(Serializer):
    """DBOS would pickle; JSON can be read by a person and runs nothing."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=lambda error: {"error": type(error).__name__})

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data)

    def name(self) -> str:
        return "json"


class Queues:
    """Puts work on a lane, inside a transaction of ours. Usable in every process, also where no worker runs."""

    def __init__(self, database_url: str) -> None:
        self._client = DBOSClient(system_database_url=database_url, serializer=_Json(), lazy=True, use_listen_notify=False)

    def enqueue(
        self,
        session: Session,
        stage: str,
        key: str,
        *,
        attempt: str,
        lane: str,
        delay: timedelta = timedelta(0),
        rank: int = 1,
    ) -> None:
        """Start `stage` on `key` once for this `attempt`: a second enqueue of the same attempt makes nothing new.

        Of what waits on a lane the lowest `rank` goes first.
        """
        options: dict[str, Any] = {
            "workflow_name": stage,
            "queue_name": lane,
            "workflow_id": workflow_id(stage, key, attempt),
            "application_name": _NAME,
            "priority": rank,
        }
        if delay > timedelta(0):
            options["delay_seconds"] = delay.total_seconds()
        self._client.enqueue_in_transaction(session, options, key)  # type: ignore[arg-type]

    def start_now(self, stage: str, key: str, attempt: str) -> None:
        """End the delay of a waiting attempt."""
        self._client.set_workflow_delay(workflow_id(stage, key, attempt), delay_seconds=0)

    def is_alive(self, stage: str, key: str, attempt: str) -> bool:
        """Whether the engine still has this attempt to do."""
        return not self.lost(stage, {key: attempt})

    def lost(self, stage: str, attempts: Mapping[Any, str]) -> list[Any]:
        """The keys whose attempt the engine has not to do any more; a thousand at most are one question."""
        names = {workflow_id(stage, str(key), one): key for key, one in attempts.items()}
        found = self._client.list_workflows(workflow_ids=[*names], status=_ALIVE, load_input=False, load_output=False)
        return [names[name] for name in names.keys() - {one.workflow_id for one in found}]

    def prune(self, before: datetime) -> int:
        """Forget ended attempts; our rows and the audit trail tell what became of them."""
        ended = self._client.list_workflows(
            status=["SUCCESS", "ERROR", "CANCELLED"], end_time=before.isoformat(), limit=1000, load_input=False, load_output=False
        )
        self._client.delete_workflows([flow.workflow_id for flow in ended])
        return len(ended)

    def close(self) -> None:
        self._client.destroy()


def rank(priority: str, since: datetime) -> int:
    """Stat first; then by age, of which background is given less: it waits for routine, but not for ever."""
    patience = _PATIENCE[priority]
    if patience is None:
        return 1
    return 2 + max(0, int((since - _EPOCH + patience).total_seconds()))


def backoff(attempts: int, *, first: timedelta, at_most: timedelta) -> timedelta:
    """How long to wait after that many attempts: it doubles until it is `at_most`, and then stays so, for days."""
    return min(first * (1 << min(max(attempts, 1) - 1, 30)), at_most)


def ticket(attempts: int, now: datetime) -> str:
    """A name for an attempt that is made outside the usual order: by a person, or by the sweep."""
    return f"{attempts}.{now.timestamp():.6f}"


def settle_attempt(revision: int, due_at: datetime) -> str:
    """Names a look at a series: every look is later than the one before."""
    return f"{revision}.{due_at.timestamp():.6f}"


def workflow_id(stage: str, key: str, attempt: str) -> str:
    return f"{stage}/{key}/{attempt}"


def migrate(database_url: str) -> None:
    """Make or upgrade the engine's own tables, beside ours in the same database."""
    DBOS.migrate(database_url)


def _found(engine: Engine, look: CompoundSelect[str]) -> set[str]:
    """The lanes with work; and "" where the delay of some is over."""
    with engine.connect() as connection:
        return set(connection.scalars(look, {"now": time.time() * 1000}))


class Worker:
    """Runs stages of lanes until it is stopped, and takes over what dead workers left.

    `watched()` names further executors whose death matters, `buried(executor)` is told of each one that is dead.
    """

    def __init__(
        self, database_url: str, stages: Iterable[Stage], *, watched: Callable[[], Iterable[str]], buried: Callable[[str], None]
    ) -> None:
        self.executor = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._url, self._stages = database_url, {stage.name: stage for stage in stages}
        self._watched, self._buried = watched, buried
        self._stopping, self._bell = threading.Event(), Bell()
        self._presence = Presence(database_url, self.executor, self._take_over)
        self._alarm = threading.Thread(target=self._wake_lanes, name="alarm", daemon=True)
        self._lanes: dict[str, tuple[Bell, threading.Thread]] = {}

    def start(self, lanes: Iterable[Lane]) -> None:
        config: DBOSConfig = {
            "name": _NAME,
            "system_database_url": self._url,
            "application_version": _VERSION,
            "executor_id": self.executor,
            "serializer": _Json(),
            "run_migrations": False,
            "use_listen_notify": False,
            "log_level": "ERROR",
        }
        DBOS(config=config)
        for stage in self._stages.values():
            DBOS.workflow(name=stage.name)(self._workflow(stage))
        DBOS.listen_queues([])  # its own threads look every so often; ours when there is work
        self._presence.start()
        DBOS.launch()
        self.add(lanes)
        self._alarm.start()

    def add(self, lanes: Iterable[Lane]) -> None:
        """Work on these too; of one that is worked on already, the slots and starts a minute are changed."""
        for lane in lanes:
            often: dict[str, Any] = {"worker_concurrency": lane.slots, "polling_interval_sec": _LANE_SECONDS}
            if lane.per_minute is not None:
                often["limiter"] = {"limit": lane.per_minute, "period": 60}
            queue = DBOS.register_queue(lane.name, on_conflict="always_update", **often)
            if lane.name not in self._lanes and not self._stopping.is_set():
                bell = Bell(lane.ready)
                work = (bell, _get_dbos_instance(), queue)
                thread = threading.Thread(target=queue_worker_thread, args=work, name=lane.name, daemon=True)
                thread.start()
                self._lanes = {**self._lanes, lane.name: (bell, thread)}

    def stop(self, grace: timedelta = timedelta(seconds=20)) -> None:
        """Take no more work, let what runs end within `grace`; what does not is taken over by whoever lives."""
        self._stopping.set()
        self._bell.end()
        self._alarm.join()
        for bell, _ in self._lanes.values():
            bell.end()
        for _, thread in self._lanes.values():
            thread.join(_LANE_SECONDS)
        _await_idle(grace.total_seconds())
        DBOS.destroy(workflow_completion_timeout_sec=0, destroy_registry=True)
        self._presence.stop()  # until here nobody may think that we are dead

    def _workflow(self, stage: Stage) -> Callable[[str], None]:
        def attempt(key: str) -> None:
            with structlog.contextvars.bound_contextvars(stage=stage.name):
                until_the_database_answers(lambda: guarded(stage, key), self._stopping)
            self._bell.ring()  # what it enqueued begins now, not at the next look

        attempt.__qualname__ = stage.name
        return attempt

    def _wake_lanes(self) -> None:
        """DBOS itself ends delays once a second only; the quiet time of a series is too short for that."""
        system = _get_dbos_instance()._sys_db  # noqa: SLF001 - dbos is pinned to 3.4
        flows = system.tables.workflow_status.c
        is_due = exists().where(flows.status == text("'DELAYED'"), flows.delay_until_epoch_ms <= bindparam("now"))
        lanes: Mapping[str, tuple[Bell, threading.Thread]] = {}
        while not self._bell.wait(_LOOK_SECONDS):
            if lanes is not self._lanes:
                lanes = self._lanes
                waits = {lane: exists().where(flows.queue_name == lane, flows.status == text("'ENQUEUED'")) for lane in lanes}
                look = union_all(*(select(literal(lane)).where(waiting) for lane, waiting in {**waits, "": is_due}.items()))
            try:
                found = _found(system.engine, look)
                if "" in found:
                    system.transition_delayed_workflows()
                    found = _found(system.engine, look)
                for lane in found - {""}:
                    lanes[lane][0].ring()
            except AWAY as error:  # DBOS's own look is there too
                _logger.warning("alarm.interrupted", error=type(error).__name__)
                self._stopping.wait(2.0)

    def _take_over(self, dead: IsDead) -> None:
        if self._stopping.is_set():
            return
        pending = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        owners = {flow.executor_id for flow in pending if flow.executor_id} | set(self._watched())
        for executor in owners - {self.executor}:
            with dead(executor) as is_dead:
                if is_dead:
                    DBOS._recover_pending_workflows([executor])  # noqa: SLF001 - dbos is pinned to 3.4, a kill test holds it
                    self._buried(executor)
                    _logger.warning("executor.dead", executor=executor)


def _await_idle(seconds: float) -> None:
    """Until nothing runs, `seconds` at most. DBOS would sleep for a second first; what was just taken shows a little later."""
    running = _get_dbos_instance()._active_workflows_set  # noqa: SLF001 - dbos is pinned to 3.4
    end, idle = time.monotonic() + seconds, 0
    while idle < _IDLE_LOOKS and time.monotonic() < end:
        idle = 0 if running.activeList() else idle + 1
        time.sleep(_LOOK_SECONDS)
