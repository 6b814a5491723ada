"""What a pipeline may yield. One file per DICOM object; each output knows how to encode itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pydicom import Dataset

from gateway.dicom.uids import derived_uid
from gateway.errors import BadOutput

PRIVATE_SCHEME = "99CAIGW"
"""Of concepts that no public scheme has."""
NOT_FOR_DIAGNOSIS, INCOMPLETE, OTHER_COMPANIONS = "Not for diagnosis", "INCOMPLETE SERIES", "OTHER COMPANIONS"


@dataclass(frozen=True)
class Algorithm:
    """What made a result, from one row: Algorithm Identification, Device Observer and Contributing Equipment agree (IHE AIR).

    `manufacturer` is Algorithm Source, `name` is Manufacturer's Model Name, `version` is Software Versions. `model` and
    `model_version` name the Triton model, `weights` is the SHA-256 (hex) of its files.
    """

    name: str
    version: str
    manufacturer: str
    model: str
    model_version: str
    weights: str

    @property
    def device_uid(self) -> str:
        """A new Device UID (0018,1002) for every version, model version and retrained model."""
        return derived_uid("device", self.name, self.version, self.model, self.model_version, self.weights)


@dataclass(frozen=True)
class Equipment:
    """The gateway itself: General Equipment and a Contributing Equipment item (PS3.3 C.7.5.1)."""

    manufacturer: str
    model_name: str
    version: str
    serial_number: str


class Output(Protocol):
    """One DICOM instance to be."""

    def encode(self, encoding: "Encoding") -> Dataset:
        """A complete instance with file meta, conformant to its IOD; raise BadOutput where that is impossible."""
        ...


@dataclass(frozen=True)
class Encoding:
    """What all objects of one job share.

    `source` are the headers of what the model saw, in slice order, cleaned (header.py), without pixels: of instances, or of
    the frames of enhanced ones (enhanced.py).
    `outputs` is everything that the job yields, so that one object can refer to another. `key` is the job key; the same
    key gives the same UIDs. `started_at` is the start of inference, aware. `partial` is what the series lacks that the model
    saw; every object says that it does. `replaces` name (study, series, SOP class, SOP instance) the results of an earlier
    `revision` of the series that peers may have: every object says that it is a later one, and reports name theirs
    (PS3.3 C.17.2, Predecessor Documents). `revision` 0: of the same one, with other companions. `companions` are the headers of
    those, of which the results are too.
    """

    source: Sequence[Dataset] = field(repr=False)
    outputs: Sequence[Output]
    algorithm: Algorithm
    equipment: Equipment
    key: str
    started_at: datetime
    partial: str = ""
    revision: int = 1
    replaces: Sequence[Dataset] = ()
    companions: Sequence[Dataset] = field(default=(), repr=False)
    _made: dict[int, Dataset] = field(default_factory=dict, repr=False)

    def uid(self, output: Output, role: str) -> str:
        """`role` is "instance", "series", "dimension organization", ... or a segment's tracking name.

        Outputs of one series are those with the same `first` (capture.py).
        """
        named = (getattr(output, "first", None) or output) if role == "series" else output
        return derived_uid(self.key, self.ordinal(named), type(output).__name__, role)

    def ordinal(self, output: Output) -> int:
        return next(n for n, other in enumerate(self.outputs) if other is output)

    def dataset(self, output: Output) -> Dataset:
        """The instance made from `output`: made now, or earlier because another object refers to it."""
        made = self._made.get(id(output))
        if made is None:
            made = self._made[id(output)] = output.encode(self)
            marks = [INCOMPLETE] * bool(self.partial) + [
                f"REVISION {self.revision}" if self.revision else OTHER_COMPANIONS
            ] * bool(self.replaces)
            made.SeriesDescription = " - ".join([*marks, made.SeriesDescription])[:64].rstrip()
        return made


def check_codes(where: str, *found: object) -> None:
    """Raise BadOutput where one is no code: an author hears of it where it is written, and not from what encodes it."""
    if not all(hasattr(one, "scheme_designator") for one in found):
        raise BadOutput(f"{where}: expected codes, such as codes.SCT.Lung or Code(value, scheme, meaning)")
