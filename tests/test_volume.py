import copy
import math
import struct

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGExtended12Bit, JPEGLSLossless, RLELossless

from gateway.dicom.pixels import pixels
from gateway.errors import Unsuitable
from gateway.imaging.volume import arrange, stacked, volume
from tests.synthetic import chest, ct_series


def series(slices=8, **overrides):
    return ct_series(slices, 32, 32, 2.5, **overrides)


def filled(headers):
    stack = stacked(headers)
    return volume(stack, map(pixels, stack.headers))


def refused(headers):
    with pytest.raises(Unsuitable) as error:
        filled(headers)
    return error.value.code, str(error.value)


def moved(dataset, x=0.0, y=0.0, z=0.0):
    dataset.ImagePositionPatient = [a + b for a, b in zip(dataset.ImagePositionPatient, (x, y, z), strict=True)]


def raw(dataset, keyword, vr, value):
    """An element as a file holds it: nothing has looked at its value."""
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)


def hounsfield(slices=8):
    """(slices, rows, columns), the head first as in a volume."""
    return chest(slices, 32, 32)[::-1].astype(np.float32)


def test_a_series_becomes_hounsfield_units_in_patient_coordinates():
    found = filled(series())

    assert found.array.dtype == np.float32
    assert np.array_equal(found.array, hounsfield())
    assert np.allclose(found.affine, [[0, 0, 0.75, -12], [0, 0.75, 0, -12], [-2.5, 0, 0, 17.5], [0, 0, 0, 1]])
    assert found.frame_of_reference_uid == series()[0].FrameOfReferenceUID


def test_volume_and_affine_are_those_of_highdicom():
    headers = series(ImageOrientationPatient=[0.8, 0.6, 0, 0, 0, -1])
    for n, header in enumerate(headers):
        header.ImagePositionPatient = [-0.6 * n * 3, 0.8 * n * 3, 7]

    ours, theirs = filled(headers), hd.get_volume_from_series(headers, dtype=np.float32)

    assert np.array_equal(ours.array, theirs.array)
    assert np.allclose(ours.affine, theirs.affine)


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(8)), st.lists(st.integers(-3, 3), min_size=8, max_size=8))
def test_the_order_of_arrival_and_the_instance_numbers_do_not_matter(order, instance_numbers):
    headers = series()
    for header, number in zip(headers, instance_numbers, strict=True):
        header.InstanceNumber = number

    found = filled([headers[n] for n in order])

    assert np.array_equal(found.array, hounsfield())


@settings(deadline=None, max_examples=40)
@given(st.sets(st.integers(1, 10), min_size=1, max_size=8))
def test_missing_slices_are_counted(gone):
    kept = [header for n, header in enumerate(series(12)) if n not in gone]
    gaps = np.diff([n for n in range(12) if n not in gone])
    if gaps.min() > 1:
        return  # every gap is wider than a slice: a series of that spacing, or an uneven one

    code, reason = refused(kept)

    assert code == "INCOMPLETE"
    assert f"expected a slice every 2.50 mm; {len(gone)} are missing" in reason


def test_a_missing_slice_is_named_by_its_neighbours():
    headers = series()
    del headers[3:5]

    assert refused(headers) == (
        "INCOMPLETE",
        "expected a slice every 2.50 mm; 2 are missing: 2 between 12.50 mm and 5.00 mm",
    )


@pytest.mark.parametrize("jitter", [0.01, -0.02])
def test_spacing_within_one_percent_is_even(jitter):
    headers = series()
    moved(headers[3], z=jitter)

    assert math.isclose(arrange(headers).spacing_mm, 2.5)


def test_uneven_spacing_is_refused():
    headers = series()
    moved(headers[3], z=0.2)

    assert refused(headers) == ("GEOMETRY", "expected evenly spaced slices; they are 2.30 mm to 2.70 mm apart")


