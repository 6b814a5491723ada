"""Ways in: one file per protocol. Each hands bytes to the door and answers with the status of what that raises."""

from typing import Protocol


class Ingest(Protocol):
    """A way in that is open until it is closed; `port` is where it listens."""

    port: int

    def close(self) -> None:
        """Take no more, and end what is open."""
        ...
