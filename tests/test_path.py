"""The whole path with real peers: scanner -> listener -> settle -> run on Triton -> deliver -> PACS."""

from io import BytesIO
from pathlib import Path

import highdicom as hd
import pytest
from pydicom import dcmread

from tests.synthetic import ct_series
from tests.world import World


@pytest.fixture
def world(database_url: str, tmp_path: Path, triton: str):
    with World(tmp_path / "world", database_url, triton) as world:
        yield world


def test_a_series_becomes_one_segmentation_and_one_report_in_its_own_study(world: World) -> None:
    series = ct_series(12)
    world.start()

    assert world.send(series) == [0x0000] * 12
    world.wait_settled()

    held = [dcmread(path) for path in world.pacs_files()]
    assert sorted(dataset.Modality for dataset in held) == ["SEG", "SR"]
    assert {dataset.StudyInstanceUID for dataset in held} == {series[0].StudyInstanceUID}
