"""DICOMweb user agent: STOW-RS (PS3.18 10.5) streamed from files, QIDO-RS (10.6) in pages, WADO-RS (10.4) streamed."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2

from gateway.errors import DeliveryError, Rejected, Unanswered, Unreachable
from gateway.peers import (
    NOT_SUPPORTED,
    SERIES_KEYS,
    STUDY_KEYS,
    Capability,
    Proof,
    Sent,
    Sought,
    is_few,
    is_rate,
    one_of,
    read_settings,
    setting,
)
from gateway.peers._body import read
from gateway.peers._http import Http
from gateway.peers._part10 import Part10, read_part10, unreadable
from gateway.peers._verdict import match, matches, refusal, text, verdict
from gateway.peers._webprobe import probed

_CHUNK = 256 * 1024
_MOST_ANSWER = 1024 * 1024
_PAGE, _MOST_PAGE, _MOST_STUDIES, _MOST_MATCHES = 500, 16 * 1024 * 1024, 1000, 100_000
_NONE = {204, 404}
_RETRIEVED = {200, 206}
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""What is retrieved comes in the transfer syntax that the peer holds it in."""

Retrieve = Callable[..., AbstractContextManager[tuple[str, Iterator[bytes]]]]
"""WADO-RS (PS3.18 10.4) over kept connections, by study, series and, unless all of it is asked for, instance; threads share it.

Content-Type and body. Raises Unreachable or Rejected, also while the body is read.
"""


