"""The listener (PS3.4 A, B) through real associations: who may come in, what is taken as it is, and what is refused how."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification
from sqlalchemy import select

from gateway.db import Database, open_database
from gateway.engine import Queues
from gateway.errors import DeliveryError, Rejected
from gateway.ingest import Door
from gateway.ingest.dimse import TRANSFER_SYNTAXES, Listener
from gateway.instance import Incoming
from gateway.peers import load_protocols, make_peer, send_many
from gateway.receive import association_ended, association_rejected, instance_refused, receive
from gateway.store import Store
from gateway.tables import Association, AuditEvent, Instance, Version
from tests.conftest import ROOT
from tests.peers_fixture import data_set, running_storescp
from tests.synthetic import ct_series, part10
from tests.world import associate, send, store

DATA = Path(os.environ.get("GATEWAY_TEST_DATA") or ROOT / "../shared/data")
FOLDERS = sorted(path.name for path in DATA.iterdir() if path.is_dir()) if DATA.is_dir() else []
UNKNOWN_CALLING, UNKNOWN_CALLED, TOO_MANY = (1, 1, 3), (1, 1, 7), (2, 3, 2)


@dataclass
class Gate:
    """A listener with store and database behind it; `store` can be exchanged, `failure` is raised instead of receiving."""

    store: Store
    db: Database
    queues: Queues
    failure: Exception | None = None
    listener: Listener = field(init=False)

    @property
    def port(self) -> int:
        return self.listener.port

    @property
    def door(self) -> Door:
        quiet = timedelta(seconds=10)
        return Door(
            receive=lambda incoming: self._receive(incoming, quiet),
            instance_refused=lambda origin, error: instance_refused(origin, error, now(), db=self.db),
            association_ended=lambda one: association_ended(one, now(), db=self.db, queues=self.queues, quiet=quiet),
            association_rejected=lambda origin, reason: association_rejected(origin, reason, now(), db=self.db),
        )

    def _receive(self, incoming: Incoming, quiet: timedelta) -> None:
        if self.failure is not None:
            raise self.failure
        receive(incoming, now(), store=self.store, db=self.db, queues=self.queues, quiet=quiet, executor="tests")

    def rows(self, table: type) -> list[Any]:
        with self.db() as session:
            return list(session.scalars(select(table)))

    def held(self) -> dict[str, bytes]:
        """The bytes of each data set by SOP Instance UID."""
        return {row.sop_instance_uid: data_set(self.store.read(row.sha256)) for row in self.rows(Instance)}

    def kept(self) -> set[bytes]:
        """The bytes of all data sets, versions too."""
        return {data_set(self.store.read(row.sha256)) for row in [*self.rows(Instance), *self.rows(Version)]}

    def refusals(self) -> list[str]:
        return [event.detail["status"] for event in self.rows(AuditEvent) if event.act == "instance.refused"]

    def wait(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def open_gate(folder: Path, database: Path, **settings: Any) -> Iterator[Gate]:
    path = folder / "gate.db"
    shutil.copy(database, path)
    url = f"sqlite:///{path}"
    gate = Gate(Store(folder / "store"), open_database(url), Queues(url))
    defaults = {"calling_ae_titles": (), "maximum_associations": 8, "maximum_instance_bytes": 2**30, "idle_seconds": 30.0}
    gate.listener = Listener(gate.door, ae_title="AIGATEWAY", host="127.0.0.1", port=0, **(defaults | settings))
    try:
        yield gate
    finally:
        gate.listener.close()
        gate.queues.close()
        gate.db.kw["bind"].dispose()


@pytest.fixture
def gate(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Gate]:
    with open_gate(tmp_path, migrated_sqlite, calling_ae_titles=("CT1",), maximum_instance_bytes=1_000_000) as gate:
        yield gate


def rejection(port: int, *, calling: str = "CT1", called: str = "AIGATEWAY") -> tuple[int, int, int]:
    """Result, source and reason of the A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    ae = AE(calling)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    assert association.is_rejected
    answer = association.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


# --- Who may come in (standards 3.1) ---


def test_an_echo_is_answered(gate: Gate) -> None:
    association = associate(gate.port, [])

    assert association.send_c_echo().Status == 0x0000

    association.release()


