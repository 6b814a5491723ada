"""What the command line prints: lists and stories, in words and tables."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from gateway.admin import JobStory, SeriesLine, SeriesStory
from gateway.tables import AuditEvent, Delivery, DeliveryState, Job

_DELIVERY = ("delivery", "job", "peer", "state", "attempts", "status", "reason", "next or sent", "instance")


class Screen:
    def __init__(self, out: Console) -> None:
        self.out = out

    def line(self, text: str) -> None:
        self.out.print(text, highlight=False)

    def table(self, columns: Iterable[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
        if not rows:
            self.line(empty)
            return
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*map(escape, row))
        self.out.print(table, highlight=False)

    def series_list(self, lines: Iterable[SeriesLine]) -> None:
        rows = [
            (at(line.series.last_received_at), line.series.series_instance_uid, line.series.modality, str(line.instances),
             line.series.state, ", ".join(f"{job.pipeline} {job.state}" for job in line.jobs), line.series.reason)
            for line in lines
        ]  # fmt: skip
        columns = ("last image", "series", "modality", "instances", "state", "jobs", "reason")
        self.table(columns, rows, empty="nothing has arrived yet")

    def series_story(self, story: SeriesStory) -> None:
        series = story.series
        self.line(f"[bold]{series.modality} series {series.series_instance_uid}[/] of study {series.study_instance_uid}")
        size = story.size / 1e6
        self.line(f"{story.instances} instances, {size:.1f} MB, revision {series.revision}: {series.state}")
        if story.versions:
            self.line(f"[yellow]{story.versions} instances came again with other bytes; kept apart, not used[/]")
        self.line(f"why: {escape(series.reason) or 'still receiving'}")
        for outcome in story.outcomes:
            mark = "[green]matched[/]" if outcome.matched else "[yellow]did not match[/]"
            tree = Tree(f"rule [bold]{escape(outcome.rule)}[/] {mark}", highlight=False)
            _conditions(tree, outcome.explanation["conditions"])
            self.out.print(tree)
        for job in story.jobs:
            self.job_story(job)

    def jobs(self, jobs: Iterable[Job]) -> None:
        rows = [
            (str(job.id), at(job.created_at), job.pipeline, job.state, str(job.attempts), job.code, job.reason,
             job.series_instance_uid)
            for job in jobs
        ]  # fmt: skip
        columns = ("job", "made", "pipeline", "state", "attempts", "code", "reason", "series")
        self.table(columns, rows, empty="no jobs")

    def job_story(self, story: JobStory) -> None:
        job = story.job
        self.line(f"[bold]job {job.id}[/] {job.pipeline} for {escape(', '.join(job.rules))}: {job.state}")
        if job.reason:
            self.line(f"  {job.code}: {escape(job.reason)}")
        for note in job.notes:
            self.line(f"  note: {escape(note)}")
        if job.provenance:
            by = job.provenance
            self.line(f"  model {by['model']} version {by['model_version']}, weights {by['weights'][:12]}")
        steps = (
            ("made", job.created_at),
            ("started", job.started_at),
            ("model ended", job.inferred_at),
            ("ended", job.ended_at),
        )
        self.line("  " + ", ".join(f"{what} {at(when)}" for what, when in steps if when))
        for output in story.outputs:
            self.line(f"  {output.modality} {output.sop_instance_uid}, {output.size / 1e6:.2f} MB")
        if story.deliveries:
            self.deliveries(story.deliveries)

    def deliveries(self, deliveries: Iterable[Delivery]) -> None:
        self.table(_DELIVERY, [_delivery(delivery) for delivery in deliveries], empty="no deliveries")

    def events(self, events: Iterable[AuditEvent]) -> None:
        rows = [
            (str(event.id), at(event.at), event.act, event.actor, str(event.outcome), str(event.job or ""),
             event.sop_instance_uid or event.series_instance_uid, ", ".join(f"{k}={v}" for k, v in event.detail.items()))
            for event in events
        ]  # fmt: skip
        self.table(("event", "at", "act", "actor", "outcome", "job", "of", "detail"), rows, empty="the trail is empty")


def at(when: datetime | None) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S") if when else ""


def _conditions(tree: Tree, conditions: Iterable[dict[str, Any]]) -> None:
    for condition in conditions:
        mark = "[green]holds[/]" if condition["held"] else "[red]does not hold[/]"
        text = f"line {condition['line']}: {escape(condition['text'])} {mark}: {escape(condition['why'])}"
        _conditions(tree.add(text, highlight=False), condition.get("conditions", ()))


def _delivery(delivery: Delivery) -> tuple[str, ...]:
    status = "" if delivery.status is None else f"0x{delivery.status:04X}"
    when = delivery.sent_at or (delivery.due_at if delivery.state == DeliveryState.QUEUED else None)
    return (
        str(delivery.id), str(delivery.job), delivery.peer, delivery.state, str(delivery.attempts), status, delivery.reason,
        at(when), delivery.sop_instance_uid,
    )  # fmt: skip
