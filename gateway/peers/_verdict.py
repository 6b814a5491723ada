"""What the answer of a DICOMweb service means (PS3.18 10.5.3, 10.6.3): the body decides, of one instance. No I/O."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import httpx2
from pydicom.datadict import tag_for_keyword

from gateway.errors import DeliveryError, Rejected, Unanswered, Unreachable
from gateway.peers import NOT_SUPPORTED, NOT_UNDERSTOOD, PROCESSING_FAILURE, STORED, Sent, judge

P = ParamSpec("P")
T = TypeVar("T")
_FINAL = {400: NOT_UNDERSTOOD, 415: NOT_SUPPORTED}
_BUSY = {408, 425, 429, 503}
_REPAIRABLE = {
    401: "the credentials are not accepted",
    403: "the credentials do not allow it",
    404: "there is no DICOMweb service at this url",
    405: "there is no DICOMweb service at this url",
}
_MOST_SECONDS = 3600
_NOT_THE_MODEL = (ValueError, AttributeError, TypeError, LookupError, RecursionError)
"""What the reading of a body raises that is not the DICOM JSON model (PS3.18 F.2), or is nested to do harm."""


def verdict(response: httpx2.Response, body: bytes, sop_instance_uid: str) -> Sent:
    """What a STOW-RS answer says of one instance, whatever its HTTP status: Orthanc answers 400 where it has stored a part.

    Raises Unreachable, Unanswered where it may be stored, Rejected.
    """
    failed = _item(body, "FailedSOPSequence", sop_instance_uid)
    if failed is not None:
        return judge(_number(failed, "FailureReason", PROCESSING_FAILURE))
    stored = _item(body, "ReferencedSOPSequence", sop_instance_uid)
    if stored is not None:
        return judge(_number(stored, "WarningReason", STORED))
    other = _item(body, "OtherFailuresSequence", sop_instance_uid)
    if other is not None:
        return judge(_number(other, "FailureReason", PROCESSING_FAILURE))
    code = response.status_code
    if code == 200 and not body.strip():
        return Sent(STORED, "stored (HTTP 200 without a list of instances)")
    if code < 300:
        raise Unanswered(f"HTTP {code}: expected an answer that names the instance; it may be stored or not")
    if code >= 500 and code not in _BUSY:
        raise Unanswered(f"HTTP {code}: the peer failed; the instance may be stored or not", _after(response))
    raise refusal(response)


def understood(ask: Callable[P, T]) -> Callable[P, T]:
    """Raises Unreachable too where what answers there speaks JSON, but is not what was expected."""

    @wraps(ask)
    def asked(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return ask(*arguments, **named)
        except _NOT_THE_MODEL as error:
            raise Unreachable("what answers there is not what was expected: look at the url") from error

    return asked


def refusal(response: httpx2.Response) -> DeliveryError:
    """The error for an answer that names no instance and holds no matches."""
    code, after = response.status_code, _after(response)
    if code in _BUSY or code >= 500:
        words = f", come back in {after.total_seconds():.0f} s" if after else ""
        return Unreachable(f"HTTP {code}: the peer cannot take it now{words}", after)
    if code in _REPAIRABLE or 300 <= code < 400:
        return Unreachable(f"HTTP {code}: {_REPAIRABLE.get(code, 'the service is at another url')}")
    if code < 300:
        return Unreachable(f"HTTP {code}: expected the answer to a search")
    return Rejected(_FINAL.get(code, PROCESSING_FAILURE), f"HTTP {code}: the peer rejects the request")


def match(found: Iterable[Mapping[str, list[Any]]], keyword: str, uid: str) -> Mapping[str, list[Any]] | None:
    """Of the matches of a search the one that has this UID; None where there is none."""
    return next((one for one in found if one.get(_tag(keyword)) == [uid]), None)


def matches(body: bytes) -> list[Mapping[str, list[Any]]]:
    """Of each match of a search, by tag its values; an empty body has none. Raises Unreachable."""
    if not body.strip():
        return []
    try:
        return [
            {tag: _list(element.get("Value", [])) for tag, element in item.items()}
            for item in _list(json.loads(body))
        ]  # fmt: skip
    except _NOT_THE_MODEL as error:
        raise Unreachable("the peer's answer to the search is not understood") from error


def text(found: Mapping[str, list[Any]], keyword: str) -> str | None:
    """The first value, empty where there is none; None where the attribute is absent."""
    values = found.get(_tag(keyword))
    return None if values is None else str(next(iter(values), None) or "")


def _after(response: httpx2.Response) -> timedelta | None:
    """The seconds of Retry-After, at most an hour: who has said more is asked again all the same. A date is not read."""
    seconds = response.headers.get("Retry-After", "")
    return timedelta(seconds=min(int(seconds[:9]), _MOST_SECONDS)) if seconds.isascii() and seconds.isdecimal() else None


def _item(body: bytes, sequence: str, sop_instance_uid: str) -> Mapping[str, Any] | None:
    """The item of our instance, or one that names none (we sent no other); None where there is no such item."""
    try:
        items = _values(json.loads(body), sequence)
        return next(
            (item for item in items if _values(item, "ReferencedSOPInstanceUID") in ([sop_instance_uid], []) and item), None
        )
    except _NOT_THE_MODEL:
        return None


def _number(item: Mapping[str, Any], keyword: str, default: int) -> int:
    value = next(iter(_values(item, keyword)), None)
    return value if isinstance(value, int) and 0 <= value <= 0xFFFF else default


def _values(item: Mapping[str, Any], keyword: str) -> list[Any]:
    """By keyword from the DICOM JSON model; pydicom's own reader would warn of odd values, and quote them."""
    return list(item.get(_tag(keyword), {}).get("Value", []))


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _tag(keyword: str) -> str:
    return f"{tag_for_keyword(keyword):08X}"
