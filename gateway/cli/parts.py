"""Commands about what a gateway is made of: models, database, viewer."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.terms import ConfigOption, at_desk, configured, group, out, screen
from gateway.errors import ConfigError

models = group("The models that Triton serves.")
db = group("The database.")
viewer = group("The viewer beside the console.")


def say(text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)


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
    install(target, say)


@models.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(help="ONNX (.onnx) or TorchScript (.pt, .ts).")],
    name: Annotated[str, typer.Option(help="Of the model; by default the file's.")] = "",
    into: Annotated[Path | None, typer.Option(help="Folder of models; by default the first of \\[triton] models.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Of an input of TorchScript, once for each: 1,1,512,512. Any other length may come.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a folder that the embedded Triton serves of a model that a researcher hands you."""
    from gateway.inference.modelimport import import_model
    from gateway.inference.tritonserver import default_environment

    settings = configured(config).triton
    folders = [into] if into else [*settings.models]
    if not folders:
        raise ConfigError(["expected --into FOLDER: no folder of yours is named in [triton] models"])
    made = import_model(
        file, folders[0], name=name or file.stem, environment=settings.environment or default_environment(), progress=say,
        shapes=shape or (),
    )  # fmt: skip
    say(f"{made.folder}:")
    for word, tensors in (("takes", made.inputs), ("gives", made.outputs)):
        for one in tensors:
            say(f"    {word}  {one.name}  {one.dtype} {list(one.shape)}")
    asked = ", ".join(f'"{one.name}": ...' for one in made.inputs)
    say(f'in a pipeline: model="{made.folder.name}", and infer({{{asked}}})["{made.outputs[0].name}"]')
    if folders[0] not in settings.models:
        say(f'in gateway.toml: [triton] models = ["{folders[0]}"]')


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

    install(folder or configured(config).web.viewer or default_folder(), say)
