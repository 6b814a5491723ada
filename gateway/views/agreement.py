"""Agreement: how alike the results of a canary and of the pipeline beside it are, of the same series: in numbers, with their n.

Segments are compared by their label (Dice), measurements by what they measure and of what. Whether a number is good enough is for
a person to say.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from pydicom import Dataset, dcmread
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from gateway.db import Database
from gateway.errors import Damaged
from gateway.rows.ruleset import Shadow
from gateway.rows.tables import Job, JobState, OutputInstance
from gateway.store import Store

_AT_MOST, _TOGETHER = 200, 100
_GROUP = "112039"  # Tracking Identifier (PS3.16 TID 1501)

Masks = Mapping[tuple[float, ...], np.ndarray]
Measured = tuple[str, str, str]
"""Of what, what, and in which unit."""


@dataclass(frozen=True)
class Pair:
    """The two jobs of a series. A value is (of the pipeline, of its canary); Dice is None where both have nothing there."""

    series_instance_uid: str
    jobs: tuple[int, int]
    dice: Mapping[str, float | None]
    measurements: Mapping[Measured, tuple[float, float]]
    only_one: Sequence[str] = ()
    """Segments and measurements that only one of the two has."""


@dataclass(frozen=True)
class Summary:
    """Over `n` pairs: the middle one and the worst one."""

    n: int
    median: float
    worst: float


@dataclass(frozen=True)
class Agreement:
    rule: str
    pairs: Sequence[Pair]
    unreadable: int
    """Pairs whose files are gone or damaged."""
    dice: Mapping[str, Summary] = field(default_factory=dict)
    differences: Mapping[Measured, Summary] = field(default_factory=dict)
    """Relative to the pipeline's own value, without sign."""


def agreement(db: Database, store: Store, rule: str, *, at_most: int = _AT_MOST) -> Agreement:
    """The latest pairs of a rule's canary, of each series the one of its last revision."""
    pairs, unreadable = [], 0
    with db() as session:
        for ours, canary in islice(_jobs(session, rule), at_most):
            try:
                pairs.append(_pair(session, store, ours, canary))
            except (Damaged, OSError, ValueError, AttributeError):
                unreadable += 1
    return Agreement(rule, pairs, unreadable, _dice_of(pairs), _differences_of(pairs))


def dice(one: Masks, other: Masks) -> float | None:
    """2 |A and B| / (|A| + |B|) over all planes; None where both are empty."""
    total = sum(int(mask.sum()) for masks in (one, other) for mask in masks.values())
    shared = sum(int((mask & other[place]).sum()) for place, mask in one.items() if place in other)
    return 2 * shared / total if total else None


def masks(segmentation: Dataset) -> dict[str, dict[tuple[float, ...], np.ndarray]]:
    """Of each segment, by its label: planes by their position (mm, LPS). PS3.3 A.51, BINARY and LABELMAP."""
    labels = {int(one.SegmentNumber): str(one.SegmentLabel) for one in segmentation.SegmentSequence}
    frames = np.atleast_3d(segmentation.pixel_array).reshape(-1, segmentation.Rows, segmentation.Columns)
    found: dict[str, dict[tuple[float, ...], np.ndarray]] = {label: {} for label in labels.values()}
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        place = tuple(round(float(value), 2) for value in _group(segmentation, groups, "PlanePosition").ImagePositionPatient)
        if segmentation.SegmentationType == "LABELMAP":
            for number, label in labels.items():
                found[label][place] = frame == number
        else:
            number = int(_group(segmentation, groups, "SegmentIdentification").ReferencedSegmentNumber)
            found[labels[number]][place] = frame > 0
    return found


def _group(segmentation: Dataset, groups: Dataset, macro: str) -> Dataset:
    """A functional group of a frame, or the one that all frames share (PS3.3 C.7.6.16)."""
    keyword = f"{macro}Sequence"
    found: Dataset = (groups.get(keyword) or segmentation.SharedFunctionalGroupsSequence[0][keyword].value)[0]
    return found


def measurements(report: Dataset) -> dict[Measured, float]:
    """Every number of a report (PS3.16 TID 1500), by the tracking identifier of its group."""
    return dict(_numbers(report, ""))


def _numbers(item: Dataset, group: str) -> Iterable[tuple[Measured, float]]:
    content = list(item.get("ContentSequence", ()))
    for one in content:
        if one.ValueType == "TEXT" and one.ConceptNameCodeSequence[0].CodeValue == _GROUP:
            group = str(one.TextValue)
    for one in content:
        if one.ValueType == "NUM" and one.get("MeasuredValueSequence"):
            measured = one.MeasuredValueSequence[0]
            unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
            yield (group, str(one.ConceptNameCodeSequence[0].CodeMeaning), unit), float(measured.NumericValue)
        yield from _numbers(one, group)


def _jobs(session: Session, rule: str) -> Iterator[tuple[Job, Job]]:
    """The last first; no more are read than somebody looks at."""
    ours = aliased(Job)
    beside = (ours.series_instance_uid == Job.series_instance_uid) & (ours.revision == Job.revision)
    query = (
        select(ours, Job)
        .join(Shadow, Shadow.job == Job.id)
        .join(ours, beside & (ours.pipeline == Shadow.beside))
        .where(Shadow.beside != "", Job.state == JobState.DONE, ours.state == JobState.DONE)
        .order_by(Job.id.desc())
        .execution_options(yield_per=_TOGETHER)
    )
    seen = set[str]()
    for one, canary in session.execute(query):
        if rule in canary.rules and canary.series_instance_uid not in seen:
            seen.add(canary.series_instance_uid)
            yield one, canary


def _pair(session: Session, store: Store, ours: Job, canary: Job) -> Pair:
    (segments, numbers), (others, other_numbers) = (_results(session, store, job) for job in (ours, canary))
    shared = {label: dice(segments[label], others[label]) for label in segments if label in others}
    both = {one: (value, other_numbers[one]) for one, value in numbers.items() if one in other_numbers}
    alone = [*sorted(segments.keys() ^ others.keys()), *(", ".join(one) for one in sorted(numbers.keys() ^ other_numbers.keys()))]
    return Pair(ours.series_instance_uid, (ours.id, canary.id), shared, both, alone)


def _results(
    session: Session, store: Store, job: Job
) -> tuple[dict[str, dict[tuple[float, ...], np.ndarray]], dict[Measured, float]]:
    found: dict[str, dict[tuple[float, ...], np.ndarray]] = {}
    numbers: dict[Measured, float] = {}
    for output in session.scalars(select(OutputInstance).where(OutputInstance.job == job.id, OutputInstance.retracts == "")):
        dataset = dcmread(store.check(output.sha256))
        if output.modality == "SEG":
            found |= masks(dataset)
        elif output.modality == "SR":
            numbers |= measurements(dataset)
    return found, numbers


def _dice_of(pairs: Sequence[Pair]) -> dict[str, Summary]:
    values: dict[str, list[float]] = {}
    for pair in pairs:
        for label, value in pair.dice.items():
            if value is not None:
                values.setdefault(label, []).append(value)
    return {label: Summary(len(found), statistics.median(found), min(found)) for label, found in values.items()}


def _differences_of(pairs: Sequence[Pair]) -> dict[Measured, Summary]:
    values: dict[Measured, list[float]] = {}
    for pair in pairs:
        for one, (ours, other) in pair.measurements.items():
            if ours:
                values.setdefault(one, []).append(abs(other - ours) / abs(ours))
    return {one: Summary(len(found), statistics.median(found), max(found)) for one, found in values.items()}
