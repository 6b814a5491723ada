"""What stands before every page: for whom we are, how often somebody asks, and what browsers are told to refuse (ASVS 14.4)."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response

from gateway.configuration.forms import LOOPBACK
from gateway.web.site import Site
from gateway.web.who import DICOMWEB

Application = Callable[[Any, Any, Any], Awaitable[None]]
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), usb=()",
}


class Guard:
    """An ASGI application around another."""

    def __init__(self, application: Application, *, site: Site) -> None:
        self._application, self._site = application, site

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refused = self._refused(scope) if scope["type"] in ("http", "websocket") else None
        if scope["type"] == "websocket":
            await (_closed if refused else self._application)(scope, receive, send)
        if scope["type"] != "http":
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")  # patients' data stay in nobody's cache
                if self._site.is_secure:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        if scope["method"] == "HEAD":  # as GET (RFC 9110 9.3.2): the server leaves the body out
            scope = {**scope, "method": "GET"}
        await (refused or self._application)(scope, receive, send_guarded)

    def _refused(self, scope: Any) -> Response | None:
        headers = Headers(scope=scope)
        if self._site.config.web.behind_proxy:
            _believe_proxy(scope, headers)
        if not self._is_for_us(headers.get("host", "")):
            return PlainTextResponse("This gateway does not go by that name: [web] url says which one it has.\n", 421)
        if "transfer-encoding" in headers and "content-length" in headers:
            return PlainTextResponse("Expected one framing of the body (RFC 9112 6.3).\n", 400, {"Connection": "close"})
        address = scope["client"][0] if scope["client"] else ""
        limits = self._site.limits
        wait = (limits.dicomweb if scope["path"].startswith(DICOMWEB) else limits.requests).wait(address)
        if wait:
            return PlainTextResponse("Too many requests.\n", 429, {"Retry-After": str(int(wait) + 1)})
        return None

    def _is_for_us(self, host: str) -> bool:
        """A name that somebody else made resolve to this address (DNS rebinding) is not ours."""
        web = self._site.config.web
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if web.url:
            return name in {urlsplit(web.url).hostname, web.host, *LOOPBACK}
        return name in {web.host, *LOOPBACK} or not (web.host in LOOPBACK or web.behind_proxy)


async def _closed(_scope: Any, _receive: Any, send: Any) -> None:
    """Answered with 403: there is no other way before a websocket is open."""
    await send({"type": "websocket.close", "code": 1008})


def _believe_proxy(scope: Any, headers: Headers) -> None:
    """The last address of all lines is the one that the proxy itself has seen; those before it are anybody's words.

    Without any it is not known who asks: the proxy's own address, which may be this machine's, stands for nobody.
    """
    seen = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    scope["client"] = (seen, 0) if seen else None
    scope["scheme"] = "https" if scope["type"] == "http" else "wss"
