"""Never lose, never make twice: many small studies through gateways that are killed and a PostgreSQL that is restarted all along.

    python -m tests.benchmarks.storm [--studies 1000] [--kills 20] [--database-restarts 3] [--receivers 2] [--workers 2]
        [--seed 7] [--json FILE]
    python -m tests.benchmarks.storm --scale     the same work by one worker process and by two
    python -m tests.benchmarks.storm --idle      a gateway with 5,000 jobs that wait, beside one without any

Scanners send studies of mixed modalities (mixture.py) by C-STORE, and again what nobody acknowledged. Processes of the gateway,
receivers and workers apart, share one PostgreSQL and one store; the model stand-in `bright` runs on a real Triton, the results
go to a real Orthanc, which is asked for each of them. All along whole process groups get SIGKILL and start again after half a
second, as under systemd, and PostgreSQL is restarted, as for an upgrade or as after a crash. The scanners hold back while
`--backlog` studies are on their way, so that receivers, too, are busy to the end.

The end: every acknowledged instance is there with its bytes; every wanted series has one job and the PACS one SEG and one SR of
it, under one UID each, the bytes that were made; every delivery is proved; the audit trail is whole; no log names a patient. The
exit code is 1 where one of these does not hold. The times are what this machine gives: they are printed and decide nothing.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.db import Database
from tests.benchmarks import bulletin, idleness, scale
from tests.benchmarks.cluster import Cluster
from tests.benchmarks.fleet import EVERYTHING, RECEIVE, WORK, Site, Watch, surroundings, wait_up
from tests.benchmarks.havoc import Havoc
from tests.benchmarks.keeper import Kept
from tests.benchmarks.mixture import Sample, samples
from tests.benchmarks.reckoning import RESULTS, Findings, canaries, reckon
from tests.benchmarks.scanners import Scanners
from tests.benchmarks.stages import Seconds, retries, stages

SCANNERS = 4
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Options:
    studies: int = 1000
    kills: int = 20
    database_restarts: int = 3
    receivers: int = 2
    workers: int = 2
    seed: int = 7
    backlog: int = 50
    quiet_seconds: float = 10
    still_seconds: float = 180
    """Nothing has moved for so long: it is not waited for any longer."""
    whole: bool = False
    """Each process does everything."""


@dataclass
class Outcome:
    findings: Findings
    studies: int = 0
    wanted: int = 0
    instances: int = 0
    sent_again: int = 0
    seconds: float = 0
    sending_seconds: float = 0
    kills: dict[str, int] = field(default_factory=dict)
    restarts: list[str] = field(default_factory=list)
    ended_by_themselves: list[str] = field(default_factory=list)
    retries: dict[str, int] = field(default_factory=dict)
    stages: Seconds = field(default_factory=dict)


def storm(options: Options, folder: Path, cluster: Cluster, site: Site) -> Outcome:
    chance = random.Random(options.seed)
    with bulletin.writing(options.studies) as step:
        every = [step(sample) for sample in samples(folder / "studies", options.studies, chance)]
    with ExitStack() as stack:
        kept = [stack.enter_context(one) for one in _processes(options, site)]
        wait_up(kept)
        db = stack.enter_context(site.database())
        watch = stack.enter_context(Watch(db))
        scanners = _scanners(options, every, kept, watch)

        series, results = _expected(every)

        def progress() -> float:
            done = (len(scanners.studies) / len(every), watch.count.complete / series, watch.count.proved / max(results, 1))
            return sum(done) / len(done)

        havoc = Havoc(progress, kept, cluster, kills=options.kills, restarts=options.database_restarts, chance=chance)
        began = time.monotonic()
        with scanners, havoc:
            is_settled = _wait(options, every, scanners, havoc, watch)
        seconds = watch.changed_at - began
        wait_up(kept)  # those that were killed last, too
        for one in kept:
            one.stop()
        return _outcome(site, db, every, kept, scanners, havoc, seconds=seconds, is_settled=is_settled)


def _processes(options: Options, site: Site) -> list[Kept]:
    if options.whole:
        return [site.kept(EVERYTHING, number) for number in range(options.workers)]
    receivers = [site.kept(RECEIVE, number) for number in range(options.receivers)]
    return receivers + [site.kept(WORK, number) for number in range(options.workers)]


def _scanners(options: Options, every: Sequence[Sample], kept: Sequence[Kept], watch: Watch) -> Scanners:
    ports = [one.world.port for one in kept if one.role != WORK]

    def may_go_on() -> bool:
        on_their_way = sum(sample.wanted != "" for sample in [*scanners.studies]) - watch.count.proved // len(RESULTS)
        return on_their_way < options.backlog

    scanners = Scanners(every, ports, SCANNERS, may_go_on, pause=_PAUSE_SECONDS)
    return scanners


def _wait(options: Options, every: Sequence[Sample], scanners: Scanners, havoc: Havoc, watch: Watch) -> bool:
    """Until everything has come to its end; False where nothing moves any more."""
    series, results = _expected(every)
    with bulletin.running(len(every), results) as show:
        while True:
            now = watch.count
            show(len(scanners.studies), now.proved, sum(havoc.kills.values()), len(havoc.restarts))
            is_sent = scanners.ended and havoc.ended
            if is_sent and now.open == 0 and now.complete >= series and now.deliveries >= results:
                return True
            if watch.still_seconds > options.still_seconds:
                return False
            time.sleep(0.1)


def _expected(every: Sequence[Sample]) -> tuple[int, int]:
    """Series, and results of those that are wanted."""
    return sum(len(sample.series) for sample in every), len(RESULTS) * sum(sample.wanted != "" for sample in every)


def _outcome(
    site: Site,
    db: Database,
    every: Sequence[Sample],
    kept: Sequence[Kept],
    scanners: Scanners,
    havoc: Havoc,
    *,
    seconds: float,
    is_settled: bool,
) -> Outcome:
    findings = reckon(db, site.store, site.pacs, every, scanners.acknowledged)
    if not is_settled:
        findings.other.append("it has not come to its end: nothing moved any more")
    if len(scanners.studies) < len(every):
        findings.other.append(f"{len(every) - len(scanners.studies)} studies were never acknowledged as a whole")
    findings.other += [f"{one.world.folder.name}: SIGTERM: ended with {one.wait()}" for one in kept if one.wait() != 0]
    findings.other += _verify(kept)
    findings.other += canaries(one.world.folder / "log" for one in kept)
    times = scanners.acknowledged.values()
    return Outcome(
        findings,
        studies=len(every),
        wanted=sum(sample.wanted != "" for sample in every),
        instances=len(scanners.acknowledged),
        sent_again=scanners.sent - len(scanners.acknowledged),
        seconds=seconds,
        sending_seconds=max(times, default=0) - min(times, default=0),
        kills=dict(havoc.kills),
        restarts=list(havoc.restarts),
        ended_by_themselves=[f"{one.world.folder.name}: exit code {code}" for one in kept for code in one.ended],
        retries=retries(db),
        stages=stages(db),
    )


def _verify(kept: Sequence[Kept]) -> list[str]:
    """The chain is one; the signed heads are each process's own."""
    problems = []
    for one in [kept[0], *(one for one in kept[1:] if (one.world.folder / "var" / "audit-heads.jsonl").exists())]:
        verified = one.world.run("audit", "verify")
        if verified.returncode:
            problems.append(f"{one.world.folder.name}: audit verify: {(verified.stdout + verified.stderr).strip()}")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in asdict(Options()).items():
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--scale", action="store_true", help="time one worker process and two")
    parser.add_argument("--idle", action="store_true", help="measure a gateway with many jobs that wait")
    parser.add_argument("--rounds", type=int, default=3, help="of --scale")
    parser.add_argument("--jobs", type=int, default=5000, help="of --idle")
    parser.add_argument("--json", type=Path, help="where to save every figure")
    parser.add_argument("--keep", type=Path, help="a new folder that is left behind, with every log in it")
    told = vars(parser.parse_args())
    options = Options(**{name: told[name] for name in asdict(Options())})
    with ExitStack() as stack:
        folder = told["keep"] or Path(stack.enter_context(TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        cluster, triton, pacs = stack.enter_context(surroundings(folder))
        if told["scale"] or told["idle"]:
            figures = scale.scale(folder, cluster, triton, pacs, told["rounds"]) if told["scale"] else {}
            figures |= idleness.idleness(folder, cluster, pacs, told["jobs"]) if told["idle"] else {}
            good = True
        else:
            outcome = storm(options, folder, cluster, Site(folder, cluster.create("storm"), triton, pacs, options.quiet_seconds))
            bulletin.tell(outcome)
            figures, good = asdict(outcome), outcome.findings.good
    if told["json"]:
        told["json"].write_text(json.dumps(figures, indent=1))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
