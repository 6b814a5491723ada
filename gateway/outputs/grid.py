"""The grid of the source: what a pipeline hands back lies on the planes and pixels of the images that it was given."""

import highdicom as hd
import numpy as np
from pydicom import Dataset

from gateway.dicom.radiograph import place
from gateway.errors import BadOutput
from gateway.outputs import Encoding

_OFF_PIXELS = 0.1
"""How far the far edge of a plane may lie from that of its source, in pixels: half of one is a mistake often made."""


def check_grid(volume: hd.Volume, encoding: Encoding, what: str) -> None:
    """Raises BadOutput where `volume`, (slices, rows, columns), is not there; `what` it is of, for the reason."""
    source = encoding.source
    if volume.array.shape != (len(source), source[0].Rows, source[0].Columns):
        raise BadOutput(f"expected {what} of the shape (source instances, Rows, Columns)")
    origins = volume.affine[:3, 3] + np.arange(len(source))[:, None] * volume.affine[:3, 0]
    positions = np.array([place(instance).position for instance in source])
    if np.abs(origins - positions).max() > volume.spacing[0] / 2:
        raise BadOutput(f"expected {what} on the planes of the source instances, in their order")
    plane = volume.affine[:3, [3, 1, 2]] * (1, *volume.spatial_shape[1:])
    if np.abs(plane - _plane(source[0])).max() > _OFF_PIXELS * min(volume.spacing[1:]):
        raise BadOutput(f"expected {what} on the pixels of the source instances: rows, columns and spacing as there")


def _plane(source: Dataset) -> np.ndarray:
    """(3, 3) float64, mm in LPS: in columns the first pixel, the way down all rows, and the way along all columns.

    The plane of the first slice is that of all: later ones may be aside by as much as the geometry gate lets them.
    """
    position, orientation, (between_rows, between_columns), _ = place(source)
    along, down = np.array(orientation).reshape(2, 3)
    along = along / np.linalg.norm(along)
    down = down - (along @ down) * along  # as volume.py has it: at right angles, however few digits there are
    down = down / np.linalg.norm(down)
    return np.column_stack((position, down * between_rows * source.Rows, along * between_columns * source.Columns))
