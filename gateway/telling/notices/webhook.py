"""Notices by webhook: an HTTP POST with JSON, to a program of yours or to a chat (`{"text": ...}`: Slack, Teams and others).

With `secret_file` every request is signed: `X-Gateway-Signature: t=UNIX_SECONDS,v1=HEX`, an HMAC-SHA256 with the secret over
`UNIX_SECONDS.BODY`. `Idempotency-Key` is the same where a notice comes twice.
"""

import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx2

from gateway.configuration.protocols import is_readable, is_seconds, is_text, read_settings, setting
from gateway.errors import ConfigError, NoticeError
from gateway.telling.wording import Told

_FORMATS = ("events", "text")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_url(value: object) -> bool:
    try:
        url = httpx2.URL(value)  # type: ignore[arg-type]
    except (httpx2.InvalidURL, TypeError):
        return False
    return bool(url.host) and not url.userinfo and (url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host)))


@dataclass(frozen=True)
class Webhook:
    """Where to; the URL of a chat is itself a secret, so it may stand in a file."""

    name: str = setting("a name", is_text)
    url: str = setting("an https URL (http on this machine only)", _is_url, "", secret=True)
    url_file: Path | None = setting("a file with the URL in it", is_readable, None, make=Path)
    format: str = setting(f"one of {', '.join(_FORMATS)}", lambda value: value in _FORMATS, "events")
    secret_file: Path | None = setting("a file with the secret in it", is_readable, None, make=Path)
    authorities: Path | None = setting(
        "a PEM file of who signed the server's certificate, or no such key: who this machine trusts",
        is_readable,
        None,
        make=Path,
    )
    timeout_seconds: float = setting("seconds, 3600 at most", is_seconds, 20.0)

    def tell(self, told: Told) -> None:
        body = json.dumps(self._document(told)).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": told.key}
        try:
            headers |= self._signature(told, body)
            context = ssl.create_default_context(cafile=self.authorities)
            with (
                httpx2.Client(verify=context, timeout=self.timeout_seconds, follow_redirects=False) as client,
                client.stream("POST", self._address(), content=body, headers=headers) as answer,  # what it says is not read
            ):
                arrived = answer.is_success
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
            raise NoticeError(f"the webhook cannot be used ({type(error).__name__})") from error
        if not arrived:
            raise NoticeError(f"the webhook answered {answer.status_code}")

    def reach(self) -> str:
        """Raises NoticeError where nobody listens there; nothing is posted."""
        url = httpx2.URL(self._address())
        try:
            with socket.create_connection((url.host, url.port or (443 if url.scheme == "https" else 80)), 5) as plain:
                if url.scheme == "https":
                    ssl.create_default_context(cafile=self.authorities).wrap_socket(plain, server_hostname=url.host).close()
        except (OSError, UnicodeError) as error:
            raise NoticeError(f"the webhook cannot be used ({type(error).__name__})") from error
        return "the webhook's server answers"

    def _address(self) -> str:
        url = self.url_file.read_text("utf-8").strip() if self.url_file else self.url
        if not _is_url(url):
            raise NoticeError("url_file: expected an https URL in it")
        return url

    def _document(self, told: Told) -> dict[str, object]:
        if self.format == "text":
            return {"text": f"{told.subject}\n{told.text}"}
        return {
            "key": told.key, "at": told.at.isoformat(), "subject": told.subject, "text": told.text, "count": told.count,
            "counts": told.counts, "events": [dict(one) for one in told.events],
        }  # fmt: skip

    def _signature(self, told: Told, body: bytes) -> dict[str, str]:
        if self.secret_file is None:
            return {}
        seconds, secret = int(told.at.timestamp()), self.secret_file.read_bytes().strip()
        digest = hmac.new(secret, b"%d.%b" % (seconds, body), hashlib.sha256).hexdigest()
        return {"X-Gateway-Signature": f"t={seconds},v1={digest}"}


def way(settings: Mapping[str, object]) -> Webhook:
    made = read_settings(Webhook, settings, "notice")
    if bool(made.url) == bool(made.url_file):
        raise ConfigError([f"notice {made.name}: expected either url or url_file"])
    return made
