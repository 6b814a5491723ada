"""Commands about the audit trail."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.terms import ConfigOption, LimitOption, at_desk, group

if TYPE_CHECKING:
    from gateway.commands.desk import Desk

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


class Format(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"


audit = group("The trail of everything that happened.")


@audit.command("list")
def audit_list(
    limit: LimitOption = 50,
    series: Annotated[str | None, typer.Option(help="Only of this series.")] = None,
    job: Annotated[int | None, typer.Option(help="Only of this job.")] = None,
    config: ConfigOption = None,
) -> None:
    """The latest events: when, what, who, how it ended, on what."""
    at_desk(config, lambda desk: desk.audit_list(limit, series, job))


@audit.command("show")
def audit_show(sop_instance_uid: str, config: ConfigOption = None) -> None:
    """Where a result is from, or what was made of an input, and where that went."""
    at_desk(config, lambda desk: desk.audit_show(sop_instance_uid))


@audit.command("export")
def audit_export(
    form: Annotated[Format, typer.Option("--format", help="JSON, a line an event.")] = Format.JSONL,  # noqa: ARG001 - there is one
    since: Annotated[datetime | None, typer.Option(formats=_TIMES, help="Only what was told of this time and later.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write the trail to standard output with its hashes, so that anybody can follow the chain."""
    at_desk(config, lambda desk: desk.audit_export(since.astimezone() if since else None))


@audit.command("verify")
def audit_verify(
    heads: Annotated[Path | None, typer.Option(help="The signed heads; by default those of this gateway.", exists=True)] = None,
    public_key: Annotated[Path | None, typer.Option(help="Of who signed them; by default this gateway's.", exists=True)] = None,
    config: ConfigOption = None,
) -> None:
    """Tell whether every event is as it was written, or which is the first that is not."""

    def verify(desk: "Desk") -> None:
        if not desk.audit_verify(heads, public_key):
            raise typer.Exit(1)

    at_desk(config, verify)
