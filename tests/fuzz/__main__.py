"""The command; see the package."""

import argparse
import importlib.util
import sys
import time
from functools import partial
from pathlib import Path

from tests import fuzz
from tests.fuzz.session import run
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(description=fuzz.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 2**31, help="the same one gives the same inputs")
    parser.add_argument("--keep", type=Path, default=Path("var/fuzz"), help="where inputs go that fail")
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("expected atheris, which has wheels for Linux on x86-64: pip install atheris", file=sys.stderr)
        return 2
    chosen = list(TARGETS) if given.target == "all" else [given.target]
    say = partial(print, flush=True)
    say(f"seed {given.seed}, {given.seconds} s for {', '.join(chosen)}")
    defects = 0
    for name in chosen:
        session = run(
            name, TARGETS[name], seconds=max(1, given.seconds // len(chosen)), seed=given.seed, keep=given.keep, say=say
        )  # fmt: skip
        if session.defect:
            defects += 1
            say(session.defect)
            say(f"DEFECT in {name} after {session.runs:,} runs" + (f": {session.input}" if session.input else ""))
    say(f"{defects} targets with a defect" if defects else "no defect")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
