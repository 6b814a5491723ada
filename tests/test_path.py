"""The whole path with real peers: scanner -> listener -> settle -> run on Triton -> deliver -> PACS."""

import json
import os
import random
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from gateway.decisions.measured import measured
from gateway.rows.tables import Association, DeliveryState, JobState, OutputInstance, SeriesState
from gateway.rows.trail import AuditEvent
from tests.peers_fixture import data_set, data_set_sha256, running_orthanc, running_storescp
from tests.ports import free_port
from tests.radiograph_fixture import MILLIMETRES, radiograph, shadows
from tests.synthetic import ct_series, part10
from tests.world import World, associate, pacs, relay, store

TRITON_ENVIRONMENT = Path(__file__).parent.parent / ".venv-triton"
EVERYTHING = """\
rules:
  - name: chest CT
    when:
      all:
        - {attribute: Modality, is: CT}
        - {attribute: SeriesDescription, is: Axial}
        - {fact: slices, at_least: 2}
    pipeline: bright
    send_to: [PEERS]
  - name: a diverged model
    when: {all: [{attribute: SeriesDescription, is: garbage}]}
    pipeline: garbage
    send_to: [PEERS]
  - name: whatever comes
    when: {all: [{attribute: SeriesDescription, is_not: Axial}, {attribute: SeriesDescription, is_not: garbage}]}
    pipeline: bright
    send_to: [PEERS]
"""

RADIOGRAPHS = "rules: [{name: X-ray, when: {all: [{attribute: Modality, one_of: [CR, DX]}]}, pipeline: shadow, send_to: [PEERS]}]"


@pytest.fixture
def world(database_url: str, tmp_path: Path, triton: str) -> Iterator[World]:
    with World(tmp_path / "world", database_url, triton) as world:
        yield world


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, triton: str) -> Iterator[World]:
    """One gateway for all tests that send a study of their own and look only at what became of it."""
    folder = tmp_path_factory.mktemp("running")
    with World(folder / "world", f"sqlite:///{folder / 'gateway.db'}", triton, rules=EVERYTHING) as world:
        yield world.start()


@contextmanager
def world_with_peer(folder: Path, database_url: str, triton: str, port: int) -> Iterator[World]:
    """Results go to a folder and to an SCP on `port`."""
    peers = (
        {"name": "folder", "protocol": "folder", "path": str(folder / "pacs")},
        {"name": "scp", "protocol": "dimse", "host": "127.0.0.1", "port": port, "ae_title": "SCP"},
    )
    with World(folder, database_url, triton, peers) as world:
        yield world


def results(world: World, series: Sequence[Dataset]) -> list[OutputInstance]:
    with world.database() as db, db() as session:
        found = session.scalars(select(OutputInstance).where(OutputInstance.study_instance_uid == series[0].StudyInstanceUID))
        return sorted(found, key=lambda output: (output.job, output.modality))


def acts(world: World, job: int) -> Counter[str]:
    with world.database() as db, db() as session:
        return Counter(session.scalars(select(AuditEvent.act).where(AuditEvent.job == job)))


def states(world: World, peer: str) -> set[str]:
    return {delivery.state for delivery in world.deliveries() if delivery.peer == peer}


# --- What a scanner sends becomes results in the PACS ---


def test_a_series_becomes_one_segmentation_and_one_report_in_its_own_study(world: World) -> None:
    series = ct_series(12)
    world.start()

    assert world.send(series) == [0x0000] * 12
    world.wait_settled()

    held = [dcmread(path) for path in world.pacs_files()]
    assert sorted(dataset.Modality for dataset in held) == ["SEG", "SR"]
    assert {dataset.StudyInstanceUID for dataset in held} == {series[0].StudyInstanceUID}
    assert {dataset.PatientID for dataset in held} == {series[0].PatientID}


