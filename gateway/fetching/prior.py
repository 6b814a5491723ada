"""Which earlier studies of a patient a pipeline gets beside the one at hand, and why each of the others is not one of them.

The newest that fit are taken; of a study the series with the most instances. What a source does not say speaks against nothing.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from gateway.pipeline import Priors


@dataclass(frozen=True)
class Past:
    """A series that a source has of the patient; what the source does not say is None or empty."""

    peer: str
    study_instance_uid: str
    series_instance_uid: str
    made_on: date | None
    modality: str
    body_part: str = ""
    instances: int | None = None


def day(text: str) -> date | None:
    """Of a DA (PS3.5 6.2)."""
    try:
        return date.fromisoformat(text.strip()) if len(text.strip()) == 8 else None
    except ValueError:
        return None


def days_before(past: Past, today: date) -> int | None:
    return None if past.made_on is None else (today - past.made_on).days


def why_not_study(made_on: date | None, today: date, wants: Priors) -> str:
    """What speaks against all series of a study; empty: nothing."""
    if made_on is None:
        return "its source does not say when it was made"
    if made_on > today:
        return "it is no earlier study"
    if today - made_on > timedelta(days=wants.days):
        return f"it was made {(today - made_on).days} days before; at most {wants.days} are wanted"
    return ""


def chosen(
    found: Sequence[Past], today: date, wants: Priors, *, modalities: Sequence[str], slices_at_least: int, ours: Collection[str]
) -> list[tuple[Past, str]]:
    """All of `found`, those that are taken first and with an empty reason, the others with why they are not.

    `ours` are series that this gateway made: a derived CT looks like one that was acquired.
    """
    known = {one.series_instance_uid: one for one in reversed(found)}  # of two sources the first
    reasons = {uid: _why_not(one, today, wants, modalities, slices_at_least) for uid, one in known.items()}
    reasons |= dict.fromkeys(known.keys() & set(ours), "this gateway made it")
    fit = sorted((one for uid, one in known.items() if not reasons[uid]), key=_rank)
    reasons |= dict(_passed(fit, wants.at_most))
    return sorted(((known[uid], why) for uid, why in reasons.items()), key=lambda pair: (pair[1] != "", _rank(pair[0])))


def _passed(fit: Sequence[Past], at_most: int) -> Iterator[tuple[str, str]]:
    studies: list[str] = []
    for one in fit:
        if one.study_instance_uid in studies:
            yield one.series_instance_uid, "another series of its study has more instances, or comes first"
        elif len(studies) == at_most:
            yield one.series_instance_uid, "a newer study was taken"
        else:
            studies.append(one.study_instance_uid)


def _why_not(one: Past, today: date, wants: Priors, modalities: Sequence[str], slices_at_least: int) -> str:
    if why := why_not_study(one.made_on, today, wants):
        return why
    if one.modality not in modalities:
        return f"expected modality {' or '.join(modalities)}"
    if wants.body_parts and one.body_part and one.body_part not in wants.body_parts:
        return f"expected a body part among {', '.join(wants.body_parts)}"
    if one.instances is not None and one.instances < slices_at_least and slices_at_least > 1:
        return f"it has {one.instances} instances; at least {slices_at_least} are wanted"
    return ""


def _rank(one: Past) -> tuple[int, str, int, str]:
    newest = -(one.made_on or date.min).toordinal()
    return newest, one.study_instance_uid, -(one.instances or 0), one.series_instance_uid
