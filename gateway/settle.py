"""Settle: when is a series complete, and which rules want it? Decides by evidence and writes down why.

Rows say when the headers are looked at (weigh.py), they and a source say whether the series is whole (completeness.py). A series
that lacks something at its deadline is held, or failed, only where a rule wants it: nobody is asked about the others.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from pydicom import Dataset, dcmread
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, insert_once, lock
from gateway.decisions import facts
from gateway.decisions.completeness import Counted, Decision, Evidence, Policy, Verdict, verdict
from gateway.decisions.evidence import signals
from gateway.decisions.priority import REQUESTED, decide
from gateway.decisions.rank import Traits, traits
from gateway.decisions.rules import Outcome, RuleSet, is_result, match
from gateway.dicom.values import each, texts
from gateway.engine import SETTLE, Queues, settle_attempt
from gateway.ingest.move import MOVE, SENT
from gateway.outputs import Equipment
from gateway.pipeline import Pipeline
from gateway.rows.tables import Association, Instance, OutputInstance, RuleOutcome, Series, SeriesState
from gateway.rows.verdicts import Held
from gateway.store import Store
from gateway.work import jobs
from gateway.work.lent import is_lent, sent_over
from gateway.work.nominate import nominate
from gateway.work.weigh import came, gather, keep

Arrival = Callable[[Association, Series], Mapping[str, object]]
"""Facts of when a series came, and from whom."""
Put = Callable[[str, int, Sequence[Dataset], Mapping[str, object]], None]
"""Keeps what the rules saw of a revision of a series (kept.py)."""
Count = Callable[[str, str, str], int | None]
"""How many instances a peer has of a study's series (sources.py)."""


_OURS, _PRIOR = "made by this gateway, starts no job", "fetched as a prior for a job, starts none itself"
_SOON, _AGAIN, _BEHIND = timedelta(milliseconds=50), timedelta(seconds=1), timedelta(minutes=1)
_STATES = {Decision.HELD: SeriesState.HELD, Decision.FAILED: SeriesState.FAILED}
_ACTS = {
    SeriesState.COMPLETE: (Act.SERIES_COMPLETE, 0), SeriesState.HELD: (Act.SERIES_HELD, audit.MINOR),
    SeriesState.FAILED: (Act.SERIES_FAILED, audit.SERIOUS),
}  # fmt: skip


@dataclass(frozen=True)
class _Before:
    """What was there when the headers began to be read."""

    series: Series
    evidence: Evidence
    policy: Policy
    instances: Sequence[Instance]
    origin: Association
    called: set[str]


def settle(
    series_instance_uid: str,
    now: datetime,
    *,
    policy: Policy,
    rules: RuleSet,
    pipelines: Mapping[str, Pipeline],
    equipment: Equipment,
    store: Store,
    db: Database,
    queues: Queues,
    arrival: Arrival = lambda _association, _series: {},
    stat_ae_titles: Collection[str] = (),
    ordered: Callable[[str], set[str]] = lambda _: set(),
    count: Count = lambda *_: None,
    title_of: Callable[[str], str] = lambda _: "",
    put: Put = lambda *_: None,
    study_quiet: timedelta = timedelta(minutes=1),
    as_of: datetime | None = None,
    listening_since: datetime | None = None,
) -> None:
    """Look at a series once: come back later, or write verdict, outcomes and jobs in one transaction. Safe to repeat.

    `as_of`: until when everything that was promised is filed, where that is not yet `now`. `listening_since`: since when somebody
    could come in, where that is known. `ordered(accession_number)` are the priorities that the worklist has for it,
    `title_of(peer)` its AE title, where it sends what we ask it for.
    """
    as_of = min(as_of or now, now)
    before = _look(series_instance_uid, now, as_of, listening_since, policy, db, queues)
    if before is None:
        return
    headers = [dcmread(store.path(instance.sha256), stop_before_pixels=True) for instance in before.instances]
    seen = replace(before.evidence, signals=signals(headers), source=_counted(before, now, count))
    found = verdict(seen, now=as_of, policy=before.policy)
    known = _facts(headers, before.origin, equipment) | dict(arrival(before.origin, before.series))
    outcomes = match(rules, facts.attributes(headers, rules.keywords), known) if found.decision is not Decision.WAIT else ()
    requested = _requested(headers)
    if any(outcome.matched for outcome in outcomes):
        requested |= ordered(str(headers[0].get("AccessionNumber") or ""))
    urgency = partial(decide, called=before.called, stat_ae_titles=stat_ae_titles, requested=requested)
    orders = jobs.orders(outcomes, series_instance_uid, urgency, pipelines, partial=found.missing)
    weighed = traits(headers) if any(order.of_study for order in orders) else None
    crash_point("settle.evaluated")
    with db.begin() as session:
        series = lock(session, Series, series_instance_uid)
        if series.state != SeriesState.RECEIVING:  # somebody else settled it
            return
        came_now = gather(session, series, listening_since), sent_over(session, before.instances[-1]).id
        if came_now != (before.evidence, before.origin.id):  # something came while the headers were read
            _come_back(session, series, replace(found, due=as_of), now, as_of, queues)
            return
        keep(session, series, seen, found, now)
        if found.decision is Decision.WAIT:
            _come_back(session, series, found, now, as_of, queues)
            return
        guard = _guard(session, series_instance_uid, before.instances, title_of)
        outcomes = () if guard else outcomes
        series.held = "" if guard or is_result(known) else _held(outcomes)
        _write(session, series, found, outcomes, now, rules, guard=guard)
        if series.state == SeriesState.COMPLETE and not guard:
            for order in orders:
                _follow(session, series, before.instances, order, weighed, now, pipelines, queues, study_quiet)
    crash_point("settle.committed")
    put(series_instance_uid, before.series.revision, headers, known | {"ours": known["ours"] or guard == _OURS})