def test_orthanc_sends_a_series_and_holds_its_results_byte_for_byte_by_c_store_and_by_stow(tmp_path: Path, triton: str) -> None:
    series, port = ct_series(6), free_port()
    with running_orthanc(tmp_path, DicomModalities={"gateway": ["AIGATEWAY", "127.0.0.1", port]}) as orthanc:
        peers = (
            {"name": "stored", "protocol": "dimse", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": "ORTHANC"},
            {"name": "stowed", "protocol": "dicomweb", "url": orthanc.dicomweb},
        )
        wanted, url = {"delivery": {"structures": True}}, f"sqlite:///{tmp_path / 'gateway.db'}"
        with World(tmp_path / "world", url, triton, peers, port=port, settings=wanted) as world:
            world.start()
            for ds in series:
                _post(f"{orthanc.url}/instances", part10(ds))

            _post(f"{orthanc.url}/modalities/gateway/store", json.dumps(json.loads(orthanc.get("/studies"))).encode())
            world.wait_ended(series)

            assert Counter((delivery.peer, delivery.state) for delivery in world.deliveries()) == {
                ("stored", "proved"): 3,
                ("stowed", "proved"): 3,
            }
            (study,) = json.loads(orthanc.get("/studies?expand"))
            held = [json.loads(orthanc.get(f"/series/{one}")) for one in study["Series"]]
            assert sorted((one["MainDicomTags"]["Modality"], len(one["Instances"])) for one in held) == [
                ("CT", 6),
                ("RTSTRUCT", 1),
                ("SEG", 1),
                ("SR", 1),
            ]
            for output in results(world, series):
                assert data_set_sha256(orthanc.file(output.sop_instance_uid)) == data_set_sha256(world.store.path(output.sha256))


def test_a_radiograph_gets_its_segmentation_its_area_and_pictures_of_them_back_into_the_pacs(tmp_path: Path, triton: str) -> None:
    image, bright = radiograph(), shadows() > 2000
    with running_orthanc(tmp_path) as orthanc:
        peers = [{"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": "ORTHANC"}]
        settings = {"delivery": {"pictures": True}}
        with World(
            tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton, peers, rules=RADIOGRAPHS, settings=settings
        ) as world:
            assert world.start().send([image]) == [0x0000]
            world.wait_ended([image])

            assert {delivery.state for delivery in world.deliveries()} == {"proved"}
            held = [dcmread(BytesIO(orthanc.file(one.sop_instance_uid))) for one in results(world, [image])]

    page, plane, seg, sr = sorted(held, key=lambda one: (one.Modality, one.InstanceNumber))
    assert page.SeriesInstanceUID == plane.SeriesInstanceUID
    assert plane.SourceImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    pixels = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: bright.size]
    assert (pixels.reshape(bright.shape) == bright).all()
    assert measured(sr).rows == {"Area": [f"{bright.sum() * MILLIMETRES**2:,.1f} mm2"]}


ONLY_PICTURES = """\
[[TransferSyntaxes]]
[Uncompressed]
TransferSyntax1 = LocalEndianExplicit
[[PresentationContexts]]
[Pictures]
PresentationContext1 = SecondaryCaptureImageStorage\\Uncompressed
[[Profiles]]
[OnlyPictures]
PresentationContexts = Pictures
"""


