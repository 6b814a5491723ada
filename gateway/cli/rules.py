"""Commands about the rules: their versions, which of them is in force, and what they would do."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from gateway.cli.terms import ConfigOption, configured, group, out

if TYPE_CHECKING:
    from gateway.ruledesk import RuleDesk

T = TypeVar("T")

rules = group("The rules: versions in the database, of which one is in force.")
FileArgument = Annotated[Path | None, typer.Argument(help="By default [rules] file of the configuration.")]
NoteOption = Annotated[str, typer.Option(help="Why, for those who read the history.")]


def at_rules(config: Path | None, act: "Callable[[RuleDesk], T]") -> T:
    from gateway.ruledesk import RuleDesk

    with closing(RuleDesk(configured(config), out)) as desk:
        return act(desk)


@rules.command("check")
def rules_check(config: ConfigOption = None) -> None:
    """Tell what is wrong with rules.yaml, by line and rule."""
    from gateway.check import rules_in_words
    from gateway.plan import plan
    from gateway.roster import known

    settings = configured(config)
    out.print(rules_in_words(plan(settings, added=known(settings).names)).text, highlight=False, markup=False)


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
