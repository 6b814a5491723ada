"""Send imaging studies in, get AI results back into the PACS. `gateway COMMAND --help` says what a command does."""

# Here stands what is asked; desk.py, check.py, sending.py, app.py and demo.py do it. They are imported inside the commands, so
# that help comes at once.

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from gateway import __version__
from gateway.config import load
from gateway.errors import ConfigError, GatewayError
from gateway.sections import Config

if TYPE_CHECKING:
    from gateway.desk import Desk
    from gateway.screen import Screen


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help=text)
    app.add_typer(group, name=name)
    return group


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
series = _group("series", "What arrived, whether it is complete, which rules wanted it and why.")
jobs = _group("jobs", "What was computed, is being computed, or failed.")
deliveries = _group("deliveries", "Which result reached which peer.")
peers = _group("peers", "The systems that results go to.")
audit = _group("audit", "The trail of everything that happened.")
models = _group("models", "The models that Triton serves.")
rules = _group("rules", "What rules.yaml says.")
db = _group("db", "The database.")

out, err = Console(), Console(stderr=True)
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="GATEWAY_CONFIG", help="The configuration; by default gateway.toml in this folder."),
]
StateOption = Annotated[str | None, typer.Option(help="Only those in this state.")]
LimitOption = Annotated[int, typer.Option(min=1, help="At most so many, the latest.")]


def main() -> None:
    try:
        app()
    except ConfigError as error:
        _fail(error.problems)
    except GatewayError as error:
        _fail([str(error)])
    except OSError as error:
        _fail([": ".join(str(part) for part in (error.filename, error.strerror) if part) or type(error).__name__])


@app.callback(invoke_without_command=True)
def gateway(version: Annotated[bool, typer.Option("--version", help="Tell the version and end.")] = False) -> None:
    if version:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Serve until Ctrl-C or SIGTERM: receive, settle, run, deliver."""
    from gateway import log
    from gateway.app import Gateway, plan
    from gateway.desk import reach
    from gateway.stopping import Stop

    settings = _config(config)
    log.configure(settings.log.level, settings.log.format)
    ready = plan(settings)
    reach(settings)
    stop = Stop()
    with Gateway(ready) as running:
        running.start_models_aside()
        stop.wait()


@app.command()
def demo(
    path: Annotated[Path | None, typer.Argument(help="Your own DICOM files; without it a chest CT is synthesised.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the results are there.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the demonstration keeps its files.")] = Path("var/demo"),
) -> None:
    """Show the whole way on this machine: a chest CT in, segmentation and measurement report in a PACS."""
    from gateway.demo import demonstrate
    from gateway.demopacs import orthanc

    demonstrate(path, once=once, folder=folder, out=out, program=orthanc())


@app.command()
def check(config: ConfigOption = None) -> None:
    """Tell everything that is wrong with a configuration: keys, rules, peers, models, database."""
    from gateway.check import check_all

    findings = check_all(_path(config))
    _screen().findings((finding.good, finding.text) for finding in findings)
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


@app.command()
def send(
    path: Annotated[Path, typer.Argument(help="A file, a ZIP, or a folder with everything in it.", exists=True)],
    to: Annotated[str | None, typer.Option(help="A peer of the configuration; by default this gateway's own listener.")] = None,
    calling_ae_title: Annotated[str, typer.Option(help="Who we say we are to our own listener.")] = "GATEWAYSEND",
    config: ConfigOption = None,
) -> None:
    """Send DICOM files as they are."""
    from gateway.sending import send_path

    not_arrived = send_path(path, _config(config), to=to, calling_ae_title=calling_ae_title, out=out)
    raise typer.Exit(1 if not_arrived else 0)


@series.command("list")
def series_list(limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest series and what became of them."""
    _at_desk(config, lambda desk: desk.series_list(limit))


@series.command("show")
def series_show(series_instance_uid: str, config: ConfigOption = None) -> None:
    """One series: why it is complete, what every rule's conditions said of it, its jobs and deliveries."""
    _at_desk(config, lambda desk: desk.series_show(series_instance_uid))