def test_each_peer_is_sent_what_its_table_says_and_one_that_refuses_the_rest_is_told_so(tmp_path: Path, triton: str) -> None:
    (tmp_path / "storescp.cfg").write_text(ONLY_PICTURES)
    (received := tmp_path / "received").mkdir()
    with running_storescp(received, "-xf", str(tmp_path / "storescp.cfg"), "OnlyPictures") as port:
        mini = {"name": "mini", "protocol": "dimse", "host": "127.0.0.1", "port": port, "ae_title": "MINI", "proof": "none"}
        research = {
            "name": "research", "protocol": "folder", "path": str(tmp_path / "world" / "pacs"), "objects": ["segmentations", "reports"],
        }  # fmt: skip
        with World(
            tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton, (mini, research), rules=RADIOGRAPHS,
            settings={"delivery": {"pictures": True, "retry_seconds": 0.1, "retry_at_most_seconds": 0.1}},
        ) as world:  # fmt: skip

            def fates() -> Counter[tuple[str, str]]:
                return Counter((one.peer, one.state) for one in world.deliveries())

            world.start().send([radiograph()])
            before = {("mini", "failed"): 2, ("mini", "sent"): 2, ("research", "proved"): 2, ("research", "unwanted"): 2}
            world.wait_until(lambda: fates() == before)
            seg = next(one for one in world.deliveries() if one.state == DeliveryState.FAILED and "Segmentation" in one.reason)
            assert seg.reason.endswith(
                'where it never takes segmentations: objects = ["reports", "pictures", "structures", "images", "maps"] in its table'
            )

            world.peers = ({**mini, "objects": ["pictures"]}, research)
            world.config.write_text(world.toml())
            world.wait_until(lambda: world.logged("peers.changed"))
            world.send([radiograph(seed=1)])
            after = {("mini", "unwanted"): 2, ("mini", "sent"): 2, ("research", "proved"): 2, ("research", "unwanted"): 2}
            world.wait_until(lambda: fates() == Counter(before) + Counter(after))

            assert "its peer takes pictures only" in world.run("deliveries", "list", "--state", "unwanted").stdout
            said = world.run("deliveries", "resend", "--job", "1", "--to", "mini").stdout
            assert said.count("is failed: left as it is: its peer takes pictures only") == 2
            assert said.count("is queued again") == 2
            world.wait_until(lambda: fates() == Counter(before) + Counter(after))

    assert {dcmread(path).Modality for path in received.iterdir()} == {"OT"}
    assert sorted(dcmread(path).Modality for path in world.pacs_files()) == ["SEG", "SEG", "SR", "SR"]


def test_the_same_series_gives_the_same_uids_in_another_gateway(world: World, tmp_path: Path, triton: str) -> None:
    series = ct_series(6)
    with World(tmp_path / "other", f"sqlite:///{tmp_path / 'other.db'}", triton) as other:
        for one in (world, other):
            one.start()
            one.send(random.Random(3).sample(series, len(series)) if one is other else series)
        for one in (world, other):
            one.wait_settled()

        assert [one.sop_instance_uid for one in results(world, series)] == [
            one.sop_instance_uid for one in results(other, series)
        ]
        assert [one.series_instance_uid for one in results(world, series)] == [
            one.series_instance_uid for one in results(other, series)
        ]


# --- When is a series complete, and what if it comes again ---


def test_a_series_that_is_sent_again_whole_or_in_part_makes_no_second_job(world: World) -> None:
    series = ct_series(6)
    world.start()
    world.send(series)
    world.wait_settled()

    assert world.send(series) == [0x0000] * 6
    assert world.send(series[2:4]) == [0x0000] * 2
    time.sleep(1)
    world.wait_settled()

    story = world.story(series)
    assert (story.series.revision, story.instances, story.versions) == (1, 6, 0)
    assert [job.job.state for job in story.jobs] == [JobState.DONE]
    assert acts(world, story.jobs[0].job.id)["delivery.sent"] == 2
    assert len(world.pacs_files()) == 2


def test_a_late_instance_makes_a_second_job_with_new_uids_that_names_the_one_it_supersedes(world: World) -> None:
    series = ct_series(7)
    world.start()
    world.send(series[:6])
    world.wait_settled()

    world.send(series[6:])
    story = world.wait_ended(series)

    first, second = story.jobs
    assert story.series.revision == second.job.revision == 2
    assert second.job.supersedes == first.job.id
    assert (len(first.inputs), len(second.inputs)) == (6, 7)
    assert [job.job.state for job in story.jobs] == [JobState.DONE, JobState.DONE]
    uids = {output.sop_instance_uid for job in story.jobs for output in job.outputs}
    assert len(uids) == len(world.pacs_files()) == 4


def test_a_series_whose_association_outlasts_the_quiet_time_settles_when_the_association_ends(world: World) -> None:
    series = ct_series(6)
    world.start()
    association = associate(world.port, series)
    assert [store(association, ds) for ds in series] == [0x0000] * 6
    world.wait_until(lambda: all(map(world.held, series)))
    time.sleep(1.5)
    assert world.story(series).series.state == SeriesState.RECEIVING

    association.release()
    world.wait_until(lambda: world.story(series).series.state == SeriesState.COMPLETE, 15)
    story = world.wait_ended(series)

    assert [job.job.state for job in story.jobs] == [JobState.DONE]