def test_one_position_with_two_images_is_refused_and_says_in_what_they_differ():
    headers = series()
    late = copy.deepcopy(headers[2])
    late.AcquisitionNumber, late.SOPInstanceUID = 2, "1.2.3"

    assert refused([*headers, late]) == (
        "GEOMETRY",
        "expected one image at each slice position; at 5.00 mm there are more; they differ in AcquisitionNumber",
    )


def test_acquisition_numbers_may_differ_in_one_volume():
    headers = series()
    for n, header in enumerate(headers):
        header.AcquisitionNumber = n

    assert len(arrange(headers).headers) == 8


@pytest.mark.parametrize("degrees", [0.5, 17, -30])
def test_a_gantry_tilt_is_refused_with_its_degrees(degrees):
    headers = series()
    for n, header in enumerate(headers):
        moved(header, y=n * 2.5 * math.tan(math.radians(degrees)))

    code, reason = refused(headers)

    assert code == "GEOMETRY"
    assert f"tilted by {abs(degrees):.1f} degrees" in reason


def test_a_tilt_that_the_positions_deny_is_refused():
    assert "expected GantryDetectorTilt of 0 degrees" in refused(series(GantryDetectorTilt=5))[1]


def test_a_slice_shifted_in_its_plane_is_refused():
    headers = series()
    moved(headers[4], x=3)

    assert refused(headers) == ("GEOMETRY", "expected slices stacked along their normal; one is shifted by 3.00 mm")


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("PixelSpacing", [0.75, 0.8], "GEOMETRY"),
        ("Rows", 16, "GEOMETRY"),
        ("FrameOfReferenceUID", "1.2.3", "GEOMETRY"),
        ("FrameOfReferenceUID", "", "GEOMETRY"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0.999, 0.0447], "GEOMETRY"),
        ("ImageType", ["DERIVED", "PRIMARY", "AXIAL"], "GEOMETRY"),
        ("EchoTime", 5, "GEOMETRY"),
        ("DiffusionBValue", 1000.0, "GEOMETRY"),
        ("Modality", "MR", "GEOMETRY"),
        ("SeriesInstanceUID", "1.2.3", "IDENTITY"),
        ("StudyInstanceUID", "1.2.3", "IDENTITY"),
        ("PatientID", "canary-id", "IDENTITY"),
        ("IssuerOfPatientID", "OTHER", "IDENTITY"),
    ],
)
def test_instances_that_do_not_belong_together_are_refused_by_keyword(keyword, value, code):
    headers = series()
    setattr(headers[3], keyword, value)

    found, reason = refused(headers)

    assert found == code
    assert keyword in reason
    assert "CANARY" not in reason.upper()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", b"0\\0"),
        ("PixelSpacing", b"-1\\1"),
        ("PixelSpacing", b"NaN\\1"),
        ("PixelSpacing", b"inf\\1"),
        ("PixelSpacing", b"1 "),
        ("PixelSpacing", b"one\\two"),
        ("ImagePositionPatient", b"1\\2"),
        ("ImagePositionPatient", b"1\\2\\nan"),
        ("ImageOrientationPatient", b"0\\0\\0\\0\\0\\0"),
        ("ImageOrientationPatient", b"1\\0\\0\\1\\0\\0"),
        ("ImageOrientationPatient", b"2\\0\\0\\0\\1\\0"),
        ("ImageOrientationPatient", b"1\\0\\0"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS:UserWarning")  # pydicom says so of the values under test
def test_numbers_that_are_no_geometry_are_refused(keyword, value):
    headers = series()
    for header in headers:
        raw(header, keyword, "DS", value)

    code, reason = refused(headers)

    assert code == "GEOMETRY"
    assert keyword in reason


@pytest.mark.parametrize("frames", [b"0 ", b"-1", b"1.5 ", b"many"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR IS:UserWarning")
def test_impossible_numbers_of_frames_are_refused(frames):
    headers = series()
    for header in headers:
        raw(header, "NumberOfFrames", "IS", frames)

    assert refused(headers) == ("GEOMETRY", "expected NumberOfFrames to be a whole number from 1")


@pytest.mark.parametrize(
    "overrides",
    [
        {"NumberOfFrames": 1_000_000_000},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]},
        {"Rows": 0},
        {"Columns": None},
        {"SamplesPerPixel": 3},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"BitsAllocated": 7},
        {"BitsAllocated": 64},
        {"BitsStored": 17},
        {"HighBit": 3},
        {"PixelRepresentation": 2},
        {"RescaleSlope": 0},
        {"RescaleSlope": -1},
        {"RescaleSlope": 1e30},
        {"RescaleSlope": None},
        {"RescaleIntercept": None, "RescaleSlope": None},
        {"RescaleType": "US"},
        {"ModalityLUTSequence": [Dataset()]},
        {"Rows": 65535, "Columns": 65535},
    ],
)
def test_images_that_are_no_plain_slices_are_refused(overrides):
    assert refused(series(**overrides))[0] == "IMAGE"


