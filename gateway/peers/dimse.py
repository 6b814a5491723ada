"""Storage SCU (PS3.4 B), Query SCU (PS3.4 C), Storage Commitment SCU and SCP (PS3.4 J): what we send to a PACS and ask of it."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom import Dataset

from gateway.dicom.commitment import Outcome, encoded_request
from gateway.dicom.pdu import Context
from gateway.errors import ConfigError, DeliveryError, Rejected, Unreachable
from gateway.outputs.kinds import OBJECTS
from gateway.peers import (
    NOT_SUPPORTED,
    PROCESSING_FAILURE,
    SERIES_KEYS,
    STORED,
    STUDY_KEYS,
    Capability,
    Proof,
    Sent,
    Sought,
    _find,
    _get,
    _move,
    _probe,
    is_few,
    is_host,
    is_rate,
    is_seconds,
    is_text,
    judge,
    one_of,
    read_settings,
    setting,
)
from gateway.peers._association import (
    COMMITMENT_REPORTS,
    MOST_CONTEXTS,
    NO_COMMITMENT,
    QUERY,
    VERIFICATION,
    WORKLIST,
    Association,
    Secured,
    associate,
)
from gateway.peers._part10 import Part10, read_part10
from gateway.peers._tls import VERIFY, Trust, is_verify

_GROUP = 500
_WORKLIST_SECONDS = 5
_BREAKS = 3
_NO_COMMITMENT = (NOT_SUPPORTED, 0x0118, 0x0211)
_RESOURCE_LIMITATION, _TAKEN = 0x0213, frozenset({STORED, 0x0107, 0x0116})  # the last two are warnings


def _is_ae_title(value: object) -> bool:
    return is_text(value) and str(value).isascii() and "\\" not in str(value) and len(str(value)) <= 16


_AE_TITLE = "1 to 16 ASCII characters without backslash"


@dataclass(frozen=True, kw_only=True)
class Dimse:
    """`timeout_seconds` is for the connection and for every PDU, so a slow network does not end a large instance.

    `fetch`: series come over our own association (C-GET), or over one that the peer opens to our listener (C-MOVE).

    With `tls` the peer has to show a certificate for `certificate_name`, or else for its host; ours is for one that asks for it
    (PS3.15 B.12, the BCP 195 profile).
    """

    name: str = setting("a name", is_text)
    host: str = setting("a host name or an address", is_host)
    port: int = setting("a whole number from 1 to 65535", lambda value: type(value) is int and 0 < value < 65536)
    ae_title: str = setting(_AE_TITLE, _is_ae_title)
    calling_ae_title: str = setting(_AE_TITLE, _is_ae_title, "AIGATEWAY")
    timeout_seconds: float = setting("seconds, more than 0 and at most 3600", is_seconds, 60)
    proof: Proof = setting(*one_of(Proof.QUERY, Proof.COMMITMENT, Proof.NONE), make=Proof)
    concurrency: int = setting("a whole number from 1 to 64", is_few, 2)
    per_minute: int | None = setting("a whole number, 1 or more", is_rate, None)
    objects: Sequence[str] | None = setting(*OBJECTS)
    fetch: str = setting('"get" or "move"', lambda value: value in ("get", "move"), "get")
    worklist: bool = setting("true or false", lambda value: isinstance(value, bool), default=False)
    tls: bool = setting("true or false", lambda value: isinstance(value, bool), default=False)
    verify: bool | str = setting(VERIFY, is_verify, default=True)
    certificate: str | None = setting("the path of a certificate (PEM)", is_text, None)
    certificate_key: str | None = setting("the path of its unencrypted key (PEM)", is_text, None)
    certificate_name: str | None = setting("the host name, or address, in the peer's certificate", is_host, None)

    def check(self) -> None:
        """Raise ConfigError where keys that belong together are not."""
        problems = self._trust.problems()
        if not self.tls and (self.verify is not True or self.certificate or self.certificate_key or self.certificate_name):
            problems.append("expected tls = true with verify, certificate and certificate_name")
        if problems:
            raise ConfigError([f"peer {self.name}: {problem}" for problem in problems])

    def holds(self, sought: Sought) -> bool:
        keys = {
            "StudyInstanceUID": sought.study_instance_uid,
            "SeriesInstanceUID": sought.series_instance_uid,
            "SOPInstanceUID": sought.sop_instance_uid,
        }
        matches = self._find(_find.identifier("IMAGE", keys))
        return any(_find.uid(match, "SOPInstanceUID") == sought.sop_instance_uid for match in matches)

    def patient_of(self, study_instance_uid: str) -> str | None:
        """None also where the peer does not tell the Patient ID."""
        for match in self._find(_find.identifier("STUDY", {"StudyInstanceUID": study_instance_uid}, "PatientID")):
            if _find.uid(match, "StudyInstanceUID") == study_instance_uid:
                return _find.text(match, "PatientID")
        return None

    def instances_of(self, study_instance_uid: str, series_instance_uid: str) -> int | None:
        """How many instances of the series the peer has: as it says (PS3.4 C.3.4), or by naming them where it does not say.

        None where it does neither. Raises Unreachable or Rejected.
        """
        keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid}
        for match in self._find(_find.identifier("SERIES", keys, "NumberOfSeriesRelatedInstances")):
            told = _find.text(match, "NumberOfSeriesRelatedInstances") or ""
            if _find.uid(match, "SeriesInstanceUID") == series_instance_uid and told.isdecimal():
                return int(told)
        try:
            matches = self._find(_find.identifier("IMAGE", keys, "SOPInstanceUID"))
        except Unreachable:  # more than can be read: not a failure of the peer
            return None
        mine = {_find.uid(one, "SOPInstanceUID") for one in matches if _find.uid(one, "SeriesInstanceUID") == series_instance_uid}
        return len(mine - {""}) or None

    def studies_of(self, patient_id: str) -> list[dict[str, str]]:
        """STUDY_KEYS of every study of the patient (PS3.4 C.6.2.1). Raises Unreachable or Rejected, as all below."""
        asked = [keyword for keyword in STUDY_KEYS if keyword != "PatientID"]
        matches = self._find(_find.identifier("STUDY", {"PatientID": patient_id}, *asked))
        return [_find.texts(match, STUDY_KEYS) for match in matches]

    def series_of(self, study_instance_uid: str) -> list[dict[str, str]]:
        """SERIES_KEYS of every series of the study."""
        matches = self._find(_find.identifier("SERIES", {"StudyInstanceUID": study_instance_uid}, *SERIES_KEYS))
        return [_find.texts(match, SERIES_KEYS) for match in matches]

    def get(
        self, study: str, series: str, modality: str, syntaxes: Iterable[str], open_: _get.Open, refuse: _get.Refuse,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> int:  # fmt: skip
        """The series through `open_` (C-GET); how many of its instances did not come, as far as it is known."""
        contexts = _get.contexts(modality, syntaxes)[:MOST_CONTEXTS]
        classes = list(dict.fromkeys(sop_class for sop_class, _ in contexts[1:]))
        identifier = _find.identifier("SERIES", {"StudyInstanceUID": study, "SeriesInstanceUID": series})
        with self._associate(contexts, scp_of=classes) as association:
            return _get.get(association, identifier, open_, refuse, is_stopping)

    def move(self, study: str, series: str, arrived: Callable[[], int], is_stopping: Callable[[], bool]) -> int:
        """The series to our own listener (C-MOVE); how many instances the peer says it has sent, 0 where it does not say."""
        identifier = _find.identifier("SERIES", {"StudyInstanceUID": study, "SeriesInstanceUID": series})
        with self._associate([_move.MOVE]) as association:
            return _move.move(association, identifier, self.calling_ae_title, arrived, is_stopping)

    def requested_priorities(self, accession_number: str) -> set[str]:
        """RequestedProcedurePriority of the worklist's entries with this accession number. Raises Unreachable or Rejected."""
        asked = _find.worklist_identifier(accession_number)
        with self._associate([WORKLIST], timeout=min(self.timeout_seconds, _WORKLIST_SECONDS)) as association:
            status, matches = association.find(asked, WORKLIST)
        _find.check(status, _find.NO_WORKLIST)
        entries = [_find.read(match) for match in matches]
        mine = [entry for entry in entries if _find.text(entry, "AccessionNumber") == accession_number]
        return {_find.text(entry, "RequestedProcedurePriority") or "" for entry in mine} - {""}

    def request_commitment(self, transaction_uid: str, instances: Sequence[tuple[str, str]]) -> None:
        with self._associate([COMMITMENT_REPORTS]) as association:
            status = association.request_commitment(encoded_request(transaction_uid, instances))
        if status in _NO_COMMITMENT:
            raise Unreachable(f"{NO_COMMITMENT} (0x{status:04X})")
        _check(status, "the request for storage commitment")

    def send(self, path: Path) -> Sent:
        instance = read_part10(path)
        with self._associate([_context(instance)]) as association:
            outcome = _outcome(association, instance)
        if isinstance(outcome, DeliveryError):
            raise outcome
        return outcome

    def send_many(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Sent | DeliveryError]]:
        """Over one association for up to 500 instances and 128 presentation contexts, and a new one after a break."""
        group: list[Part10] = []
        for path in paths:
            try:
                instance = read_part10(path)
            except DeliveryError as error:
                yield path, error
                continue
            if len(group) == _GROUP or len(_contexts([*group, instance])) > MOST_CONTEXTS:
                yield from self._send_group(group)
                group = []
            group.append(instance)
        yield from self._send_group(group)

    def echo(self) -> str:
        with self._associate([VERIFICATION]) as association:
            started = time.perf_counter()
            status = association.echo()
            took = time.perf_counter() - started
        judge(status)
        return f"answered C-ECHO in {took * 1000:.0f} ms"

    def probe(self) -> list[Capability]:
        """What it accepts, by negotiation alone: as many associations as the presentation contexts need, and no instance."""
        accepted: set[Context] = set()
        contexts = list(_probe.CONTEXTS)
        for start in range(0, len(contexts), MOST_CONTEXTS):
            with self._associate(contexts[start : start + MOST_CONTEXTS]) as association:
                accepted |= association.accepted.keys()
        return _probe.capabilities(accepted)

    def report_commitment(self, outcome: Outcome) -> int:
        """The peer's status: success, or a warning. Raises Unreachable (try again) or Rejected (final), PS3.7 10.1.1.1.8."""
        with self._associate([COMMITMENT_REPORTS], scp_of=COMMITMENT_REPORTS[:1]) as association:
            status = association.report(outcome)
        return _check(status, "the report")

    def _find(self, identifier: bytes) -> list[Dataset]:
        with self._associate([QUERY]) as association:
            status, matches = association.find(identifier)
        _find.check(status)
        return [_find.read(match) for match in matches]

    def _send_group(self, group: list[Part10]) -> Iterator[tuple[Path, Sent | DeliveryError]]:
        """A break costs the instance on the way; three in a row without an answer, and the rest is given up too."""
        pending, breaks = deque(group), 0
        while pending:
            try:
                with self._associate(_contexts(pending)) as association:
                    while pending:
                        outcome = _outcome(association, pending[0])
                        breaks = 0
                        yield pending.popleft().path, outcome
            except Unreachable as error:
                breaks += 1
                yield pending.popleft().path, error
                while pending and breaks == _BREAKS:
                    yield pending.popleft().path, Unreachable(f"not sent, after {_BREAKS} breaks in a row")

    def _associate(
        self, contexts: Iterable[Context], scp_of: Sequence[str] = (), timeout: float | None = None
    ) -> AbstractContextManager[Association]:
        return associate(
            (self.host, self.port), contexts, called=self.ae_title, calling=self.calling_ae_title,
            timeout=timeout or self.timeout_seconds, scp_of=scp_of, secured=self._secured() if self.tls else None,
        )  # fmt: skip

    def _secured(self) -> Secured:
        """Raises Unreachable."""
        return partial(self._trust.context().wrap_socket, server_hostname=self.certificate_name or self.host)

    @property
    def _trust(self) -> Trust:
        return Trust(self.verify, self.certificate, self.certificate_key)


def peer(settings: Mapping[str, object]) -> Dimse:
    made = read_settings(Dimse, settings)
    made.check()
    return made


def _check(status: int, what: str) -> int:
    """The status of success or a warning of PS3.7 Annex C; raises Unreachable or Rejected (PS3.7 10.1.1.1.8, 10.1.4.1.10)."""
    if status in _TAKEN:
        return status
    if status in (PROCESSING_FAILURE, _RESOURCE_LIMITATION):
        raise Unreachable(f"the peer cannot take {what} now (0x{status:04X})")
    raise Rejected(status, f"the peer does not take {what} (0x{status:04X})")


def _outcome(association: Association, instance: Part10) -> Sent | DeliveryError:
    """Raises Unreachable only where the association is of no more use; a status that asks to try again is returned."""
    try:
        status = association.store(instance)
    except Rejected as error:
        return error
    try:
        return judge(status)
    except DeliveryError as error:
        return error


def _contexts(instances: Iterable[Part10]) -> list[Context]:
    return list(dict.fromkeys(_context(instance) for instance in instances))


def _context(instance: Part10) -> Context:
    return instance.sop_class_uid, instance.transfer_syntax_uid