def test_two_series_interleaved_on_one_association_are_two_series(world: World) -> None:
    one, other = ct_series(6, seed=1), ct_series(5, seed=2)
    world.start()

    mixed = [ds for pair in zip(one, other, strict=False) for ds in pair] + one[5:]
    assert world.send(mixed) == [0x0000] * 11
    world.wait_settled(2)

    for series in (one, other):
        story = world.story(series)
        assert (story.instances, [job.job.state for job in story.jobs]) == (len(series), [JobState.DONE])


def test_a_series_that_comes_over_several_associations_is_one_series(database_url: str, tmp_path: Path, triton: str) -> None:
    series = ct_series(6)
    settings = {"completeness": {"quiet_seconds": 4}}
    with World(tmp_path / "world", database_url, triton, settings=settings) as world:
        world.start()

        for start, calling in enumerate(("CT1", "CT1", "PACS")):
            world.send(series[start::3], calling=calling)
        world.wait_settled()

        story = world.story(series)
        assert (story.series.revision, story.instances) == (1, 6)
        assert story.series.reason.startswith("3 associations ended")
        assert [job.job.state for job in story.jobs] == [JobState.DONE]


# --- Why ---


def test_our_own_results_that_come_back_start_no_job_and_the_series_says_why(running: World) -> None:
    series = ct_series(6, seed=10)
    running.send(series)
    running.wait_ended(series)
    ours = [dcmread(running.store.path(output.sha256)) for output in results(running, series)]

    assert running.send(ours) == [0x0000] * 2

    for ds in ours:
        assert running.wait_ended([ds]).jobs == []
        shown = running.run("series", "show", ds.SeriesInstanceUID).stdout
        assert "made by this gateway, starts no job" in shown


def test_results_of_another_gateway_start_no_job_and_the_rule_says_why(running: World, tmp_path: Path, triton: str) -> None:
    series = ct_series(6, seed=11)
    with World(tmp_path / "other", f"sqlite:///{tmp_path / 'other.db'}", triton) as other:
        other.start()
        other.send(series)
        other.wait_settled()
        theirs = [dcmread(path) for path in other.pacs_files()]

    assert running.send(theirs) == [0x0000] * 2

    for ds in theirs:
        assert running.wait_ended([ds]).jobs == []
        assert "never start a job" in running.run("series", "show", ds.SeriesInstanceUID).stdout


def test_a_rule_that_does_not_match_is_explained_condition_by_condition(running: World) -> None:
    series = ct_series(1, seed=12, Modality="MR")
    running.send(series)
    running.wait_ended(series)

    shown = running.run("series", "show", series[0].SeriesInstanceUID).stdout

    assert "rule chest CT did not match" in shown
    explained = {line.split(": ", 1)[0].split("line ")[1]: line for line in shown.splitlines() if "line " in line}
    assert "does not hold: expected CT; found MR" in explained["5"]
    assert "holds: expected Axial; the value found is not shown" in explained["6"]  # free text may name a patient
    assert "does not hold: expected at least 2; found 1" in explained["7"]


def test_without_rules_a_series_is_kept_and_said_to_match_none(tmp_path: Path, triton: str) -> None:
    series = ct_series(2)
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton) as world:
        (world.folder / "rules.yaml").unlink()
        world.start()
        world.send(series)
        story = world.wait_ended(series)

        assert story.series.reason.endswith("no rule matched")
        assert story.jobs == []


# --- What cannot be worked on is said to fail, and gives no result ---


def _without_a_slice(series: list[Dataset]) -> None:
    del series[4]


def _tilted(series: list[Dataset]) -> None:
    for n, ds in enumerate(series):
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y + 0.7 * n, z]


def _unevenly_spaced(series: list[Dataset]) -> None:
    for ds in series[4:]:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, z + 0.9]


def _with_a_position_twice(series: list[Dataset]) -> None:
    series[4].ImagePositionPatient = series[3].ImagePositionPatient


