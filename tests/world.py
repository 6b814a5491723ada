"""A whole gateway for tests: real listener, real engine, real Triton; in this process, or in one that can be killed."""

import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification
from sqlalchemy import Select, func, select

from gateway.db import Database, open_database
from gateway.rows.tables import Delivery, DeliveryState, Instance, Job, JobState, Series, SeriesState
from gateway.store import Store
from gateway.views import lists, stories
from gateway.views.wanted import Wanted
from gateway.work.retention import take
from tests.blank import blank
from tests.nursery import Fork, nursery
from tests.ports import free_port
from tests.scp_fixture import ScriptedScp, accepting, add_contexts

HERE = Path(__file__).parent
opened = cache(open_database)
_GO_ON = {
    Series: Series.state != SeriesState.COMPLETE,
    Job: Job.state.not_in((JobState.DONE, JobState.FAILED, JobState.CANCELLED)),
    Delivery: Delivery.state.not_in(
        (DeliveryState.PROVED, DeliveryState.HELD, DeliveryState.FAILED, DeliveryState.CANCELLED, DeliveryState.UNWANTED)
    ),
}
"""Which rows something may still become of."""


def _counts(*these: Select[Any]) -> Select[Any]:
    """How many rows each selects; made once, for it is asked twenty times a second."""
    return select(*(select(func.count()).select_from(one.subquery()).scalar_subquery() for one in these))


_SETTLED = _counts(select(Series), *(select(table).where(on) for table, on in _GO_ON.items()))

RULES = """\
rules:
  - name: chest CT
    when:
      all:
        - {attribute: Modality, is: CT}
        - {fact: slices, at_least: 2}
    pipeline: bright
    send_to: [PEERS]
"""


