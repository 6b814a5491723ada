"""Pictures of what came and of what was made of it: the planes of a series in their order, and the segments on each of them.

A picture is drawn when it is asked for, from one frame and nothing else; what the bytes under a UID show never changes.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from gateway.db import Database
from gateway.decisions.measured import Measured, measured
from gateway.dicom.values import numbers, whole
from gateway.errors import Unsuitable
from gateway.imaging import plane
from gateway.store import Store
from gateway.work.companions import inputs_of

MOST_PLANES = 4000
_AT_ONCE, _PATIENCE_SECONDS = 2, 15.0
_GEOMETRY = [
    "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "NumberOfFrames", "Rows", "Columns",
]  # fmt: skip

Input = tuple[str, str]
"""SOP Instance UID, and the store's key of its bytes."""


@dataclass(frozen=True)
class Plane:
    """One frame (from 0) of an instance; `position` is in mm along the normal of the series, None where it has none."""

    sop_instance_uid: str
    sha256: str
    frame: int
    position: float | None


@dataclass(frozen=True)
class Drawn:
    """What a segmentation draws: label and colour (sRGB) by segment, and which frames of it lie on a source's frame."""

    segments: dict[int, tuple[str, tuple[int, int, int]]]
    on: dict[tuple[str, int], list[tuple[int, int]]]

    def fullest(self, planes: Sequence[Plane]) -> int | None:
        """The place in `planes` of the middle one of those with the most segments."""
        counts = [len(self.on.get((one.sop_instance_uid, one.frame), ())) for one in planes]
        most = max(counts, default=0)
        best = [place for place, count in enumerate(counts) if count == most]
        return best[len(best) // 2] if most else None


class Pictures:
    """Few are drawn at a time: whoever slides fast waits, and what scanners send does not."""

    def __init__(self, store: Store) -> None:
        self._store, self._slots = store, threading.BoundedSemaphore(_AT_ONCE)
        self._arranged, self._indexed = lru_cache(32)(self._arrange), lru_cache(32)(self._index)

    def planes(self, inputs: Sequence[Input]) -> tuple[Plane, ...]:
        """From the head (or the first) on, like a stack that is looked through. Raises Unsuitable."""
        if len(inputs) > MOST_PLANES:
            raise Unsuitable("IMAGE", f"expected at most {MOST_PLANES} instances to look through; there are {len(inputs)}")
        return self._arranged(tuple(sorted(inputs)))

    def image(self, one: Plane, *, window: str = "") -> bytes:
        """PNG. Raises Unsuitable."""
        with self._slot():
            return plane.image(self._store.path(one.sha256), one.frame, window=window)

    def rendered(self, sha256: str, frame: int, look: plane.Look) -> bytes:
        """A frame (from 0) of the object with this key. Raises Unsuitable."""
        with self._slot():
            return plane.rendered(self._store.path(sha256), frame, look)

    def drawn(self, segmentation: str) -> Drawn:
        """Of the SEG with this key. Raises Unsuitable."""
        return self._indexed(segmentation)

    def overlay(self, segmentation: str, one: Plane) -> bytes:
        """PNG, transparent where nothing is. Raises Unsuitable."""
        found = self.drawn(segmentation)
        colours = {number: colour for number, (_, colour) in found.segments.items()}
        frames = found.on.get((one.sop_instance_uid, one.frame), ())
        with self._slot():
            return plane.overlay(self._store.path(segmentation), frames, colours)

    def measured(self, report: str) -> Measured:
        """Of the SR with this key. Raises Unsuitable."""
        try:
            return measured(dcmread(self._store.path(report)))
        except Exception as error:
            raise Unsuitable("IMAGE", f"expected a measurement report that can be read ({type(error).__name__})") from error

    def _arrange(self, inputs: tuple[Input, ...]) -> tuple[Plane, ...]:
        with self._slot():
            headers = [self._header(sha256, _GEOMETRY) for _, sha256 in inputs]
        found: list[tuple[tuple[Any, ...], Plane]] = []
        for (uid, sha256), header in zip(inputs, headers, strict=True):
            frames = max(1, whole(header, "NumberOfFrames"))
            if len(found) + frames > MOST_PLANES:
                raise Unsuitable("IMAGE", f"expected at most {MOST_PLANES} frames to look through")
            place = _position(header)
            found += [(_order(header, place, frame), Plane(uid, sha256, frame, place)) for frame in range(frames)]
        return tuple(one for _, one in sorted(found, key=lambda pair: pair[0]))

    def _index(self, segmentation: str) -> Drawn:
        with self._slot():
            header = self._header(segmentation)
        if "PerFrameFunctionalGroupsSequence" not in header:
            raise Unsuitable("IMAGE", "expected a segmentation with frames")
        return Drawn(plane.segments(header), plane.drawn_on(header))

    def _header(self, sha256: str, keywords: list[str] | None = None) -> Dataset:
        try:
            return dcmread(self._store.path(sha256), stop_before_pixels=True, specific_tags=keywords)
        except FileNotFoundError as error:
            raise Unsuitable("IMAGE", "its files are not there any more: retention took them") from error
        except Exception as error:
            raise Unsuitable("IMAGE", f"expected a header that can be read ({type(error).__name__})") from error

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(timeout=_PATIENCE_SECONDS):
            raise Unsuitable("IMAGE", "too many pictures are being drawn: try again in a moment")
        try:
            yield
        finally:
            self._slots.release()


def inputs_of_job(db: Database, job: int) -> list[Input]:
    """The exact instances of its series that it works on; they never change."""
    with db() as session:
        return inputs_of(session, job)[""]


def _position(header: Dataset) -> float | None:
    """Mm along the normal of the plane (PS3.3 C.7.6.2.1.1)."""
    position, orientation = numbers(header, "ImagePositionPatient"), numbers(header, "ImageOrientationPatient")
    if len(position) != 3 or len(orientation) != 6:
        return None
    return float(np.cross(orientation[:3], orientation[3:]) @ np.array(position))


def _order(header: Dataset, place: float | None, frame: int) -> tuple[Any, ...]:
    """Planes of one orientation together, the highest first; what has no position by its number."""
    orientation = tuple(round(one, 2) for one in numbers(header, "ImageOrientationPatient"))
    return (len(orientation), orientation, 0.0 if place is None else -place, whole(header, "InstanceNumber"), frame)
