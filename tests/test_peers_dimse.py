"""C-STORE and C-ECHO to real peers: what is delivered, tried again or final, and that the bytes stay the same."""

import logging
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context

from gateway.dicom import command, pdu
from gateway.errors import ConfigError, Rejected, Unanswered, Unreachable
from gateway.peers import Sent, send_many
from gateway.peers._probe import capabilities
from tests.certificates import Authority
from tests.peers_fixture import (
    closes,
    data_set,
    data_set_sha256,
    dimse,
    free_port,
    running_scp,
    running_storescp,
    running_tcp,
    silent,
    stored,
)
from tests.synthetic import ct_series

EVERY_SYNTAX = [build_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES) for context in AllStoragePresentationContexts]
TEST_DATA = Path(os.environ.get("GATEWAY_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def test_orthanc_holds_the_data_set_byte_for_byte_after_c_store(orthanc, instances):
    orthanc.clear()

    sent = dimse(orthanc.dicom_port).send(instances[0])

    assert sent.status == 0x0000
    assert data_set_sha256(orthanc.file(ct_series(4, 32, 32)[0].SOPInstanceUID)) == data_set_sha256(instances[0])


def test_orthanc_answers_the_echo(orthanc):
    assert dimse(orthanc.dicom_port).echo().startswith("answered C-ECHO in ")


@pytest.fixture
def tls(tmp_path):
    """A table's keys towards a storescp that takes nobody without a certificate, its own options, and who signs."""
    authority = Authority(tmp_path / "ca")
    theirs, ours = authority.issue("pacs", hosts=("pacs.example",)), authority.issue("gateway")
    table = {"verify": authority.certificate, "certificate": ours.certificate, "certificate_key": ours.key}
    options = ("+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.certificate))
    return {"tls": True} | {key: str(path) for key, path in table.items()}, options, authority


def test_storescp_receives_the_data_set_byte_for_byte_by_tls(tmp_path, tls):
    table, options, _ = tls
    paths = stored(tmp_path, ct_series(2, 1200, 1200))  # more than goes to the network at once
    received = tmp_path / "received"
    received.mkdir()

    with running_storescp(received, *options) as port:
        peer = dimse(port, **table)
        answered, named = peer.echo(), dimse(port, **table, certificate_name="pacs.example").echo()
        sent = [outcome for _, outcome in send_many(peer, paths)]

    assert [one.status for one in sent] == [0x0000, 0x0000]
    assert answered.startswith("answered C-ECHO") and named.startswith("answered C-ECHO")
    assert sorted(map(data_set_sha256, received.iterdir())) == sorted(map(data_set_sha256, paths))


def test_what_is_wrong_with_tls_is_told_and_is_tried_again(tmp_path, tls):
    table, options, _ = tls
    other = Authority(tmp_path / "other")
    stranger = other.issue("gateway")
    unknown = {"certificate": str(stranger.certificate), "certificate_key": str(stranger.key)}
    bare = {key: value for key, value in table.items() if not key.startswith("certificate")}
    said = {}

    with running_storescp(tmp_path, *options) as port:
        for what, keys in {
            "name": {**table, "certificate_name": "archive.example"}, "issuer": {**table, "verify": str(other.certificate)},
            "ours": {**table, **unknown}, "none": bare, "plain": {"timeout_seconds": 1},
        }.items():  # fmt: skip
            with pytest.raises(Unreachable) as told:
                dimse(port, **keys).echo()
            said[what] = str(told.value)
        believed = dimse(port, **{**bare, "verify": False})
        with pytest.raises(Unreachable, match=r"TLS failed|closed"):  # we believe everybody, and are not believed
            believed.echo()

    assert said["name"].startswith("no TLS with the peer: the certificate is not trusted (Hostname mismatch")
    assert said["issuer"].startswith("no TLS with the peer: the certificate is not trusted (self-signed certificate")
    assert "the connection broke: TLS failed" in said["ours"] and "TLS failed" in said["none"]
    assert "connection" in said["plain"]


def test_a_port_that_speaks_no_tls_is_told_so(tmp_path, tls):
    table, _, _ = tls
    with running_storescp(tmp_path) as port, pytest.raises(Unreachable, match="no TLS with the peer: "):
        dimse(port, **table).echo()


def test_certificates_that_are_replaced_count_with_the_next_connection(tmp_path, tls):
    table, options, authority = tls
    expired = authority.issue("gateway", expired=True)
    files = {key: tmp_path / key for key in ("certificate", "certificate_key")}
    good = {key: Path(table[key]).read_bytes() for key in files}
    files["certificate"].write_bytes(expired.certificate.read_bytes())
    files["certificate_key"].write_bytes(expired.key.read_bytes())

    with running_storescp(tmp_path, *options) as port:
        peer = dimse(port, **{**table, **{key: str(path) for key, path in files.items()}})
        with pytest.raises(Unreachable, match="TLS failed"):
            peer.echo()
        for key, path in files.items():
            path.write_bytes(good[key])
        assert peer.echo().startswith("answered C-ECHO")
        files["certificate_key"].unlink()
        with pytest.raises(Unreachable, match="the files with the certificates cannot be read"):
            peer.echo()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"verify": False}, "expected tls = true"),
        ({"certificate_name": "pacs.example"}, "expected tls = true"),
        ({"tls": True, "certificate": "ours.pem"}, "expected certificate and certificate_key together"),
        ({"tls": True, "certificate": "no.pem", "certificate_key": "no.key"}, "a certificate and its unencrypted key"),
        ({"tls": True, "verify": "no.pem"}, "the path of a file of CA certificates"),
    ],
)  # fmt: skip
def test_keys_of_tls_that_do_not_go_together_are_told(keys, problem):
    with pytest.raises(ConfigError, match=problem):
        dimse(104, **keys)


