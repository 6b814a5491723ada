"""A whole gateway in front of a PACS that refuses, loses, aborts, hangs or says no: DCMTK's storescp, which injects these faults.

storescp answers no query, so nothing is ever proved by it; where an answer has to be found, the PACS is a small one of ours.
"""

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import select

from gateway.db import Database, open_database
from gateway.rows.tables import Delivery, DeliveryState, OutputInstance
from gateway.rows.trail import AuditEvent
from tests.archive_fixture import Archive, archive
from tests.peers_fixture import data_set
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.world import World

REFUSES, LOSES, ABORTS_DURING, ABORTS_AFTER = "refuses", "loses", "aborts during", "aborts after"
HANGS, BUSY, FORGETS, WARNS, SILENT = "hangs", "busy", "forgets", "warns", "silent"
SAYS_NO = {0xA900: "says a900", 0xC000: "says c000", 0x0122: "says 0122"}
EVERY = (REFUSES, LOSES, ABORTS_DURING, ABORTS_AFTER, HANGS, BUSY, FORGETS, WARNS, SILENT, *SAYS_NO.values())
TIMES = {"delivery": {"retry_seconds": 0.2, "retry_at_most_seconds": 0.4, "late_hours": 0.0003}}  # late after a second
RULE = """\
  - name: {name}
    when: {{all: [{{attribute: SeriesDescription, is: {name}}}]}}
    pipeline: bright
    send_to: [{name}, beside]
"""


@contextmanager
def storescp(port: int, folder: Path, *options: str) -> Iterator[None]:
    """DCMTK's receiver with a fault, on `port`."""
    if shutil.which("storescp") is None:
        pytest.skip("needs the Debian package dcmtk")
    folder.mkdir(exist_ok=True)
    command = ["storescp", "--fork", "+B", "--output-directory", str(folder), *options, str(port)]
    with (folder.parent / "storescp.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        # Its children sleep on; they are of its session, and nobody else is.
        subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=False)
        process.wait()


class Hospital(World):
    """It is looked at all the time: over connections that stay open."""

    @contextmanager
    def database(self) -> Iterator[Database]:
        yield self._db

    @cached_property
    def _db(self) -> Database:
        return open_database(self.database_url)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._db.kw["bind"].dispose()


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: free_port() for name in EVERY}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, triton: str, ports: dict[str, int]) -> Iterator[World]:
    """One gateway, a peer and a rule for each fault, and beside each of them a folder that has none."""
    folder = tmp_path_factory.mktemp("hospital")
    faulty = [peer(name, port) for name, port in ports.items()]
    beside = {"name": "beside", "protocol": "folder", "path": str(folder / "world" / "pacs")}
    rules = "rules:\n" + "".join(RULE.format(name=name) for name in ports)
    url = f"sqlite:///{folder / 'gateway.db'}"
    with Hospital(folder / "world", url, triton, (*faulty, beside), rules=rules, settings=TIMES) as world:
        yield world.start()


@pytest.fixture(scope="module", autouse=True)
def forgetful(hospital: World, ports: dict[str, int]) -> Iterator[Archive]:
    """It is half a minute until what cannot be found counts as lost: the other tests go on meanwhile."""
    with archive(ports[FORGETS], forgets=True) as pacs:
        sent_to(hospital, FORGETS)
        yield pacs


def peer(name: str, port: int) -> dict[str, object]:
    seconds = 1 if name == HANGS else 20
    return {
        "name": name, "protocol": "dimse", "host": "127.0.0.1", "port": port, "ae_title": "PACS", "timeout_seconds": seconds,
    }  # fmt: skip


def sent_to(world: World, name: str) -> Sequence[Dataset]:
    """A series whose results go to that peer and to the folder; it is worked on when this returns."""
    series = ct_series(2, 16, 16, seed=1000 + EVERY.index(name), SeriesDescription=name)
    assert world.send(series) == [0x0000] * 2
    world.wait_until(lambda: len(deliveries(world, name)) == 2)
    return series


def deliveries(world: World, name: str) -> list[Delivery]:
    """Those to that peer, in their order."""
    with world.database() as db, db() as session:
        return list(session.scalars(select(Delivery).where(Delivery.peer == name).order_by(Delivery.id)))


