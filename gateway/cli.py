"""The command line. `gateway COMMAND --help` says what a command does; nothing here does more than ask and print."""

import getpass
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from gateway.config import Config, load
from gateway.errors import ConfigError, GatewayError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
series_app, jobs_app, deliveries_app = typer.Typer(), typer.Typer(), typer.Typer()
peers_app, audit_app, models_app, rules_app, db_app = typer.Typer(), typer.Typer(), typer.Typer(), typer.Typer(), typer.Typer()
app.add_typer(series_app, name="series", help="What arrived, whether it is complete, which rules wanted it and why.")
app.add_typer(jobs_app, name="jobs", help="What was computed, is being computed, or failed.")
app.add_typer(deliveries_app, name="deliveries", help="Which result reached which peer.")
app.add_typer(peers_app, name="peers", help="The systems that results go to.")
app.add_typer(audit_app, name="audit", help="The trail of everything that happened.")
app.add_typer(models_app, name="models", help="The models that Triton serves.")
app.add_typer(rules_app, name="rules", help="rules.yaml.")
app.add_typer(db_app, name="db", help="The database.")

out, err = Console(), Console(stderr=True)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="GATEWAY_CONFIG", help="gateway.toml; by default the one in this folder.")
]
StateOption = Annotated[str | None, typer.Option(help="Only those in this state.")]
LimitOption = Annotated[int, typer.Option(help="At most so many, the latest.")]


def main() -> None:
    try:
        app()
    except ConfigError as error:
        _fail(error.problems)
    except GatewayError as error:
        _fail([str(error)])


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Serve until Ctrl-C or SIGTERM: receive, settle, run, deliver."""
    from gateway import log
    from gateway.app import Gateway, plan

    settings = _config(config)
    log.configure(settings.log.level, settings.log.format)
    ready = plan(settings)
    settings.gateway.data_dir.mkdir(parents=True, exist_ok=True)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with Gateway(ready) as gateway:
        gateway.start_models_aside()
        stopping.wait()


@app.command()
def demo(
    path: Annotated[Path | None, typer.Argument(help="Your own DICOM files; without it a chest CT is synthesised.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the results are there.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the demonstration keeps its files.")] = Path("var/demo"),
) -> None:
    """Show the whole way on this machine: a chest CT in, segmentation and measurement report in a PACS."""
    from gateway.demo import demonstrate

    demonstrate(path, once=once, folder=folder, out=out)


@app.command()
def check(config: ConfigOption = None) -> None:
    """Tell everything that is wrong with a configuration: keys, rules, peers, models, database."""
    from gateway.check import check_all

    findings = check_all(config or _default_config())
    for finding in findings:
        out.print(
            f"[{'green' if finding.good else 'red'}]{'ok   ' if finding.good else 'wrong'}[/] {finding.text}", highlight=False
        )
    wrong = sum(not finding.good for finding in findings)
    out.print(f"{wrong} wrong" if wrong else "everything is in order")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def send(
    path: Annotated[Path, typer.Argument(help="A file, or a folder with everything in it.", exists=True)],
    to: Annotated[str | None, typer.Option(help="A peer of the configuration; by default this gateway's own listener.")] = None,
    calling_ae_title: Annotated[str, typer.Option(help="Who we say we are.")] = "GATEWAYSEND",
    config: ConfigOption = None,
) -> None:
    """Send DICOM files by C-STORE, unchanged."""
    from gateway.sending import send_path

    failures = send_path(path, _config(config), to=to, calling_ae_title=calling_ae_title, out=out)
    raise typer.Exit(1 if failures else 0)


@series_app.command("list")
def series_list(limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest series and what became of them."""
    from gateway import admin

    with _screen(config) as (db, screen):
        screen.series_list(admin.list_series(db, limit=limit))


@series_app.command("show")
def series_show(series_instance_uid: str, config: ConfigOption = None) -> None:
    """One series: why it is complete, what every rule's conditions said of it, its jobs and deliveries."""
    from gateway import admin

    with _screen(config) as (db, screen):
        screen.series_story(admin.show_series(db, series_instance_uid))


