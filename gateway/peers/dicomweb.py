"""STOW-RS user agent (PS3.18 10.5): one instance a request, streamed from its file; and a QIDO-RS search as the echo."""

import json
import secrets
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
from pydicom.datadict import tag_for_keyword

from gateway.errors import ConfigError, DeliveryError, Rejected, Unreachable
from gateway.peers import (
    NOT_SUPPORTED,
    NOT_UNDERSTOOD,
    PROCESSING_FAILURE,
    SOCKET_OPTIONS,
    STORED,
    Sent,
    is_seconds,
    is_text,
    judge,
    read_settings,
    setting,
)
from gateway.peers._part10 import Part10, read_part10, unreadable

_CHUNK = 256 * 1024
_MOST_ANSWER = 1024 * 1024
_FINAL = {400: NOT_UNDERSTOOD, 415: NOT_SUPPORTED}
_BUSY = {408, 425, 429}
_REPAIRABLE = {
    401: "the credentials are not accepted",
    403: "the credentials do not allow it",
    404: "there is no DICOMweb service at this url",
    405: "there is no DICOMweb service at this url",
}


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
        with self._client() as client, self._request(client, "GET", params={"limit": "1"}) as response:
            if response.status_code not in {200, 204}:
                raise _refusal(response)
        return f"answered QIDO-RS in {(time.perf_counter() - started) * 1000:.0f} ms"

    def _store(self, client: httpx2.Client, instance: Part10) -> Sent:
        boundary = secrets.token_hex(16)  # 128 random bits: no file has them by chance, and none can be made to have them
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        try:
            length = len(head) + instance.path.stat().st_size + len(tail)
            headers = {
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Content-Length": str(length),
            }
            with self._request(client, "POST", headers=headers, content=_body(head, instance.path, tail)) as response:
                return verdict(response, _read(response), instance.sop_instance_uid)
        except OSError as error:
            raise unreadable(error) from error

    @contextmanager
    def _request(self, client: httpx2.Client, method: str, **request: Any) -> Iterator[httpx2.Response]:
        try:
            with client.stream(method, f"{self.url.rstrip('/')}/studies", **request) as response:
                yield response
        except httpx2.ConnectError as error:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            raise Unreachable("no connection: the certificate is not trusted" if untrusted else "no connection") from error
        except httpx2.ConnectTimeout as error:
            raise Unreachable(f"no connection within {self.timeout_seconds:g} s") from error
        except httpx2.HTTPError as error:
            timed_out = isinstance(error, httpx2.TimeoutException)
            words = f"no answer within {self.timeout_seconds:g} s" if timed_out else "the connection broke"
            unknown = "; the instance may be stored or not" if method == "POST" else ""
            raise Unreachable(f"{words}{unknown}") from error

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


def verdict(response: httpx2.Response, body: bytes, sop_instance_uid: str) -> Sent:
    """What a STOW-RS answer says of one instance (PS3.18 10.5.3). The body decides, whatever the HTTP status.

    Raises Unreachable or Rejected. Orthanc answers 400 for a request of which it has stored a part.
    """
    failed = _item(body, "FailedSOPSequence", sop_instance_uid)
    if failed is not None:
        return judge(_number(failed, "FailureReason", PROCESSING_FAILURE))
    stored = _item(body, "ReferencedSOPSequence", sop_instance_uid)
    if stored is not None:
        return judge(_number(stored, "WarningReason", STORED))
    if response.status_code == 200 and not body.strip():
        return Sent(STORED, "stored (HTTP 200 without a list of instances)")
    raise _refusal(response)


def _refusal(response: httpx2.Response) -> DeliveryError:
    """The error for an answer that does not name our instance."""
    code = response.status_code
    if code in _BUSY or code >= 500:
        after = response.headers.get("Retry-After", "")
        return Unreachable(
            f"HTTP {code}: the peer cannot take it now" + (f", come back in {after} s" if after.isdecimal() else "")
        )
    if code in _REPAIRABLE or 300 <= code < 400:
        return Unreachable(f"HTTP {code}: {_REPAIRABLE.get(code, 'the service is at another url')}")
    if code < 300:
        return Unreachable(f"HTTP {code}: expected an answer that names the instance; it may be stored or not")
    return Rejected(_FINAL.get(code, PROCESSING_FAILURE), f"HTTP {code}: the peer rejects the request")


def _item(body: bytes, sequence: str, sop_instance_uid: str) -> Mapping[str, Any] | None:
    """The item of our instance, or one that names none (we sent no other); None where there is no such item."""
    try:
        items = _values(json.loads(body), sequence)
        return next(
            (item for item in items if _values(item, "ReferencedSOPInstanceUID") in ([sop_instance_uid], []) and item), None
        )
    except (ValueError, AttributeError, TypeError):  # not the DICOM JSON model (PS3.18 F.2)
        return None


def _number(item: Mapping[str, Any], keyword: str, default: int) -> int:
    value = next(iter(_values(item, keyword)), None)
    return value if isinstance(value, int) and 0 <= value <= 0xFFFF else default


def _values(item: Mapping[str, Any], keyword: str) -> list[Any]:
    """By keyword from the DICOM JSON model; pydicom's own reader would warn of odd values, and quote them."""
    return list(item.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value", []))


def _body(head: bytes, path: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk
    yield tail


def _read(response: httpx2.Response) -> bytes:
    """The answer, as much of it as an honest one can need."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MOST_ANSWER:
            raise Unreachable("the answer is longer than one for a single instance can be")
    return bytes(body)
