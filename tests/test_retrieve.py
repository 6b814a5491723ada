"""What a DICOMweb archive has is found in pages and comes through the door: whole, once, and on after it broke off."""

import json
from datetime import timedelta

import pytest
from pydicom.uid import generate_uid

from gateway.doors.door import Door
from gateway.doors.entry import Alarming, Declined, Ended, Kept, promise
from gateway.doors.journal import entries, segments
from gateway.errors import NotSupported, OutOfResources, Rejected, Unreachable
from gateway.ingest import Terms
from gateway.ingest.dimse import STORAGE, TRANSFER_SYNTAXES
from gateway.ingest.retrieve import retrieve
from gateway.peers import make_peer
from tests.door_fixture import NOW
from tests.peers_fixture import PROTOCOLS, data_set, running_http, running_orthanc, running_tcp, self_signed
from tests.synthetic import ct_series, part10
from tests.web_archive_fixture import web_archive

SERIES = ct_series(7, 32, 32)
STUDY_UID, SERIES_UID = SERIES[0].StudyInstanceUID, SERIES[0].SeriesInstanceUID
UIDS = [ds.SOPInstanceUID for ds in SERIES]
TERMS = Terms(STORAGE, TRANSFER_SYNTAXES, 2**31)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        for ds in SERIES:
            running.post_file(part10(ds))
        yield running


@pytest.fixture
def door(tmp_path):
    (tmp_path / "door").mkdir()
    opened = Door(tmp_path / "door", clock=lambda: NOW, keep_free_bytes=0)
    yield opened
    opened.close()


def dicomweb(url, **settings):
    return make_peer({"name": "web", "protocol": "dicomweb", "url": url, "timeout_seconds": 20, **settings}, protocols=PROTOCOLS)


def pull(door, peer, wanted=UIDS, *, connections=3, at_once=True, terms=TERMS, **more):
    with peer.retrieving(connections) as retrieving:
        return retrieve(
            wanted, lambda instance: retrieving(STUDY_UID, SERIES_UID, instance), door=door, peer="web", terms=terms,
            connections=connections, at_once=at_once, **more,
        )  # fmt: skip


def promised(door, kind):
    """What the door promised: entries of that kind, and the data sets that lie with them."""
    found = []
    for segment in segments(door._folder):
        with segment.open("rb") as file:
            for lies in entries(segment, 0):
                one = promise(lies.record)
                if isinstance(one, kind):
                    file.seek(lies.data_at)
                    found.append((one, data_set(file.read(lies.data_size)) if isinstance(one, Kept) else b""))
    return found


def assert_whole(door, series=SERIES):
    """Each instance once, its data set byte for byte; every association that carried any has ended."""
    kept = promised(door, Kept)
    assert {one.incoming.sop_instance_uid: data for one, data in kept} == {
        ds.SOPInstanceUID: data_set(part10(ds)) for ds in series
    }
    assert len(kept) == len(series)
    assert {one.origin.association for one, _ in kept} <= {one.origin.association for one, _ in promised(door, Ended)}
    assert {one.origin.ingest for one, _ in kept} == {"retrieve"}


@pytest.mark.parametrize("at_once", [True, False])
def test_orthanc_gives_a_series_as_it_holds_it(orthanc, door, at_once):
    peer = dicomweb(orthanc.dicomweb)

    found = pull(door, peer, list(peer.listing(STUDY_UID, SERIES_UID)), at_once=at_once)

    assert (found.taken, found.refused, found.error) == (set(UIDS), {}, None)
    assert_whole(door)


def test_a_series_that_orthanc_does_not_have_has_no_instances(orthanc):
    assert list(dicomweb(orthanc.dicomweb).listing(STUDY_UID, "1.2.3")) == []


@pytest.mark.parametrize("page", [1, 3, 7, 1000])
def test_every_match_is_found_however_few_an_answer_holds(page):
    with web_archive(page=page) as archive:
        archive.hold(SERIES)

        assert list(dicomweb(archive.url).listing(STUDY_UID, SERIES_UID)) == UIDS


def test_an_archive_that_knows_no_offset_is_not_asked_for_ever():
    with web_archive() as archive:
        archive.hold(SERIES)
        archive.__class__ = type("Deaf", (type(archive),), {"of": lambda self, *_: _Endless(self.held.values())})

        assert list(dicomweb(archive.url).listing(STUDY_UID, SERIES_UID)) == UIDS


