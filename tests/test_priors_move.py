"""Priors by C-MOVE: an archive that knows no C-GET sends them to our own door, and who else says that he was asked is not believed."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove
from sqlalchemy import select

from gateway.configuration.sections import Config
from gateway.dicom import command
from gateway.errors import ConfigError, DeliveryError, Rejected, Unreachable
from gateway.fetching.archives import title_of
from gateway.peers import load_protocols, made, make_peer
from gateway.rows.tables import Association, Instance, JobState
from tests import scanner_fixture
from tests.certificates import Authority
from tests.peers_fixture import Orthanc, running_dcmqrscp, running_orthanc, running_scp
from tests.ports import free_port
from tests.scanner_fixture import us
from tests.scp_fixture import accepting
from tests.test_priors import HELD_THERE, OLDER, PRIOR, RULES, SLICES, comment, dimse, series
from tests.world import World, associate, send, store

CURRENT = series(1, "20260102")


@pytest.fixture(scope="module")
def door() -> int:
    """The port that archives know of ours."""
    return free_port()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, door: int) -> Iterator[Orthanc]:
    modalities = {"gateway": ["AIGATEWAY", "127.0.0.1", door]}
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), DicomModalities=modalities) as running:
        assert set(send(HELD_THERE, running.dicom_port, calling="AIGATEWAY", called="ORTHANC")) == {0x0000}
        yield running


@pytest.fixture(scope="module")
def dcmqrscp(tmp_path_factory: pytest.TempPathFactory, door: int) -> Iterator[int]:
    with running_dcmqrscp(tmp_path_factory.mktemp("dcmqr"), moves_to={"AIGATEWAY": door}) as port:
        assert set(send(HELD_THERE, port, called="DCMQR")) == {0x0000}
        yield port


def moving(port: int, ae_title: str, **more: object) -> dict[str, object]:
    return dimse(port, ae_title) | {"fetch": "move"} | more


@pytest.fixture
def table(request: pytest.FixtureRequest) -> dict[str, object]:
    if request.param == "dcmqrscp":
        return moving(request.getfixturevalue("dcmqrscp"), "DCMQR")
    return moving(request.getfixturevalue("orthanc").dicom_port, "ORTHANC")


def ingests(world: World, of: list[Dataset]) -> list[str]:
    """By which its instances came."""
    mine = select(Association.ingest).join(Instance, Instance.association == Association.id)
    with world.database() as db, db() as session:
        return list(session.scalars(mine.where(Instance.series_instance_uid == of[0].SeriesInstanceUID)))


def world_beside(
    archive: Mapping[str, object], folder: Path, triton: str, port: int, database_url: str = "", **more: object
) -> World:
    peers = ({"name": "pacs", "protocol": "folder", "path": str(folder / "world" / "pacs")}, archive)
    url = database_url or f"sqlite:///{folder / 'gateway.db'}"
    settings = {"priors": {"peers": ["archive"]}, **more}
    return World(folder / "world", url, triton, peers, rules=RULES, settings=settings, port=port)


def assert_compared_once(world: World) -> None:
    (job,) = world.jobs()
    assert (job.state, job.reason) == (JobState.DONE, "")
    assert f"prior {PRIOR[0].SeriesInstanceUID}, 366 days before, from archive" in job.notes
    assert f"1 priors: 366 days before, {SLICES} slices of " in comment(world)
    assert ingests(world, PRIOR) == ["move"] * SLICES
    assert world.story(PRIOR).series.reason.endswith("fetched as a prior for a job, starts none itself")


@pytest.mark.parametrize(
    ("table", "database_url"), [("orthanc", "postgresql"), ("dcmqrscp", "sqlite")], indirect=["table", "database_url"]
)
def test_a_prior_that_an_archive_sends_to_our_door_is_one_and_starts_no_job(table, door, database_url, tmp_path, triton):
    with world_beside(table, tmp_path, triton, door, database_url, dimse={"port": door, "processes": 2}) as world:
        world.start()
        world.send(CURRENT)
        world.wait_settled(2)

        assert_compared_once(world)
        assert world.run("audit", "verify").returncode == 0


Moves = Callable[[evt.Event], Iterator[object]]


@contextmanager
def archive(moves: Moves, *, counts: bool = True, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """One that has PRIOR, says how many instances that are where it `counts`, and answers C-MOVE as told; its port."""
    ae, port = AE("SLOW"), free_port()
    for model in (StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove):
        ae.add_supported_context(model)
    ae.add_supported_context(CTImageStorage)
    ae.add_requested_context(CTImageStorage)

    def on_c_find(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        told = Dataset()
        for element in event.identifier:
            told[element.tag] = PRIOR[0].get(element.tag, element)
        if counts and "NumberOfSeriesRelatedInstances" in told:
            told.NumberOfSeriesRelatedInstances = SLICES
        if event.identifier.QueryRetrieveLevel != "IMAGE":
            yield 0xFF00, told

    handlers = [(evt.EVT_C_FIND, on_c_find), (evt.EVT_C_MOVE, moves), (evt.EVT_C_STORE, lambda _: 0x0000)]
    with accepting(ae, port, handlers, context):
        yield port


def sending(port: int, *instances: Dataset, status: int = 0x0000, pause: Callable[[int], None] = lambda _: None) -> Moves:
    """Sends them, one after another, with a pause before each, then ends with the status; port 0 is where it listens itself."""

    def on_c_move(event: evt.Event) -> Iterator[object]:
        yield "127.0.0.1", port or event.assoc.acceptor.port
        yield len(instances) or 1
        for number, ds in enumerate(instances):
            pause(number)
            yield 0xFF00, ds
        if status:
            yield status, None

    return on_c_move


def move(
    port: int, arrived: Callable[[], int] = lambda: 0, is_stopping: Callable[[], bool] = lambda: False, **more: object
) -> int:
    peer = make_peer(moving(port, "SLOW", **more), protocols=load_protocols())
    return peer.move(PRIOR[0].StudyInstanceUID, PRIOR[0].SeriesInstanceUID, arrived, is_stopping)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (0xA801, Unreachable, r"knows no Move Destination of that name \(0xA801\): expected it to know our AE title AIGATEWAY"),
        (0xA702, Unreachable, r"could not send 1 of its instances \(0xA702\): expected it to know our AE title AIGATEWAY"),
        (0xA701, Unreachable, r"cannot send it now \(0xA701\)"),
        (0xFE00, Unreachable, r"cannot send it now \(0xFE00\)"),
        (0x0122, Unreachable, r"does not let us move .* \(0x0122\)"),
        (0xC001, Rejected, r"does not send it \(0xC001\): expected it to know our AE title AIGATEWAY"),
    ],
)
def test_how_a_move_failed_is_said_in_words(status, error, words):
    with archive(sending(0, status=status)) as port, pytest.raises(error, match=words):
        move(port)


def test_a_count_of_sub_operations_that_is_none_counts_nothing():
    def answer(count: bytes) -> bytes:
        return scanner_fixture.command(
            (0x0100, us(0x8021)), (0x0120, us(1)), (0x0800, us(0x0101)), (0x0900, us(0xB000)), (0x1022, count)
        )

    assert [command.read(answer(count)).failed for count in (us(3), b"", b"\xff" * 8000)] == [3, 0, 0]


def test_archives_say_whom_they_do_not_know_or_do_not_reach(orthanc, dcmqrscp):
    uids = PRIOR[0].StudyInstanceUID, PRIOR[0].SeriesInstanceUID

    def fails(table: dict[str, object]) -> str:
        with pytest.raises(DeliveryError) as raised:
            make_peer(table, protocols=load_protocols()).move(*uids, lambda: 0, lambda: False)
        return str(raised.value)

    assert "knows no Move Destination" in fails(moving(dcmqrscp, "DCMQR", calling_ae_title="NOBODY"))
    assert "could not send 4 of its instances (0xA702)" in fails(moving(dcmqrscp, "DCMQR"))  # nobody listens
    assert "does not send it (0xC000): expected it to know our AE title AIGATEWAY" in fails(moving(orthanc.dicom_port, "ORTHANC"))


def test_a_peer_that_knows_no_c_move_says_what_to_do():
    with running_scp() as scp, pytest.raises(Unreachable, match="does not let us move"):
        make_peer(moving(scp.port, "SCP"), protocols=load_protocols()).move("1.2", "1.2.3", lambda: 0, lambda: False)


def test_only_a_peer_that_moves_is_one_that_may_say_that_we_asked_it():
    peers = {how: make_peer(dimse(104, "PACS ") | {"fetch": how}, protocols=load_protocols()) for how in ("get", "move")}

    assert [title_of(peers, name) for name in ("move", "get", "gone")] == ["PACS", "", ""]


def test_a_probe_tells_how_series_may_come(dcmqrscp):
    found = make_peer(moving(dcmqrscp, "DCMQR"), protocols=load_protocols()).probe()

    assert {"C-GET, Study Root", "C-MOVE, Study Root"} <= {one.what for one in found if one.works}


def test_a_peer_that_tells_nothing_while_it_sends_is_waited_for_as_long_as_instances_come():
    ticks = iter(range(100))

    def on_c_move(event: evt.Event) -> Iterator[object]:
        time.sleep(4.5)  # longer than the timeout
        yield from sending(0, *PRIOR)(event)

    with archive(on_c_move) as port:
        assert move(port, lambda: next(ticks), timeout_seconds=2) == SLICES
        with pytest.raises(Unreachable, match="neither sends more nor says that it has ended, for 2 s"):
            move(port, timeout_seconds=2)


def test_a_move_may_be_asked_for_by_tls(tmp_path):
    authority = Authority(tmp_path / "ca")
    theirs, context = authority.issue("pacs", hosts=("pacs.example",)), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.certificate, theirs.key)

    with running_scp() as scp, archive(sending(scp.port, *PRIOR, pause=lambda _: time.sleep(0.3)), context=context) as port:
        sent = move(port, tls=True, verify=str(authority.certificate))

    assert (sent, len(scp.received)) == (SLICES, SLICES)


def test_a_move_is_cancelled_at_its_deadline():
    begun, cancelled = threading.Event(), threading.Event()

    def on_c_move(event: evt.Event) -> Iterator[object]:
        yield "127.0.0.1", event.assoc.acceptor.port
        yield SLICES
        begun.set()
        while not event.is_cancelled:
            time.sleep(0.05)
        cancelled.set()
        yield 0xFE00, None

    with archive(on_c_move) as port, pytest.raises(Unreachable, match="its deadline came before all of it"):
        move(port, is_stopping=begun.is_set)

    assert cancelled.wait(20)


@pytest.mark.parametrize(
    ("sent", "counts", "came"),
    [(PRIOR[:2], True, f"2 of {SLICES}"), ((), True, f"0 of {SLICES}"), ((), False, "0 of 1"), (OLDER, False, f"0 of {SLICES}")],
)
def test_an_archive_that_says_it_sent_what_did_not_come_is_told_so_and_asked_again(sent, counts, came, door, tmp_path, triton):
    asked: list[None] = []

    def on_c_move(event: evt.Event) -> Iterator[object]:
        asked.append(None)
        yield from sending(door, *(sent if len(asked) == 1 else PRIOR))(event)

    with archive(on_c_move, counts=counts) as port:
        but = "from datetime import timedelta; from gateway.fetching import archives; archives._UNFILED = timedelta(seconds=1)"
        with world_beside(moving(port, "SLOW"), tmp_path, triton, door) as world:
            world.but = but
            world.start()
            world.send(CURRENT)

            words = f"waits for priors: archive: it says that it has sent it, and {came} instances came: expected it to have host"
            world.wait_until(lambda: any(words in job.reason for job in world.jobs()))
            world.wait_until(lambda: all(job.state == JobState.DONE for job in world.jobs()))

            assert len(asked) == 2
            jobs = {job.series_instance_uid: job for job in world.jobs()}
            assert jobs.pop(CURRENT[0].SeriesInstanceUID).notes == [
                f"prior {PRIOR[0].SeriesInstanceUID}, 366 days before, from archive"
            ]
            assert set(jobs) == {one.SeriesInstanceUID for one in sent if sent is OLDER}  # that one nobody had asked for


def test_who_only_says_that_we_asked_is_not_believed(door, tmp_path, triton):
    """The archive of what it was not asked for; somebody else of what the archive was."""
    begun, came = threading.Event(), threading.Event()

    def on_c_move(event: evt.Event) -> Iterator[object]:
        begun.set()
        assert came.wait(90)
        yield from sending(door, *PRIOR)(event)

    with archive(on_c_move) as port, world_beside(moving(port, "SLOW"), tmp_path, triton, door) as world:
        world.start()
        world.send(CURRENT)
        world.wait_until(begun.is_set)
        for calling, originator, instances in (("SLOW", "AIGATEWAY", OLDER), ("CT1", "AIGATEWAY", PRIOR)):
            asked = {"MoveOriginatorApplicationEntityTitle": originator, "MoveOriginatorMessageID": 1}
            association = associate(door, instances, calling=calling)
            assert {store(association, ds, **asked) for ds in instances} == {0x0000}
            association.release()
        came.set()
        world.wait_settled(3)

        expected = {one[0].SeriesInstanceUID for one in (CURRENT, OLDER, PRIOR)}
        assert {job.series_instance_uid for job in world.jobs()} == expected


def test_a_prior_that_comes_after_its_deadline_starts_no_job_either(door, tmp_path, triton):
    def on_c_move(event: evt.Event) -> Iterator[object]:
        yield "127.0.0.1", door
        yield SLICES
        while not event.is_cancelled:
            time.sleep(0.05)
        yield 0xFE00, None

    with archive(on_c_move) as port, world_beside(moving(port, "SLOW"), tmp_path, triton, door) as world:
        world.start()
        world.send(series(7, "20260102", SeriesDescription="anyway"))  # a second
        world.wait_until(lambda: [job.state for job in world.jobs()] == [JobState.DONE], 60)

        association = associate(door, PRIOR, calling="SLOW")
        asked = {"MoveOriginatorApplicationEntityTitle": "AIGATEWAY", "MoveOriginatorMessageID": 1}
        assert {store(association, ds, **asked) for ds in PRIOR} == {0x0000}
        association.release()
        world.wait_settled(2)

        assert world.story(PRIOR).series.reason.endswith("fetched as a prior for a job, starts none itself")
        assert len(world.jobs()) == 1


def test_an_archive_that_does_not_say_that_it_was_asked_counts_as_anybody_who_sends_and_the_log_says_so(door, tmp_path, triton):
    def on_c_move(event: evt.Event) -> Iterator[object]:
        send(PRIOR, door, calling="SLOW")
        yield from sending(0)(event)

    with archive(on_c_move) as port, world_beside(moving(port, "SLOW"), tmp_path, triton, door) as world:
        world.start()
        world.send(CURRENT)
        world.wait_settled(2)

        assert {job.series_instance_uid for job in world.jobs()} == {CURRENT[0].SeriesInstanceUID, PRIOR[0].SeriesInstanceUID}
        (told,) = world.logged("prior.counts_as_sent")
        assert "names no Move Originator" in told["reason"]


def test_what_a_scanner_sends_at_the_same_time_is_worked_on(door, tmp_path, triton):
    middle, came = threading.Event(), threading.Event()

    def pause(number: int) -> None:
        if number == SLICES - 1:
            middle.set()
            assert came.wait(90)

    with archive(sending(door, *PRIOR, pause=pause)) as port, world_beside(moving(port, "SLOW"), tmp_path, triton, door) as world:
        world.start()
        world.send(CURRENT)
        world.wait_until(middle.is_set)
        world.send(PRIOR)
        came.set()
        world.wait_settled(2)

        assert {job.series_instance_uid for job in world.jobs()} == {CURRENT[0].SeriesInstanceUID, PRIOR[0].SeriesInstanceUID}
        assert sorted(ingests(world, PRIOR)) == ["dimse", *["move"] * (SLICES - 1)]


def test_after_a_death_while_a_prior_comes_it_starts_no_job_and_the_job_gets_it(door, tmp_path, triton):
    asked, middle = [], threading.Event()

    def pause(number: int) -> None:
        if len(asked) == 1 and number == 2:
            middle.set()
            time.sleep(2)

    def on_c_move(event: evt.Event) -> Iterator[object]:
        asked.append(None)
        yield from sending(door, *PRIOR, pause=pause)(event)

    with archive(on_c_move) as port, world_beside(moving(port, "SLOW"), tmp_path, triton, door) as world:
        world.start()
        world.send(CURRENT)
        world.wait_until(middle.is_set)
        world.kill()

        world.start()
        world.wait_settled(2)

        assert_compared_once(world)
        assert len(asked) == 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_prior_may_come_in_at_the_door_of_another_machine(orthanc, door, database_url, tmp_path, triton):
    shared = {"store": {"folder": str(tmp_path / "store"), "keep_free_bytes": 0}}
    table = moving(orthanc.dicom_port, "ORTHANC")
    with (
        world_beside(table, tmp_path / "a", triton, door, database_url, **shared) as receives,
        world_beside(table, tmp_path / "b", triton, 0, database_url, **shared) as works,
    ):
        receives.arguments, works.arguments = ("--only", "receive"), ("--only", "work")
        receives.start()
        works.start()
        receives.send(CURRENT)
        works.wait_settled(2)

        assert_compared_once(works)


def test_an_archive_that_callers_do_not_let_in_gives_nothing_and_says_why(dcmqrscp, door, tmp_path, triton):
    with world_beside(
        moving(dcmqrscp, "DCMQR"), tmp_path, triton, door, dimse={"port": door, "calling_ae_titles": ["CT1"]}
    ) as world:
        world.start()
        world.send(CURRENT)

        world.wait_until(lambda: any("could not send 4 of its instances (0xA702)" in job.reason for job in world.jobs()))
        assert world.logged("association.rejected")


def test_a_peer_that_moves_is_asked_under_our_own_ae_title(tmp_path):
    config = Config.model_validate({"gateway": {"data_dir": tmp_path}, "dimse": {"ae_title": "OURS"}})
    table = moving(104, "PACS")

    assert made(table, config=config, protocols=load_protocols()).calling_ae_title == "OURS"
    with pytest.raises(ConfigError, match=r"calling_ae_title: expected the ae_title of \[dimse\]"):
        made(table | {"calling_ae_title": "OTHER"}, config=config, protocols=load_protocols())
    with pytest.raises(ConfigError, match='fetch: expected "get" or "move"'):
        made(table | {"fetch": "push"}, config=config, protocols=load_protocols())


@pytest.mark.parametrize("fetch", ["move", "get"])
def test_a_prior_that_somebody_sends_later_is_worked_on_once(fetch, dcmqrscp, door, tmp_path, triton):
    with world_beside(moving(dcmqrscp, "DCMQR", fetch=fetch), tmp_path, triton, door) as world:
        (world.folder / "rules.yaml").write_text(RULES.replace("is: Axial}", "is: Axial}, {fact: calling_ae_title, is: CT1}"))
        world.start()
        world.send(CURRENT)
        world.wait_settled(2)
        assert len(world.jobs()) == 1

        for _ in range(2):
            world.send(PRIOR)
            world.wait_until(lambda: len(world.jobs()) == 2)
            world.wait_settled(3)

        world.stop()  # everything is filed then
        assert world.settled(3)
        assert sorted(job.series_instance_uid for job in world.jobs()) == sorted(
            one[0].SeriesInstanceUID for one in (CURRENT, PRIOR)
        )
