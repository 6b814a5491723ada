"""Certificates for tests of TLS, made by the openssl command: authorities, what they sign, and what they take back.

    authority = Authority(folder / "ca")
    server, ct1 = authority.issue("gateway", hosts=("localhost",)), authority.issue("CT1")
    context = client_context(authority, ct1)

Keys are P-256: they are made in milliseconds.
"""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

_CONFIGURATION = """\
[ca]
default_ca = authority
[authority]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
policy = policy
unique_subject = no
[policy]
commonName = supplied
"""


@dataclass(frozen=True)
class Issued:
    """PEM files of a certificate and of its key, which has no passphrase."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in `folder`, which it makes. Skips the test where there is no openssl command."""

    def __init__(self, folder: Path, *, name: str = "Test Authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl command is not installed (Debian: openssl)")
        folder.mkdir(parents=True)
        self.folder, self.certificate, self._crls = folder, folder / "ca.pem", 0
        (folder / "index.txt").touch()
        (folder / "serial").write_text("1000\n")
        (folder / "ca.cnf").write_text(_CONFIGURATION.format(folder=folder))
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        self._openssl(
            "req", "-x509", "-days", "30", "-subj", f"/CN={name}", *_key(folder / "ca.key"), "-out", self.certificate,
            *(word for extension in extensions for word in ("-addext", extension)),
        )  # fmt: skip

    def issue(self, common_name: str, *, hosts: tuple[str, ...] = (), expired: bool = False) -> Issued:
        """A leaf for both ends of TLS; `hosts` become SAN DNS names, and 127.0.0.1 is added to them."""
        file = self.folder / f"{common_name}-{len(list(self.folder.glob('*.key')))}"
        issued, request, extensions = Issued(file.with_suffix(".pem"), file.with_suffix(".key")), file.with_suffix(".csr"), file
        alternatives = [f"DNS:{host}" for host in hosts] + ["IP:127.0.0.1"] * bool(hosts)
        extensions.write_text(
            "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n"
            + (f"subjectAltName={','.join(alternatives)}\n" if alternatives else "")
        )
        now = datetime.now(UTC)
        start, end = (now - timedelta(2), now - timedelta(1)) if expired else (now - timedelta(1), now + timedelta(20))
        self._openssl("req", "-new", "-subj", f"/CN={common_name}", *_key(issued.key), "-out", request)
        self._openssl(
            "ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-in", request, "-out", issued.certificate,
            "-extfile", extensions, "-startdate", f"{start:%Y%m%d%H%M%SZ}", "-enddate", f"{end:%Y%m%d%H%M%SZ}",
        )  # fmt: skip
        return issued

    def revoke(self, issued: Issued) -> None:
        self._openssl("ca", "-config", self.folder / "ca.cnf", "-revoke", issued.certificate)

    def crl(self, *, expired: bool = False) -> Path:
        """A revocation list of this moment, in a file of its own; an expired one should have been followed by the next."""
        self._crls += 1
        file, now = self.folder / f"crl-{self._crls}.pem", datetime.now(UTC)
        last, following = now - timedelta(2), now - timedelta(1) if expired else now + timedelta(20)
        self._openssl(
            "ca", "-config", self.folder / "ca.cnf", "-gencrl", "-out", file,
            "-crl_lastupdate", f"{last:%Y%m%d%H%M%SZ}", "-crl_nextupdate", f"{following:%Y%m%d%H%M%SZ}",
        )  # fmt: skip
        return file

    def _openssl(self, *words: str | Path) -> None:
        done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def _key(file: Path) -> tuple[str | Path, ...]:
    return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", file


def client_context(authority: Authority, issued: Issued | None = None) -> ssl.SSLContext:
    """Trusts `authority`, shows `issued`; checks no host name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority.certificate)
    if issued is not None:
        context.load_cert_chain(issued.certificate, issued.key)
    return context
