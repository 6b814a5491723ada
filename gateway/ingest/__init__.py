"""Ways in: one file per protocol. Each hands instances to `receive` and answers with the status of what that raises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import Refused
from gateway.instance import Incoming, Origin


@dataclass(frozen=True)
class Door:
    """What an ingest does with what comes: `receive` raises Refused, the others are told what happened at the door.

    `instance_refused` is for what never became an Incoming; what `receive` refuses it has written down itself.
    """

    receive: Callable[[Incoming], object]
    instance_refused: Callable[[Origin, Refused], None]
    association_ended: Callable[[str], None]
    association_rejected: Callable[[Origin, str], None]


class Ingest(Protocol):
    """A way in that is open until it is closed; `port` is where it listens."""

    port: int

    def close(self) -> None:
        """Take no more associations and end those that are open."""
        ...
