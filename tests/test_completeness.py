from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decisions.completeness import Evidence, Policy, verdict

START = datetime(2026, 1, 2, 10, 0, tzinfo=UTC)
POLICY = Policy(quiet_seconds=10, deadline_seconds=600)


def evidence(*, instances=64, associations=3, still_open=0, last=0):
    return Evidence(instances, associations, still_open, START, START + timedelta(seconds=last))


def at(seconds):
    return START + timedelta(seconds=seconds)


def test_ended_associations_and_quiet_time_make_a_series_complete():
    found = verdict(evidence(), now=at(10), policy=POLICY)

    assert found.complete
    assert found.reason == "3 associations ended, quiet for 10 s, 64 instances, nothing says how many there should be"
    assert found.due is None


def test_a_series_that_is_not_quiet_yet_is_looked_at_again_when_it_will_be():
    found = verdict(evidence(associations=1, instances=1, last=5), now=at(8), policy=POLICY)

    assert not found.complete
    assert found.reason == "1 association ended, quiet for 3 s of 10 s, 1 instance"
    assert found.due == at(15)


def test_an_open_association_keeps_a_series_waiting_past_the_quiet_time():
    found = verdict(evidence(still_open=1), now=at(599), policy=POLICY)

    assert not found.complete
    assert found.reason == "1 of 3 associations not ended, quiet for 599 s of 600 s, 64 instances"
    assert found.due == at(600)


def test_an_association_that_never_ends_does_not_hold_a_series_for_ever():
    found = verdict(evidence(still_open=1), now=at(600), policy=POLICY)

    assert found.complete
    assert found.reason == "1 of 3 associations not ended, quiet for 600 s, 64 instances, nothing says how many there should be"


def test_a_series_that_still_grows_is_not_cut_off_by_the_deadline():
    assert not verdict(evidence(still_open=1, last=7000), now=at(7300), policy=POLICY).complete


def test_a_deadline_below_the_quiet_time_does_not_shorten_it():
    policy = Policy(quiet_seconds=60, deadline_seconds=5)

    assert not verdict(evidence(still_open=1), now=at(30), policy=policy).complete


def test_a_clock_that_was_set_back_waits():
    found = verdict(evidence(last=100), now=at(50), policy=POLICY)

    assert not found.complete
    assert found.due == at(110)


def test_no_instances_are_never_a_complete_series():
    assert not verdict(evidence(instances=0), now=at(10_000), policy=POLICY).complete


def test_no_quiet_time_completes_at_once():
    found = verdict(evidence(), now=at(0), policy=Policy(quiet_seconds=0, deadline_seconds=1))

    assert found.complete


def test_a_naive_time_is_an_error():
    with pytest.raises(TypeError):
        verdict(evidence(), now=datetime(2026, 1, 2), policy=POLICY)


@given(
    still_open=st.integers(0, 3),
    last=st.integers(0, 10_000),
    now=st.integers(0, 20_000),
    quiet=st.floats(0, 1000),
    deadline=st.floats(0.1, 10_000),
)
def test_looking_again_when_due_finds_the_series_complete(still_open, last, now, quiet, deadline):
    policy = Policy(quiet, deadline)
    known = evidence(still_open=still_open, last=last)

    found = verdict(known, now=at(now), policy=policy)

    assert found.complete == (found.due is None)
    assert found.complete or found.due > at(now)
    assert found.complete or verdict(known, now=found.due, policy=policy).complete