@pytest.mark.parametrize(
    ("seed", "break_it", "code", "reason"),
    [
        (20, _without_a_slice, "INCOMPLETE", "expected a slice every 2.50 mm; 1 are missing"),
        (21, _tilted, "GEOMETRY", "they are tilted by"),
        (22, _unevenly_spaced, "GEOMETRY", "expected evenly spaced slices"),
        (23, _with_a_position_twice, "GEOMETRY", "expected one image at each slice position"),
    ],
)
def test_a_series_that_is_no_volume_fails_with_its_reason_and_without_a_result(
    running: World, seed: int, break_it: Callable[[list[Dataset]], None], code: str, reason: str
) -> None:
    series = ct_series(8, seed=seed)
    break_it(series)

    running.send(series)
    if code == "INCOMPLETE":
        _complete_by_hand(running, series)
    story = running.wait_ended(series)

    (job,) = story.jobs
    assert (job.job.state, job.job.code, job.job.attempts) == (JobState.FAILED, code, 1)
    assert reason in job.job.reason
    assert reason in running.run("jobs", "list").stdout
    assert results(running, series) == []


def _complete_by_hand(running: World, series: Sequence[Dataset]) -> None:
    """It would wait for the rest until its deadline."""
    running.wait_until(lambda: running.held(series[-1]) and "are missing" in running.story(series).series.reason)
    shown = running.run("series", "show", series[0].SeriesInstanceUID).stdout
    assert "geometry: expected a slice every 2.50 mm; 1 are missing" in shown
    done = running.run("series", "complete", series[0].SeriesInstanceUID)
    assert done.returncode == 0, done.stderr


def test_a_model_that_answers_garbage_fails_the_job_for_good(running: World) -> None:
    series = ct_series(4, seed=24, SeriesDescription="garbage")

    running.send(series)
    story = running.wait_ended(series)

    (job,) = story.jobs
    assert (job.job.state, job.job.code, job.job.attempts) == (JobState.FAILED, "MODEL_OUTPUT", 1)
    assert results(running, series) == []


# --- Triton that is away ---


def test_a_job_waits_with_a_reason_for_a_triton_that_is_down_and_runs_when_it_is_up(world: World, triton: str) -> None:
    series, port = ct_series(4), free_port()
    world.settings = {"triton": {"url": f"127.0.0.1:{port}"}}
    world.config.write_text(world.toml())
    world.start()
    assert world.send(series) == [0x0000] * 4
    world.wait_until(lambda: any(job.code == "MODEL" and job.state == JobState.QUEUED for job in world.jobs()))
    (waiting,) = world.jobs()
    assert (waiting.code, waiting.reason) == ("MODEL", "Triton or the model is not available (UNAVAILABLE)")
    assert "is due now" in world.run("jobs", "retry", str(waiting.id)).stdout

    with relay(port, triton):
        world.wait_settled()

        assert [job.state for job in world.jobs()] == [JobState.DONE]
        assert len(world.pacs_files()) == 2


def test_an_embedded_triton_that_is_installed_late_or_dies_is_started_for_the_jobs_that_wait(tmp_path: Path) -> None:
    early, late, environment = ct_series(4, seed=1), ct_series(4, seed=2), tmp_path / "environment"
    settings = {"triton": {"environment": str(environment), "models": [str(Path(__file__).parent / "models")]}}
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", "embedded", settings=settings) as world:
        world.start()
        world.send(early)
        world.wait_until(lambda: any("not installed" in job.reason for job in world.jobs()))
        if not TRITON_ENVIRONMENT.exists():
            pytest.skip("needs NVIDIA Triton: run `gateway models install-server`")
        environment.symlink_to(TRITON_ENVIRONMENT)
        world.wait_settled()

        os.kill(world.logged("triton.started")[-1]["pid"], signal.SIGKILL)
        world.send(late)
        world.wait_settled(2)

        assert [job.state for job in world.jobs()] == [JobState.DONE, JobState.DONE]
        assert len(world.logged("triton.revived")) == 1


# --- Peers that are away, busy, or say no ---