def _look(
    uid: str, now: datetime, as_of: datetime, listening_since: datetime | None, policy: Policy, db: Database, queues: Queues
) -> _Before | None:  # fmt: skip
    """What the rows say; None where it is not time to look at more than them."""
    with db.begin() as session:
        series = lock(session, Series, uid)  # against new instances, and associations that end meanwhile
        if series.state != SeriesState.RECEIVING:
            return None
        series.last_received_at = min(series.last_received_at, now)  # a clock that was set back: not until it is there again
        evidence, mine = gather(session, series, listening_since), policy.of(*came(session, series))
        found = verdict(evidence, now=as_of, policy=mine)
        if found.decision is Decision.WAIT:
            _come_back(session, series, found, now, as_of, queues)
            return None
        instances = _instances(session, uid)
        gone = sum(instance.gone_at is not None for instance in instances)
        if gone:
            _hold(session, series, gone, len(instances), now)
            return None
        return _Before(series, evidence, mine, instances, sent_over(session, instances[-1]), _called(session, uid))


def _follow(
    session: Session, series: Series, instances: Sequence[Instance], order: jobs.Order, weighed: Traits | None, now: datetime,
    pipelines: Mapping[str, Pipeline], queues: Queues, study_quiet: timedelta,
) -> None:  # fmt: skip
    """A job now; or, where the pipeline gets one series of the study, a candidate."""
    if order.of_study and weighed:
        nominate(session, series, weighed, now, queues, quiet=study_quiet, **order.columns)
    else:
        jobs.make(session, series, instances, order, pipelines[order.pipeline], now, queues)


def _counted(before: _Before, now: datetime, count: Count) -> Counted | None:
    source, earlier = before.policy.source, before.evidence.source
    if not source or (earlier is not None and earlier.peer != source):  # it is taken from a peer, and that one was counted
        return earlier
    found = count(source, before.series.study_instance_uid, before.series.series_instance_uid)
    is_same = earlier is not None and (earlier.peer, earlier.count) == (source, found)
    return Counted(source, found, earlier.since if earlier and is_same else now)


def _hold(session: Session, series: Series, gone: int, instances: int, now: datetime) -> None:
    """Something came late, after retention took the files of the others: the whole cannot be looked at before they come again."""
    series.state, series.complete_at, series.held = SeriesState.COMPLETE, now, Held.GONE
    series.reason = f"held: retention took {gone} of its {instances} instances; when they are sent again it is looked at"
    audit.record(
        session, Act.SERIES_COMPLETE, at=now, outcome=audit.MINOR, study=series.study_instance_uid,
        series=series.series_instance_uid, revision=series.revision, reason=series.reason,
    )  # fmt: skip


def settle_failed(series_instance_uid: str, error: Exception, now: datetime, *, db: Database) -> None:
    """A series that could not be evaluated is held where a person sees it; it is never dropped."""
    reason = f"held: its headers could not be evaluated ({type(error).__name__})"
    with db.begin() as session:
        series = session.get_one(Series, series_instance_uid)
        series.state, series.complete_at, series.reason, series.held = SeriesState.COMPLETE, now, reason, Held.FAILED
        audit.record(session, Act.SERIES_COMPLETE, at=now, series=series_instance_uid, outcome=audit.SERIOUS, reason=reason)


