"""Provenance both ways: of a result, what it was made of, by what, and where it went; of an input, what was made of it."""

from datetime import timedelta
from pathlib import Path

import pytest

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.errors import ConfigError
from gateway.rows.tables import Delivery, Instance, Job, JobInstance, OutputInstance, RuleOutcome, Version
from gateway.views.provenance import provenance
from tests.command_fixture import Command
from tests.rows_fixture import NOW, OUTPUT, SERIES, SOURCE, STUDY, a_delivery, a_job, a_series

BY = {
    "name": "bright", "version": "1.2", "manufacturer": "Example", "model": "bright", "model_version": "3", "weights": "9" * 64,
    "device_uid": "2.25.9",
}  # fmt: skip
REVISED, NOTE = "2.25." + "5" * 59, "2.25." + "6" * 59


@pytest.fixture
def db(db):
    a_series(db)
    with db.begin() as session:
        audit.record(session, Act.INSTANCE_RECEIVED, at=NOW, actor="CT1", series=SERIES, instance=SOURCE, sha256="5" * 64)
        session.get_one(RuleOutcome, (SERIES, 1, "chest CT")).matched = True
    return db


def a_result(db: Database) -> int:
    """Made by a job and proved to have reached a peer; returns the job."""
    job = a_job(db, state="done", provenance=BY, ended_at=NOW)
    a_delivery(db, job, state="proved", proof="commitment", sent_at=NOW, proved_at=NOW + timedelta(minutes=1))
    return job


def another(db: Database, uid: str, job: int, retracts: str = "") -> None:
    with db.begin() as session:
        session.add(
            OutputInstance(
                sop_instance_uid=uid, job=job, study_instance_uid=STUDY, series_instance_uid=SERIES, sop_class_uid="1.2",
                modality="SEG", sha256="8" * 64, size=1, created_at=NOW, retracts=retracts,
            )
        )  # fmt: skip


def test_a_result_tells_what_it_was_made_of_and_by_what(db) -> None:
    job = a_result(db)

    made = provenance(db, OUTPUT).made

    assert made is not None
    assert (made.job.id, made.job.provenance) == (job, BY)
    assert [(rule.rule, rule.rules_digest) for rule in made.rules] == [("chest CT", "6" * 64)]
    assert [(one.sop_instance_uid, one.sha256) for one in made.inputs] == [(SOURCE, "5" * 64)]
    assert [(one.peer, one.state, one.proof) for one in made.result.deliveries] == [("pacs", "proved", "commitment")]
    assert provenance(db, OUTPUT).came is None


def test_an_input_tells_what_was_made_of_it_and_where_that_went(db) -> None:
    job = a_result(db)

    came = provenance(db, SOURCE).came

    assert came is not None
    assert (came.instance.sha256, came.origin.calling_ae_title, came.series.series_instance_uid) == ("5" * 64, "CT1", SERIES)
    ((read_by, (result,)),) = came.work
    assert (read_by.id, result.output.sop_instance_uid) == (job, OUTPUT)
    assert [(one.peer, one.state) for one in result.deliveries] == [("pacs", "proved")]
    assert [event.act for event in provenance(db, SOURCE).events] == ["instance.received"]


def test_an_input_that_no_job_read_says_so(db) -> None:
    came = provenance(db, SOURCE).came

    assert came is not None
    assert came.work == []


def test_other_bytes_under_the_uid_of_an_input_are_told(db) -> None:
    with db.begin() as session:
        session.add(Version(sop_instance_uid=SOURCE, sha256="f" * 64, series_instance_uid=SERIES, size=1, received_at=NOW))

    came = provenance(db, SOURCE).came

    assert came is not None
    assert [version.sha256 for version in came.apart] == ["f" * 64]


def test_results_of_revisions_are_linked_both_ways(db) -> None:
    earlier = a_result(db)
    later = a_job(db, input_key="a" * 64, revision=2, supersedes=earlier, state="done")
    another(db, REVISED, later)

    old, new = provenance(db, OUTPUT).made, provenance(db, REVISED).made

    assert old is not None
    assert new is not None
    assert (old.supersedes, old.superseded_by) == ([], [REVISED])
    assert (new.supersedes, new.superseded_by) == ([OUTPUT], [])


