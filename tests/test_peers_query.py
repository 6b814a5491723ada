"""Is it there, and whose is it? C-FIND to real archives and to scripted ones (PS3.4 C)."""

import os
import socket
import threading

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom.dsutils import encode

from gateway.dicom import command, pdu
from gateway.errors import Rejected, Unreachable
from gateway.peers import Sought, _find, make_peer
from tests.peers_fixture import PROTOCOLS, dimse, running_dcmqrscp, running_scp, running_tcp, stored
from tests.synthetic import ct_series


@pytest.fixture(scope="module")
def dcmqrscp(tmp_path_factory):
    with running_dcmqrscp(tmp_path_factory.mktemp("dcmqrscp")) as port:
        yield port


def wanted(ds, path):
    return Sought(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.SOPClassUID, path)


def check_finds_what_it_has(peer, tmp_path, seed):
    series = ct_series(3, 32, 32, seed=seed)
    paths = stored(tmp_path, series)
    for path in paths[:2]:
        peer.send(path)

    assert [peer.holds(wanted(ds, path)) for ds, path in zip(series, paths, strict=True)] == [True, True, False]
    assert peer.patient_of(series[0].StudyInstanceUID) == series[0].PatientID
    assert peer.patient_of(generate_uid()) is None


def test_orthanc_is_asked_for_what_it_holds_and_whose_it_is(orthanc, tmp_path):
    check_finds_what_it_has(dimse(orthanc.dicom_port), tmp_path, 1)


def test_dcmqrscp_is_asked_for_what_it_holds_and_whose_it_is(dcmqrscp, tmp_path):
    check_finds_what_it_has(dimse(dcmqrscp, ae_title="DCMQR"), tmp_path, 2)


def test_pynetdicom_is_asked_for_what_it_holds_and_whose_it_is(tmp_path):
    with running_scp() as scp:
        check_finds_what_it_has(dimse(scp.port), tmp_path, 3)

    assert [query.QueryRetrieveLevel for query in scp.queries] == ["IMAGE"] * 3 + ["STUDY"] * 2


def check_counts_what_it_has(peer, sent_by, tmp_path, seed):
    series = ct_series(3, 32, 32, seed=seed)
    for path in stored(tmp_path, series)[:2]:
        sent_by.send(path)

    assert peer.instances_of(series[0].StudyInstanceUID, series[0].SeriesInstanceUID) == 2
    assert not peer.instances_of(series[0].StudyInstanceUID, generate_uid())


def test_archives_are_asked_how_many_instances_a_series_has(orthanc, dcmqrscp, tmp_path):
    by_dimse = dimse(orthanc.dicom_port)
    by_web = make_peer({"name": "web", "protocol": "dicomweb", "url": f"{orthanc.url}/dicom-web"}, protocols=PROTOCOLS)
    check_counts_what_it_has(by_dimse, by_dimse, tmp_path, 11)
    check_counts_what_it_has(by_web, by_dimse, tmp_path, 12)

    names_them = dimse(dcmqrscp, ae_title="DCMQR")  # it does not count, but names them
    check_counts_what_it_has(names_them, names_them, tmp_path, 13)


def test_orthanc_no_longer_has_what_was_deleted_there(orthanc, tmp_path):
    ds = ct_series(1, 32, 32, seed=4)[0]
    (path,) = stored(tmp_path, [ds])
    peer = dimse(orthanc.dicom_port)
    peer.send(path)

    orthanc.clear()

    assert not peer.holds(wanted(ds, path))


def test_what_a_peer_took_and_lost_is_not_there(tmp_path):
    ds = ct_series(1, 32, 32)[0]
    (path,) = stored(tmp_path, [ds])

    with running_scp() as scp:
        scp.loses = 1
        assert dimse(scp.port).send(path).status == 0x0000
        assert not dimse(scp.port).holds(wanted(ds, path))


@pytest.mark.parametrize(
    ("character_set", "patient_id"),
    [
        ("ISO_IR 100", "MÜLLER-7"),
        ("ISO_IR 192", "患者-7"),
        ("ISO_IR 144", "Иванов-7"),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], "山田-7"),
        ("GB18030", "王-7"),
        ("ISO_IR 192", "P7"),
        ("ISO_IR 192", ""),
    ],
)
def test_a_patient_id_is_the_text_that_its_character_set_makes_of_the_bytes(orthanc, tmp_path, character_set, patient_id):
    ds = ct_series(1, 32, 32, seed=5, SpecificCharacterSet=character_set, PatientID=patient_id)[0]
    (path,) = stored(tmp_path, [ds])

    with running_scp() as scp:
        dimse(scp.port).send(path)

        assert dimse(scp.port).patient_of(ds.StudyInstanceUID) == patient_id


