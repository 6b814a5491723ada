"""A BINARY segmentation of 300 slices of 512 x 512 as a file: ours beside highdicom and pydicom, interleaved.

    python -m tests.benchmarks.segments [--rounds 3] [--segments 1 20 104]

Both make the object of the same headers and labels, and its bytes in memory; both leave out empty frames.
"""

import argparse
import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
from pydicom.sr.codedict import codes

from gateway.dicom.part10 import part10
from gateway.outputs import Encoding
from gateway.outputs.seg import Segment, Segmentation
from tests.benchmarks.report import Figures, Report
from tests.results_fixture import by_highdicom, encoding, headers, volume
from tests.synthetic import ct_series

SLICES, SIDE = 300, 512
# Of highdicom's and pydicom's time, by the number of segments.
GOALS = {1: 1.0, 20: 4.0, 104: 4.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--segments", type=int, nargs="+", default=list(GOALS))
    options = parser.parse_args()
    report = Report()
    source = headers(ct_series(SLICES, 8, 8, Rows=SIDE, Columns=SIDE))
    ours(_job(source, 1))  # both load their tables
    for count in options.segments:
        scenario = f"{count} segment{'s' * (count > 1)}"
        rounds: dict[str, list[Figures]] = {"gateway": [], "highdicom, pydicom": []}
        for _ in range(options.rounds):
            for row, make in (("gateway", ours), ("highdicom, pydicom", theirs)):
                rounds[row].append(_measured(make, _job(source, count)))
        report.tell(scenario, f"{SLICES} slices of {SIDE} x {SIDE}", rounds)
        if count in GOALS:
            report.compare(scenario, "segmentations/s", "gateway", {"highdicom, pydicom": GOALS[count]})
    report.tell_goals()


def ours(job: Encoding) -> bytes:
    return part10(job.dataset(job.outputs[0]))


def theirs(job: Encoding) -> bytes:
    file = BytesIO()
    by_highdicom(job).save_as(file, enforce_file_format=True)
    return file.getvalue()


def _measured(make: Callable[[Encoding], bytes], job: Encoding) -> Figures:
    began = time.perf_counter()
    file = make(job)
    seconds = time.perf_counter() - began
    return {"segmentations/s": 1 / seconds, "seconds": seconds, "MB": len(file) / 1e6}


def _job(source: list, count: int) -> Encoding:
    """Boxes of organ size; a single one is in every slice but a few."""
    drawn, labels = np.random.default_rng(count), np.zeros((SLICES, SIDE, SIDE), np.uint8)
    for number in range(1, count + 1):
        height = int(drawn.integers(20, 60)) if count > 1 else SLICES - 20
        slice_, row, column = (int(drawn.integers(0, side)) for side in (SLICES - height, SIDE - 80, SIDE - 80))
        labels[slice_ : slice_ + height, row : row + 80, column : column + 80] = number
    segments = tuple(Segment(f"Part {n}", codes.SCT.Organ, codes.SCT.Lung, None, None, (n, 9, 99)) for n in range(count))
    return encoding(source, (Segmentation(volume(source, labels), segments, "PARTS", "Parts"),))


if __name__ == "__main__":
    main()
