"""Tellers: who is told of what happens besides the trail: the collector of audit messages, people, a collector of traces.

And what each machine tells of itself: that certificates of its own come to their end.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import gateway
from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.telling.certificates import Certificates
from gateway.telling.collector import Collector
from gateway.telling.herald import Herald
from gateway.telling.notices import Addressee
from gateway.telling.traces import Exporter, Traces


class Tellers:
    """From `start` to `stop`; `traces` are for the stages."""

    def __init__(
        self,
        db: Database,
        config: Config,
        *,
        addressees: Iterable[Addressee],
        peers: Callable[[], Sequence[Mapping[str, Any]]],
        clock: Callable[[], datetime],
    ) -> None:
        """`peers()` are their tables as they are now."""
        self.traces = Traces(db, clock=clock, exporter=_exporter(config))
        self._all: list[Collector | Herald | Certificates] = [
            Certificates(db, config, peers=peers, clock=clock),
            Collector(db, config.audit, clock=clock, ae_title=config.dimse.ae_title, peers=peers),
            *(Herald(db, one, clock=clock) for one in addressees),
        ]

    def start(self) -> None:
        for one in self._all:
            one.start()

    def stop(self) -> None:
        """Last of all, because the stop itself is told too."""
        self.traces.close()
        for one in self._all:
            one.stop()


def _exporter(config: Config) -> Exporter | None:
    if not config.tracing.url:
        return None
    from gateway.telling.otlp import Otlp  # noqa: PLC0415 - every start would take longer, for what few ask for

    return Otlp(config.tracing, source=config.audit.source, version=gateway.__version__)
