"""How fast instances come in, side by side: this gateway (every instance synced), DCMTK, Orthanc, pynetdicom's application.

    python -m tests.benchmarks.ingest [--only ct1 ct4 ...] [--rounds 5] [--processes 2] [--program scu|storescu]
        [--batch 50 1] [--json FILE]

    ct1         300 CT of 512 x 512 on one association         stow    300 CT by STOW-RS, on one connection and on four
    ct4         the same on four                               send    `gateway send` of 300 CT beside storescu, to storescp
    mr1000      1,000 MR of 256 x 256 on one                   memory  one instance of 2 GB
    ct32x20     32 associations of 20 CT                       idle    32 idle associations, and setting one up
    multiframe  one instance of 200 MB

Everything runs on this machine in one go: only ratios of one run mean something. The studies are noise, made for the run; each
run sends instances that nobody has seen. A run's time is from the first connection to the last release; CPU and memory are
those of the contestant's whole process tree until it has all that it acknowledged, and "stored after" is how long that took
from there (this gateway: until the last instance has its row). DCMTK and pynetdicom sync nothing; "the disk alone" is what the
disk gives to somebody who only writes and syncs. Nothing is asserted: a machine decides nothing but its own figures.

Why a journal, and why this one. Written and made durable one after the other, 525 kB took here (ext4, two cores, medians of a
noisy machine, milliseconds):

    a file of its own: fsync, rename, fsync of the folder, then a commit      0.4 to 0.6, and the commit
    a file of its own under a name that was durable before, one fdatasync     0.33 to 0.47
    the same, and a record in a small journal with its own fdatasync          0.42 to 0.62
    bytes and record behind each other in a new segment, one fdatasync        0.35 to 0.45
    the same over what was written before: no metadata change                 0.23 to 0.31, and 0.04 less
                                                                              of waiting with writing begun early
So an acknowledgement costs one sync of blocks that exist already; a new segment pays once for all that come after it. SHA-256
(0.3), the file in the store (0.25) and the rows (0.3) come after the answer, many instances with one sync and one transaction,
and wait while a burst lasts (at most two seconds). Group commit over associations was left out: each has its own segment, and
so waits for nobody. XXH3 (0.01) instead of CRC-32 (0.1) tells what is torn.

What keeps one association below 0.8 of DCMTK, and four below 1.0: the sync, on a disk whose flush costs by the byte. Measured
on that machine while others wrote to its disk, processor time made free of them (milliseconds an instance of 525 kB):

    storescp takes one from storescu and answers, nothing synced              1.03 to 1.2
    write over 525 kB and fdatasync, nothing else                             0.94 to 1.43 (4 kB: 0.15)
      writing waited for before (sync_file_range): the flush alone            0.65 to 1.05
    this door                                                                 3.1 to 3.9
    this door and storescp on a file system in memory, where a sync is free   1.34 and 1.04

So a storescp that synced would reach 0.43 to 0.5 of itself; this door reached 0.32 to 0.36 then, 0.58 with the disk to itself,
and 0.78 where a sync is free. What was tried and gained nothing: O_DIRECT and O_DSYNC (the flush remains: 1.2 to 1.7),
writing begun at every 64 or 128 kB instead of 256, a second thread that syncs while more comes (its syncs and the last take as
long as one: 0.25 less to wait, 0.1 s more of processor for 300 instances; nothing for 200 MB).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.costs import idle, memory
from tests.benchmarks.rounds import Bench, say
from tests.benchmarks.transfers import STORES, send, store, stow_rs

SCENARIOS: dict[str, Callable[[Bench], None]] = {
    **{name: partial(store, name) for name in STORES},
    "stow": stow_rs,
    "send": send,
    "memory": memory,
    "idle": idle,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="[dimse] processes of this gateway")
    parser.add_argument(
        "--program", choices=("scu", "storescu"), default="scu", help="what sends: tests/benchmarks/scu.py or DCMTK's"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to write; its disk is what is measured (by default where temporary files are)"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[50], help="instances in a STOW-RS request")
    parser.add_argument("--json", type=Path, help="where to save every figure")
    parser.add_argument("--warm-mb", type=int, default=700, help="memory that is touched before each run")
    parser.add_argument(
        "--patience", type=float, default=3, help="seconds to wait before each run for a machine that does nothing else"
    )
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as folder:
        bench = Bench(options, Path(folder))
        for name in options.only:
            try:
                SCENARIOS[name](bench)
            except OSError as error:
                say(f"{name} broke off: {type(error).__name__}: {error}")
    bench.report.tell_goals()
    if bench.disturbed:
        print(f"{bench.disturbed} runs were disturbed: other programs took more than a quarter of a core meanwhile")
    if options.json:
        bench.report.save(options.json)


if __name__ == "__main__":
    main()
