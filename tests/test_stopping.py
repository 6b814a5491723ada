"""Asked to stop: whoever the signal reaches."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import signal, threading, time
from gateway.machine.stopping import Stop

stop = Stop()
def other():
    time.sleep(0.3)  # until the main thread waits
    signal.pthread_kill(threading.get_ident(), {number})
threading.Thread(target=other, daemon=True).start()
stop.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_kernel_hands_to_another_thread_stops_too(number: signal.Signals) -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM.format(number=int(number))], timeout=20, check=False)

    assert ended.returncode == 0