def _come_back(session: Session, series: Series, found: Verdict, now: datetime, as_of: datetime, queues: Queues) -> None:
    """When it is due; where that has passed, and only `as_of` has not come so far, often until it has.

    Without an instance (all were kept apart) there is nothing to wait for: the sweep looks now and then.
    """
    if found.due is None and found.decision is Decision.WAIT:
        series.reason = found.reason
        return
    due_at = found.due or as_of
    if due_at < now + _SOON:
        due_at = now + min(max(due_at - as_of, _SOON), _AGAIN)
    if due_at <= series.due_at < due_at + _BEHIND:  # the clocks of two hosts: that due time had its look
        due_at = series.due_at + _SOON
    series.due_at, series.reason = due_at, found.reason
    attempt = settle_attempt(series.revision, due_at)
    queues.enqueue(session, SETTLE, series.series_instance_uid, attempt=attempt, lane=SETTLE, delay=due_at - now)


def _instances(session: Session, series_instance_uid: str) -> Sequence[Instance]:
    mine = select(Instance).where(Instance.series_instance_uid == series_instance_uid)
    return session.scalars(mine.order_by(Instance.received_at, Instance.sop_instance_uid)).all()


def _called(session: Session, series_instance_uid: str) -> set[str]:
    """The AE titles under which its instances were sent to us."""
    mine = select(Instance.association).where(Instance.series_instance_uid == series_instance_uid)
    return set(session.scalars(select(Association.called_ae_title).where(Association.id.in_(mine)).distinct()))


def _requested(headers: Sequence[Dataset]) -> set[str]:
    return {value for found in each(headers, (REQUESTED,), partial(texts, keyword=REQUESTED)) for value in found}


def _facts(headers: Sequence[Dataset], origin: Association, equipment: Equipment) -> dict[str, object]:
    return facts.facts(
        headers, equipment=equipment, calling_ae_title=origin.calling_ae_title, called_ae_title=origin.called_ae_title,
        ingest=SENT if origin.ingest == MOVE else origin.ingest,
    )  # fmt: skip


def _held(outcomes: Sequence[Outcome]) -> str:
    if any(outcome.refused for outcome in outcomes):
        return Held.REFUSED
    return "" if any(outcome.wanted and not outcome.rule.shadow for outcome in outcomes) else Held.UNMATCHED


def _guard(
    session: Session, series_instance_uid: str, instances: Sequence[Instance], title_of: Callable[[str], str]
) -> str:  # fmt: skip
    """Why it starts no job whatever its headers say: we made it, or fetched all of it for a job; empty: nothing is against it."""
    uids = [instance.sop_instance_uid for instance in instances[:500]]
    if session.scalar(select(OutputInstance.job).where(OutputInstance.sop_instance_uid.in_(uids)).limit(1)) is not None:
        return _OURS
    return _PRIOR if is_lent(session, series_instance_uid, title_of) else ""


def _write(
    session: Session,
    series: Series,
    found: Verdict,
    outcomes: Sequence[Outcome],
    now: datetime,
    rules: RuleSet,
    *,
    guard: str,
) -> None:
    matched = [outcome.rule.name for outcome in outcomes if outcome.matched]
    refused = [outcome.rule.name for outcome in outcomes if outcome.refused]
    roles = [f"{role} of {outcome.rule.name}" for outcome in outcomes for role in outcome.roles]
    said = [f"{what} {', '.join(names)}" for what, names in (("matched", matched), ("may be the", roles)) if names]
    consequence = "; ".join(said) or "no rule matched"
    if refused:
        consequence += f"; held: {', '.join(refused)} would have, and cannot be followed any more"
    series.state = _STATES.get(found.decision, SeriesState.COMPLETE) if matched or roles else SeriesState.COMPLETE
    series.complete_at = now
    series.reason = f"{found.reason}; {guard or consequence}"
    if found.missing:
        word = "incomplete" if series.state == SeriesState.COMPLETE else series.state
        series.reason = f"{word}: {series.reason}"
    mine = (RuleOutcome.series_instance_uid == series.series_instance_uid) & (RuleOutcome.revision == series.revision)
    session.execute(delete(RuleOutcome).where(mine))  # of a look before this one, which a person let it have again
    for outcome in outcomes:
        insert_once(
            session, RuleOutcome, series_instance_uid=series.series_instance_uid, revision=series.revision,
            rule=outcome.rule.name, matched=outcome.matched, explanation=outcome.as_json(), rules_digest=rules.digest, at=now,
            rules_version=rules.version,
        )  # fmt: skip
    act, outcome_code = _ACTS[SeriesState(series.state)]
    audit.record(
        session, act, at=now, outcome=outcome_code or (audit.MINOR if refused else 0), study=series.study_instance_uid,
        series=series.series_instance_uid, revision=series.revision, reason=found.reason, rules=matched,
        rules_digest=rules.digest, rules_version=rules.version, held=series.held, refused=refused,
    )  # fmt: skip
