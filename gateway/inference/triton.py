"""Asking NVIDIA Triton (gRPC, KServe v2 protocol): named arrays go in, checked arrays come back.

A model's configuration is its promise (promise.py), and every answer is held to it. Arrays of a megabyte or more travel by shared
memory when the server is on this machine, and answers do where the promise says how large they will be. This is the only file
that knows Triton's client; all its errors become ours in `_call`.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import BadModelOutput, JobError, ModelDied, ModelUnavailable
from gateway.inference import sharedmemory
from gateway.inference.promise import SHAPE_OF, Promise, Tensor
from gateway.pipeline import Arrays, Infer

_LARGEST_MESSAGE = 2**31 - 1
_SHARED_FROM_BYTES = 2**20
_CHANNEL = (
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_reconnect_backoff_ms", 5000),
)
_TRY_AGAIN = {
    grpc.StatusCode.UNAVAILABLE: "Triton or the model is not available",
    grpc.StatusCode.DEADLINE_EXCEEDED: "Triton did not answer in time",
    grpc.StatusCode.CANCELLED: "Triton cancelled the request",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Triton has no resources left",
    grpc.StatusCode.NOT_FOUND: "Triton does not serve this model in this version; {log} says whether it could not be loaded",
}


@dataclass(frozen=True)
class ModelIdentity:
    """Which model answered: its name, its version, and the SHA-256 (hex) of its files or of its configuration."""

    name: str
    version: str
    weights: str


class Triton:
    """One server; safe to use from many threads.

    `repositories` are the folders that the server loads its models from, where this machine has them. `shared_memory` says that
    the server runs on this machine and as this user. `log` is where its own words are.
    """

    def __init__(
        self, url: str, *, timeout_seconds: float, shared_memory: bool = False, repositories: Sequence[Path] = (),
        log: str = "the server's log",
    ) -> None:  # fmt: skip
        self._channel = grpc.insecure_channel(url, options=_CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._timeout_seconds = timeout_seconds
        self._shared_memory = shared_memory
        self._repositories, self._log = tuple(repositories), log
        self._digests: dict[tuple[str, str], str] = {}
        if shared_memory:
            sharedmemory.forget_the_dead()

    def close(self) -> None:
        self._channel.close()

    def reloaded(self) -> None:
        """The server has started again and read its models' folders anew: identities are taken anew."""
        self._digests.clear()

    def models(self) -> dict[str, bool]:
        """Every model that the server knows, and whether it can be asked. Raises ModelUnavailable."""
        index = self._ask(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest())
        known: dict[str, bool] = {}
        for model in index.models:
            known[model.name] = known.get(model.name, False) or model.state == "READY"
        return known

    def ready(self, model: str) -> bool:
        """False too while the server does not answer."""
        try:
            return bool(self._ask(self._stub.ModelReady, service_pb2.ModelReadyRequest(name=model)).ready)
        except JobError:
            return False

    def identity(self, model: str) -> ModelIdentity:
        """Which version answers now, and a digest that changes with the model.

        Where the model's folder is on this machine, the digest is over the path and bytes of every file of it but compiled
        Python: a retrained model under an old version number is another model. It is taken once per version, at the first
        question, so ask when the server has just started: Triton loads a model once, and what happens to the folder later says
        nothing about what it runs.
        Elsewhere the digest is over the configuration that the server reports, the most that the protocol tells; whoever
        retrains a model there must give it a new version number. Raises ModelUnavailable.
        """
        version = self._promise(model, "").version
        key = (model, version)
        if key not in self._digests:
            folder = next((path / model for path in self._repositories if (path / model).is_dir()), None)
            self._digests[key] = _digest_of_folder(folder) if folder else self._digest_of_configuration(model, version)
        return ModelIdentity(model, version, self._digests[key])

    def infer(self, model: str, version: str = "") -> Infer:
        """How a pipeline asks `model`; give the identity's version so that a job never mixes two.

        What comes back raises ModelUnavailable (no server, no such version, no answer in time), BadModelOutput (the model failed,
        or its answer is not what its configuration promises, or holds values that are not finite) and JobError (the pipeline
        sends something else than the model takes).
        """

        def ask(arrays: Arrays) -> Arrays:
            promise = self._promise(model, version)
            promise.check_inputs(arrays)
            with ExitStack() as stack:
                call = _Call(service_pb2.ModelInferRequest(model_name=model, model_version=promise.version), {})
                for name, array in arrays.items():
                    self._put(call, promise.inputs[name], array, stack)
                for tensor in promise.outputs.values():
                    self._expect(call, tensor, arrays, stack)
                if call.request.ByteSize() > _LARGEST_MESSAGE:
                    raise JobError("the arrays are larger than 2 GB: they need a Triton on this machine and shared memory")
                answer = _call(self._stub.ModelInfer, call.request, self._timeout_seconds, self._log)
                return _answered(answer, promise, arrays, call.regions)

        return ask

    def _put(self, call: "_Call", tensor: Tensor, array: np.ndarray, stack: ExitStack) -> None:
        wanted = call.request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        region = self._region(array.nbytes, stack)
        if region is None:
            call.request.raw_input_contents.append(array.tobytes())
            return
        target = np.frombuffer(region.buffer, array.dtype).reshape(array.shape)
        half = len(array) // 2  # new pages are what takes the time, and two cores fill them sooner than one
        with ThreadPoolExecutor(1) as other:
            second = other.submit(np.copyto, target[half:], array[half:])
            np.copyto(target[:half], array[:half])
            second.result()
        self._share(wanted, region, stack)

    def _expect(self, call: "_Call", tensor: Tensor, arrays: Arrays, stack: ExitStack) -> None:
        wanted = call.request.outputs.add(name=tensor.name)
        size = arrays[tensor.shape_of].size * tensor.dtype.itemsize if tensor.shape_of else 0
        if region := self._region(size, stack):
            region.seal()  # Triton does not say how much it wrote, and it has been seen to write nothing and answer OK
            self._share(wanted, region, stack)
            call.regions[tensor.name] = region

    def _region(self, size: int, stack: ExitStack) -> sharedmemory.Region | None:
        """None where the array should rather be sent: it is small, the server is elsewhere, or /dev/shm is full."""
        if not self._shared_memory or size < _SHARED_FROM_BYTES:
            return None
        with suppress(OSError):
            return stack.enter_context(sharedmemory.Region(size))
        return None

    def _share(self, wanted: Any, region: sharedmemory.Region, stack: ExitStack) -> None:
        """Triton maps the region when it is registered; its name can go at once, and nothing is left when we are killed."""
        self._ask(
            self._stub.SystemSharedMemoryRegister,
            service_pb2.SystemSharedMemoryRegisterRequest(name=region.name, key=f"/{region.name}", byte_size=region.size),
        )
        stack.callback(self._unregister, region.name)
        region.unlink()
        wanted.parameters["shared_memory_region"].string_param = region.name
        wanted.parameters["shared_memory_byte_size"].int64_param = region.size

    def _unregister(self, name: str) -> None:
        with suppress(JobError):  # a server that is gone has let go already
            self._ask(self._stub.SystemSharedMemoryUnregister, service_pb2.SystemSharedMemoryUnregisterRequest(name=name))

    def _promise(self, model: str, version: str) -> Promise:
        metadata = self._ask(self._stub.ModelMetadata, service_pb2.ModelMetadataRequest(name=model, version=version))
        version = version or max(metadata.versions, key=int)
        parameters = self._configuration(model, version).parameters
        return Promise(
            version,
            {t.name: Tensor(t.name, t.datatype, tuple(t.shape)) for t in metadata.inputs},
            {
                t.name: Tensor(t.name, t.datatype, tuple(t.shape), parameters[f"{SHAPE_OF}{t.name}"].string_value)
                for t in metadata.outputs
            },
        )

    def _configuration(self, model: str, version: str) -> Any:
        return self._ask(self._stub.ModelConfig, service_pb2.ModelConfigRequest(name=model, version=version)).config

    def _digest_of_configuration(self, model: str, version: str) -> str:
        return hashlib.sha256(self._configuration(model, version).SerializeToString(deterministic=True)).hexdigest()

    def _ask(self, method: Callable[..., Any], request: Any) -> Any:
        return _call(method, request, min(self._timeout_seconds, 30), self._log)


