"""multipart/related in pieces: however a body is cut up, its parts are the same, and what is no multipart is told."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest._multipart import Ended, Malformed, Multipart, TooMuch, is_boundary, media_type

BOUNDARY = "b0"
DELIMITER = b"\r\n--b0"
HEAD = b"Content-Type: application/dicom\r\n\r\n"
APPLICATION_DICOM = {"content-type": "application/dicom"}


def parts(pieces, *, boundary=BOUNDARY, maximum_header_bytes=200, maximum_parts=100):
    """The headers and the bytes of each part that came to its end."""
    multipart = Multipart(boundary, maximum_header_bytes=maximum_header_bytes, maximum_parts=maximum_parts)
    found, headers, content = [], {}, b""
    for piece in pieces:
        for event in multipart.feed(piece):
            if isinstance(event, memoryview):
                content += event
            elif isinstance(event, Ended):
                found.append((headers, content))
            else:
                headers, content = event, b""
    multipart.finish()
    return found


def body(*contents, head=HEAD):
    return b"".join(b"--b0\r\n" + head + content + b"\r\n" for content in contents) + b"--b0--\r\n"


def cut(content, places):
    edges = [0, *sorted(min(place, len(content)) for place in places), len(content)]
    return [content[begin:end] for begin, end in pairwise(edges)]


contents = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"--b0", b"\n--b0", b"\r\n--b", b"b0", b"\r\n\r\n", b"\0", b"x" * 90]),
    max_size=20,
).map(b"".join).filter(lambda content: DELIMITER not in b"\r\n" + content + b"\r\n--b")  # fmt: skip


@given(st.lists(contents, min_size=1, max_size=4), st.lists(st.integers(0, 4000), max_size=30))
def test_any_cutting_of_a_body_gives_the_same_parts(contents, places):
    assert parts(cut(body(*contents), places)) == [(APPLICATION_DICOM, content) for content in contents]


@given(st.lists(contents, min_size=1, max_size=3))
def test_a_body_that_comes_byte_by_byte_gives_the_same_parts(contents):
    whole = body(*contents)

    assert parts([whole[at : at + 1] for at in range(len(whole))]) == [(APPLICATION_DICOM, content) for content in contents]


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes_are_parts_or_refused(rubbish, places):
    for content in (rubbish, b"--b0" + rubbish, b"--b0\r\n" + rubbish):
        try:
            whole = parts([content])
        except (Malformed, TooMuch) as error:
            with pytest.raises(type(error)):
                parts(cut(content, places))
        else:
            assert parts(cut(content, places)) == whole


@pytest.mark.parametrize(
    "content",
    [
        b"preamble\r\n" + body(b"x"),
        b"\r\n" + body(b"x"),
        body(b"x") + b"epilogue --b0\r\n\r\n",
        body(b"x").removesuffix(b"\r\n"),
        body(b"x").replace(b"--b0\r\n", b"--b0 \t \r\n", 1),
        body(b"x", head=b"content-TYPE :\tapplication/dicom \r\n\r\n"),
        body(b"x", head=b"Content-Type:\r\n application/dicom\r\n\r\n"),
    ],
    ids=["preamble", "line end first", "epilogue", "no line end last", "blanks after the boundary", "other case", "folded"],
)
def test_what_mime_allows_is_read(content):
    assert parts([content]) == [(APPLICATION_DICOM, b"x")]


def test_a_part_may_be_without_headers_and_without_content():
    assert parts([b"--b0\r\n\r\nx\r\n--b0\r\n\r\n--b0\r\n\r\n\r\n--b0--"]) == [({}, b"x"), ({}, b""), ({}, b"")]


def test_a_boundary_that_no_line_begins_with_is_data():
    content = b"x--b0\r\nContent-Type: text/plain\n--b0--\r--b0"

    assert parts([body(content)]) == [(APPLICATION_DICOM, content)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"--b0",
        b"--b0--",
        b"--b0\r\n",
        b"--b0x\r\n\r\n\r\n--b0--",
        b"--b0\r\n" + HEAD + b"x",
        b"--b0\r\n" + HEAD + b"x\r\n--b0",
        b"--b0\r\n" + HEAD + b"x\r\n--b0-",
        b"--b0\nContent-Type: application/dicom\n\nx\n--b0--",
        body(b"x", head=b"no colon\r\n\r\n"),
        body(b"x", head=b"A: 1\r\na: 2\r\n\r\n"),
        body(b"x", head=b"A: 1\0\r\n\r\n"),
    ],
)
def test_what_is_no_multipart_is_refused(content):
    with pytest.raises(Malformed):
        parts([content])


@pytest.mark.parametrize("content", [b"x" * 300, b"--b0\r\nA: " + b"x" * 200, b"--b0\r\n" + b"A: 1\r\n" * 40, body(*[b""] * 101)])
def test_more_than_the_limits_is_refused_however_it_comes(content):
    for pieces in ([content], [content[at : at + 7] for at in range(0, len(content), 7)]):
        with pytest.raises(TooMuch):
            parts(pieces)


def test_no_more_than_a_delimiter_is_held_back_of_a_part():
    multipart = Multipart(BOUNDARY, maximum_header_bytes=200, maximum_parts=1)
    list(multipart.feed(b"--b0\r\n" + HEAD))

    handed_on = sum(len(event) for event in multipart.feed(bytes(1000)))

    assert handed_on >= 1000 - len(DELIMITER)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("application/dicom", ("application/dicom", {})),
        ("Application/DICOM; Transfer-Syntax=1.2", ("application/dicom", {"transfer-syntax": "1.2"})),
        ('a/b;type="c/d";boundary="x y"', ("a/b", {"type": "c/d", "boundary": "x y"})),
        ("a/b; type=c/d ; boundary = x;", ("a/b", {"type": "c/d", "boundary": "x"})),
        (r'a/b; c="\"d\\"', ("a/b", {"c": '"d\\'})),
    ],
)
def test_a_media_type_is_read_with_its_parameters(text, expected):
    assert media_type(text) == expected


@pytest.mark.parametrize("text", ["", "a", "a/", "/b", "a/b c", "a/b; c", "a/b; c=1; C=2", 'a/b; c="', "a/b, c/d", "a/b; c=d e"])
def test_what_is_no_media_type_is_refused(text):
    with pytest.raises(Malformed):
        media_type(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", True), ("a b", True), ("'()+_,-./:=?", True), ("a" * 70, True), ("", False), ("a ", False), ("a" * 101, False), ("a\r", False), ("ä", False), ('"', False)],
)  # fmt: skip
def test_a_boundary_is_one_of_rfc_2046(text, expected):
    assert is_boundary(text) == expected
