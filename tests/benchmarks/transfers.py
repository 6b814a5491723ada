"""Scenarios of a benchmark that move studies: C-STORE and STOW-RS to everybody, and our own Storage SCU beside DCMTK's."""

import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tests.benchmarks import contestants as made
from tests.benchmarks.contestants import DCMTK, ORTHANC, OURS, PYNETDICOM, Contestant, Entered
from tests.benchmarks.load import NODELAY, c_store, storescu, stow
from tests.benchmarks.report import Figures, ratio
from tests.benchmarks.rounds import Bench, say
from tests.benchmarks.studies import Study
from tests.world import World

CT300 = Study("CT", 1, 300, 512)
STORES = {
    "ct1": ("300 CT of 512 x 512 on one association", CT300, 0.8),
    "ct4": ("300 CT of 512 x 512 on four associations", Study("CT", 4, 75, 512), 1.0),
    "mr1000": ("1,000 MR of 256 x 256 on one association", Study("MR", 1, 1000, 256), 0.8),
    "ct32x20": ("32 associations of 20 CT of 512 x 512", Study("CT", 32, 20, 512), 1.0),
    "multiframe": ("one multi-frame instance of 200 MB", Study("XC", 1, 1, 512, frames=381), 0.8),
}
"""What is sent, and the part of DCMTK's speed that is our goal."""
OF_ORTHANC, OF_PYNETDICOM, OF_STORESCU = 2.0, 3.0, 0.9
CONNECTIONS = (1, 4)
"""Over so many at a time goes STOW-RS."""
DISK = "(the disk alone)"
"""The same bytes written over what was there and synced one by one, a thread for each association: what a sync costs at least."""


def ours(bench: Bench) -> tuple[str, Entered]:
    return OURS, partial(made.ours, processes=bench.options.processes)


def store(name: str, bench: Bench) -> None:
    title, study, of_dcmtk = STORES[name]
    series = study.write(bench.folder / name)

    def run(contestant: Contestant | None) -> Figures:
        if contestant is None:
            return _written(bench, series)
        load = c_store(contestant, next(bench.runs), series, program=bench.options.program)
        return bench.measured(contestant, load, study.count)

    everybody = (ours(bench), (DCMTK, made.dcmtk), (ORTHANC, made.orthanc), (PYNETDICOM, made.pynetdicom))
    with bench.contestants(*everybody) as here:
        rounds = bench.interleave([*((one.name, one) for one in here), (DISK, None)], run)
    bench.report.tell(name, f"{title}, sent by {bench.options.program}", rounds)
    bench.report.compare(name, "MB/s", OURS, {DCMTK: of_dcmtk, ORTHANC: OF_ORTHANC, PYNETDICOM: OF_PYNETDICOM})
    if (disk := ratio(rounds, "MB/s", DISK, DCMTK)) is not None:
        synced = disk / (1 + disk) if len(series) == 1 else min(1, disk)
        say(f"{name}: DCMTK with a sync before each answer would reach about {synced:.2f} of what it reaches without")


def stow_rs(bench: Bench) -> None:
    series = CT300.write(bench.folder / "stow")

    def run(case: tuple[Contestant, int, int]) -> Figures:
        contestant, batch, connections = case
        load = stow(contestant, next(bench.runs), series, batch=batch, connections=connections)
        return bench.measured(contestant, load, CT300.count)

    with bench.contestants(ours(bench), (ORTHANC, made.orthanc)) as here:
        serving = [one for one in here if _serves_stow(one)]
        for batch, connections in product(bench.options.batch if serving else (), CONNECTIONS):
            rounds = bench.interleave([(one.name, (one, batch, connections)) for one in serving], run)
            scenario = f"stow {batch} x {connections}"
            bench.report.tell(scenario, f"STOW-RS of 300 CT, {batch} a request, connections at a time: {connections}", rounds)
            bench.report.compare(scenario, "MB/s", OURS, {ORTHANC: OF_ORTHANC})


