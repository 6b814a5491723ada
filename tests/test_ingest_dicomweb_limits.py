"""Too much, too slow, too many: what the STOW-RS server bears, and what it does where it cannot."""

import select
import socket
import threading
import time
from contextlib import contextmanager, suppress

import psutil
import pytest

from gateway.doors.door import Door
from gateway.doors.entry import Declined, Ended, Kept, TurnedAway
from gateway.errors import OutOfResources
from tests.stow_fixture import (
    FILES,
    HEAD,
    MEGABYTE,
    TYPE,
    UIDS,
    answered,
    body,
    near,
    posted,
    request,
    send_while_it_goes,
    sequence,
    serving,
)
from tests.synthetic import ct_series, part10


def test_a_body_that_is_too_large_is_refused_by_its_length_and_by_what_comes(tmp_path):
    with serving(tmp_path / "door", maximum_body_bytes=20_000) as web:
        large = body(*FILES, *FILES, *FILES)
        assert web.post(large).status_code == 413
        assert web.held() == {}

        def slowly():
            yield large[:15_000]
            web.wait(lambda: len(web.entries(Kept)) == 4)
            yield large[15_000:]

        answer = web.post(slowly())
        assert answer.status_code == 413
        assert [uid for uid, _ in sequence(answer, "ReferencedSOPSequence")] == UIDS
        assert web.still_stores()


def test_an_instance_that_is_too_large_is_refused_and_the_others_are_stored(tmp_path):
    with serving(tmp_path / "door", maximum_instance_bytes=10_000) as web:
        large = part10(ct_series(1, 128, 128, seed=3)[0])

        alone, beside = web.post(body(large)), web.post(body(large, FILES[0]))

        assert (alone.status_code, beside.status_code) == (413, 202)
        assert [reason for _, reason in sequence(alone, "FailedSOPSequence")] == [0xC000]
        assert set(web.held()) == {UIDS[0]}


def test_an_absurd_length_is_not_believed(web):
    before = psutil.Process().memory_info().rss
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        connection.sendall(request(b"", f"Content-Type: {TYPE}", "Content-Length: 99999999999999999") + body(FILES[0]))
        web.wait(lambda: len(web.entries(Kept)) == 1)
    web.wait(lambda: len(web.entries(Ended)) == 1)

    assert psutil.Process().memory_info().rss - before < 50 * MEGABYTE
    assert web.still_stores()


def test_a_million_parts_are_refused_at_the_limit_without_being_held(web):
    part = b"--b0\r\n\r\n\r\n"
    before = psutil.Process().memory_info().rss
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=60) as connection:
        connection.sendall(request(b"", f"Content-Type: {TYPE}", f"Content-Length: {len(part) * 1_000_000}"))
        sender = threading.Thread(target=send_while_it_goes, args=(connection, part * 10_000, 100))
        sender.start()
        assert answered(connection) == 413
    sender.join()

    assert len(web.entries(Declined)) == 10_000
    assert psutil.Process().memory_info().rss - before < 100 * MEGABYTE
    assert web.still_stores()


def test_memory_stays_flat_while_a_large_instance_comes(tmp_path):
    size = 300 * MEGABYTE
    ds = ct_series(1, 32, 32)[0]
    ds.Rows = ds.Columns = 10_000
    ds.NumberOfFrames = 1
    ds.PixelData = b"12345678"
    file = part10(ds).removesuffix(b"\10\0\0\x0012345678") + size.to_bytes(4, "little")
    ending = b"\r\n--b0--"
    head = request(b"", f"Content-Type: {TYPE}", f"Content-Length: {len(HEAD) + 6 + len(file) + size + len(ending)}")
    piece, most = bytes(MEGABYTE), 0
    process = psutil.Process()

    with serving(tmp_path / "door", maximum_instance_bytes=2 * size) as web:
        assert web.post(body(FILES[0])).status_code == 200
        before = process.memory_info().rss
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=60) as connection:
            connection.sendall(head + b"--b0\r\n" + HEAD + file)
            for _ in range(300):
                connection.sendall(piece)
                most = max(most, process.memory_info().rss)
            connection.sendall(ending)
            assert answered(connection) == 200
        assert web.entries(Kept)[1].size > size

    assert most - before < 30 * MEGABYTE


