"""Commands about what arrived, what was computed, and where it went."""

from typing import Annotated

import typer

from gateway.cli.terms import ConfigOption, LimitOption, StateOption, at_desk, at_workdesk, fail, group

WhyOption = Annotated[str, typer.Option(help="Only unmatched, refused, failed, gone, lacking or incomplete ones.")]
series = group("What arrived, whether it is complete, which rules wanted it and why.")
jobs = group("What was computed, is being computed, or failed.")
deliveries = group("Which result reached which peer.")


@series.command("list")
def series_list(limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest series and what became of them."""
    at_desk(config, lambda desk: desk.series_list(limit))


@series.command("show")
def series_show(series_instance_uid: str, config: ConfigOption = None) -> None:
    """One series: why it is complete, what every rule's conditions said of it, its jobs and deliveries."""
    at_desk(config, lambda desk: desk.series_show(series_instance_uid))


@series.command("complete")
def series_complete(series_instance_uid: str, config: ConfigOption = None) -> None:
    """Take a series as it is, whatever it lacks: for one that is held, or waits."""
    at_workdesk(config, lambda desk: desk.series_complete(series_instance_uid))


@series.command("hold")
def series_hold(series_instance_uid: str, config: ConfigOption = None) -> None:
    """Let a series that is being received start nothing before you say so, or more of it comes."""
    at_workdesk(config, lambda desk: desk.series_hold(series_instance_uid))


@series.command("held")
def series_held(why: WhyOption = "", limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """Series that a person should look at: no rule wanted them, or one that cannot be followed any more, or they failed."""
    at_desk(config, lambda desk: desk.series_held(why, limit))


@series.command("release")
def series_release(
    series_instance_uid: Annotated[str | None, typer.Argument(help="Without it, all that are held.")] = None,
    why: WhyOption = "",
    config: ConfigOption = None,
) -> None:
    """Look at a series again, with the rules that are in force now; a job that was made of it is not made twice."""
    at_workdesk(config, lambda desk: desk.series_release(series_instance_uid, why))


@jobs.command("release")
def jobs_release(job: int, config: ConfigOption = None) -> None:
    """Send what a job made in the shadow to the peers of its rule."""
    at_workdesk(config, lambda desk: desk.jobs_release(job))


@jobs.command("list")
def jobs_list(state: StateOption = None, limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest jobs."""
    at_desk(config, lambda desk: desk.jobs_list(state, limit))


@jobs.command("show")
def jobs_show(job: int, config: ConfigOption = None) -> None:
    """One job: what it ran on, with which model, what came out and where it went."""
    at_desk(config, lambda desk: desk.jobs_show(job))


@jobs.command("order")
def jobs_order(
    series_instance_uid: str,
    pipeline: str,
    to: Annotated[list[str] | None, typer.Option(help="A peer that the results go to; may be said several times.")] = None,
    priority: Annotated[str, typer.Option(help="stat, routine or background.")] = "routine",
    config: ConfigOption = None,
) -> None:
    """Run a pipeline on a series that is here, whatever the rules say."""
    at_workdesk(config, lambda desk: desk.jobs_order(series_instance_uid, pipeline, to or [], priority))


@jobs.command("retry")
def jobs_retry(job: int, config: ConfigOption = None) -> None:
    """Queue a failed job again, or make a waiting one due now."""
    at_workdesk(config, lambda desk: desk.jobs_retry(job))


@jobs.command("cancel")
def jobs_cancel(job: int, config: ConfigOption = None) -> None:
    """Take a waiting job off the queue, or be done with a failed one."""
    at_workdesk(config, lambda desk: desk.jobs_cancel(job))


@deliveries.command("list")
def deliveries_list(state: StateOption = None, limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest deliveries."""
    at_desk(config, lambda desk: desk.deliveries_list(state, limit))


@deliveries.command("show")
def deliveries_show(delivery: int, config: ConfigOption = None) -> None:
    """One delivery: what is sent, and how every attempt ended."""
    at_desk(config, lambda desk: desk.deliveries_show(delivery))


@deliveries.command("retry")
def deliveries_retry(delivery: int, config: ConfigOption = None) -> None:
    """Queue a failed delivery again, or make a waiting one due now."""
    at_workdesk(config, lambda desk: desk.deliveries_retry(delivery))


@deliveries.command("resend")
def deliveries_resend(
    sop_instance_uid: Annotated[str | None, typer.Argument(help="A result of ours.")] = None,
    job: Annotated[int | None, typer.Option(help="All results of this job.")] = None,
    to: Annotated[str | None, typer.Option(help="A peer, also one that never had it; by default all that it went to.")] = None,
    config: ConfigOption = None,
) -> None:
    """Send results once more, the same bytes under the same UIDs: one by its SOP Instance UID, or those of a job."""
    if (sop_instance_uid is None) == (job is None):
        fail(["expected a SOP Instance UID, or --job with a job's number"])
    at_workdesk(config, lambda desk: desk.deliveries_resend(sop_instance_uid, job, to))


@deliveries.command("cancel")
def deliveries_cancel(delivery: int, config: ConfigOption = None) -> None:
    """Give a delivery up: it is not sent any more, or where it was sent not looked for."""
    at_workdesk(config, lambda desk: desk.deliveries_cancel(delivery))
