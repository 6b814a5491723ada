"""Orthanc by its REST API: results go there, are proved there, and the series that it has come from there.

Its /changes are a log with numbers that lies in its database, so nothing in it is missed or told twice, whichever side was
restarted. That a series is stable is written there too, but never where Orthanc was killed before: then it is taken after
`quiet_seconds` without a new instance.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from gateway.dicom.uids import is_uid
from gateway.errors import DeliveryError, Rejected, Unanswered, Unreachable
from gateway.peers import (
    DUPLICATE,
    NOT_SUPPORTED,
    NOT_UNDERSTOOD,
    PROCESSING_FAILURE,
    SERIES_KEYS,
    STORED,
    STUDY_KEYS,
    Proof,
    Sent,
    Sought,
    is_few,
    is_rate,
    is_seconds,
    is_text,
    one_of,
    read_settings,
    setting,
)
from gateway.peers._body import read
from gateway.peers._http import JSON, Http
from gateway.peers._part10 import read_part10, unreadable
from gateway.peers._verdict import refusal, understood
from gateway.peers.dicomweb import AS_STORED, Retrieve

_MOST_ANSWER = 64 * 1024 * 1024
_CHANGES = 1000
_TAKES = ("series", "studies", "nothing")
_STORED = {"Success": STORED, "AlreadyStored": DUPLICATE}
_METADATA = "7402"
"""Where a series' state is written; numbers from 1024 on are for users."""


@dataclass(frozen=True)
class News:
    """What has changed up to number `position` of the log; with `more`, not everything yet. By Orthanc's id of a series, whether
    it says that it is stable.
    """

    position: int
    more: bool
    series: Mapping[str, bool]


