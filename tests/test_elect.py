"""One series of a study: ranked when the study is complete, the winner runs, the others know why not (issue 5.2)."""

import random
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import select, update

from gateway.db import lock
from gateway.decisions.completeness import Policy
from gateway.decisions.rank import MEDIUM, SHARP, SOFT, Traits, ranked, sharpness, traits
from gateway.decisions.rules import load as load_rules
from gateway.errors import ConfigError
from gateway.rows.candidates import Candidate
from gateway.rows.tables import Instance, Job, Series, SeriesState, Study
from gateway.rows.trail import AuditEvent
from gateway.settle import settle
from gateway.sweep import sweep
from gateway.views import lists, stories
from gateway.views.wanted import Wanted
from gateway.work.elect import elect
from tests.door_fixture import Place, come
from tests.synthetic import ct_series
from tests.test_late import EQUIPMENT, PIPELINES, RULES

STUDY_RULES = RULES + "    level: study\n"
QUIET = timedelta(seconds=60)
FRAME = ct_series(1)[0].FrameOfReferenceUID


def series_of_study(number: int, slices: int = 6, spacing_mm: float = 2.5, **overrides: object) -> list[Dataset]:
    series = ct_series(slices, spacing_mm=spacing_mm, SeriesNumber=number, **overrides)
    uid = f"1.2.3.{number}"
    for ds in series:
        ds.SeriesInstanceUID, ds.SOPInstanceUID = uid, generate_uid(entropy_srcs=[uid, str(ds.InstanceNumber)])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return series


def of(number: int, slices: int = 100, spacing_mm: float | None = 1.0, *, original: bool = True, kernel: str = SOFT) -> Traits:
    return Traits(f"1.2.{number}", slices, spacing_mm, original, kernel, number)


# --- Ranking ---


@pytest.mark.parametrize(
    ("better", "worse", "why"),
    [
        (of(2), of(1, spacing_mm=None), "no regular volume"),
        (of(2), of(1, original=False), "derived from other images"),
        (of(2, 60, 5.0), of(1, 40, 1.0), "it covers 40 mm, the other 300 mm"),
        (of(2, 300, 1.0), of(1, 60, 5.0), "its slices are 5.00 mm apart, those of the other 1.00 mm"),
        (of(2), of(1, kernel=SHARP), "its kernel is sharp, that of the other soft; soft is wanted"),
        (of(2, 110), of(1, 100), "it has 100 slices, the other 110"),
        (of(1), of(2), "lower series number"),
    ],
)
def test_the_better_series_is_first_and_the_other_is_told_why(better: Traits, worse: Traits, why: str):
    (first, nothing), (second, reason) = ranked([worse, better])

    assert (first, nothing, second) == (better, "", worse)
    assert why in reason


def test_a_pipeline_may_want_the_sharp_kernel():
    assert ranked([of(1), of(2, kernel=SHARP)], kernel=SHARP)[0][0].series_number == 2


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [("B30f", SOFT), ("Br40d", SOFT), ("B70f", SHARP), ("Bl57", SHARP), ("B50f", MEDIUM), ("STANDARD", SOFT), ("LUNG", SHARP),
     ("BONEPLUS", SHARP), ("B", SOFT), ("L", SHARP), ("FC07", SOFT), ("FC51", SHARP), ("", MEDIUM), ("something", MEDIUM)],
)  # fmt: skip
def test_kernels_of_the_makers_are_soft_or_sharp(kernel: str, expected: str):
    assert sharpness((kernel,)) == expected


@given(
    st.lists(
        st.builds(of, st.integers(1, 5), st.integers(1, 400), st.none() | st.sampled_from((0.5, 1.0, 5.0)),
                  original=st.booleans(), kernel=st.sampled_from((SOFT, MEDIUM, SHARP))),
        min_size=1, max_size=6, unique_by=lambda one: one.series_instance_uid,
    ),
    st.randoms(),
)  # fmt: skip
def test_the_order_of_the_candidates_changes_nothing(candidates: list[Traits], chance: random.Random):
    mixed = chance.sample(candidates, len(candidates))

    assert ranked(mixed) == ranked(candidates)
    assert [bool(why) for _, why in ranked(mixed)] == [n > 0 for n in range(len(candidates))]


