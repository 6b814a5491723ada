"""Captures: what a job found, drawn as a radiologist looks at it, for viewers that show neither segmentations nor reports.

Planes with the segments outlined, and a page with what was measured. What is written on them names no patient.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset

from gateway.dicom.values import numbers, texts, whole
from gateway.imaging.picture import drawn
from gateway.outputs import INCOMPLETE, NOT_FOR_DIAGNOSIS, Output
from gateway.outputs.capture import Capture
from gateway.outputs.seg import Segmentation
from gateway.outputs.sr import Group, MeasurementReport
from gateway.pipeline import Study

_PLANES = 12
"""Of a segmentation, at most, evenly from the first to the last on which something is."""
_LEAST, _MOST = 512, 1024
_TEXT, _LINE, _MARGIN = 16, 22, 8
_GREY, _BLACK = (220, 220, 220), (0, 0, 0)
_BACKDROP = (0.5, 99.5)

Colour = tuple[int, int, int]
Line = Sequence[tuple[str, Colour]]
"""Words in their colours."""


def captures(study: Study, outputs: Sequence[Output], algorithm: str, *, lacking: str = "") -> tuple[Capture, ...]:
    """Of all segmentations and reports among `outputs`, in one series; `lacking` is what the series lacks."""
    warning = f"{NOT_FOR_DIAGNOSIS}. AI: {algorithm}" + (f". {INCOMPLETE}" if lacking else "")
    made: list[Capture] = []
    for picture, of in _pictures(study, outputs, warning):
        orientation = None if of is None else _orientation(study)
        made.append(Capture(picture, f"Pictures of {algorithm}", len(made) + 1, made[0] if made else None, of, orientation))
    return tuple(made)


def _pictures(study: Study, outputs: Sequence[Output], warning: str) -> Iterator[tuple[np.ndarray, int | None]]:
    for report in (one for one in outputs if isinstance(one, MeasurementReport)):
        yield _page([[(warning, _GREY)], [], [(report.description, _GREY)], [], *_told(report)]), None
    for segmentation in (one for one in outputs if isinstance(one, Segmentation)):
        labels, colours = segmentation.labels.array, [one.colour for one in segmentation.segments]
        legend = [(segment.label, segment.colour) for segment in segmentation.segments]
        if labels.shape != study.volume.array.shape or not labels.any():
            continue  # what is wrong with it is told when it is encoded
        there = np.flatnonzero(labels.any(axis=(1, 2)))
        for place in dict.fromkeys(there[np.linspace(0, len(there) - 1, _PLANES).round().astype(int)].tolist()):
            plane, spacing = study.volume.array[place], study.volume.spacing
            shown = drawn(plane, labels[place], _size(plane.shape, spacing[1:]), colours, _window(study.source[place], plane))
            number = whole(study.source[place], "InstanceNumber")  # as viewers name it
            where = [(f"Image {number}", _GREY)] if number > 0 else []
            yield _under(shown, [[(warning, _GREY)], [*where, *legend]]), place


def _told(report: MeasurementReport) -> Iterator[Line]:
    for group in report.groups:
        yield [(group.label, _GREY)]
        yield from ([(f"    {one}", _GREY)] for one in _measured(report, group))


def _measured(report: MeasurementReport, group: Group) -> Iterator[str]:
    if (evaluation := report.evaluation(group)) is not None:
        yield f"{group.finding.meaning}: {evaluation.meaning}"
    for one in group.measurements:
        how = f" ({one.derivation.meaning})" if one.derivation is not None else ""
        yield f"{one.name.meaning}{how}: {one.value:,.6g} {one.unit.meaning}"


def _page(lines: Sequence[Line]) -> np.ndarray:
    wrapped = [line for one in lines for line in _wrapped(one, _LEAST)]
    sheet = Image.new("RGB", (_LEAST, max(_LEAST, len(wrapped) * _LINE + 2 * _MARGIN)), _BLACK)
    _write(sheet, wrapped, _MARGIN)
    return np.asarray(sheet)


def _under(shown: Image.Image, lines: Sequence[Line]) -> np.ndarray:
    wrapped = [line for one in lines for line in _wrapped(one, max(shown.width, _LEAST))]
    sheet = Image.new("RGB", (max(shown.width, _LEAST), shown.height + len(wrapped) * _LINE + 2 * _MARGIN), _BLACK)
    sheet.paste(shown, ((sheet.width - shown.width) // 2, 0))
    _write(sheet, wrapped, shown.height + _MARGIN)
    return np.asarray(sheet)


def _wrapped(line: Line, width: int) -> Iterator[Line]:
    """As many lines as it takes, in words; a line that is empty stays one."""
    font, row, room = ImageFont.load_default(_TEXT), list[tuple[str, Colour]](), float(width - 2 * _MARGIN)
    for word, colour in [(f"{word} ", colour) for words, colour in line for word in f"{words}  ".split(" ")]:
        if row and font.getlength(word.rstrip()) > room:
            yield row
            row, room = [], float(width - 2 * _MARGIN)
        row.append((word, colour))
        room -= font.getlength(word)
    yield row


def _write(sheet: Image.Image, lines: Sequence[Line], top: int) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    for number, line in enumerate(lines):
        left = float(_MARGIN)
        for words, colour in line:
            pen.text((left, top + number * _LINE), words, fill=colour, font=font)
            left += font.getlength(words)


def _size(shape: tuple[int, ...], spacing: Sequence[float]) -> tuple[int, int]:
    """Width and height with square pixels, none of the source's left out if it can be."""
    height, width = shape[0] * spacing[0], shape[1] * spacing[1]
    longest = min(max(*shape, _LEAST), _MOST)
    scale = longest / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _window(header: Dataset, plane: np.ndarray) -> tuple[float, float]:
    """What the image says of itself first; else nearly all of its values, as where those were turned round (volume.stacked)."""
    centre, width = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    if texts(header, "PhotometricInterpretation") == ("MONOCHROME2",) and centre and width and width[0] >= 1:
        return centre[0] - width[0] / 2, centre[0] + width[0] / 2
    low, high = np.percentile(plane, _BACKDROP)
    return float(low), float(high)


def _orientation(study: Study) -> tuple[str, str]:
    _, rows, columns = study.volume.get_closest_patient_orientation()
    return str(columns.value), str(rows.value)
