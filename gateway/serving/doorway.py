"""One ingest process: it holds associations and its own door, and nothing else. No database, no work that could hold it up.

It is started by doorman.py, which gives it listening sockets, a folder and, on its standard input, one line of settings; further
lines say whether the door is closed and when to stop; the end of the input, that the gateway is gone. It answers on its
standard output: a byte for everything that was promised.
"""

import json
import mmap
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.machine.lean import FOR_PIXELS

if __name__ == "__main__":  # pydicom and structlog take along what they find of these: half of the time, and of the memory
    sys.modules.update(dict.fromkeys((*FOR_PIXELS, "rich")))  # type: ignore[arg-type]

import structlog

from gateway import log
from gateway.doors.door import Door
from gateway.doors.policy import Policy
from gateway.doors.tally import Tally
from gateway.doors.visits import Limits
from gateway.ingest import Ingest, Terms
from gateway.ingest.dimse import STORAGE, TRANSFER_SYNTAXES, Listener
from gateway.ingest.folder import Folder
from gateway.machine.tls import ServerContext

# What is imported here every ingest process pays for, in its memory and in the time until it is there again after a death:
# gateway.toml was read by others, and HTTP is spoken by those that are asked to.
if TYPE_CHECKING:
    from gateway.configuration.sections import Config

_logger = structlog.get_logger()


def terms(config: "Config", policy: Policy) -> dict[str, Any]:
    """What of gateway.toml `main` has to know, as JSON takes it."""
    dimse = config.dimse
    return {
        "log": [config.log.level, config.log.format],
        "policy": policy.to_settings(),
        "keep_free_bytes": config.store.keep_free_bytes,
        "steps": str(config.store_folder / "steps"),
        "maximum_instance_bytes": dimse.maximum_instance_bytes,
        "limits": dimse.model_dump(include={"processes", "maximum_associations", "maximum_per_address", "maximum_half_open"}),
        "seconds": dimse.model_dump(include={"idle_seconds", "pdu_seconds", "association_seconds"}),
        "tls": config.tls.model_dump(mode="json") if config.tls.certificate else None,
        "dicomweb": config.dicomweb.model_dump(include={"maximum_body_bytes", "maximum_requests"}),
        "folders": [one.model_dump(mode="json") for one in config.folders],
    }


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the doorman says when to go
    given = json.loads(sys.stdin.readline())
    os.set_blocking(sys.stdout.fileno(), False)
    log.configure(*given["log"])
    with ExitStack() as stack:
        numbers: Any = memoryview(mmap.mmap(given["tally"], 0)).cast("q")
        tally = Tally(numbers, process=given["process"], processes=given["limits"]["processes"])
        door = Door(
            Path(given["folder"]), clock=lambda: datetime.now(UTC), keep_free_bytes=given["keep_free_bytes"], wake=_wake,
            tally=tally, steps=Path(given["steps"]),
        )  # fmt: skip
        stack.callback(door.close)
        for ingest in _ingests(given, door):
            stack.callback(ingest.close)
        _wake()
        for line in sys.stdin:
            message = json.loads(line)
            if message.get("stop"):
                return
            door.closed = message["closed"]
        os._exit(1)  # the gateway is gone: its port has to be free for the next one, and what is not acknowledged comes again


def _wake() -> None:
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:  # the pipe is full, so it is awake; or the gateway is gone, and the input has ended too
        return


def _ingests(given: Mapping[str, Any], door: Door) -> list[Ingest]:
    sockets = {name: socket.socket(fileno=number) for name, number in given["sockets"].items()}
    policy = Policy.from_settings(given["policy"])
    tls = _tls(**given["tls"]) if given["tls"] else None
    shared: Any = memoryview(mmap.mmap(given["shared"], 0)).cast("q")
    limits = Limits(policy, process=given["process"], shared=shared, **given["limits"])
    ingests: list[Ingest] = [*_listeners(given, door, policy, limits, tls, sockets)]
    if "dicomweb" in sockets:
        ingests.append(_server(given, door, policy, limits, tls, sockets["dicomweb"]))
    if given["process"] == 0:
        ingests += [
            Folder(Path(folder.pop("path")), door=door, terms=_taken(given), **folder) for folder in given["folders"]
        ]  # fmt: skip
    return ingests


def _tls(minimum_version: Any, **files: str | None) -> ServerContext:
    paths: dict[str, Any] = {name: file and Path(file) for name, file in files.items()}
    return ServerContext(minimum_version=minimum_version, **paths)


def _listeners(
    given: Mapping[str, Any], door: Door, policy: Policy, limits: Limits, tls: ServerContext | None,
    sockets: Mapping[str, socket.socket],
) -> list[Listener]:  # fmt: skip
    common: Any = {"door": door, "policy": policy, "limits": limits, "maximum_instance_bytes": given["maximum_instance_bytes"]}
    common |= given["seconds"]
    listeners = [Listener(sockets["dimse"], **common)]
    if "dimse_tls" in sockets and tls is not None:
        listeners.append(Listener(sockets["dimse_tls"], context=tls.current, **common))
    return listeners


def _server(
    given: Mapping[str, Any], door: Door, policy: Policy, limits: Limits, tls: ServerContext | None, listening: socket.socket
) -> Ingest:
    from gateway.ingest import dicomweb  # noqa: PLC0415 - see above

    storage = dicomweb.Storage(
        admit=policy.admit_request, counted=limits, terms=_taken(given), limits=dicomweb.Limits(**given["dicomweb"])
    )  # fmt: skip
    return dicomweb.Server(listening, storage, door=door, tls=tls.current if tls else None)


def _taken(given: Mapping[str, Any]) -> Terms:
    return Terms(STORAGE, TRANSFER_SYNTAXES, given["maximum_instance_bytes"])


if __name__ == "__main__":
    main()
