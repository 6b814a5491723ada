"""The connection to a system that speaks HTTP: where it is, who we are there, and what its failures mean.

Basic authentication, a bearer token, an access token by OAuth 2.0 (client credentials), a certificate of ours; each by keys of
the `[[peers]]` table.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import httpx2

from gateway.errors import ConfigError, Unanswered, Unreachable
from gateway.outputs.kinds import OBJECTS
from gateway.peers import SOCKET_OPTIONS, is_host, is_seconds, is_text, setting
from gateway.peers._connection import words
from gateway.peers._oauth import ClientCredentials
from gateway.peers._tls import VERIFY, Trust, is_verify

JSON = "application/dicom+json"


class Upload(Protocol):
    """The body of a request; `is_done` once its last byte was handed to the network."""

    is_done: bool


def is_url(value: object) -> bool:
    try:
        url = httpx2.URL(value)  # type: ignore[arg-type]
    except (httpx2.InvalidURL, TypeError):
        return False
    return url.scheme in {"http", "https"} and is_host(url.host) and not (url.userinfo or url.query or url.fragment)


def _is_headers(value: object) -> bool:
    return isinstance(value, Mapping) and all(is_text(text) and text.isascii() for pair in value.items() for text in pair)


def _is_file(value: object) -> bool:
    try:
        return is_text(value) and _is_token(_first_line(str(value)))
    except (OSError, UnicodeDecodeError):
        return False


def _first_line(path: str) -> str:
    with Path(path).open(encoding="utf-8") as file:
        return file.readline().strip()


def _is_token(value: object) -> bool:
    return is_text(value) and str(value).isascii()


def _why(error: BaseException | None, timeout: float) -> str:
    """What the system, or TLS, said where the connection could not be made, or broke; empty where neither said anything."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return "" if error is None else f": {words(error, timeout)}"


@dataclass(frozen=True, kw_only=True)
class Http:
    """`timeout_seconds` is for the connection and each piece sent or read.

    `verify` may name a file of CA certificates (PEM). `certificate` and `certificate_key` are ours (PEM), for a system that asks
    for one. With `token_url` an access token is fetched there for `client_id` and `client_secret` (RFC 6749 4.4), `scope` being
    what that server wants to hear.
    """

    name: str = setting("a name", is_text)
    url: str = setting("http:// or https://, a host and a path, without user, password or query", is_url)
    user: str | None = setting("a user name", is_text, None)
    password: str | None = setting("a text", is_text, None, secret=True)
    password_file: str | None = setting("a file whose first line is the password, in ASCII", _is_file, None)
    token: str | None = setting("a bearer token in ASCII", _is_token, None, secret=True)
    token_file: str | None = setting("a file whose first line is a bearer token in ASCII", _is_file, None)
    token_url: str | None = setting("the https:// or http:// address of a token endpoint", is_url, None)
    client_id: str | None = setting("a text", is_text, None)
    client_secret: str | None = setting("a text", is_text, None, secret=True)
    scope: str | None = setting("scopes, a space between two", is_text, None)
    certificate: str | None = setting("the path of a certificate (PEM)", is_text, None)
    certificate_key: str | None = setting("the path of its unencrypted key (PEM)", is_text, None)
    headers: Mapping[str, str] | None = setting("a table of texts", _is_headers, None, secret=True)
    timeout_seconds: float = setting("seconds, more than 0 and at most 3600", is_seconds, 60)
    verify: bool | str = setting(VERIFY, is_verify, default=True)
    objects: Sequence[str] | None = setting(*OBJECTS)

    def check(self) -> None:
        """Raise ConfigError where keys that belong together are not."""
        problems = []
        password, token = self.password or self.password_file, self.token or self.token_file
        if (self.password and self.password_file) or (self.token and self.token_file):
            problems.append("expected a secret itself or its file, not both")
        ways = [bool(token), bool(self.user or password), bool(self.token_url or self.client_id or self.client_secret)]
        if sum(ways) > 1 or bool(self.user) != bool(password):
            problems.append("expected a token, or user and password together, or a token_url, or neither")
        if len({bool(self.token_url), bool(self.client_id), bool(self.client_secret)}) > 1:
            problems.append("expected token_url, client_id and client_secret together")
        problems += self._trust.problems()
        if problems:
            raise ConfigError([f"peer {self.name}: {problem}" for problem in problems])

    @contextmanager
    def client(self, *, connections: int = 1) -> Iterator[httpx2.Client]:
        """Threads may share it."""
        password, token = self._secret(self.password, self.password_file), self._secret(self.token, self.token_file)
        with httpx2.Client(
            auth=httpx2.BasicAuth(self.user, password) if self.user else self._credentials,
            headers={
                "Accept": JSON,
                "Accept-Encoding": "identity",  # pixels hardly shrink, and peers take long to try
                **({"Authorization": f"Bearer {token}"} if token else {}),
                **(self.headers or {}),
            },
            timeout=self.timeout_seconds,
            trust_env=False,  # hosts come from gateway.toml only: no proxy, no .netrc
            transport=self._transport(connections),
        ) as client:
            yield client

    @contextmanager
    def request(
        self, client: httpx2.Client, method: str, path: str, upload: Upload | None = None, **request: Any
    ) -> Iterator[httpx2.Response]:
        """Raises Unanswered where the whole `upload` was written, Unreachable where it was not: then it cannot be there."""
        try:
            with client.stream(method, f"{self.url.rstrip('/')}/{path}", **request) as response:
                yield response
        except httpx2.ConnectError as error:
            raise Unreachable(f"no connection{_why(error, self.timeout_seconds)}") from error
        except httpx2.ConnectTimeout as error:
            raise Unreachable(f"no connection within {self.timeout_seconds:g} s") from error
        except httpx2.HTTPError as error:
            timed_out = isinstance(error, httpx2.TimeoutException)
            broke = f"the connection broke{_why(error, self.timeout_seconds)}"
            words = f"no answer within {self.timeout_seconds:g} s" if timed_out else broke
            if upload is not None and upload.is_done:
                raise Unanswered(f"{words}; the instance may be stored or not") from error
            raise Unreachable(words) from error

    def _transport(self, connections: int) -> httpx2.HTTPTransport:
        is_tls = any(url.startswith("https:") for url in (self.url, self.token_url) if url)
        return httpx2.HTTPTransport(
            verify=self._trust.context() if is_tls else False, trust_env=False, socket_options=SOCKET_OPTIONS,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        )  # fmt: skip

    def _secret(self, value: str | None, file: str | None) -> str:
        """Of a file what it says now: who changes it there restarts nothing."""
        try:
            return _first_line(file) if file else value or ""
        except (OSError, UnicodeDecodeError) as error:
            raise Unreachable("the file with the credentials cannot be read") from error

    @cached_property
    def _credentials(self) -> httpx2.Auth | None:
        """One for the peer: the access token is shared, and kept while it is good."""
        if not self.token_url:
            return None
        return ClientCredentials(
            self.token_url, self.client_id or "", self.client_secret or "", self.scope, timeout=self.timeout_seconds,
            transport=lambda: self._transport(1),
        )  # fmt: skip

    @property
    def _trust(self) -> Trust:
        return Trust(self.verify, self.certificate, self.certificate_key)
