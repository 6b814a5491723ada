import copy
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from gateway.decisions.arrival import arrival
from gateway.decisions.facts import attributes, facts
from gateway.decisions.rules import load, match
from gateway.decisions.vocabulary import FACTS, FLAG, NUMBER, TEXT, WHOLE, Varying
from gateway.outputs import Equipment
from tests.synthetic import ct_series

OURS = Equipment("Clinical AI", "Gateway", "1.0", "7")


def series(slices=8, **overrides):
    return ct_series(slices, 32, 32, 2.5, **overrides)


def known(headers):
    return facts(headers, equipment=OURS, calling_ae_title="CT1", called_ae_title="AIGATEWAY", ingest="dimse")


def item(**attributes):
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def test_a_regular_series_has_these_facts():
    assert known(series()) == {
        "slices": 8,
        "instances": 8,
        "spacing_mm": 2.5,
        "orientation": "axial",
        "regular": True,
        "volumes": 1,
        "regular_volumes": 1,
        "volume_slices": 8,
        "volume_spacing_mm": 2.5,
        "localizer": False,
        "derived": False,
        "multiframe": False,
        "ours": False,
        "results": False,
        "calling_ae_title": "CT1",
        "called_ae_title": "AIGATEWAY",
        "ingest": "dimse",
    }


def test_facts_are_those_that_rules_may_name_with_their_types():
    types = {TEXT: str, WHOLE: int, NUMBER: float, FLAG: bool}

    found = known(series()) | arrival(datetime(2026, 1, 2, tzinfo=UTC), zone=ZoneInfo("Europe/Berlin"), caller="CT1")

    assert {name: type(value) for name, value in found.items()} == {name: types[kind] for name, kind in FACTS.items()}


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        ([1, 0, 0, 0, 1, 0], "axial"),
        ([1, 0, 0, 0, -1, 0], "axial"),
        ([1, 0, 0, 0, 0.9483237, -0.3173047], "axial"),
        ([1, 0, 0, 0, 0, -1], "coronal"),
        ([0, 1, 0, 0, 0, -1], "sagittal"),
        ([1, 0, 0, 0, 0.70710678, -0.70710678], "oblique"),
    ],
)
def test_orientation_is_named_by_the_nearest_plane(orientation, expected):
    assert known(series(ImageOrientationPatient=orientation))["orientation"] == expected


def test_an_irregular_series_has_no_spacing():
    headers = series()
    del headers[3]

    found = known(headers)

    assert found["regular"] is False
    assert "spacing_mm" not in found
    assert found["slices"] == 7


