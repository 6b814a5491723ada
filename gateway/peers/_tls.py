"""TLS towards a peer: whose certificates are believed there, and which one is ours."""

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gateway.errors import Unreachable
from gateway.machine.marks import marks
from gateway.peers import is_text

VERIFY = "true, false, or the path of a file of CA certificates"


def is_verify(value: object) -> bool:
    if isinstance(value, bool) or not is_text(value):
        return isinstance(value, bool)
    try:
        ssl.create_default_context(cafile=str(value))
    except OSError:  # ssl.SSLError is one
        return False
    return True


@dataclass(frozen=True)
class Trust:
    """As in the peer's table: with `verify` false everybody is believed, by default whom this machine believes."""

    verify: bool | str
    certificate: str | None
    certificate_key: str | None

    def problems(self) -> list[str]:
        """What is wrong with our certificate; those of authorities were read by `is_verify`."""
        if bool(self.certificate) != bool(self.certificate_key) or (self.certificate and self.verify is False):
            return ["expected certificate and certificate_key together, and verify not false"]
        try:
            if self.certificate:  # those that this machine believes take 18 ms to read, and `gateway send` needs none
                self.context()
        except Unreachable:
            return ["expected certificate and certificate_key to be a certificate and its unencrypted key (PEM)"]
        return []

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or 1.3, by the files as they are now: they are replaced while the gateway serves. Raises Unreachable."""
        files = self.verify if isinstance(self.verify, str) else None, self.certificate, self.certificate_key
        try:
            return _context(*files, tuple(marks(Path(file)) for file in files if file), is_verified=self.verify is not False)
        except OSError as error:
            raise Unreachable("the files with the certificates cannot be read, or do not belong together") from error


@lru_cache
def _context(
    authorities: str | None, certificate: str | None, key: str | None, _marks: object, *, is_verified: bool
) -> ssl.SSLContext:
    """Made once for the files as they are: reading them takes longer than a request."""
    made = ssl.create_default_context(cafile=authorities)
    if not is_verified:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if certificate:
        # Without a passphrase OpenSSL would ask a terminal for that of an encrypted key, and wait.
        made.load_cert_chain(certificate, key, password="")
    return made
