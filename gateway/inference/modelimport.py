"""Import: a model as researchers hand it on, ONNX or TorchScript, becomes a folder that the embedded Triton serves.

What it takes and gives is asked of the file itself, in Triton's environment, where the model will run: the gateway's has neither
torch nor ONNX Runtime. The folder is a model like any other, and its `model.py` is there to be changed.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from gateway.errors import ConfigError
from gateway.inference.promise import Tensor

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_MINUTES = 10

_ASK_ONNX = """
import json, sys, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
def told(tensors):
    return [[one.name, one.type, [length if isinstance(length, int) else -1 for length in one.shape]] for one in tensors]
print(json.dumps([told(session.get_inputs()), told(session.get_outputs())]))
"""
_ASK_TORCHSCRIPT = """
import json, sys, torch
try:
    module = torch.jit.load(sys.argv[1], map_location="cpu").eval()
except RuntimeError:
    sys.exit("it is no TorchScript: expected what torch.jit.script(model).save(...) writes, and not weights alone")
names = [one.name for one in module.forward.schema.arguments[1:]]
shapes = [[int(length) for length in shape.split(",")] for shape in sys.argv[2:]]
if len(shapes) != len(names):
    sys.exit(f"expected --shape {len(names)} times, for {', '.join(names)}")
with torch.inference_mode():
    made = module(*(torch.zeros(shape) for shape in shapes))
made = [made] if isinstance(made, torch.Tensor) else list(made)
if not all(isinstance(one, torch.Tensor) for one in made):
    sys.exit("expected a model that answers with a tensor, or several")
outputs = ["output"] if len(made) == 1 else [f"output_{number}" for number in range(len(made))]
def told(names, tensors):
    return [[name, str(one.dtype), [-1] * one.dim()] for name, one in zip(names, tensors)]
