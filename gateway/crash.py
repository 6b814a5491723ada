"""Crash points: named places, one after every durable step, where a test kills the process (SIGKILL) and starts it again.

`GATEWAY_CRASH_AT=name` ends the process there, once per process; without the variable a point costs one comparison.
"""

import os
import signal

_AT = os.environ.get("GATEWAY_CRASH_AT", "")

POINTS = (
    "store.written",
    "store.renamed",
    "journal.synced",
    "association.ended",
    "step.promised",
    "receive.filed",
    "receive.committed",
    "settle.evaluated",
    "settle.committed",
    "elect.committed",
    "priors.chosen",
    "priors.fetched",
    "priors.committed",
    "run.started",
    "run.inferred",
    "run.encoded",
    "run.stored",
    "run.committed",
    "deliver.started",
    "deliver.sent",
    "deliver.committed",
    "prove.looked",
    "prove.committed",
    "prove.recorded",
    "prove.asked",
    "commit.reported",
    "retain.written",
    "retain.removed",
    "retract.stored",
    "retract.committed",
    "seal.appended",
    "collector.sent",
    "fetch.wanted",
    "fetch.done",
    "notice.told",
    "workitem.stored",
    "perform.committed",
)


def crash_point(name: str) -> None:
    if name == _AT:
        os.kill(os.getpid(), signal.SIGKILL)