@dataclass(frozen=True, kw_only=True)
class Dicomweb(Http):
    proof: Proof = setting(*one_of(Proof.QUERY, Proof.NONE), make=Proof)
    concurrency: int = setting("a whole number from 1 to 64", is_few, 2)
    per_minute: int | None = setting("a whole number, 1 or more", is_rate, None)

    def holds(self, sought: Sought) -> bool:
        path = f"studies/{sought.study_instance_uid}/series/{sought.series_instance_uid}/instances"
        return self._search(path, "SOPInstanceUID", sought.sop_instance_uid) is not None

    def patient_of(self, study_instance_uid: str) -> str | None:
        """None also where the peer does not tell the Patient ID."""
        found = self._search("studies", "StudyInstanceUID", study_instance_uid, includefield="PatientID")
        return None if found is None else text(found, "PatientID")

    def request_commitment(self, transaction_uid: str, instances: Sequence[tuple[str, str]]) -> None:  # noqa: ARG002 - a Peer's
        raise Rejected(NOT_SUPPORTED, 'DICOMweb has no storage commitment: expected proof = "query" or "none"')

    def send(self, path: Path) -> Sent:
        instance = read_part10(path)
        with self.client() as client:
            return self._store(client, instance)

    def send_many(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Sent | DeliveryError]]:
        """Over one kept connection, a request for each."""
        with self.client() as client:
            for path in paths:
                try:
                    yield path, self._store(client, read_part10(path))
                except DeliveryError as error:
                    yield path, error

    def echo(self) -> str:
        started = time.perf_counter()
        with self.client() as client, self.request(client, "GET", "studies", params={"limit": "1"}) as response:
            if response.status_code not in {200, 204}:
                raise refusal(response)
        return f"answered QIDO-RS in {(time.perf_counter() - started) * 1000:.0f} ms"

    def find(self, path: str, key: str, **wanted: str) -> Iterator[Mapping[str, list[Any]]]:
        """QIDO-RS (PS3.18 10.6): every match, by keyword's tag its values, each `key` once, however many a page holds.

        A peer may give fewer at a time than it is asked for: they are all there when nothing new comes. Raises Unreachable where
        there is no end to what is new.
        """
        seen: set[str] = set()
        with self.client() as client:
            while page := self._matches(client, path, _MOST_PAGE, **wanted, limit=str(_PAGE), offset=str(len(seen))):
                new = {uid: one for one in page if (uid := text(one, key)) and uid not in seen}
                if not new:
                    return
                seen |= new.keys()
                if len(seen) > _MOST_MATCHES:
                    raise Unreachable(f"the peer answers a search with more than {_MOST_MATCHES} matches")
                yield from new.values()

    def studies_of(self, patient_id: str) -> list[dict[str, str]]:
        """STUDY_KEYS of every study of the patient; who gives all studies of all patients is not read to the end.

        Raises Unreachable or Rejected, as all below.
        """
        found = self.find("studies", "StudyInstanceUID", PatientID=patient_id, includefield="IssuerOfPatientID")
        return [{keyword: text(one, keyword) or "" for keyword in STUDY_KEYS} for one in islice(found, _MOST_STUDIES)]

    def series_of(self, study_instance_uid: str) -> list[dict[str, str]]:
        """SERIES_KEYS of every series of the study."""
        found = self.find(f"studies/{study_instance_uid}/series", "SeriesInstanceUID", includefield="BodyPartExamined")
        return [{keyword: text(one, keyword) or "" for keyword in SERIES_KEYS} for one in found]

    def listing(self, study_instance_uid: str, series_instance_uid: str) -> dict[str, str]:
        """By SOP Instance UID how it is asked for, of all instances that the peer has of the series."""
        path = f"studies/{study_instance_uid}/series/{series_instance_uid}/instances"
        found = self.find(path, "SOPInstanceUID", includefield="SOPInstanceUID")
        return {uid: uid for uid in (str(text(one, "SOPInstanceUID")) for one in found)}

    def instances_of(self, study_instance_uid: str, series_instance_uid: str) -> int | None:
        return len(self.listing(study_instance_uid, series_instance_uid))

    @contextmanager
    def retrieving(self, connections: int = 1) -> Iterator[Retrieve]:
        with self.client(connections=connections) as client:
            yield partial(self._retrieve, client)

    @contextmanager
    def _retrieve(
        self, client: httpx2.Client, study: str, series: str, instance: str = ""
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """The instance, or the whole series, in the transfer syntax that it is stored in."""
        path = f"studies/{study}/series/{series}" + (f"/instances/{instance}" if instance else "")
        with self.request(client, "GET", path, headers={"Accept": AS_STORED}) as response:
            if response.status_code not in _RETRIEVED:
                raise refusal(response)
            yield response.headers.get("Content-Type", ""), response.iter_bytes()

    def probe(self) -> list[Capability]:
        """Asks for one instance and for the metadata of it, and sends a request without an instance."""
        with self.client() as client:
            return probed(partial(self.request, client))

    def _search(self, path: str, keyword: str, uid: str, **more: str) -> Mapping[str, list[Any]] | None:
        """QIDO-RS (PS3.18 10.6): the match that has this UID."""
        with self.client() as client:
            return match(self._matches(client, path, _MOST_ANSWER, **{keyword: uid}, **more), keyword, uid)

    def _matches(self, client: httpx2.Client, path: str, most_bytes: int, **wanted: str) -> list[Mapping[str, list[Any]]]:
        with self.request(client, "GET", path, params=wanted) as response:
            if response.status_code in _NONE:
                return []
            if response.status_code != 200:
                raise refusal(response)
            return matches(read(response, most_bytes))

    def _store(self, client: httpx2.Client, instance: Part10) -> Sent:
        try:
            upload = _Upload(instance.path)
            with self.request(client, "POST", "studies", upload, headers=upload.headers, content=upload) as response:
                return verdict(response, read(response, _MOST_ANSWER, Unanswered), instance.sop_instance_uid)
        except OSError as error:
            raise unreadable(error) from error


def peer(settings: Mapping[str, object]) -> Dicomweb:
    made = read_settings(Dicomweb, settings)
    made.check()
    return made


class _Upload:
    """The body of a request, as an iterable; `is_done` once its last byte was handed to the network."""

    def __init__(self, path: Path) -> None:
        boundary = secrets.token_hex(16)  # 128 random bits: no file has them by chance, and none can be made to have them
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._path = path
        self.headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(self._head) + path.stat().st_size + len(self._tail)),
        }
        self.is_done = False

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        with self._path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield self._tail
        self.is_done = True  # asked for more, so the tail is written
