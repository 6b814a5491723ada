"""Wording: from a digest to subject and text of a notice, by templates (Jinja, sandboxed) that an administrator may write.

A template sees these names and nothing else:

    gateway     [audit] source: which system tells
    headline    "3 events: job failed (2), disk low"
    count       how many events there are
    counts      how many of each kind
    events      the latest of them, at most 20: .at .kind .text .job .peer .number .link
    first_at    when the first was
    more        how many are not among them
    console     [web] url
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.telling.digest import Digest
from gateway.telling.happening import Happening, Kind

SUBJECT = "{{ gateway }}: {{ headline }}"
TEXT = """\
{% if more %}
{{ count }} events since {{ first_at }}:
{% for kind, many in counts.items() %}
    {{ kind }}: {{ many }}
{% endfor %}

The latest {{ events|length }}:

{% endif %}
{% for event in events %}
{{ event.at }}  {{ event.kind }}: {{ event.text }}{% if event.link %}  {{ event.link }}{% endif %}

{% endfor %}
"""
# Mail is text, and JSON is made by json: nothing is HTML.
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


@dataclass(frozen=True)
class Told:
    """What goes out at once. `key` is the same where the same is told twice, and another one where more is."""

    key: str
    subject: str
    text: str
    at: datetime
    count: int
    counts: Mapping[str, int]
    events: Sequence[Mapping[str, Any]]
    """The latest, as the templates see them."""


@dataclass(frozen=True)
class Wording:
    """`source` and `console` are [audit] source and [web] url."""

    source: str = "gateway"
    console: str = ""
    subject: str = SUBJECT
    text: str = TEXT

    def told(self, digest: Digest, name: str, now: datetime) -> Told:
        """Raises ValueError where a template cannot be filled."""
        first = digest.first
        assert first is not None, "expected a digest of something"
        known = {
            "gateway": self.source, "headline": headline(digest), "count": digest.total, "counts": dict(digest.counts),
            "events": [self._event(one) for one in digest.latest], "more": digest.total - len(digest.latest),
            "first_at": _time(first.at), "console": self.console,
        }  # fmt: skip
        try:
            subject, text = (_ENVIRONMENT.from_string(one).render(known) for one in (self.subject, self.text))
        except (TemplateError, TypeError, ArithmeticError, LookupError, OverflowError) as error:
            raise ValueError(f"expected a template that can be filled: {type(error).__name__}") from error
        key = f"{self.source}-{name}-{first.number}-{digest.last.number}"
        events = tuple(map(self._event, digest.latest))
        return Told(key, " ".join(subject.split()), text.strip() + "\n", now, digest.total, dict(digest.counts), events)

    def _event(self, one: Happening) -> dict[str, Any]:
        link = f"{self.console}/jobs/{one.job}" if self.console and one.job is not None else ""
        return {
            "at": _time(one.at), "kind": str(one.kind), "text": one.text, "job": one.job, "peer": one.peer,
            "number": one.number, "link": link,
        }  # fmt: skip


def headline(digest: Digest) -> str:
    if digest.total == 1:
        return f"{digest.last.kind}: {digest.last.text}"
    kinds = ", ".join(f"{kind} ({many})" if many > 1 else str(kind) for kind, many in digest.counts.most_common(5))
    return f"{digest.total} events: {kinds}"


def sample() -> Digest:
    """For looking whether a template can be filled."""
    digest, at = Digest(), datetime(2026, 1, 1, tzinfo=UTC)
    digest.add(Happening(1, at, Kind.JOB_FAILED, "job 7: it failed", 7, ""))
    return digest


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