def test_a_series_is_judged_by_its_largest_regular_volume():
    found = traits(series_of_study(3, 5, 1.25, ConvolutionKernel="B70f"))

    assert found == Traits("1.2.3.3", 5, 1.25, is_original=True, kernel=SHARP, series_number=3, frame_of_reference_uid=FRAME)


# --- Rows ---


def look(place: Place, series: list[Dataset], *, after: float = 30, rules: str = STUDY_RULES, pipelines=PIPELINES) -> None:
    place.now += timedelta(seconds=after)
    settle(
        series[0].SeriesInstanceUID, place.now, policy=Policy(10, 600), pipelines=pipelines, equipment=EQUIPMENT,
        store=place.store, rules=load_rules(rules, pipelines=("bright",), peers=("pacs",)), db=place.db, queues=place.queues,
        study_quiet=QUIET,
    )  # fmt: skip


def decide(place: Place, series: list[Dataset], *, after: float = 61) -> None:
    place.now += timedelta(seconds=after)
    elect(series[0].StudyInstanceUID, place.now, pipelines=PIPELINES, quiet=QUIET, db=place.db, queues=place.queues)


def jobs(place: Place) -> list[Job]:
    return [row.job for row in lists.jobs(place.db, Wanted()).rows][::-1]


def candidates(place: Place) -> dict[str, tuple[str, str]]:
    with place.db() as session:
        return {one.series_instance_uid: (one.state, one.reason) for one in session.scalars(select(Candidate))}


def test_the_thin_series_of_a_study_is_taken_and_the_thick_one_knows_why_not(place: Place) -> None:
    thick, thin = series_of_study(2, 4, 5.0), series_of_study(3, 16, 1.25)
    for series in (thick, thin):
        come(place, series)
    look(place, thick)
    look(place, thin, after=0)
    decide(place, thin, after=20)
    assert jobs(place) == []  # it is not quiet yet

    decide(place, thin)

    (job,) = jobs(place)
    assert (job.series_instance_uid, job.send_to, job.rules) == ("1.2.3.3", ["pacs"], ["chest CT"])
    assert candidates(place) == {
        "1.2.3.2": ("passed", "1.2.3.3 was taken: its slices are 5.00 mm apart, those of the other 1.25 mm"),
        "1.2.3.3": ("taken", "the best of 2 series"),
    }
    assert [one.state for one in stories.show_series(place.db, "1.2.3.2").candidates] == ["passed"]
    with place.db() as session:
        told = session.scalars(select(AuditEvent.act).where(AuditEvent.act.in_(("series.taken", "series.passed")))).all()
    assert sorted(told) == ["series.passed", "series.taken"]
    decide(place, thin)
    assert len(jobs(place)) == 1


def test_a_study_with_a_series_that_is_still_being_received_is_waited_for(place: Place) -> None:
    done, coming = series_of_study(2), series_of_study(3, 6, 1.0)
    come(place, done)
    look(place, done)
    come(place, coming[:3])

    decide(place, done, after=600)
    assert (jobs(place), candidates(place)["1.2.3.2"][0]) == ([], "waiting")

    come(place, coming[3:])
    look(place, coming)
    decide(place, done)
    assert [job.series_instance_uid for job in jobs(place)] == ["1.2.3.2"]  # 15 mm, of which the other covers 6


def test_a_better_series_that_comes_later_takes_the_place_of_one_that_has_not_begun(place: Place) -> None:
    first, later = series_of_study(2, 4, 5.0), series_of_study(3, 16, 1.25)
    for series in (first, later):
        come(place, series)
        look(place, series)
        decide(place, series)

    assert [(job.series_instance_uid, job.state) for job in jobs(place)] == [("1.2.3.2", "cancelled"), ("1.2.3.3", "queued")]
    assert candidates(place)["1.2.3.2"][0] == "passed"


