"""Breaker: while a model is away its jobs wait untried; one look stands for them all, and when it is back they go on in their order."""

import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from gateway.engine import RUN, Queues, model_lane, rank
from gateway.errors import BadModelOutput, ModelUnavailable
from gateway.inference.breaker import Breaker
from gateway.inference.triton import Triton
from gateway.machine.bell import Bell
from gateway.rows.tables import Job, JobInstance, JobState
from gateway.rows.trail import AuditEvent
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.world import World, relay

ARRAYS = {"volume": np.zeros(1)}


@dataclass
class Models:
    """A Triton whose models do as they are told; its clock goes on by `seconds` where it is looked at."""

    away: set[str] = field(default_factory=set)
    error: Exception | None = None
    now: float = 0.0
    seconds: float = 0.0
    looks: list[str] = field(default_factory=list)

    def infer(self, model: str) -> Callable:
        def ask(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if self.error is not None:
                raise self.error
            self.identity(model)
            return arrays

        return ask

    def identity(self, model: str) -> "Models":
        if model in self.away:
            raise ModelUnavailable("away")
        return self

    def answers(self, model: str) -> bool:
        self.looks.append(model)
        self.now += self.seconds
        return model not in self.away

    version = weights = "1"


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def breaker(models: Models) -> Breaker:
    return Breaker(models, clock=lambda: models.now)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def fail(breaker: Breaker, model: str = "a") -> None:
    with pytest.raises(ModelUnavailable):
        breaker.infer(model)(ARRAYS)


# The breaker


def test_a_model_that_was_away_is_not_asked_before_its_time_and_then_once(breaker: Breaker, models: Models) -> None:
    models.away = {"a"}
    assert breaker.answers("a")
    with pytest.raises(ModelUnavailable):
        breaker.identity("a")
    assert not breaker.answers("a")
    assert breaker.answers("b")

    models.now = 0.9
    assert breaker.look() == pytest.approx(0.1)
    assert models.looks == []
    models.now = 1.0
    assert breaker.look() == 1.0
    assert models.looks == ["a"]
    assert not breaker.answers("a")


def test_a_model_that_answers_again_is_worked_for_and_no_longer_looked_at(breaker: Breaker, models: Models) -> None:
    models.away = {"a", "b"}
    fail(breaker, "a")
    fail(breaker, "b")
    models.away = {"b"}
    models.now = 1.0

    assert breaker.look() == 1.0

    assert (breaker.answers("a"), breaker.answers("b")) == (True, False)
    models.away = set()
    models.now = 2.0
    assert breaker.look() is None
    assert models.looks == ["a", "b", "b"]


def test_a_model_that_answers_a_look_but_no_job_is_let_alone_for_longer_each_time_until_it_does(
    breaker: Breaker, models: Models
) -> None:
    waits = []
    for _ in range(7):
        models.error = ModelUnavailable("no answer in time")
        fail(breaker)
        waits.append(breaker.look())
        models.now += waits[-1]
        assert breaker.look() is None
    assert waits == [1, 2, 4, 8, 16, 30, 30]

    models.error = None
    breaker.infer("a")(ARRAYS)
    models.error = ModelUnavailable("no answer in time")
    fail(breaker)

    assert breaker.look() == 1


def test_jobs_that_fail_together_count_once(breaker: Breaker, models: Models) -> None:
    models.away = {"a"}

    for _ in range(10):
        fail(breaker)

    assert breaker.look() == 1


def test_a_look_that_takes_long_is_made_less_often(breaker: Breaker, models: Models) -> None:
    models.away, models.seconds = {"a"}, 4.0
    fail(breaker)
    models.now = 1.0

    assert breaker.look() == 12.0
    models.now, models.seconds = 100.0, 60.0
    assert breaker.look() == 30.0


def test_a_model_that_answers_wrongly_is_there(breaker: Breaker, models: Models) -> None:
    models.error = BadModelOutput("expected labels")

    with pytest.raises(BadModelOutput):
        breaker.infer("a")(ARRAYS)

    assert breaker.answers("a")


def test_a_breaker_that_was_stopped_takes_nothing_for_away(breaker: Breaker, models: Models) -> None:
    models.away = {"a"}
    breaker.stop()

    fail(breaker)

    assert breaker.answers("a")


def test_a_look_that_raises_is_followed_by_others(breaker: Breaker, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_model: str) -> bool:
        raise OSError("CANARY^NAME")

    models.away = {"a"}
    fail(breaker)
    models.now = 1.0
    with monkeypatch.context() as patch:
        patch.setattr(models, "answers", broken)
        assert breaker.look() == 1.0

    models.away = set()
    models.now = 2.0
    assert breaker.look() is None


def test_the_thread_looks_until_the_model_answers(models: Models) -> None:
    models.away = {"a"}
    breaker = Breaker(models)
    breaker.start()
    fail(breaker)

    models.away = set()
    wait_until(lambda: breaker.answers("a"))

    breaker.stop()


def test_a_bell_that_is_rung_while_it_is_not_ready_holds_back_until_it_is_or_is_ended() -> None:
    ready = threading.Event()
    bell, ended = Bell(ready.is_set), []
    waiting = threading.Thread(target=lambda: ended.append(bell.wait(0.01)))
    waiting.start()
    bell.ring()
    waiting.join(0.1)
    assert waiting.is_alive()

    ready.set()
    waiting.join(10)

    assert ended == [False]
    ready.clear()
    bell.end()
    assert bell.wait(0.01)


def test_a_triton_that_was_let_go_is_unavailable_and_fails_no_job() -> None:
    triton = Triton(f"127.0.0.1:{free_port()}", timeout_seconds=5)
    ask = triton.infer("bright")
    triton.close()

    with pytest.raises(ModelUnavailable):
        ask(ARRAYS)

    assert not triton.ready("bright")


# A whole gateway


@contextmanager
def turned_away(port: int) -> Iterator[list[int]]:
    """No Triton is behind `port`; yields a number for each time that it was asked for."""
    calls: list[int] = []

    class Server(socketserver.TCPServer):
        allow_reuse_address = True

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            calls.append(len(calls))

    with Server(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield calls
        server.shutdown()


def more(world: World, jobs: int, priority: str = "routine") -> None:
    """Jobs like the first, each a minute younger than the one before; the youngest is enqueued first."""
    queues = Queues(world.database_url)
    with world.database() as db, db.begin() as session:
        model = session.scalars(select(Job).order_by(Job.id)).first()
        inputs = session.scalars(select(JobInstance).where(JobInstance.job == model.id)).all()
        for n in range(jobs, 0, -1):
            job = Job(
                input_key=f"{priority}{n:056}", series_instance_uid=model.series_instance_uid, revision=1, rules=model.rules,
                pipeline=model.pipeline, model=model.model, send_to=model.send_to, priority=priority,
                created_at=model.created_at + timedelta(minutes=n), due_at=model.due_at,
            )  # fmt: skip
            session.add(job)
            session.flush()
            session.add_all(JobInstance(job=job.id, sop_instance_uid=one.sop_instance_uid, sha256=one.sha256) for one in inputs)
            lane = model_lane(job.model, job.priority)
            queues.enqueue(session, RUN, str(job.id), attempt="0", lane=lane, rank=rank(job.priority, job.created_at))
    queues.close()


def attempts(world: World) -> int:
    return sum(job.attempts for job in world.jobs())


def acts(world: World) -> Counter[str]:
    with world.database() as db, db() as session:
        return Counter(session.scalars(select(AuditEvent.act)))


def by_start(world: World, priority: str) -> list[Job]:
    started = [job for job in world.jobs() if job.priority == priority and job.started_at]
    return sorted(started, key=lambda job: job.started_at)


@pytest.mark.slow
def test_many_jobs_wait_untried_for_a_triton_that_is_away_and_go_on_in_their_order_when_it_is_back(
    database_url: str, tmp_path: Path, triton: str
) -> None:
    port = free_port()
    with World(tmp_path / "world", database_url, f"127.0.0.1:{port}") as world:
        with turned_away(port) as calls:
            world.start()
            world.send(ct_series(4))
            world.wait_until(lambda: [job.code for job in world.jobs()] == ["MODEL"])
            more(world, 12)
            more(world, 1, "stat")
            first = min(world.jobs(), key=lambda job: job.id)
            seen = len(calls)
            world.wait_until(lambda: len(calls) >= seen + 3 and datetime.now(UTC) > first.due_at + timedelta(seconds=1))
            assert attempts(world) == 1
            assert (acts(world)["job.started"], acts(world)["job.retried"]) == (1, 1)

            given_up = max(job.id for job in world.jobs() if job.priority == "routine")
            assert "is due now" in world.run("jobs", "retry", str(first.id)).stdout
            assert "cancelled" in world.run("jobs", "cancel", str(given_up)).stdout
            world.kill()
            world.start()
            world.wait_until(lambda: len(world.logged("model.unavailable")) == 2)
            seen = len(calls)
            world.wait_until(lambda: len(calls) >= seen + 2)
            assert attempts(world) <= 1 + 2  # each start finds out by a job of each lane

        with relay(port, triton):
            wanted = {JobState.DONE: 13, JobState.CANCELLED: 1}
            world.wait_until(lambda: Counter(job.state for job in world.jobs()) == wanted)

        assert len(world.logged("model.available")) == 1
        routine, (stat,) = by_start(world, "routine"), by_start(world, "stat")
        assert [job.id for job in routine] == [job.id for job in sorted(routine, key=lambda job: job.created_at)]
        assert stat.started_at < routine[1].started_at
