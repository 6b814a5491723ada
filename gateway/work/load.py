"""Load: the files of a job as what its pipeline works on. Digests and headers first, then one frame of pixels at a time."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from gateway.decisions.choose import choose
from gateway.decisions.facts import made_by
from gateway.dicom.enhanced import frame_number
from gateway.dicom.frames import Frame, frames
from gateway.dicom.header import clean_series
from gateway.dicom.pixels import LAYOUT, layout, pixels
from gateway.dicom.values import each, texts
from gateway.errors import Unsuitable
from gateway.imaging.volume import Stack, stacked, volume
from gateway.outputs import Equipment
from gateway.pipeline import Companion, Needs, Prior, Priors, Study
from gateway.store import Store

_DEFERRED_BYTES = 64 * 1024

_OF_PATIENT = ("IssuerOfPatientID", "PatientBirthDate")

Inputs = Sequence[tuple[str, str]]
"""SOP Instance UIDs, and the SHA-256 (hex) of their files."""


@dataclass(frozen=True)
class Earlier:
    """A series that a job gets as a prior, and from where."""

    series_instance_uid: str
    peer: str
    days_before: int
    inputs: Inputs


def load(inputs: Inputs, needs: Needs, store: Store) -> tuple[Study, list[str]]:
    """The volume that the pipeline needs, and notes on what was left out or coerced. Raises Unsuitable.

    Every file's digest is checked and its header parsed once; pixels are loaded when their slice is filled, those of enhanced
    objects frame by frame.
    """
    with ThreadPoolExecutor(2) as pool:  # beside each other, but not beside the reading: they would wait for the interpreter
        paths = list(pool.map(store.check, dict(inputs).values()))
    headers = [dcmread(path, defer_size=_DEFERRED_BYTES) for path in paths]
    if any(header.get("Modality") not in needs.modalities for header in headers):
        raise Unsuitable("IMAGE", f"expected modality {' or '.join(needs.modalities)}")
    files = {uid: store.path(sha256) for uid, sha256 in inputs}
    chosen = choose(headers, needs.volume, lambda header: _encoded(header, files))
    stack = stacked(chosen.headers)
    _check_needs(stack, needs)
    filled = volume(stack, _stored(stack.headers, files), whole_numbers=needs.whole_numbers)
    source, notes = clean_series(stack.headers)
    return Study(filled, source), [*chosen.notes, *stack.notes, *notes]


def beside(study: Study, earlier: Sequence[Earlier], needs: Needs, store: Store, equipment: Equipment) -> tuple[Study, list[str]]:
    """The study with the volumes of its priors.

    One that is not of its patient, or not what the pipeline needs, is left out, and one that this gateway (`equipment`), or
    another one of its make, derived.
    """
    wants, found, notes = needs.priors or Priors(), [], []
    mine = replace(needs, modality=wants.modality or needs.modality)
    for one in earlier:
        try:
            prior, own = load(one.inputs, mine, store)
            _check_patient(prior.source[0], study.source[0])
            if made_by(prior.source[0], equipment):
                raise Unsuitable("DERIVED", "expected images that no gateway made")
        except Unsuitable as error:
            notes.append(f"prior {one.series_instance_uid} left out: {error}")
            continue
        found.append(Prior(prior.volume, prior.source, one.days_before))
        notes += [f"prior {one.series_instance_uid}, {one.days_before} days before, from {one.peer}", *own]
    return replace(study, priors=tuple(found)), notes


def accompanied(study: Study, given: Mapping[str, Inputs], needs: Needs, store: Store) -> tuple[Study, list[str]]:
    """The study with the volumes of its companions; one that is not required, and not what its role needs, is left out."""
    found, notes = {}, list[str]()
    for role in needs.companions:
        try:
            if role.name in given:
                other, own = load(given[role.name], needs.of(role), store)
                _check_beside(other.source[0], study.source[0])
                found[role.name] = Companion(other.volume, other.source)
                notes += [f"companion {role.name}: {note}" for note in own]
            elif role.required:
                raise Unsuitable("COMPANION", "the pipeline has come to need it since the job was made: order it again")
        except Unsuitable as error:
            if role.required:
                raise Unsuitable(error.code, f"companion {role.name}: {error}") from error
            notes.append(f"companion {role.name} left out: {error}")
    return replace(study, companions=found), notes


def _check_beside(companion: Dataset, header: Dataset) -> None:
    if companion.StudyInstanceUID != header.StudyInstanceUID or any(
        one != other for one, other in _of_patient(companion, header)
    ):
        raise Unsuitable("IDENTITY", "expected a series of the same study and patient (Patient ID, issuer, birth date)")
    frames = [texts(one, "FrameOfReferenceUID") for one in (companion, header)]
    if not frames[0] or frames[0] != frames[1]:
        raise Unsuitable("GEOMETRY", "expected a series in the frame of reference of the other one")


def _check_patient(prior: Dataset, header: Dataset) -> None:
    """What both say of the patient is the same, and both say an ID."""
    said = _of_patient(prior, header)
    if not all("".join(texts(one, "PatientID")) for one in (prior, header)) or any(one != other for one, other in said):
        raise Unsuitable("IDENTITY", "expected a prior of the same patient (Patient ID, issuer, birth date)")


def _of_patient(one: Dataset, other: Dataset) -> list[tuple[object, object]]:
    """What both say of whose they are."""
    told = [(texts(one, keyword), texts(other, keyword)) for keyword in ("PatientID", *_OF_PATIENT)]
    return [pair for pair in told if all("".join(value) for value in pair)]


def _encoded(header: Dataset, files: Mapping[str, Path]) -> bytes:
    number = frame_number(header)
    if number is None:
        return bytes(header.get("PixelData") or b"")
    return next(frames(files[header.SOPInstanceUID], [number])).content


def _stored(headers: Sequence[Dataset], files: Mapping[str, Path]) -> Iterator[np.ndarray]:
    """The stored values of each slice; its header goes on without them."""
    layouts = iter(each(headers, LAYOUT, layout))
    for uid, of_instance in groupby(headers, lambda header: str(header.SOPInstanceUID)):
        slices = list(of_instance)
        numbers = [number for one in slices if (number := frame_number(one)) is not None]
        if numbers:
            for header, frame in zip(slices, frames(files[uid], numbers), strict=True):
                yield pixels(_alone(header, frame), next(layouts))
        else:
            for header in slices:
                yield pixels(header, next(layouts))
                del header.PixelData


def _alone(header: Dataset, frame: Frame) -> Dataset:
    """A data set of one frame, which decodes like any other."""
    alone = Dataset()
    alone.update(header)
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = UID(frame.transfer_syntax_uid)
    is_encapsulated = alone.file_meta.TransferSyntaxUID.is_encapsulated
    alone.PixelData = encapsulate([frame.content]) if is_encapsulated else frame.content
    alone["PixelData"].VR = "OB" if is_encapsulated else "OW"
    return alone


def _check_needs(stack: Stack, needs: Needs) -> None:
    if len(stack.headers) < needs.slices_at_least:
        raise Unsuitable("INCOMPLETE", f"expected at least {needs.slices_at_least} slices, there are {len(stack.headers)}")
    if stack.spacing_mm > needs.spacing_at_most_mm:
        raise Unsuitable(
            "GEOMETRY", f"expected slices at most {needs.spacing_at_most_mm:g} mm apart, they are {stack.spacing_mm:g}"
        )
