"""Scenarios of a benchmark about what is held: the memory for one huge instance, the CPU of associations that say nothing."""

import statistics
import time
from collections.abc import Sequence

import numpy as np
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AllStoragePresentationContexts

from tests.benchmarks import contestants as made
from tests.benchmarks.contestants import DCMTK, OURS, PYNETDICOM, Contestant
from tests.benchmarks.measure import PeakMemory, cpu_seconds, memory_mb
from tests.benchmarks.report import Figures, median
from tests.benchmarks.rounds import Bench, caught_up, say
from tests.benchmarks.scu import ONE_CONTEXT, Association, Contexts, Instance
from tests.benchmarks.studies import Study, marked
from tests.benchmarks.transfers import ours

HUGE = Study("XC", 1, 1, 512, frames=3814)
"""2.0 GB."""
SMALL = Study("XC", 1, 1, 512, frames=2)
MOST_MEMORY_MB, MOST_CPU_PERCENT, MOST_SET_UP_MS = 64, 1, 10
NOISE = np.random.default_rng(0).integers(0, 4096, 1 << 18, dtype="<i2").tobytes()
IDLE_ASSOCIATIONS, IDLE_SECONDS, SET_UPS = 32, 10, 50
_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_OTHERS = [
    str(context.abstract_syntax) for context in AllStoragePresentationContexts if context.abstract_syntax != CTImageStorage
]
MANY_CONTEXTS: Contexts = [*ONE_CONTEXT, *((sop_class, _SYNTAXES) for sop_class in _OTHERS)][:128]


def memory(bench: Bench) -> None:
    """One run each, on contestants that have taken nothing before but a small instance."""
    rounds = {}
    for name, enter in (ours(bench), (DCMTK, made.dcmtk)):
        with bench.contestants((name, enter)) as here:
            for contestant in here:
                rounds[name] = [_huge(bench, contestant)]
    bench.report.tell("memory", "one instance of 2.0 GB", rounds)
    bench.report.reach(
        f"memory: MB above idle of {OURS}", median(rounds.get(OURS, ()), "MB above idle"), MOST_MEMORY_MB, at_most=True
    )


def idle(bench: Bench) -> None:
    with bench.contestants(ours(bench), (DCMTK, made.dcmtk), (PYNETDICOM, made.stock_pynetdicom)) as here:
        bench.fair_start()
        alone = _cpu_percents(here)
        rounds = {one.name: [_idle(one, without) | _set_up(one)] for one, without in zip(here, alone, strict=True)}
    bench.report.tell("idle", f"{IDLE_ASSOCIATIONS} associations that say nothing; setting one up and releasing it", rounds)
    for column, goal in (("CPU % more", MOST_CPU_PERCENT), ("1 context ms", MOST_SET_UP_MS), ("128 contexts ms", MOST_SET_UP_MS)):
        bench.report.reach(f"idle: {column} of {OURS}", median(rounds.get(OURS, ()), column), goal, at_most=True)


def _huge(bench: Bench, contestant: Contestant) -> Figures:
    _stream(contestant, SMALL, next(bench.runs))  # what is loaded with the first instance is no part of it
    bench.fair_start()
    before, stored = memory_mb(contestant.pid), contestant.stored()
    with PeakMemory(contestant.pid) as peak:
        began = time.monotonic()
        status = _stream(contestant, HUGE, next(bench.runs))
        seconds = time.monotonic() - began
        late = caught_up(contestant, stored + 1) if status == 0 else None
    if late is None:
        say(f"{contestant.name}: answered 0x{status:04X}, not stored")
    return {
        "MB above idle": peak.mb - before,
        "peak MB": peak.mb,
        "MB/s": HUGE.pixel_bytes / 1e6 / seconds,
        **({} if late is None else {"stored after s": late}),
    }


def _stream(contestant: Contestant, study: Study, run: int) -> int:
    instance = Instance.parse(marked(study.header(), run))
    association = Association(contestant.port, contestant.ae_title, [(instance.sop_class_uid, [ExplicitVRLittleEndian])])
    status = association.store(instance.streamed(association.fragment, NOISE, study.pixel_bytes))
    association.release()
    return status


def _idle(contestant: Contestant, without: float) -> Figures:
    """Percent of one core."""
    associations = [Association(contestant.port, contestant.ae_title) for _ in range(IDLE_ASSOCIATIONS)]
    time.sleep(1)
    (held,) = _cpu_percents([contestant])
    for association in associations:
        association.release()
    return {"CPU %": held, "without any": without, "CPU % more": held - without}


def _cpu_percents(contestants: Sequence[Contestant]) -> list[float]:
    before = [cpu_seconds(contestant.pid) for contestant in contestants]
    time.sleep(IDLE_SECONDS)
    return [100 * (cpu_seconds(one.pid) - cpu) / IDLE_SECONDS for one, cpu in zip(contestants, before, strict=True)]


def _set_up(contestant: Contestant) -> Figures:
    """Medians in milliseconds, from the connection to the answer to the release."""
    figures = {}
    for column, contexts in (("1 context ms", ONE_CONTEXT), ("128 contexts ms", MANY_CONTEXTS)):
        times = []
        for _ in range(SET_UPS):
            began = time.perf_counter()
            Association(contestant.port, contestant.ae_title, contexts).release()
            times.append(time.perf_counter() - began)
        figures[column] = 1000 * statistics.median(times)
    return figures