def test_an_unknown_calling_ae_title_is_rejected_and_audited(gate: Gate) -> None:
    assert rejection(gate.port, calling="STRANGER") == UNKNOWN_CALLING

    gate.wait(lambda: gate.rows(AuditEvent))
    (event,) = gate.rows(AuditEvent)
    assert (event.act, event.actor, event.outcome) == ("association.rejected", "STRANGER", 4)


def test_a_wrong_called_ae_title_is_rejected_and_audited(gate: Gate) -> None:
    assert rejection(gate.port, called="SOMEBODY") == UNKNOWN_CALLED

    gate.wait(lambda: gate.rows(AuditEvent))
    (event,) = gate.rows(AuditEvent)
    assert (event.act, event.detail["called_ae_title"]) == ("association.rejected", "SOMEBODY")


def test_one_association_too_many_is_rejected_for_now_and_accepted_later(tmp_path: Path, migrated_sqlite: Path) -> None:
    with open_gate(tmp_path, migrated_sqlite, maximum_associations=1) as gate:
        first = associate(gate.port, [])

        assert rejection(gate.port) == TOO_MANY

        first.release()
        gate.wait(lambda: not gate.listener._server.active_associations)
        associate(gate.port, []).release()


def test_a_known_scanner_is_let_in_and_what_it_sends_is_kept_byte_for_byte(gate: Gate) -> None:
    series = ct_series(3)

    assert send(series, gate.port) == [0x0000] * 3

    assert gate.held() == {ds.SOPInstanceUID: data_set(part10(ds)) for ds in series}


@pytest.mark.parametrize("leave", ["release", "abort"])
def test_an_association_has_ended_when_its_sender_releases_or_aborts_it(gate: Gate, leave: str) -> None:
    association = associate(gate.port, ct_series(1))
    association.send_c_store(ct_series(1)[0])
    assert [one.ended_at for one in gate.rows(Association)] == [None]

    getattr(association, leave)()

    gate.wait(lambda: [one for one in gate.rows(Association) if one.ended_at])


