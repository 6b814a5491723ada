"""Commands about the rules: their versions, which of them is in force, and what they would do."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from gateway.cli.terms import ConfigOption, configured, group, out, screen

if TYPE_CHECKING:
    from gateway.commands.ruledesk import RuleDesk

T = TypeVar("T")
_TIMES = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%z"]

rules = group("The rules: versions in the database, of which one is in force.")
FileArgument = Annotated[Path | None, typer.Argument(help="By default \\[rules] file of the configuration.")]
FileOption = Annotated[Path | None, typer.Option("--file", help="A draft, instead of the version in force.")]
VersionOption = Annotated[int | None, typer.Option("--version", help="This version, instead of the one in force.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For a program to read.")]
NoteOption = Annotated[str, typer.Option(help="Why, for those who read the history.")]


def at_rules(config: Path | None, act: "Callable[[RuleDesk], T]") -> T:
    from gateway.commands.desk import opened
    from gateway.commands.ruledesk import RuleDesk

    with opened(RuleDesk, configured(config), out) as desk:
        return act(desk)


@rules.command("check")
def rules_check(config: ConfigOption = None) -> None:
    """Tell what is wrong with rules.yaml, by line and rule."""
    from gateway.commands.check import rules_in_words
    from gateway.roster import known
    from gateway.serving.plan import plan

    settings = configured(config)
    found = rules_in_words(plan(settings, added=known(settings).names))
    out.print(found.text, highlight=False, markup=False)
    raise typer.Exit(0 if found.good else 1)


@rules.command("plan")
def rules_plan(file: FileArgument = None, config: ConfigOption = None) -> None:
    """Show what `rules apply` would change; ends with 2 where it would change something."""
    raise typer.Exit(2 if at_rules(config, lambda desk: desk.plan(file)) else 0)


@rules.command("apply")
def rules_apply(file: FileArgument = None, note: NoteOption = "", config: ConfigOption = None) -> None:
    """Keep a file as a new version and put it in force, for every process and at once."""
    at_rules(config, lambda desk: desk.apply(file, note))


@rules.command("draft")
def rules_draft(file: FileArgument = None, note: NoteOption = "", config: ConfigOption = None) -> None:
    """Keep a file as a new version, which is not in force yet."""
    at_rules(config, lambda desk: desk.draft(file, note))


@rules.command("test")
def rules_test(
    path: Annotated[Path, typer.Argument(help="A DICOM file, or a folder with everything in it.", exists=True)],
    file: FileOption = None,
    version: VersionOption = None,
    calling_ae_title: Annotated[str, typer.Option(help="As if this system had sent it.")] = "",
    called_ae_title: Annotated[str, typer.Option(help="As if it had been sent to this title of ours.")] = "",
    at: Annotated[datetime | None, typer.Option(formats=_TIMES, help="As if it had come then; by default now.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Tell what every condition of every rule says of files that you have; nothing is kept of them."""
    from gateway.commands.ruledesk import try_files

    titles = {"calling_ae_title": calling_ae_title, "called_ae_title": called_ae_title}
    when = at.astimezone() if at else datetime.now().astimezone()
    found, others = try_files(configured(config), path, file=file, number=version, titles=titles, at_time=when)
    if as_json:
        out.file.write(json.dumps([one.as_json() for one in found], indent=2) + "\n")
        return
    show = screen()
    for one in found:
        show.line(f"[bold]{len(one.sample.headers)} instances of series {one.sample.series_instance_uid}[/]")
        for outcome in (outcome.as_json() for outcome in one.outcomes):
            show.outcome(str(outcome["rule"]), outcome, matched=bool(outcome["matched"]), depth=1)
    if others or not found:
        show.line(f"{others} files are no DICOM of a series in a transfer syntax that is taken here")


@rules.command("suggest")
def rules_suggest(
    path: Annotated[Path, typer.Argument(help="A DICOM file, or a folder.", exists=True)], config: ConfigOption = None
) -> None:
    """Write a rule that would take these files, to begin with."""
    from gateway.commands.ruledesk import try_files

    found, _ = try_files(configured(config), path, file=None, number=None, titles={}, at_time=datetime.now().astimezone())
    for one in found[:1]:
        out.file.write(one.suggestion)


@rules.command("replay")
def rules_replay(
    file: FileArgument = None,
    version: VersionOption = None,
    days: Annotated[float, typer.Option(min=0, help="Over the series of so many days.")] = 7,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what a file, or a version, would have made of past series, beside what is in force; nothing is changed."""

    def act(desk: "RuleDesk") -> None:
        found = desk.replay(file, version, days)
        if as_json:
            out.file.write(json.dumps(found.as_json(), indent=2) + "\n")
        else:
            desk.replayed(found)

    at_rules(config, act)


@rules.command("agreement")
def rules_agreement(rule: str, config: ConfigOption = None) -> None:
    """How alike the results of a rule's canary and of its pipeline are: Dice of segments, differences of measurements."""
    at_rules(config, lambda desk: desk.agreement(rule))


@rules.command("history")
def rules_history(config: ConfigOption = None) -> None:
    """Every version, the newest first: who wrote, approved and activated it, and when."""
    at_rules(config, lambda desk: desk.history())


@rules.command("show")
def rules_show(number: Annotated[int | None, typer.Argument()] = None, config: ConfigOption = None) -> None:
    """A version as it was written; by default the one in force."""
    at_rules(config, lambda desk: desk.show(number))


@rules.command("diff")
def rules_diff(before: int, after: int, config: ConfigOption = None) -> None:
    """The lines in which two versions differ."""
    at_rules(config, lambda desk: desk.diff(before, after))


@rules.command("approve")
def rules_approve(number: int, config: ConfigOption = None) -> None:
    """Agree to another person's version."""
    at_rules(config, lambda desk: desk.approve(number))


@rules.command("activate")
def rules_activate(number: int, config: ConfigOption = None) -> None:
    """Put a version in force."""
    at_rules(config, lambda desk: desk.activate(number))


@rules.command("rollback")
def rules_rollback(config: ConfigOption = None) -> None:
    """Put the version in force that was before this one."""
    at_rules(config, lambda desk: desk.rollback())