@jobs_app.command("list")
def jobs_list(state: StateOption = None, limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest jobs."""
    from gateway import admin

    with _screen(config) as (db, screen):
        screen.jobs(admin.list_jobs(db, state=state, limit=limit))


@jobs_app.command("show")
def jobs_show(job: int, config: ConfigOption = None) -> None:
    """One job: what it ran on, with which model, what came out and where it went."""
    from gateway import admin

    with _screen(config) as (db, screen):
        screen.job_story(admin.show_job(db, job))


@jobs_app.command("retry")
def jobs_retry(job: int, config: ConfigOption = None) -> None:
    """Queue a failed job again, or start a waiting one now."""
    from gateway import admin

    _act(config, lambda db, queues: admin.retry_job(db, queues, job, actor=_actor(), now=_now()))


@jobs_app.command("cancel")
def jobs_cancel(job: int, config: ConfigOption = None) -> None:
    """Take a waiting job off the queue."""
    from gateway import admin

    _act(config, lambda db, _queues: admin.cancel_job(db, job, actor=_actor(), now=_now()))


@deliveries_app.command("list")
def deliveries_list(state: StateOption = None, limit: LimitOption = 50, config: ConfigOption = None) -> None:
    """The latest deliveries."""
    from gateway import admin

    with _screen(config) as (db, screen):
        screen.deliveries(admin.list_deliveries(db, state=state, limit=limit))


@deliveries_app.command("retry")
def deliveries_retry(delivery: int, config: ConfigOption = None) -> None:
    """Queue a failed delivery again, or start a waiting one now."""
    from gateway import admin

    _act(config, lambda db, queues: admin.retry_delivery(db, queues, delivery, actor=_actor(), now=_now()))


@deliveries_app.command("cancel")
def deliveries_cancel(delivery: int, config: ConfigOption = None) -> None:
    """Give a delivery up."""
    from gateway import admin

    _act(config, lambda db, _queues: admin.cancel_delivery(db, delivery, actor=_actor(), now=_now()))


@peers_app.command("echo")
def peers_echo(name: str, config: ConfigOption = None) -> None:
    """Ask a peer whether it is there."""
    from gateway.app import plan

    peers = plan(_config(config)).peers
    if name not in peers:
        raise ConfigError([f"there is no peer {name!r}; the configuration has {', '.join(peers) or 'none'}"])
    out.print(f"{name}: {peers[name].echo()}", highlight=False)


@audit_app.command("list")
def audit_list(
    limit: LimitOption = 50,
    series: Annotated[str | None, typer.Option(help="Only of this series.")] = None,
    job: Annotated[int | None, typer.Option(help="Only of this job.")] = None,
    config: ConfigOption = None,
) -> None:
    """The latest events: when, what, who, how it ended, on what."""
    from gateway import admin

    with _screen(config) as (db, screen):
        screen.events(admin.list_audit(db, limit=limit, series=series, job=job))


@models_app.command("install-server")
def models_install_server(
    environment: Annotated[Path, typer.Option(help="Where to make the server's environment.")] = Path(".venv-triton"),
) -> None:
    """Install NVIDIA Triton for `[triton] url = "embedded"`, in an environment of its own."""
    from gateway.tritonserver import install

    install(environment, lambda text: out.print(text, highlight=False))


@models_app.command("list")
def models_list(config: ConfigOption = None) -> None:
    """The models that Triton knows and whether they answer (starts the embedded Triton for the question)."""
    from gateway.app import plan
    from gateway.models import Models
    from gateway.screen import Screen

    ready = plan(_config(config))
    ready.config.gateway.data_dir.mkdir(parents=True, exist_ok=True)
    models = Models(ready.config.triton, folders=ready.model_folders, log_file=ready.config.gateway.data_dir / "triton.log")
    try:
        rows = [(name, "ready" if is_ready else "not ready", models.identity(name).version if is_ready else "")
                for name, is_ready in models.ready().items()]  # fmt: skip
    finally:
        models.stop()
    Screen(out).table(("model", "state", "version"), rows, empty="no models")


@rules_app.command("check")
def rules_check(config: ConfigOption = None) -> None:
    """Tell what is wrong with rules.yaml, by line and rule."""
    from gateway.app import plan

    rules = plan(_config(config)).rules.rules
    out.print(f"{len(rules)} rules: {', '.join(rule.name for rule in rules) or 'none'}", highlight=False)


@db_app.command("upgrade")
def db_upgrade(config: ConfigOption = None) -> None:
    """Bring the database's tables up to date (`serve` does so too)."""
    from gateway.app import upgrade
    from gateway.db import open_database

    settings = _config(config)
    settings.gateway.data_dir.mkdir(parents=True, exist_ok=True)
    upgrade(settings.database_url, open_database(settings.database_url))
    out.print("the database is up to date")


def _default_config() -> Path | None:
    path = Path("gateway.toml")
    return path if path.exists() else None


def _config(path: Path | None) -> Config:
    return load(path or _default_config())


@contextmanager
def _database(config: Path | None) -> Any:
    from gateway.db import open_database

    settings = _config(config)
    if settings.database_url.startswith("sqlite") and not settings.gateway.data_dir.exists():
        raise ConfigError([f"{settings.gateway.data_dir}: there is no gateway's data here; run `gateway serve` first"])
    yield open_database(settings.database_url)


@contextmanager
def _screen(config: Path | None) -> Any:
    from gateway.screen import Screen

    with _database(config) as db:
        yield db, Screen(out)


def _act(config: Path | None, act: Callable[[Any, Any], str]) -> None:
    from gateway.engine import Queues

    with _database(config) as db:
        queues = Queues(_config(config).database_url)
        try:
            out.print(act(db, queues), highlight=False)
        finally:
            queues.close()


def _fail(problems: Iterable[str]) -> NoReturn:
    for problem in problems:
        err.print(problem, style="red", highlight=False, markup=False)
    raise SystemExit(1)


def _actor() -> str:
    return getpass.getuser()


def _now() -> datetime:
    return datetime.now(UTC)