def states(world: World, name: str) -> list[str]:
    return [one.state for one in deliveries(world, name)]


def attempts(world: World, name: str) -> int:
    return sum(one.attempts for one in deliveries(world, name))


def told(world: World, name: str) -> Counter[str]:
    """The acts that the trail has of that peer."""
    with world.database() as db, db() as session:
        events = session.scalars(select(AuditEvent).where(AuditEvent.act.like("delivery.%")))
        return Counter(event.act for event in events if event.detail.get("peer") == name)


def stored(world: World, name: str) -> list[tuple[str, bytes]]:
    """What we hold for that peer: UID and data set of each, in the order in which they were to go."""
    with world.database() as db, db() as session:
        outputs = [session.get_one(OutputInstance, one.sop_instance_uid) for one in deliveries(world, name)]
        return [(one.sop_instance_uid, data_set(world.store.path(one.sha256))) for one in outputs]


def beside(world: World, name: str) -> list[str]:
    """The states of what the same job has for the folder."""
    jobs = {one.job for one in deliveries(world, name)}
    return [one.state for one in deliveries(world, "beside") if one.job in jobs]


def wait_for(world: World, name: str, *expected: DeliveryState) -> None:
    world.wait_until(lambda: states(world, name) == list(expected))


PROVED, SENT, FAILED = DeliveryState.PROVED, DeliveryState.SENT, DeliveryState.FAILED
OPEN = {DeliveryState.QUEUED, DeliveryState.SENDING}


# --- It is away, or as good as away (F30, F32, F33, F34) ---


@pytest.mark.parametrize(
    ("name", "option"), [(REFUSES, "--refuse"), (ABORTS_DURING, "--abort-during"), (ABORTS_AFTER, "--abort-after")]
)
def test_who_refuses_or_aborts_is_tried_again_and_told_of_and_gets_the_same_bytes_once_it_is_well(
    hospital: World, ports: dict[str, int], tmp_path: Path, name: str, option: str
) -> None:
    with storescp(ports[name], tmp_path / "ill", option):
        sent_to(hospital, name)
        hospital.wait_until(lambda: attempts(hospital, name) >= 4)
        hospital.wait_until(lambda: told(hospital, name)["delivery.late"] == 1)
        assert set(states(hospital, name)) <= OPEN
        assert told(hospital, name)["delivery.sent"] == 0

    with archive(ports[name]) as pacs:
        wait_for(hospital, name, PROVED, PROVED)

    assert pacs.received == stored(hospital, name)
    assert beside(hospital, name) == [PROVED] * 2


def test_who_hangs_is_left_after_its_timeout_and_holds_up_nobody_else(
    hospital: World, ports: dict[str, int], tmp_path: Path
) -> None:
    with storescp(ports[HANGS], tmp_path / "ill", "--sleep-during", "600"):
        sent_to(hospital, HANGS)
        hospital.wait_until(lambda: beside(hospital, HANGS) == [PROVED] * 2)
        hospital.wait_until(lambda: attempts(hospital, HANGS) >= 2)
        assert set(states(hospital, HANGS)) <= OPEN
        first = deliveries(hospital, HANGS)[0]
        assert "no answer within 1 s" in first.reason

    with archive(ports[HANGS]) as pacs:
        wait_for(hospital, HANGS, PROVED, PROVED)

    assert pacs.received == stored(hospital, HANGS)


def test_who_is_out_of_resources_for_long_is_asked_again_and_again_and_gets_everything_in_its_order(
    hospital: World, ports: dict[str, int]
) -> None:
    with archive(ports[BUSY], *[0xA700] * 9) as pacs:
        sent_to(hospital, BUSY)
        wait_for(hospital, BUSY, PROVED, PROVED)

    first, second = stored(hospital, BUSY)
    assert pacs.received == [first] * 10 + [second]
    assert told(hospital, BUSY)["delivery.retried"] == 9
    assert told(hospital, BUSY)["delivery.late"] >= 1
    assert [one.attempts for one in deliveries(hospital, BUSY)] == [10, 1]


# --- It says that it took it (F31, F32, F36) ---