def test_an_association_that_is_cut_in_the_middle_of_an_instance_leaves_nothing_behind(gate: Gate) -> None:
    one, other = ct_series(2)
    association = associate(gate.port, [one])
    association.send_c_store(one)
    request, message = C_STORE(), C_STORE_RQ()
    request.MessageID, request.Priority, request.DataSet = 2, 2, BytesIO(encode(other, False, True))
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = other.SOPClassUID, other.SOPInstanceUID
    message.primitive_to_message(request)
    parts = list(message.encode_msg(association.accepted_contexts[0].context_id, 1000))
    for part in parts[: len(parts) // 2]:
        association.dul.send_pdu(part)
    association.abort()
    gate.wait(lambda: [one for one in gate.rows(Association) if one.ended_at])

    assert set(gate.held()) == {one.SOPInstanceUID}
    assert list((gate.store.path("00").parent.parent / "incoming").iterdir()) == []
    assert send([other], gate.port) == [0x0000]


# --- What is refused, how, and that the association goes on (standards 3.2) ---


def _another_class(ds: Dataset) -> dict[str, Any]:
    ds.SOPClassUID = MRImageStorage
    return {"AffectedSOPClassUID": CTImageStorage, "data": encode(ds, False, True)}


def _another_uid(ds: Dataset) -> dict[str, Any]:
    return {"AffectedSOPInstanceUID": "1.2.3.4"}


def _large(ds: Dataset) -> dict[str, Any]:
    ds.PixelData = bytes(2_000_000)
    return {"data": encode(ds, False, True)}


@pytest.mark.parametrize(
    ("status", "broken"),
    [
        pytest.param(0xA900, _another_class, id="the data set says another SOP class"),
        pytest.param(0xC000, lambda ds: {"data": os.urandom(4000)}, id="no data set"),
        pytest.param(0xC000, lambda ds: {"data": encode(ds, False, True)[:-1]}, id="a data set that is cut"),
        pytest.param(0xC000, lambda ds: {"data": encode(ds, True, True)}, id="implicit where explicit was agreed on"),
        pytest.param(0xC000, lambda ds: {"data": None}, id="a request without a data set"),
        pytest.param(0xC000, _large, id="more than maximum_instance_bytes"),
        pytest.param(0x0117, _another_uid, id="the data set says another SOP instance"),
        pytest.param(0x0122, lambda ds: {"AffectedSOPClassUID": MRImageStorage}, id="a SOP class outside its context"),
    ],
)
def test_what_is_broken_is_refused_with_its_status_and_the_next_instance_is_taken(
    gate: Gate, status: int, broken: Callable[[Dataset], dict[str, Any]]
) -> None:
    bad, good = ct_series(2)
    association = associate(gate.port, [good])
    changes = broken(bad)
    bad.SOPClassUID = CTImageStorage

    refused = store(association, bad, **changes)
    taken = store(association, good)
    association.release()

    assert (refused, taken) == (status, 0x0000)
    assert gate.held() == {good.SOPInstanceUID: data_set(part10(good))}
    assert gate.refusals() == [f"0x{status:04X}"]


def test_a_sender_that_promises_a_data_set_and_sends_none_loses_its_association(tmp_path: Path, migrated_sqlite: Path) -> None:
    (ds,) = ct_series(1)
    with open_gate(tmp_path, migrated_sqlite, maximum_associations=1, idle_seconds=0.5) as gate:
        association = associate(gate.port, [ds])

        assert store(association, ds, data=b"") == -1

        gate.wait(lambda: not gate.listener._server.active_associations)
        assert send([ds], gate.port) == [0x0000]


def test_a_full_disk_is_answered_a700_until_there_is_room_again(gate: Gate, tmp_path: Path) -> None:
    (ds,), kept = ct_series(1), gate.store
    association = associate(gate.port, [ds])

    gate.store = Store(tmp_path / "full", keep_free_bytes=2**62)
    refused = store(association, ds)
    gate.store = kept
    taken = store(association, ds)
    association.release()

    assert (refused, taken) == (0xA700, 0x0000)


def test_what_nobody_expected_is_answered_0110_and_keeps_the_association(gate: Gate) -> None:
    (ds,) = ct_series(1)
    association = associate(gate.port, [ds])

    gate.failure = RuntimeError(f"what about {ds.PatientName}?")
    answer = association.send_c_store(ds)
    gate.failure = None
    taken = association.send_c_store(ds)
    association.release()

    assert (answer.Status, answer.ErrorComment) == (0x0110, "unexpected error, nothing was kept")
    assert taken.Status == 0x0000


def test_a_refusal_says_in_its_comment_what_was_expected(gate: Gate) -> None:
    (ds,) = ct_series(1, StudyInstanceUID=None)
    association = associate(gate.port, [ds])

    answer = association.send_c_store(ds)
    association.release()

    assert (answer.Status, answer.ErrorComment) == (0xC000, "expected valid Study and Series Instance UIDs")


# --- Transfer syntaxes ---


def agreed(port: int, *syntaxes: UID) -> dict[UID, int]:
    """The result of each transfer syntax, proposed in a context of its own (PS3.8 9.3.3.2): 0 accepted, 4 not supported."""
    ae = AE("CT1")
    for syntax in syntaxes:
        ae.add_requested_context(CTImageStorage, syntax)
    association = ae.associate("127.0.0.1", port, ae_title="AIGATEWAY")
    contexts = association.accepted_contexts + association.rejected_contexts
    proposed = {
        context.context_id: context.transfer_syntax[0]
        for context in association.requestor.primitive.presentation_context_definition_list
    }
    association.release()
    return {proposed[context.context_id]: context.result for context in contexts}


def test_what_the_gateway_can_decode_is_accepted(gate: Gate) -> None:
    assert agreed(gate.port, *TRANSFER_SYNTAXES) == dict.fromkeys(TRANSFER_SYNTAXES, 0)


def test_big_endian_and_deflate_are_not_negotiated(gate: Gate) -> None:
    found = agreed(gate.port, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian)

    assert found == {ExplicitVRBigEndian: 4, DeflatedExplicitVRLittleEndian: 4, ExplicitVRLittleEndian: 0}


# --- Real data of many makers ---


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Gate]:
    with open_gate(tmp_path_factory.mktemp("gate"), migrated_sqlite) as gate:
        yield gate


def part10_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[128:132] == b"DICM")


