"""What a gateway costs that has nothing to do: with no jobs, with many behind a model that is busy, with many while Triton is away."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from gateway.app import upgrade
from gateway.db import Database
from gateway.dicom.uids import digest
from gateway.engine import RUN, Queues, model_lane, rank
from gateway.rows.tables import Job
from tests.benchmarks.bulletin import machine
from tests.benchmarks.cluster import Cluster
from tests.benchmarks.fleet import EVERYTHING, Site, wait_up
from tests.benchmarks.measure import cpu_seconds, memory_mb
from tests.peers_fixture import Orthanc
from tests.ports import free_port
from tests.rows_fixture import SERIES, a_series

_SECONDS = 60
_CALM_SECONDS, _LIMIT_SECONDS = 15, 600


def idleness(folder: Path, cluster: Cluster, pacs: Orthanc, jobs: int) -> dict[str, object]:
    """Percent of one core over a minute, and resident megabytes at its end, of the gateway's tree and of PostgreSQL's."""
    figures: dict[str, object] = {}
    table = Table("jobs that wait", "gateway CPU %", "gateway MB", "PostgreSQL CPU %", "attempts a second", title="at rest")
    with ExitStack() as stack:
        port = stack.enter_context(_busy_triton())
        for name, number, triton in (("none", 0, port), ("busy", jobs, port), ("away", jobs, free_port())):
            site = Site(folder / name, cluster.create(f"idle_{name}"), f"127.0.0.1:{triton}", pacs)
            found = _measured(site, cluster, number, is_away=name == "away")
            what = {"none": "none", "busy": f"{jobs}, Triton busy", "away": f"{jobs}, Triton away"}[name]
            table.add_row(what, *(f"{value:.1f}" for value in found.values()))
            figures[name] = found
    Console().print(table, machine())
    return figures


def _measured(site: Site, cluster: Cluster, jobs: int, *, is_away: bool) -> dict[str, float]:
    with site.database() as db:
        _make(db, site.database_url, jobs)
        with site.kept(EVERYTHING) as kept:
            wait_up([kept])
            end = time.monotonic() + _LIMIT_SECONDS
            while is_away and not _attempts(db)[1] and time.monotonic() < end:
                time.sleep(0.5)
            time.sleep(_CALM_SECONDS)
            server = int((cluster.folder / "data" / "postmaster.pid").read_text().split()[0])
            with _cpu(kept.pid) as own, _cpu(server) as theirs:
                before = _attempts(db)[0]
                time.sleep(_SECONDS)
                attempts = _attempts(db)[0] - before
            return {
                "gateway CPU %": own[0], "gateway MB": memory_mb(kept.pid), "PostgreSQL CPU %": theirs[0],
                "attempts a second": attempts / _SECONDS,
            }  # fmt: skip


@contextmanager
def _busy_triton() -> Iterator[int]:
    """A gRPC server that takes every question and answers none: who asks waits until its patience ends. Yields the port."""
    ended = threading.Event()

    class Silent(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: ended.wait())

    server = grpc.server(ThreadPoolExecutor(8), handlers=(Silent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        ended.set()
        server.stop(None)


@contextmanager
def _cpu(pid: int) -> Iterator[list[float]]:
    percent, before, began = [0.0], cpu_seconds(pid), time.monotonic()
    yield percent
    percent[0] = 100 * (cpu_seconds(pid) - before) / (time.monotonic() - began)


def _attempts(db: Database) -> tuple[int, int]:
    """All attempts of all jobs; jobs that were tried."""
    with db() as session:
        total, tried = session.execute(select(func.sum(Job.attempts), func.count().filter(Job.attempts > 0))).one()
    return int(total or 0), int(tried)


def _make(db: Database, url: str, jobs: int) -> None:
    """Queued jobs of one series, and their attempts in the engine."""
    url = url.replace("postgresql://", "postgresql+psycopg://")
    upgrade(url, db)
    a_series(db)
    queues, now = Queues(url), datetime.now(UTC)
    try:
        with db.begin() as session:
            for number in range(jobs):
                job = Job(
                    input_key=digest("idle", number), series_instance_uid=SERIES, revision=1, rules=["chest CT"], pipeline="bright",
                    model="bright", send_to=["pacs"], priority="routine", created_at=now, due_at=now,
                )  # fmt: skip
                session.add(job)
                session.flush()
                lane = model_lane(job.model)
                queues.enqueue(session, RUN, str(job.id), attempt="0", lane=lane, rank=rank(job.priority, now))
    finally:
        queues.close()
