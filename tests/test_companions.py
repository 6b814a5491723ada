"""Pipelines that get several series of one study: which ones, and what is said where one is missing."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from io import BytesIO, StringIO
from pathlib import Path

import highdicom as hd
import httpx2
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from rich.console import Console
from scipy.ndimage import map_coordinates
from sqlalchemy import select, update

from gateway.acts import admin
from gateway.acts.forced import complete_series
from gateway.acts.order import Ordered, order
from gateway.acts.release import release_held
from gateway.acts.replay import replay
from gateway.commands.screen import Screen
from gateway.configuration.sections import RetentionSection
from gateway.decisions import facts
from gateway.decisions.completeness import Policy
from gateway.decisions.rank import SOFT, Traits
from gateway.decisions.rules import load as load_rules
from gateway.dicom.procedure import parse
from gateway.dicom.uids import job_key
from gateway.errors import ConfigError, Unsuitable
from gateway.imaging.regrid import regrid
from gateway.outputs import Equipment
from gateway.pipeline import Needs, Pipeline, Role, load_pipelines
from gateway.rows.candidates import Candidate
from gateway.rows.tables import Delivery, Instance, Job, JobCompanion, JobInstance, OutputInstance, Series
from gateway.rows.trail import AuditEvent
from gateway.run import run
from gateway.settle import settle
from gateway.store import Store
from gateway.views import lists, stories
from gateway.views.pictures import inputs_of_job
from gateway.views.provenance import provenance
from gateway.views.wanted import Wanted
from gateway.work.companions import Cast, cast
from gateway.work.elect import elect
from gateway.work.kept import Keep
from gateway.work.load import accompanied, load
from gateway.work.progress import state_of
from gateway.work.retention import retain
from gateway.workitems import perform as workitems
from gateway.workitems import ups
from tests import workitem_fixture
from tests.companion_fixture import RULES, adc, dwi, mr_series, t2
from tests.door_fixture import Place, come
from tests.synthetic import part10

EQUIPMENT = Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1")
PIPELINES = {"prostate": load_pipelines([Path(__file__).parent / "pipelines"])["prostate"]}
RULES_TO_PACS = RULES.replace("PEERS", "pacs")
WITHOUT_ADC = RULES_TO_PACS.replace("contains: ADC", "contains: OTHER")
QUIET = timedelta(seconds=60)
STUDY = t2()[0].StudyInstanceUID


# --- Which series has which role ---


def of(number: int, frame: str = "1", slices: int = 20, **more: object) -> Traits:
    return Traits(f"1.2.{number}", slices, 3.0, **{"is_original": True, "kernel": SOFT} | more, series_number=number,
                  frame_of_reference_uid=frame)  # fmt: skip


NEEDS = Needs("MR", companions=(Role("adc"), Role("dwi"), Role("dce", required=False)))


def chosen(found: Cast) -> dict[str, int]:
    return {role: one.series_number for role, one in found.taken.items()}


def test_for_each_role_the_best_is_taken_and_each_other_is_told_why_not():
    found = cast(of(1), NEEDS, {"adc": [of(2), of(3, is_original=False)], "dwi": [of(4), of(5, frame="2")]}, of=6)

    assert (chosen(found), found.lacking) == ({"adc": 2, "dwi": 4}, "")
    assert found.passed == {
        ("adc", "1.2.3"): "1.2.2 was taken: it is derived from other images",
        ("dwi", "1.2.5"): "it is not in the frame of reference of 1.2.1",
    }


def test_what_is_lacking_is_told_with_how_much_was_looked_at():
    found = cast(of(1), NEEDS, {"adc": [of(2, frame="2"), of(1)]}, of=6)

    assert found.lacking == (
        "it lacks adc (rules know 2 of the 6 series of its study as that, none in its frame of reference and free), "
        "dwi (rules know none of the 6 series of its study as that)"
    )
    assert found.passed["adc", "1.2.1"] == "it is the series that the pipeline gets, and none is beside itself"


def test_no_series_has_two_roles_and_the_role_with_the_fewest_is_served_first():
    both = cast(of(1), NEEDS, {"adc": [of(2), of(3)], "dwi": [of(2)]}, of=3)
    one = cast(of(1), NEEDS, {"adc": [of(2)], "dwi": [of(2)]}, of=2)

    assert (chosen(both), both.passed["adc", "1.2.2"]) == ({"dwi": 2, "adc": 3}, "it is dwi already")
    assert (chosen(one), one.lacking.startswith("it lacks dwi")) == ({"adc": 2}, True)


def test_a_series_that_says_no_frame_of_reference_has_no_companions():
    assert cast(of(1, frame=""), NEEDS, {"adc": [of(2, frame="")], "dwi": [of(3, frame="")]}, of=3).taken == {}


def test_which_bytes_have_which_role_is_a_part_of_what_results_are_of():
    key = {"pipeline": "p", "version": "1", "model": "m", "model_version": "1", "weights": "w", "inputs": [("1", "a")]}
    one, other = {"adc": [("2", "b")], "dwi": [("3", "c")]}, {"adc": [("3", "c")], "dwi": [("2", "b")]}

    assert job_key(**key).startswith("55a5012d6dc6b486")  # of jobs without companions it stays as it was
    assert len({job_key(**key), job_key(**key, companions=one), job_key(**key, companions=other)}) == 3


# --- Rows ---


def look(
    place: Place, *study: Sequence[Dataset], rules: str = RULES_TO_PACS, pipelines: Mapping[str, Pipeline] = PIPELINES
) -> None:
    """Each series comes, and is settled."""
    for series in study:
        come(place, series)
    settled(place, *study, rules=rules, pipelines=pipelines)


def settled(place: Place, *study: Sequence[Dataset], rules: str = RULES_TO_PACS, pipelines: Mapping = PIPELINES) -> None:
    place.now += timedelta(seconds=30)
    for series in study:
        settle(
            series[0].SeriesInstanceUID, place.now, policy=Policy(10, 600), pipelines=pipelines, equipment=EQUIPMENT,
            store=place.store, rules=load_rules(rules, pipelines=pipelines, peers=("pacs",)), db=place.db, queues=place.queues,
            study_quiet=QUIET,
        )  # fmt: skip


def decide(place: Place, pipelines: Mapping[str, Pipeline] = PIPELINES) -> None:
    place.now += timedelta(seconds=61)
    elect(STUDY, place.now, pipelines=pipelines, quiet=QUIET, db=place.db, queues=place.queues)


def jobs(place: Place) -> list[Job]:
    return [row.job for row in lists.jobs(place.db, Wanted()).rows][::-1]


def beside(place: Place, job: Job) -> dict[str, str]:
    with place.db() as session:
        rows = session.scalars(select(JobCompanion).where(JobCompanion.job == job.id)).all()
    return {row.role: row.series_instance_uid for row in rows}


def states(place: Place) -> dict[tuple[str, str, int], str]:
    with place.db() as session:
        return {(one.series_instance_uid, one.role, one.revision): one.state for one in session.scalars(select(Candidate))}


def told(place: Place, *acts: str) -> list[str]:
    with place.db() as session:
        return [event.act for event in session.scalars(select(AuditEvent).order_by(AuditEvent.id)) if event.act in acts]


def series(place: Place, number: int) -> Series:
    with place.db() as session:
        return session.get_one(Series, f"1.2.3.{number}")


class Models:
    """Triton as run wants it."""

    version, weights = "1", "ab" * 32

    def identity(self, _model: str) -> "Models":
        return self

    def infer(self, _model: str) -> Callable:
        return lambda arrays: {"labels": ((arrays["t2"] > 200) & (arrays["adc"] < 1200)).astype(np.uint8)}


def work(place: Place, job: Job) -> Job:
    run(
        job.id, clock=lambda: place.now, pipelines=PIPELINES, models=Models(), equipment=EQUIPMENT, store=place.store,
        db=place.db, queues=place.queues, begun={},
    )  # fmt: skip
    return next(one for one in jobs(place) if one.id == job.id)


def results(place: Place, job: Job) -> dict[str, Dataset]:
    with place.db() as session:
        found = session.scalars(select(OutputInstance).where(OutputInstance.job == job.id)).all()
    return {one.modality: dcmread(BytesIO(place.store.path(one.sha256).read_bytes())) for one in found}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_job_gets_the_series_of_each_role_in_whatever_order_they_come(place: Place, order: tuple[int, ...]) -> None:
    study = [t2(), adc(), dwi()]
    look(place, *(study[n] for n in order), mr_series(9, "localizer", slices=3))

    decide(place)

    (job,) = jobs(place)
    assert (job.series_instance_uid, job.send_to, job.state) == ("1.2.3.2", ["pacs"], "queued")
    assert beside(place, job) == {"adc": "1.2.3.5", "dwi": "1.2.3.6"}
    assert place.count(JobInstance, job=job.id) == 20
    assert states(place) == {("1.2.3.2", "", 1): "taken", ("1.2.3.5", "adc", 1): "taken", ("1.2.3.6", "dwi", 1): "taken"}
    assert [(series(place, n).held, series(place, n).reason.partition("; ")[2]) for n in (2, 5, 9)] == [
        ("", "matched prostate"), ("", "may be the adc of prostate"), ("unmatched", "no rule matched"),
    ]  # fmt: skip
    unwanted = lists.series(place.db, Wanted(state="no rule matched")).rows
    assert [row.series.series_instance_uid for row in unwanted] == ["1.2.3.9"]


def test_a_job_finds_the_lesion_that_both_series_show_and_its_report_names_all_that_it_saw(place: Place) -> None:
    study = [t2(), adc()]
    look(place, *study)
    decide(place)

    job = work(place, jobs(place)[0])

    assert (job.state, job.reason) == ("done", "")
    made = results(place, job)
    assert int(made["SEG"].pixel_array.sum()) == 8 * 12 * 4  # pixels of 1 mm, slices of 3 mm
    (study_item,) = made["SR"].CurrentRequestedProcedureEvidenceSequence
    evidence = {str(one.SeriesInstanceUID): len(one.ReferencedSOPSequence) for one in study_item.ReferencedSeriesSequence}
    assert evidence == {"1.2.3.2": 10, "1.2.3.5": 5, str(made["SEG"].SeriesInstanceUID): 1}
    assert [str(one.SeriesInstanceUID) for one in made["SEG"].ReferencedSeriesSequence] == ["1.2.3.2"]


def test_a_series_that_lacks_a_companion_waits_for_a_person_and_has_its_job_when_that_comes(place: Place) -> None:
    look(place, t2(), dwi())
    decide(place)

    lacks = "prostate it lacks adc (rules know none of the 2 series of its study as that)"
    assert (jobs(place), series(place, 2).held) == ([], "lacking")
    assert series(place, 2).reason.endswith(f"matched prostate; waits: {lacks}")
    assert [one.series_instance_uid for one in lists.held_series(place.db)] == ["1.2.3.2"]
    assert told(place, "series.held") == ["series.held"]

    look(place, adc())
    decide(place)

    (job,) = jobs(place)
    assert beside(place, job) == {"adc": "1.2.3.5", "dwi": "1.2.3.6"}
    assert (series(place, 2).held, series(place, 2).reason.partition("; ")[2]) == ("", "matched prostate")


def test_a_companion_in_another_frame_of_reference_is_none(place: Place) -> None:
    look(place, t2(), adc(FrameOfReferenceUID="1.2.3.4.5"))
    decide(place)

    assert jobs(place) == []
    assert series(place, 2).reason.endswith(
        "rules know 1 of the 2 series of its study as that, none in its frame of reference and free)"
    )


def test_of_two_candidates_for_a_role_the_original_is_taken(place: Place) -> None:
    look(place, t2(), adc(5), adc(7, ImageType=["ORIGINAL", "PRIMARY", "ADC"]))
    decide(place)

    assert beside(place, jobs(place)[0]) == {"adc": "1.2.3.7"}


def test_a_series_that_has_its_companions_is_taken_before_a_better_one_that_lacks_them(place: Place) -> None:
    look(place, t2(2), t2(3, slices=15, FrameOfReferenceUID="1.2.3.4.5"), adc())
    decide(place)

    assert [job.series_instance_uid for job in jobs(place)] == ["1.2.3.2"]
    assert series(place, 3).held == ""


def test_a_series_that_is_sent_again_changes_nothing(place: Place) -> None:
    look(place, t2(), adc())
    decide(place)
    before = [(job.id, job.state) for job in jobs(place)], states(place), place.count(AuditEvent, act="series.taken")

    look(place, adc(), t2())
    decide(place)

    assert ([(job.id, job.state) for job in jobs(place)], states(place), place.count(AuditEvent, act="series.taken")) == before


def test_a_companion_that_grows_gives_a_job_that_takes_the_place_of_one_that_has_not_begun(place: Place) -> None:
    whole = adc()
    look(place, t2(), whole[:3])
    decide(place)
    look(place, whole)
    decide(place)

    first, second = jobs(place)
    assert (first.state, first.reason) == ("cancelled", "superseded by one with other companions")
    assert (second.state, second.supersedes, place.count(JobInstance, job=second.id)) == ("queued", first.id, 15)


def test_a_better_companion_that_comes_after_the_results_gives_others_that_name_those(place: Place) -> None:
    look(place, t2(), adc())
    decide(place)
    first = work(place, jobs(place)[0])
    look(place, adc(7, ImageType=["ORIGINAL", "PRIMARY", "ADC"]))
    decide(place)

    second = work(place, jobs(place)[1])

    assert (second.state, beside(place, second)) == ("done", {"adc": "1.2.3.7"})
    before, after = results(place, first), results(place, second)
    assert after["SR"].SeriesDescription.startswith("OTHER COMPANIONS - Not for diagnosis")
    (predecessor,) = after["SR"].PredecessorDocumentsSequence
    assert (
        predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before["SR"].SOPInstanceUID
    )


def test_results_of_the_companions_before_are_not_sent_behind_those_of_the_ones_after(place: Place) -> None:
    look(place, t2(), adc())
    decide(place)
    look(place, adc(7, ImageType=["ORIGINAL", "PRIMARY", "ADC"]))
    decide(place)
    first, second = jobs(place)

    assert (first.state, second.state) == ("cancelled", "queued")
    work(place, second)
    assert work(place, first).state == "cancelled"


def test_a_companion_that_is_no_volume_fails_the_job_with_its_role_where_it_is_required(place: Place) -> None:
    look(place, t2(), mixed(adc()))
    decide(place)

    job = work(place, jobs(place)[0])

    assert (job.state, job.code) == ("failed", "VOLUMES")
    assert job.reason.startswith("companion adc: expected one volume in the series")


def test_a_companion_that_is_no_volume_is_left_out_with_a_note_where_it_is_not_required(place: Place) -> None:
    look(place, t2(), adc(), mixed(dwi()))
    decide(place)

    job = work(place, jobs(place)[0])

    assert (job.state, beside(place, job)["dwi"]) == ("done", "1.2.3.6")
    assert any(note.startswith("companion dwi left out: expected") for note in job.notes)
    assert results(place, job)["SR"].SeriesDescription.endswith("Lesions, beside adc of 5 slices")


def mixed(series: list[Dataset]) -> list[Dataset]:
    """Half of it is of another b-value."""
    for ds in series:
        ds.DiffusionBValue = 50.0 if ds.InstanceNumber < 3 else 1400.0
    return series


def test_a_companion_that_lacks_slices_is_held_and_what_it_lacks_is_told_of_the_job_where_a_person_wants_it_so(
    place: Place,
) -> None:
    whole = adc()
    gap = [one for one in whole if one.InstanceNumber != 3]
    look(place, t2(), gap)
    place.now += timedelta(seconds=700)
    settled(place, gap)
    decide(place)
    assert (series(place, 5).state, jobs(place)) == ("held", [])

    complete_series(place.db, place.queues, "1.2.3.5", actor="ann", now=place.now)
    settled(place, gap)
    decide(place)

    assert jobs(place)[0].partial.startswith("adc: ")


def test_the_shadow_gets_companions_too_and_one_job_of_the_study(place: Place) -> None:
    rules = RULES_TO_PACS + "    shadow: true\n"
    look(place, t2(2), t2(3, slices=15), adc(), rules=rules)
    decide(place)

    (job,) = jobs(place)
    assert (job.series_instance_uid, job.priority, beside(place, job)) == ("1.2.3.3", "background", {"adc": "1.2.3.5"})
    assert job.reason.startswith("in the shadow")


def test_only_what_a_rule_knows_is_beside_the_series_that_it_matches(place: Place) -> None:
    other = RULES_TO_PACS.removeprefix("rules:\n").replace("name: prostate", "name: other").replace("t2.*tra", "t2.*cor")
    rules = RULES_TO_PACS.replace("contains: ADC", "contains: NONE") + other
    look(place, t2(), adc(), rules=rules)
    decide(place)

    assert (jobs(place), states(place)["1.2.3.5", "adc", 1]) == ([], "passed")


# --- What a person asks and does ---


def ask(place: Place, number: int = 2) -> Ordered:
    return order(
        place.db, place.queues, f"1.2.3.{number}", pipeline="prostate", pipelines=PIPELINES, send_to=["pacs"], peers=["pacs"],
        actor="ann", now=place.now,
    )  # fmt: skip


def test_what_was_made_of_several_series_is_told_of_each_and_shown_on_the_one_that_it_is_about(place: Place) -> None:
    look(place, t2(), adc())
    decide(place)
    job = work(place, jobs(place)[0])
    segmentation = results(place, job)["SEG"]

    console = Console(file=StringIO(), width=200)
    screen = Screen(console)
    screen.series_story(stories.show_series(place.db, "1.2.3.5"))
    screen.job_story(stories.show_job(place.db, job.id))
    screen.provenance(provenance(place.db, segmentation.SOPInstanceUID))
    screen.provenance(provenance(place.db, adc()[0].SOPInstanceUID))

    text = console.file.getvalue()
    assert "candidate for adc of prostate, revision 1: taken: beside 1.2.3.2" in text
    assert "companion adc holds" in text
    assert text.count("  adc: series 1.2.3.5") == 2
    assert "made of 15 instances:" in text
    assert f"job {job.id} prostate: done, read it for prostate" in text
    assert len(inputs_of_job(place.db, job.id)) == 10


def test_an_order_gets_what_rules_know_and_is_the_job_that_was_made_of_it(place: Place) -> None:
    look(place, t2(), adc())
    with pytest.raises(ConfigError, match=r"series 1\.2\.3\.2 waits until its study is complete"):
        ask(place)
    decide(place)

    ordered = ask(place)

    assert (ordered.job, ordered.is_new, len(jobs(place))) == (jobs(place)[0].id, False, 1)


def test_an_order_on_the_other_one_of_two_series_gets_the_same_companions(place: Place) -> None:
    look(place, t2(2), t2(3, slices=15), adc())
    decide(place)

    ordered = ask(place, 2)

    assert (ordered.is_new, beside(place, jobs(place)[1])) == (True, {"adc": "1.2.3.5"})
    assert work(place, jobs(place)[1]).state == "done"


@pytest.mark.parametrize(
    ("number", "said"),
    [(2, "it lacks adc"), (6, "gets others of its study beside it; expected one that a rule wants for it")],
)
def test_an_order_that_lacks_companions_is_refused_with_what_was_expected(place: Place, number: int, said: str) -> None:
    look(place, t2(), dwi())
    decide(place)

    with pytest.raises(ConfigError, match=said):
        ask(place, number)
    assert jobs(place) == []


def test_a_rule_that_is_put_right_takes_effect_when_the_series_are_released(place: Place) -> None:
    look(place, t2(), adc(), rules=WITHOUT_ADC)
    decide(place)
    assert jobs(place) == []

    said = release_held(place.db, place.queues, actor="ann", now=place.now)
    settled(place, t2(), adc())
    decide(place)

    assert len(said) == 2
    assert [beside(place, job) for job in jobs(place)] == [{"adc": "1.2.3.5"}]
    assert lists.held_series(place.db) == []


def test_a_series_that_still_lacks_companions_is_held_again_when_it_was_released(place: Place) -> None:
    look(place, t2())
    decide(place)

    release_held(place.db, place.queues, actor="ann", now=place.now)
    settled(place, t2())
    decide(place)

    assert series(place, 2).held == "lacking"


def test_a_job_that_failed_is_tried_again_with_the_same_companions_unless_their_files_are_gone(place: Place) -> None:
    look(place, t2(), mixed(adc()))
    decide(place)
    job = work(place, jobs(place)[0])

    assert "queued again" in admin.retry_job(place.db, place.queues, job.id, actor="ann", now=place.now)
    assert place.count(JobInstance, job=job.id) == 15

    work(place, job)
    with place.db.begin() as session:
        session.execute(update(Instance).where(Instance.series_instance_uid == "1.2.3.5").values(gone_at=place.now))
    with pytest.raises(ConfigError, match="retention took 5 of its instances"):
        admin.retry_job(place.db, place.queues, job.id, actor="ann", now=place.now)


def test_companions_are_kept_as_long_as_the_job_that_gets_them(place: Place) -> None:
    look(place, t2(), adc(), mr_series(9, "localizer", slices=3))
    decide(place)
    (job,) = jobs(place)

    for days in (10, 20):
        place.now += timedelta(days=days)
        retain(place.now, settings=RetentionSection(sources_days=5), unproving=("pacs",), store=place.store, db=place.db)
        assert place.count(Instance, gone_at=None) == 15
    work(place, job)
    with place.db.begin() as session:
        session.execute(update(Delivery).values(state="proved", proved_at=place.now))
    place.now += timedelta(days=6)
    retain(place.now, settings=RetentionSection(sources_days=5), unproving=("pacs",), store=place.store, db=place.db)

    assert place.count(Instance, gone_at=None) == 0


def test_a_better_companion_whose_job_cannot_be_made_leaves_the_one_before_as_it_is(place: Place) -> None:
    look(place, t2(), adc())
    decide(place)
    work(place, jobs(place)[0])
    with place.db.begin() as session:
        session.execute(update(Instance).where(Instance.series_instance_uid == "1.2.3.2").values(gone_at=place.now))
    look(place, adc(7, ImageType=["ORIGINAL", "PRIMARY", "ADC"]))
    decide(place)

    assert [job.state for job in jobs(place)] == ["done"]
    (main,) = stories.show_series(place.db, "1.2.3.2").candidates
    assert (main.state, main.reason) == ("taken", "retention took 10 of the instances that a new job would get: send them again")
    assert "waiting" not in states(place).values()


def test_where_the_work_on_a_companion_stands_is_told_to_who_asks_for_it(place: Place) -> None:
    look(place, t2(), adc())
    with place.db() as session:
        assert [state_of(session, f"1.2.3.{n}") for n in (2, 5)] == ["waiting", "waiting"]
    decide(place)
    with place.db() as session:
        assert [state_of(session, f"1.2.3.{n}") for n in (2, 5)] == ["working", "working"]


def test_a_replay_tells_of_a_companion_that_other_rules_would_know(place: Place) -> None:
    look(place, t2(), adc())
    keep = Keep(place.store.headers)
    for series in (t2(), adc()):
        known = facts.facts(series, equipment=EQUIPMENT, calling_ae_title="CT1", called_ae_title="AIGATEWAY", ingest="dimse")
        keep.put(series[0].SeriesInstanceUID, 1, series, known)
    before, after = (load_rules(rules, pipelines=PIPELINES, peers=("pacs",)) for rules in (WITHOUT_ADC, RULES_TO_PACS))

    found = replay(place.db, keep, before=before, after=after, since=place.now - timedelta(hours=1))

    assert (found.unmatched, found.would_be_unmatched) == (1, 0)
    assert [(one.series_instance_uid, one.jobs) for one in found.changed] == [("1.2.3.5", ("may be the adc of prostate",))]


def test_a_pipeline_that_leaves_the_shadow_has_its_results_sent_when_its_series_is_released(place: Place) -> None:
    look(place, t2(), adc(), rules=RULES_TO_PACS + "    shadow: true\n")
    decide(place)
    job = work(place, jobs(place)[0])
    assert (job.state, place.count(Delivery)) == ("done", 0)

    release_held(place.db, place.queues, actor="ann", now=place.now)
    settled(place, t2(), adc())
    decide(place)

    assert ([one.id for one in jobs(place)], place.count(Delivery, job=job.id)) == ([job.id], 2)


def test_a_canary_gets_companions_of_the_same_rule(place: Place) -> None:
    two = PIPELINES | {"prostate_v2": replace(PIPELINES["prostate"], version="2.0.0")}
    look(place, t2(), adc(), rules=RULES_TO_PACS + "    canary: {pipeline: prostate_v2, share: 100}\n", pipelines=two)
    decide(place, two)

    assert {job.pipeline: beside(place, job) for job in jobs(place)} == {
        "prostate": {"adc": "1.2.3.5"}, "prostate_v2": {"adc": "1.2.3.5"},
    }  # fmt: skip
    assert {job.pipeline: job.reason.startswith("in the shadow") for job in jobs(place)} == {
        "prostate": False,
        "prostate_v2": True,
    }


class Pacs:
    ae_title = "PACS"


def workitem(place: Place, *, looks: bool = False) -> Dataset:
    """On the T2; with `looks` it is looked at, a minute later."""
    uid = "2.25.77"
    if not looks:
        asked = httpx2.Request("POST", "http://x", json=workitem_fixture.order("prostate", "1.2.3.2", STUDY)).read()
        ups.create(place.db, place.store, place.queues, parse(asked), uid, actor="ann", now=place.now)
    place.now += timedelta(minutes=1)
    here = workitems.Place(
        db=place.db, store=place.store, queues=place.queues, pipelines=PIPELINES, peers={"pacs": Pacs()},
        ae_title="AIGATEWAY", url="https://ai",
    )  # fmt: skip
    workitems.perform(uid, place.now, here=here)
    return ups.retrieve(place.db, place.store, uid)


def test_a_workitem_waits_for_the_study_and_is_the_job_of_its_series_together(place: Place) -> None:
    look(place, t2(), adc())
    assert workitem(place).ProcedureStepState == "SCHEDULED"
    decide(place)

    place.now += timedelta(minutes=1)
    assert workitem(place, looks=True).ProcedureStepState == "IN PROGRESS"
    assert len(jobs(place)) == 1


def test_a_workitem_on_a_series_that_lacks_its_companion_is_canceled_with_what_it_lacks(place: Place) -> None:
    look(place, t2())
    decide(place)

    ended = workitem(place)

    assert ended.ProcedureStepState == "CANCELED"
    (step,) = ended.ProcedureStepProgressInformationSequence
    assert "it lacks adc" in str(step.ReasonForCancellation)


# --- What is loaded ---


def test_a_real_enhanced_object_gets_another_one_of_its_study_beside_it(real_data: Path, tmp_path: Path) -> None:
    needs, store = Needs("MR", companions=(Role("again"),)), Store(tmp_path)
    (path,) = (real_data / "mr_t1_enhanced_siemens_xa30_96frames").iterdir()
    other = dcmread(path)
    other.SeriesInstanceUID, other.SOPInstanceUID = "1.2.3.4", "1.2.3.4.5"
    study, _ = load([(dcmread(path).SOPInstanceUID, store.put([path.read_bytes()]).sha256)], needs, store)

    study, _ = accompanied(study, {"again": [("1.2.3.4.5", store.put([part10(other)]).sha256)]}, needs, store)

    beside = study.companions["again"]
    assert (len(study.source), len(beside.source), {one.SOPInstanceUID for one in beside.source}) == (96, 96, {"1.2.3.4.5"})
    np.testing.assert_allclose(regrid(beside.volume, study.volume).array, study.volume.array, rtol=1e-4, atol=0.1)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"PatientID": "ANOTHER"}, "IDENTITY"),
        ({"StudyInstanceUID": "1.2.9"}, "IDENTITY"),
        ({"FrameOfReferenceUID": "1.2.9"}, "GEOMETRY"),
        ({"Modality": "CT"}, "IMAGE"),
    ],
)
def test_what_is_of_another_patient_study_or_place_is_not_beside_a_series(tmp_path: Path, changes: dict, code: str) -> None:
    store, needs, other = Store(tmp_path), PIPELINES["prostate"].needs, adc()
    for ds, (keyword, value) in itertools.product(other, changes.items()):
        setattr(ds, keyword, value)
    main, beside = ([(ds.SOPInstanceUID, store.put([part10(ds)]).sha256) for ds in series] for series in (t2(), other))
    study, _ = load(main, needs, store)

    with pytest.raises(Unsuitable, match=r"^companion adc: expected") as error:
        accompanied(study, {"adc": beside}, needs, store)

    assert error.value.code == code


def test_a_job_that_was_made_before_its_pipeline_needed_a_companion_says_what_to_do(tmp_path: Path) -> None:
    store, needs = Store(tmp_path), PIPELINES["prostate"].needs
    study, _ = load([(ds.SOPInstanceUID, store.put([part10(ds)]).sha256) for ds in t2()], needs, store)

    with pytest.raises(Unsuitable, match=r"companion adc: .* order it again"):
        accompanied(study, {}, needs, store)


# --- On one grid ---


def test_a_volume_on_the_grid_of_another_is_what_lies_there():
    chance = np.random.default_rng(1)
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ [[0, 0, 1.9], [0, 2.0, 0], [3.0, 0, 0]], (-20, -15, 5)
    source = hd.Volume(chance.normal(size=(9, 20, 24)), affine, "PATIENT", frame_of_reference_uid="1.2")
    onto = hd.Volume(np.zeros((12, 30, 31)), np.array([[0, 0, 1.2, -16], [0, 1.2, 0, -14], [2, 0, 0, 6], [0, 0, 0, 1.0]]),
                     "PATIENT", frame_of_reference_uid="1.2")  # fmt: skip
    at = np.linalg.inv(affine) @ onto.affine @ np.stack([*np.indices(onto.spatial_shape).reshape(3, -1), np.ones(12 * 30 * 31)])
    expected = map_coordinates(source.array, at[:3], order=1, mode="nearest").reshape(onto.spatial_shape)
    inside = ((at[:3] >= -0.5) & (at[:3] <= np.array([[8.5], [19.5], [23.5]]))).all(axis=0).reshape(onto.spatial_shape)

    found = regrid(source, onto, outside=-7)

    assert 0.3 < inside.mean() < 1
    np.testing.assert_allclose(found.array, np.where(inside, expected, -7), atol=1e-5)
    assert found.geometry_equal(onto)
    assert found.array.dtype == np.float32


def test_a_volume_on_its_own_grid_is_itself_also_where_it_is_one_slice():
    source = hd.Volume(np.arange(12.0).reshape(1, 3, 4), np.diag([3.0, 1, 1, 1]), "PATIENT")

    assert (regrid(source, source).array == source.array).all()


def test_volumes_of_two_frames_of_reference_lie_on_no_common_grid():
    one, other = (hd.Volume(np.zeros((2, 2, 2)), np.eye(4), "PATIENT", frame_of_reference_uid=uid) for uid in ("1.2", "1.3"))

    with pytest.raises(ValueError, match="frame of reference"):
        regrid(one, other)
