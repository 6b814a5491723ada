"""A DICOMweb archive for tests that behaves like a cloud's: pages, tokens, limits, and connections that break."""

import gzip
import json
import re
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydicom import Dataset

from tests.peers_fixture import _served
from tests.synthetic import part10

_SERIES = re.compile(r"/studies/([\d.]+)/series/([\d.]+)(?:/instances/?([\d.]*))?$")


@dataclass
class WebArchive:
    """What it holds, and how it behaves. `requests` are method and path of each request, in their order."""

    page: int = 1000
    """Matches in an answer, whatever is asked for."""
    whole: bool = True
    """Answers for whole series; without it 406."""
    codes: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """What the next retrievals are answered instead, with headers."""
    cut: list[int] = field(default_factory=list)
    """After so many bytes of the body the connection of the next retrievals breaks."""
    length: bool = True
    """Says how long an answer is; without it the connection's end does."""
    zipped: bool = False
    single: bool = False
    """Answers one instance as application/dicom."""
    partial: bool = False
    """Answers 206."""
    token: str = ""
    """The access token that is wanted; tokens are counted, each request for one makes the next."""
    tokens: int = 0
    held: dict[str, Dataset] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, series: Sequence[Dataset]) -> None:
        self.held |= {str(ds.SOPInstanceUID): ds for ds in series}

    def of(self, study: str, series: str) -> list[Dataset]:
        return [ds for ds in self.held.values() if (study, series) == (ds.StudyInstanceUID, ds.SeriesInstanceUID)]

    @property
    def retrieved(self) -> list[str]:
        """Of which instances or series somebody asked for the bytes."""
        return [path.rpartition("/")[2] for path in self.requests if path.startswith("WADO ")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    archive: WebArchive

    def do_POST(self) -> None:
        """The token endpoint."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        good = (
            form.get("grant_type") == ["client_credentials"] and self.headers["Authorization"] == "Basic Z2F0ZXdheTpoaWRkZW4lMkI="
        )
        with self.archive.lock:
            self.archive.tokens += 1
            self.archive.token = f"token-{self.archive.tokens}"
            answer = {"access_token": self.archive.token, "token_type": "Bearer", "expires_in": 3600}
        self._answer(200 if good else 401, json.dumps(answer if good else {}).encode(), "application/json")

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        found = _SERIES.search(place.path)
        is_search = found is None or (found[3] == "" and place.path.endswith("/instances"))
        with self.archive.lock:
            self.archive.requests.append(f"{'QIDO' if is_search else 'WADO'} {place.path}")
        if self.archive.token and self.headers["Authorization"] != f"Bearer {self.archive.token}":
            self._answer(401, b"", "text/plain")
        elif is_search:
            self._search(found, parse_qs(place.query))
        else:
            self._retrieve(self.archive.of(found[1], found[2]), found[3] or "")

    def _search(self, found: re.Match[str] | None, query: dict[str, list[str]]) -> None:
        matches = self.archive.of(found[1], found[2]) if found else list(self.archive.held.values())
        offset = int(query.get("offset", ["0"])[0])
        page = matches[offset : offset + min(self.archive.page, int(query.get("limit", ["9999"])[0]))]
        items = [{"00080018": {"vr": "UI", "Value": [ds.SOPInstanceUID]}} for ds in page]
        self._answer(200 if items else 204, json.dumps(items).encode() if items else b"", "application/dicom+json")

    def _retrieve(self, series: list[Dataset], instance: str) -> None:
        with self.archive.lock:
            code, headers = self.archive.codes.pop(0) if self.archive.codes else (206 if self.archive.partial else 200, {})
        wanted = [ds for ds in series if not instance or ds.SOPInstanceUID == instance]
        if code not in (200, 206) or not wanted or not (instance or self.archive.whole):
            self._answer(code if code >= 400 else 404 if not wanted else 406, b"", "text/plain", headers)
        elif self.archive.single and instance:
            self._answer(code, part10(wanted[0]), "application/dicom")
        else:
            body = b"".join(b"\r\n--x\r\nContent-Type: application/dicom\r\n\r\n" + part10(ds) for ds in wanted) + b"\r\n--x--"
            self._answer(code, body, 'multipart/related; type="application/dicom"; boundary=x')

    def _answer(self, code: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        is_body = "dicom" in kind and "json" not in kind
        body = gzip.compress(body, 1) if is_body and self.archive.zipped else body
        more = {"Content-Encoding": "gzip"} if is_body and self.archive.zipped else {}
        self.send_response(code)
        for name, value in {"Content-Type": kind, **(headers or {}), **more}.items():
            self.send_header(name, value)
        if not is_body or self.archive.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        with self.archive.lock:
            cut = self.archive.cut.pop(0) if is_body and self.archive.cut else 0
        self.wfile.write(body[:cut] if cut else body)
        self.close_connection = self.close_connection or bool(cut) or (is_body and not self.archive.length)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_archive(*, certificate: Path | None = None, authorities: Path | None = None, **behaviour: object) -> Iterator[WebArchive]:
    """With `authorities` it asks for a certificate that one of them signed."""
    archive = WebArchive(**behaviour)
    handler = type("Handler", (_Handler,), {"archive": archive})
    ThreadingHTTPServer.daemon_threads = True
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            if authorities is not None:
                context.load_verify_locations(authorities)
                context.verify_mode = ssl.CERT_REQUIRED
            server.socket = context.wrap_socket(server.socket, server_side=True)
        archive.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
        yield from _served(server, archive)
