"""The desk for work: what a person does with series, jobs, deliveries and peers at the command line.

Apart from the desk where they only ask: whoever acts needs the engine, the peers and what makes DICOM objects, and those take
seconds to be there.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from rich.markup import escape

from gateway import app
from gateway.acts import admin
from gateway.acts.forced import complete_series, hold_series
from gateway.acts.order import order
from gateway.acts.release import release_held, release_series
from gateway.acts.resend import resend
from gateway.acts.retire import retire_peer, waiting
from gateway.acts.retract import retract
from gateway.commands.desk import Desk, in_words, reach
from gateway.configuration.sections import Config
from gateway.db import Database, open_database
from gateway.engine import Queues
from gateway.roster import Roster
from gateway.serving.plan import plan
from gateway.serving.stages import equipment
from gateway.store import Store
from gateway.work.shadow import release_job

T = TypeVar("T")


class WorkDesk(Desk):
    def series_complete(self, series_instance_uid: str) -> None:
        self._act(lambda queues: complete_series(self._db, queues, series_instance_uid, **self._by))

    def series_hold(self, series_instance_uid: str) -> None:
        self._act(lambda _: hold_series(self._db, series_instance_uid, **self._by))

    def series_release(self, series_instance_uid: str | None, why: str) -> None:
        """One, or all that are held (for that reason)."""
        uid = series_instance_uid
        if uid is None:
            self._act(lambda queues: _lines(release_held(self._db, queues, why=why, **self._by)) or "nothing is held")
        else:
            self._act(lambda queues: release_series(self._db, queues, uid, **self._by))

    def jobs_release(self, job: int) -> None:
        self._act(lambda queues: release_job(self._db, queues, job, **self._by))

    def jobs_order(self, series_instance_uid: str, pipeline: str, to: list[str], priority: str) -> None:
        peers = self._roster()
        pipelines = plan(self._config, added=peers, with_rules=False).pipelines

        def ask(queues: Queues) -> str:
            made = order(
                self._db, queues, series_instance_uid, pipeline=pipeline, pipelines=pipelines, send_to=to, peers=peers,
                priority=priority, **self._by,
            )  # fmt: skip
            return str(made)

        self._act(ask)

    def jobs_retry(self, job: int) -> None:
        self._act(lambda queues: admin.retry_job(self._db, queues, job, **self._by))

    def jobs_cancel(self, job: int) -> None:
        self._act(lambda _: admin.cancel_job(self._db, job, **self._by))

    def deliveries_retry(self, delivery: int) -> None:
        peers = self._roster()
        self._act(lambda queues: admin.retry_delivery(self._db, queues, delivery, obstacle=peers.obstacle, **self._by))

    def deliveries_cancel(self, delivery: int) -> None:
        self._act(lambda queues: admin.cancel_delivery(self._db, queues, delivery, **self._by))

    def deliveries_resend(self, sop_instance_uid: str | None, job: int | None, to: str | None) -> None:
        peers = self._roster()
        self._act(
            lambda queues: _lines(
                resend(self._db, queues, job=job, sop_instance_uid=sop_instance_uid, to=to, peers=peers, **self._by)
            )
        )

    def retract(self, what: str, reason: str) -> None:
        """`what`: the number of a job, or the SOP Instance UID of a result."""
        store = Store(self._config.store_folder)
        job, uid = (int(what), None) if what.isdecimal() else (None, what)
        self._act(
            lambda queues: _lines(
                retract(
                    self._db, queues, job=job, sop_instance_uid=uid, reason=reason, **self._by,
                    equipment=equipment(), store=store,
                )
            )
        )  # fmt: skip

    def peers_retire(self, name: str, reason: str, confirm: Callable[[str], object]) -> None:
        """`confirm` is told how many deliveries that is, and raises where a person does not want it."""
        count = waiting(self._db, name)
        if count:
            confirm(f"{count} deliveries to {name} will be given up. Go on?")
        self._act(lambda queues: _lines(retire_peer(self._db, queues, name, reason=reason, count=count, **self._by)))

    def ask_peers(self, ask: Callable[[Database, Roster], T]) -> T:
        return ask(self._db, self._roster())

    def change_peers(self, act: Callable[..., str]) -> None:
        """`act(db, roster, actor=, now=)` is one of peering.py."""
        self._say(act(self._db, self._roster(), **self._by))

    def _roster(self) -> Roster:
        roster = Roster(self._config, self._db)
        roster.refresh()
        return roster

    def _act(self, act: Callable[[Queues], str]) -> None:
        queues = Queues(self._url)
        try:
            self._screen.line(act(queues))
        finally:
            queues.close()


def upgrade(config: Config) -> None:
    """Bring the database's tables up to date, ours and the engine's."""
    reach(config)
    db = open_database(config.database_url)
    try:
        with in_words():
            app.upgrade(config.database_url, db)
    finally:
        db.kw["bind"].dispose()


def _lines(texts: Iterable[str]) -> str:
    return escape("\n".join(texts))
