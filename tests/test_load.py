"""What a pipeline gets of a job's files: headers whole, voxels as the modality LUT makes them, whole numbers where it wants them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dicom.lookup import AIR_HU, Lookup
from gateway.errors import Unsuitable
from gateway.imaging.volume import arrange, volume
from gateway.pipeline import Needs
from gateway.store import Store
from gateway.work.load import load
from tests.synthetic import ct_series, part10

STORED = {"int16": (-32768, 32767), "uint16": (0, 65535), "uint8": (0, 255), "int32": (-70000, 70000)}


def loaded(folder: Path, series: list, **needs: object):
    store = Store(folder, keep_free_bytes=0)
    inputs = [(str(ds.SOPInstanceUID), store.put([part10(ds)]).sha256) for ds in series]
    return load(inputs, Needs(modality="CT", slices_at_least=2, spacing_at_most_mm=5, **needs), store)


def test_a_large_attribute_is_kept_in_the_header_of_its_slice_and_fails_nothing(tmp_path: Path) -> None:
    series = ct_series(3)
    for number, ds in enumerate(series):  # an overlay of 1024 x 1024 is larger than what is read at once
        ds.add_new(0x60003000, "OW", bytes([number]) * (1024 * 1024 // 8))

    study, notes = loaded(tmp_path, series)

    expected = {str(ds.SOPInstanceUID): ds[0x60003000].value for ds in series}
    assert {str(one.SOPInstanceUID): one[0x60003000].value for one in study.source} == expected
    assert not [note for note in notes if "Overlay" in note]


@pytest.mark.parametrize("wants", [{}, {"whole_numbers": True}])
def test_voxels_are_hounsfield_units_and_padding_is_air(tmp_path: Path, wants: dict) -> None:
    series = ct_series(3, PixelPaddingValue=-2000)
    for ds in series:
        stored = np.frombuffer(ds.PixelData, "<i2").copy()
        stored[:7] = -2000
        ds.PixelData = stored.tobytes()

    study, _ = loaded(tmp_path, series, **wants)

    assert study.volume.array.dtype == (np.int16 if wants else np.float32)
    assert (study.volume.array[:, 0, :7] == AIR_HU).all()
    last = np.frombuffer(series[-1].PixelData, "<i2").reshape(64, 64)[1:].astype(int) - 1024
    assert (study.volume.array[0, 1:] == last).all()


def test_values_of_another_modality_that_whole_numbers_do_not_hold_are_refused() -> None:
    stack = arrange(ct_series(3, Modality="PT", RescaleSlope=20, RescaleType=None))
    planes = [np.frombuffer(one.PixelData, "<i2").reshape(64, 64) for one in stack.headers]

    with pytest.raises(Unsuitable, match="expected values of -32768 to 32767: the pipeline takes whole numbers") as refused:
        volume(stack, [*planes[:-1], planes[-1] + 2000], whole_numbers=True)

    assert refused.value.code == "IMAGE"
    assert volume(stack, planes, whole_numbers=True).array.dtype == np.int16


@given(
    data=st.data(), kind=st.sampled_from(sorted(STORED)), intercept=st.integers(-70000, 70000) | st.sampled_from([-1024.5, 0.25]),
    slope=st.sampled_from([1.0, 1.0, 2.0, -1.0]), pads=st.none() | st.tuples(st.integers(-40000, 70000), st.integers(0, 9)),
)  # fmt: skip
def test_whole_numbers_made_at_once_are_those_of_the_way_over_float32(data, kind, intercept, slope, pads) -> None:
    low, high = STORED[kind]
    values = data.draw(st.lists(st.integers(low, high) | st.integers(max(low, -9), 9), min_size=4, max_size=4))
    stored = np.array(values, kind).reshape(2, 2)
    table = Lookup(slope, float(intercept), (pads[0], pads[0] + pads[1]) if pads else None)
    exact, made = np.empty((2, 2), np.float32), np.full((2, 2), 77, np.int16)

    table.apply(stored, out=exact)
    done = table.apply_whole(stored, out=made)

    assert (made == (exact if done else 77)).all()
    fits = slope == 1 and float(intercept).is_integer() and min(values) + intercept >= -32768 and max(values) + intercept <= 32767
    assert done == fits


def test_a_volume_in_whole_numbers_is_the_one_in_float32_whatever_way_its_slices_take() -> None:
    series = ct_series(4)
    for ds, intercept in zip(series, (-1024, -1024.5, 31000, -33000), strict=True):
        ds.RescaleIntercept = intercept
    stack = arrange(series)
    planes = [np.frombuffer(one.PixelData, "<i2").reshape(64, 64) for one in stack.headers]

    exact = volume(stack, planes).array
    whole = volume(stack, planes, whole_numbers=True).array

    np.testing.assert_array_equal(whole, np.rint(exact).clip(-32768, 32767))