def test_storescp_receives_the_data_set_byte_for_byte_in_implicit_vr(tmp_path, instances):
    ds = ct_series(1, 301, 301)[0]
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path = tmp_path / "implicit"
    ds.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=True)
    received = tmp_path / "received"
    received.mkdir()

    with running_storescp(received) as port:
        dimse(port).send(path)

    assert [data_set_sha256(one) for one in received.iterdir()] == [data_set_sha256(path)]


@pytest.mark.parametrize("maximum_length", [0, 4096, 1_000_000])
def test_the_longest_pdu_is_the_peers_or_ours(instances, maximum_length):
    with running_scp(maximum_length=maximum_length) as scp:
        dimse(scp.port).send(instances[0])

    assert scp.received == [data_set(instances[0])]


def test_real_instances_in_many_transfer_syntaxes_go_out_as_they_are():
    source = TEST_DATA / "transfer_syntaxes_ct_chest_slice"
    if not source.is_dir():
        pytest.skip("needs the DICOM collection that GATEWAY_TEST_DATA names")
    paths = sorted(path for path in source.iterdir() if path.read_bytes()[128:132] == b"DICM")

    with running_scp(contexts=EVERY_SYNTAX) as scp:
        outcomes = dict(dimse(scp.port).send_many(paths))

    assert outcomes == dict.fromkeys(paths, Sent(0x0000, "stored"))
    assert scp.received == [data_set(path) for path in paths]


@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000])
def test_a_peer_that_holds_the_instance_ends_the_delivery(instances, status):
    with running_scp(status) as scp:
        assert dimse(scp.port).send(instances[0]).status == status


def test_a700_is_tried_again_and_a900_is_not(instances):
    with running_scp(0xA700, 0xA900) as scp:
        with pytest.raises(Unreachable, match="0xA700"):
            dimse(scp.port).send(instances[0])
        with pytest.raises(Rejected, match="0xA900"):
            dimse(scp.port).send(instances[0])


