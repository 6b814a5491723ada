"""Send imaging studies in, get AI results back into the PACS. `gateway COMMAND --help` says what a command does."""

# Here stands what is asked; commands/ and app.py do it. They are imported inside the commands, so
# that help comes at once.

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway import __version__
from gateway.cli import parts, peers, people, rows, rules, trail
from gateway.cli.terms import ConfigOption, at_workdesk, configured, fail, found, out, screen
from gateway.errors import ConfigError, GatewayError
from gateway.machine.lean import FOR_PIXELS, without

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.web.console import Console

_DATABASE_SECONDS = 30
_NOT_FOR_ALL = 0o027
"""Images, rows and keys are for who runs the gateway, and to read for a group, whatever the shell grants."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
app.add_typer(rows.series, name="series")
app.add_typer(rows.jobs, name="jobs")
app.add_typer(rows.deliveries, name="deliveries")
app.add_typer(peers.peers, name="peers")
app.add_typer(trail.audit, name="audit")
app.add_typer(parts.models, name="models")
app.add_typer(rules.rules, name="rules")
app.add_typer(people.users, name="users")
app.add_typer(people.tokens, name="tokens")
app.add_typer(parts.db, name="db")
app.add_typer(parts.viewer, name="viewer")


def main() -> None:
    os.umask(os.umask(_NOT_FOR_ALL) | _NOT_FOR_ALL)
    try:
        app()
    except ConfigError as error:
        fail(error.problems)
    except GatewayError as error:
        fail([str(error)])
    except OSError as error:
        fail([": ".join(str(part) for part in (error.filename, error.strerror) if part) or type(error).__name__])


@app.callback(invoke_without_command=True)
def gateway(version: Annotated[bool, typer.Option("--version", help="Tell the version and end.")] = False) -> None:
    if version:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.command()
def serve(
    only: Annotated[
        list[str] | None,
        typer.Option(help="What this process does: receive, work or web. Without it, everything. Expects PostgreSQL."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM: receive, settle, run, deliver, and the web console."""
    from contextlib import ExitStack
    from datetime import timedelta

    from gateway import log
    from gateway.app import Gateway
    from gateway.commands.desk import reach
    from gateway.configuration.roles import Role, roles
    from gateway.machine.stopping import Stop
    from gateway.serving.plan import plan

    settings = configured(config)
    chosen = roles(only or (), database_url=settings.database_url)
    log.configure(settings.log.level, settings.log.format)
    reach(settings, patience=timedelta(seconds=_DATABASE_SECONDS))
    ready = plan(settings, with_rules=False)
    stop = Stop()
    with Gateway(ready, chosen, file=found(config)) as running, ExitStack() as console:
        running.start_models_aside()
        if Role.WEB in chosen:
            opened = console.enter_context(_console(running))
            if opened.setup and out.is_terminal:
                out.print(f"Nobody may use the console yet: open {opened.url}/setup; the setup secret is {opened.setup}")
        gc.freeze()  # what is loaded by now stays: to look through it for garbage would hold everybody up, now and then
        stop.wait()
    stop.leave()


def _console(running: "Gateway") -> "Console":
    """Imported when the doors are open: it takes a second."""
    from gateway.web.console import Console, site_of

    return Console(site_of(running))


@app.command()
def demo(
    path: Annotated[Path | None, typer.Argument(help="Your own DICOM files; without it a chest CT is synthesised.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the results are there.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the demonstration keeps its files.")] = Path("var/demo"),
) -> None:
    """Show the whole way on this machine: a chest CT in, segmentation and measurement report in a PACS."""
    from gateway.commands.demo import demonstrate
    from gateway.commands.demopacs import orthanc

    demonstrate(path, once=once, folder=folder, out=out, program=orthanc())


@app.command()
def retract(
    what: Annotated[str, typer.Argument(help="The number of a job, for all its results, or the SOP Instance UID of one.")],
    reason: Annotated[str, typer.Option(help="quality, safety, wrong-patient, mwl (wrong worklist entry) or retention.")],
    config: ConfigOption = None,
) -> None:
    """Take results back: a rejection note goes to every peer that has them, and what has not gone out never does."""
    at_workdesk(config, lambda desk: desk.retract(what, reason))


@app.command()
def check(config: ConfigOption = None) -> None:
    """Tell everything that is wrong: keys, folders, ports, database, rules, peers, models, and whom it tells of things."""
    from gateway.commands.check import check_all

    findings = check_all(found(config))
    screen().findings((finding.good, finding.text) for finding in findings)
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


@app.command()
def keys() -> None:
    """Show every key of gateway.toml with its default and what it is for: a gateway.toml to begin with."""
    from gateway.commands.keys import everything

    out.file.write(everything())


@app.command()
def send(
    path: Annotated[Path, typer.Argument(help="A file, a ZIP, or a folder with everything in it.", exists=True)],
    to: Annotated[str | None, typer.Option(help="A peer of the configuration; by default this gateway's own listener.")] = None,
    calling_ae_title: Annotated[str, typer.Option(help="Who we say we are to our own listener.")] = "GATEWAYSEND",
    config: ConfigOption = None,
) -> None:
    """Send DICOM files as they are."""
    with without(FOR_PIXELS):  # a third of the time until the first file is on its way
        from gateway.commands.sending import answering_listener, send_path

    settings = configured(config)
    peer = answering_listener(settings, calling_ae_title) if to is None else peers.named(settings, to)
    raise typer.Exit(1 if send_path(path, peer, out) else 0)