def test_what_is_accepted_and_lost_is_never_called_proved(hospital: World, ports: dict[str, int], tmp_path: Path) -> None:
    with storescp(ports[LOSES], tmp_path / "ill", "--ignore"):
        sent_to(hospital, LOSES)
        wait_for(hospital, LOSES, SENT, SENT)
        hospital.wait_until(lambda: all(one.looks >= 3 for one in deliveries(hospital, LOSES)))

    assert [path for path in (tmp_path / "ill").iterdir() if path.stat().st_size] == []
    for one in deliveries(hospital, LOSES):
        assert (one.state, one.status, one.proved_at, one.proof) == (SENT, 0x0000, None, "")
        assert one.reason.startswith("not proved yet: ")
    assert told(hospital, LOSES)["delivery.proved"] == 0


def test_what_cannot_be_found_is_sent_again_and_a_person_is_alarmed(hospital: World, forgetful: Archive) -> None:
    hospital.wait_until(lambda: told(hospital, FORGETS)["delivery.lost"] >= 1, 90)
    assert told(hospital, FORGETS)["delivery.proved"] == 0

    forgetful.forgets = False
    wait_for(hospital, FORGETS, PROVED, PROVED)

    assert set(forgetful.received) == set(stored(hospital, FORGETS))
    assert len(forgetful.received) > 2
    assert {one["peer"] for one in hospital.logged("delivery.lost")} == {FORGETS}


def test_what_was_stored_without_an_answer_is_asked_for_and_not_sent_again(hospital: World, ports: dict[str, int]) -> None:
    with archive(ports[SILENT], silent=2) as pacs:
        sent_to(hospital, SILENT)
        wait_for(hospital, SILENT, PROVED, PROVED)

    assert pacs.received == stored(hospital, SILENT)
    assert [one.attempts for one in deliveries(hospital, SILENT)] == [2, 2]


def test_an_answer_that_is_lost_with_the_instance_makes_one_copy_in_the_end(
    database_url: str, tmp_path: Path, triton: str
) -> None:
    port = free_port()
    rules = "rules:\n" + RULE.format(name=ABORTS_AFTER).replace(", beside", "")
    with World(
        tmp_path / "world", database_url, triton, (peer(ABORTS_AFTER, port),), rules=rules, settings=TIMES
    ) as world, archive(port, silent=3, forgets=True) as pacs:  # fmt: skip
        world.start()
        sent_to(world, ABORTS_AFTER)
        world.wait_until(lambda: pacs.silent == 0)
        pacs.forgets = False
        wait_for(world, ABORTS_AFTER, PROVED, PROVED)

        first, second = stored(world, ABORTS_AFTER)
        assert pacs.received.count(first) >= 3
        assert set(pacs.received) == {first, second}
        assert pacs.held == dict([first, second])
        assert told(world, ABORTS_AFTER)["delivery.proved"] == 2


def test_a_warning_is_a_success_that_is_remembered(hospital: World, ports: dict[str, int]) -> None:
    with archive(ports[WARNS], 0xB000) as pacs:
        sent_to(hospital, WARNS)
        wait_for(hospital, WARNS, PROVED, PROVED)

    assert pacs.received == stored(hospital, WARNS)
    assert [one.status for one in deliveries(hospital, WARNS)] == [0xB000, 0x0000]
    assert told(hospital, WARNS)["delivery.failed"] == 0


# --- It says no (F35) ---


@pytest.mark.parametrize("status", SAYS_NO)
def test_of_a_study_only_the_object_that_is_refused_fails_and_is_shown(
    hospital: World, ports: dict[str, int], status: int
) -> None:
    name = SAYS_NO[status]
    with archive(ports[name], *[status] * 3) as pacs:
        sent_to(hospital, name)
        wait_for(hospital, name, FAILED, PROVED)

    first, second = stored(hospital, name)
    assert pacs.received == [first] * 3 + [second]
    failed, _ = deliveries(hospital, name)
    assert (failed.status, failed.attempts) == (status, 3)
    assert told(hospital, name)["delivery.failed"] == 1
    shown = hospital.run("deliveries", "list", "--state", "failed").stdout
    assert f"0x{status:04X}" in shown
    assert beside(hospital, name) == [PROVED] * 2
