"""Regrid: a volume on the grid of another one in the same frame of reference, so that voxels of both lie on each other."""

import highdicom as hd
import numpy as np


def regrid(volume: hd.Volume, onto: hd.Volume, *, outside: float = 0) -> hd.Volume:
    """(slices, rows, columns) float32 on the grid of `onto`, trilinear between voxels (mm in LPS); `outside` where there is none.

    A voxel reaches half its size around its centre. Nothing is smoothed first: onto a much coarser grid it takes samples. Raises
    ValueError where the frames of reference differ.
    """
    if volume.frame_of_reference_uid != onto.frame_of_reference_uid:
        raise ValueError("expected volumes in one frame of reference")
    values = np.asarray(volume.array, np.float32)
    to_source = volume.inverse_affine @ onto.affine  # from an index of the one to an index of the other
    slices, rows, columns = onto.spatial_shape
    inplane = to_source[:3, 1, None, None] * np.arange(rows)[:, None] + to_source[:3, 2, None, None] * np.arange(columns)
    found = np.empty((slices, rows, columns), np.float32)
    for number in range(slices):  # one at a time: coordinates of all would take many times the memory of the volume
        found[number] = _sampled(values, inplane + (to_source[:3, 0] * number + to_source[:3, 3])[:, None, None], outside)
    return onto.with_array(found)


def _sampled(values: np.ndarray, at: np.ndarray, outside: float) -> np.ndarray:
    """`at` are indices, (3, rows, columns)."""
    last = np.array(values.shape)[:, None, None] - 1
    is_inside = ((at >= -0.5) & (at <= last + 0.5)).all(axis=0)
    held = np.clip(at, 0, last)
    low = np.minimum(held.astype(np.intp), np.maximum(last - 1, 0))
    high, part = np.minimum(low + 1, last), (held - low).astype(np.float32)
    sampled = np.zeros(at.shape[1:], np.float32)
    for corner in np.ndindex(2, 2, 2):
        place = tuple(np.where(one, high[axis], low[axis]) for axis, one in enumerate(corner))
        weight = np.prod([part[axis] if one else 1 - part[axis] for axis, one in enumerate(corner)], axis=0)
        sampled += weight * values[place]
    return np.where(is_inside, sampled, np.float32(outside))
