"""Extras: what the configuration has each job make beside what its pipeline yields, for peers that cannot use that."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.dicom.radiograph import is_radiograph
from gateway.outputs import Output
from gateway.outputs.structures import structure_sets
from gateway.pipeline import Study
from gateway.work.captures import captures


@dataclass(frozen=True)
class Extras:
    """As in [delivery]: pictures for viewers, structure sets for the planning of radiotherapy."""

    pictures: bool = False
    structures: bool = False

    def of(self, study: Study, outputs: Sequence[Output], algorithm: str, *, lacking: str) -> tuple[Output, ...]:
        """`lacking` is what the series lacks. A radiograph has no structure set, for it has no place in the patient."""
        sets = structure_sets(outputs) if self.structures and not is_radiograph(study.source[0]) else ()
        return *sets, *(captures(study, outputs, algorithm, lacking=lacking) if self.pictures else ())
