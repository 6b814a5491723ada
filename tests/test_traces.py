"""One trace tells what happened to a series, whichever processes did it; without a collector nothing is different."""

import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.configuration.oversight import TracingSection
from gateway.db import Database
from gateway.log import KEYS
from gateway.rows.tables import Delivery, Job, Series
from gateway.telling.otlp import Otlp
from gateway.telling.traces import Span, Traces, trace_id
from tests.otlp_fixture import otlp_collector
from tests.rows_fixture import NOW, SERIES, a_delivery, a_job, a_series
from tests.synthetic import ct_series
from tests.world import World

ROOT = Path(__file__).parent.parent


class Collected:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)

    def close(self) -> None:
        pass


def test_every_process_makes_the_same_ids_without_being_told_them() -> None:
    code = f"from gateway.telling.traces import trace_id; print(trace_id({SERIES!r}, 2))"
    elsewhere = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert int(elsewhere) == trace_id(SERIES, 2) != trace_id(SERIES, 1)
    assert 0 < trace_id(SERIES, 1) < 2**128


def test_stages_in_four_processes_make_one_trace(db: Database) -> None:
    """A Traces of its own for each stage, as each would have in a process of its own."""
    a_series(db)
    job = a_job(db)
    delivery = a_delivery(db, job)
    collected, at = Collected(), [NOW]

    def stage(name: str, key: object, work) -> None:
        def act(_: str) -> None:
            at[0] += timedelta(seconds=1)
            with db.begin() as session:
                work(session)

        Traces(db, clock=lambda: at[0], exporter=collected).around(name, act)(str(key))

    def settled(session) -> None:
        session.get_one(Series, SERIES).complete_at = at[0]

    def run(session) -> None:
        row = session.get_one(Job, job)
        row.state, row.attempts, row.started_at, row.inferred_at, row.encoded_at = "done", 1, at[0], at[0], at[0]

    def sent(session) -> None:
        row = session.get_one(Delivery, delivery)
        row.state, row.attempts, row.status = "sent", 1, 0

    stage("settle", SERIES, lambda session: None)  # too early: nothing to tell
    stage("settle", SERIES, settled)
    stage("run", job, run)
    stage("deliver", delivery, sent)
    stage("prove", delivery, lambda session: setattr(session.get_one(Delivery, delivery), "state", "proved"))
    stage("sweep", "sweep", lambda session: None)

    spans = {span.name: span for span in collected.spans}
    parents = {span.name: next((one.name for one in collected.spans if one.id == span.parent), "") for span in collected.spans}
    assert parents == {
        "series": "", "receive": "series", "settle": "series", "run": "series", "infer": "run", "encode": "run",
        "deliver": "run", "prove": "deliver",
    }  # fmt: skip
    assert {span.trace for span in collected.spans} == {trace_id(SERIES, 1)}
    assert len(collected.spans) == len(spans)
    assert not [span for span in collected.spans if span.failed]
    assert all(span.attributes.keys() <= KEYS and "CANARY" not in str(span) for span in collected.spans)


def test_an_attempt_that_failed_says_why_and_one_of_somebody_else_is_not_told(db: Database) -> None:
    a_series(db)
    job = a_job(db, state="failed", attempts=1, started_at=NOW, code="GEOMETRY", reason="expected one slice a position")
    collected = Collected()
    for clock in (NOW, NOW + timedelta(seconds=1)):
        with pytest.raises(RuntimeError):
            Traces(db, clock=lambda clock=clock: clock, exporter=collected).around("run", _raise)(str(job))

    (span,) = collected.spans
    assert (span.name, span.failed, span.attributes["code"]) == ("run", "expected one slice a position", "GEOMETRY")


def _raise(_: str) -> None:
    raise RuntimeError


def test_without_a_collector_a_stage_is_what_it_was_and_nothing_is_loaded(db: Database) -> None:
    assert Traces(db, clock=lambda: NOW).around("run", _raise) is _raise
    code = "import sys, gateway.app; print(any(name.startswith('opentelemetry') for name in sys.modules))"

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_a_served_series_reaches_the_collector_as_one_trace(tmp_path: Path, triton: str) -> None:
    with otlp_collector() as (url, spans):
        settings = {"tracing": {"url": url}}
        with World(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", triton, settings=settings) as world:
            world.start()
            series = ct_series(4)
            world.send(series)
            world.wait_settled()
            world.stop()

    names = sorted(span.name for _, span in spans)
    by_id = {span.span_id: span.name for _, span in spans}
    assert set(names) == {"series", "receive", "settle", "run", "infer", "encode", "deliver", "prove"}
    assert names.count("deliver") == 2
    trace = trace_id(series[0].SeriesInstanceUID, 1).to_bytes(16)
    assert {span.trace_id for _, span in spans} == {trace}
    assert all(span.parent_span_id in by_id for _, span in spans if span.name != "series")
    assert all(0 < span.start_time_unix_nano <= span.end_time_unix_nano for _, span in spans)
    assert not [span for _, span in spans if str(series[0].PatientID) in str(span) or str(series[0].PatientName) in str(span)]


def test_a_collector_that_is_away_holds_nothing_up() -> None:
    exporter = Otlp(TracingSection(url="http://127.0.0.1:1/v1/traces"), source="gw1", version="1")
    for number in range(1, 5000):  # more than it keeps
        exporter.export(Span("run", 1, number, 0, NOW, NOW, {"job": number}))

    exporter.close()

    assert "traces" in {thread.name for thread in threading.enumerate()}  # it is still trying


def test_a_stop_does_not_wait_for_a_collector_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        exporter = Otlp(TracingSection(url=f"http://127.0.0.1:{collector.getsockname()[1]}/v1/traces"), source="gw1", version="1")
        exporter.export(Span("run", 1, 1, 0, NOW, NOW, {"job": 1}))

        exporter.close()

        connection, _ = collector.accept()
        with connection:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still being asked
                while connection.recv(65536):
                    pass