def test_a_slope_that_is_no_number_is_refused():
    headers = series()
    for header in headers:
        raw(header, "RescaleSlope", "DS", b"NaN ")

    assert refused(headers)[0] == "IMAGE"


@pytest.mark.parametrize("slices", [0, 1])
def test_a_volume_needs_two_slices(slices):
    assert refused(series()[:slices]) == (
        "GEOMETRY",
        f"expected at least 2 slices that are not localizers; there are {slices}",
    )


def test_a_localizer_is_left_out_with_a_note():
    headers = series()
    scout = copy.deepcopy(headers[0])
    scout.ImageType, scout.ImageOrientationPatient, scout.Rows = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [0, 1, 0, 0, 0, -1], 16

    stack = arrange([scout, *headers])

    assert stack.notes == ("1 localizer left out",)
    assert len(stack.headers) == 8


def test_slope_and_intercept_are_those_of_each_slice():
    headers = series(Modality="PT", RescaleType=None)
    for n, header in enumerate(headers):
        header.RescaleSlope, header.RescaleIntercept = n + 0.5, n

    found = filled(headers)

    stored = chest(8, 32, 32) + 1024
    assert np.allclose(found.array[::-1], [stored[n] * (n + 0.5) + n for n in range(8)])


def test_without_a_rescale_other_modalities_keep_their_stored_values():
    found = filled(series(Modality="MR", RescaleSlope=None, RescaleIntercept=None, RescaleType=None))

    assert np.array_equal(found.array, hounsfield() + 1024)


@pytest.mark.parametrize(("padding", "hu"), [(63536, -1024), (-2000, -1024), (0, -1024), (1024, 0), (5000, -1024)])
def test_padding_becomes_air_unless_tissue_can_look_like_it(padding, hu):
    headers = series(PixelPaddingValue=padding)
    stored = padding - 2**16 if padding > 2**15 else padding
    plane = chest(8, 32, 32)[0] + np.int16(1024)
    plane[:4] = stored
    headers[0].PixelData = plane.tobytes()

    assert (filled(headers).array[-1, :4] == hu).all()


