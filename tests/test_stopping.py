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
    ended = subprocess.run([sys.executable, "-c", PROGRAM.format(number=int(number))], timeout=60, check=False)

    assert ended.returncode == 0


CLOSED = """
import os, signal
{before}
from gateway.machine.stopping import Stop

stop = Stop()
os.kill(os.getpid(), signal.SIGHUP)
{after}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("signal.signal(signal.SIGHUP, signal.SIG_DFL)", "stop.wait()"),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", "assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN"),
    ],
    ids=["closed", "nohup"],
)
def test_a_terminal_that_is_closed_stops_it_in_order_and_nohup_keeps_it(before: str, after: str) -> None:
    ended = subprocess.run([sys.executable, "-c", CLOSED.format(before=before, after=after)], timeout=60, check=False)

    assert ended.returncode == 0


BUSY = """
import os, signal, threading, time
from concurrent.futures import ThreadPoolExecutor
from gateway.machine.stopping import Stop

stop = Stop()
os.kill(os.getpid(), signal.SIGTERM)
stop.wait()
pool = ThreadPoolExecutor()
lane = threading.Thread(target=lambda: pool.submit(time.sleep, 600), daemon=True)  # as the engine's, which its pool's threads copy
lane.start()
lane.join()
stop.leave()
"""


def test_work_that_ignores_its_end_keeps_no_process_alive() -> None:
    assert subprocess.run([sys.executable, "-c", BUSY], timeout=60, check=False).returncode == 0


HELD_UP = """
import os, signal, time
from gateway.machine import stopping

stopping._LONGEST_SECONDS = 0.2
stop = stopping.Stop()
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGTERM)
stop.wait()
time.sleep(600)  # a peer, a mail server or a disk that does not answer
"""


def test_a_stop_that_somebody_holds_up_ends_all_the_same_and_says_so() -> None:
    ended = subprocess.run([sys.executable, "-c", HELD_UP], timeout=60, check=False, capture_output=True, text=True)

    assert ended.returncode == 1
    assert "stop.cut_off" in ended.stdout
