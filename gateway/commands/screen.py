"""What the command line prints: lists and stories. Lines are never cut or wrapped, so that a UID can be copied at any width."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.auditing.chain import Finding
from gateway.auditing.seal import Heads
from gateway.rows.tables import Delivery, DeliveryState, Job, JobCompanion, Series
from gateway.rows.trail import AuditEvent
from gateway.views.lists import INCOMPLETE, SeriesRow, in_words
from gateway.views.provenance import Came, Made, Provenance, Result
from gateway.views.stories import DeliveryStory, JobStory, SeriesStory

Row = tuple[Sequence[str], Sequence[str]]
"""The cells of one line, and what else there is to say, each in a line of its own below it; both without markup."""


_ADVICE: dict[str, str] = {
    DeliveryState.SENT: "The peer said that it took it; nothing has proved yet that it is there.",
    DeliveryState.HELD: "It waits for you: `gateway deliveries retry {0}` sends it all the same, `cancel {0}` drops it.",
    DeliveryState.FAILED: "Mend the cause, then `gateway deliveries retry {0}` sends the same bytes; `cancel {0}` drops it.",
    DeliveryState.UNWANTED: "Where the table of its peer says otherwise now, `gateway deliveries retry {0}` sends it.",
}


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

    def series_list(self, lines: Iterable[SeriesRow]) -> None:
        rows: list[Row] = [
            (
                (at(line.series.last_received_at), line.series.modality, str(line.instances), line.series.state),
                (line.series.series_instance_uid, line.series.reason, *(_headline(job) for job in line.jobs)),
            )
            for line in lines
        ]
        self.rows(("last instance", "modality", "instances", "state"), rows, empty="nothing has arrived yet")

    def held(self, series: Iterable[Series]) -> None:
        rows: list[Row] = [
            ((at(one.last_received_at), one.modality, one.held or INCOMPLETE), (one.series_instance_uid, one.reason))
            for one in series
        ]
        self.rows(("last instance", "modality", "held"), rows, empty="no series waits for a person")

    def series_story(self, story: SeriesStory) -> None:
        series = story.series
        self.line(f"[bold]{escape(series.modality)} series {series.series_instance_uid}[/]")
        self.line(f"of study {series.study_instance_uid}")
        self.line(f"{story.instances} instances, {story.size / 1e6:.1f} MB, revision {series.revision}: {series.state}")
        if story.versions:
            self.line(f"[yellow]{story.versions} instances came again with other bytes; kept apart, not used[/]")
        self.line(f"why: {escape(series.reason) or 'still receiving'}")
        for signal in story.verdict.signals if story.verdict else ():
            self.line(escape(f"{signal['name']}: {signal['why']} ({signal['says']})"), depth=1)
        for outcome in story.outcomes:
            self.outcome(outcome.rule, outcome.explanation, matched=outcome.matched)
        for one in story.candidates:
            what = f"{one.role} of {one.pipeline}" if one.role else one.pipeline
            self.line(escape(f"candidate for {what}, revision {one.revision}: {one.state}{_why(one.reason)}"))
        for job in story.jobs:
            self.job_story(job)

    def outcome(self, rule: str, said: Mapping[str, Any], *, matched: bool, depth: int = 0) -> None:
        """What one rule said of a series, condition by condition; also as a companion of another one."""
        self.line(f"rule [bold]{escape(rule)}[/] {_mark('matched', 'did not match', good=matched)}", depth=depth)
        for text, deeper in _conditions([*said["conditions"], *said.get("companions", {}).values()]):
            self.line(text, depth=depth + deeper)

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
        gone = f", {story.gone} of them taken by retention" if story.gone else ""
        self.line(f"series {job.series_instance_uid}, {len(story.inputs)} instances{gone}", depth=1)
        for text in _links(story):
            self.line(text, depth=1)
        for text in (_coded(job), *(f"note: {note}" for note in job.notes)):
            if text:
                self.line(escape(text), depth=1)
        self._priors(story)
        if job.provenance:
            by = job.provenance
            self.line(escape(f"model {by['model']} version {by['model_version']}, weights {by['weights'][:12]}"), depth=1)
        steps = {"made": job.created_at, "started": job.started_at, "model ended": job.inferred_at, "ended": job.ended_at}
        self.line(", ".join(f"{what} {at(when)}" for what, when in steps.items() if when), depth=1)
        for results in story.results:
            output, others = results.outputs[0], _others(results.others)
            more = ", retracted" if output.sop_instance_uid in story.retracted else ""
            more += f", taken by retention {at(output.gone_at)}" if output.gone_at else ""
            self.line(f"{output.modality} {output.sop_instance_uid}{others}, {results.size / 1e6:.2f} MB{more}", depth=1)
            if output.retracts:
                self.line(f"takes back {output.retracts}{others}", depth=2)
        if story.deliveries:
            self.deliveries([(first, len(more)) for one in story.results for first, *more in one.deliveries], depth=1)

    def _priors(self, story: JobStory) -> None:
        if story.search is not None:
            self.line(escape(f"priors: {story.search.state}{_why(story.search.reason)}"), depth=1)
        for prior in story.priors:
            days = "" if prior.days_before is None else f", {prior.days_before} days before"
            self.line(escape(f"{prior.state} {prior.series_instance_uid} at {prior.peer}{days}{_why(prior.reason)}"), depth=2)

    def deliveries(self, deliveries: Iterable[tuple[Delivery, int]], *, depth: int = 0) -> None:
        """Each with how many others there are like it."""
        columns = ("delivery", "job", "peer", "state", "attempts", "status", "next or sent")
        rows = [_delivery(delivery, others) for delivery, others in deliveries]
        self.rows(columns, rows, empty="no deliveries", depth=depth)

    def delivery_story(self, story: DeliveryStory) -> None:
        self.deliveries([(story.delivery, 0)])
        self.line(f"{story.output.modality}, {story.output.size / 1e6:.2f} MB, of job {story.delivery.job}")
        if story.delivery.state in _ADVICE:
            self.line(_ADVICE[story.delivery.state].format(story.delivery.id))
        if story.delivery.state == DeliveryState.SENT and story.delivery.ticket:
            self.line(f"It is looked for; `gateway deliveries cancel {story.delivery.id}` gives that up.")
        self.events(story.events)

    def events(self, events: Iterable[AuditEvent]) -> None:
        rows: list[Row] = [
            (
                (str(event.id), at(event.at), event.act, event.actor, str(event.outcome), str(event.job or "")),
                (event.sop_instance_uid or event.series_instance_uid, in_words(event.detail)),
            )
            for event in events
        ]
        self.rows(("event", "at", "act", "actor", "outcome", "job"), rows, empty="the trail is empty")

    def finding(self, found: Finding, heads: Heads) -> None:
        """What a walk over the trail proved, or the first event that is not as it was written."""
        if found.problem:
            self.line(f"[red]{f'event {found.bad}: ' if found.bad else ''}{escape(found.problem)}[/]")
        else:
            self.line(f"[green]{found.events} events, the chain is whole[/]")
        if found.unchained:
            self.line(f"[yellow]the first {found.unchained} are from before the chain began: nothing proves them[/]")
        if found.heads:
            when = max(head.at for head in heads.signed if head.position == found.signed)
            self.line(f"{found.heads} signed heads match, the last is of event {found.signed}, signed at {at(when)}")
            if found.unsigned_since:
                self.line(f"what came after it, since {at(datetime.fromisoformat(found.unsigned_since))}, is not signed yet")
        elif not found.problem:
            self.line("[yellow]no signed head matches: a trail that was written anew from its beginning would not show[/]")

    def provenance(self, found: Provenance) -> None:
        if found.came:
            self._came(found.came)
        if found.made:
            self._made(found.made)
        self.events(found.events)

    def _came(self, came: Came) -> None:
        instance, origin = came.instance, came.origin
        who = f"{origin.calling_ae_title or origin.ingest} at {origin.address}".removesuffix(" at ")
        self.line(f"[bold]{escape(came.series.modality)} {instance.sop_instance_uid}[/] came in")
        self.line(f"at {at(instance.received_at)} from {escape(who)} over {escape(origin.ingest)}", depth=1)
        self.line(f"SHA-256 {instance.sha256}, {instance.size} bytes{_gone(instance.gone_at)}", depth=1)
        self.line(f"series {came.series.series_instance_uid}", depth=1)
        for version in came.apart:
            self.line(f"[yellow]kept apart: SHA-256 {version.sha256} of {at(version.received_at)}[/]", depth=1)
        if not came.work:
            self.line("no job read it", depth=1)
        for job, results in came.work:
            self.line(f"{escape(_headline(job))}, read it for {escape(', '.join(job.rules))}", depth=1)
            for result in results:
                self._result(result, depth=2)

    def _made(self, made: Made) -> None:
        job, by, output = made.job, made.job.provenance, made.result.output
        self.line(f"[bold]{escape(output.modality)} {output.sop_instance_uid}[/] was made here")
        self._result(made.result, depth=1)
        self.line(f"{escape(_headline(job))}, revision {job.revision} of series {job.series_instance_uid}", depth=1)
        for rule in made.rules:
            self.line(f"rule {escape(rule.rule)} of rules {rule.rules_digest}", depth=1)
        if by:
            self.line(escape(f"pipeline {by['name']} version {by['version']}, {by['manufacturer']}"), depth=1)
            self.line(escape(f"model {by['model']} version {by['model_version']}, weights {by['weights']}"), depth=1)
        links = {"retracts": [output.retracts], "is retracted by": made.retracted_by}
        links |= {"supersedes": made.supersedes, "is superseded by": made.superseded_by}
        for what, uid in ((what, uid) for what, uids in links.items() for uid in uids if uid):
            self.line(f"{what} {uid}", depth=1)
        for text in map(_companion, made.companions):
            self.line(text, depth=1)
        self.line(f"made of {len(made.inputs)} instances:", depth=1)
        for one in made.inputs:
            self.line(f"{one.sop_instance_uid} SHA-256 {one.sha256}", depth=2)

    def _result(self, result: Result, *, depth: int) -> None:
        output = result.output
        self.line(f"{escape(output.modality)} {output.sop_instance_uid} of {at(output.created_at)}", depth=depth)
        self.line(f"SHA-256 {output.sha256}, {output.size} bytes{_gone(output.gone_at)}", depth=depth)
        self.deliveries([(one, 0) for one in result.deliveries], depth=depth)

    def findings(self, findings: Iterable[tuple[bool, str]]) -> None:
        """What is in order and what is wrong, and how much of it."""
        findings = list(findings)
        for good, text in findings:
            self.line(f"{'[green]ok   [/]' if good else '[red]wrong[/]'} {escape(text)}")
        wrong = sum(not good for good, _ in findings)
        self.line(f"{wrong} wrong" if wrong else "everything is in order")

    def models(self, versions: Mapping[str, str]) -> None:
        rows: list[Row] = [((name, "ready" if version else "not ready", version), ()) for name, version in versions.items()]
        self.rows(("model", "state", "version"), rows, empty="no models")


def at(when: datetime | None) -> str:
    """In the time zone of who reads it."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S") if when else ""