@dataclass(frozen=True)
class _Call:
    """A request in the making; `regions` is where Triton will write those outputs whose size is known."""

    request: Any
    regions: dict[str, sharedmemory.Region]


def _call(method: Callable[..., Any], request: Any, timeout_seconds: float, log: str) -> Any:
    """The one place where Triton's errors become ours. Its texts stay in its log: a model may put values into them."""
    try:
        return method(request, timeout=timeout_seconds)
    except grpc.RpcError as error:
        code, text = error.code(), error.details() or ""
    except ValueError as error:  # what gRPC raises once the channel was closed
        raise ModelUnavailable("expected a gateway that is not about to end") from error
    if code in _TRY_AGAIN:
        raise ModelUnavailable(f"{_TRY_AGAIN[code].format(log=log)} ({code.name})")
    if text.startswith("Stub process"):  # the model's process ended (no memory, killed); Triton starts another
        raise ModelDied(f"the model's process ended while it worked ({code.name})")
    raise BadModelOutput(f"the model failed instead of answering; {log} says why ({code.name})")


def _answered(answer: Any, promise: Promise, sent: Arrays, regions: dict[str, sharedmemory.Region]) -> Arrays:
    arrays: dict[str, np.ndarray] = {}
    for output, sent_content in zip(answer.outputs, answer.raw_output_contents, strict=True):
        dtype = promise.output(output.name, output.datatype).dtype
        content = regions[output.name].written() if output.name in regions else sent_content
        if len(content) != math.prod(output.shape) * dtype.itemsize:
            raise BadModelOutput(f"expected output {output.name} to hold as many bytes as its shape and type ask for")
        arrays[output.name] = np.frombuffer(content, dtype).reshape(tuple(output.shape))
    promise.check_outputs(arrays, sent)
    return arrays


def _digest_of_folder(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()