def test_an_archive_whose_matches_have_no_end_is_not_listened_to_for_ever():
    pages = ([{"00080018": {"vr": "UI", "Value": [f"1.2.{page}.{n}"]}} for n in range(60_000)] for page in range(3))
    with running_http(*((200, {}, json.dumps(page).encode()) for page in pages)) as (url, requests):
        with pytest.raises(Unreachable, match="more than 100000 matches"):
            dicomweb(url).listing(STUDY_UID, SERIES_UID)

    assert len(requests) == 2


class _Endless(list):
    def __getitem__(self, _slice):
        return list(self)


@pytest.mark.parametrize(
    "behaviour",
    [
        {},
        {"zipped": True},
        {"length": False},
        {"single": True},
        {"whole": False},
        {"partial": True},
        {"single": True, "zipped": True},
    ],
    ids=str,
)
def test_a_series_comes_whole_however_the_archive_answers(door, behaviour):
    with web_archive(**behaviour) as archive:
        archive.hold(SERIES)

        found = pull(door, dicomweb(archive.url))

        assert (found.taken, found.error) == (set(UIDS), None)
        assert_whole(door)
        assert len(archive.retrieved) == (1 if archive.whole else 1 + len(UIDS))


def test_what_was_taken_before_the_connection_broke_is_not_asked_for_again(door):
    size = len(part10(SERIES[0]))
    with web_archive(cut=[3 * size]) as archive:
        archive.hold(SERIES)

        found = pull(door, dicomweb(archive.url))

        assert (found.taken, found.error) == (set(UIDS), None)
        assert_whole(door)
        assert archive.retrieved[0] == SERIES_UID
        assert sorted(archive.retrieved[1:]) == sorted(UIDS[2:])


@pytest.mark.parametrize("behaviour", [{}, {"single": True}, {"length": False}, {"length": False, "single": True}], ids=str)
def test_an_instance_that_was_cut_off_is_not_taken_and_comes_the_next_time(door, behaviour):
    with web_archive(whole=False, cut=[2000], **behaviour) as archive:
        archive.hold(SERIES)
        peer = dicomweb(archive.url)

        first = pull(door, peer, connections=1, at_once=False)
        again = pull(door, peer, [uid for uid in UIDS if uid not in first.taken], at_once=False)

    assert isinstance(first.error, Unreachable)
    assert first.taken == set()
    assert (again.taken, again.error) == (set(UIDS), None)
    assert_whole(door)
    assert promised(door, Declined) == []


@pytest.mark.parametrize(
    ("code", "headers", "kind", "after"),
    [
        (429, {"Retry-After": "30"}, Unreachable, timedelta(seconds=30)),
        (503, {}, Unreachable, None),
        (401, {}, Unreachable, None),
        (404, {}, Unreachable, None),
        (400, {}, Rejected, None),
    ],
)
def test_an_archive_that_does_not_give_it_now_is_asked_later(door, code, headers, kind, after):
    with web_archive(codes=[(code, headers)] * 2) as archive:
        archive.hold(SERIES)

        found = pull(door, dicomweb(archive.url), connections=1)

        assert type(found.error) is kind
        assert getattr(found.error, "after", None) == after
        assert found.taken == set()
        assert len(archive.retrieved) == (1 if after else 2), "who says when to come back is not asked again before"


def test_an_answer_that_holds_no_instances_is_no_end(door):
    with web_archive() as archive:
        archive.hold(SERIES)
        peer = dicomweb(archive.url)
        with peer.retrieving() as retrieving:
            found = retrieve(
                UIDS, lambda _: retrieving(STUDY_UID, f"{SERIES_UID}/instances"), door=door, peer="web", terms=TERMS,
                connections=1, at_once=True,
            )  # fmt: skip

    assert isinstance(found.error, Unreachable)
    assert found.taken == set()


def test_what_the_gateway_never_takes_is_told_once_and_keeps_nothing_else_out(door):
    odd = ct_series(1, 32, 32, seed=3, SOPClassUID="1.2.3", SOPInstanceUID=generate_uid(), StudyInstanceUID=STUDY_UID, SeriesInstanceUID=SERIES_UID)  # fmt: skip
    with web_archive() as archive:
        archive.hold([*SERIES, *odd])

        found = pull(door, dicomweb(archive.url), [*UIDS, odd[0].SOPInstanceUID])

    assert (found.taken, found.error) == (set(UIDS), None)
    assert [type(error) for error in found.refused.values()] == [NotSupported]
    assert len(promised(door, Declined)) == 1
    assert promised(door, Alarming) == []


