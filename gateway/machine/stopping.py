"""Asked to stop: Ctrl-C, SIGTERM, or a terminal that is closed."""

import os
import signal
import threading

import structlog

_LOOK_SECONDS = 0.5
_LONGEST_SECONDS = 45.0
"""Less than what systemd and compose.yaml are told to wait: who is kept waiting leaves by itself, and says so."""

_logger = structlog.get_logger()


class Stop:
    """Heeds these signals from its making on; to be made in the main thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._late = threading.Timer(_LONGEST_SECONDS, _cut_off)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup: it is to outlive its terminal
                signal.signal(number, lambda *_: self._asked.set())

    def wait(self) -> None:
        """Until one of them came. From then on the process has so long to get to `leave`."""
        # The kernel may hand a signal to any thread, and Python handles it in the main one, which only sees it when it looks up.
        while not self._asked.wait(_LOOK_SECONDS):
            pass
        self._late.daemon = True
        self._late.start()

    def leave(self) -> None:
        """End the process even if work runs on in it, that ignored its end: whoever lives has taken that over.

        Python would wait for every thread of a pool, whether it is a daemon or not.
        """
        self._late.cancel()
        self._late.join()
        if threading.active_count() > 1:
            os._exit(0)


def _cut_off() -> None:
    """As a kill would: what is acknowledged is durable, and what was begun is begun again."""
    _logger.warning("stop.cut_off", seconds=_LONGEST_SECONDS)
    os._exit(1)
