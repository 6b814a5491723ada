"""What a client accepts (PS3.18 8.7)."""

import pytest

from gateway.web.accepted import MediaType, accepted


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", [MediaType("*/*", is_multipart=False, syntax="")]),
        ("application/dicom+json", [MediaType("application/dicom+json", is_multipart=False, syntax="")]),
        (
            'multipart/related; type="application/dicom"; transfer-syntax=*',
            [MediaType("application/dicom", is_multipart=True, syntax="*")],
        ),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1",
            [MediaType("application/octet-stream", is_multipart=True, syntax="1.2.840.10008.1.2.1")],
        ),
        (
            'text/html;q=0.1, multipart/related; type="image/jls,x", */*;q=0',
            [MediaType("image/jls,x", is_multipart=True, syntax=""), MediaType("text/html", is_multipart=False, syntax="")],
        ),
    ],
)
def test_media_types_are_read_with_their_parameters(header: str, expected: list[MediaType]) -> None:
    assert accepted(header) == expected


def test_a_parameter_of_the_address_goes_before_the_header() -> None:
    assert accepted("text/html", ["application/dicom"]) == [MediaType("application/dicom", is_multipart=False, syntax="")]


@pytest.mark.parametrize(
    ("media", "name", "syntax", "expected"),
    [
        ("*/*", "application/dicom", "1.2.840.10008.1.2.1", True),
        ("application/*", "application/dicom", "", True),
        ("image/*", "application/dicom", "", False),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.1", "application/dicom", "1.2.840.10008.1.2.4.80", False),
        ("application/dicom; transfer-syntax=*", "application/dicom", "1.2.840.10008.1.2.4.80", True),
    ],
)
def test_a_media_type_takes_what_it_names(media: str, name: str, syntax: str, expected: bool) -> None:
    assert accepted(media)[0].takes(name, syntax) is expected


def test_nonsense_is_nothing_that_we_have() -> None:
    assert not any(one.takes("application/dicom") for one in accepted(";;;=,,garbage/;q=x"))
