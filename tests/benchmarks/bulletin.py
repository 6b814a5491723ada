"""What a storm shows: progress while it lasts, tables when it is over."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.benchmarks.mixture import Sample
from tests.benchmarks.stages import percentiles

if TYPE_CHECKING:
    from tests.benchmarks.storm import Outcome

_MOST_SENTENCES = 20


def console() -> Console:
    return Console(stderr=True)


@contextmanager
def writing(studies: int) -> Iterator[Callable[[Sample], Sample]]:
    with _progress() as progress:
        task = progress.add_task("studies written", total=studies)

        def step(sample: Sample) -> Sample:
            progress.advance(task)
            return sample

        yield step


@contextmanager
def running(studies: int, results: int) -> Iterator[Callable[[int, int, int, int], None]]:
    """Show studies acknowledged, results proved, kills and restarts."""
    with _progress() as progress:
        sent = progress.add_task("studies acknowledged", total=studies)
        proved = progress.add_task("results proved", total=results)

        def show(studies_sent: int, results_proved: int, kills: int, restarts: int) -> None:
            progress.update(sent, completed=studies_sent, description=f"studies acknowledged, {kills} killed")
            progress.update(proved, completed=results_proved, description=f"results proved, {restarts} database restarts")

        yield show


def tell(outcome: "Outcome") -> None:
    out = Console()
    out.print(_what(outcome), _stages(outcome))
    findings = outcome.findings
    for title, sentences in (
        ("lost", findings.lost), ("double", findings.double), ("not proved", findings.unproved), ("other", findings.other),
    ):  # fmt: skip
        out.print(f"{title}: {len(sentences)}", style="bold green" if not sentences else "bold red", highlight=False)
        for sentence in sentences[:_MOST_SENTENCES]:
            out.print(f"  {sentence}", highlight=False, markup=False)


def machine() -> str:
    one, five, _ = os.getloadavg()
    return f"{os.cpu_count()} cores; load average now {one:.1f}, over five minutes {five:.1f}"


def _what(outcome: "Outcome") -> Table:
    table = Table("", "", title="what happened", show_header=False)
    minutes = max(outcome.seconds, 1e-9) / 60
    rows = {
        "studies, of them wanted": f"{outcome.studies}, {outcome.wanted}",
        "instances acknowledged": outcome.instances,
        "sent again": outcome.sent_again,
        "seconds until all was proved": f"{outcome.seconds:.0f}",
        "studies a minute": f"{outcome.studies / minutes:.0f}",
        "instances acknowledged a second, while scanners sent": f"{outcome.instances / max(outcome.sending_seconds, 1e-9):.1f}",
        "SIGKILLs": ", ".join(f"{role} {number}" for role, number in sorted(outcome.kills.items())) or 0,
        "PostgreSQL restarts": ", ".join(outcome.restarts) or 0,
        "ended by themselves": ", ".join(outcome.ended_by_themselves) or 0,
        **outcome.retries,
        "machine": machine(),
    }
    for what, value in rows.items():
        table.add_row(what, str(value))
    return table


def _stages(outcome: "Outcome") -> Table:
    table = Table("stage, seconds", "p50", "p95", "longest", "how many", title="how long it took")
    for name, values in outcome.stages.items():
        middle, most = percentiles(values)
        table.add_row(name, f"{middle:.2f}", f"{most:.2f}", f"{max(values, default=0):.2f}", str(len(values)))
    return table


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console(), transient=True)  # fmt: skip
