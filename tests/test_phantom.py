"""The phantom is a chest CT that validators accept, whose truth is known."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from gateway.imaging.phantom import chest_ct
from gateway.imaging.volume import arrange
from tests import validators
from tests.synthetic import lung_volumes_ml, part10

NOW = datetime(2026, 1, 2, 10, 11, 12, tzinfo=UTC)
SMALL = {"slices": 80, "rows": 128, "columns": 128}


@pytest.fixture(scope="module")
def series() -> list[Dataset]:
    return list(chest_ct(now=NOW, **SMALL))


def hounsfield(series: list[Dataset]) -> np.ndarray:
    return np.stack([instance.pixel_array.astype(int) + int(instance.RescaleIntercept) for instance in series])


def test_every_instance_pleases_the_validators(series: list[Dataset], tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.dcm" for n in range(len(series))]
    for path, instance in zip(paths, series, strict=True):
        path.write_bytes(part10(instance))

    assert [] == validators.dciodvfy(paths[0]) + validators.dciodvfy(paths[-1])
    assert [] == validators.dcentvfy(paths)


def test_it_is_one_regular_stack(series: list[Dataset]) -> None:
    stack = arrange(series)

    assert (80, 4.0) == (len(stack.headers), stack.spacing_mm)


def test_the_same_arguments_give_the_same_bytes(series: list[Dataset]) -> None:
    again = next(chest_ct(now=NOW, **SMALL))
    other = next(chest_ct(now=NOW, seed=1, **SMALL))

    assert part10(series[0]) == part10(again)
    assert series[0].SOPInstanceUID != other.SOPInstanceUID


def test_it_holds_what_a_chest_holds(series: list[Dataset]) -> None:
    volume = hounsfield(series)
    middle = volume[len(series) // 2]

    assert -1024 <= volume.min() < -980
    assert 300 < volume.max()
    assert -890 < np.median(volume[(volume > -950) & (volume < -700)]) < -830
    assert (middle[:, 64] > 100).any()  # the spine
    assert (volume[-1, :, 54:74] < -900).sum() > (volume[-1, :, 50:54] < -900).sum()  # the trachea


def test_emphysema_lies_in_the_upper_half(series: list[Dataset]) -> None:
    volume = hounsfield(series)[:, 30:78, 16:112]
    dark = (volume < -940) & (volume > -985)
    upper, lower = dark[44:66].sum(), dark[18:40].sum()

    assert upper > 2 * lower


def test_the_true_volumes_are_those_of_an_adult() -> None:
    right, left = lung_volumes_ml(**SMALL)
    finer = lung_volumes_ml(slices=80, rows=256, columns=256)

    assert 1500 < left < right < 3500
    assert finer == pytest.approx((right, left), rel=0.01)