def test_one_bad_instance_does_not_stop_the_others_and_costs_no_association(instances):
    with running_scp(0x0000, 0xC000, 0xA700, 0x0000) as scp:
        outcomes = [outcome for _, outcome in send_many(dimse(scp.port), instances)]

    assert [type(outcome) for outcome in outcomes] == [Sent, Rejected, Unreachable, Sent]
    assert scp.associations == 1


def test_a_context_that_is_not_accepted_is_final_and_names_class_and_syntax(tmp_path, instances):
    other = stored(tmp_path, ct_series(1, 32, 32, seed=1, SOPClassUID=SegmentationStorage))

    with running_scp(contexts=[build_context(CTImageStorage)]) as scp:
        outcomes = [outcome for _, outcome in dimse(scp.port).send_many([*other, instances[1]])]

    assert [type(outcome) for outcome in outcomes] == [Rejected, Sent]
    assert outcomes[0].status == 0x0122
    assert str(outcomes[0]) == "the peer does not accept Segmentation Storage with Explicit VR Little Endian"


def test_more_than_128_sop_classes_go_over_two_associations(tmp_path):
    classes = [context.abstract_syntax for context in AllStoragePresentationContexts][:130]
    datasets = [ct_series(1, 8, 8, seed=n, SOPClassUID=sop_class)[0] for n, sop_class in enumerate(classes)]

    with running_scp() as scp:
        outcomes = list(dimse(scp.port).send_many(stored(tmp_path, datasets)))

    assert {str(outcome) for _, outcome in outcomes if outcome != Sent(0x0000, "stored")} == set()
    assert len(outcomes) == 130
    assert scp.associations == 2


def test_what_is_no_ps310_file_is_told_and_the_rest_goes_out(tmp_path, instances):
    (tmp_path / "notes.txt").write_text("not DICOM")

    with running_scp() as scp:
        outcomes = dict(dimse(scp.port).send_many([tmp_path / "notes.txt", tmp_path / "missing", instances[0]]))

    assert outcomes[tmp_path / "notes.txt"].status == 0xC000
    assert isinstance(outcomes[tmp_path / "missing"], Unreachable)
    assert outcomes[instances[0]] == Sent(0x0000, "stored")


def test_a_refused_association_is_tried_again(tmp_path, instances):
    with (
        running_storescp(tmp_path, "--refuse") as port,
        pytest.raises(Unreachable, match="rejected the association: no reason given"),
    ):
        dimse(port).send(instances[0])


def test_a_calling_ae_title_that_the_peer_does_not_know_is_said_in_words(instances):
    with running_scp(require_calling=["SOMEBODY"]) as scp:
        with pytest.raises(Unreachable, match="rejected the association: calling AE title not recognised"):
            dimse(scp.port).send(instances[0])
        with pytest.raises(Unreachable, match="calling AE title not recognised"):
            dimse(scp.port).echo()


@pytest.mark.parametrize("fault", ["--abort-after", "--abort-during"])
def test_an_abort_after_the_last_byte_leaves_the_outcome_unknown(tmp_path, instances, fault):
    with running_storescp(tmp_path, fault) as port, pytest.raises(Unanswered, match="may be stored or not"):
        dimse(port).send(instances[0])


def test_an_abort_while_bytes_still_go_out_is_no_doubt_at_all(tmp_path):
    path = stored(tmp_path, ct_series(1, 4000, 4000))[0]

    with running_storescp(tmp_path, "--abort-during") as port, pytest.raises(Unreachable) as raised:
        dimse(port).send(path)

    assert type(raised.value) is Unreachable
    assert "stored or not" not in str(raised.value)


@pytest.mark.parametrize("status", [0xA700, 0x0110])
def test_a_peer_that_says_that_it_could_not_take_it_leaves_no_doubt(instances, status):
    with running_scp(status) as scp, pytest.raises(Unreachable) as raised:
        dimse(scp.port).send(instances[0])

    assert type(raised.value) is Unreachable


