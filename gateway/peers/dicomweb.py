"""STOW-RS user agent (PS3.18 10.5): one instance a request, streamed from its file; and QIDO-RS (10.6)."""

import secrets
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2

from gateway.errors import ConfigError, DeliveryError, Rejected, Unanswered, Unreachable
from gateway.peers import (
    NOT_SUPPORTED,
    SOCKET_OPTIONS,
    Proof,
    Sent,
    Wanted,
    is_few,
    is_rate,
    is_seconds,
    is_text,
    one_of,
    read_settings,
    setting,
)
from gateway.peers._part10 import Part10, read_part10, unreadable
from gateway.peers._verdict import match, refusal, text, verdict

_CHUNK = 256 * 1024
_MOST_ANSWER = 1024 * 1024
_NONE = {204, 404}


def _is_url(value: object) -> bool:
    try:
        url = httpx2.URL(value)  # type: ignore[arg-type]
    except (httpx2.InvalidURL, TypeError):
        return False
    return url.scheme in {"http", "https"} and url.host != "" and not (url.userinfo or url.query or url.fragment)


def _is_headers(value: object) -> bool:
    return isinstance(value, Mapping) and all(is_text(text) and text.isascii() for pair in value.items() for text in pair)


def _is_verify(value: object) -> bool:
    if isinstance(value, bool) or not is_text(value):
        return isinstance(value, bool)
    try:
        ssl.create_default_context(cafile=str(value))
    except OSError:  # ssl.SSLError is one
        return False
    return True


def _is_token(value: object) -> bool:
    return is_text(value) and str(value).isascii()


@dataclass(frozen=True, kw_only=True)
class Dicomweb:
    """`timeout_seconds` is for the connection and each piece sent or read. `verify` may name a file of CA certificates (PEM)."""

    name: str = setting("a name", is_text)
    url: str = setting("http:// or https://, a host and a path, without user, password or query", _is_url)
    user: str | None = setting("a user name", is_text, None)
    password: str | None = setting("a text", is_text, None, secret=True)
    token: str | None = setting("a bearer token in ASCII", _is_token, None, secret=True)
    headers: Mapping[str, str] | None = setting("a table of texts", _is_headers, None, secret=True)
    timeout_seconds: float = setting("seconds, more than 0 and at most 3600", is_seconds, 60)
    verify: bool | str = setting("true, false, or the path of a file of CA certificates", _is_verify, default=True)
    proof: Proof = setting(*one_of(Proof.QUERY, Proof.NONE), make=Proof)
    concurrency: int = setting("a whole number from 1 to 64", is_few, 2)
    per_minute: int | None = setting("a whole number, 1 or more", is_rate, None)

    def holds(self, wanted: Wanted) -> bool:
        path = f"studies/{wanted.study_instance_uid}/series/{wanted.series_instance_uid}/instances"
        return self._search(path, "SOPInstanceUID", wanted.sop_instance_uid) is not None

    def patient_of(self, study_instance_uid: str) -> str | None:
        """None also where the peer does not tell the Patient ID."""
        found = self._search("studies", "StudyInstanceUID", study_instance_uid, includefield="PatientID")
        return None if found is None else text(found, "PatientID")

    def request_commitment(self, transaction_uid: str, instances: Sequence[tuple[str, str]]) -> None:  # noqa: ARG002 - a Peer's
        raise Rejected(NOT_SUPPORTED, 'DICOMweb has no storage commitment: expected proof = "query" or "none"')

    def send(self, path: Path) -> Sent:
        instance = read_part10(path)
        with self._client() as client:
            return self._store(client, instance)

    def send_many(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Sent | DeliveryError]]:
        """Over one kept connection, a request for each."""
        with self._client() as client:
            for path in paths:
                try:
                    yield path, self._store(client, read_part10(path))
                except DeliveryError as error:
                    yield path, error

    def echo(self) -> str:
        started = time.perf_counter()
        with self._client() as client, self._request(client, "GET", "studies", params={"limit": "1"}) as response:
            if response.status_code not in {200, 204}:
                raise refusal(response)
        return f"answered QIDO-RS in {(time.perf_counter() - started) * 1000:.0f} ms"

    def _search(self, path: str, keyword: str, uid: str, **more: str) -> Mapping[str, list[Any]] | None:
        """QIDO-RS (PS3.18 10.6): the match that has this UID."""
        with self._client() as client, self._request(client, "GET", path, params={keyword: uid, **more}) as response:
            if response.status_code in _NONE:
                return None
            if response.status_code != 200:
                raise refusal(response)
            return match(_read(response), keyword, uid)

    def _store(self, client: httpx2.Client, instance: Part10) -> Sent:
        try:
            upload = _Upload(instance.path)
            with self._request(client, "POST", "studies", upload, headers=upload.headers, content=upload) as response:
                return verdict(response, _read(response), instance.sop_instance_uid)
        except OSError as error:
            raise unreadable(error) from error

    @contextmanager
    def _request(
        self, client: httpx2.Client, method: str, path: str, upload: "_Upload | None" = None, **request: Any
    ) -> Iterator[httpx2.Response]:
        """Raises Unanswered where the whole `upload` was written, Unreachable where it was not: then it cannot be there."""
        try:
            with client.stream(method, f"{self.url.rstrip('/')}/{path}", **request) as response:
                yield response
        except httpx2.ConnectError as error:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            raise Unreachable("no connection: the certificate is not trusted" if untrusted else "no connection") from error
        except httpx2.ConnectTimeout as error:
            raise Unreachable(f"no connection within {self.timeout_seconds:g} s") from error
        except httpx2.HTTPError as error:
            timed_out = isinstance(error, httpx2.TimeoutException)
            words = f"no answer within {self.timeout_seconds:g} s" if timed_out else "the connection broke"
            if upload is not None and upload.is_done:
                raise Unanswered(f"{words}; the instance may be stored or not") from error
            raise Unreachable(words) from error

    def _client(self) -> httpx2.Client:
        return httpx2.Client(
            auth=(self.user, self.password or "") if self.user else None,
            headers={
                "Accept": "application/dicom+json",
                **({"Authorization": f"Bearer {self.token}"} if self.token else {}),
                **(self.headers or {}),
            },
            timeout=self.timeout_seconds,
            trust_env=False,  # hosts come from gateway.toml only: no proxy, no .netrc
            transport=httpx2.HTTPTransport(verify=self._tls, trust_env=False, socket_options=SOCKET_OPTIONS),
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext | bool:
        """Made once: reading the certificates takes longer than a request."""
        if not self.url.startswith("https:") or self.verify is False:
            return False
        return ssl.create_default_context(cafile=self.verify if isinstance(self.verify, str) else None)


def peer(settings: Mapping[str, object]) -> Dicomweb:
    made = read_settings(Dicomweb, settings)
    if (made.token and made.user) or bool(made.user) != bool(made.password):
        raise ConfigError([f"peer {made.name}: expected a token, or user and password together, or neither"])
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


def _read(response: httpx2.Response) -> bytes:
    """The answer, as much of it as an honest one can need."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MOST_ANSWER:
            error = Unanswered if response.request.method == "POST" else Unreachable
            raise error("the answer is longer than one for a single instance can be")
    return bytes(body)