@dataclass(frozen=True)
class Found:
    """A series that Orthanc has."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str


def _is_modalities(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(is_text, value))


def _is_path(value: object) -> bool:
    return value == "" or (is_text(value) and not str(value).startswith("/"))


@dataclass(frozen=True, kw_only=True)
class Orthanc(Http):
    """`take` says whether what comes to it is taken from there, by series or when the whole study is stable; `modalities` which.

    `dicomweb` is where its DICOMweb plug-in answers, from `url` on; empty: it has none, and each instance is asked for by itself.
    """

    proof: Proof = setting(*one_of(Proof.QUERY, Proof.NONE), make=Proof)
    concurrency: int = setting("a whole number from 1 to 64", is_few, 2)
    per_minute: int | None = setting("a whole number, 1 or more", is_rate, None)
    take: str = setting(f"one of {', '.join(_TAKES)}", lambda value: value in _TAKES, "nothing")
    modalities: Sequence[str] | None = setting("a list of texts", _is_modalities, None)
    quiet_seconds: float = setting("seconds, more than 0 and at most 3600", is_seconds, 90)
    connections: int = setting("a whole number from 1 to 64", is_few, 4)
    dicomweb: str = setting("a path without a slash before it, or an empty text", _is_path, "dicom-web")

    # Results

    def send(self, path: Path) -> Sent:
        """POST /instances."""
        instance = read_part10(path)
        try:
            content = instance.path.read_bytes()
        except OSError as error:
            raise unreadable(error) from error
        with self.client() as client:
            try:
                answer = self._ask(client, "POST", "instances", content=content, headers={"Content-Type": "application/dicom"})
            except Unreachable as error:
                raise Unanswered(f"{error}; the instance may be stored or not", error.after) from error
        status = _STORED.get(str(answer.get("Status")) if isinstance(answer, dict) else "")
        if status is None:
            raise Rejected(PROCESSING_FAILURE, "Orthanc does not keep it: expected Success or AlreadyStored")
        return Sent(status, "stored" if status == STORED else "the peer has it already")

    @understood
    def holds(self, sought: Sought) -> bool:
        uids = {
            "StudyInstanceUID": sought.study_instance_uid, "SeriesInstanceUID": sought.series_instance_uid,
            "SOPInstanceUID": sought.sop_instance_uid,
        }  # fmt: skip
        with self.client() as client:
            return bool(self._find(client, "Instance", uids))

    @understood
    def patient_of(self, study_instance_uid: str) -> str | None:
        with self.client() as client:
            for study in self._find(client, "Study", {"StudyInstanceUID": study_instance_uid}):
                return str(study.get("PatientMainDicomTags", {}).get("PatientID", ""))
        return None

    def request_commitment(self, transaction_uid: str, instances: Sequence[tuple[str, str]]) -> None:  # noqa: ARG002 - a Peer's
        raise Rejected(NOT_SUPPORTED, 'its REST API has no storage commitment: expected proof = "query" or "none"')

    @understood
    def echo(self) -> str:
        started = time.perf_counter()
        with self.client() as client:
            version = self._ask(client, "GET", "system").get("Version", "of an unknown version")
            if self.take != "nothing" and self.dicomweb:
                where = f"{self.dicomweb.rstrip('/')}/studies?limit=1"
                if self._ask(client, "GET", where, gone="", headers={"Accept": JSON}) == "":
                    raise Unreachable('it has no DICOMweb there: expected the path of its plug-in in dicomweb, or ""')
        return f"Orthanc {version} answered in {(time.perf_counter() - started) * 1000:.0f} ms"

    # Series

    @understood
    def newest(self) -> int:
        """The number of the last change."""
        with self.client() as client:
            return int(self._ask(client, "GET", "changes?last")["Last"])

    @understood
    def news(self, position: int) -> News:
        """The changes after that number. Raises Unreachable or Rejected, as all below."""
        with self.client() as client:
            answer = self._ask(client, "GET", f"changes?since={position}&limit={_CHANGES}")
            series: dict[str, bool] = {}
            for kind, resource in ((one["ChangeType"], one["ID"]) for one in answer["Changes"]):
                if kind == "NewSeries":
                    series.setdefault(resource, False)
                elif kind == "StableSeries":
                    series[resource] = self.take == "series"
                elif kind == "StableStudy" and self.take == "studies":
                    study = self._ask(client, "GET", f"studies/{resource}", gone={})
                    series |= dict.fromkeys(map(str, study.get("Series", ())), True)
            late = [one["ID"] for one in answer["Changes"] if one["ChangeType"] == "NewInstance"]
            self._add_parents(client, late, series)
            return News(int(answer["Last"]), not answer["Done"], series)

    @understood
    def series(self, resource: str) -> Found | None:
        """None where it was deleted meanwhile, or is not one of `modalities`."""
        with self.client() as client:
            series = self._ask(client, "GET", f"series/{resource}", gone={})
            study = self._ask(client, "GET", f"studies/{series['ParentStudy']}", gone={}) if series else {}
        if not study:
            return None
        found = Found(
            str(study["MainDicomTags"].get("StudyInstanceUID", "")), str(series["MainDicomTags"].get("SeriesInstanceUID", "")),
            str(series["MainDicomTags"].get("Modality", "")),
        )  # fmt: skip
        is_wanted = self.modalities is None or found.modality in self.modalities
        return found if is_wanted and is_uid(found.study_instance_uid) and is_uid(found.series_instance_uid) else None

    @understood
    def listing(self, study_instance_uid: str, series_instance_uid: str) -> dict[str, str]:
        """By SOP Instance UID how it is asked for, of all instances that Orthanc has of the series."""
        with self.client() as client:
            uids = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid}
            instances: list[Any] = []
            for series in self._find(client, "Series", uids):
                instances += self._ask(client, "GET", f"series/{series['ID']}/instances", gone=[])
        return {str(one["MainDicomTags"].get("SOPInstanceUID", "")): str(one["ID"]) for one in instances}

    @understood
    def studies_of(self, patient_id: str) -> list[dict[str, str]]:
        """As Dicomweb's."""
        with self.client() as client:
            found = self._find(client, "Study", {"PatientID": patient_id})
        return [_keys(STUDY_KEYS, one["MainDicomTags"] | one.get("PatientMainDicomTags", {})) for one in found]

    @understood
    def series_of(self, study_instance_uid: str) -> list[dict[str, str]]:
        with self.client() as client:
            found = self._find(client, "Series", {"StudyInstanceUID": study_instance_uid})
        counts = [{"NumberOfSeriesRelatedInstances": str(len(one.get("Instances", ())))} for one in found]
        return [_keys(SERIES_KEYS, one["MainDicomTags"] | count) for one, count in zip(found, counts, strict=True)]

    def instances_of(self, study_instance_uid: str, series_instance_uid: str) -> int | None:
        return len(self.listing(study_instance_uid, series_instance_uid))

    @contextmanager
    def retrieving(self, connections: int = 1) -> Iterator[Retrieve]:
        """As Dicomweb's; `instance` is what `listing` says. By itself it is Orthanc's file, without any plug-in."""
        with self.client(connections=connections) as client:
            yield partial(self._retrieve, client)

    @contextmanager
    def _retrieve(
        self, client: httpx2.Client, study: str, series: str, instance: str = ""
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        path, accept = f"instances/{instance}/file", "*/*"
        if not instance:
            path, accept = f"{self.dicomweb.rstrip('/')}/studies/{study}/series/{series}", AS_STORED
        with self.request(client, "GET", path, headers={"Accept": accept}) as response:
            if response.status_code != 200:
                raise refusal(response)
            yield response.headers.get("Content-Type", ""), response.iter_bytes()

    @property
    def at_once(self) -> bool:
        """Whether whole series can be asked for."""
        return self.dicomweb != ""

    @understood
    def write_state(self, study_instance_uid: str, series_instance_uid: str, state: str) -> None:
        """As metadata of the series, for whoever looks there."""
        with self.client() as client:
            uids = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid}
            for series in self._find(client, "Series", uids):
                self._ask(client, "PUT", f"series/{series['ID']}/metadata/{_METADATA}", content=state.encode(), gone={})

    def _add_parents(self, client: httpx2.Client, instances: Sequence[str], series: dict[str, bool]) -> None:
        """The series that got new instances: one look at each series tells of all of its instances."""
        known: set[str] = set()
        for resource in series:
            known.update(self._ask(client, "GET", f"series/{resource}", gone={}).get("Instances", ()))
        for instance in instances:
            if instance not in known:
                parent = self._ask(client, "GET", f"instances/{instance}", gone={}).get("ParentSeries")
                if parent:
                    series.setdefault(str(parent), False)
                    known.update(self._ask(client, "GET", f"series/{parent}", gone={}).get("Instances", ()))

    # Asking

    def _find(self, client: httpx2.Client, level: str, uids: Mapping[str, str]) -> list[Any]:
        query = {"Level": level, "Query": dict(uids), "Expand": True}
        return list(self._ask(client, "POST", "tools/find", content=json.dumps(query)))

    def _ask(self, client: httpx2.Client, method: str, path: str, gone: Any = None, **request: Any) -> Any:
        """The answer; `gone` where it is 404, unless that is None. Raises Unreachable or Rejected."""
        with self.request(client, method, path, **request) as response:
            if response.status_code == 404 and gone is not None:
                return gone
            if response.status_code != 200:
                raise _refused(response)
            body = read(response, _MOST_ANSWER)
        try:
            return json.loads(body) if body.strip() else {}
        except (ValueError, RecursionError) as error:
            raise Unreachable("expected JSON from Orthanc") from error


def peer(settings: Mapping[str, object]) -> Orthanc:
    made = read_settings(Orthanc, settings)
    made.check()
    return made


def _keys(keywords: Sequence[str], told: Mapping[str, Any]) -> dict[str, str]:
    return {keyword: str(told.get(keyword, "")) for keyword in keywords}


def _refused(response: httpx2.Response) -> DeliveryError:
    """Orthanc answers 400 to what is no DICOM, and 500 where its own database or disk is away."""
    if response.status_code == 400:
        return Rejected(NOT_UNDERSTOOD, "HTTP 400: expected what Orthanc takes for DICOM")
    return refusal(response)
