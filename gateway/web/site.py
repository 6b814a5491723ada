"""Site: everything that pages and REST lean on, handed to each operation as `here: Here`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import BoundedSemaphore
from typing import Annotated

from fastapi import Depends, Request

from gateway.access.signin import Lives
from gateway.acts.rulebook import Names
from gateway.app import Gateway, now
from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.engine import Queues
from gateway.fetching.take import Surroundings
from gateway.fetching.watch import Watches
from gateway.inference.models import Models
from gateway.roster import Roster
from gateway.serving.doorman import Doorman
from gateway.serving.plan import Plan
from gateway.store import Store
from gateway.telling.metrics import Meter
from gateway.views.pictures import Pictures
from gateway.web.faces import Faces
from gateway.web.health import Health, looks
from gateway.web.limits import Limits
from gateway.web.live import Pulse
from gateway.web.recent import Recent
from gateway.web.shared import Shared
from gateway.web.verification import Verification

_CHANNELS = 128


@dataclass(frozen=True, kw_only=True)
class Site:
    """`doorman` is None where this process does not receive, `is_working` says whether it has a worker."""

    plan: Plan
    roster: Roster
    db: Database
    queues: Queues
    store: Store
    models: Models
    doorman: Doorman | None
    is_working: bool
    executor: str
    clock: Callable[[], datetime]
    pulse: Pulse
    health: Health
    meter: Meter
    pictures: Pictures
    verification: Verification
    around: Surroundings
    """What a door of our own wants, for images that are stored here."""
    recent: Recent = field(default_factory=Recent)
    watches: Watches | None = None
    """Of peers whose series are taken from there; None where this process does not receive."""
    limits: Limits = field(default_factory=Limits)
    faces: Faces = field(default_factory=Faces)
    shared: Shared = field(default_factory=Shared)
    channels: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(_CHANNELS))
    """Of UPS-RS: websockets that are open."""

    @property
    def config(self) -> Config:
        return self.plan.config

    @property
    def setup_file(self) -> Path:
        """Where the secret for the first administrator is, while there is nobody."""
        return self.config.gateway.data_dir / "setup-secret"

    @property
    def peers(self) -> list[str]:
        """Their names."""
        return list(self.roster)

    @property
    def names(self) -> Names:
        """What rules may name: also peers that cannot be used on this machine."""
        return {"pipelines": self.plan.pipelines, "peers": tuple(self.roster.names)}

    @property
    def lives(self) -> Lives:
        web = self.config.web
        return Lives(timedelta(minutes=web.idle_minutes), timedelta(hours=web.session_hours))

    @property
    def is_secure(self) -> bool:
        """Whether browsers come over TLS, ours or that of a proxy in front."""
        return self.config.web.certificate is not None or self.config.web.behind_proxy


def site_of(running: Gateway) -> Site:
    return Site(
        plan=running.plan, roster=running.roster, db=running.db, queues=running.queues, store=running.store,
        models=running.models, doorman=running.doorman, is_working=running.is_working, executor=running.worker.executor,
        clock=now, pulse=Pulse(running.db), meter=running.meter, pictures=Pictures(running.store),
        verification=Verification(running.db, running.config, clock=now),
        health=Health(looks(running.db, running.store, running.models if running.is_working else None, running.doorman)),
        watches=running.watches, around=running.surroundings(),
    )  # fmt: skip


async def _site(request: Request) -> Site:
    found: Site = request.app.state.site
    return found


Here = Annotated[Site, Depends(_site)]