def test_orthanc_tells_a_patient_id_that_is_not_ascii(orthanc, tmp_path):
    ds = ct_series(1, 32, 32, seed=6, SpecificCharacterSet="ISO_IR 192", PatientID="MÜLLER-7")[0]
    (path,) = stored(tmp_path, [ds])
    dimse(orthanc.dicom_port).send(path)

    assert dimse(orthanc.dicom_port).patient_of(ds.StudyInstanceUID) == "MÜLLER-7"


@pytest.mark.parametrize(
    ("character_set", "raw"), [("ISO_IR 192", b"M\xfcLLER"), ("ISO_IR 999", b"M\xfcLLER"), ("", b"\x1b$BP7")]
)
def test_a_patient_id_that_is_no_text_is_not_guessed_and_not_quoted(character_set, raw):
    match = element(0x0008, 0x0005, character_set.encode()) + element(0x0010, 0x0020, raw)

    with pytest.raises(Unreachable) as raised:
        _find.text(_find.read(match), "PatientID")

    assert "LLER" not in str(raised.value)


def element(group, number, value):
    value += b" " * (len(value) % 2)
    return group.to_bytes(2, "little") + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value


def test_a_peer_that_does_not_let_us_query_is_told_in_words_what_can_be_done(tmp_path):
    with running_scp(finds=False) as scp, pytest.raises(Unreachable, match='set proof = "commitment" or "none"'):
        dimse(scp.port).patient_of("1.2.3")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0xA700, Unreachable),
        (0x0110, Unreachable),
        (0x0213, Unreachable),
        (0x0122, Unreachable),
        (0xA900, Rejected),
        (0xC001, Rejected),
        (0xFE00, Rejected),
    ],
)
def test_a_query_that_fails_tells_nothing_and_says_so_with_its_status(tmp_path, status, kind):
    ds = ct_series(1, 32, 32)[0]
    (path,) = stored(tmp_path, [ds])

    with running_scp() as scp:
        scp.find_statuses = [status]
        dimse(scp.port).send(path)

        with pytest.raises(kind, match=f"0x{status:04X}"):
            dimse(scp.port).holds(wanted(ds, path))
        assert dimse(scp.port).holds(wanted(ds, path))


def test_a_warning_that_there_may_be_more_is_an_answer(tmp_path):
    ds = ct_series(1, 32, 32)[0]
    (path,) = stored(tmp_path, [ds])

    with running_scp() as scp:
        scp.find_statuses = [0xB001]
        dimse(scp.port).send(path)

        assert dimse(scp.port).holds(wanted(ds, path))


def match_of(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return encode(ds, is_implicit_vr=True, is_little_endian=True)


def response(status, *, has_data_set, message_id=1):
    """The command set of a C-FIND-RSP, with a data set or without."""
    query = command.Command(command.C_FIND, message_id, has_data_set=True, sop_class_uid="1.2.840.10008.5.1.4.1.2.2.1")
    encoded = command.respond(query, status)
    return (
        encoded.replace(b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x01", b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x00")
        if has_data_set
        else encoded
    )


def pending(data, status=0xFF00):
    return pdu.p_data(1, pdu.COMMAND | pdu.LAST, response(status, has_data_set=True)) + pdu.p_data(1, pdu.LAST, data)


SUCCESS = pdu.p_data(1, pdu.COMMAND | pdu.LAST, response(0x0000, has_data_set=False))


def answers(*parts):
    """An archive that takes the association and answers every query with these PDUs."""

    def talk(peer):
        with running_scp() as scp, socket.create_connection(("127.0.0.1", scp.port)) as onward:
            onward.sendall(peer.recv(65536))
            peer.sendall(onward.recv(65536))
            peer.recv(65536)
            for part in parts:
                peer.sendall(part)
            peer.settimeout(10)
            while data := peer.recv(65536):
                if data[0] == pdu.RELEASE_RQ:
                    peer.sendall(pdu.release_rp())

    return talk


WANTED = Sought("1.2.1", "1.2.2", "1.2.3", "1.2.840.10008.5.1.4.1.1.2", None)
OURS, OTHER = match_of(SOPInstanceUID="1.2.3"), match_of(SOPInstanceUID="1.2.4")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((pending(OURS), SUCCESS), True),
        ((pending(OURS, 0xFF01), SUCCESS), True),
        ((pending(OTHER), SUCCESS), False),
        ((SUCCESS,), False),
        ((pending(OTHER), pending(OURS), pending(OTHER), SUCCESS), True),
        ((pending(OTHER) * 900 + pending(OURS) + SUCCESS,), True),
        ((pending(match_of(PatientID="CANARY")), SUCCESS), False),
    ],
)
def test_only_a_match_with_our_sop_instance_uid_counts(parts, expected):
    with running_tcp(answers(*parts)) as port:
        assert dimse(port).holds(WANTED) is expected


