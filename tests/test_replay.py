"""What rules saw of a series is kept, and says of later rules what the headers themselves would."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydicom import Dataset, Sequence, dcmread

from gateway.acts.replay import replay
from gateway.decisions import facts
from gateway.decisions.rules import load, match, matched
from gateway.decisions.vocabulary import Varying
from gateway.outputs import Equipment
from gateway.rows.tables import Series, SeriesState, Study
from gateway.work.kept import Keep, decoded, encoded, paths
from tests.synthetic import ct_series

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
NAMES = {"pipelines": ("lung", "bone"), "peers": ("pacs", "archive")}
LUNG = "  - {name: lung, when: {all: [{attribute: Modality, is: CT}, {fact: slices, at_least: 4}]}, pipeline: lung, send_to: [pacs]}\n"
BONE = "  - {name: bone, when: {all: [{attribute: SliceThickness, at_most: 2}]}, pipeline: bone, send_to: [archive]}\n"


def rules(*texts: str):
    return load("rules:\n" + "".join(texts), **NAMES)


def facts_of(headers):
    equipment = Equipment("a", "b", "1", "1")
    return facts.facts(headers, equipment=equipment, calling_ae_title="CT1", called_ae_title="AIGATEWAY", ingest="dimse")


def a_settled_series(db, keep: Keep, headers, *, ago: timedelta = timedelta(hours=1)) -> str:
    uid = headers[0].SeriesInstanceUID
    with db.begin() as session:
        session.merge(Study(study_instance_uid="1.2", patient_name="", patient_id="", patient_birth_date="", accession_number="", first_received_at=NOW))  # fmt: skip
        session.flush()
        times = dict.fromkeys(("first_received_at", "last_received_at", "due_at", "complete_at"), NOW - ago)
        session.add(Series(series_instance_uid=uid, study_instance_uid="1.2", modality="CT", state=SeriesState.COMPLETE, **times))
    keep.put(uid, 1, headers, facts_of(headers))
    return uid


def test_every_attribute_is_kept_as_rules_read_it() -> None:
    series = ct_series(5, ContrastBolusAgentSequence=Sequence([code("A"), code("B")]))
    series[2].SliceThickness, series[3].ConvolutionKernel = "3.5", ["B", "C"]
    del series[4].BodyPartExamined

    kept = decoded(encoded(series, facts_of(series)))

    every = paths(series)
    assert {"Modality", "ContrastBolusAgentSequence/CodeValue", "ContrastBolusAgentSequence", "ImagePositionPatient"} <= set(
        every
    )
    assert kept.attributes(every) == {path: value for path, value in facts.attributes(series, every).items() if value is not None}
    assert isinstance(kept.attributes(["BodyPartExamined"])["BodyPartExamined"], Varying)
    assert dict(kept.facts) == facts_of(series)


def test_overlays_and_curves_have_no_keyword_of_their_own_and_the_rest_is_kept() -> None:
    series = ct_series(2)
    for header in series:
        header.add_new((0x6000, 0x0010), "US", 64)
        header.add_new((0x5000, 0x0005), "US", 1)

    kept = decoded(encoded(series, facts_of(series)))

    assert kept.attributes(["Modality"]) == {"Modality": "CT"}
    assert paths(series) == paths(ct_series(2))


def code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99X", value
    return item


def test_real_headers_are_kept_as_rules_read_them(real_data: Path) -> None:
    files = sorted(path for path in real_data.rglob("*.dcm"))[:40]
    headers = [
        header for header in (dcmread(path, stop_before_pixels=True, force=True) for path in files) if "SOPClassUID" in header
    ]

    for header in headers:
        every = paths([header])
        kept = decoded(encoded([header], {}))
        assert kept.attributes(every) == {
            path: value for path, value in facts.attributes([header], every).items() if value is not None
        }


def test_a_replay_says_what_a_draft_would_change(db, tmp_path: Path) -> None:
    keep = Keep(tmp_path)
    thick = a_settled_series(db, keep, ct_series(6, seed=1))
    thin = a_settled_series(db, keep, ct_series(6, seed=2, SliceThickness="1"))
    short = a_settled_series(db, keep, ct_series(2, seed=3))
    a_settled_series(db, keep, ct_series(6, seed=4), ago=timedelta(days=9))
    lost = a_settled_series(db, keep, ct_series(6, seed=5))
    keep.path(lost, 1).unlink()

    found = replay(
        db, keep, before=rules(LUNG), after=rules(LUNG.replace("[pacs]", "[pacs, archive]").replace("4", "7"), BONE),
        since=NOW - timedelta(days=7),
    )  # fmt: skip

    assert (found.series, found.unkept, found.unmatched, found.would_be_unmatched) == (4, 1, 1, 2)
    assert (found.new_jobs, found.lost_jobs, found.changed_peers) == (1, 2, 0)
    assert {one.rule: (one.matches, one.would_match, one.gained, one.lost, one.examples) for one in found.rules} == {
        "lung": (2, 0, 0, 2, [thick, thin]),
        "bone": (0, 1, 1, 0, [thin]),
    }
    assert {one.series_instance_uid: one.jobs for one in found.changed} == {
        thick: ("no job lung any more",),
        thin: ("new job bone to archive", "no job lung any more"),
    }
    assert short not in {one.series_instance_uid for one in found.changed}


def test_a_replay_tells_of_other_peers(db, tmp_path: Path) -> None:
    keep = Keep(tmp_path)
    a_settled_series(db, keep, ct_series(6))

    found = replay(db, keep, before=rules(LUNG), after=rules(LUNG.replace("[pacs]", "[archive]")), since=NOW - timedelta(days=1))

    assert found.changed_peers == 1
    assert found.changed[0].jobs == ("lung goes to archive instead of pacs",)


def test_without_words_the_same_rules_match() -> None:
    more = [
        "  - {name: any, when: {any: [{attribute: Modality, is: MR}, {fact: slices, at_most: 3}]}, pipeline: bone, send_to: [pacs]}\n",
        "  - {name: none, when: {none: [{attribute: Modality, is: MR}, {fact: localizer, is: true}]}, pipeline: bone, send_to: [pacs]}\n",
        "  - {name: idle, enabled: false, when: {all: [{attribute: Modality, is: CT}]}, pipeline: bone, send_to: [pacs]}\n",
        "  - {name: else, when: otherwise, pipeline: bone, send_to: [pacs]}\n",
        "  - {name: cel, when: {all: [{expression: \"slices > 2 && Modality == 'CT'\"}]}, pipeline: bone, send_to: [pacs]}\n",
    ]
    for rule_set in (rules(LUNG, BONE, *more), rules(BONE, more[0], more[3]), rules(BONE, more[3])):
        for known in ({"slices": 2}, {"slices": 9, "localizer": True}, {"slices": 9, "localizer": False}, {"results": True}):
            for modality in ("CT", "MR"):
                attributes = {"Modality": modality, "SliceThickness": Varying((1.0, 5.0))}
                with_words = [one.rule.name for one in match(rule_set, attributes, known) if one.matched]
                assert [rule.name for rule in matched(rule_set, attributes, known)] == with_words


def test_what_was_damaged_counts_as_not_kept(tmp_path: Path) -> None:
    keep = Keep(tmp_path)
    series = ct_series(2)
    keep.put("1.2", 1, series, facts_of(series))
    assert keep.get("1.2", 1) is not None

    keep.path("1.2", 1).write_bytes(keep.path("1.2", 1).read_bytes()[:-9])

    assert keep.get("1.2", 1) is None
    assert keep.get("1.2", 2) is None


def test_what_was_kept_is_forgotten_when_its_days_are_over(tmp_path: Path) -> None:
    keep, now = Keep(tmp_path), datetime.now(UTC)
    for number in range(3):
        keep.put(f"1.2.{number}", 1, ct_series(1), {})
    old = keep.path("1.2.0", 1)
    os.utime(old, (0, 0))

    gone = sum(keep.forget(now - timedelta(days=30), now + timedelta(minutes=turn)) for turn in range(256))

    assert gone == 1
    assert [keep.get(f"1.2.{number}", 1) is None for number in range(3)] == [True, False, False]


def test_what_cannot_be_forgotten_holds_up_nothing(tmp_path: Path) -> None:
    keep = Keep(tmp_path)
    (stuck := keep.path("1.2", 1)).mkdir(parents=True)
    os.utime(stuck, (0, 0))

    assert sum(keep.forget(datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=turn)) for turn in range(256)) == 0


def test_a_folder_that_cannot_be_written_holds_up_nothing(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("a file where the folder should be")

    Keep(tmp_path / "headers").put("1.2", 1, ct_series(2), {})


def test_headers_that_cannot_be_kept_hold_up_nothing(tmp_path: Path) -> None:
    keep = Keep(tmp_path)

    keep.put("1.2", 1, [Dataset({"no element": 1})], {})

    assert keep.get("1.2", 1) is None
