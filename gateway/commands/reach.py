"""Reach: whether those whom gateway.toml names would answer now, or reach us. None of them is told anything by it."""

import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from urllib.parse import urlsplit

import httpx2
from pydicom.uid import UID

from gateway.configuration.oversight import AuditSection
from gateway.configuration.sections import Config
from gateway.configuration.webkeys import OidcSection
from gateway.dicom.uids import secret_uid
from gateway.errors import ConfigError, DeliveryError, GatewayError, Rejected
from gateway.outputs.kinds import KINDS, USUAL, unwanted
from gateway.peers import Peer
from gateway.peers.dimse import Dimse
from gateway.telling.notices import Addressee
from gateway.telling.syslog import line

_SECONDS = 5.0
_LOCAL = ("127.0.0.1", "::1", "localhost")

Asked = tuple[bool, str]
"""Whether it answers as it should, and what to say of it."""


def asked(config: Config, addressees: Iterable[Addressee]) -> Iterator[Callable[[], Asked]]:
    """One call for each that is configured; they may be made at the same time."""
    if config.audit.syslog:
        yield partial(_ask, f"[audit] syslog {config.audit.syslog}", partial(_collector, config.audit))
    if config.tracing.url:
        traces = partial(_port, config.tracing.url)
        yield partial(_ask, f"[tracing] url {config.tracing.url}", traces)
    if config.web.oidc:
        yield partial(_ask, f"[web.oidc] issuer {config.web.oidc.issuer}", partial(_issuer, config.web.oidc))
    for one in addressees:
        if reach := getattr(one.way, "reach", None):
            yield partial(_ask, f"notice {one.name}", reach)


def _ask(what: str, ask: Callable[[], str]) -> Asked:
    try:
        return True, f"{what}: {ask()}"
    except GatewayError as error:
        return False, f"{what}: {error}"
    except ssl.SSLError as error:
        return False, f"{what}: no TLS with it: {error.reason or 'expected one'}"
    except (OSError, ValueError, httpx2.HTTPError) as error:
        number = getattr(error, "errno", None)
        return False, f"{what}: cannot be reached ({os.strerror(number) if number and number > 0 else type(error).__name__})"


def moved(config: Config, name: str, peer: Dimse) -> Asked:
    """Whether a peer that sends us series (C-MOVE) knows our listener, and would be let in there; it is asked for none."""
    what, dimse = f"peer {name}: fetch", config.dimse
    if not config.policy.may_store(peer.ae_title):
        return False, f"{what}: expected [[callers]] to let AE title {peer.ae_title} store: it sends series to us"
    if dimse.host in _LOCAL and peer.host not in _LOCAL:
        return False, f"{what}: expected a [dimse] host that the peer can reach: it sends series there"
    try:
        peer.move(secret_uid(), secret_uid(), lambda: 0, lambda: False)
    except Rejected:  # as some answer where they have nothing of it
        pass
    except DeliveryError as error:
        return False, f"{what}: {error}"
    ports = " or ".join(str(port) for port in (dimse.port, dimse.tls_port) if port is not None)
    return True, f"{what}: it needs this machine's host and port {ports} for our AE title {peer.calling_ae_title}"


def unsent(config: Config, name: str, peer: Peer) -> Sequence[str]:
    """What rules send to a peer that does not take it, by negotiation alone; that it does not answer is told elsewhere."""
    wrong = [f"peer {name}: objects: expected [delivery] pictures = true: else there are none"]
    wrong *= "pictures" in (getattr(peer, "objects", None) or ()) and not config.delivery.pictures
    if not isinstance(peer, Dimse):
        return wrong
    made = [uid for uid, kind in KINDS.items() if getattr(config.delivery, kind, kind in USUAL) and not unwanted(peer, uid)]
    with suppress(DeliveryError):
        refused = [one for one in peer.probe() if not one.works and one.what in {UID(uid).name for uid in made}]
        wrong += [f"peer {name}: does not accept {one.what}{f': {one.note}' if one.note else ''}" for one in refused]
    return wrong


def _collector(section: AuditSection) -> str:
    certificates = {name: getattr(section, name) for name in ("authorities", "certificate", "certificate_key")}
    with closing(line(section.syslog, **certificates)) as collector:
        collector.open()
    return "takes messages" if section.syslog.startswith("tls:") else "is a name that is known; over UDP nobody answers"


def _port(url: str) -> str:
    found = urlsplit(url)
    with socket.create_connection((found.hostname or "", found.port or (443 if found.scheme == "https" else 80)), _SECONDS):
        return "somebody listens there"


def _issuer(section: OidcSection) -> str:
    """OpenID Connect Discovery 1.0, 4."""
    trusted = ssl.create_default_context(cafile=section.authorities)
    place = f"{section.issuer.rstrip('/')}/.well-known/openid-configuration"
    answer = httpx2.get(place, verify=trusted, timeout=_SECONDS).raise_for_status()
    if answer.json().get("issuer") != section.issuer:
        raise ConfigError(["expected the metadata of the configured issuer"])
    return "says who it is"