def test_a_range_of_padding_becomes_air():
    headers = series(PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    plane = np.full((32, 32), -1995, np.int16)
    headers[0].PixelData = plane.tobytes()

    assert (filled(headers).array[-1] == -1024).all()


def test_unsigned_pixels_are_read_as_such():
    headers = series(PixelRepresentation=0, BitsStored=12, HighBit=11)

    assert np.array_equal(filled(headers).array, hounsfield())


def test_values_outside_bits_stored_are_refused_unless_they_are_padding():
    headers = series(PixelRepresentation=0, BitsStored=12, HighBit=11)
    plane = chest(8, 32, 32)[0].astype(np.uint16) + np.uint16(1024)
    plane[0, 0] = 63536
    headers[0].PixelData = plane.tobytes()

    assert refused(headers) == ("IMAGE", "expected stored values of 12 bits")
    for header in headers:
        header.PixelPaddingValue = 63536
    assert filled(headers).array[-1, 0, 0] == -1024


@pytest.mark.parametrize("length", [0, 2, 32 * 32 * 2 - 1, 32 * 32 * 2 + 2, 32 * 32 * 4])
def test_pixel_data_of_another_length_is_refused(length):
    dataset = series()[0]
    dataset.PixelData = b"\0" * length

    with pytest.raises(Unsuitable, match="expected 2048 bytes of Pixel Data") as error:
        pixels(dataset)

    assert error.value.code == "DECODE"


def test_one_byte_of_padding_after_the_pixels_is_legal():
    dataset = ct_series(2, 3, 3)[0]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = bytes(range(10))

    assert pixels(dataset).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_native_pixels_are_a_view_of_the_bytes():
    dataset = series()[0]

    assert not pixels(dataset).flags.owndata


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_slices_are_the_same_volume(syntax):
    headers = series()
    for header in headers:
        header.compress(syntax, generate_instance_uid=False)

    assert np.array_equal(filled(headers).array, hounsfield())


def test_big_endian_pixels_are_decoded():
    dataset = series()[0]
    expected = pixels(dataset).copy()
    dataset.PixelData = expected.astype(">i2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian

    assert np.array_equal(pixels(dataset), expected)


def test_jpeg_of_12_bits_is_refused_for_want_of_a_decoder_and_not_as_a_bad_file():
    headers = series(2, BitsStored=12, HighBit=11, PixelRepresentation=0)
    frame = b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x20\0\x20\1\1\x11\0\xff\xd9"
    for header in headers:
        header.file_meta.TransferSyntaxUID = JPEGExtended12Bit
        header.PixelData = encapsulate([frame])
        header["PixelData"].VR = "OB"

    assert refused(headers) == ("DECODE", "expected another transfer syntax: there is no decoder of JPEG Extended for 12 bits")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(syntax):
    dataset = series()[0]
    dataset.compress(syntax, generate_instance_uid=False)
    size = b"\0\0\0\x20\0\0\0\x20" if syntax == JPEG2000Lossless else b"\0\x20\0\x20"
    huge = b"\0\0\xff\xff\0\0\xff\xff" if syntax == JPEG2000Lossless else b"\xff\xff\xff\xff"
    dataset["PixelData"].value = dataset.PixelData.replace(size, huge, 1)

    with pytest.raises(Unsuitable, match="expected a codestream of 32 x 32") as error:
        pixels(dataset)

    assert error.value.code == "DECODE"


def test_a_huge_image_out_of_a_few_bytes_is_refused_before_it_is_decoded():
    dataset = series()[0]
    dataset.Rows = dataset.Columns = 65535
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset["PixelData"].value = encapsulate([b"\x02\0\0\0" + b"\0" * 498])

    with pytest.raises(Unsuitable, match="expected at most 1000 times the compressed bytes"):
        pixels(dataset)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("damage", ["empty", "truncated", "no item", "length past the end", "noise"])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # a decoder's warnings about the damage under test
def test_damaged_fragments_are_refused(syntax, damage):
    dataset = series()[0]
    dataset.compress(syntax, generate_instance_uid=False)
    data = dataset["PixelData"].value
    dataset["PixelData"].value = {
        "empty": b"",
        "truncated": data[: len(data) // 3],
        "no item": b"\0" * 64,
        "length past the end": data[:8] + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFF) + data[16:],
        "noise": encapsulate([bytes(range(256))]),
    }[damage]

    with pytest.raises(Unsuitable) as error:
        pixels(dataset)

    assert error.value.code == "DECODE"


@pytest.mark.parametrize("syntax", ["", "1.2.3"])
def test_an_unknown_transfer_syntax_is_refused(syntax):
    dataset = series()[0]
    dataset.file_meta.TransferSyntaxUID = syntax

    with pytest.raises(Unsuitable, match="expected a known transfer syntax"):
        pixels(dataset)


def test_an_instance_without_pixels_is_refused():
    dataset = series()[0]
    del dataset.PixelData

    with pytest.raises(Unsuitable, match="expected Pixel Data"):
        pixels(dataset)


@pytest.mark.parametrize("arrays", [[], [np.zeros((32, 32), np.int16)] * 7, [np.zeros((32, 31), np.int16)] * 8])
def test_pixels_that_do_not_fill_the_volume_are_refused(arrays):
    with pytest.raises(Unsuitable, match="expected 8 slices of 32 x 32 pixels"):
        volume(arrange(series()), arrays)


# What the gate says of every series of real data, reviewed by hand: the shape, or code and reason.
NO_IMAGE = "IMAGE: expected images with Rows and Columns of 1 to 65535"
FRAMES = "IMAGE: expected one slice per instance, or an enhanced image with functional groups for its frames"
GREY = "IMAGE: expected slices of PhotometricInterpretation MONOCHROME2"
COLOUR = "IMAGE: expected one sample per pixel, PhotometricInterpretation MONOCHROME1 or MONOCHROME2"
ALONE = "GEOMETRY: expected at least 2 slices that are not localizers; there are 1"
REAL = {
    "ct_chest_ge_lidc0001_nodule_subrange": [(9, 512, 512)],
    "ct_chest_philips_5mm_lungpetctdx_A0001": [(64, 512, 512)],
    "ct_abdomen_siemens_venous_5mm": [(2, 512, 512)],
    "ct_head_phantom_philips_tilted_-18.5": [
        "GEOMETRY: expected slices stacked along their normal; they are tilted by 18.5 degrees"
    ],
    "ct_scout_and_dose_screens_philips": [ALONE.replace("are 1", "are 0"), COLOUR],
    "rtstruct_with_ct": [(2, 512, 512), NO_IMAGE, NO_IMAGE],
    "seg_liver_with_source_ct": [(3, 512, 512), FRAMES, FRAMES],
    "seg_labelmap_and_legacy_enhanced_ct": [FRAMES, FRAMES, *["IMAGE: expected Hounsfield units (RescaleType HU)"] * 2],
    "transfer_syntaxes_ct_chest_slice": [
        "GEOMETRY: expected one volume in the series; ImageType is not the same in all instances"
    ],
    "mr_fmri_ge_repeated_positions": ["GEOMETRY: expected one image at each slice position; at 52.31 mm there are more"],
    "mr_mosaic_siemens_ep2d": ["IMAGE: expected one slice per instance, not a mosaic of slices"],
    "mr_dti_uih_mosaic": [ALONE],
    "mr_multiecho_siemens_phantom": ["GEOMETRY: expected one volume in the series; EchoTime is not the same in all instances"],
    "mr_enhanced_philips_b0map": ["GEOMETRY: expected one volume in the series; ImageType is not the same in all instances"],
    "pt_acrin_flt_2slices_suv": [ALONE, ALONE],
    "cr_chest_fuji_mono1_no_preamble": ["DECODE: expected a known transfer syntax in every instance"],
    "cr_chest_rsna_jpeg_as_sc": [GREY],
    "dx_chest_dog": [(1, 169, 211)],
    "mg_siemens_overlay_out_of_bounds": [(1, 788, 1318)],
    "mg_tomosynthesis_j2k_header": ["GEOMETRY: expected as many items of Per-Frame Functional Groups as NumberOfFrames says"],
    "nm_gated_heart_13frames": [FRAMES],
    "us_multiframe_ybr_sonosite": [FRAMES],
    "us_palette_rle_2frame": [FRAMES],
    "xa_1024_j2k_as_sc": [ALONE],
    "parametric_map_float": ["IMAGE: expected 8, 16 or 32 Bits Allocated, no more Bits Stored, and the High Bit below them"],
    "pr_gsps_overlay_and_luts": [NO_IMAGE, NO_IMAGE],
    "encapsulated_pdf_and_stl": [NO_IMAGE, NO_IMAGE],
    "sr_comprehensive3d_highdicom": [NO_IMAGE, NO_IMAGE],
    "sr_ct_dose_rdsr": [NO_IMAGE, NO_IMAGE, NO_IMAGE],
    "sr_siemens_phoenix": [NO_IMAGE],
    "sr_tid1500_qiicr_seg_rwvm": [NO_IMAGE, NO_IMAGE, FRAMES],
    "charsets": [
        *[ALONE] * 10,
        "GEOMETRY: expected 6 finite numbers in ImageOrientationPatient of every slice",
        GREY,
        "IMAGE: expected Pixel Data in every instance",
        NO_IMAGE,
    ],
    "nasty_small": [
        ALONE,
        ALONE,
        ALONE,
        "GEOMETRY: expected NumberOfFrames to be a whole number from 1",
        "GEOMETRY: expected one image at each slice position; at 6.64 mm there are more",
        "IDENTITY: expected one patient, one study and one series; PatientID is not the same in all instances",
        NO_IMAGE,
        NO_IMAGE,
    ],
}


def said_of(headers):
    try:
        return filled(headers).array.shape
    except Unsuitable as error:
        return f"{error.code}: {error}"


@pytest.mark.parametrize("folder", REAL)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the files are odd on purpose
def test_real_series_are_volumes_or_refused_for_a_reason(folder, real_data):
    groups = {}
    for path in sorted((real_data / folder).iterdir()):
        if path.suffix != ".json":
            dataset = dcmread(path, force=True)
            groups.setdefault(str(dataset.get("SeriesInstanceUID")), []).append(dataset)

    assert sorted(map(str, map(said_of, groups.values()))) == sorted(map(str, REAL[folder]))


@pytest.mark.parametrize(
    "pattern",
    [
        "ct_chest_philips_5mm_lungpetctdx_A0001/*",
        "ct_chest_ge_lidc0001_nodule_subrange/*.dcm",
        "rtstruct_with_ct/ct_*",
        "seg_liver_with_source_ct/0*",
    ],
)
def test_real_volumes_are_those_of_highdicom_but_for_padding(pattern, real_data):
    headers = [dcmread(path) for path in real_data.glob(pattern)]

    ours, theirs = filled(headers), hd.get_volume_from_series(headers, dtype=np.float32)

    padded = theirs.array == -3024
    assert np.array_equal(ours.array[~padded], theirs.array[~padded])
    assert (ours.array[padded] == -1024).all()
    assert np.allclose(ours.affine, theirs.affine)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_one_real_slice_is_the_same_in_every_lossless_transfer_syntax(real_data):
    found = {}
    for path in (real_data / "transfer_syntaxes_ct_chest_slice").iterdir():
        dataset = dcmread(path)
        if "LossyImageCompression" not in dataset or dataset.LossyImageCompression != "01":
            found[path.name] = pixels(dataset)

    first = next(iter(found.values()))
    assert len(found) >= 6
    assert all(np.array_equal(first, other) for other in found.values())


def test_whole_numbers_are_the_float_values_rounded_and_held_within_int16() -> None:
    series = ct_series(3)
    for header, slope in zip(series, (1, 1.5, 3.9), strict=True):
        header.RescaleSlope = slope
    stack = arrange(series)
    frames = {header.SOPInstanceUID: pixels(header) for header in series}

    exact = volume(stack, (frames[header.SOPInstanceUID] for header in stack.headers)).array
    whole = volume(stack, (frames[header.SOPInstanceUID] for header in stack.headers), whole_numbers=True).array

    assert whole.dtype == np.int16
    np.testing.assert_array_equal(whole, np.rint(exact).clip(-32768, 32767))
