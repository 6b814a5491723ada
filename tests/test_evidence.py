"""Completeness by evidence (issue 5.1): what headers say, what decides, and that half a series never runs as a whole one."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from sqlalchemy import select

from gateway.acts import forced
from gateway.acts.release import release_held
from gateway.decisions.completeness import Counted, Decision, Evidence, Policy, Says, Signal, Where, verdict
from gateway.decisions.evidence import signals
from gateway.decisions.rules import load as load_rules
from gateway.engine import SETTLE, settle_attempt
from gateway.errors import ConfigError
from gateway.rows.tables import Job, Series
from gateway.rows.trail import AuditEvent
from gateway.settle import settle
from gateway.views import lists, stories
from gateway.views.wanted import Wanted
from tests.door_fixture import NOW, Place, come, scanner
from tests.synthetic import ct_series
from tests.test_late import EQUIPMENT, PIPELINES, RULES, work

POLICY = Policy(quiet_seconds=10, deadline_seconds=600)
WHOLE = Signal("declared", Says.WHOLE, "64 of 64")
HOLE = Signal("geometry", Says.SHORT, "one is missing")


def declared(slices: int = 12, **overrides: object) -> list[Dataset]:
    return ct_series(slices, **{"ImagesInAcquisition": slices, **overrides})


def said(headers: list[Dataset]) -> dict[str, Says]:
    return {signal.name: signal.says for signal in signals(headers)}


def at(seconds: float):
    return NOW + timedelta(seconds=seconds)


def evidence(*signals: Signal, **changes: object) -> Evidence:
    return replace(Evidence(64, 1, 0, NOW, NOW, signals or ()), **changes)


# --- What headers say ---


def test_a_series_with_all_images_of_its_acquisition_and_no_hole_is_whole():
    assert said(declared()) == {"geometry": Says.NOTHING, "declared": Says.WHOLE, "numbers": Says.NOTHING}


def test_a_series_without_a_declared_count_says_nothing_of_its_end():
    assert set(said(ct_series(12)).values()) == {Says.NOTHING}
    assert set(said(ct_series(12)[:7]).values()) == {Says.NOTHING}


@pytest.mark.parametrize(
    ("kept", "short"),
    [
        (lambda series: series[:11], {"declared"}),
        (lambda series: series[1:], {"declared", "numbers"}),
        (lambda series: series[:5] + series[6:], {"declared", "geometry", "numbers"}),
        (lambda series: series[::2], {"declared", "numbers"}),
        (lambda series: series[4:5], {"declared", "numbers"}),
    ],
)
def test_each_kind_of_loss_is_seen(kept, short):
    assert {name for name, says in said(kept(declared())).items() if says is Says.SHORT} == short


def test_numbers_may_begin_at_a_hundred_and_one():
    series = [_numbered(ds, 101 + n) for n, ds in enumerate(ct_series(6))]

    assert said(series)["numbers"] is Says.NOTHING
    assert said(series[:3] + series[4:])["numbers"] is Says.SHORT


def test_a_time_point_that_is_missing_is_seen_whatever_images_in_acquisition_counts():
    times = [ds for time in range(3) for ds in ct_series(4, Modality="MR", NumberOfTemporalPositions=3, ImagesInAcquisition=4,
                                                        TemporalPositionIndex=time + 1, AcquisitionNumber=time)]  # fmt: skip
    times = [_numbered(ds, n + 1) for n, ds in enumerate(times)]

    assert said(times)["declared"] is Says.NOTHING
    assert said(times[:8])["declared"] is Says.SHORT
    assert said(times[:4])["declared"] is Says.SHORT
    assert said(times[:11])["geometry"] is Says.SHORT


def test_slices_of_a_pet_series_are_counted_over_its_time_slices():
    series = ct_series(6, Modality="PT", NumberOfSlices=3, NumberOfTimeSlices=2)

    assert said(series)["declared"] is Says.WHOLE
    assert said(series[:3])["declared"] is Says.SHORT


def test_a_concatenation_is_whole_with_its_last_part():
    parts = ct_series(3, NumberOfFrames=2, ConcatenationUID="1.2.3", InConcatenationTotalNumber=3)
    for n, ds in enumerate(parts):
        ds.InConcatenationNumber = n + 1

    assert said(parts)["declared"] is Says.WHOLE
    assert said(parts[:2])["declared"] is Says.SHORT


def test_headers_that_cannot_be_read_say_nothing_and_raise_nothing():
    series = ct_series(3, InstanceNumber=None, ImagePositionPatient=None)

    assert set(said(series).values()) == {Says.NOTHING}
    assert set(said([Dataset()]).values()) == {Says.NOTHING}


# --- What decides ---


def test_evidence_that_suffices_ends_the_waiting_half_a_second_after_the_last_instance():
    assert verdict(evidence(WHOLE), now=at(0.4), policy=POLICY).due == at(0.5)
    found = verdict(evidence(WHOLE), now=at(0.5), policy=POLICY)
    assert (found.decision, found.missing) == (Decision.COMPLETE, "")
    assert found.reason.endswith("64 instances, 64 of 64")


def test_evidence_that_suffices_waits_for_the_quiet_time_where_an_association_is_open():
    still_open = evidence(WHOLE, open_associations=1)

    assert verdict(still_open, now=at(9), policy=POLICY).due == at(10)
    assert verdict(still_open, now=at(10), policy=POLICY).decision is Decision.COMPLETE


@pytest.mark.parametrize(("policy", "decision"), [("partial", "partial"), ("hold", "held"), ("fail", "failed")])
def test_what_lacks_something_waits_until_its_deadline_and_then_the_policy_decides(policy, decision):
    mine = replace(POLICY, at_deadline=policy)

    assert verdict(evidence(HOLE), now=at(599), policy=mine).due == at(600)
    found = verdict(evidence(HOLE), now=at(600), policy=mine)
    assert (found.decision, found.missing) == (decision, "one is missing")


def test_a_hole_outweighs_a_count_and_a_source_outweighs_both():
    counted = Counted("pacs", 64, NOW)

    assert verdict(evidence(HOLE, WHOLE), now=at(9), policy=POLICY).decision is Decision.WAIT
    assert verdict(evidence(HOLE, source=counted), now=at(1), policy=POLICY).decision is Decision.COMPLETE
    assert verdict(evidence(WHOLE, source=replace(counted, count=70)), now=at(9), policy=POLICY).decision is Decision.WAIT


def test_evidence_that_is_not_believed_decides_nothing():
    assert verdict(evidence(HOLE), now=at(10), policy=replace(POLICY, ignore=("geometry",))).decision is Decision.COMPLETE


def test_headers_are_looked_at_after_a_short_silence_and_not_between_the_instances_of_a_slow_sender():
    unread = evidence(signals=None)

    assert verdict(unread, now=at(1), policy=POLICY).decision is Decision.LOOK
    slow = replace(unread, instances=11, first_received_at=at(-20))  # one every two seconds
    assert verdict(slow, now=at(5.9), policy=POLICY).due == at(6)


def test_a_source_that_counts_as_many_is_asked_twice():
    counted = Counted("pacs", 64, at(1))

    assert verdict(evidence(source=counted), now=at(1), policy=POLICY).due == at(1.5)
    assert verdict(evidence(source=counted), now=at(1.5), policy=POLICY).decision is Decision.COMPLETE


@pytest.mark.parametrize("count", [None, 0, 12])
def test_a_source_that_says_nothing_or_is_itself_receiving_changes_nothing(count):
    counted = Counted("pacs", count, NOW)

    assert verdict(evidence(source=counted), now=at(9), policy=POLICY).decision is Decision.WAIT
    assert verdict(evidence(source=counted), now=at(10), policy=POLICY).decision is Decision.COMPLETE


def test_one_association_is_evidence_only_where_the_sender_is_known_for_it_and_it_was_released():
    known = replace(POLICY, one_association=True)
    released = evidence(whole_associations=1)

    assert verdict(released, now=at(1), policy=known).decision is Decision.COMPLETE
    assert verdict(released, now=at(1), policy=POLICY).decision is Decision.WAIT
    assert verdict(evidence(), now=at(1), policy=known).decision is Decision.WAIT
    assert verdict(replace(released, associations=2, whole_associations=2), now=at(1), policy=known).decision is Decision.WAIT


def test_who_broke_off_is_waited_for_where_nothing_else_says_that_the_series_is_whole():
    broken = evidence(broken_off=True)
    believed = replace(POLICY, ignore=("association",))

    assert verdict(broken, now=at(599), policy=POLICY).decision is Decision.WAIT
    assert verdict(broken, now=at(600), policy=POLICY).decision is Decision.HELD
    assert (
        verdict(broken, now=at(600), policy=POLICY).missing
        == "an association was broken off or put off, and its sender has not come back"
    )
    assert verdict(evidence(WHOLE, broken_off=True), now=at(1), policy=POLICY).decision is Decision.COMPLETE
    assert verdict(broken, now=at(10), policy=believed).decision is Decision.COMPLETE


@pytest.mark.parametrize(
    ("signal", "broken_off", "seconds", "decision"),
    [(None, False, 10, Decision.COMPLETE), (None, True, 600, Decision.HELD), (HOLE, False, 600, Decision.HELD), (WHOLE, False, 0.5, Decision.COMPLETE)],
)  # fmt: skip
def test_silence_counts_from_when_the_doors_opened(signal, broken_off, seconds, decision):
    found = evidence(*[signal] if signal else [], broken_off=broken_off, listening_since=at(5000))

    early = verdict(found, now=at(5000 + seconds - 0.1), policy=POLICY)

    assert (early.decision, early.due) == (Decision.WAIT, at(5000 + seconds))
    assert verdict(found, now=at(5000 + seconds), policy=POLICY).decision is decision
    assert verdict(replace(found, listening_since=at(-50)), now=at(seconds), policy=POLICY).decision is decision


def test_the_first_policy_that_fits_modality_and_sender_is_taken():
    mr, ct1 = replace(POLICY, quiet_seconds=120), replace(POLICY, quiet_seconds=3)
    policy = replace(POLICY, where=(Where(mr, modalities=("MR",)), Where(ct1, calling_ae_titles=("CT1",))))

    assert policy.of("MR", {"CT1"}) is mr
    assert policy.of("CT", {"CT1"}) is ct1
    assert policy.of("CT", {"CT1", "CT2"}) is policy


signals_ = st.lists(st.builds(Signal, st.sampled_from(["source", "geometry", "declared", "numbers"]), st.sampled_from(Says), st.just("")))  # fmt: skip


@given(
    found=st.none() | signals_.map(tuple),
    still_open=st.integers(0, 2),
    first=st.integers(-100_000, 0),
    now=st.integers(-1000, 20_000),
    policy=st.builds(
        Policy, st.floats(0, 100), st.floats(0.1, 10_000), st.floats(0, 5), st.sampled_from(["partial", "hold", "fail"])
    ),
    count=st.none() | st.integers(0, 70),
)
def test_whatever_the_evidence_a_look_when_it_is_due_decides(found, still_open, first, now, policy, count):
    known = evidence(signals=found, open_associations=still_open, first_received_at=at(first), source=Counted("pacs", count, NOW))

    looked = verdict(known, now=at(now), policy=policy)

    assert (looked.decision is Decision.WAIT) == (looked.due is not None)
    if looked.due is not None:
        assert looked.due > at(now)
        assert verdict(known, now=looked.due, policy=policy).decision is not Decision.WAIT
    short = any(signal.says is Says.SHORT for signal in looked.signals)
    whole = any(signal.says is Says.WHOLE for signal in looked.signals)
    assert not (looked.decision is Decision.COMPLETE and short and not whole)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), slices=st.integers(3, 10), repeats=st.integers(0, 3))
def test_a_part_of_a_series_whose_count_is_declared_is_never_whole_in_any_order_with_losses_and_duplicates(data, slices, repeats):
    series = declared(slices)
    kept = data.draw(st.sets(st.integers(0, slices - 1), min_size=1), label="kept")
    order = data.draw(st.permutations(sorted(kept)), label="order")

    found = verdict(evidence(*signals([series[n] for n in order])), now=at(599), policy=POLICY)

    assert found.complete == (len(kept) == slices)


def _numbered(ds: Dataset, number: int) -> Dataset:
    ds.InstanceNumber = number
    return ds


# --- Rows: settle, a person ---


def look(
    place: Place, series: list[Dataset], *, after: float = 0, policy: Policy = POLICY, count=lambda *_: None, **more
) -> Series:
    place.now += timedelta(seconds=after)
    settle(
        series[0].SeriesInstanceUID, place.now, policy=policy, pipelines=PIPELINES, equipment=EQUIPMENT, store=place.store,
        rules=load_rules(RULES, pipelines=("bright",), peers=("pacs",)), db=place.db, queues=place.queues, count=count, **more,
    )  # fmt: skip
    with place.db() as session:
        return session.get_one(Series, series[0].SeriesInstanceUID)


def jobs(place: Place) -> list[Job]:
    return [row.job for row in lists.jobs(place.db, Wanted()).rows][::-1]


def test_half_a_series_is_not_analysed_because_nobody_could_bring_the_rest(place: Place) -> None:
    series = ct_series(12)
    come(place, series[:7])
    opened = place.now + timedelta(seconds=300)
    assert look(place, series, after=301, listening_since=opened).state == "receiving"
    with place.db() as session:
        assert session.get_one(Series, series[0].SeriesInstanceUID).due_at == opened + timedelta(seconds=POLICY.quiet_seconds)

    come(place, series[7:])

    assert look(place, series, after=POLICY.quiet_seconds, listening_since=opened).state == "complete"
    (job,) = jobs(place)
    assert job.revision == 1


def test_a_series_that_is_whole_has_its_job_half_a_second_after_its_last_instance(place: Place) -> None:
    series = declared(6)
    come(place, series)

    assert look(place, series, after=0.25).state == "receiving"
    assert look(place, series, after=0.25).state == "complete"

    (job,) = jobs(place)
    assert job.partial == ""
    story = stories.show_series(place.db, series[0].SeriesInstanceUID)
    assert {one["name"]: one["says"] for one in story.verdict.signals}["declared"] == "whole"
    assert story.verdict.decision == "complete"
    assert "6 of 6 images by ImagesInAcquisition" in story.series.reason


def bring(place: Place, series: list[Dataset], *, broken: bool = False) -> None:
    place.now += timedelta(seconds=1)
    origin = scanner()
    for ds in series:
        place.bring(ds, origin)
    place.door.end(origin, whole=not broken, broken=broken)
    place.file()


@pytest.mark.parametrize("rest", [slice(0, 12), slice(5, 12), slice(7, 12)], ids=["all", "some again", "only the rest"])
def test_half_a_series_whose_sender_broke_off_runs_when_it_came_back_and_brought_the_rest(place: Place, rest: slice) -> None:
    series = ct_series(12)
    bring(place, series[:7], broken=True)
    assert look(place, series, after=1).state == "receiving"
    assert look(place, series, after=300).state == "receiving"

    bring(place, series[rest])

    assert look(place, series, after=10).state == "complete"
    (job,) = jobs(place)
    assert (job.revision, job.partial) == (1, "")


def test_who_broke_off_behind_its_last_instance_and_brings_it_again_is_not_waited_for(place: Place) -> None:
    series = ct_series(12)
    bring(place, series, broken=True)
    assert look(place, series, after=20).state == "receiving"

    bring(place, series[-1:])

    with place.db() as session:
        assert session.get_one(Series, series[0].SeriesInstanceUID).due_at == place.now
    assert look(place, series, after=1).state == "complete"
    assert len(jobs(place)) == 1


def test_who_comes_back_with_the_rest_of_a_study_has_said_that_there_is_no_more_of_its_other_series(place: Place) -> None:
    first, second = ct_series(6), ct_series(6, SeriesInstanceUID=generate_uid())
    for ds in second:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    bring(place, [*first, *second[:2]], broken=True)
    assert look(place, first, after=300).state == "receiving"

    bring(place, second[2:])

    assert look(place, first, after=1).state == "complete"
    assert look(place, second, after=10).state == "complete"


def test_half_a_series_whose_sender_never_comes_back_is_held_at_its_deadline(place: Place) -> None:
    series = ct_series(12)
    bring(place, series[:4])
    bring(place, series[4:7], broken=True)
    look(place, series, after=1)

    held = look(place, series, after=600)

    assert (held.state, jobs(place)) == ("held", [])
    assert "broken off" in held.reason
    for why, found in (("", [held.series_instance_uid]), ("incomplete", [held.series_instance_uid]), ("unmatched", [])):
        assert [one.series_instance_uid for one in lists.held_series(place.db, why=why)] == found
    assert release_held(place.db, place.queues, actor="ann", now=place.now) == []


def test_a_series_with_a_hole_that_a_rule_wants_is_held_at_its_deadline_and_a_person_lets_it_go(place: Place) -> None:
    series = declared(6)
    come(place, series[:3] + series[4:])
    uid = series[0].SeriesInstanceUID
    for after in (1, 30, 300):
        assert look(place, series, after=after).state == "receiving"
    held = look(place, series, after=300)
    assert (held.state, jobs(place)) == ("held", [])
    assert held.reason.startswith("held: 1 association ended")
    assert "missing" in held.reason

    forced.complete_series(place.db, place.queues, uid, actor="anna", now=place.now)
    with place.db() as session:
        waiting = session.get_one(Series, uid)
        assert place.queues.is_alive(SETTLE, uid, settle_attempt(waiting.revision, waiting.due_at))
    assert look(place, series).state == "complete"

    (job,) = jobs(place)
    assert "missing" in job.partial
    acts = [event.act for event in events(place) if event.act.startswith("series.")]
    assert acts == ["series.held", "series.forced", "series.complete"]
    assert next(event for event in events(place) if event.act == "series.forced").actor == "anna"
    assert stories.show_series(place.db, uid).verdict.forced_by == "anna"


def test_a_held_series_goes_on_when_the_rest_comes(place: Place) -> None:
    series = declared(6)
    come(place, series[:5])
    look(place, series, after=1)
    assert look(place, series, after=600).state == "held"

    come(place, series[5:])

    assert look(place, series, after=10).state == "complete"
    (job,) = jobs(place)
    assert (job.revision, job.partial) == (2, "")


def test_a_series_that_lacks_something_and_that_no_rule_wants_bothers_nobody(place: Place) -> None:
    series = declared(6, Modality="PT", NumberOfSlices=9)
    come(place, series)
    look(place, series, after=1)

    row = look(place, series, after=600)

    assert (row.state, jobs(place)) == ("complete", [])
    assert row.reason.startswith("incomplete: ")


def test_a_partial_job_says_so_in_its_notes_and_its_results(place: Place) -> None:
    series = declared(6)
    come(place, series[:5])
    policy = replace(POLICY, at_deadline="partial")
    look(place, series, after=1, policy=policy)
    look(place, series, after=600, policy=policy)
    (job,) = jobs(place)

    work(place, job.id)

    (job,) = jobs(place)
    assert job.state == "done", job.reason
    assert job.notes[0] == "the series lacks something: 5 of 6 images by ImagesInAcquisition"
    story = stories.show_job(place.db, job.id)
    for output in story.outputs:
        made = dcmread(place.store.path(output.sha256), stop_before_pixels=True)
        assert made.SeriesDescription.startswith("INCOMPLETE SERIES - Not for diagnosis")


def test_a_person_may_hold_a_series_and_may_not_decide_of_one_that_is_complete(place: Place) -> None:
    series = declared(6)
    come(place, series)
    uid = series[0].SeriesInstanceUID

    forced.hold_series(place.db, uid, actor="anna", now=place.now)

    assert look(place, series, after=1000).state == "held"
    forced.complete_series(place.db, place.queues, uid, actor="anna", now=place.now)
    assert look(place, series).state == "complete"
    for act in (lambda: forced.hold_series(place.db, uid, actor="anna", now=place.now),
                lambda: forced.complete_series(place.db, place.queues, uid, actor="anna", now=place.now),
                lambda: forced.hold_series(place.db, "1.2.3", actor="anna", now=place.now)):  # fmt: skip
        with pytest.raises(ConfigError):
            act()


def test_a_source_is_asked_until_it_says_the_same_twice(place: Place) -> None:
    series = ct_series(6)
    come(place, series)
    policy, counts = replace(POLICY, source="pacs"), iter((4, 8, 6, 6))
    asked = []

    def count(*names: str) -> int:
        asked.append(names)
        return next(counts)

    ask = {"policy": policy, "count": count}
    assert look(place, series, after=1, **ask).state == "receiving"  # it has 4 itself so far
    row = look(place, series, after=9, **ask)
    assert "pacs has 8 instances of the series" in row.reason
    place.now = row.due_at
    assert look(place, series, **ask).state == "receiving"
    assert look(place, series, after=0.5, **ask).state == "complete"
    assert set(asked) == {("pacs", series[0].StudyInstanceUID, series[0].SeriesInstanceUID)}


def test_a_clock_that_was_set_back_does_not_make_a_series_wait_until_it_is_there_again(place: Place) -> None:
    series = declared(6)
    come(place, series)

    assert look(place, series, after=-3600).state == "receiving"
    assert look(place, series, after=1).state == "complete"


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_arrival_makes_a_whole_job_of_half_a_series(place: Place, seed: int) -> None:
    """Bursts over several associations, with pauses, losses and repetitions; what was lost comes at last."""
    series, chance = declared(8), random.Random(seed)
    coming = chance.sample(series, 8) + chance.choices(series, k=3)
    lost = [ds for ds in coming if chance.random() < 0.2]
    here: set[str] = set()
    for burst in (*_bursts([ds for ds in coming if ds not in lost], chance), lost):
        if not burst:
            continue
        come(place, burst, scanner())
        here |= {ds.SOPInstanceUID for ds in burst}
        look(place, series, after=chance.choice((0.1, 1, 5, 30)))
        assert len(here) == 8 or jobs(place) == []
    look(place, series, after=700)
    look(place, series, after=700)
    assert [(job.partial, len(stories.show_job(place.db, job.id).inputs)) for job in jobs(place)] == [("", 8)]


def _bursts(series: list[Dataset], chance: random.Random) -> Iterator[list[Dataset]]:
    while series:
        size = chance.randint(1, 4)
        yield series[:size]
        series = series[size:]


def events(place: Place) -> list[AuditEvent]:
    with place.db() as session:
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.id)))
