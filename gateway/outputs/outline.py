"""Outlines: where a mask ends, as closed polygons that give the mask again when they are filled by the centres of pixels."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
from contourpy import FillType, contour_generator


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Of `mask` (rows, columns) bool: for each connected part (points, 2) float64, (row, column) in pixels, not closed by itself.

    They run half-way between the pixels inside and those outside. A part with holes is one polygon: a cut, there and back,
    leads from what is around a hole to the hole.
    """
    padded = np.pad(mask, 1).astype(np.float64)
    made = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, 2)
    parts, offsets = cast("tuple[list[np.ndarray], list[np.ndarray]]", made)  # what this type of fill gives
    found = []
    for points, ends in zip(parts, offsets, strict=True):
        rings = [points[start : end - 1, ::-1] - 1 for start, end in pairwise(ends)]
        found.append(_straightened(rings[0] if len(rings) == 1 else _joined(rings)))
    return found


def _joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """The first, with the others, its holes, cut open along their rows.

    Every ring has a point wherever it crosses the middle of a row. To the left of the leftmost point of a hole that row is
    inside up to the next such point: of the outer ring, or of a hole that lies further to the left and is joined already.
    """
    points = [(float(row), float(column)) for ring in rings for row, column in ring]
    starts = np.cumsum([0, *map(len, rings)]).tolist()
    after = [at + 1 for at in range(len(points))]
    for start, end in pairwise(starts):
        after[end - 1] = start
    on_row: dict[float, list[int]] = {}
    for at, (row, _) in enumerate(points):
        if row.is_integer():
            on_row.setdefault(row, []).append(at)
    holes = [min(range(start, end), key=lambda at: points[at][1]) for start, end in pairwise(starts[1:])]
    before = {following: at for at, following in enumerate(after)}
    for hole in sorted(holes, key=lambda at: points[at][1]):
        row, column = points[hole]
        around = max((at for at in on_row[row] if points[at][1] < column), key=lambda at: points[at][1])
        again, back = len(points), len(points) + 1
        points += [points[hole], points[around]]
        after += [back, after[around]]
        after[before[hole]], after[around] = again, hole
    order = [0]
    while (following := after[order[-1]]) != 0:
        order.append(following)
    return np.array([points[at] for at in order])


def _straightened(polygon: np.ndarray) -> np.ndarray:
    """Without the points on straight lines; those at which it turns back stay."""
    came, goes = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
    turns: np.ndarray = came[:, 0] * goes[:, 1] - came[:, 1] * goes[:, 0]
    kept: np.ndarray = polygon[(turns != 0) | ((came * goes).sum(axis=1) < 0)]
    return kept
