"""Segmentation, BINARY (PS3.3 A.51, C.8.20): which voxels of the source are which structure."""

import math
import re
from collections import Counter
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import format_number_as_ds

from gateway.dicom.radiograph import is_radiograph, place
from gateway.errors import BadOutput
from gateway.outputs import NOT_FOR_DIAGNOSIS, Encoding, check_codes, modules
from gateway.outputs.grid import check_grid
from gateway.outputs.multiframe import fill, organize, refer, single

_CONTENT_LABEL = re.compile("[A-Z0-9 _]{1,16}")
_SEGMENT_LABEL = re.compile(r"[^\\]{1,64}")


@dataclass(frozen=True)
class Segment:
    """One structure. `label` has up to 64 characters, `category` is of CID 7150, `type` of CID 7151, `colour` sRGB, 0 to 255."""

    label: str
    category: Code
    type: Code
    anatomic_region: Code | None
    laterality: Code | None
    colour: tuple[int, int, int]

    def __post_init__(self) -> None:
        others = [one for one in (self.anatomic_region, self.laterality) if one is not None]
        check_codes(f"segment {self.label!r}", self.category, self.type, *others)
        if len(self.colour) != 3 or not all(type(one) is int and 0 <= one <= 255 for one in self.colour):
            raise BadOutput(f"segment {self.label!r}: expected a colour of three whole numbers from 0 to 255")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """`labels` is (slices, rows, columns) uint8 on the grid of the source; value n is segments[n - 1], 0 is nothing.

    `label` is the Content Label (CS: capitals, digits, spaces, underscores, at most 16), `description` is for people.
    """

    labels: hd.Volume
    segments: tuple[Segment, ...]
    label: str
    description: str

    def encode(self, encoding: Encoding) -> Dataset:
        """One SEG instance, frames of empty planes left out.

        Raises BadOutput where no voxel is labelled (the pipeline should yield a report that says so: viewers hang on a
        SEG without frames), or where `labels` are not on the grid of `encoding.source`.
        """
        self.check(encoding)
        one_voxel = np.zeros((1, *self.labels.array.shape[1:]), np.uint8)
        one_voxel[0, 0, 0] = 1
        made = modules.make(
            hd.seg.Segmentation,
            encoding=encoding,
            output=self,
            images=[single(encoding.source[0], self.labels.spacing[0])],
            pixel_array=one_voxel,  # the frames are ours
            segmentation_type="BINARY",
            segment_descriptions=[self._segment(number, encoding) for number in range(1, len(self.segments) + 1)],
            content_label=self.label,
            content_description=f"{NOT_FOR_DIAGNOSIS}. {self.description}"[:64].rstrip(),
            content_creator_name=modules.creator(encoding.algorithm),
            series_description=modules.series_description(self.description),
        )
        organize(made, encoding.uid(self, "dimension organization"))
        fill(made, self.labels, encoding.source)
        refer(made, encoding.source)
        if is_radiograph(encoding.source[0]):
            _lay_flat(made, encoding.source[0])
        modules.copy_lossy(made, encoding)
        return made

    def tracking(self, number: int, encoding: Encoding) -> tuple[str, str]:
        """Tracking ID and Tracking UID of segment `number` (from 1), the same here and in a report on it."""
        return f"{self.label} {self.segments[number - 1].label}", encoding.uid(self, f"segment {number}")

    def check(self, encoding: Encoding) -> None:
        """Raises BadOutput as `encode` does."""
        self._check_names()
        self._check_labels(encoding)

    def _check_names(self) -> None:
        if not _CONTENT_LABEL.fullmatch(self.label):
            raise BadOutput("expected a label of a segmentation of 1 to 16 capitals, digits, spaces and underscores")
        if not all(_SEGMENT_LABEL.fullmatch(segment.label) for segment in self.segments):
            raise BadOutput("expected labels of segments of 1 to 64 characters, no backslash")

    def _check_labels(self, encoding: Encoding) -> None:
        labels = self.labels
        if labels.array.dtype != np.uint8:
            raise BadOutput("expected labels of type uint8")
        if labels.array.max() > len(self.segments):
            raise BadOutput("expected labels among the numbers of the segments")
        if not labels.array.any():
            raise BadOutput("expected at least one labelled voxel: where there is none, yield a report without segmentation")
        check_grid(labels, encoding, "labels")

    def _segment(self, number: int, encoding: Encoding) -> hd.seg.SegmentDescription:
        segment = self.segments[number - 1]
        tracking_id, tracking_uid = self.tracking(number, encoding)
        description = hd.seg.SegmentDescription(
            number,
            segment.label,
            segment.category,
            segment.type,
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            _algorithm(encoding),
            tracking_uid=tracking_uid,
            tracking_id=tracking_id,
            anatomic_regions=None if segment.anatomic_region is None else [segment.anatomic_region],
            display_color=hd.color.CIELabColor.from_rgb(*segment.colour),
        )
        if segment.anatomic_region is not None and segment.laterality is not None:
            modifier = hd.sr.CodedConcept.from_code(segment.laterality)
            description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [modifier]
        return description


def segment_voxels(made: Dataset) -> Counter[int]:
    """Voxels of each segment, counted in the bits of a native BINARY SEG (PS3.5 8.1.1: no padding between frames)."""
    pixels = made.Rows * made.Columns
    packed = np.frombuffer(made.PixelData, np.uint8)
    if pixels % 8 == 0:
        frames = np.bitwise_count(packed[: pixels // 8 * made.NumberOfFrames]).reshape(made.NumberOfFrames, -1)
    else:
        frames = np.unpackbits(packed, count=pixels * made.NumberOfFrames, bitorder="little").reshape(-1, pixels)
    voxels: Counter[int] = Counter()
    for number, count in zip(frame_segments(made), frames.sum(axis=1, dtype=np.int64), strict=True):
        voxels[number] += int(count)
    return voxels


def voxel_mm3(made: Dataset) -> float:
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return math.prod(map(float, measures.PixelSpacing)) * float(measures.get("SpacingBetweenSlices") or measures.SliceThickness)


def frame_segments(made: Dataset) -> list[int]:
    """The segment number of each frame; a single segment stands among the shared functional groups."""
    shared = made.SharedFunctionalGroupsSequence[0]
    frames = made.PerFrameFunctionalGroupsSequence
    groups = [shared] * len(frames) if "SegmentIdentificationSequence" in shared else frames
    return [int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for group in groups]


def _lay_flat(made: Dataset, image: Dataset) -> None:
    """Without a frame of reference a plane says nothing of the patient; viewers show nothing that has none (OHIF)."""
    made.PatientOrientation = image.get("PatientOrientation") or ""
    plane, measures = Dataset(), Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    if (here := place(image)).is_told:
        measures.PixelSpacing = [format_number_as_ds(one) for one in here.spacing]
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]


def _algorithm(encoding: Encoding) -> hd.AlgorithmIdentificationSequence:
    algorithm = encoding.algorithm
    return hd.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version,
        source=algorithm.manufacturer,
        parameters={"model": algorithm.model, "model version": algorithm.model_version},
    )