@jobs.command("list")
def jobs_list(state: StateOption = None, limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest jobs."""
    _at_desk(config, lambda desk: desk.jobs_list(state, limit))


@jobs.command("show")
def jobs_show(job: int, config: ConfigOption = None) -> None:
    """One job: what it ran on, with which model, what came out and where it went."""
    _at_desk(config, lambda desk: desk.jobs_show(job))


@jobs.command("retry")
def jobs_retry(job: int, config: ConfigOption = None) -> None:
    """Queue a failed job again, or start a waiting one now."""
    _at_desk(config, lambda desk: desk.jobs_retry(job))


@jobs.command("cancel")
def jobs_cancel(job: int, config: ConfigOption = None) -> None:
    """Take a waiting job off the queue."""
    _at_desk(config, lambda desk: desk.jobs_cancel(job))


@deliveries.command("list")
def deliveries_list(state: StateOption = None, limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest deliveries."""
    _at_desk(config, lambda desk: desk.deliveries_list(state, limit))


@deliveries.command("show")
def deliveries_show(delivery: int, config: ConfigOption = None) -> None:
    """One delivery: what is sent, and how every attempt ended."""
    _at_desk(config, lambda desk: desk.deliveries_show(delivery))


@deliveries.command("retry")
def deliveries_retry(delivery: int, config: ConfigOption = None) -> None:
    """Queue a failed delivery again, or start a waiting one now."""
    _at_desk(config, lambda desk: desk.deliveries_retry(delivery))


@deliveries.command("cancel")
def deliveries_cancel(delivery: int, config: ConfigOption = None) -> None:
    """Give a delivery up."""
    _at_desk(config, lambda desk: desk.deliveries_cancel(delivery))


@peers.command("list")
def peers_list(config: ConfigOption = None) -> None:
    """The peers of the configuration: name, protocol, address."""
    from gateway.app import plan

    _screen().peers(plan(_config(config)).config.peers)


@peers.command("echo")
def peers_echo(name: str, config: ConfigOption = None) -> None:
    """Ask a peer whether it is there."""
    from gateway.sending import configured_peer

    out.print(f"{name}: {configured_peer(_config(config), name).echo()}", highlight=False)


@audit.command("list")
def audit_list(
    limit: LimitOption = 50,
    series: Annotated[str | None, typer.Option(help="Only of this series.")] = None,
    job: Annotated[int | None, typer.Option(help="Only of this job.")] = None,
    config: ConfigOption = None,
) -> None:
    """The latest events: when, what, who, how it ended, on what."""
    _at_desk(config, lambda desk: desk.audit_list(limit, series, job))


@models.command("list")
def models_list(config: ConfigOption = None) -> None:
    """The models that Triton knows and whether they answer (starts the embedded Triton for the question)."""
    from gateway.app import plan
    from gateway.models import versions

    ready = plan(_config(config))
    log_file = ready.config.gateway.data_dir / "triton.log"
    _screen().models(versions(ready.config.triton, folders=ready.model_folders, log_file=log_file))


@models.command("install-server")
def models_install_server(
    environment: Annotated[
        Path | None, typer.Option(help="Where; by default [triton] environment, which is where `serve` looks.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Install NVIDIA Triton for `[triton] url = "embedded"`, in an environment of its own."""
    from gateway.tritonserver import default_environment, install

    target = environment or _config(config).triton.environment or default_environment()
    install(target, lambda text: out.print(text, highlight=False, markup=False))


@rules.command("check")
def rules_check(config: ConfigOption = None) -> None:
    """Tell what is wrong with rules.yaml, by line and rule."""
    from gateway.app import plan
    from gateway.check import rules_in_words

    out.print(rules_in_words(plan(_config(config))).text, highlight=False, markup=False)


@db.command("upgrade")
def db_upgrade(config: ConfigOption = None) -> None:
    """Bring the database's tables up to date (`serve` does so too)."""
    from gateway.desk import upgrade

    upgrade(_config(config))
    out.print("the database is up to date")


def _path(path: Path | None) -> Path | None:
    return path or next((default for default in (Path("gateway.toml"),) if default.exists()), None)


def _config(path: Path | None) -> Config:
    return load(_path(path))


def _at_desk(config: Path | None, act: Callable[["Desk"], None]) -> None:
    from gateway.desk import Desk

    with closing(Desk(_config(config), out)) as desk:
        act(desk)


def _screen() -> "Screen":
    from gateway.screen import Screen

    return Screen(out)


def _fail(problems: Iterable[str]) -> NoReturn:
    for problem in problems:
        err.print(problem, style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(1)
