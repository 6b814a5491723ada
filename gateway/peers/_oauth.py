"""Access tokens by client credentials (OAuth 2.0, RFC 6749 4.4): one for all requests to a peer, and again when it is over."""

import json
import threading
import time
from collections.abc import Callable, Generator
from urllib.parse import quote_plus

import httpx2

from gateway.errors import Unreachable
from gateway.peers._body import read

_EARLIER_SECONDS = 30.0
"""A token that is about to end is not begun with."""
_UNTOLD_SECONDS = 300.0
_MOST_ANSWER = 64 * 1024
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


class ClientCredentials(httpx2.Auth):
    """Puts the token into requests; where the peer answers 401 it is fetched once more. Raises Unreachable."""

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        scope: str | None,
        *,
        timeout: float,
        transport: Callable[[], httpx2.BaseTransport],
    ) -> None:
        self._url, self._timeout, self._transport = url, timeout, transport
        self._who = httpx2.BasicAuth(quote_plus(client_id), quote_plus(client_secret))  # RFC 6749 2.3.1
        self._form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}
        self._lock, self._token, self._until = threading.Lock(), "", 0.0

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        token = self._current("")
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401:
            request.headers["Authorization"] = f"Bearer {self._current(token)}"
            yield request

    def _current(self, refused: str) -> str:
        """The token that is good, and not the one that was refused; threads that want one together fetch it once."""
        with self._lock:
            if self._token in ("", refused) or time.monotonic() > self._until:
                self._token, seconds = self._fetch()
                self._until = time.monotonic() + max(0.0, seconds - _EARLIER_SECONDS)
            return self._token

    def _fetch(self) -> tuple[str, float]:
        try:
            with (
                httpx2.Client(auth=self._who, timeout=self._timeout, trust_env=False, transport=self._transport()) as client,
                client.stream("POST", self._url, data=self._form, headers=_HEADERS) as response,
            ):
                body = read(response, _MOST_ANSWER)
        except httpx2.HTTPError as error:
            raise Unreachable("the token endpoint does not answer") from error
        if response.status_code in {400, 401, 403}:
            raise Unreachable(f"HTTP {response.status_code}: the token endpoint does not accept the client's credentials")
        if response.status_code != 200:
            raise Unreachable(f"HTTP {response.status_code}: the token endpoint gives no token")
        return _token(body)


def _token(body: bytes) -> tuple[str, float]:
    """Token and seconds (RFC 6749 5.1)."""
    try:
        answer = json.loads(body)
        token, seconds = answer["access_token"], float(answer.get("expires_in", _UNTOLD_SECONDS))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreachable("expected an access token from the token endpoint") from error
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise Unreachable("expected an access token from the token endpoint")
    return token, seconds
