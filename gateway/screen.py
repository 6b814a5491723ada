"""What the command line prints: lists and stories. Lines are never cut or wrapped, so that a UID can be copied at any width."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.admin import DeliveryStory, JobStory, SeriesLine, SeriesStory
from gateway.tables import AuditEvent, Delivery, DeliveryState, Job

Row = tuple[Sequence[str], Sequence[str]]
"""The cells of one line, and what else there is to say, each in a line of its own below it; both without markup."""


class Screen:
    def __init__(self, out: Console) -> None:
        self.out = out

    def line(self, text: str, *, depth: int = 0) -> None:
        """`text` is markup."""
        self.out.print("  " * depth + text, highlight=False, soft_wrap=True)

    def rows(self, columns: Sequence[str], rows: Iterable[Row], *, empty: str, depth: int = 0) -> None:
        rows = list(rows)
        if not rows:
            self.line(empty, depth=depth)
            return
        widths = [max(map(len, column)) for column in zip(columns, *(cells for cells, _ in rows), strict=True)]
        self.line(f"[bold]{_aligned(columns, widths)}[/]", depth=depth)
        for cells, more in rows:
            self.line(escape(_aligned(cells, widths)), depth=depth)
            for text in filter(None, more):
                self.line(escape(text), depth=depth + 2)

    def series_list(self, lines: Iterable[SeriesLine]) -> None:
        rows: list[Row] = [
            (
                (at(line.series.last_received_at), line.series.modality, str(line.instances), line.series.state),
                (line.series.series_instance_uid, line.series.reason, *(_headline(job) for job in line.jobs)),
            )
            for line in lines
        ]
        self.rows(("last instance", "modality", "instances", "state"), rows, empty="nothing has arrived yet")

    def series_story(self, story: SeriesStory) -> None:
        series = story.series
        self.line(f"[bold]{escape(series.modality)} series {series.series_instance_uid}[/]")
        self.line(f"of study {series.study_instance_uid}")
        self.line(f"{story.instances} instances, {story.size / 1e6:.1f} MB, revision {series.revision}: {series.state}")
        if story.versions:
            self.line(f"[yellow]{story.versions} instances came again with other bytes; kept apart, not used[/]")
        self.line(f"why: {escape(series.reason) or 'still receiving'}")
        for outcome in story.outcomes:
            self.line(f"rule [bold]{escape(outcome.rule)}[/] {_mark('matched', 'did not match', good=outcome.matched)}")
            for text, depth in _conditions(outcome.explanation["conditions"]):
                self.line(text, depth=depth)
        for job in story.jobs:
            self.job_story(job)

    def jobs(self, jobs: Iterable[Job]) -> None:
        rows: list[Row] = [
            (
                (str(job.id), at(job.created_at), job.pipeline, job.state, str(job.attempts)),
                (job.series_instance_uid, _coded(job)),
            )
            for job in jobs
        ]
        self.rows(("job", "made", "pipeline", "state", "attempts"), rows, empty="no jobs")

    def job_story(self, story: JobStory) -> None:
        job = story.job
        self.line(f"[bold]{escape(_headline(job))}[/] for {escape(', '.join(job.rules))}")
        self.line(f"series {job.series_instance_uid}, {len(story.inputs)} instances", depth=1)
        for text in (_coded(job), *(f"note: {note}" for note in job.notes)):
            if text:
                self.line(escape(text), depth=1)
        if job.provenance:
            by = job.provenance
            self.line(escape(f"model {by['model']} version {by['model_version']}, weights {by['weights'][:12]}"), depth=1)
        steps = {"made": job.created_at, "started": job.started_at, "model ended": job.inferred_at, "ended": job.ended_at}
        self.line(", ".join(f"{what} {at(when)}" for what, when in steps.items() if when), depth=1)
        for output in story.outputs:
            self.line(f"{output.modality} {output.sop_instance_uid}, {output.size / 1e6:.2f} MB", depth=1)
        if story.deliveries:
            self.deliveries(story.deliveries, depth=1)

    def deliveries(self, deliveries: Iterable[Delivery], *, depth: int = 0) -> None:
        columns = ("delivery", "job", "peer", "state", "attempts", "status", "next or sent")
        self.rows(columns, map(_delivery, deliveries), empty="no deliveries", depth=depth)

    def delivery_story(self, story: DeliveryStory) -> None:
        self.deliveries([story.delivery])
        self.line(f"{story.output.modality}, {story.output.size / 1e6:.2f} MB, of job {story.delivery.job}")
        self.events(story.events)

    def events(self, events: Iterable[AuditEvent]) -> None:
        rows: list[Row] = [
            (
                (str(event.id), at(event.at), event.act, event.actor, str(event.outcome), str(event.job or "")),
                (event.sop_instance_uid or event.series_instance_uid, ", ".join(f"{k}={v}" for k, v in event.detail.items())),
            )
            for event in events
        ]
        self.rows(("event", "at", "act", "actor", "outcome", "job"), rows, empty="the trail is empty")

    def findings(self, findings: Iterable[tuple[bool, str]]) -> None:
        """What is in order and what is wrong, and how much of it."""
        findings = list(findings)
        for good, text in findings:
            self.line(f"{'[green]ok   [/]' if good else '[red]wrong[/]'} {escape(text)}")
        wrong = sum(not good for good, _ in findings)
        self.line(f"{wrong} wrong" if wrong else "everything is in order")

    def peers(self, tables: Iterable[Mapping[str, Any]]) -> None:
        rows: list[Row] = [((str(table["name"]), str(table["protocol"]), _address(table)), ()) for table in tables]
        self.rows(("peer", "protocol", "address"), rows, empty="no peers: results stay in the store")

    def models(self, versions: Mapping[str, str]) -> None:
        rows: list[Row] = [((name, "ready" if version else "not ready", version), ()) for name, version in versions.items()]
        self.rows(("model", "state", "version"), rows, empty="no models")


def at(when: datetime | None) -> str:
    """In the time zone of who reads it."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S") if when else ""


def _address(table: Mapping[str, Any]) -> str:
    """Where a peer is; no other key of it is shown, some are secrets."""
    if "host" in table:
        return f"{table.get('ae_title', '')}@{table['host']}:{table.get('port', '')}"
    return str(table.get("url") or table.get("path") or "")


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _mark(yes: str, no: str, *, good: bool) -> str:
    return f"[green]{yes}[/]" if good else f"[yellow]{no}[/]"


def _headline(job: Job) -> str:
    return f"job {job.id} {job.pipeline}: {job.state}"


def _coded(job: Job) -> str:
    return ": ".join(filter(None, (job.code, job.reason)))


def _conditions(conditions: Iterable[dict[str, Any]], depth: int = 1) -> Iterator[tuple[str, int]]:
    """Each condition in words and how deep it stands, those of a group below the group."""
    for condition in conditions:
        mark = _mark("holds", "does not hold", good=condition["held"])
        yield f"line {condition['line']}: {escape(condition['text'])} {mark}: {escape(condition['why'])}", depth
        yield from _conditions(condition.get("conditions", ()), depth + 1)


def _delivery(delivery: Delivery) -> Row:
    status = "" if delivery.status is None else f"0x{delivery.status:04X}"
    when = delivery.sent_at or (delivery.due_at if delivery.state == DeliveryState.QUEUED else None)
    cells = (str(delivery.id), str(delivery.job), delivery.peer, delivery.state, str(delivery.attempts), status, at(when))
    return cells, (delivery.sop_instance_uid, delivery.reason)
