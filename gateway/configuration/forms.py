"""What the values in gateway.toml may be: texts of a form, and the section that every other is made from."""

import re
from datetime import timedelta
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from gateway.doors.policy import AE_TITLE

_NAME = re.compile(r"[\x21-\x7E]([\x20-\x7E]{0,62}[\x21-\x7E])?")
_HOST = r"\[[^\]]+\]|[^/:.@]{1,63}(\.[^/:.@]{1,63})*\.?"  # a part that is empty, or longer, raises when it is looked up
_DATABASE = re.compile(rf"|sqlite:///.+|postgresql(\+psycopg)?://(?=.)([^@]*@)?({_HOST})?(:[0-9]{{1,5}})?(/.*)?", re.DOTALL)
_ISSUER = re.compile(r"https://[^\s?#@]+|http://(localhost|127\.0\.0\.1)(:[0-9]+)?(/[^\s?#@]*)?")
_WEB = re.compile(r"|https?://[^\s/?#@]+")
_SYSLOG = re.compile(r"|(udp|tls)://[^\s/]+:[0-9]{1,5}")
_LONGEST = timedelta(days=36_525)
_UNITS = {unit: timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days")}
_TRITON = re.compile(r"embedded|[^\s/]+:[0-9]{1,5}")


def matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise ValueError(expected)
        return value

    return AfterValidator(check)


AeTitle = Annotated[
    str,
    matching(AE_TITLE, 'expected 1 to 16 printable ASCII characters, no backslash, no "../", no space at an end (PS3.5 6.2)'),
]
DatabaseUrl = Annotated[str, matching(_DATABASE, "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE")]
TritonUrl = Annotated[str, matching(_TRITON, 'expected "embedded", or HOST:PORT of a Triton\'s gRPC endpoint')]

CallerName = Annotated[str, matching(_NAME, "expected 1 to 64 printable ASCII characters, no space at an end")]
IssuerUrl = Annotated[str, matching(_ISSUER, "expected https://HOST/PATH, as the provider names itself")]
WebUrl = Annotated[str, matching(_WEB, "expected https://HOST or https://HOST:PORT, without a path")]
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Addresses that this machine alone reaches."""


def _time_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError('expected a time zone of the tz database, such as "Europe/Berlin"')
    return name


TimeZone = Annotated[str, AfterValidator(_time_zone)]
SyslogUrl = Annotated[str, matching(_SYSLOG, "expected udp://HOST:PORT or tls://HOST:PORT")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_a_time(cls, value: Any, info: ValidationInfo) -> Any:
        """Keys end with their unit; what is longer leads out of the calendar, or is more than the system can wait for."""
        unit = _UNITS.get(str(info.field_name).rpartition("_")[2])
        if unit is not None and isinstance(value, float) and value > _LONGEST / unit:
            raise ValueError(f"expected at most {_LONGEST / unit:.0f}: a hundred years")
        return value
