"""What the commands share: options, the screen, and how a command comes to a configuration and to the desk."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from gateway.configuration.config import load
from gateway.configuration.sections import Config

if TYPE_CHECKING:
    from gateway.commands.desk import Desk
    from gateway.commands.screen import Screen
    from gateway.commands.workdesk import WorkDesk

out, err = Console(), Console(stderr=True)
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="GATEWAY_CONFIG", help="The configuration; by default gateway.toml in this folder."),
]
StateOption = Annotated[str | None, typer.Option(help="Only those in this state.")]
LimitOption = Annotated[int, typer.Option(min=1, help="At most so many, the latest.")]


def group(text: str) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, help=text)


def found(path: Path | None) -> Path | None:
    return path or next((default for default in (Path("gateway.toml"),) if default.exists()), None)


def configured(path: Path | None) -> Config:
    return load(found(path))


def at_desk(config: Path | None, act: Callable[["Desk"], None]) -> None:
    from gateway.commands.desk import Desk, opened

    with opened(Desk, configured(config), out) as desk:
        act(desk)


def at_workdesk(config: Path | None, act: Callable[["WorkDesk"], None]) -> None:
    from gateway.commands.desk import opened
    from gateway.commands.workdesk import WorkDesk

    with opened(WorkDesk, configured(config), out) as desk:
        act(desk)


def screen() -> "Screen":
    from gateway.commands.screen import Screen

    return Screen(out)


def fail(problems: Iterable[str]) -> NoReturn:
    for problem in problems:
        err.print(problem, style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(1)
