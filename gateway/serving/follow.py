"""Follow: what a person changed while the gateway serves is seen a second later, in every process of it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Self

from gateway.attempt import AWAY
from gateway.machine.rounds import Rounds

_SECONDS = 1.0


class Follower:
    """Has `look` look every second, while it is entered."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._rounds = Rounds("follow", self._follow, again=_SECONDS, event="follow.interrupted")

    def __enter__(self) -> Self:
        self._rounds.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rounds.stop()

    def _follow(self) -> None:
        with suppress(*AWAY):  # it is seen when the database is back; others tell that it is away
            self._look()