def speaks_nonsense(answer):
    """An archive that takes what is stored and answers with something else."""

    def talk(peer):
        with running_scp() as scp, socket.create_connection(("127.0.0.1", scp.port)) as onward:
            onward.sendall(peer.recv(65536))
            peer.sendall(onward.recv(65536))
            while not peer.recv(65536).endswith(b"\0"):
                pass
            peer.sendall(answer)
            silent(peer)

    return talk


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (pdu.p_data(1, pdu.COMMAND | pdu.LAST, b"rubbish"), "not understood"),
        (
            pdu.p_data(1, pdu.COMMAND | pdu.LAST, command.request(1, 1, sop_class_uid="1.2", has_data_set=False)),
            "another message",
        ),
        (pdu.p_data(1, pdu.COMMAND, b"\0" * 100_000), "longer than one can be"),
        (pdu.p_data(1, pdu.COMMAND, b"")[:-1], "no answer within"),
        (pdu.release_rq(), "released the association before its answer"),
    ],
)
def test_an_answer_that_is_none_leaves_the_outcome_unknown(instances, answer, words):
    with (
        running_tcp(speaks_nonsense(answer)) as port,
        pytest.raises(Unanswered, match=f"{words}.*; the instance may be stored or not"),
    ):
        dimse(port, timeout_seconds=3 if "no answer" in words else 20).send(instances[0])


def test_a_peer_that_sends_fragments_without_end_is_left_after_the_timeout(instances):
    empty = pdu.p_data(1, pdu.COMMAND, b"") * 1000
    ended = threading.Event()

    def floods(peer):
        with socket.create_connection(("127.0.0.1", scp.port)) as onward:
            onward.sendall(peer.recv(65536))
            peer.sendall(onward.recv(65536))
            try:
                while True:
                    peer.sendall(empty)
            except OSError:
                ended.set()

    with running_scp() as scp, running_tcp(floods) as port, pytest.raises(Unanswered, match="no answer within 3 s"):
        dimse(port, timeout_seconds=3).send(instances[0])

    assert ended.wait(10)


def test_a_peer_that_hangs_is_left_after_the_timeout(tmp_path, instances):
    started = time.monotonic()

    with running_storescp(tmp_path, "--sleep-during", "30") as port, pytest.raises(Unanswered, match="no answer within 3 s"):
        dimse(port, timeout_seconds=3).send(instances[0])

    assert time.monotonic() - started < 30


def test_a_network_slower_than_the_timeout_allows_for_the_whole_instance_still_delivers(tmp_path):
    path = stored(tmp_path, ct_series(1, 1500, 1500))[0]
    received = tmp_path / "received"
    received.mkdir()

    with running_storescp(received) as storescp:

        def slowly(peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            with socket.create_connection(("127.0.0.1", storescp)) as onward:
                back = threading.Thread(target=pump, args=(onward, peer, 0))
                back.start()
                pump(peer, onward, 0.05)
                onward.shutdown(socket.SHUT_WR)
                back.join()

        with running_tcp(slowly) as port:
            started = time.monotonic()
            dimse(port, timeout_seconds=2).send(path)

    assert time.monotonic() - started > 2.5
    assert [data_set_sha256(one) for one in received.iterdir()] == [data_set_sha256(path)]


def pump(source, target, pause):
    while data := source.recv(65536):
        time.sleep(pause)
        target.sendall(data)


def test_a_port_where_nobody_listens_is_tried_again(instances):
    with pytest.raises(Unreachable, match="no connection: connection refused"):
        dimse(free_port()).send(instances[0])


def test_a_host_name_that_is_not_known_is_tried_again(instances):
    with pytest.raises(Unreachable, match="the host name is not known"):
        dimse(104, host="no-such-host.invalid").send(instances[0])


def rambles(peer):
    peer.recv(65536)
    peer.sendall(b"\x02\x00\x00\x00\x00\x08rubbish.")
    silent(peer)


def boasts(peer):
    peer.recv(65536)
    peer.sendall(struct.pack(">BxI", 2, 2_000_000_000))
    silent(peer)


def serves_pages(peer):
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def trickles(peer):
    peer.recv(65536)
    for _ in range(50):
        peer.sendall(b"\x02")
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (silent, "no answer within 0.5 s"),
        (closes, "the peer closed the connection|connection reset|broken pipe"),
        (rambles, "not understood"),
        (boasts, "longer than agreed"),
        (serves_pages, "what answers there is not DICOM: expected another port"),
        (trickles, "no answer within 0.5 s|longer than agreed"),
    ],
)
def test_a_peer_that_does_not_speak_dicom_is_left_with_a_reason(instances, talk, words):
    with running_tcp(talk) as port, pytest.raises(Unreachable, match=words):
        dimse(port, timeout_seconds=0.5 if "no answer" in words else 20).send(instances[0])


