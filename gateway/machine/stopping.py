"""Asked to stop: Ctrl-C or SIGTERM."""

import os
import signal
import threading

_LOOK_SECONDS = 0.5


class Stop:
    """Heeds both signals from its making on; to be made in the main thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._asked.set())

    def wait(self) -> None:
        """Until either came."""
        # The kernel may hand a signal to any thread, and Python handles it in the main one, which only sees it when it looks up.
        while not self._asked.wait(_LOOK_SECONDS):
            pass

    def leave(self) -> None:
        """End the process even if work runs on in it, that ignored its end: whoever lives has taken that over."""
        if any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate()):
            os._exit(0)
