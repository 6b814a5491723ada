"""The gate before anything is stored: what no external validator checks, checked from the objects and their encoding.

Every sentence says what was expected, never what was found.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pydicom import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    MRImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from gateway.conformance.derived import derived
from gateway.conformance.general import elements, general, told
from gateway.conformance.parametric import parametric
from gateway.conformance.report import report
from gateway.conformance.segmentation import segmentation
from gateway.conformance.structures import structures
from gateway.outputs import Encoding

Check = Callable[[Dataset, Encoding, Mapping[str, Dataset]], Iterator[str]]
"""Of an object, its encoding, and all objects of the job by their SOP Instance UID."""
_CHECKS: Mapping[str, Check] = {
    SegmentationStorage: segmentation,
    Comprehensive3DSRStorage: report,
    RTStructureSetStorage: structures,
    CTImageStorage: derived,
    MRImageStorage: derived,
    ParametricMapStorage: parametric,
}


def problems(objects: Sequence[Dataset], *, encoding: Encoding) -> list[str]:
    """One sentence for each thing that is wrong; `objects[n]` is what `encoding.outputs[n]` became. Empty: may be stored."""
    if len(objects) != len(encoding.outputs):
        return ["expected one object for each output"]
    together = {str(made.SOPInstanceUID): made for made in objects}
    whose = told(encoding.source)
    found: dict[tuple[str, str], str] = {}  # what is wrong with all of a series is told of the first of them
    for output, made in zip(encoding.outputs, objects, strict=True):
        checks = [general(made, output, encoding, whose), elements(made, set())]
        if made.SOPClassUID in _CHECKS:
            checks.append(_CHECKS[made.SOPClassUID](made, encoding, together))
        name = f"{type(output).__name__} {encoding.ordinal(output)}"
        for problem in (sentence for check in checks for sentence in _sentences(check)):
            found.setdefault((encoding.uid(output, "series"), problem), f"{name}: {problem}")
    return [*found.values()]


def _sentences(check: Iterator[str]) -> Iterator[str]:
    try:
        yield from check
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        yield "expected all attributes that the checks read"
