"""Notices by e-mail: SMTP (RFC 5321) with TLS from the first byte (RFC 8314), after STARTTLS (RFC 3207), or none."""

import re
import smtplib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from gateway.configuration.protocols import is_readable, is_seconds, is_text, read_settings, setting
from gateway.errors import NoticeError
from gateway.machine import tls
from gateway.telling.wording import Told

_ADDRESS = re.compile(r"[^\s@<>,;\"]+@[^\s@<>,;\"]+")
_SECURITY = ("starttls", "tls", "none")
_PORTS = {"starttls": 587, "tls": 465, "none": 25}

_logger = structlog.get_logger()


def _is_address(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and _ADDRESS.fullmatch(value) is not None


def _are_addresses(value: object) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) <= 100 and all(map(_is_address, value))


def _is_port(value: object) -> bool:
    return type(value) is int and 0 < value <= 65535


@dataclass(frozen=True)
class Email:
    """A mail server; `password_file` is read at each notice, so a new password needs no restart."""

    name: str = setting("a name", is_text)
    host: str = setting("the mail server's name or address", is_text)
    from_address: str = setting("an address such as gateway@example.org", _is_address)
    to: tuple[str, ...] = setting("a list of addresses", _are_addresses, make=tuple)
    security: str = setting(f"one of {', '.join(_SECURITY)}", lambda value: value in _SECURITY, "starttls")
    port: int | None = setting("a port; by default 587 (starttls), 465 (tls) or 25 (none)", _is_port, None)
    user: str = setting("a user's name", is_text, "")
    password_file: Path | None = setting("a file with the password in it", is_readable, None, make=Path)
    authorities: Path | None = setting(
        "a PEM file of who signed the server's certificate, or no such key: who this machine trusts",
        is_readable,
        None,
        make=Path,
    )
    timeout_seconds: float = setting("seconds, 3600 at most", is_seconds, 20.0)

    def tell(self, told: Told) -> None:
        message = self._message(told)
        with _in_our_words(), self._connected() as server:
            refused = server.send_message(message, self.from_address, list(self.to))
        if refused:
            _logger.warning("notice.partly_refused", count=len(refused), reason="the mail server takes mail for the others only")

    def reach(self) -> str:
        """Raises NoticeError where no mail could be given away now; nobody is written to."""
        with _in_our_words(), self._connected() as server:
            server.noop()
        return "the mail server lets us in"

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        context = ssl.create_default_context(cafile=self.authorities)
        kind: Any = partial(smtplib.SMTP_SSL, context=context) if self.security == "tls" else smtplib.SMTP
        with closing(kind(self.host, self.port or _PORTS[self.security], timeout=self.timeout_seconds)) as server:
            if self.security == "starttls":
                server.starttls(context=context)
            if self.user:
                server.login(self.user, self.password_file.read_text("utf-8").strip() if self.password_file else "")
            yield server
            with suppress(OSError):  # smtplib.SMTPException is one; what the server has taken it has, whatever it says to this
                server.quit()

    def _message(self, told: Told) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = told.subject[:250]
        message["From"], message["To"] = self.from_address, ", ".join(self.to)
        message["Date"] = format_datetime(told.at)
        message["Message-ID"] = f"<{re.sub(r'[^A-Za-z0-9.-]', '-', told.key)}@{self.from_address.partition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence note answers it
        message.set_content(told.text, cte="quoted-printable")
        return message


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except smtplib.SMTPResponseException as error:  # its text may quote what was sent
        raise NoticeError(f"the mail server answered {error.smtp_code}") from error
    except smtplib.SMTPRecipientsRefused as error:
        raise NoticeError("the mail server takes mail for none of the addresses") from error
    except ssl.SSLError as error:
        raise NoticeError(f"no TLS with the mail server: {tls.words(error)}") from error
    except smtplib.SMTPException as error:  # its text is Python's own
        raise NoticeError(f"the mail server cannot be used: {str(error).rstrip('.')}") from error
    except (OSError, UnicodeError) as error:
        raise NoticeError(f"the mail server cannot be used ({type(error).__name__})") from error


def way(settings: Mapping[str, object]) -> Email:
    return read_settings(Email, settings, "notice")