def test_a_dead_peer_delays_no_other_and_gets_the_same_instances_when_it_is_back(
    database_url: str, tmp_path: Path, triton: str
) -> None:
    series, port = ct_series(4), free_port()
    with world_with_peer(tmp_path / "world", database_url, triton, port) as world:
        world.start()
        world.send(series)
        world.wait_until(lambda: states(world, "folder") == {DeliveryState.PROVED})
        world.wait_until(lambda: any(delivery.attempts >= 2 for delivery in world.deliveries() if delivery.peer == "scp"))
        dead = [delivery for delivery in world.deliveries() if delivery.peer == "scp"]
        assert {delivery.state for delivery in dead} <= {DeliveryState.QUEUED, DeliveryState.SENDING}
        assert [delivery.reason != "" for delivery in dead].count(True) == 1  # the other waits for it: they are of one study

        with pacs(port) as scp:
            world.wait_settled()

        assert states(world, "scp") == {DeliveryState.PROVED}
        assert sorted(scp.received) == sorted(data_set(path) for path in world.pacs_files())


def test_what_waits_for_a_peer_is_delivered_after_a_stop_and_a_new_start(database_url: str, tmp_path: Path, triton: str) -> None:
    series, port = ct_series(4), free_port()
    with world_with_peer(tmp_path / "world", database_url, triton, port) as world:
        world.start()
        world.send(series)
        world.wait_until(lambda: states(world, "folder") == {DeliveryState.PROVED})

        assert world.stop() == 0
        with pacs(port) as scp:
            world.start()
            world.wait_settled()

        assert sorted(scp.received) == sorted(data_set(path) for path in world.pacs_files())
        assert "executor.dead" not in {line["event"] for line in world.logged("executor.dead")}


def test_a_pacs_that_is_out_of_resources_is_asked_again(database_url: str, tmp_path: Path, triton: str) -> None:
    series, port = ct_series(4), free_port()
    with pacs(port, 0xA700, 0xA700) as scp, world_with_peer(tmp_path / "world", database_url, triton, port) as world:
        world.start()
        world.send(series)
        world.wait_settled()

        deliveries = [delivery for delivery in world.deliveries() if delivery.peer == "scp"]
        assert {(delivery.state, delivery.status) for delivery in deliveries} == {(DeliveryState.PROVED, 0x0000)}
        assert sum(delivery.attempts for delivery in deliveries) == len(scp.received) == 4
        assert len(set(scp.received)) == 2


def test_a_pacs_that_says_no_three_times_fails_the_delivery_until_a_person_sends_it_again(
    database_url: str, tmp_path: Path, triton: str
) -> None:
    series, port = ct_series(4), free_port()
    with pacs(port, 0xC000, 0xC000, 0xC000) as scp, world_with_peer(tmp_path / "world", database_url, triton, port) as world:
        world.start()
        world.send(series)
        world.wait_settled()
        (failed,) = (delivery for delivery in world.deliveries() if delivery.state == DeliveryState.FAILED)
        assert (failed.peer, failed.status, failed.attempts) == ("scp", 0xC000, 3)
        _, line, *told = world.run("deliveries", "list", "--state", "failed").stdout.splitlines()
        assert line.split() == [str(failed.id), str(failed.job), "scp", "failed", "3", "0xC000"]
        assert "the peer does not take it: Cannot Understand (0xC000)" in [one.strip() for one in told]

        assert "queued again" in world.run("deliveries", "retry", str(failed.id)).stdout
        world.wait_settled()

        assert states(world, "scp") == {DeliveryState.PROVED}
        assert len(scp.received) == 5
        assert len(set(scp.received)) == 2


def test_a_second_gateway_on_the_same_folder_refuses_to_start(running: World) -> None:
    second = running.run("serve")

    assert second.returncode == 1
    assert "another gateway serves from this folder" in second.stderr


def _post(url: str, body: bytes) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as answer:
        return answer.read()


def test_an_association_whose_end_was_never_written_is_ended_when_the_listener_no_longer_has_it(
    database_url: str, tmp_path: Path, triton: str
) -> None:
    with World(tmp_path / "world", database_url, triton) as world:
        world.start()
        series = ct_series(2)
        world.send(series)
        world.wait_until(lambda: world.held(series[1]))
        with world.database() as db, db.begin() as session:
            known = session.scalars(select(Association)).one()
            lost = {column.key: getattr(known, column.key) for column in Association.__table__.columns}
            session.add(Association(**(lost | {"id": "lost", "ended_at": None})))

        def has_ended() -> bool:
            with world.database() as db, db() as session:
                return session.get_one(Association, "lost").ended_at is not None

        world.wait_until(has_ended)
