"""Companions: which other series of its study a job gets beside its own, a series for each role of its pipeline.

Of the series that rules say may have a role it gets the best (rank.py) in the frame of reference of its own; none has two roles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from gateway.db import lock
from gateway.decisions.rank import Traits, ranked
from gateway.errors import ConfigError
from gateway.pipeline import Needs
from gateway.rows.candidates import Candidate, CandidateState
from gateway.rows.tables import Instance, Job, JobCompanion, JobInstance, Series

LACKS = "it lacks "


@dataclass(frozen=True)
class Cast:
    """`taken` by role; `passed`, with why, by role and Series Instance UID; `lacking`: the required roles that nothing has."""

    taken: Mapping[str, Traits]
    passed: Mapping[tuple[str, str], str]
    lacking: str

    def has(self, role: str, series_instance_uid: str) -> bool:
        return role in self.taken and self.taken[role].series_instance_uid == series_instance_uid


def cast(main: Traits, needs: Needs, candidates: Mapping[str, Sequence[Traits]], *, of: int) -> Cast:
    """For the series `main`, from `candidates` by role; `of` so many series in its study.

    The role with the fewest candidates is served first, so that no other one takes its only series.
    """
    taken: dict[str, Traits] = {}
    passed: dict[tuple[str, str], str] = {}
    lacking: list[str] = []
    fit = {role.name: [one for one in candidates.get(role.name, ()) if _is_beside(one, main)] for role in needs.companions}
    for role in sorted(needs.companions, key=lambda role: len(fit[role.name])):
        found = candidates.get(role.name, ())
        whys = {one.series_instance_uid: _why_not(one, main, taken) for one in found}
        order = ranked([one for one in found if not whys[one.series_instance_uid]], kernel=needs.of(role).kernel)
        if order:
            taken[role.name] = order[0][0]
            best = order[0][0].series_instance_uid
            whys |= {one.series_instance_uid: f"{best} was taken: {why}" for one, why in order[1:]}
        elif role.required:
            lacking.append(f"{role.name} ({_count(len(found), of)})")
        passed |= {(role.name, uid): why for uid, why in whys.items() if why}
    return Cast(taken, passed, f"{LACKS}{', '.join(lacking)}" if lacking else "")


def _is_beside(one: Traits, main: Traits) -> bool:
    is_same = one.series_instance_uid == main.series_instance_uid
    return not is_same and one.frame_of_reference_uid == main.frame_of_reference_uid != ""


def _why_not(one: Traits, main: Traits, taken: Mapping[str, Traits]) -> str:
    if one.series_instance_uid == main.series_instance_uid:
        return "it is the series that the pipeline gets, and none is beside itself"
    if not _is_beside(one, main):
        return f"it is not in the frame of reference of {main.series_instance_uid}"
    role = next((role for role, other in taken.items() if other.series_instance_uid == one.series_instance_uid), "")
    return f"it is {role} already" if role else ""


def _count(fitting: int, of: int) -> str:
    if fitting:
        return f"rules know {fitting} of the {of} series of its study as that, none in its frame of reference and free"
    return f"rules know none of the {of} series of its study as that"


def cast_beside(session: Session, main: Candidate, needs: Needs, candidates: Sequence[Candidate]) -> Cast:
    """From those that the rules know which want the series."""
    of = session.scalar(select(func.count()).where(Series.study_instance_uid == main.study_instance_uid)) or 0
    fitting: dict[str, list[Traits]] = {}
    for one in candidates:
        if one.role and set(one.rules) & set(main.rules):
            fitting.setdefault(one.role, []).append(traits_of(one))
    return cast(traits_of(main), needs, fitting, of=of)


def traits_of(one: Candidate) -> Traits:
    return Traits(**one.traits)


def lacks(partial: str, mine: Cast, candidates: Sequence[Candidate]) -> str:
    """What a series and its companions lack that a job works on all the same."""
    others = [f"{one.role}: {one.partial}" for one in candidates if one.partial and mine.has(one.role, one.series_instance_uid)]
    return "; ".join([partial] * bool(partial) + others)


def instances(session: Session, series_instance_uid: str) -> Sequence[Instance]:
    return session.scalars(select(Instance).where(Instance.series_instance_uid == series_instance_uid)).all()


def is_undecided(session: Session, series_instance_uid: str, pipeline: str) -> bool:
    """Whether it waits for its study to be complete, to be taken for the pipeline or not."""
    mine = (Candidate.series_instance_uid == series_instance_uid) & (Candidate.pipeline == pipeline) & (Candidate.role == "")
    return session.scalar(select(exists().where(mine, Candidate.state == CandidateState.WAITING))) or False


def hold(session: Session, series_instance_uid: str, pipeline: str) -> None:
    """The series, and those that it may get beside it, against retention; in the order in which everybody holds them."""
    of = select(Series.study_instance_uid).where(Series.series_instance_uid == series_instance_uid).scalar_subquery()
    mine = select(Candidate.series_instance_uid).where(Candidate.study_instance_uid == of, Candidate.pipeline == pipeline)
    for uid in sorted({series_instance_uid, *session.scalars(mine)}):
        if session.get(Series, uid) is not None:
            lock(session, Series, uid)


def ordered(
    session: Session, series: Series, pipeline: str, needs: Needs, partial: str
) -> tuple[dict[str, Sequence[Instance]], str]:  # fmt: skip
    """The companions that an order gets, by role, as rules know them, and what is lacking of all. Raises ConfigError."""
    if not needs.companions:
        return {}, partial
    uid, now = series.series_instance_uid, Series.series_instance_uid == Candidate.series_instance_uid
    gone = exists().where(Instance.series_instance_uid == Candidate.series_instance_uid, Instance.gone_at.is_not(None))
    mine = select(Candidate).join(Series, now & (Series.revision == Candidate.revision)).where(
        Candidate.study_instance_uid == series.study_instance_uid, Candidate.pipeline == pipeline, ~gone
    )  # fmt: skip
    candidates = session.scalars(mine).all()
    main = next((one for one in candidates if one.series_instance_uid == uid and not one.role), None)
    if main is None:
        expected = "expected one that a rule wants for it: rules say which series are which"
        raise ConfigError([f"series {uid}: pipeline {pipeline} gets others of its study beside it; {expected}"])
    if main.state == CandidateState.WAITING:
        raise ConfigError([f"series {uid} waits until its study is complete, for those that {pipeline} gets beside it"])
    found = cast_beside(session, main, needs, candidates)
    if found.lacking:
        raise ConfigError([f"series {uid}: {found.lacking}"])
    companions = {role: instances(session, one.series_instance_uid) for role, one in found.taken.items()}
    return companions, lacks(partial, found, candidates)


def inputs_of(session: Session, job: int) -> dict[str, list[tuple[str, str]]]:
    """The exact inputs of a job (SOP Instance UIDs and SHA-256) by role, those of its own series under the empty one."""
    mine = select(JobCompanion.role, JobCompanion.series_instance_uid).where(JobCompanion.job == job)
    roles = {series: role for role, series in session.execute(mine)}
    if not roles:
        own = select(JobInstance.sop_instance_uid, JobInstance.sha256).where(JobInstance.job == job)
        return {"": [(uid, sha256) for uid, sha256 in session.execute(own)]}
    inputs = select(JobInstance.sop_instance_uid, JobInstance.sha256, Instance.series_instance_uid)
    inputs = inputs.join(Instance, Instance.sop_instance_uid == JobInstance.sop_instance_uid)
    found: dict[str, list[tuple[str, str]]] = {role: [] for role in ("", *roles.values())}
    for uid, sha256, series in session.execute(inputs.where(JobInstance.job == job).order_by(JobInstance.sop_instance_uid)):
        found[roles.get(series, "")].append((uid, sha256))
    return found


def of_job(session: Session, job: Job) -> dict[str, list[tuple[str, str]]]:
    """The same of its companions alone."""
    return {role: inputs for role, inputs in inputs_of(session, job.id).items() if role}


def inputs(instances: Sequence[Instance]) -> list[tuple[str, str]]:
    return sorted((instance.sop_instance_uid, instance.sha256) for instance in instances)
