"""DICOMweb of what the gateway holds: searched and retrieved by an independent client, refused where it must be (PS3.18)."""

import json
from io import BytesIO

import httpx2
import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom import dcmread
from requests import Session

from gateway.access import people
from gateway.web.limits import Allowance
from tests.held_fixture import hold
from tests.synthetic import ct_series, part10

CHEST = ct_series(3)
JPEG_LS = "1.2.840.10008.1.2.4.80"


@pytest.fixture(scope="module")
def archive(console):
    """A console whose store holds a series; its client sends a token."""
    hold(console.db, console.site.store, CHEST)
    made = people.make_token(
        console.db, "viewer", label="archive", role="viewer", days=1, actor="viewer", now=console.site.clock()
    )
    console.bearer = {"Authorization": f"Bearer {made.secret}"}
    return console


@pytest.fixture
def client(archive) -> DICOMwebClient:
    session = Session()
    session.headers.update(archive.bearer)
    return DICOMwebClient(f"{archive.url}/dicom-web", session=session)


def test_a_client_finds_what_is_held_at_every_level(client: DICOMwebClient) -> None:
    first = CHEST[0]

    (study,) = client.search_for_studies(search_filters={"PatientID": "CANARY-ID", "StudyInstanceUID": first.StudyInstanceUID})
    (series,) = client.search_for_series(first.StudyInstanceUID)
    instances = client.search_for_instances(first.StudyInstanceUID, first.SeriesInstanceUID)

    assert study["0020000D"]["Value"] == [first.StudyInstanceUID]
    assert series["00201209"]["Value"] == [3]
    assert {one["00080018"]["Value"][0] for one in instances} == {one.SOPInstanceUID for one in CHEST}
    assert instances[0]["00081190"]["Value"][0].endswith(instances[0]["00080018"]["Value"][0])


def test_nothing_found_is_an_empty_answer(client: DICOMwebClient) -> None:
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_instances_come_back_byte_for_byte(archive) -> None:
    path = (
        f"/dicom-web/studies/{CHEST[0].StudyInstanceUID}/series/{CHEST[0].SeriesInstanceUID}/instances/{CHEST[1].SOPInstanceUID}"
    )

    answer = archive.client().get(path, headers=archive.bearer | {"Accept": "application/dicom; transfer-syntax=*"})

    assert (answer.status_code, answer.content) == (200, part10(CHEST[1]))


def test_a_series_is_retrieved_whole(client: DICOMwebClient) -> None:
    found = client.retrieve_series(CHEST[0].StudyInstanceUID, CHEST[0].SeriesInstanceUID, media_types=("application/dicom",))

    assert {one.SOPInstanceUID for one in found} == {one.SOPInstanceUID for one in CHEST}
    assert all((one.pixel_array == CHEST[one.InstanceNumber - 1].pixel_array).all() for one in found)


def test_metadata_tell_everything_but_pixels(client: DICOMwebClient) -> None:
    found = client.retrieve_series_metadata(CHEST[0].StudyInstanceUID, CHEST[0].SeriesInstanceUID)

    assert [one["00200013"]["Value"] for one in found] == [[1], [2], [3]]
    assert found[0]["00100010"]["Value"] == [{"Alphabetic": "CANARY^NAME"}]
    assert not any("7FE00010" in one and "InlineBinary" in one["7FE00010"] for one in found)


def test_a_frame_is_its_pixels(client: DICOMwebClient) -> None:
    first = CHEST[0]

    (frame,) = client.retrieve_instance_frames(
        first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID, [1], media_types=("application/octet-stream",)
    )

    assert (np.frombuffer(frame, "<i2").reshape(64, 64) == first.pixel_array).all()


@pytest.mark.parametrize(
    ("path", "accept", "expected"),
    [
        ("studies?limit=-1", "*/*", 400),
        ("studies?PatientName=" + "x" * 9000, "*/*", 400),
        ("studies?StudyInstanceUID=1' OR 1=1", "*/*", 400),
        ("studies?NoSuchAttribute=1", "*/*", 400),
        ("studies?PatientName=%00", "*/*", 400),
        ("studies/1.2.3", "*/*", 404),
        ("studies/1.2.3/metadata", "*/*", 404),
        ("SERIES/metadata", "image/png", 406),
        ("SERIES", f'multipart/related; type="application/dicom"; transfer-syntax={JPEG_LS}', 406),
        ("INSTANCE/frames/2", "*/*", 404),
        ("INSTANCE/frames/0", "*/*", 404),
        ("INSTANCE/frames/1,x", "*/*", 400),
        ("INSTANCE/frames/" + "1," * 2000 + "1", "*/*", 400),
        ("INSTANCE/bulkdata/00100010", "*/*", 404),
        ("INSTANCE/bulkdata/PatientName", "*/*", 404),
    ],
)
def test_what_cannot_be_answered_says_what_was_expected(archive, path: str, accept: str, expected: int) -> None:
    series = f"studies/{CHEST[0].StudyInstanceUID}/series/{CHEST[0].SeriesInstanceUID}"
    path = path.replace("SERIES", series).replace("INSTANCE", f"{series}/instances/{CHEST[0].SOPInstanceUID}")

    answer = archive.client().get(f"/dicom-web/{path}", headers=archive.bearer | {"Accept": accept})

    assert answer.status_code == expected
    assert answer.headers["content-type"] == "application/problem+json"
    assert "CANARY" not in answer.text


