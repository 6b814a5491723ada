"""Asked to stop: Ctrl-C, SIGTERM, or a terminal that is closed."""

import os
import signal
import threading

_LOOK_SECONDS = 0.5


class Stop:
    """Heeds these signals from its making on; to be made in the main thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup: it is to outlive its terminal
                signal.signal(number, lambda *_: self._asked.set())

    def wait(self) -> None:
        """Until one of them came."""
        # The kernel may hand a signal to any thread, and Python handles it in the main one, which only sees it when it looks up.
        while not self._asked.wait(_LOOK_SECONDS):
            pass

    def leave(self) -> None:
        """End the process even if work runs on in it, that ignored its end: whoever lives has taken that over.

        Python would wait for every thread of a pool, whether it is a daemon or not.
        """
        if threading.active_count() > 1:
            os._exit(0)