def test_a_retraction_is_linked_both_ways_and_supersedes_nothing(db) -> None:
    job = a_result(db)
    another(db, NOTE, job, retracts=OUTPUT)

    result, note = provenance(db, OUTPUT).made, provenance(db, NOTE).made

    assert result is not None
    assert note is not None
    assert (result.retracted_by, result.superseded_by) == ([NOTE], [])
    assert note.result.output.retracts == OUTPUT


def test_a_result_that_was_sent_back_to_us_was_made_and_came(db) -> None:
    a_result(db)
    with db.begin() as session:
        session.add(Instance(sop_instance_uid=OUTPUT, series_instance_uid=SERIES, association="a", sop_class_uid="1.2", transfer_syntax_uid="1.2", sha256="8" * 64, size=1, received_at=NOW))  # fmt: skip

    found = provenance(db, OUTPUT)

    assert (found.made is not None, found.came is not None) == (True, True)


def test_an_instance_that_was_refused_is_told_by_the_trail(db) -> None:
    with db.begin() as session:
        audit.record(session, Act.INSTANCE_REFUSED, at=NOW, actor="CT9", instance="2.25.77", reason="not a data set")

    found = provenance(db, "2.25.77")

    assert (found.made, found.came, [event.act for event in found.events]) == (None, None, ["instance.refused"])


def test_what_never_came_and_was_never_made_is_told(db) -> None:
    with pytest.raises(ConfigError, match=r"there is no instance 2\.25\.4711"):
        provenance(db, "2.25.4711")


def test_many_jobs_of_one_input_are_told_in_their_order(db) -> None:
    jobs = [a_job(db, input_key=str(number) * 64, pipeline=f"p{number}") for number in range(3)]

    came = provenance(db, SOURCE).came

    assert came is not None
    assert [job.id for job, _ in came.work] == jobs
    with db() as session:
        assert session.query(JobInstance).count() == session.query(Job).count() == 3
        assert session.query(Delivery).count() == 0


@pytest.fixture
def gateway(db, database_url: str, tmp_path: Path, gateway: Command) -> Command:
    (tmp_path / "gateway.toml").write_text(f'[database]\nurl = "{database_url}"\n')
    return gateway


def test_the_command_tells_a_result_on_one_screen(gateway, db) -> None:
    job = a_result(db)
    another(db, NOTE, job, retracts=OUTPUT)

    code, out, err = gateway(f"audit show {OUTPUT}")
    lines = [line.strip() for line in out.splitlines()]

    assert (code, err) == (0, "")
    assert lines[0] == f"SEG {OUTPUT} was made here"
    for line in (
        f"SHA-256 {'8' * 64}, 1250000 bytes", f"job {job} bright: done, revision 1 of series {SERIES}",
        f"rule chest CT of rules {'6' * 64}", "pipeline bright version 1.2, Example",
        f"model bright version 3, weights {'9' * 64}", f"is retracted by {NOTE}", "made of 1 instances:",
        f"{SOURCE} SHA-256 {'5' * 64}",
    ):  # fmt: skip
        assert line in lines
    assert any("proved by commitment" in line for line in lines)
    assert "CANARY" not in out


def test_the_command_tells_an_input(gateway, db) -> None:
    a_result(db)

    code, out, err = gateway(f"audit show {SOURCE}")
    lines = [line.strip() for line in out.splitlines()]

    assert (code, err) == (0, "")
    assert lines[0] == f"CT {SOURCE} came in"
    assert lines[1].endswith("from CT1 at 127.0.0.1 over dimse")
    assert lines[2:4] == [f"SHA-256 {'5' * 64}, 2500000 bytes", f"series {SERIES}"]
    assert lines[4].endswith("bright: done, read it for chest CT")
    assert lines[5].startswith(f"SEG {OUTPUT} of 2026-01-0")
    assert "CANARY" not in out


def test_the_command_tells_that_there_is_no_such_instance(gateway) -> None:
    assert gateway("audit show 2.25.4711") == (1, "", "there is no instance 2.25.4711\n")