def send(bench: Bench) -> None:
    """To the same storescp. The transfer lasts from the end of its first file to that of its last: no program's start is in it."""
    (series,) = CT300.write(bench.folder / "send")

    def run(case: tuple[Contestant, Sequence[str]]) -> Figures:
        contestant, command = case
        contestant.clear()
        bench.fair_start()
        return _commanded(command, contestant, series)

    with bench.contestants((DCMTK, made.dcmtk)) as here:
        commands = [(one, name, command) for one in here for name, command in _senders(bench, one, series)]
        rounds = bench.interleave([(name, (one, command)) for one, name, command in commands], run)
    bench.report.tell("send", "300 CT of 512 x 512 to storescp", rounds)
    for column in ("transfer MB/s", "command MB/s"):
        bench.report.compare("send", column, "gateway send", {"storescu": OF_STORESCU})


def _written(bench: Bench, series: Sequence[Path]) -> Figures:
    contents = [[file.read_bytes() for file in sorted(one.iterdir())] for one in series]

    def write(folder: str, files: list[bytes]) -> None:
        with (Path(folder) / "written").open("r+b", buffering=0) as written:
            for content in files:
                written.write(content)
                os.fdatasync(written.fileno())

    with ExitStack() as stack:
        folders = [stack.enter_context(TemporaryDirectory(dir=bench.folder)) for _ in series]
        for folder, files in zip(folders, contents, strict=True):
            (Path(folder) / "written").write_bytes(b"".join(files))
        bench.fair_start()
        pool = stack.enter_context(ThreadPoolExecutor(len(series)))
        began = time.monotonic()
        list(pool.map(write, folders, contents))
        seconds = time.monotonic() - began
    sizes = [len(content) for files in contents for content in files]
    return {"MB/s": sum(sizes) / 1e6 / seconds, "instances/s": len(sizes) / seconds}


def _senders(bench: Bench, contestant: Contestant, series: Path) -> list[tuple[str, list[str]]]:
    peer = {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": contestant.port, "ae_title": contestant.ae_title}
    folder = bench.folder / "send-from"
    world = World(
        folder,
        f"sqlite:///{folder}/gateway.db",
        "127.0.0.1:9",
        peers=(peer,),
        settings={"rules": {"file": str(folder / "none.yaml")}},
    )
    own = [sys.executable, "-m", "gateway", "send", str(series), "--to", "pacs", "--config", str(world.config)]
    return [("gateway send", own), ("storescu", storescu(contestant, series))]


def _commanded(command: Sequence[str], contestant: Contestant, series: Path) -> Figures:
    size = sum(file.stat().st_size for file in series.iterdir())
    before, began = os.times(), time.monotonic()
    ended = subprocess.run(command, env=os.environ | NODELAY, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - began, os.times()
    ends = sorted(file.stat().st_mtime for file in contestant.files())
    if ended.returncode or len(ends) < 2:
        raise ConnectionError(f"ended with {ended.returncode}, {len(ends)} files arrived: {ended.stderr[-300:]}")
    told = re.search(r"([\d.]+) MB/s", ended.stdout)
    return {
        "transfer MB/s": size * (len(ends) - 1) / len(ends) / 1e6 / (ends[-1] - ends[0]),
        "command MB/s": size / 1e6 / seconds,
        "command s": seconds,
        "CPU s": after.children_user + after.children_system - before.children_user - before.children_system,
        "lost": CT300.count - len(ends),
    } | ({"it says MB/s": float(told[1])} if told else {})


def _serves_stow(contestant: Contestant) -> bool:
    """Whether somebody answers an empty request there, with whatever status but those that say that there is no such service."""
    place, status = urlsplit(contestant.studies_url), 404
    connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=10)
    try:
        if contestant.studies_url:
            connection.request("POST", place.path)
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        pass
    connection.close()
    if status in {404, 405, 501}:
        say(f"left out: {contestant.name}: no STOW-RS")
    return status not in {404, 405, 501}
