"""`gateway models import`: what a researcher hands on becomes a model that Triton serves, as it is told."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from gateway.errors import ConfigError, JobError
from gateway.inference.modelfolder import unloadable
from gateway.inference.modelimport import Imported, import_model
from gateway.inference.triton import Triton
from tests.command_fixture import Command
from tests.triton_fixture import ENVIRONMENT, start_triton

# The first of them may install ONNX Runtime beside Triton.
pytestmark = pytest.mark.xdist_group("modelimport")

VOLUME = np.arange(-12, 12, dtype=np.float32).reshape(1, 2, 3, 4)
TWO_INPUTS = """
import sys, torch

class Model(torch.nn.Module):
    def forward(self, image, other):
        return image + other, (image > other)

torch.jit.script(Model()).save(sys.argv[1])
"""
WEIGHTS_ALONE = "import sys, torch; torch.save(torch.nn.Conv2d(1, 1, 3).state_dict(), sys.argv[1])"


def field(number: int, value: int | str | bytes) -> bytes:
    """Of a protocol buffer; small ones only."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    content = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(content)]) + content


def onnx_of(operation: str, element: int = 1) -> bytes:
    """An ONNX model of one operation, from "input.1" to "found": (any, 2, any, any) float32."""

    def value(name: str) -> bytes:
        lengths = b"".join(field(1, field(1, 2) if n == 1 else field(2, "n")) for n in range(4))
        return field(1, name) + field(2, field(1, field(1, element) + field(2, lengths)))

    node = field(1, "input.1") + field(2, "found") + field(4, operation)
    graph = field(1, node) + field(2, "g") + field(11, value("input.1")) + field(12, value("found"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.fixture(scope="session")
def environment() -> Path:
    if not ENVIRONMENT.is_dir():
        pytest.skip("NVIDIA Triton is not installed: run `make triton`")
    return ENVIRONMENT


@pytest.fixture
def bring(environment: Path, tmp_path: Path) -> Callable[..., Imported]:
    def bring(file: Path, name: str, *shapes: str) -> Imported:
        return import_model(file, tmp_path / "mine", name=name, environment=environment, progress=print, shapes=shapes)

    return bring


def written_by_torch(environment: Path, program: str, file: Path) -> Path:
    script = file.with_suffix(".py")  # TorchScript reads the source of what it compiles
    script.write_text(program)
    subprocess.run([environment / "bin" / "python", script, file], check=True, timeout=120)
    return file


def test_onnx_and_torchscript_answer_through_triton_what_they_answer_by_themselves(
    environment: Path, bring: Callable[..., Imported], tmp_path: Path
) -> None:
    (tmp_path / "abs.onnx").write_bytes(onnx_of("Abs"))
    both = written_by_torch(environment, TWO_INPUTS, tmp_path / "both.pt")
    told = [bring(tmp_path / "abs.onnx", "abs"), bring(both, "both", "1,2,3,4", "1,2,3,4")]

    with start_triton([tmp_path / "mine"], tmp_path / "triton.log") as server:
        triton = Triton(server.url, timeout_seconds=60)
        found = triton.infer("abs")({"input.1": VOLUME})
        other = triton.infer("both")({"image": VOLUME, "other": -VOLUME * 3})
        with pytest.raises(JobError, match=r"shape \[-1, 2, -1, -1\]"):
            triton.infer("abs")({"input.1": VOLUME[:, :1]})
        triton.close()

    (expected,) = onnxruntime.InferenceSession(tmp_path / "abs.onnx").run(None, {"input.1": VOLUME})
    assert (found["found"] == expected).all()
    assert (other["output_0"] == -2 * VOLUME).all()
    assert (other["output_1"] == (VOLUME > -3 * VOLUME)).all()
    assert [[one.name for one in (*made.inputs, *made.outputs)] for made in told] == [
        ["input.1", "found"],
        ["image", "other", "output_0", "output_1"],
    ]
    assert told[1].outputs[1].dtype == np.bool_
    assert dict(unloadable([tmp_path / "mine"])) == {"abs": [], "both": []}


def test_a_model_of_somebody_answers_what_it_answers_by_itself(
    bring: Callable[..., Imported], weights: Path, tmp_path: Path
) -> None:
    file = weights / "dncnn_25" / "dncnn_25.onnx"
    plane = np.random.default_rng(3).random((1, 1, 32, 48), np.float32)
    made = bring(file, "dncnn")

    with start_triton([tmp_path / "mine"], tmp_path / "triton.log") as server:
        triton = Triton(server.url, timeout_seconds=60)
        found = triton.infer("dncnn")({made.inputs[0].name: plane})[made.outputs[0].name]
        triton.close()

    (expected,) = onnxruntime.InferenceSession(file).run(None, {made.inputs[0].name: plane})
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "suffix", "name", "shapes", "said"),
    [
        (b"", ".h5", "m", (), "expected a model as ONNX"),
        (b"no model", ".onnx", "m", (), "m.onnx: "),
        (b"no model", ".pt", "m", ("1",), "it is no TorchScript"),
        (b"no model", ".pt", "m", ("1x2",), "expected --shape as lengths"),
        (onnx_of("Abs"), ".onnx", "../m", (), "expected a name of a model"),
        (onnx_of("NoSuchOperation"), ".onnx", "m", (), "NoSuchOperation"),
    ],
)
def test_what_cannot_be_imported_is_told_and_leaves_nothing(
    bring: Callable[..., Imported], tmp_path: Path, content: bytes, suffix: str, name: str, shapes: tuple[str, ...], said: str
) -> None:
    file = tmp_path / f"m{suffix}"
    file.write_bytes(content)

    with pytest.raises(ConfigError, match=said):
        bring(file, name, *shapes)

    assert not (tmp_path / "mine").exists()


def test_weights_without_their_model_and_shapes_that_are_missing_are_told(
    environment: Path, bring: Callable[..., Imported], tmp_path: Path
) -> None:
    alone = written_by_torch(environment, WEIGHTS_ALONE, tmp_path / "alone.pt")
    both = written_by_torch(environment, TWO_INPUTS, tmp_path / "both.ts")

    with pytest.raises(ConfigError, match="not weights alone"):
        bring(alone, "alone", "1,1,8,8")
    with pytest.raises(ConfigError, match="expected --shape 2 times, for image, other"):
        bring(both, "both")


def test_a_name_that_is_taken_is_left_alone(bring: Callable[..., Imported], tmp_path: Path) -> None:
    (tmp_path / "abs.onnx").write_bytes(onnx_of("Abs"))
    (tmp_path / "mine" / "abs").mkdir(parents=True)

    with pytest.raises(ConfigError, match="is there already"):
        bring(tmp_path / "abs.onnx", "abs")

    assert list((tmp_path / "mine").rglob("*")) == [tmp_path / "mine" / "abs"]


def test_the_command_says_what_to_write_where(environment: Path, gateway: Command, tmp_path: Path) -> None:
    (tmp_path / "abs.onnx").write_bytes(onnx_of("Abs"))
    (tmp_path / "gateway.toml").write_text(f'[triton]\nenvironment = "{environment}"\n')

    nowhere = gateway("models import abs.onnx")
    ran = gateway("models import abs.onnx --into mine")

    assert nowhere.code == 1
    assert "expected --into FOLDER" in nowhere.err
    assert ran.code == 0
    assert "takes  input.1  float32 [-1, 2, -1, -1]" in ran.out
    assert 'model="abs", and infer({"input.1": ...})["found"]' in ran.out
    assert '[triton] models = ["mine"]' in ran.out