# What is wrong with each file is wrong in the file itself: its file meta names another class or instance, or its end is missing.
REFUSED = {
    "charsets/chrJapMulti.dcm": 0x0117,
    "charsets/chrJapMultiExplicitIR6.dcm": 0x0117,
    "charsets/chrSQEncoding.dcm": 0xA900,
    "charsets/chrSQEncoding1.dcm": 0xA900,
    "nasty_small/MR_truncated.dcm": 0xC000,
    "nasty_small/rtplan_truncated.dcm": 0xC000,
    "nasty_small/UN_sequence.dcm": 0xA900,
    "nasty_small/decimal_rescale.dcm": 0xA900,
    "nasty_small/no_meta_group_length.dcm": 0xA900,
    "nasty_small/badVR.dcm": 0x0117,
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_instances_are_kept_byte_for_byte_or_refused_with_their_status(
    open_to_all: Gate, real_data: Path, folder: str
) -> None:
    files = part10_files(real_data / folder)
    settings = {"name": "gate", "protocol": "dimse", "host": "127.0.0.1", "port": open_to_all.port, "ae_title": "AIGATEWAY"}
    peer = make_peer(settings | {"calling_ae_title": "CT1"}, protocols=load_protocols())

    before = len(open_to_all.refusals())
    outcomes = dict(send_many(peer, files))

    refused = [
        one.status for one in outcomes.values() if isinstance(one, Rejected) and str(one).startswith("the peer does not take it")
    ]
    assert sorted(refused) == sorted(status for name, status in REFUSED.items() if name.startswith(f"{folder}/"))
    assert open_to_all.refusals()[before:] == [f"0x{status:04X}" for status in refused]
    taken = [path for path, outcome in outcomes.items() if not isinstance(outcome, DeliveryError)]
    assert {data_set(path) for path in taken} <= open_to_all.kept()


# DCMTK's storescu proposes one compressed transfer syntax at a time, named by an option; HTJ2K and MPEG it does not send.
OPTIONS = {
    JPEGBaseline8Bit: "-xy", JPEGExtended12Bit: "-xx", JPEGLosslessSV1: "-xs", JPEG2000Lossless: "-xv", JPEG2000: "-xw",
    JPEGLSLossless: "-xt", JPEGLSNearLossless: "-xu", RLELossless: "-xr", ExplicitVRLittleEndian: "-xe", ImplicitVRLittleEndian: "-xi",
}  # fmt: skip


def sent_by_storescu(files: list[Path], port: int) -> None:
    for syntax, option in OPTIONS.items():
        same = [path for path in files if _syntax(path) == syntax]
        if same:
            _dcmtk(
                "storescu", "-R", option, "--no-halt", "-aet", "CT1", "-aec", "AIGATEWAY", "127.0.0.1", str(port), *map(str, same)
            )


def sent_by_dcmsend(files: list[Path], port: int) -> None:
    options = ("--no-halt", "--no-illegal-proposal", "--decompress-never", "-aet", "CT1", "-aec", "AIGATEWAY")
    _dcmtk("dcmsend", *options, "127.0.0.1", str(port), *map(str, files))


@pytest.mark.parametrize("sent", [sent_by_storescu, sent_by_dcmsend])
def test_what_dcmtk_sends_is_kept_byte_for_byte_as_dcmtk_itself_receives_it(
    tmp_path: Path, migrated_sqlite: Path, real_data: Path, sent: Callable[[list[Path], int], None]
) -> None:
    reference = tmp_path / "reference"
    reference.mkdir()
    chosen = [path for folder in FOLDERS for path in part10_files(real_data / folder)[:18]]  # further slices tell nothing new
    files = [path for path in chosen if _syntax(path) in OPTIONS]

    with running_storescp(reference, "+xa", "--unique-filenames") as port:
        sent(files, port)
    with open_gate(tmp_path, migrated_sqlite) as gate:
        sent(files, gate.port)
        kept, refused = gate.kept(), gate.refusals()

    received = {data_set(path) for path in reference.iterdir()}
    assert len(received) > len(files) / 2
    assert received <= kept  # DCMTK 3.6.7 does not know label maps, the gateway does
    assert refused == []


def _syntax(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).file_meta.get("TransferSyntaxUID"))


def _dcmtk(program: str, *arguments: str) -> None:
    if shutil.which(program) is None:
        pytest.skip("needs the Debian package dcmtk")
    environment = os.environ | {"TCP_NODELAY": "1"}
    subprocess.run([program, *arguments], check=False, capture_output=True, timeout=120, env=environment)
