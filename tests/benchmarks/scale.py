"""Two worker processes against one: the same studies, received before, and timed from the first complete series to the last proof."""

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from tests.benchmarks.bulletin import machine
from tests.benchmarks.cluster import Cluster
from tests.benchmarks.fleet import RECEIVE, WORK, Site, Watch, wait_up
from tests.benchmarks.mixture import Sample, samples
from tests.benchmarks.reckoning import RESULTS, received
from tests.benchmarks.scanners import Scanners
from tests.benchmarks.stages import span
from tests.peers_fixture import Orthanc

_STUDIES = 60
_GOAL = 1.7
_LIMIT_SECONDS = 600


def scale(folder: Path, cluster: Cluster, triton: str, pacs: Orthanc, rounds: int) -> dict[str, object]:
    every = list(samples(folder / "studies", _STUDIES, random.Random(1), only="CT"))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    out = Console()
    for number in range(rounds):
        for workers in seconds if number % 2 == 0 else reversed(seconds):
            name = f"scale{number}x{workers}"
            pacs.clear()
            seconds[workers].append(_round(Site(folder / name, cluster.create(name), triton, pacs, 1), every, workers))
            out.print(f"round {number + 1}, workers {workers}: {seconds[workers][-1]:.1f} s", highlight=False)
    one, two = statistics.median(seconds[1]), statistics.median(seconds[2])
    out.print(f"{_STUDIES} wanted studies, medians: one worker process {one:.1f} s, two {two:.1f} s", highlight=False)
    out.print(f"ratio {one / two:.2f} (goal {_GOAL} where two cores allow; {machine()})", highlight=False)
    return {"one": seconds[1], "two": seconds[2], "ratio": one / two}


def _round(site: Site, every: Sequence[Sample], workers: int) -> float:
    instances = sum(len(sample.instances) for sample in every)
    with ExitStack() as stack:
        door = stack.enter_context(site.kept(RECEIVE))
        wait_up([door])
        db = stack.enter_context(site.database())
        with Scanners(every, [door.world.port], 2, lambda: True) as scanners:
            _until(lambda: scanners.ended and received(db) == instances)
        watch = stack.enter_context(Watch(db))
        for number in range(workers):
            stack.enter_context(site.kept(WORK, number))
        _until(lambda: watch.count.proved == len(RESULTS) * len(every))
        return span(db)


def _until(condition) -> None:
    end = time.monotonic() + _LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
