"""Ways in: one file per protocol. Each hands bytes to the door and answers with the status of what that raises."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


class Ingest(Protocol):
    """A way in that is open until it is closed; `port` is where it listens."""

    port: int

    def close(self) -> None:
        """Take no more, and end what is open."""
        ...


@dataclass(frozen=True)
class Terms:
    """What is taken, where instances come one by one and nothing was agreed on before."""

    sop_classes: Collection[str]
    transfer_syntaxes: Collection[str]
    maximum_instance_bytes: int
    study_instance_uid: str = ""
    """The only one that is taken; empty: any."""