print(json.dumps([told(names, [torch.zeros(shape) for shape in shapes]), told(outputs, made)]))
"""
_RUN_ONNX = '''"""Runs model.onnx, which lies beside it. Made by `gateway models import`; change what you like."""

from pathlib import Path

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the processor too
        file = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(file, options, providers=onnxruntime.get_available_providers())
        self.inputs = [one.name for one in self.session.get_inputs()]
        self.outputs = [one.name for one in self.session.get_outputs()]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        made = self.session.run(self.outputs, given)
        return triton.InferenceResponse([triton.Tensor(name, one) for name, one in zip(self.outputs, made)])
'''
_RUN_TORCHSCRIPT = '''"""Runs model.pt, which lies beside it. Made by `gateway models import`; change what you like."""

from pathlib import Path

import torch
import triton_python_backend_utils as triton

INPUTS = $inputs
OUTPUTS = $outputs


class TritonPythonModel:
    def initialize(self, args):
        on_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
        self.device = torch.device(f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")
        file = Path(args["model_repository"], args["model_version"], "model.pt")
        self.module = torch.jit.load(file, map_location=self.device).eval()

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = [triton.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS]
        with torch.inference_mode():
            made = self.module(*(torch.from_numpy(one.copy()).to(self.device) for one in given))
        made = [made] if isinstance(made, torch.Tensor) else made
        return triton.InferenceResponse([triton.Tensor(name, one.cpu().numpy()) for name, one in zip(OUTPUTS, made)])
'''


@dataclass(frozen=True)
class _Format:
    """`asked` prints what a file takes and gives; `needs` is what pip installs for it, where that is not there."""

    file: str
    asked: str
    runs: Template
    module: str
    needs: Sequence[str] = ()


_ONNX = _Format("model.onnx", _ASK_ONNX, Template(_RUN_ONNX), "onnxruntime", ("onnxruntime", "numpy<2"))
_TORCHSCRIPT = _Format("model.pt", _ASK_TORCHSCRIPT, Template(_RUN_TORCHSCRIPT), "torch")
_FORMATS = {".onnx": _ONNX, ".pt": _TORCHSCRIPT, ".ts": _TORCHSCRIPT}

_DATATYPES = {
    "tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(double)": "FP64", "tensor(bool)": "BOOL",
    "torch.float32": "FP32", "torch.float16": "FP16", "torch.float64": "FP64", "torch.bool": "BOOL",
    **{f"{kind}{bits}".join(around): f"{kind.upper()}{bits}"
       for kind in ("int", "uint") for bits in (8, 16, 32, 64) for around in (("tensor(", ")"), ("torch.", ""))},
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    folder: Path
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


def import_model(
    file: Path, into: Path, *, name: str, environment: Path, progress: Callable[[str], None], shapes: Sequence[str] = ()
) -> Imported:
    """The folder `name` in `into`, version 1. `shapes` are of the inputs of TorchScript, which does not tell them: "1,1,512,512".

    Raises ConfigError: it is no such file, the name is taken or none, or Triton's environment cannot load it.
    """
    made_for, python, folder = _FORMATS.get(file.suffix.lower()), environment / "bin" / "python", into / name
    if made_for is None or not file.is_file():
        raise ConfigError([f"{file}: expected a model as ONNX (.onnx) or TorchScript (.pt, .ts)"])
    if not _NAME.fullmatch(name):
        raise ConfigError([f"expected a name of a model of letters, digits and underscores: {name}"])
    if folder.exists():
        raise ConfigError([f"{folder} is there already: expected another name, or that you remove it"])
    if not python.exists():
        raise ConfigError([f"expected Triton's environment at {environment}: run `gateway models install-server`"])
    _provide(made_for, python, progress)
    progress(f"asking {file.name} what it takes and gives")
    inputs, outputs = _told(made_for, python, file, shapes)
    partial = into / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "1").mkdir(parents=True)
    shutil.copyfile(file, partial / "1" / made_for.file)
    names = {"inputs": [one.name for one in inputs], "outputs": [one.name for one in outputs]}
    (partial / "1" / "model.py").write_text(made_for.runs.substitute({key: json.dumps(value) for key, value in names.items()}))
    (partial / "config.pbtxt").write_text(_configuration(name, file.name, inputs, outputs))
    partial.rename(folder)
    return Imported(folder, inputs, outputs)


def _provide(made_for: _Format, python: Path, progress: Callable[[str], None]) -> None:
    """Raises ConfigError."""
    if _run([python, "-c", f"import {made_for.module}"]).returncode == 0:
        return
    progress(f"installing {made_for.module} into {python.parent.parent}")
    pip: list[str | Path] = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *made_for.needs]
    if not made_for.needs or _run(pip).returncode != 0:
        raise ConfigError([f"expected {made_for.module} in {python.parent.parent}: pip could not install it"])


def _told(made_for: _Format, python: Path, file: Path, shapes: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Raises ConfigError with the last thing that was said of the file."""
    if not all(re.fullmatch(r"[0-9]+(,[0-9]+)*", shape) for shape in shapes):
        raise ConfigError(["expected --shape as lengths with commas between them: 1,1,512,512"])
    ran = _run([python, "-c", made_for.asked, file, *shapes])
    if ran.returncode != 0:
        said = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError([f"{file}: {said[:500]}"])
    inputs, outputs = json.loads(ran.stdout.splitlines()[-1])
    return [_tensor(file, *one) for one in inputs], [_tensor(file, *one) for one in outputs]


def _tensor(file: Path, name: str, kind: str, shape: Sequence[int]) -> Tensor:
    if kind not in _DATATYPES:
        raise ConfigError([f"{file}: {name} is {kind}: expected tensors of numbers"])
    return Tensor(name, _DATATYPES[kind], tuple(length if length > 0 else -1 for length in shape))


def _run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60 * _MINUTES, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError([f"expected an end within {_MINUTES} minutes of: {command[0]}"]) from error


def _configuration(name: str, file: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    return (
        f'# Imported from {file}; -1 is any length.\nname: "{name}"\nbackend: "python"\nmax_batch_size: 0\n'
        f"input [\n{_listed(inputs)}\n]\noutput [\n{_listed(outputs)}\n]\ninstance_group [ {{ kind: KIND_AUTO count: 1 }} ]\n"
    )


def _listed(tensors: Sequence[Tensor]) -> str:
    return ",\n".join(
        f'  {{ name: "{one.name}" data_type: TYPE_{one.datatype} dims: [ {", ".join(map(str, one.shape))} ] }}' for one in tensors
    )