def raw(web, content):
    """The status of what is answered to these bytes, None where the connection ends without an answer."""
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        with suppress(OSError):
            connection.sendall(content)
        return answered(connection)


@pytest.mark.parametrize(
    "content",
    [b"", b"POST /dicom-web/stu", posted(b"x")[:-3], posted(b"")[:40]],
    ids=["silent", "request line", "head", "header"],
)
def test_a_head_that_does_not_come_is_not_waited_for(tmp_path, content):
    with serving(tmp_path / "door", idle_seconds=1) as web:
        assert raw(web, content) is None
        assert web.still_stores()


def test_a_head_that_drips_in_is_not_waited_for(tmp_path):
    with serving(tmp_path / "door", idle_seconds=1) as web:
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection, pytest.raises(OSError):
            for byte in posted(b"x") * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        assert web.still_stores()


def test_a_second_request_on_a_connection_has_the_same_deadline(tmp_path):
    with serving(tmp_path / "door", idle_seconds=1) as web:
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
            connection.sendall(posted(body(FILES[0])))
            assert answered(connection) == 200
            connection.sendall(b"POST /dicom-web/studies")
            assert answered(connection) is None
        assert web.still_stores()


def test_a_body_that_does_not_come_is_answered_408_and_its_instance_discarded(tmp_path):
    with serving(tmp_path / "door", idle_seconds=1) as web:
        whole = posted(body(FILES[0], FILES[1]))

        assert raw(web, whole[:-1000]) == 408

        web.wait(lambda: len(web.entries(Ended)) == 1)
        assert set(web.held()) == {UIDS[0]}
        assert [one.reason.split(":")[0] for one in web.entries(TurnedAway)] == ["HTTP 408"]
        assert web.still_stores()


class WaitingDoor(Door):
    """Opens when it is told to."""

    asked, told = threading.Event(), threading.Event()

    def open(self, incoming, origin, *, maximum_bytes):
        self.asked.set()
        assert self.told.wait(20)
        return super().open(incoming, origin, maximum_bytes=maximum_bytes)


def test_what_came_whole_while_the_disk_was_slow_is_stored_although_the_rest_does_not_come(tmp_path):
    with serving(tmp_path / "door", door_of=WaitingDoor, idle_seconds=1) as web:
        whole = posted(body(*FILES[:3]))
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
            connection.sendall(whole[:1000])
            assert web.door.asked.wait(20)
            connection.sendall(whole[1000:-1000])
            time.sleep(1.5)
            web.door.told.set()
            assert answered(connection) == 408

        assert set(web.held()) == set(UIDS[:2])


def test_a_body_that_drips_in_is_answered_408(tmp_path):
    with serving(tmp_path / "door", idle_seconds=1) as web:
        whole = posted(body(FILES[0]))
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
            connection.sendall(whole[:500])
            drip = threading.Thread(target=drips, args=(connection, whole[500:]))
            drip.start()
            assert answered(connection) == 408
        drip.join()
        assert web.held() == {}
        assert web.still_stores()


def drips(connection, content):
    try:
        for byte in content:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        pass


def test_a_connection_that_breaks_inside_a_part_leaves_what_was_whole(web):
    whole = posted(body(FILES[0], FILES[1], FILES[2]))
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        connection.sendall(whole[:-2000])
        web.wait(lambda: len(web.entries(Kept)) == 2)

    web.wait(lambda: len(web.entries(Ended)) == 1)
    assert [one.broken for one in web.entries(Ended)] == [True]  # its sender may come again with the rest
    assert set(web.held()) == {UIDS[0], UIDS[1]}
    assert web.still_stores()