def test_a_pipeline_may_say_itself_that_it_gets_one_series_of_a_study(place: Place) -> None:
    bright = PIPELINES["bright"]
    wants_one = {"bright": replace(bright, needs=replace(bright.needs, one_of_study=True))}
    series = series_of_study(2)
    come(place, series)

    look(place, series, rules=RULES, pipelines=wants_one)
    assert jobs(place) == []
    decide(place, series)

    assert [job.series_instance_uid for job in jobs(place)] == ["1.2.3.2"]
    assert candidates(place) == {"1.2.3.2": ("taken", "the only series that a rule wants")}


def test_a_series_that_grows_while_it_is_chosen_is_chosen_when_it_is_whole(place: Place) -> None:
    series = series_of_study(2)
    come(place, series)
    look(place, series)
    chooser = threading.Thread(target=decide, args=(place, series))

    with place.db.begin() as session:  # as an instance of it is filed
        lock(session, Series, "1.2.3.2").state = SeriesState.RECEIVING
        chooser.start()
        chooser.join(1)
    chooser.join()

    assert (jobs(place), candidates(place)["1.2.3.2"][0]) == ([], "waiting")


def test_a_series_that_has_grown_and_is_wanted_no_more_is_not_worked_on(place: Place) -> None:
    series = series_of_study(2)
    come(place, series[:4])
    look(place, series)
    come(place, series[4:])
    look(place, series, rules=STUDY_RULES.replace("is: CT", "is: MR"))

    decide(place, series)

    assert (jobs(place), candidates(place)) == ([], {"1.2.3.2": ("passed", "its series has grown since")})


def test_a_series_whose_files_retention_took_is_passed_over(place: Place) -> None:
    thick, thin = series_of_study(2, 4, 5.0), series_of_study(3, 16, 1.25)
    for series in (thick, thin):
        come(place, series)
        look(place, series)
    with place.db.begin() as session:
        session.execute(update(Instance).where(Instance.series_instance_uid == "1.2.3.3").values(gone_at=place.now))

    decide(place, thin)

    assert [job.series_instance_uid for job in jobs(place)] == ["1.2.3.2"]
    assert candidates(place)["1.2.3.3"] == ("passed", "retention took 16 of its instances")


def test_a_pipeline_that_is_no_more_does_not_hold_up_the_others(place: Place) -> None:
    series = series_of_study(2)
    come(place, series)
    look(place, series)
    with place.db.begin() as session:
        one = session.scalars(select(Candidate)).one()
        values = {column.name: getattr(one, column.name) for column in Candidate.__table__.columns}
        session.add(Candidate(**values | {"pipeline": "away"}))

    decide(place, series)

    assert [job.pipeline for job in jobs(place)] == ["bright"]
    story = stories.show_series(place.db, "1.2.3.2")
    assert sorted((one.pipeline, one.state, one.reason) for one in story.candidates) == [
        ("away", "passed", "there is no pipeline away here any more"),
        ("bright", "taken", "the only series that a rule wants"),
    ]


def test_the_sweep_looks_at_a_study_whose_look_was_lost(place: Place) -> None:
    series = series_of_study(2)
    come(place, series)
    look(place, series)

    place.now += timedelta(hours=1)
    sweep(place.now, db=place.db, queues=place.queues)

    assert place.queues.is_alive("elect", series[0].StudyInstanceUID, f"{place.now.timestamp():.6f}")


def test_a_kill_after_the_choice_repeats_nothing(place: Place, database_url: str) -> None:
    series = series_of_study(2)
    come(place, series)
    look(place, series)
    place.now += timedelta(seconds=61)
    code = f"""
from datetime import datetime, timedelta
from tests.test_elect import PIPELINES, QUIET, elect
from gateway.db import open_database
from gateway.engine import Queues
elect({series[0].StudyInstanceUID!r}, datetime.fromisoformat({place.now.isoformat()!r}), pipelines=PIPELINES, quiet=QUIET,
      db=open_database({database_url!r}), queues=Queues({database_url!r}))
"""
    root = Path(__file__).parent.parent
    environment = {"GATEWAY_CRASH_AT": "elect.committed", "PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    killed = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr

    decide(place, series)

    assert len(jobs(place)) == 1
    assert place.count(Study) == 1


def test_a_level_that_is_none_is_refused_with_its_line():
    with pytest.raises(ConfigError, match="series, study"):
        load_rules(RULES + "    level: patient\n", pipelines=("bright",), peers=("pacs",))
