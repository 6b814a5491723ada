"""Parametric Map (PS3.3 A.75, C.8.32): a number in each voxel of the source, such as a probability, in its unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.dicom.radiograph import is_radiograph
from gateway.errors import BadOutput
from gateway.outputs import NOT_FOR_DIAGNOSIS, Encoding, check_codes, modules
from gateway.outputs.grid import check_grid
from gateway.outputs.multiframe import fill_each, organize, refer, single

_LABEL = "PARAMETRIC_MAP"
_EXACT = hd.VOILUTFunctionValues.LINEAR_EXACT
"""Another window is 1 wide or more (PS3.3 C.11.2.1.2), and a probability is not."""


@dataclass(frozen=True, eq=False)
class ParametricMap:
    """`values` is (slices, rows, columns) float32 on the grid of the source, in `unit` (UCUM).

    `quantity` is what they are, of CID 7180 or another code; `description` is for people. `region` is the part of the body,
    `window` the centre and width with which it is shown first: all of its values, where there is none.
    """

    values: hd.Volume
    unit: Code
    quantity: Code
    description: str
    region: Code = codes.SCT.AnatomicalStructure
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_codes("parametric map", self.unit, self.quantity, self.region)
        if self.unit.scheme_designator != "UCUM":
            raise BadOutput('parametric map: expected a unit of UCUM; Code("1", "UCUM", "no units") where it has none')
        if self.window is not None and not (math.isfinite(self.window[0]) and 0 < self.window[1] < math.inf):
            raise BadOutput("parametric map: expected a window of a centre, and a width above 0")

    def encode(self, encoding: Encoding) -> Dataset:
        """One instance with a frame for each plane. Raises BadOutput where values are not finite, or not on the source's grid."""
        first = encoding.source[0]
        if is_radiograph(first):
            raise BadOutput("expected a parametric map of a volume: a radiograph has no frame of reference")
        low, high = self._range()
        check_grid(self.values, encoding, "values")
        centre, width = self.window or ((low + high) / 2, (high - low) or 1.0)
        made = modules.make(
            _one_plane,
            encoding=encoding,
            output=self,
            images=[single(first, self.values.spacing[0])],
            pixel_array=np.zeros((1, *self.values.array.shape[1:]), np.float32),  # the frames are ours
            contains_recognizable_visual_features=True,  # nobody looked whether there is a face in it
            real_world_value_mappings=[self._mapping(low, high)],
            voi_lut_transformations=[hd.VOILUTTransformation(centre, width, voi_lut_function=_EXACT)],
            content_label=_LABEL,
            content_description=f"{NOT_FOR_DIAGNOSIS}. {self.description}"[:64].rstrip(),
            content_creator_name=modules.creator(encoding.algorithm),
            series_description=modules.series_description(self.description),
        )
        organize(made, encoding.uid(self, "dimension organization"))
        made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [self._anatomy()]
        fill_each(made, self.values, encoding.source)
        refer(made, encoding.source)
        modules.copy_lossy(made, encoding)
        return made

    def _range(self) -> tuple[float, float]:
        if self.values.array.dtype != np.float32:
            raise BadOutput("expected values of a parametric map of type float32")
        low, high = float(self.values.array.min()), float(self.values.array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BadOutput("expected finite values in a parametric map: 0 where there is none, and not NaN")
        return low, high

    def _mapping(self, low: float, high: float) -> hd.pm.RealWorldValueMapping:
        """The values are real ones as they are."""
        meaning = self.quantity.meaning
        return hd.pm.RealWorldValueMapping(meaning[:16].rstrip(), meaning[:64].rstrip(), self.unit, (low, high), 1.0, 0.0,
                                           quantity_definition=self.quantity)  # fmt: skip

    def _anatomy(self) -> Dataset:
        """Mandatory until 2020, and there are readers that end without it (dcmqi)."""
        anatomy = Dataset()
        anatomy.FrameLaterality = "U"
        anatomy.AnatomicRegionSequence = [hd.sr.CodedConcept.from_code(self.region)]
        return anatomy


def _one_plane(images: Sequence[Dataset], **arguments: Any) -> Dataset:
    return hd.pm.ParametricMap(list(images), **arguments)
