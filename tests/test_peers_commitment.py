"""Asking an archive to keep what it took: the N-ACTION of Storage Commitment, push model, as its SCU (PS3.4 J.3.2)."""

import socket

import pytest
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, generate_uid

from gateway.dicom import command, pdu
from gateway.dicom.commitment import COMMITMENT, WELL_KNOWN, Outcome, encoded_request, read_request
from gateway.errors import Rejected, Unreachable
from tests.peers_fixture import dimse, running_orthanc, running_scp, running_storescp, running_tcp, silent, stored
from tests.ports import free_port
from tests.scp_fixture import running_listener
from tests.synthetic import ct_series

ONE = [(CTImageStorage, "1.2.3.4")]


def references(series):
    return [(ds.SOPClassUID, ds.SOPInstanceUID) for ds in series]


def test_orthanc_reports_over_a_new_association_what_it_keeps_and_what_it_does_not_have(tmp_path):
    port, series = free_port(), ct_series(3, 32, 32)
    paths = stored(tmp_path, series)
    modalities = {"gateway": ["AIGATEWAY", "127.0.0.1", port]}
    uids = [ds.SOPInstanceUID for ds in series]

    with running_orthanc(tmp_path, DicomModalities=modalities) as orthanc, running_listener(port) as listener:
        peer = dimse(orthanc.dicom_port)
        for path in paths[:2]:
            peer.send(path)
        transaction = generate_uid()
        peer.request_commitment(transaction, references(series))

        assert listener.heard.wait(20)

    assert listener.reports == [(transaction, {uids[0]: 0, uids[1]: 0, uids[2]: 0x0112})]


def test_a_peer_is_asked_with_transaction_uid_classes_and_instances_and_reports_by_itself(tmp_path):
    port, series = free_port(), ct_series(2, 32, 32)
    paths = stored(tmp_path, series)

    with running_listener(port) as listener, running_scp() as scp:
        scp.report_to = (port, "AIGATEWAY")
        dimse(scp.port).send(paths[0])
        dimse(scp.port).request_commitment("1.2.9", references(series))

        assert listener.heard.wait(20)

    assert scp.requests == [("1.2.9", references(series))]
    assert listener.reports == [("1.2.9", {series[0].SOPInstanceUID: 0, series[1].SOPInstanceUID: 0x0112})]


def test_what_is_asked_is_read_by_our_own_door():
    instances = tuple((CTImageStorage, f"1.2.3.{n}") for n in range(300))

    assert read_request(encoded_request("1.2.9", instances), ImplicitVRLittleEndian) == ("1.2.9", instances)


def test_a_peer_without_storage_commitment_is_told_in_words_what_can_be_done(tmp_path):
    with running_scp(commits=False) as scp, pytest.raises(Unreachable, match='set proof = "query" or "none"'):
        dimse(scp.port).request_commitment("1.2.9", ONE)
    with running_storescp(tmp_path) as port, pytest.raises(Unreachable, match='set proof = "query" or "none"'):
        dimse(port).request_commitment("1.2.9", ONE)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0110, Unreachable),
        (0x0213, Unreachable),
        (0x0122, Unreachable),
        (0x0118, Unreachable),
        (0x0112, Rejected),
        (0x0123, Rejected),
        (0x0115, Rejected),
    ],
)
def test_a_request_that_is_refused_is_told_with_its_status(status, kind):
    with running_scp() as scp:
        scp.action_statuses = [status]
        with pytest.raises(kind, match=f"0x{status:04X}"):
            dimse(scp.port).request_commitment("1.2.9", ONE)


def test_a_request_that_nobody_answers_is_given_up_after_the_timeout():
    with running_tcp(after_the_request()) as port, pytest.raises(Unreachable, match="no answer within 1 s"):
        dimse(port, timeout_seconds=1).request_commitment("1.2.9", ONE)


def test_a_peer_that_aborts_is_asked_again():
    with running_tcp(after_the_request(pdu.abort())) as port, pytest.raises(Unreachable, match="aborted"):
        dimse(port).request_commitment("1.2.9", ONE)


def test_a_port_where_nobody_listens_is_asked_again():
    with pytest.raises(Unreachable, match="no connection"):
        dimse(free_port()).request_commitment("1.2.9", ONE)


def test_a_report_that_overtakes_the_answer_is_not_taken_and_the_association_is_aborted():
    with running_scp() as scp:
        scp.report_before_answer = True

        dimse(scp.port).request_commitment("1.2.9", ONE)

        assert scp.aborted.wait(10), "an unanswered report must not look as if it were delivered"


REQUESTED = command.Command(
    command.N_ACTION, 1, has_data_set=True, sop_class_uid=COMMITMENT, sop_instance_uid=WELL_KNOWN, type_id=1
)
ANSWER = pdu.p_data(1, pdu.COMMAND | pdu.LAST, command.respond(REQUESTED, 0x0000))
EVENT = command.request(
    command.N_EVENT_REPORT, 1, sop_class_uid=COMMITMENT, sop_instance_uid=WELL_KNOWN, type_id=1, has_data_set=True
)
REPORT = pdu.p_data(1, pdu.COMMAND | pdu.LAST, EVENT) + pdu.p_data(1, pdu.LAST, Outcome("1.2.9", ONE, []).encoded())


def after_the_request(*parts, ended=None):
    """An archive that takes the association and answers the request with these PDUs; `ended` are the PDUs that come then."""

    def talk(peer):
        with running_scp() as scp, socket.create_connection(("127.0.0.1", scp.port)) as onward:
            onward.sendall(peer.recv(65536))
            peer.sendall(onward.recv(65536))
            head = peer.recv(65536)
            while ONE[0][1].encode() not in head:
                head += peer.recv(65536)
            for part in parts:
                peer.sendall(part)
            if ended is None:
                silent(peer)
            peer.settimeout(10)
            while data := peer.recv(65536):
                ended.append(data)

    return talk


def pdus(ended):
    """The types of the PDUs."""
    data, kinds = b"".join(ended), []
    while data:
        kinds.append(data[0])
        data = data[6 + int.from_bytes(data[2:6]) :]
    return kinds


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((ANSWER, pdu.release_rp()), [pdu.RELEASE_RQ]),
        ((REPORT, ANSWER), [pdu.ABORT]),
        ((ANSWER + REPORT,), [pdu.RELEASE_RQ, pdu.ABORT]),
        ((ANSWER[:20], ANSWER[20:], pdu.release_rp()), [pdu.RELEASE_RQ]),
    ],
)
def test_an_association_is_released_unless_a_report_came_over_it(parts, expected):
    ended = []

    with running_tcp(after_the_request(*parts, ended=ended)) as port:
        dimse(port).request_commitment("1.2.9", ONE)

    assert pdus(ended) == expected


def test_a_peer_that_only_reports_is_left():
    with running_tcp(after_the_request(REPORT * 20)) as port, pytest.raises(Unreachable, match="its own requests and no answer"):
        dimse(port).request_commitment("1.2.9", ONE)
