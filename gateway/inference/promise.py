"""What a model's configuration promises, and whether the arrays of a request and of its answer keep it.

One thing that Triton's configuration cannot say is said in its parameters:
`parameters { key: "shape_of.labels" value { string_value: "volume" } }` promises that the output `labels` has the shape of
the input `volume`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.errors import BadModelOutput, JobError
from gateway.pipeline import Arrays

SHAPE_OF = "shape_of."

_DTYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True)
class Tensor:
    """One input or output. -1 stands for any length; `shape_of` names the input that has the same shape, or is empty."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    shape_of: str = ""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Raises JobError for what is no array of numbers (BYTES, BF16)."""
        if self.datatype not in _DTYPES:
            raise JobError(f"the model's {self.name} is {self.datatype}: expected one of {', '.join(_DTYPES)}")
        return np.dtype(_DTYPES[self.datatype])

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self.shape) and all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))


@dataclass(frozen=True)
class Promise:
    """One version of a model: what it takes and what it answers."""

    version: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    def check_inputs(self, arrays: Arrays) -> None:
        """Raises JobError: the pipeline and the model's configuration do not belong together."""
        if arrays.keys() != self.inputs.keys():
            raise JobError(
                f"the model takes {_listed(self.inputs)}: expected exactly these from the pipeline, not {_listed(arrays)}"
            )
        for name, tensor in self.inputs.items():
            array = arrays[name]
            if not isinstance(array, np.ndarray):
                raise JobError(f"the model takes {name} as an array of numpy; the pipeline sends a {type(array).__name__}")
            if array.dtype != tensor.dtype or not tensor.fits(array.shape) or not array.size:
                sent = f"{array.dtype} of shape {list(array.shape)}"
                raise JobError(
                    f"the model takes {name} as {tensor.dtype} of shape {list(tensor.shape)}; the pipeline sends {sent}"
                )
        for tensor in self.outputs.values():
            if tensor.shape_of and tensor.shape_of not in arrays:
                raise JobError(f"the model promises {tensor.name} in the shape of an input that it does not have")

    def output(self, name: str, datatype: str) -> Tensor:
        """The promise for one tensor of the answer. Raises BadModelOutput where there is none, or for another type."""
        tensor = self.outputs.get(name)
        if tensor is None:
            raise BadModelOutput(f"expected no other output than {_listed(self.outputs)}")
        if tensor.datatype != datatype:
            raise BadModelOutput(f"expected output {name} as {tensor.datatype}; it came as {datatype}")
        return tensor

    def check_outputs(self, arrays: Arrays, sent: Arrays) -> None:
        """Raises BadModelOutput unless every promised output is there, in its shape, and finite."""
        if arrays.keys() != self.outputs.keys():
            raise BadModelOutput(f"expected every output of the model's configuration: {_listed(self.outputs)}")
        for name, tensor in self.outputs.items():
            array = arrays[name]
            expected = sent[tensor.shape_of].shape if tensor.shape_of else tensor.shape
            if not tensor.fits(array.shape) or (tensor.shape_of and array.shape != expected):
                raise BadModelOutput(f"expected output {name} in the shape {list(expected)}; it came in {list(array.shape)}")
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise BadModelOutput(f"expected output {name} to hold finite numbers only")


def _listed(arrays: Mapping[str, object]) -> str:
    return ", ".join(sorted(arrays)) or "none"
