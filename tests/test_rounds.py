"""Rounds: a thread that looks again and again, which nothing ends but its stop."""

import threading
import time

from structlog.testing import capture_logs

from gateway.machine.rounds import Rounds


def rounds(look, **settings) -> Rounds:
    return Rounds("test", look, **{"again": 0.01, "event": "test.interrupted"} | settings)


def looked(times: int, look=lambda: None):
    """A look that does what `look` does, and an event that is set when it was called so many times."""
    calls, enough = [], threading.Event()

    def one() -> float | None:
        calls.append(time.monotonic())
        if len(calls) >= times:
            enough.set()
        return look()

    return one, enough, calls


def test_it_looks_again_and_again_until_it_is_stopped():
    look, enough, calls = looked(5)
    going = rounds(look)

    going.start()
    assert enough.wait(20)
    going.stop()

    before = len(calls)
    time.sleep(0.1)
    assert len(calls) == before


def test_a_look_says_when_the_next_one_is():
    look, enough, _ = looked(5, lambda: 0.0)
    going = rounds(look, first=0, again=3600)

    going.start()

    assert enough.wait(20)
    going.stop()


def test_what_a_look_raises_is_told_and_ends_nothing():
    def fail() -> None:
        raise KeyError("CANARY")

    look, enough, _ = looked(3, fail)
    with capture_logs() as told:
        going = rounds(look)
        going.start()
        assert enough.wait(20)
        going.stop()

    assert len(told) >= 3
    assert {(one["event"], one["error"]) for one in told} == {("test.interrupted", "KeyError")}
    assert "CANARY" not in str(told)


def test_its_stop_waits_for_the_look_that_is_under_way():
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def look() -> None:
        begun.set()
        may_end.wait(20)
        ended.set()

    going = rounds(look, first=0)
    going.start()
    assert begun.wait(20)
    threading.Timer(0.1, may_end.set).start()

    going.stop()

    assert ended.is_set()


def test_one_that_was_never_started_can_be_stopped():
    look, _, calls = looked(1)

    rounds(look).stop()

    assert calls == []
