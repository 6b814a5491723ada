"""The console's lists and its overview on 100,000 series, on SQLite and on PostgreSQL: server time of every question that a page asks.

make bench-console [ARGS="--series 100000 --rounds 5"]
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

from sqlalchemy import func, insert, select, text, update

from gateway.app import upgrade
from gateway.db import Database, open_database
from gateway.rows.columns import Table
from gateway.rows.tables import Association, Delivery, Instance, Job, JobInstance, OutputInstance, RuleOutcome, Series, Study
from gateway.rows.trail import AuditEvent, AuditHead
from gateway.views import lists, stories
from gateway.views.lists import Page
from gateway.views.overview import overview
from gateway.views.wanted import Wanted
from tests.benchmarks.cluster import running_cluster
from tests.benchmarks.report import Goal

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
GOAL_MS = 300
_RULES = tuple(f"rule {number}" for number in range(5))
_NAMES = ("DOE", "MÜLLER", "SATO", "GARCIA", "IVANOV", "NGUYEN", "SMITH", "KOWALSKI", "ROSSI", "DUBOIS")
_EXPLANATION = {"conditions": [{"line": 5, "text": "Modality is CT", "held": True, "why": "it is"} for _ in range(4)]}
_DAYS, _INSTANCES = 90, 5


def uid(kind: int, number: int) -> str:
    return f"2.25.{kind}{number:030}"


def rows(series: int) -> Iterator[tuple[type[Table], dict[str, object]]]:
    """As a year of a hospital would leave them: two series a study, two of five have a job, one job of a hundred failed."""
    chance = random.Random(1)
    yield Association, {"id": "a", "ingest": "dimse", "calling_ae_title": "CT1", "called_ae_title": "AIGATEWAY", "address": "10.0.0.1", "executor": "x", "began_at": NOW, "ended_at": NOW}  # fmt: skip
    for number in range(series):
        at = NOW - timedelta(days=_DAYS) * (series - number) / series
        study, mine = uid(1, number // 2), uid(2, number)
        if number % 2 == 0:
            name = f"{chance.choice(_NAMES)}^{number:06}"
            yield Study, {"study_instance_uid": study, "patient_name": name, "patient_id": f"P{number:07}", "patient_birth_date": "19500101", "accession_number": f"ACC{number:08}", "first_received_at": at}  # fmt: skip
        is_wanted = number % 5 < 2
        yield Series, {"series_instance_uid": mine, "study_instance_uid": study, "modality": "CT" if number % 3 else "PT" if number % 999 == 0 else "MR", "state": "receiving" if number > series - 20 else "complete", "reason": "the association ended", "first_received_at": at, "last_received_at": at, "due_at": at}  # fmt: skip
        for one in range(_INSTANCES):
            yield Instance, {"sop_instance_uid": uid(3, number * _INSTANCES + one), "series_instance_uid": mine, "association": "a", "sop_class_uid": "1.2", "transfer_syntax_uid": "1.2", "sha256": "5" * 64, "size": 500_000, "received_at": at}  # fmt: skip
        for rank, rule in enumerate(_RULES):
            yield RuleOutcome, {"series_instance_uid": mine, "revision": 1, "rule": rule, "matched": (is_wanted and rank == 0) or (number == 17 and rank == 4), "explanation": _EXPLANATION, "rules_digest": "6" * 64, "at": at}  # fmt: skip
        for position in range(3):
            yield AuditEvent, {"id": number * 3 + position + 1, "at": at, "act": ("instance.received", "series.complete", "job.created")[position], "actor": "CT1" if number % 1000 else "ann", "outcome": 0, "series_instance_uid": mine, "sop_instance_uid": uid(3, number * _INSTANCES), "detail": {"sha256": "5" * 64}, "job": None}  # fmt: skip
        if is_wanted:
            yield from _work(number, mine, study, at, is_late=number > series - 400)


def _work(
    number: int, series: str, study: str, at: datetime, *, is_late: bool
) -> Iterator[tuple[type[Table], dict[str, object]]]:
    state = "queued" if is_late else "failed" if number % 100 == 0 else "done"
    yield Job, {"id": number + 1, "input_key": f"{number:064}", "series_instance_uid": series, "revision": 1, "rules": ["rule 0"], "pipeline": "p", "model": "m", "send_to": ["pacs"], "priority": "routine", "state": state, "created_at": at, "due_at": at, "ended_at": None if is_late else at}  # fmt: skip
    yield JobInstance, {"job": number + 1, "sop_instance_uid": uid(3, number * _INSTANCES), "sha256": "5" * 64}
    for kind in (0, 1) if state == "done" else ():
        output = uid(4, number * 2 + kind)
        yield OutputInstance, {"sop_instance_uid": output, "job": number + 1, "study_instance_uid": study, "series_instance_uid": series, "sop_class_uid": "1.2", "modality": ("SEG", "SR")[kind], "sha256": "8" * 64, "size": 10, "created_at": at}  # fmt: skip
        yield Delivery, {"sop_instance_uid": output, "job": number + 1, "study_instance_uid": study, "peer": "archive" if number % 5000 == 1 else "pacs", "state": "held" if number % 1000 == 1 else "proved", "created_at": at, "due_at": at, "proved_at": at}  # fmt: skip


def fill(db: Database, series: int) -> None:
    order = (Association, Study, Series, Instance, RuleOutcome, Job, JobInstance, OutputInstance, Delivery, AuditEvent)
    left = rows(series)
    while part := list(islice(left, 60_000)):
        with db.begin() as session:
            for table in order:
                values = [row for kind, row in part if kind is table]
                if values:
                    session.execute(insert(table), values)
    with db.begin() as session:
        session.execute(update(AuditHead).values(position=select(func.max(AuditEvent.id)).scalar_subquery()))
    with db.kw["bind"].connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def questions(db: Database, series: int) -> dict[str, Callable[[], object]]:
    """Everything that a page asks of the database, by its name."""
    asked: dict[str, Callable[[], object]] = {"overview": lambda: overview(db, NOW)}
    narrowed = {
        "all": Wanted(), "patient name": Wanted(text="müller^00"), "one letter": Wanted(text="p"), "patient ID": Wanted(text="p00042"),
        "accession": Wanted(text="ACC00004242"), "study UID": Wanted(text=uid(1, 77)), "series UID": Wanted(text=uid(2, 77)),
        "instance UID": Wanted(text=uid(3, 777)), "nothing": Wanted(text="no such"), "rare modality": Wanted(modality="PT"),
        "no such modality": Wanted(modality="XX"), "days long ago": Wanted(since=NOW - timedelta(days=80), until=NOW - timedelta(days=79)),
    }  # fmt: skip
    of_series = {
        "receiving": Wanted(state="receiving"), "unmatched": Wanted(state="no rule matched"),
        "failed": Wanted(state="something failed"), "rule": Wanted(rule="rule 0"), "rare rule": Wanted(rule="rule 4"),
        "no such rule": Wanted(rule="x"), "peer": Wanted(peer="pacs"), "rare peer": Wanted(peer="archive"),
    }  # fmt: skip
    of_jobs = {"failed": Wanted(state="failed"), "queued": Wanted(state="queued"), "running": Wanted(state="running"), "no such pipeline": Wanted(pipeline="x")}  # fmt: skip
    of_deliveries = {"held": Wanted(state="held"), "failed": Wanted(state="failed"), "rare peer": Wanted(peer="archive")}
    kinds = {"studies": (lists.studies, narrowed), "series": (lists.series, narrowed | of_series), "jobs": (lists.jobs, narrowed | of_jobs), "deliveries": (lists.deliveries, narrowed | of_deliveries)}  # fmt: skip
    for kind, (ask, ways) in kinds.items():
        for way, wanted in ways.items():
            asked[f"{kind}, {way}"] = partial(ask, db, wanted)
        asked[f"{kind}, far back"] = partial(ask, db, Wanted(), after=_far(kind, series))
    asked["one series"] = lambda: stories.show_series(db, uid(2, 500))
    return asked


def _far(kind: str, series: int) -> str:
    at = (NOW - timedelta(days=80)).isoformat()
    return {"studies": f"{at}~{uid(1, 9)}", "series": f"{at}~{uid(2, 9)}"}.get(kind, str(series // 10))


def measure(asked: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float, int]]:
    """Milliseconds (median, and of this process's CPU; the first time left out) and the rows of the page."""
    found: dict[str, tuple[float, float, int]] = {}
    for name, ask in asked.items():
        page = ask()
        took, cpu = [], time.process_time()
        for _ in range(rounds):
            began = time.perf_counter()
            ask()
            took.append((time.perf_counter() - began) * 1000)
        found[name] = (
            statistics.median(took),
            (time.process_time() - cpu) * 1000 / rounds,
            len(page.rows) if isinstance(page, Page) else 1,
        )
    return found


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    with running_cluster() as cluster:
        yield {"SQLite": f"sqlite:///{folder / 'gateway.db'}", "PostgreSQL": cluster.create("console")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("SQLite", "PostgreSQL"))
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="gateway-console-"))
    try:
        with databases(folder) as urls:
            for kind, url in urls.items():
                if chosen.only not in {None, kind}:
                    continue
                tell(kind, url.replace("postgresql://", "postgresql+psycopg://"), chosen.series, chosen.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tell(kind: str, url: str, series: int, rounds: int) -> None:
    db = open_database(url)
    upgrade(url, db)
    fill(db, series)
    found = measure(questions(db, series), rounds)
    print(f"\n{kind}, {series} series: milliseconds, median and CPU (rows)")
    for name, (milliseconds, cpu, count) in found.items():
        over = "   <- over the goal" if milliseconds > GOAL_MS else ""
        print(f"  {name:32}{milliseconds:9.1f}{cpu:9.1f} ({count}){over}")
    print(Goal(f"{kind}: the slowest question, ms", max(one for one, _, _ in found.values()), GOAL_MS, at_most=True))
    db.kw["bind"].dispose()


if __name__ == "__main__":
    main()
