"""Commands about the people who may use the console, and the tokens of programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.terms import ConfigOption, configured, group, out

if TYPE_CHECKING:
    from gateway.commands.roll import Roll

RoleOption = Annotated[str, typer.Option(help="viewer, operator or administrator.")]
PasswordOption = Annotated[
    Path | None, typer.Option("--password-file", help="Read the password from this file instead of asking for it.", exists=True)
]

users = group("The people who may use the console and REST.")
tokens = group("Tokens with which programs use REST in a person's name.")


def at_roll(config: Path | None, act: "Callable[[Roll], None]") -> None:
    from gateway.commands.desk import opened
    from gateway.commands.roll import Roll

    with opened(Roll, configured(config), out) as roll:
        act(roll)


@users.command("list")
def users_list(config: ConfigOption = None) -> None:
    """Everybody: name, role, since when, whether they may sign in."""
    at_roll(config, lambda roll: roll.list_people())


@users.command("add")
def users_add(name: str, role: RoleOption = "viewer", file: PasswordOption = None, config: ConfigOption = None) -> None:
    """Let somebody in; asks for their first password."""
    at_roll(config, lambda roll: roll.add(name, role, _password(file)))


@users.command("role")
def users_role(name: str, role: str, config: ConfigOption = None) -> None:
    """Change what somebody may do: viewer, operator or administrator."""
    at_roll(config, lambda roll: roll.change_role(name, role))


@users.command("disable")
def users_disable(name: str, config: ConfigOption = None) -> None:
    """Somebody may not sign in any more; their sign-ins and tokens end at once."""
    at_roll(config, lambda roll: roll.disable(name))


@users.command("enable")
def users_enable(name: str, config: ConfigOption = None) -> None:
    """Somebody may sign in again, whatever there was before; tokens are made anew."""
    at_roll(config, lambda roll: roll.enable(name))


@users.command("password")
def users_password(name: str, file: PasswordOption = None, config: ConfigOption = None) -> None:
    """Give somebody a new password; their sign-ins and tokens end."""
    at_roll(config, lambda roll: roll.set_password(name, _password(file)))


@tokens.command("list")
def tokens_list(config: ConfigOption = None) -> None:
    """Those that may still be used: whose, for what, until when, when used last."""
    at_roll(config, lambda roll: roll.list_tokens())


@tokens.command("make")
def tokens_make(
    name: str,
    label: Annotated[str, typer.Option(help="What it is for.")],
    role: RoleOption = "viewer",
    days: Annotated[int, typer.Option(help="How long it is good.")] = 90,
    config: ConfigOption = None,
) -> None:
    """Make one in somebody's name; it is shown this once."""
    at_roll(config, lambda roll: roll.make_token(name, label, role, days))


@tokens.command("revoke")
def tokens_revoke(token: int, config: ConfigOption = None) -> None:
    """Nobody can use it any more."""
    at_roll(config, lambda roll: roll.revoke_token(token))


def _password(file: Path | None) -> str:
    """Never an argument, which everybody on the machine could read."""
    if file is not None:
        return file.read_text("utf-8").removesuffix("\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
