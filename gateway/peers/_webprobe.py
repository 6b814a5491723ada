"""What a DICOMweb service is asked whether it does it (PS3.18 10.4 to 10.6). Nothing is stored there, and nothing of it here."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import httpx2

from gateway.dicom.uids import is_uid
from gateway.peers import Capability
from gateway.peers._body import read
from gateway.peers._verdict import matches, refusal, text

Ask = Callable[..., AbstractContextManager[httpx2.Response]]
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_ABSENT = {401, 403, 404, 405, 501}
_MOST = 256 * 1024


def probed(ask: Ask) -> list[Capability]:
    """By `ask(method, path, **request)`. Raises Unreachable where nobody answers."""
    with ask("GET", "instances", params={"limit": "1"}) as response:
        works, note = response.status_code in {200, 204}, f"HTTP {response.status_code}"
        place = _place(read(response, _MOST)) if response.status_code == 200 else ()
    return [Capability("QIDO-RS", works, note), _wado(ask, place), _stow(ask)]


def _wado(ask: Ask, place: Sequence[str]) -> Capability:
    """By the metadata of an instance that it told of: without one there is nothing to ask for."""
    if not place:
        return Capability("WADO-RS", None, "it told of no instance to ask for")
    study, series, instance = place
    with ask("GET", f"studies/{study}/series/{series}/instances/{instance}/metadata") as response:
        return Capability("WADO-RS", response.status_code == 200, f"HTTP {response.status_code}")


def _stow(ask: Ask) -> Capability:
    """By a request without an instance, which every service refuses that is there."""
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=none'}
    with ask("POST", "studies", headers=headers, content=b"\r\n--none--\r\n") as response:
        code = response.status_code
        if code in _ABSENT:
            return Capability("STOW-RS", works=False, note=str(refusal(response)))
        return Capability("STOW-RS", works=None if code >= 500 else True, note=f"HTTP {code} to a request without an instance")


def _place(body: bytes) -> Sequence[str]:
    """Study, series and instance UID of the first match; none where the answer names none."""
    place = [text(found, keyword) or "" for found in matches(body)[:1] for keyword in _UIDS]
    return place if all(map(is_uid, place)) else ()
