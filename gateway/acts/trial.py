"""Trial: what rules say of files that somebody has at hand, condition by condition, and a rule that would take them."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset, dcmread

from gateway.decisions import facts
from gateway.decisions.rules import Outcome, RuleSet, match
from gateway.dicom.filemeta import MAXIMUM_META_BYTES, read_meta
from gateway.dicom.values import texts
from gateway.ingest.dimse import TRANSFER_SYNTAXES
from gateway.outputs import Equipment
from gateway.pipeline import Needs

_ASKED = ("Modality", "BodyPartExamined", "ImageType", "SliceThickness")


@dataclass(frozen=True)
class Sample:
    """The headers of one series, as far as they are at hand; no word of the patient in it."""

    series_instance_uid: str
    modality: str
    headers: Sequence[Dataset]


@dataclass(frozen=True)
class Tried:
    """What rules say of a sample. `suggestion` is a rules.yaml that would take it."""

    sample: Sample
    outcomes: tuple[Outcome, ...]
    suggestion: str

    def as_json(self) -> dict[str, Any]:
        return {
            "series": self.sample.series_instance_uid,
            "modality": self.sample.modality,
            "instances": len(self.sample.headers),
            "rules": [outcome.as_json() for outcome in self.outcomes],
        }


def samples(sources: Iterable[Path | BinaryIO]) -> tuple[list[Sample], int]:
    """The series among files, the first one first, and how many files no door would take: no DICOM, or deflated."""
    found: dict[str, list[Dataset]] = {}
    others = 0
    for source in sources:
        header = _header(source)
        uid = "".join(texts(header, "SeriesInstanceUID")) if header is not None else ""
        if header is None or not uid:
            others += 1
        else:
            found.setdefault(uid, []).append(header)
    series = [Sample(uid, "".join(texts(headers[0], "Modality")[:1]), headers) for uid, headers in found.items()]
    return series, others


def files_of(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def tried(
    sample: Sample,
    rules: RuleSet,
    *,
    equipment: Equipment,
    pipelines: Mapping[str, Needs],
    peers: Iterable[str],
    calling_ae_title: str = "",
    called_ae_title: str = "",
    arrival: Mapping[str, object],
) -> Tried:
    """`pipelines` says of each what it takes. `arrival` (arrival.py) and AE titles are as if it came so."""
    titles = {"calling_ae_title": calling_ae_title, "called_ae_title": called_ae_title}
    known = facts.facts(sample.headers, equipment=equipment, ingest="dimse", **titles) | dict(arrival)
    attributes = facts.attributes(sample.headers, rules.keywords | set(_ASKED))
    taken = {rule.name for rule in rules.rules}
    return Tried(sample, match(rules, attributes, known), suggestion(attributes, known, pipelines, tuple(peers), taken))


def suggestion(
    attributes: Mapping[str, object],
    known: Mapping[str, object],
    pipelines: Mapping[str, Needs],
    peers: Sequence[str],
    taken: Collection[str] = (),
) -> str:
    """A rules.yaml of what the machine says of the series, nothing of the patient or of free text, by a name not in `taken`."""
    modality, part = attributes.get("Modality"), attributes.get("BodyPartExamined")
    rows = [_row("attribute", "Modality", "is", modality), _row("attribute", "BodyPartExamined", "is", part)]
    kinds = attributes.get("ImageType")
    if isinstance(kinds, list | tuple) and len(kinds) > 2:
        rows.append(_row("attribute", "ImageType", "is", kinds[2]))
    rows.append(_row("attribute", "SliceThickness", "at_most", attributes.get("SliceThickness")))
    rows.append(_row("fact", "orientation", "is", known.get("orientation")))
    found = known.get("slices")
    slices = found if isinstance(found, int) else 0
    takers = [pipeline for pipeline, needs in pipelines.items() if modality in needs.modalities]
    enough = [pipeline for pipeline in takers if pipelines[pipeline].slices_at_least <= slices]
    if slices > 1:
        fewest = pipelines[enough[0]].slices_at_least if enough else 2
        rows.append(_row("fact", "slices", "at_least", max(2, slices // 2, fewest)))
    name = " ".join(str(word) for word in (modality, part) if isinstance(word, str)) or "a new rule"
    name = next(one for one in (name, *(f"{name} {number}" for number in range(2, len(taken) + 3))) if one not in taken)
    fitting = next(iter(enough or takers), "PIPELINE")
    lines = ["rules:", f"  - name: {json.dumps(name)}", "    when:", "      all:", *(f"        - {row}" for row in rows if row)]
    note = "" if takers else f"  # none of yours takes {modality or 'what says no modality'}"
    if takers and (roles := [role.name for role in pipelines[fitting].companions]):
        note = f"  # and companions: what {', '.join(roles)} are known by"
    return "\n".join([*lines, f"    pipeline: {fitting}{note}", f"    send_to: [{peers[0] if peers else 'PEER'}]", ""])


def _row(about: str, name: str, operator: str, value: object) -> str:
    """Nothing where it varies or is missing."""
    if not isinstance(value, str | int | float) or value == "":
        return ""
    return f"{{{about}: {name}, {operator}: {json.dumps(value, ensure_ascii=False)}}}"


def _header(source: Path | BinaryIO) -> Dataset | None:
    """The file meta first: a few bytes of deflate can fill the memory."""
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            meta = read_meta(file.read(MAXIMUM_META_BYTES + 2))
            if meta is None or meta.transfer_syntax_uid not in TRANSFER_SYNTAXES:
                return None
            file.seek(0)
            return dcmread(file, stop_before_pixels=True)
    except Exception:  # noqa: BLE001 - foreign bytes: pydicom raises many things, and their texts carry values
        return None