@dataclass
class World:
    """Where a gateway under test lives. `start()` runs `gateway serve` there, `kill()` ends it with SIGKILL."""

    folder: Path
    database_url: str
    triton: str
    peers: Sequence[Mapping[str, Any]] = ()
    rules: str = RULES
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notices: Sequence[Mapping[str, Any]] = ()
    port: int = 0
    arguments: Sequence[str] = ()
    """Of `gateway serve`."""
    prefix: Sequence[str] = ()
    """What runs it, as `ip netns exec NAME` does."""
    but: str = ""
    """Statements that its process begins with: a patience of the product that is less there."""
    _runs: Iterator[int] = field(default_factory=count)
    _asking: int = 0
    process: Fork | subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.peers = self.peers or ({"name": "pacs", "protocol": "folder", "path": str(self.folder / "pacs")},)
        self.port = self.port or free_port()
        names = ", ".join(str(peer["name"]) for peer in self.peers)
        (self.folder / "rules.yaml").write_text(self.rules.replace("PEERS", names))
        (self.folder / "gateway.toml").write_text(self.toml())
        (self.folder / "pacs").mkdir(exist_ok=True)

    def toml(self) -> str:
        tables: dict[str, dict[str, Any]] = {
            "gateway": {"data_dir": str(self.folder / "var"), "pipelines": [str(HERE / "pipelines")]},
            "dimse": {"port": self.port},
            "web": {"port": 0},
            "database": {
                "url": self.database_url,
                "unsafe": self.database_url.startswith("postgresql"),
            },  # the tests' syncs nothing
            "triton": {"url": self.triton, "shared_memory": True, "timeout_seconds": 60},
            "completeness": {"quiet_seconds": 0.3},
            "delivery": {"retry_seconds": 0.3, "retry_at_most_seconds": 2},
            "rules": {"file": str(self.folder / "rules.yaml")},
            "store": {"keep_free_bytes": 0},
            "log": {"format": "json"},
        }
        for name, values in self.settings.items():
            tables[name] = tables.get(name, {}) | dict(values)
        sections = [f"[{name}]\n" + _toml(values) for name, values in tables.items()]
        sections += [f"[[peers]]\n{_toml(peer)}" for peer in self.peers]
        return "\n".join(sections + [f"[[notices]]\n{_toml(notice)}" for notice in self.notices])

    @property
    def config(self) -> Path:
        return self.folder / "gateway.toml"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    @property
    def store(self) -> Store:
        return Store(Path(self.settings.get("store", {}).get("folder", self.folder / "var" / "store")))

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Who asks while somebody waits for a condition takes a connection that is there: they ask twenty times a second."""
        db = opened(self.database_url.replace("postgresql://", "postgresql+psycopg://"))
        self._asking += 1
        try:
            yield db
        finally:
            self._asking -= 1
            if not self._asking:
                db.kw["bind"].dispose()

    def start(self, *, crash_at: str = "") -> "World":
        environment = os.environ | {"GATEWAY_CRASH_AT": crash_at, "COLUMNS": "400", "TESTS_BUT": self.but}
        arguments = ["serve", *self.arguments, "--config", str(self.config)]
        (self.folder / "log").touch()
        starts = len(self.logged("gateway.started"))
        if self.database_url.startswith("sqlite") and not (file := Path(self.database_url.removeprefix("sqlite:///"))).exists():
            shutil.copy(blank(), file)
        if self.prefix or environment.keys() & {"LD_PRELOAD", "PYTHONPATH"}:  # what counts at the start of a process only
            how = ["-c", f"{self.but}\nfrom gateway import cli\ncli.main()"] if self.but else ["-m", "gateway"]
            command = [*self.prefix, sys.executable, *how, *arguments]
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        else:
            self.process = nursery().start(arguments, environment, self.folder / "log", self.folder / "log")

        def serves() -> bool:
            return len(self.logged("gateway.started")) > starts if self.arguments else bool(self.ingests and self.listens())

        self.wait_until(lambda: serves() or self.process.poll() is not None, 120)
        assert self.process.poll() in {None, -signal.SIGKILL}, self.log[-4000:]
        return self

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def wait_for_death(self) -> int:
        """Until the process has ended by itself; the number of the signal that ended it, negative."""
        assert self.process is not None
        return self.process.wait(60)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    @property
    def ingests(self) -> list[psutil.Process]:
        """The ingest processes."""
        assert self.process is not None
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return [
                one for one in children if one.status() != psutil.STATUS_ZOMBIE and "gateway.serving.doorway" in one.cmdline()
            ]
        return []

    def held(self, ds: Dataset) -> bool:
        """Whether the instance is indexed."""
        with self.database() as db, db() as session:
            return session.get(Instance, ds.SOPInstanceUID) is not None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`gateway ARGUMENTS` with this world's configuration."""
        command = [*arguments, "--config", str(self.config)]
        output, errors = (self.folder / f"{name}-{next(self._runs)}" for name in ("output", "errors"))
        code = nursery().start(command, os.environ | {"COLUMNS": "400"}, output, errors).wait(120)
        return subprocess.CompletedProcess(command, code, output.read_text(), errors.read_text())

    def send(self, series: Sequence[Dataset], *, calling: str = "CT1", called: str = "AIGATEWAY") -> list[int]:
        return send(series, self.port, calling=calling, called=called)

    def wait_until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        with self.database():
            while not condition():
                assert time.monotonic() < end, f"waited {seconds} s in vain\n{self.log[-4000:]}"
                time.sleep(0.05)

    def story(self, series: Sequence[Dataset]) -> stories.SeriesStory:
        with self.database() as db:
            return stories.show_series(db, series[0].SeriesInstanceUID)

    def jobs(self) -> list[Any]:
        with self.database() as db:
            return [row.job for row in lists.jobs(db, Wanted()).rows]

    def deliveries(self) -> list[Any]:
        with self.database() as db:
            return [row.delivery for row in lists.deliveries(db, Wanted()).rows]

    def settled(self, series: int = 1) -> bool:
        """So many series have arrived, each was settled, and everything that followed has ended."""
        arrived, *going_on = self._counted(_SETTLED)
        return arrived >= series and not any(going_on)

    def wait_settled(self, series: int = 1, seconds: float = 90) -> None:
        self.wait_until(lambda: self.settled(series), seconds)

    def wait_ended(self, series: Sequence[Dataset], *, instances: int | None = None) -> stories.SeriesStory:
        """What became of one series, once it holds all `instances` and everything that followed has ended."""
        expected = len(series) if instances is None else instances
        uid = series[0].SeriesInstanceUID

        mine = select(Job.id).where(Job.series_instance_uid == uid)
        whose = {Series: Series.series_instance_uid == uid, Job: Job.id.in_(mine), Delivery: Delivery.job.in_(mine)}
        going_on = [select(table).where(on, whose[table]) for table, on in _GO_ON.items()]
        held = select(Instance).where(Instance.series_instance_uid == uid)
        counts = _counts(held, *going_on)
        self.wait_until(lambda: self._counted(counts) == (expected, *[0] * len(going_on)))
        return self.story(series)

    def _counted(self, counts: Select[Any]) -> tuple[int, ...]:
        with self.database() as db, db() as session:
            return tuple(session.execute(counts).one())

    def pacs_files(self) -> list[Path]:
        return sorted((self.folder / "pacs").rglob("*.dcm"))