@pytest.mark.parametrize("single", [True, False])
def test_an_instance_that_is_too_large_is_refused_however_it_comes_and_not_asked_for_again(door, single):
    large = ct_series(1, 256, 256, seed=3, SOPInstanceUID=generate_uid(), StudyInstanceUID=STUDY_UID, SeriesInstanceUID=SERIES_UID)  # fmt: skip
    with web_archive(single=single) as archive:
        archive.hold([*large, *SERIES])

        uids = [large[0].SOPInstanceUID, *UIDS]
        found = pull(door, dicomweb(archive.url), uids, at_once=False, terms=Terms(STORAGE, TRANSFER_SYNTAXES, 100_000))

    assert (found.taken, found.error, [*found.refused]) == (set(UIDS), None, uids[:1])


def test_a_door_that_is_closed_ends_the_retrieval_until_it_opens(door):
    door.closed = "the disk is nearly full"
    with web_archive() as archive:
        archive.hold(SERIES)

        found = pull(door, dicomweb(archive.url))

        assert isinstance(found.error, OutOfResources)
        assert len(archive.retrieved) == 1


def test_a_gateway_that_stops_waits_for_no_series(door):
    with web_archive() as archive:
        archive.hold(SERIES)

        found = pull(door, dicomweb(archive.url), is_stopping=lambda: True)

    assert isinstance(found.error, Unreachable)
    assert found.taken == set()


SECRETS = {"client_id": "gateway", "client_secret": "hidden+"}


def test_one_access_token_does_for_every_request_and_is_fetched_again_when_it_is_over(door):
    with web_archive(token="nobody has it") as archive:
        archive.hold(SERIES)
        peer = dicomweb(archive.url, token_url=f"{archive.url}/token", scope="dicom", **SECRETS)

        assert list(peer.listing(STUDY_UID, SERIES_UID)) == UIDS
        assert archive.tokens == 1
        archive.token = "another"
        assert pull(door, peer).taken == set(UIDS)
        assert archive.tokens == 2
    assert "hidden" not in repr(peer)


def test_a_client_that_the_token_endpoint_does_not_know_waits_for_a_person_to_mend_it():
    with web_archive(token="nobody has it") as archive:
        peer = dicomweb(archive.url, token_url=f"{archive.url}/token", client_id="gateway", client_secret="other")

        with pytest.raises(Unreachable, match="does not accept the client's credentials"):
            peer.listing(STUDY_UID, SERIES_UID)


def test_of_an_answer_of_the_token_endpoint_no_more_is_read_than_a_token_can_need():
    left = [64]

    def pours(peer):
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while left[0]:
            peer.sendall(b" " * 2**20)
            left[0] -= 1

    with running_tcp(pours) as port, pytest.raises(Unreachable, match="longer than one of its kind can be"):
        dicomweb("http://127.0.0.1:1", token_url=f"http://127.0.0.1:{port}", **SECRETS).listing(STUDY_UID, SERIES_UID)

    assert left[0] > 32


def test_a_token_that_is_refused_again_is_not_fetched_for_ever(door):
    with web_archive(token="nobody has it", codes=[(401, {})] * 2) as archive:
        archive.hold(SERIES)

        found = pull(door, dicomweb(archive.url, token_url=f"{archive.url}/token", **SECRETS), connections=1, at_once=False)

    assert "credentials are not accepted" in str(found.error)
    assert archive.tokens == 2


def test_an_archive_that_asks_for_a_certificate_gets_ours(tmp_path, door):
    server, ours = self_signed(tmp_path / "server.pem"), self_signed(tmp_path / "ours.pem")
    with web_archive(certificate=server, authorities=ours) as archive:
        archive.hold(SERIES)

        known = dicomweb(archive.url, verify=str(server), certificate=str(ours), certificate_key=str(ours.with_suffix(".key")))
        assert pull(door, known).taken == set(UIDS)
        with pytest.raises(Unreachable, match=r"TLS failed \(.*certificate required"):
            dicomweb(archive.url, verify=str(server)).listing(STUDY_UID, SERIES_UID)