def _gone(when: datetime | None) -> str:
    return f", its file went at {at(when)}" if when else ""


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _mark(yes: str, no: str, *, good: bool) -> str:
    return f"[green]{yes}[/]" if good else f"[yellow]{no}[/]"


def _headline(job: Job) -> str:
    return f"job {job.id} {job.pipeline}: {job.state}"


def _why(reason: str) -> str:
    return f": {reason}" if reason else ""


def _companion(one: JobCompanion) -> str:
    return f"{one.role}: series {one.series_instance_uid}"


def _links(story: JobStory) -> Iterator[str]:
    yield from map(_companion, story.companions)
    if story.job.supersedes:
        yield f"revision {story.job.revision}, supersedes job {story.job.supersedes}"
    if story.superseded_by:
        yield f"superseded by job {', '.join(map(str, story.superseded_by))}"


def _coded(job: Job) -> str:
    return ": ".join(filter(None, (job.code, job.reason)))


def _conditions(conditions: Iterable[dict[str, Any]], depth: int = 1) -> Iterator[tuple[str, int]]:
    """Each condition in words and how deep it stands, those of a group below the group."""
    for condition in conditions:
        mark = _mark("holds", "does not hold", good=condition["held"])
        yield f"line {condition['line']}: {escape(condition['text'])} {mark}: {escape(condition['why'])}", depth
        yield from _conditions(condition.get("conditions", ()), depth + 1)


def _others(count: int) -> str:
    return f" and {count} {'other' if count == 1 else 'others'} like it" if count else ""


def _delivery(delivery: Delivery, others: int) -> Row:
    status = "" if delivery.status is None else f"0x{delivery.status:04X}"
    when = delivery.proved_at or delivery.sent_at or (delivery.due_at if delivery.state == DeliveryState.QUEUED else None)
    state = f"proved by {delivery.proof}" if delivery.state == DeliveryState.PROVED else delivery.state
    cells = (str(delivery.id), str(delivery.job), delivery.peer, state, str(delivery.attempts), status, at(when))
    return cells, (f"{delivery.sop_instance_uid}{_others(others)}", delivery.reason)
