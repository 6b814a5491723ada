"""The conformance statement says what the code does: its tables are read and compared."""

import re

import pytest
from pydicom.uid import (
    UID,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from gateway.dicom.command import SUCCESS
from gateway.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from gateway.errors import GatewayError, InvalidUid, Mismatch, NotSupported, NotUnderstood, OutOfResources
from gateway.ingest import _association
from gateway.ingest.dimse import STORAGE, SUPPORTED, TRANSFER_SYNTAXES
from gateway.outputs.derived import CLASSES
from gateway.outputs.modules import FIRST_SERIES_NUMBER
from tests.conftest import ROOT
from tests.results_fixture import lung_results

TEXT = (ROOT / "deploy" / "docs" / "conformance.md").read_text()
OF_STORE = (OutOfResources, Mismatch, NotUnderstood, InvalidUid, NotSupported, GatewayError)


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under this line, by their first cell."""
    lines = TEXT[TEXT.index(heading) :].split("\n")[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return {row[0]: row[1:] for row in rows}


def test_the_transfer_syntaxes_are_those_that_are_accepted_in_their_order() -> None:
    told = table("| transfer syntax | UID |")

    assert [uid for (uid,) in told.values()] == list(map(str, TRANSFER_SYNTAXES))
    for name, (uid,) in told.items():
        assert set(re.findall(r"\w+", UID(uid).name)) >= set(re.findall(r"\w+", name)) - {"HTJ2K", "Near"}


def test_the_statuses_are_those_that_the_door_answers() -> None:
    told = table("| status of C-STORE |")

    expected = {f"0x{SUCCESS:04X}": ""} | {f"0x{one.dimse_status:04X}": "yes" if one.retryable else "no" for one in OF_STORE}
    assert {status: again for status, (_, again) in told.items()} == expected


def test_what_is_said_of_associations() -> None:
    told = {key: value for key, (value,) in table("| of every association |").items()}

    assert told["Implementation Class UID"] == IMPLEMENTATION_CLASS_UID
    assert told["Implementation Version Name"] == IMPLEMENTATION_VERSION_NAME
    assert told["longest PDU that is received"] == str(_association.MAXIMUM_PDU)


def test_the_services_as_scp_are_those_that_are_accepted() -> None:
    told = {name.split(" (")[0].split(",")[0] for name, (_, scp) in table("| network services |").items() if scp == "yes"}

    accepted = {UID(one).name for one in SUPPORTED if one not in STORAGE} | {"Storage"}
    assert {one.removesuffix(" SOP Class").split(" Push")[0] for one in accepted} == told


@pytest.mark.parametrize("made", lung_results(), ids=lambda made: str(made.Modality))
def test_the_objects_are_those_that_are_made(made) -> None:
    told = {uid for uids, _ in table("| object | SOP Class UID |").values() for uid in uids.split(", ")}

    others = {SecondaryCaptureImageStorage, KeyObjectSelectionDocumentStorage, RTStructureSetStorage, ParametricMapStorage}
    assert {made.SOPClassUID, *others, *CLASSES.values()} <= told
    assert UID(made.file_meta.TransferSyntaxUID).name == "Explicit VR Little Endian"
    assert f"Series Number is {FIRST_SERIES_NUMBER} or more" in TEXT
