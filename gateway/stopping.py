"""Asked to stop: Ctrl-C or SIGTERM."""

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
