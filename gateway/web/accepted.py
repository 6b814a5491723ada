"""What a client of DICOMweb accepts: media types with their parameters, the most wanted first (PS3.18 8.7, RFC 9110 12.5.1)."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

ANY_SYNTAX = "*"
_LENGTH_AT_MOST, _MANY = 4096, 32


@dataclass(frozen=True)
class MediaType:
    """`name` in lower case, of the parts where it is multipart/related; `syntax` a transfer syntax, * or nothing."""

    name: str
    is_multipart: bool
    syntax: str

    def takes(self, name: str, syntax: str = "") -> bool:
        """Whether it is `name` that is meant, in that transfer syntax. Without any named, the one that is there will do."""
        kind = name.partition("/")[0]
        return self.name in (name, f"{kind}/*", "*/*") and self.syntax in ("", ANY_SYNTAX, syntax)


def accepted(header: str, parameters: Collection[str] = ()) -> list[MediaType]:
    """From the Accept header, or from `accept` parameters, which go before it (PS3.18 8.3.3.1). Nothing: anything is taken."""
    written = ", ".join(parameters) or header
    found = [one for one in _split(written[:_LENGTH_AT_MOST]) if one.strip()][:_MANY]
    ranked = sorted((_read(one) for one in found), key=lambda pair: -pair[0])
    return [media for quality, media in ranked if quality > 0] or [MediaType("*/*", is_multipart=False, syntax="")]


def _read(text: str) -> tuple[float, MediaType]:
    message: Message = HeaderParser().parsestr(f"Content-Type: {text.strip()}\n\n")
    name, found = message.get_content_type(), dict(message.get_params(failobj=[])[1:])
    if text.strip().startswith("*/*"):  # no content type: the parser reads text/plain
        name = "*/*"
    is_multipart = name == "multipart/related"
    return _quality(found), MediaType(
        str(found.get("type", "*/*")).lower() if is_multipart else name, is_multipart, str(found.get("transfer-syntax", ""))
    )


def _quality(found: Mapping[str, str]) -> float:
    try:
        return min(1.0, max(0.0, float(found.get("q", "1"))))
    except ValueError:
        return 1.0


def _split(text: str) -> Iterator[str]:
    """At the commas that are not within quotes."""
    part, is_quoted = "", False
    for character in text:
        is_quoted ^= character == '"'
        if character == "," and not is_quoted:
            yield part
            part = ""
        else:
            part += character
    yield part
