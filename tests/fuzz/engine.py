"""One target in a process of its own, led by atheris; tells its state as JSON, a line each second.

python -m tests.fuzz.engine MODULE FOLDER -seed=1 -max_total_time=60 ...        (further options are libFuzzer's)
"""

import json
import logging
import os
import resource
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType

import atheris
import structlog

_INSTRUMENTED = ["gateway", "pynetdicom.pdu", "pynetdicom.pdu_items"]
_NOT_INSTRUMENTED = ["gateway.doors.journal"]  # its checksum is no secret: who sees what it is compared with can forge it
_PAGE = resource.getpagesize()


class Run:
    """The function that libFuzzer calls, and what there is to tell of it."""

    def __init__(self, target: ModuleType) -> None:
        self._target, self.runs, self._told = target, 0, 0.0

    def __call__(self, data: bytes) -> None:
        self.runs += 1
        try:
            self._target.fuzz(data)
        except BaseException:
            self.tell()
            raise
        if time.monotonic() - self._told >= 1:
            self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        state = {"runs": self.runs, "rss": pages * _PAGE, "peak": peak, "descriptors": len(os.listdir("/proc/self/fd"))}
        print(json.dumps(state), flush=True)


def main(module: str, folder: Path, options: list[str]) -> None:
    warnings.simplefilter("ignore")  # as log.py does
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with atheris.instrument_imports(include=_INSTRUMENTED, exclude=_NOT_INSTRUMENTED):
        target = import_module(module)
    corpus, dictionary = folder / "corpus", folder / "tokens"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(seed[: target.LONGEST])
    dictionary.write_text("".join(f'"{_escaped(token)}"\n' for token in target.TOKENS))
    arguments = ["fuzz", str(corpus), *([f"-dict={dictionary}"] if target.TOKENS else []), f"-max_len={target.LONGEST}", *options]
    mutators = {}
    if hasattr(target, "mutate"):

        def mutate(data: bytes, longest: int, seed: int) -> bytes:
            return target.mutate(data, lambda part: atheris.Mutate(part, longest), Random(seed))[:longest]

        mutators = {"custom_mutator": mutate}
    atheris.Setup(arguments, Run(target), **mutators)
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in token)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