def retention_took(world: World, series: Sequence[Dataset]) -> None:
    """Its files, as when their days are over."""
    later, uid = datetime.now(UTC) + timedelta(minutes=1), series[0].SeriesInstanceUID
    with world.database() as db:
        take(uid, later, why="the tests took it", unproving=(), store=world.store, db=db)
        with db() as session:
            assert session.get_one(Series, uid).gone_at


def associate(port: int, series: Sequence[Dataset], *, calling: str = "CT1", called: str = "AIGATEWAY") -> Association:
    """An association for what `series` needs; raises ConnectionError where there is none."""
    ae = AE(calling)
    ae.connection_timeout = 10
    ae.add_requested_context(Verification)
    for sop_class, syntax in sorted({(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in series}):
        ae.add_requested_context(sop_class, syntax)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        raise ConnectionError("no association")
    return association


def send(series: Sequence[Dataset], port: int, *, calling: str = "CT1", called: str = "AIGATEWAY") -> list[int]:
    """C-STORE like a scanner; returns the statuses, -1 where none came. Raises ConnectionError without an association."""
    return send_over(associate(port, series, calling=calling, called=called), series)


def send_over(association: Association, series: Sequence[Dataset]) -> list[int]:
    """As `send`; the association is released, or has ended otherwise."""
    statuses: list[int] = []
    for ds in series:
        statuses.append(_stored(association, ds))
        let_go_on(association)
        if statuses[-1] == -1:  # the other end is gone, and a release would wait for its answer
            association.abort()
            return statuses + [-1] * (len(series) - len(statuses))
    association.release()
    return statuses


def let_go_on(association: Association) -> None:
    """After an answer, until its reactor has gone on: or it takes the next answer, which comes at once, for itself."""
    while association._is_paused and association.is_established:
        time.sleep(0.0005)


def _stored(association: Association, ds: Dataset) -> int:
    try:
        return int(association.send_c_store(ds).get("Status", -1))
    except RuntimeError:  # the other end went between two instances, and pynetdicom has noticed
        return -1


def store(association: Association, ds: Dataset, **changes: Any) -> int:
    """One C-STORE, as broken as `changes` make it: the fields of the request, and `data`, the data set's bytes; -1 without an answer."""
    syntax = ds.file_meta.TransferSyntaxUID
    values = {
        "AffectedSOPClassUID": ds.SOPClassUID,
        "AffectedSOPInstanceUID": ds.SOPInstanceUID,
        "data": encode(ds, syntax.is_implicit_VR, syntax.is_little_endian),
        "context": next(one.context_id for one in association.accepted_contexts if one.abstract_syntax == ds.SOPClassUID),
    } | changes
    request = C_STORE()
    data = values.pop("data")
    request.MessageID, request.Priority, request.DataSet = 1, 2, None if data is None else BytesIO(data)
    context = values.pop("context")
    for field_, value in values.items():
        setattr(request, field_, value)
    association._reactor_checkpoint.clear()  # as send_c_store does: the answer is for us
    while not association._is_paused:
        time.sleep(0.001)
    association.dimse.send_msg(request, context)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    let_go_on(association)
    return answer.Status if answer is not None else -1


@contextmanager
def pacs(port: int, *statuses: int, report_to: tuple[int, str] | None = None) -> Iterator[ScriptedScp]:
    """A PACS that comes up on `port`; `statuses` are its next answers to C-STORE, 0x0000 when there are no more.

    `report_to` (port, AE title) is told what became of the commitments that it is asked for.
    """
    scp = ScriptedScp(list(statuses), port=port, report_to=report_to)
    ae = AE("SCP")
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(Verification)
    add_contexts(ae)
    try:
        with accepting(ae, port, scp.handlers):
            yield scp
    finally:
        for thread in scp.reporting:
            thread.join()


@contextmanager
def relay(port: int, target: str, address: str = "127.0.0.1") -> Iterator[None]:
    """From now on what comes to `port` goes to `target` (host:port), and back: a server that comes up late."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            host, _, number = target.rpartition(":")
            with socket.create_connection((host, int(number))) as onward:
                back = threading.Thread(target=_pour, args=(onward, self.request), daemon=True)
                back.start()
                _pour(self.request, onward)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads, block_on_close = True, True, False

    with Server((address, port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield
        server.shutdown()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _toml(values: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(text, value)) + "]"
        return str(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "".join(f"{key} = {text(value)}\n" for key, value in values.items())
