"""What is read of an A-ASSOCIATE-RQ (PS3.8 9.3.2, PS3.7 D.3.3.4): pynetdicom's requests whole, others as far as they can be."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dicom.pdu import associate_rq as own_request
from gateway.ingest._acse import proposal
from tests.scanner_fixture import associate_rq, item

CT, EXPLICIT, IMPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
COMMITMENT = "1.2.840.10008.1.20.1"


def role(uid: str, *roles: int) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes(roles))


def test_what_pynetdicom_encodes_is_read_whole() -> None:
    contexts = [(CT, EXPLICIT), (CT, IMPLICIT), (COMMITMENT, IMPLICIT)]

    found = proposal(own_request(contexts, called="CALLED", calling="CALLING", maximum_length=4242, scp_of=[COMMITMENT]))

    assert (found.calling.strip(), found.called.strip(), found.maximum_length) == ("CALLING", "CALLED", 4242)
    assert found.contexts == [(1, CT, [EXPLICIT]), (3, CT, [IMPLICIT]), (5, COMMITMENT, [IMPLICIT])]
    assert found.roles == {COMMITMENT: (False, True)}


@pytest.mark.parametrize("padding", ["\0", " "])
def test_uids_may_be_padded(padding: str) -> None:
    found = proposal(associate_rq(contexts=((1, CT + padding, (EXPLICIT + padding,)),), information=role(CT + padding, 1, 0)))

    assert (found.contexts, found.roles) == ([(1, CT, [EXPLICIT])], {CT: (True, False)})


def test_a_role_of_what_is_not_proposed_is_passed_over() -> None:
    assert proposal(associate_rq(contexts=((1, CT, (EXPLICIT,)),), information=role(COMMITMENT, 1, 1))).roles == {}


@pytest.mark.parametrize(
    "information", [role("1" * 65, 1, 1), role(CT, 1), role("1.2.ä", 1, 1), item(0x54, b"\1"), b"\x54\0\0\7"]
)
def test_what_is_no_item_is_refused(information: bytes) -> None:
    with pytest.raises(ValueError, match="A-ASSOCIATE-RQ"):
        proposal(associate_rq(contexts=((1, CT, (EXPLICIT,)),), information=information))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(ValueError):
        proposal(associate_rq()[:74] + body)