def test_more_requests_at_a_time_than_allowed_are_asked_to_come_again(tmp_path):
    with serving(tmp_path / "door", maximum_requests=1) as web:
        whole = posted(body(FILES[0]))
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as slow:
            slow.sendall(whole[:-10])
            busy = retry(lambda: web.post(body(FILES[1])), lambda answer: answer.status_code == 503)
            assert busy.headers["Retry-After"] == "30"
            slow.sendall(whole[-10:])
            assert answered(slow) == 200
        assert web.still_stores()


def retry(act, until):
    """The first request may not have arrived yet."""
    end = time.monotonic() + 20
    while not until(result := act()):
        assert time.monotonic() < end, "waited in vain"
    return result


@contextmanager
def connected(web, content=b"", *, address="127.0.0.1"):
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30, source_address=(address, 0)) as connection:
        connection.sendall(content)
        time.sleep(0.1)
        yield connection


def test_where_connections_that_wait_leave_no_room_the_oldest_of_whoever_has_most_makes_it(tmp_path):
    whole = posted(body(FILES[0]))
    with (
        serving(tmp_path / "door", maximum_connections=4) as web,
        connected(web, whole[:-1], address="127.0.0.2") as served,
        connected(web, address="127.0.0.3") as alone,
        connected(web, whole) as idle,
        connected(web, b"POST") as slow,
    ):
        assert answered(idle) == 200
        with connected(web, whole, address="127.0.0.4") as newcomer:
            assert answered(newcomer) == 200

        assert idle.recv(1) == b""
        for connection, rest in ((served, whole[-1:]), (alone, whole), (slow, whole[4:])):
            connection.sendall(rest)
            assert answered(connection) == 200


def test_who_comes_is_not_let_in_where_all_connections_are_being_served(tmp_path):
    with serving(tmp_path / "door", maximum_connections=1) as web:
        with connected(web, posted(body(FILES[0]))[:-1]):
            web.wait(lambda: web.server._storage._requests == 1)
            assert raw(web, posted(body(FILES[1]))) is None
        web.wait(web.still_stores)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"maximum_associations": 1}, "expected fewer associations of caller ct"),
        ({"associations_per_minute": 1}, "expected fewer associations a minute of caller ct"),
    ],
)
def test_a_request_over_the_limit_of_its_caller_is_asked_to_come_again_and_told(tmp_path, table, reason):
    whole = posted(body(FILES[0]))
    with serving(tmp_path / "door", callers=(near("ct", **table), near("other", "127.0.0.2"))) as web:
        with connected(web, whole[:-10]) as slow:
            busy = web.post(body(FILES[1]))
            with connected(web, whole, address="127.0.0.2") as other:
                assert answered(other) == 200
            slow.sendall(whole[-10:])
            assert answered(slow) == 200

        assert (busy.status_code, busy.headers["Retry-After"], busy.text) == (429, "30", f"{reason}\n")
        assert [one.reason for one in web.entries(TurnedAway)] == [f"HTTP 429: {reason}"]
        assert UIDS[1] not in web.held()


def test_requests_of_a_caller_that_have_ended_make_room_for_the_next_however_they_ended(tmp_path):
    with serving(tmp_path / "door", callers=(near("ct", maximum_associations=1),)) as web:
        assert [web.post(content).status_code for content in (b"none", body(FILES[0][:99]), body(FILES[1]))] == [400, 409, 200]
        with connected(web, posted(body(FILES[2]))[:-10]):
            pass
        web.wait(web.still_stores)


def test_a_caller_sends_no_more_than_its_megabytes_a_second(tmp_path):
    rate = sum(map(len, FILES[:2])) / MEGABYTE  # the first second's worth may come at once
    with serving(tmp_path / "door", callers=(near("ct", megabytes_per_second=rate),)) as web:
        began = time.monotonic()
        assert web.post(body(*FILES)).status_code == 200
        assert time.monotonic() > began + 0.9
        assert set(web.held()) == set(UIDS)