def split(data, *sizes):
    """A match whose data set comes in fragments."""
    parts = [pdu.p_data(1, pdu.COMMAND | pdu.LAST, response(0xFF00, has_data_set=True))]
    for size in sizes:
        parts.append(pdu.p_data(1, 0, data[:size]))
        data = data[size:]
    return b"".join([*parts, pdu.p_data(1, pdu.LAST, data)])


def test_a_match_may_come_in_fragments():
    with running_tcp(answers(split(OURS, 1, 0, 7), SUCCESS)) as port:
        assert dimse(port).holds(WANTED)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((pending(b"rubbish!"), SUCCESS), "not understood"),
        ((pending(OURS[:-1]), SUCCESS), "not understood"),
        ((pdu.p_data(1, pdu.COMMAND | pdu.LAST, response(0xFF00, has_data_set=True)), SUCCESS), "not understood"),
        ((pending(OTHER) * 1500,), "a thousand matches"),
        ((pending(b"\0" * 100_000) * 20,), "or a megabyte"),
        ((split(b"\0" * 2_000_000, *[100_000] * 19),), "longer than one can be"),
        ((pending(OTHER),), "no answer within 1 s"),
        ((pdu.p_data(1, pdu.COMMAND | pdu.LAST, response(0x0000, has_data_set=False, message_id=7)),), "another message"),
        ((pending(OURS), pdu.abort()), "aborted"),
    ],
)
def test_an_archive_that_answers_with_rubbish_or_too_much_has_said_nothing(parts, words):
    with running_tcp(answers(*parts)) as port, pytest.raises(Unreachable, match=words):
        dimse(port, timeout_seconds=1 if "no answer" in words else 20).holds(WANTED)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            (
                pending(match_of(StudyInstanceUID="1.2.9", PatientID="P9")),
                pending(match_of(StudyInstanceUID="1.2.1", PatientID="P1")),
            ),
            "P1",
        ),
        ((pending(match_of(StudyInstanceUID="1.2.1", PatientID="P1 ")),), "P1"),
        ((pending(match_of(StudyInstanceUID="1.2.1", PatientID="")),), ""),
        ((pending(match_of(StudyInstanceUID="1.2.1")),), None),
        ((), None),
    ],
)
def test_the_patient_is_the_one_of_our_study(parts, expected):
    with running_tcp(answers(*parts, SUCCESS)) as port:
        assert dimse(port).patient_of("1.2.1") == expected


def test_a_query_is_implicit_vr_with_unique_keys_only():
    identifier = _find.identifier("IMAGE", {"StudyInstanceUID": "1.2.1", "SOPInstanceUID": "1.2.3"})

    assert identifier == match_of(QueryRetrieveLevel="IMAGE", StudyInstanceUID="1.2.1", SOPInstanceUID="1.2.3")
    assert _find.uid(_find.read(identifier), "SOPInstanceUID") == "1.2.3"


def test_no_thread_and_no_socket_is_left_behind(dcmqrscp):
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))

    dimse(dcmqrscp, ae_title="DCMQR").holds(WANTED)
    with pytest.raises(Unreachable):
        dimse(dcmqrscp, ae_title="DCMQR").request_commitment("1.2.9", [("1.2", "1.2.3")])

    assert set(threading.enumerate()) <= threads
    assert set(os.listdir("/proc/self/fd")) <= descriptors
