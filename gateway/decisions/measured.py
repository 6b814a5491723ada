"""What a report says (TID 1500, PS3.16), as a table: a column a measurement group, a row for each thing measured or found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes

_UNITS = {"[hnsf'U]": "HU", "mL": "ml"}


@dataclass(frozen=True)
class Measured:
    """`rows` are by the name of what was measured or sought, each with a value for every group, "" where there is none."""

    groups: Sequence[str]
    rows: Mapping[str, Sequence[str]]


def measured(report: Dataset) -> Measured:
    """Of the groups of TID 1410, TID 1411 and TID 1501."""
    content: Any = hd.sr.Comprehensive3DSR.from_dataset(report).content
    groups = [
        *content.get_planar_roi_measurement_groups(),
        *content.get_volumetric_roi_measurement_groups(),
        *content.get_image_measurement_groups(),
    ]
    rows: dict[str, list[str]] = {}
    for place, group in enumerate(groups):
        evaluations = [one for one in group.get_qualitative_evaluations() if one.name != codes.DCM.AlgorithmFamily]
        for found in evaluations:
            rows.setdefault(found.name.meaning, [""] * len(groups))[place] = found.value.meaning
        for measurement in group.get_measurements():
            items = measurement[0].get("ContentSequence", ())
            how = [item.ConceptCodeSequence[0].CodeMeaning for item in items if _is_derivation(item)]
            unit = _UNITS.get(measurement.unit.value, measurement.unit.value)
            values = rows.setdefault(", ".join([measurement.name.meaning, *how]), [""] * len(groups))
            values[place] = f"{measurement.value:,.1f} {unit}"
    return Measured([str(group.tracking_identifier) for group in groups], rows)


def _is_derivation(item: Dataset) -> bool:
    return bool(item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.Derivation.value)
