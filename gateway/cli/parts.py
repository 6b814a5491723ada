"""Commands about what a gateway is made of: models, database, viewer."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.terms import ConfigOption, at_desk, configured, group, out, screen

models = group("The models that Triton serves.")
db = group("The database.")
viewer = group("The viewer beside the console.")


@models.command("list")
def models_list(config: ConfigOption = None) -> None:
    """The models that Triton knows and whether they answer (starts the embedded Triton for the question)."""
    from gateway.inference.models import versions
    from gateway.roster import known
    from gateway.serving.plan import plan

    settings = configured(config)
    ready = plan(settings, added=known(settings))
    log_file = ready.config.gateway.data_dir / "triton.log"
    screen().models(versions(ready.config.triton, folders=ready.model_folders, log_file=log_file))


@models.command("install-server")
def models_install_server(
    environment: Annotated[
        Path | None, typer.Option(help="Where; by default \\[triton] environment, which is where `serve` looks.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    r"""Install NVIDIA Triton for `\[triton] url = "embedded"`, in an environment of its own."""
    from gateway.inference.tritonserver import default_environment, install

    target = environment or configured(config).triton.environment or default_environment()
    install(target, lambda text: out.print(text, highlight=False, markup=False))


@db.command("upgrade")
def db_upgrade(config: ConfigOption = None) -> None:
    """Bring the database's tables up to date (`serve` does so too)."""
    from gateway.commands.workdesk import upgrade

    upgrade(configured(config))
    out.print("the database is up to date")


@db.command("restored")
def db_restored(config: ConfigOption = None) -> None:
    """Say that you restored the database from an older backup: peers are asked for what they hold before anything is sent."""
    at_desk(config, lambda desk: desk.db_restored())


@viewer.command("install")
def viewer_install(
    folder: Annotated[Path | None, typer.Option(help="Where; by default \\[web] viewer, where the console looks.")] = None,
    config: ConfigOption = None,
) -> None:
    """Install OHIF from npm: images and results side by side, linked from the console."""
    from gateway.web.viewer import default_folder, install

    install(
        folder or configured(config).web.viewer or default_folder(), lambda text: out.print(text, highlight=False, markup=False)
    )
