"""The time line of a series tells each step with its length, goes on while anything does, and ends with the proof."""

from datetime import timedelta

import pytest

from gateway.views import stories
from gateway.views.timeline import WIDTH, time_line, words
from tests.rows_fixture import NOW, SERIES, a_delivery, a_job, a_series


@pytest.fixture
def db(db):
    a_series(db)
    return db


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_the_time_line_goes_from_the_first_image_to_the_proof(db) -> None:
    job = a_job(db, state="done", created_at=NOW + seconds(2), started_at=NOW + seconds(3), inferred_at=NOW + seconds(8), encoded_at=NOW + seconds(9), ended_at=NOW + seconds(9))  # fmt: skip
    a_delivery(db, job, state="proved", created_at=NOW + seconds(9), sent_at=NOW + seconds(10), proved_at=NOW + seconds(20), proof="query")  # fmt: skip

    line = time_line(stories.show_series(db, SERIES), NOW + timedelta(days=1))

    assert (line.lasts, line.is_over, line.end) == ("20 s", True, NOW + seconds(20))
    assert [lane.title for lane in line.lanes] == ["images", f"job {job}, bright", "SEG to pacs"]
    assert [(bar.what, bar.lasts) for lane in line.lanes[1:] for bar in lane.bars] == [
        ("waits for a model", "1.0 s"), ("model works", "5.0 s"), ("results are encoded", "1.0 s"), ("is sent", "1.0 s"), ("is proved", "10 s"),
    ]  # fmt: skip
    assert [lane.fate for lane in line.lanes[1:]] == ["done", "proved by query"]
    assert all(0 <= bar.x and bar.x + bar.width <= WIDTH for lane in line.lanes for bar in lane.bars)


def test_what_goes_on_lasts_until_now(db) -> None:
    job = a_job(db, state="running", started_at=NOW + seconds(5))

    line = time_line(stories.show_series(db, SERIES), NOW + seconds(65))

    working = line.lanes[1].bars[-1]
    assert not line.is_over
    assert (working.what, working.lasts, working.is_open, line.lanes[1].tone) == ("model works", "1 min 0 s", True, "busy")
    assert job


@pytest.mark.parametrize(("state", "tone"), [("held", "bad"), ("unwanted", "quiet")])
def test_what_failed_and_what_is_held_waits_for_nobody_but_a_person(db, state: str, tone: str) -> None:
    job = a_job(db, state="done", started_at=NOW, ended_at=NOW)
    a_delivery(db, job, state=state, reason="another patient")

    line = time_line(stories.show_series(db, SERIES), NOW + timedelta(days=3))

    assert line.is_over
    assert (line.lanes[-1].tone, line.lanes[-1].fate) == (tone, f"{state}: another patient")


def test_lengths_of_time_are_told_as_people_say_them() -> None:
    assert [words(seconds(number)) for number in (-1, 0.44, 12.4, 75, 3600 * 2 + 600, 86400, 86400 * 3 + 7200)] == [
        "0.0 s", "0.4 s", "12 s", "1 min 15 s", "2 h 10 min", "1 day 0 h", "3 days 2 h",
    ]  # fmt: skip