def test_slices_that_are_not_parallel_have_no_orientation():
    headers = series()
    headers[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    assert "orientation" not in known(headers)


def test_a_localizer_among_slices_is_no_slice_of_theirs():
    headers = series()
    scout = copy.deepcopy(headers[0])
    scout.ImageType, scout.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [0, 1, 0, 0, 0, -1]

    found = known([scout, *headers])

    assert (found["slices"], found["instances"], found["localizer"], found["orientation"]) == (8, 9, False, "axial")


def test_a_series_of_localizers_is_one():
    found = known(series(2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))

    assert (found["localizer"], found["slices"]) == (True, 0)


def test_derived_and_multiframe_are_told():
    found = known(series(1, ImageType=["DERIVED", "SECONDARY", "MPR"], NumberOfFrames=96))

    assert (found["derived"], found["multiframe"], found["slices"], found["regular"]) == (True, True, 96, False)


def test_no_headers_have_facts_that_match_nothing():
    found = known([])

    assert (found["slices"], found["regular"], found["localizer"]) == (0, False, False)


@pytest.mark.parametrize(
    "overrides",
    [
        {"Manufacturer": OURS.manufacturer, "ManufacturerModelName": OURS.model_name},
        {
            "ContributingEquipmentSequence": [
                item(Manufacturer="Scanner"),
                item(Manufacturer=OURS.manufacturer, ManufacturerModelName=OURS.model_name, SoftwareVersions="0.1"),
            ]
        },
    ],
)
def test_what_this_gateway_made_is_ours_whatever_its_version(overrides):
    assert known(series(1, **overrides))["ours"] is True


def test_one_result_in_a_series_is_enough():
    headers = series()
    headers[7].Manufacturer, headers[7].ManufacturerModelName = OURS.manufacturer, OURS.model_name

    assert known(headers)["ours"] is True


@pytest.mark.parametrize(
    ("modality", "sop_class_uid"),
    [
        ("SEG", "1.2.840.10008.5.1.4.1.1.66.4"),
        ("SEG", "1.2.840.10008.5.1.4.1.1.66.7"),
        ("SR", "1.2.840.10008.5.1.4.1.1.88.34"),
        ("KO", "1.2.840.10008.5.1.4.1.1.88.59"),
        ("PR", "1.2.840.10008.5.1.4.1.1.11.1"),
        ("CT", "1.2.840.10008.5.1.4.1.1.66.4"),
        ("SR", "1.2.840.10008.5.1.4.1.1.2"),
    ],
)
def test_results_are_known_by_modality_or_sop_class_and_never_match(modality, sop_class_uid):
    rule_set = load(
        f"rules: [{{name: a, when: {{all: [{{attribute: Modality, is: {modality}}}]}}, pipeline: p, send_to: [q]}}]",
        pipelines=["p"],
        peers=["q"],
    )
    headers = series(1, Modality=modality, SOPClassUID=sop_class_uid)

    (outcome,) = match(rule_set, attributes(headers, rule_set.keywords), known(headers))

    assert not outcome.matched
    assert outcome.conditions[1].held


def test_attributes_are_plain_values_by_their_kind():
    keywords = ["Modality", "SliceThickness", "Rows", "ImageType", "PixelSpacing", "ContrastBolusAgent", "PatientName"]

    found = attributes(series(), keywords)

    assert found == {
        "Modality": "CT",
        "SliceThickness": 2.5,
        "Rows": 32,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PixelSpacing": [0.75, 0.75],
        "ContrastBolusAgent": None,
        "PatientName": "CANARY^NAME",
    }
    assert [type(value) for value in found.values()] == [str, float, int, list, list, type(None), str]


def test_attributes_that_differ_are_varying():
    headers = series(3)
    headers[1].SliceThickness, headers[2].ImageType = 5, ["DERIVED", "PRIMARY"]
    del headers[2].SliceThickness

    found = attributes(headers, ["SliceThickness", "ImageType", "InstanceNumber"])

    assert found == {
        "SliceThickness": Varying((2.5, 5.0, None)),
        "ImageType": Varying((["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "PRIMARY"])),
        "InstanceNumber": Varying((1, 2, 3)),
    }


def test_the_same_value_written_differently_does_not_vary():
    headers = series(2)
    headers[1].SliceThickness = "2.50"

    assert attributes(headers, ["SliceThickness"]) == {"SliceThickness": 2.5}


def test_a_path_collects_the_values_of_all_items():
    agents = [item(CodeValue="A", CodingSchemeDesignator="X"), item(CodeValue="B"), item()]

    found = attributes(
        series(2, ContrastBolusAgentSequence=agents),
        ["ContrastBolusAgentSequence/CodeValue", "ContrastBolusAgentSequence/CodeMeaning", "ContrastBolusAgentSequence"],
    )

    assert found == {
        "ContrastBolusAgentSequence/CodeValue": ["A", "B"],
        "ContrastBolusAgentSequence/CodeMeaning": None,
        "ContrastBolusAgentSequence": True,
    }


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("SliceThickness", "DS", b"NaN "),
        ("SliceThickness", "DS", b"inf "),
        ("SliceThickness", "DS", b"thin"),
        ("SliceThickness", "DS", b"1\\2 "),
        ("NumberOfFrames", "IS", b"12.5"),
        ("NumberOfFrames", "IS", b"many"),
        ("Rows", "US", b"\x01"),
        ("Modality", "CS", b"  "),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # pydicom warns of the values under test
def test_what_cannot_be_read_is_missing(keyword, vr, value):
    headers = series(2)
    for header in headers:
        tag = Tag(keyword)
        header[tag] = RawDataElement(tag, vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)

    assert attributes(headers, [keyword]) == {keyword: None}
    assert known(headers)["regular"] is (keyword in ("SliceThickness", "Modality"))


def test_padding_of_text_is_not_its_value():
    assert attributes(series(1, Modality="CT ", ImageType=["DERIVED ", "PRIMARY"]), ["Modality", "ImageType"]) == {
        "Modality": "CT",
        "ImageType": ["DERIVED", "PRIMARY"],
    }


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the files are odd on purpose
def test_every_real_file_has_facts(real_data):
    folders = [folder for folder in real_data.iterdir() if folder.is_dir()]

    for folder in folders:
        headers = [dcmread(path, force=True) for path in folder.iterdir() if path.suffix != ".json"]
        found = known(headers)
        assert found["instances"] == len(headers)
        attributes(headers, ["Modality", "ImageType", "SliceThickness", "Rows", "PatientName", "StudyDate", "SOPInstanceUID"])

    assert len(folders) > 30


def test_real_series_are_told_apart(real_data):
    def of(pattern):
        found = known([dcmread(path) for path in real_data.glob(pattern)])
        return tuple(found.get(name) for name in ("slices", "orientation", "regular", "localizer", "results"))

    assert of("ct_chest_philips_5mm_lungpetctdx_A0001/*") == (64, "axial", True, False, False)
    assert of("ct_head_phantom_philips_tilted_-18.5/*") == (3, "axial", False, False, False)
    assert of("ct_scout_and_dose_screens_philips/I10") == (0, None, False, True, False)
    assert of("seg_liver_with_source_ct/liver.dcm")[4] is True
    assert of("sr_ct_dose_rdsr/*")[4] is True
    assert of("pr_gsps_overlay_and_luts/*")[4] is True
