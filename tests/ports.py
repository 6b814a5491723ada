"""Ports for servers of the tests: each is given once, and lies where no connection that goes out is ever given one.

A port that a kernel chose for us may be chosen again by it before the server listens, for a gateway of another test: then
two of them talk to the wrong one.
"""

import itertools
import os
import socket

FIRST, EACH, WORKERS = 10_000, 2_500, 8
"""From 10000 up to 30000, below the ports that Linux gives by itself (32768 and up): a stretch for each process of the suite."""


def _stretch() -> int:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return FIRST + int(worker) % WORKERS * EACH


# Another run on the same machine begins elsewhere in its stretch.
_ports = (_stretch() + (os.getpid() * 37 + n) % EACH for n in itertools.count())


def free_port() -> int:
    """Of 127.0.0.1, where nobody listens now."""
    for port in _ports:
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError  # the ports never end
