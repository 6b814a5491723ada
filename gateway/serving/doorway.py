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
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from gateway import log
from gateway.configuration.config import parse
from gateway.configuration.sections import Config
from gateway.doors.door import Door
from gateway.doors.policy import Policy
from gateway.doors.tally import Tally
from gateway.doors.visits import Limits
from gateway.ingest import Ingest, dicomweb
from gateway.ingest.dicomweb import Server
from gateway.ingest.dimse import STORAGE, TRANSFER_SYNTAXES, Listener
from gateway.ingest.folder import Folder
from gateway.machine.tls import ServerContext, handshake, names

_logger = structlog.get_logger()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the doorman says when to go
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    given = json.loads(sys.stdin.readline())
    os.set_blocking(sys.stdout.fileno(), False)
    config = parse(given["config"], where="the gateway")
    log.configure(config.log.level, config.log.format)
    with ExitStack() as stack:
        numbers: Any = memoryview(mmap.mmap(given["tally"], 0)).cast("q")
        tally = Tally(numbers, process=given["process"], processes=config.dimse.processes)
        door = Door(
            Path(given["folder"]), clock=lambda: datetime.now(UTC), keep_free_bytes=config.store.keep_free_bytes, wake=_wake,
            tally=tally, steps=config.store_folder / "steps",
        )  # fmt: skip
        stack.callback(door.close)
        for ingest in _ingests(config, door, given):
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


def _ingests(config: Config, door: Door, given: Mapping[str, Any]) -> list[Ingest]:
    sockets = {name: socket.socket(fileno=number) for name, number in given["sockets"].items()}
    policy = Policy.from_settings(given["policy"])
    tls = ServerContext(**config.tls.model_dump()) if config.tls.certificate else None
    ingests: list[Ingest] = [*_listeners(config, door, policy, tls, sockets, given)]
    if "dicomweb" in sockets:
        ingests.append(_server(config, door, policy, tls, sockets["dicomweb"]))
    if given["process"] == 0:
        ingests += [
            Folder(
                folder.path, door=door, quiet_seconds=folder.quiet_seconds, keep=folder.keep, sop_classes=STORAGE,
                maximum_instance_bytes=config.dimse.maximum_instance_bytes, transfer_syntaxes=TRANSFER_SYNTAXES,
            )
            for folder in config.folders
        ]  # fmt: skip
    return ingests


def _listeners(
    config: Config, door: Door, policy: Policy, tls: ServerContext | None, sockets: Mapping[str, socket.socket],
    given: Mapping[str, Any],
) -> list[Listener]:  # fmt: skip
    dimse, shared = config.dimse, mmap.mmap(given["shared"], 0)
    limits = Limits(
        policy,
        maximum_associations=dimse.maximum_associations,
        maximum_per_address=dimse.maximum_per_address,
        maximum_half_open=dimse.maximum_half_open,
        process=given["process"],
        processes=dimse.processes,
        shared=memoryview(shared).cast("q"),  # type: ignore[arg-type]
    )
    listen = partial(
        Listener, door=door, policy=policy, limits=limits, maximum_instance_bytes=dimse.maximum_instance_bytes,
        idle_seconds=dimse.idle_seconds, pdu_seconds=dimse.pdu_seconds, association_seconds=dimse.association_seconds,
    )  # fmt: skip
    listeners = [listen(sockets["dimse"])]
    if "dimse_tls" in sockets and tls is not None:
        listeners.append(listen(sockets["dimse_tls"], wrap=partial(_wrapped, tls=tls, seconds=dimse.association_seconds)))
    return listeners


def _wrapped(connection: socket.socket, *, tls: ServerContext, seconds: float) -> tuple[socket.socket, frozenset[str]]:
    secured = handshake(connection, tls.current(), seconds=seconds)
    return secured, names(secured.getpeercert() or {})


def _server(config: Config, door: Door, policy: Policy, tls: ServerContext | None, listening: socket.socket) -> Server:
    return Server(
        listening, door=door, admit=policy.admit_request, tls=tls.current if tls else None, sop_classes=STORAGE,
        transfer_syntaxes=TRANSFER_SYNTAXES,
        limits=dicomweb.Limits(
            config.dimse.maximum_instance_bytes, config.dicomweb.maximum_body_bytes,
            maximum_requests=config.dicomweb.maximum_requests,
        ),
    )  # fmt: skip


if __name__ == "__main__":
    main()
