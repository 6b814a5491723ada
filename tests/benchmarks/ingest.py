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

What decides against DCMTK is the disk, and memory. On a disk whose flush costs by the byte (525 kB written over and synced: 0.94 to
1.43 ms) this door took 3.1 to 3.9 ms an instance beside 1.03 to 1.2 of a storescp that syncs nothing, and a storescp that synced
would have reached 0.43 to 0.5 of itself. On a fast one (0.21 ms), medians of 9 to 15 rounds, milliseconds an instance of 525 kB:

                                                                one association       four at a time
    storescp, where the files before it lie in memory anyway         0.30 to 0.45          0.20 to 0.28
    storescp, where the system has to find memory for its files      0.50 to 0.97          0.41 to 0.97
    this door: the listener alone, in one process                    0.55                  0.45
    as few lines of Python as can take, write, sync and answer       0.40                  0.26

A virtual machine gives free pages back, and finding them again costs more than everything else: so storescp runs at one of two
speeds, and which one differs from hour to hour. This door writes over blocks, and pages, that it has had before, and is steady.
Of its 0.33 ms of processor an instance 0.14 are the interpreter's, spread over hundreds of calls. By themselves they take a third of
that; the bytes that are copied meanwhile probably push them out of the processor's caches.

What was tried and gained nothing: O_DIRECT and O_DSYNC (the flush remains), a second thread that syncs while more comes, writing
begun early for what is small (0.04 ms less to wait on the slow disk, 0.06 of processor more on the fast one), a loop of its own for
whole PDUs, head, data and record of an entry in a single call instead of three. What gained most: one pwritev for all that has gathered in the buffer (a sixth of the
processor), room ahead for what is huge (200 MB: 155 to 85 ms, storescp 90), segments that are full after 8 MB instead of 32 (32
associations: from 553 to 1137 MB/s), a buffer in which a slice gathers whole (640 kB instead of 256: 4 % on one association, 12 % on 32).
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
