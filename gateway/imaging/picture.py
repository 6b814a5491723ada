"""A picture of a result: slices of the volume with the segments outlined. Where people would rather look than read."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

WINDOW = (-1350.0, 150.0)
"""Hounsfield units shown from black to white: a lung window (centre -600, width 1500)."""
_HEIGHT = 512
_GAP = 6


def outlined(volume: np.ndarray, labels: np.ndarray, spacing: Sequence[float], colours: Sequence[tuple[int, int, int]]) -> bytes:
    """A PNG: three axial planes and a coronal one, side by side.

    `volume` is (slices, rows, columns) HU from feet to head, rows to posterior, columns to the patient's left; `labels` is
    uint8 of the same shape, where n has the colour `colours[n - 1]` (sRGB); `spacing` is mm along the three axes.
    """
    panels = [_panel(volume[z], labels[z], (spacing[1], spacing[2]), colours) for z in _axial_planes(labels)]
    y = _centre(labels, axis=1)
    panels.append(_panel(volume[::-1, y], labels[::-1, y], (spacing[0], spacing[2]), colours))
    sheet = Image.new("RGB", (sum(panel.width for panel in panels) + _GAP * (len(panels) - 1), _HEIGHT))
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + _GAP
    return encoded(sheet, "PNG", optimize=True)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _axial_planes(labels: np.ndarray) -> list[int]:
    """A quarter, a half and three quarters up what is labelled."""
    where = np.flatnonzero(labels.any(axis=(1, 2)))
    first, last = (int(where[0]), int(where[-1])) if where.size else (0, len(labels) - 1)
    return [first + (last - first) * part // 4 for part in (3, 2, 1)]


def _centre(labels: np.ndarray, *, axis: int) -> int:
    others = tuple(other for other in range(3) if other != axis)
    where = np.flatnonzero(labels.any(axis=others))
    return int(where[len(where) // 2]) if where.size else labels.shape[axis] // 2


def _panel(
    plane: np.ndarray, labels: np.ndarray, spacing: tuple[float, float], colours: Sequence[tuple[int, int, int]]
) -> Image.Image:
    width = round(_HEIGHT * (plane.shape[1] * spacing[1]) / (plane.shape[0] * spacing[0]))
    return drawn(plane, labels, (max(1, width), _HEIGHT), colours, WINDOW)


def drawn(
    plane: np.ndarray, labels: np.ndarray, size: tuple[int, int], colours: Sequence[tuple[int, int, int]],
    window: tuple[float, float],
) -> Image.Image:  # fmt: skip
    """One plane of `size` (width, height) with its labels outlined; `window` are the values that are black and white."""
    low, high = window
    grey = np.clip((plane - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    shown = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB"))
    scaled = np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    for number, colour in enumerate(colours, start=1):
        shown[outline(scaled == number)] = colour
    return Image.fromarray(shown)


def outline(mask: np.ndarray) -> np.ndarray:
    """The mask's own border, two pixels wide."""
    inner: np.ndarray = mask
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border: np.ndarray = mask & ~inner
    return border
