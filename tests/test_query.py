"""QIDO-RS queries: what is asked, and what fits it (PS3.18 10.6, PS3.4 C.2.2.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from gateway.dicom.query import LIMIT, LIMIT_AT_MOST, BadQuery, fits, glob, parse


def header(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def test_a_query_is_read_by_keyword_and_by_tag() -> None:
    query = parse([("PatientID", "P1"), ("00080060", "CT"), ("includefield", "SeriesDescription,00081030"), ("offset", "7")])

    assert query.wanted == {"PatientID": "P1", "Modality": "CT"}
    assert query.include == ("SeriesDescription", "StudyDescription")
    assert (query.limit, query.offset) == (LIMIT, 7)


def test_a_page_is_never_longer_than_the_longest() -> None:
    assert parse([("limit", "999999")]).limit == LIMIT_AT_MOST


@pytest.mark.parametrize(
    "pairs",
    [
        [("limit", "-1")],
        [("limit", "1e3")],
        [("offset", "x")],
        [("NoSuchKeyword", "1")],
        [("12345678", "1")],
        [("PatientName", "a\0b")],
        [("PatientName", "x" * 9000)],
        [("StudyInstanceUID", "1.2.3' OR '1'='1")],
        [("StudyDate", "20200101-2021-01-01")],
        [("ReferencedSeriesSequence", "1")],
        [("PatientName", "*")] * 51,
    ],
    ids=lambda pairs: pairs[0][0],
)
def test_what_is_no_query_is_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(BadQuery, match="expected"):
        parse(pairs)


@pytest.mark.parametrize(
    ("keyword", "value", "wanted", "expected"),
    [
        ("PatientName", "Doe^Jane", "doe*", True),
        ("PatientName", "Doe^Jane", "D?e^J*", True),
        ("PatientName", "Doe^Jane", "Doe", False),
        ("PatientName", "Doe^Jane", "", True),
        ("StudyDate", "20200315", "20200101-20201231", True),
        ("StudyDate", "20200315", "-20200314", False),
        ("StudyDate", "20200315", "20200315-", True),
        ("StudyDate", "20200315", "20200315", True),
        ("StudyDate", "", "20200101-", False),
        ("StudyInstanceUID", "1.2.3", "1.2.4,1.2.3", True),
        ("StudyInstanceUID", "1.2.3", "1.2.4\\1.2.5", False),
        ("StudyInstanceUID", "1.2.3", "1.2", False),
        ("InstanceNumber", "12", "12", True),
        ("ModalitiesInStudy", ["CT", "SEG"], "SEG", True),
        ("Modality", "CT", "MR", False),
    ],
)
def test_attributes_are_matched_as_the_standard_says(keyword: str, value: object, wanted: str, expected: bool) -> None:
    assert fits(header(**{keyword: value}), keyword, wanted) is expected


def test_an_absent_attribute_fits_only_what_fits_everything() -> None:
    assert fits(Dataset(), "PatientID", "*")
    assert not fits(Dataset(), "PatientID", "P1")


@given(st.text("ab", max_size=8), st.text("ab*?", max_size=8))
def test_wildcards_agree_with_the_obvious_way(text: str, pattern: str) -> None:
    def obvious(text: str, pattern: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return obvious(text, pattern[1:]) or (bool(text) and obvious(text[1:], pattern))
        return bool(text) and pattern[0] in ("?", text[0]) and obvious(text[1:], pattern[1:])

    assert glob(text, pattern) is obvious(text, pattern)


def test_a_pattern_of_stars_costs_no_more_than_its_length_times_that_of_the_text() -> None:
    assert not glob("a" * 5000, "*a" * 500 + "b")