def test_a_caller_that_is_slowed_down_holds_nobody_up(tmp_path):
    rate = len(FILES[0]) / MEGABYTE / 5  # its body takes twenty seconds
    with serving(tmp_path / "door", callers=(near("ct", megabytes_per_second=rate), near("other", "127.0.0.2"))) as web:
        with connected(web, posted(body(*FILES))) as slow, connected(web, posted(body(FILES[0])), address="127.0.0.2") as other:
            assert answered(other) == 200
            assert select.select([slow], [], [], 0)[0] == []


def test_a_closed_door_is_answered_503_before_the_body_is_read(web):
    web.door.closed = "the store's disk is nearly full"
    answer = web.post(body(FILES[0]))

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    web.door.closed = ""
    assert web.still_stores()


def test_a_full_disk_is_answered_503_with_a700(tmp_path):
    with serving(tmp_path / "door", keep_free_bytes=2**62) as web:
        answer = web.post(body(*FILES[:2]))

        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
        assert sequence(answer, "FailedSOPSequence") == [(UIDS[0], 0xA700), (UIDS[1], 0xA700)]
        assert web.held() == {}


class FullOnceDoor(Door):
    """Has no room for one instance."""

    def open(self, incoming, origin, *, maximum_bytes):
        if incoming.sop_instance_uid == UIDS[1]:
            raise OutOfResources("the store's disk is nearly full")
        return super().open(incoming, origin, maximum_bytes=maximum_bytes)


def test_who_was_put_off_for_a_part_may_come_back_with_it_and_who_was_refused_is_not_waited_for(tmp_path):
    with serving(tmp_path / "door", door_of=FullOnceDoor) as web:
        assert web.post(body(*FILES[:3])).status_code == 202
        assert web.post(body(FILES[3], b"no file")).status_code == 202

        assert [one.broken for one in web.entries(Ended)] == [True, False]


class FailingDoor(Door):
    """Fails for one instance as nobody expects."""

    def open(self, incoming, origin, *, maximum_bytes):
        if incoming.sop_instance_uid == UIDS[1]:
            raise ZeroDivisionError("CANARY^NAME")
        return super().open(incoming, origin, maximum_bytes=maximum_bytes)


def test_an_unexpected_failure_is_answered_500_and_the_server_goes_on(tmp_path, capsys):
    with serving(tmp_path / "door", door_of=FailingDoor) as web:
        answer = web.post(body(*FILES[:3]))

        assert answer.status_code == 500
        assert sequence(answer, "ReferencedSOPSequence") == [(UIDS[0], None)]
        assert set(web.held()) == {UIDS[0]}
        assert web.still_stores()
    assert "CANARY" not in answer.text + "".join(capsys.readouterr())


def test_after_close_nobody_listens_and_what_was_not_whole_is_discarded(tmp_path):
    with serving(tmp_path / "door") as web:
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as slow:
            slow.sendall(posted(body(FILES[0], FILES[1]))[:-100])
            web.wait(lambda: len(web.entries(Kept)) == 1)
            web.server.close()

        assert [one.incoming.sop_instance_uid for one in web.entries(Kept)] == [UIDS[0]]
        assert len(web.entries(Ended)) == 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", web.server.port), timeout=5)


def test_a_request_that_is_under_way_comes_to_its_end_when_the_server_is_closed(tmp_path):
    with serving(tmp_path / "door", grace_seconds=20) as web:
        whole = posted(body(FILES[0]))
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as slow:
            slow.sendall(whole[:-100])
            web.wait(lambda: web.server._storage._requests == 1)
            closing = threading.Thread(target=web.server.close)
            closing.start()
            web.wait(lambda: is_refused(web))
            slow.sendall(whole[-100:])
            assert answered(slow) == 200
        closing.join()
        assert set(web.held()) == {UIDS[0]}


def is_refused(web):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", web.server.port)) != 0
