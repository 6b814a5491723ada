"""A real NVIDIA Triton for tests, on folders of models that may be made up on the spot."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.inference.tritonserver import TritonServer

ENVIRONMENT = Path(__file__).parent.parent / ".venv-triton"


def start_triton(repositories: Sequence[Path], log_file: Path) -> TritonServer:
    """Started and ready; whoever asks stops it. Skips where it is not installed."""
    server = TritonServer(repositories, log_file=log_file, environment=ENVIRONMENT)
    try:
        server.start()
    except ConfigError as error:
        pytest.skip(str(error))
    return server


def write_model(repository: Path, name: str, configuration: str, code: str) -> Path:
    """A model folder for the Python backend, version 1; `configuration` is what comes after name and backend."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\nmax_batch_size: 0\n{configuration}')
    (folder / "1" / "model.py").write_text(code)
    return folder
