"""What a Store request is answered (PS3.18 10.5.3): status, and the Store Instances Response Module as JSON or XML (Annex I)."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from gateway.errors import GatewayError
from gateway.ingest._stow import OtherType, Outcome, TooLarge

JSON, XML = "application/dicom+json", "application/dicom+xml"
_SERVED = (JSON, "application/json", XML)
RETRY_AFTER_SECONDS = 30
_MODEL = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_RANGE = re.compile(r"\s*([^\s;,]+)\s*((?:;[^,]*)?)")
_QUALITY = re.compile(r";\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)


class Refusal(GatewayError):
    """A request that is not taken: its HTTP status, and in words what was expected."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class Answer:
    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def acceptable(accept: str) -> str:
    """The media type to answer in; raise Refusal (406) where the client accepts none of ours. Empty: anything."""
    if not accept.strip():
        return JSON
    best = max(_SERVED, key=lambda one: _quality(accept, one))
    if _quality(accept, best) <= 0:
        raise Refusal(406, f"expected an Accept of {JSON} or {XML}")
    return best


def answer(outcomes: Sequence[Outcome], media_type: str) -> Answer:
    """Of a request that came to its end."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    status = 200 if not errors else 202
    if len(errors) == len(outcomes):
        status = 409
        if all(error.retryable for error in errors):
            status = 503
        elif all(isinstance(error, OtherType) for error in errors):
            status = 415
        elif all(isinstance(error, TooLarge) for error in errors):
            status = 413
    return _told(status, outcomes, media_type)


def refusal(error: Refusal, outcomes: Sequence[Outcome], media_type: str) -> Answer:
    """Of a request that did not; what was stored of it before is told all the same."""
    if outcomes:
        return _told(error.status, outcomes, media_type)
    headers = _retry(error.status) | ({"allow": "POST"} if error.status == 405 else {})
    return Answer(error.status, "text/plain; charset=utf-8", f"{error}\n".encode(), headers)


def _told(status: int, outcomes: Sequence[Outcome], media_type: str) -> Answer:
    module = _module(outcomes)
    body = _xml(module) if media_type == XML else json.dumps(module).encode()
    return Answer(status, media_type, body, _retry(status))


def _retry(status: int) -> dict[str, str]:
    return {"retry-after": str(RETRY_AFTER_SECONDS)} if status in (429, 503) else {}


def _module(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """PS3.18 table I.1-1 in the DICOM JSON model (F.2). There is nothing to retrieve here: the Retrieve URLs are empty."""
    stored, failed, other = [], [], []
    for outcome in outcomes:
        named = _attribute("ReferencedSOPClassUID", outcome.sop_class_uid) | _attribute(
            "ReferencedSOPInstanceUID", outcome.sop_instance_uid
        )
        if outcome.error is None:
            stored.append(named | _attribute("RetrieveURL"))
            continue
        reason = _attribute("FailureReason", outcome.error.dimse_status)
        if outcome.sop_instance_uid:
            failed.append(named | reason)
        else:
            other.append(reason)
    module = _attribute("RetrieveURL")
    for keyword, items in (
        ("FailedSOPSequence", failed), ("ReferencedSOPSequence", stored), ("OtherFailuresSequence", other),
    ):  # fmt: skip
        if items:
            module |= _attribute(keyword, *items)
    return module


def _attribute(keyword: str, *values: Any) -> dict[str, Any]:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return {f"{tag:08X}": {"vr": dictionary_VR(tag)} | ({"Value": list(values)} if values else {})}


def _xml(module: Mapping[str, Any]) -> bytes:
    """The Native DICOM Model (PS3.19 A.1) of the same."""
    root = ET.Element("NativeDicomModel", {"xmlns": _MODEL, "xml:space": "preserve"})
    _fill(root, module)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _fill(parent: ET.Element, attributes: Mapping[str, Any]) -> None:
    for tag, attribute in sorted(attributes.items()):
        found = {"tag": tag, "vr": attribute["vr"], "keyword": keyword_for_tag(int(tag, 16))}
        element = ET.SubElement(parent, "DicomAttribute", found)
        for number, value in enumerate(attribute.get("Value", ()), 1):
            if isinstance(value, Mapping):
                _fill(ET.SubElement(element, "Item", {"number": str(number)}), value)
            else:
                ET.SubElement(element, "Value", {"number": str(number)}).text = str(value)


def _quality(accept: str, served: str) -> float:
    """Of the range that names `served` most closely (RFC 9110 12.5.1); 0 where none does."""
    closest = {served: 3, f"{served.partition('/')[0]}/*": 2, "*/*": 1}
    best, quality = 0, 0.0
    for found in _RANGE.finditer(accept):
        rank = closest.get(found.group(1).lower(), 0)
        if rank > best:
            weight = _QUALITY.search(found.group(2))
            best, quality = rank, float(weight.group(1)) if weight else 1.0
    return quality
