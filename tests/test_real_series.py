"""Completeness and selection on every real series of the developers' data: verdicts reviewed by hand, pinned (issue 5)."""

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from gateway.decisions.choose import ONLY, choose
from gateway.decisions.completeness import Evidence, Policy, verdict
from gateway.decisions.evidence import signals
from gateway.errors import Unsuitable
from gateway.imaging.split import parts
from gateway.imaging.volume import arrange

REVIEWED = Path(__file__).with_name("real_series.txt")
_SAYS = {"whole": "W", "short": "S", "nothing": "-"}


def every_series(root: Path) -> Iterator[tuple[str, list[Dataset]]]:
    """Of files that pydicom can read, each SOP instance once, by folder and Series Instance UID."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        found: dict[str, dict[str, Dataset]] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            try:
                header = dcmread(path, force=True, defer_size=65536)
                found.setdefault(str(header.SeriesInstanceUID), {}).setdefault(str(header.SOPInstanceUID), header)
            except Exception:
                continue
        yield from ((folder.name, list(instances.values())) for instances in found.values())


def row(folder: str, headers: list[Dataset]) -> str:
    """folder | modality | instances | geometry, declared, numbers | at its deadline | volumes | what a pipeline gets."""
    told = signals(headers)
    start = datetime(2026, 1, 2, tzinfo=UTC)
    evidence = Evidence(len(headers), 1, 0, start, start, told)
    found = verdict(evidence, now=datetime(2026, 1, 3, tzinfo=UTC), policy=Policy(10, 3600))
    volumes = [str(len(part.headers)) + "".join(f" {keyword}" for keyword in part.name) for part in parts(headers)]
    columns = (
        folder, str(headers[0].get("Modality")), str(len(headers)), "".join(_SAYS[one.says] for one in told),
        f"{found.decision}: {found.missing}" if found.missing else str(found.decision), ", ".join(volumes) or "none", _got(headers),
    )  # fmt: skip
    return " | ".join(columns)


def _got(headers: list[Dataset]) -> str:
    try:
        chosen = choose(headers, ONLY, lambda header: bytes(header.get("PixelData") or b""))
        stack = arrange(chosen.headers)
    except Unsuitable as refused:
        return f"{refused.code}"
    return f"{len(stack.headers)} slices {stack.spacing_mm:.2f} mm apart"


@pytest.mark.filterwarnings("ignore")  # the files are odd on purpose
def test_every_real_series_is_judged_and_split_as_was_reviewed_by_hand(real_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sorted(row(*one) for one in every_series(real_data))

    assert found == [line for line in REVIEWED.read_text("utf-8").splitlines() if not line.startswith("#")]
