"""The whole path of a study of several series: a PACS sends them, Triton gets two of them, the results go back to the PACS."""

import json
import random
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from gateway.rows.tables import SeriesState
from tests.companion_fixture import RULES, adc, dwi, mr_series, t2
from tests.peers_fixture import running_orthanc
from tests.ports import free_port
from tests.synthetic import part10
from tests.test_path import _post
from tests.validators import dcentvfy, dciodvfy
from tests.world import World

SETTINGS = {"completeness": {"quiet_seconds": 0.3, "study_quiet_seconds": 2}}


def test_orthanc_sends_a_study_in_any_order_and_holds_what_was_made_of_its_series_together(tmp_path: Path, triton: str) -> None:
    main, study = t2(), [t2(), adc(), dwi(), mr_series(9, "localizer", slices=3)]
    random.shuffle(study)
    port = free_port()
    with running_orthanc(tmp_path, DicomModalities={"gateway": ["AIGATEWAY", "127.0.0.1", port]}) as orthanc:
        peers = (
            {"name": "orthanc", "protocol": "dimse", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": "ORTHANC"},
        )
        database = f"sqlite:///{tmp_path / 'gateway.db'}"
        with World(tmp_path / "world", database, triton, peers, port=port, rules=RULES, settings=SETTINGS) as world:
            world.start()
            for ds in random.sample(everything := [ds for series in study for ds in series], len(everything)):
                _post(f"{orthanc.url}/instances", part10(ds))
            _post(f"{orthanc.url}/modalities/gateway/store", json.dumps(json.loads(orthanc.get("/studies"))).encode())
            world.wait_until(lambda: Counter(one.state for one in world.deliveries()) == {"proved": 2})

            (job,) = world.story(main).jobs
            assert (job.job.state, {one.role: one.series_instance_uid for one in job.companions}) == (
                "done", {"adc": "1.2.3.5", "dwi": "1.2.3.6"},
            )  # fmt: skip
            held = {one.modality: dcmread(BytesIO(orthanc.file(one.sop_instance_uid))) for one in job.outputs}
            assert int(held["SEG"].pixel_array.sum()) == 8 * 12 * 4
            check(tmp_path, [main, adc(), dwi()], held)
            shown = world.run("jobs", "show", str(job.job.id)).stdout
            assert "adc: series 1.2.3.5" in shown


def check(folder: Path, study: list[list[Dataset]], held: dict[str, Dataset]) -> None:
    """Other people's programs accept the results, and find one study in all of it."""
    paths = []
    for number, ds in enumerate([*(ds for series in study for ds in series), held["SEG"], held["SR"]]):
        paths.append(folder / f"{number}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)

    assert (dciodvfy(paths[-2]), dciodvfy(paths[-1]), dcentvfy(paths)) == ([], [], [])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_series_that_lacks_its_companion_waits_for_it_and_says_so(tmp_path: Path, database_url: str, triton: str) -> None:
    with World(tmp_path / "world", database_url, triton, rules=RULES, settings=SETTINGS) as world:
        world.start()
        world.send(t2())
        world.wait_ended(t2())
        world.wait_until(lambda: world.story(t2()).series.held == "lacking")
        assert "it lacks adc (rules know none of the 1 series of its study as that)" in world.run("series", "held").stdout

        world.send(adc())
        world.wait_until(lambda: len(world.pacs_files()) == 2)

        story = world.story(t2())
        assert (story.series.state, story.series.held, [one.job.state for one in story.jobs]) == (
            SeriesState.COMPLETE,
            "",
            ["done"],
        )
        assert "companion adc holds" in world.run("series", "show", "1.2.3.5").stdout