def test_sending_many_goes_on_over_a_new_association_after_a_break(instances):
    with running_scp() as scp:
        breaks = [True]

        def breaks_once(peer):
            with socket.create_connection(("127.0.0.1", scp.port)) as onward:
                back = threading.Thread(target=pump, args=(onward, peer, 0))
                back.start()
                for _ in range(3 if breaks and breaks.pop() else 100_000):
                    data = peer.recv(4096)
                    if not data:
                        break
                    onward.sendall(data)
                onward.shutdown(socket.SHUT_RDWR)
                peer.shutdown(socket.SHUT_RDWR)
                back.join()

        with running_tcp(breaks_once) as port:
            outcomes = [type(outcome) for _, outcome in dimse(port).send_many(instances)]

    assert sum(issubclass(outcome, Unreachable) for outcome in outcomes) == 1
    assert outcomes.count(Sent) == 3


def test_sending_many_gives_up_after_three_breaks_without_an_answer(tmp_path, instances):
    with running_storescp(tmp_path, "--abort-after") as port:
        outcomes = list(dimse(port).send_many(instances))

    assert [path for path, _ in outcomes] == instances
    assert [type(outcome) for _, outcome in outcomes] == [Unanswered, Unanswered, Unanswered, Unreachable]


def test_no_thread_and_no_socket_is_left_behind(tmp_path, instances):
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))

    with running_storescp(tmp_path, "--abort-after") as port:
        list(dimse(port).send_many(instances))
        dimse(port).echo()

    assert set(threading.enumerate()) <= threads
    assert set(os.listdir("/proc/self/fd")) <= descriptors


def test_no_library_logs_what_is_sent(tmp_path, instances, caplog):
    with caplog.at_level(logging.DEBUG), running_storescp(tmp_path) as port:
        dimse(port).send(instances[0])

    uids = [ct_series(4, 32, 32)[0][keyword].value for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")]
    assert [word for word in ["CANARY", *uids] if word in caplog.text] == []


def test_a_hundred_ct_slices_do_not_stall(tmp_path):
    paths = stored(tmp_path, ct_series(100, 32, 32))
    received = tmp_path / "received"
    received.mkdir()

    with running_storescp(received) as port:
        started = time.monotonic()
        outcomes = list(dimse(port).send_many(paths))
        took = time.monotonic() - started

    assert {outcome for _, outcome in outcomes} == {Sent(0x0000, "stored")}
    assert took < 3, "a stall of 40 ms an instance takes 4 seconds"


def test_a_probe_says_what_helps_where_segmentations_or_reports_are_not_taken() -> None:
    found = {one.what: one for one in capabilities({(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)})}

    for name in ("Segmentation Storage", "Comprehensive 3D SR Storage"):
        assert (found[name].works, "[delivery] pictures = true" in found[name].note) == (False, True)
        assert 'objects = ["pictures"]' in found[name].note
    assert found["Key Object Selection Document Storage"].note == ""
    assert found["Secondary Capture Image Storage"].note == "Explicit VR"
    assert found["Enhanced CT Image Storage"].note == ""
    for name in ("CT Image Storage", "Parametric Map Storage"):
        assert (found[name].works, found[name].note.startswith("its table leaves them out")) == (False, True)