def test_nobody_looks_without_a_token_or_a_sign_in(archive) -> None:
    nobody, viewer = archive.client(), archive.client("viewer")

    assert nobody.get("/dicom-web/studies").status_code == 401
    assert nobody.get("/dicom-web/studies", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert viewer.get("/dicom-web/studies").status_code == 200
    assert viewer.get("/dicom-web/studies", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_large_values_are_named_and_fetched_by_themselves(archive) -> None:
    (instance,) = ct_series(1, seed=5)
    instance.add_new(0x00282000, "OB", b"\1\2" * 4000)  # ICC Profile
    hold(archive.db, archive.site.store, [instance])
    path = f"/dicom-web/studies/{instance.StudyInstanceUID}/metadata"

    (told,) = json.loads(archive.client().get(path, headers=archive.bearer).content)
    value = archive.client().get(httpx2.URL(told["00282000"]["BulkDataURI"]).path, headers=archive.bearer)

    assert value.content == b"\1\2" * 4000


def test_a_file_is_readable_by_others(archive) -> None:
    path = (
        f"/dicom-web/studies/{CHEST[0].StudyInstanceUID}/series/{CHEST[0].SeriesInstanceUID}/instances/{CHEST[1].SOPInstanceUID}"
    )
    answer = archive.client().get(path, headers=archive.bearer | {"Accept": "application/dicom"})

    assert dcmread(BytesIO(answer.content)).PatientName == "CANARY^NAME"


# --- Rendered ---


def instance_path(place: int = 0) -> str:
    one = CHEST[place]
    return f"/dicom-web/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/instances/{one.SOPInstanceUID}"


def test_an_instance_is_rendered_for_a_browser(archive, client: DICOMwebClient) -> None:
    one = CHEST[0]
    uids = (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID)

    rendered = client.retrieve_instance_rendered(*uids, media_types=("image/png",))
    frame = client.retrieve_instance_frames_rendered(*uids, [1], media_types=("image/jpeg",), params={"quality": 50})

    assert Image.open(BytesIO(rendered)).size == Image.open(BytesIO(frame)).size == (64, 64)
    assert (rendered[:4], frame[:2]) == (b"\x89PNG", b"\xff\xd8")


def test_the_window_and_the_viewport_are_those_that_are_asked_for(archive) -> None:
    def grey(query: str) -> np.ndarray:
        answer = archive.client().get(f"{instance_path()}/rendered?{query}", headers=archive.bearer | {"Accept": "image/png"})
        assert answer.status_code == 200
        return np.array(Image.open(BytesIO(answer.content)))

    dark, bright, small = grey("window=30000,10"), grey("window=-30000,10"), grey("viewport=32,20")

    assert (dark.max(), bright.min()) == (0, 255)
    assert small.shape == (20, 20)


@pytest.mark.parametrize("what", ["INSTANCE/thumbnail", "INSTANCE/frames/1/thumbnail", "SERIES/thumbnail"])
def test_a_thumbnail_is_a_small_jpeg(archive, what: str) -> None:
    path = what.replace("INSTANCE", instance_path()).replace("SERIES", instance_path().partition("/instances")[0])

    answer = archive.client().get(path, headers=archive.bearer)

    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(answer.content)).size == (128, 128)


@pytest.mark.parametrize(
    ("what", "accept", "expected"),
    [
        ("rendered", "video/mp4", 406),
        ("rendered?quality=0", "*/*", 400),
        ("rendered?quality=many", "*/*", 400),
        ("rendered?window=1", "*/*", 400),
        ("rendered?window=40,nan", "*/*", 400),
        ("rendered?window=40,400,sigmoid", "*/*", 400),
        ("rendered?viewport=100000,100000", "*/*", 400),
        ("frames/2/rendered", "*/*", 404),
        ("frames/0/rendered", "*/*", 404),
        ("frames/1,x/rendered", "*/*", 400),
        ("frames/1,1/thumbnail", "*/*", 400),
    ],
)
def test_what_cannot_be_rendered_says_what_was_expected(archive, what: str, accept: str, expected: int) -> None:
    answer = archive.client().get(f"{instance_path()}/{what}", headers=archive.bearer | {"Accept": accept})

    assert (answer.status_code, answer.headers["content-type"]) == (expected, "application/problem+json")


def test_a_viewer_gets_more_frames_at_once_than_pages_may_be_asked_for(archive, monkeypatch: pytest.MonkeyPatch) -> None:
    one = CHEST[0]
    path = f"/dicom-web/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/instances/{one.SOPInstanceUID}/frames/1"
    header = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*", **archive.bearer}
    monkeypatch.setattr(archive.site.limits, "requests", Allowance(1, 0.001))

    with archive.client() as client:
        pages = [client.get("/sign-in").status_code for _ in range(2)]
        frames = {client.get(path, headers=header).status_code for _ in range(3)}

    assert (pages, frames) == ([200, 429], {200})
