"""The commands of the rules, from a series that no rule wants to one that a rule takes, is replayed, and is rolled back."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from gateway.acts.rulebook import Current
from gateway.decisions.completeness import Policy
from gateway.outputs import Equipment
from gateway.pipeline import load_pipelines
from gateway.rows.tables import Job
from gateway.settle import settle
from gateway.work.kept import Keep
from tests.command_fixture import Command
from tests.door_fixture import Place, come
from tests.synthetic import ct_series, part10

HERE = Path(__file__).parent
CT = "rules:\n  - {name: chest CT, when: {all: [{attribute: Modality, is: CT}, {fact: slices, at_least: 2}]}, pipeline: bright, send_to: [pacs]}\n"
MR = CT.replace("is: CT", "is: MR")


@pytest.fixture
def place(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Place]:
    """A series that is complete, whose store and database are those of gateway.toml here."""
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    place.now = datetime.now(UTC) - timedelta(hours=1)
    come(place, ct_series(3))
    (tmp_path / "gateway.toml").write_text(
        f'[gateway]\npipelines = ["{HERE / "pipelines"}"]\n[store]\nfolder = "{tmp_path / "store"}"\n[database]\nurl = "sqlite:///{tmp_path / "gateway.db"}"\n'
        f'[[peers]]\nname = "pacs"\nprotocol = "folder"\npath = "{tmp_path / "pacs"}"\n'
    )  # fmt: skip
    (tmp_path / "rules.yaml").write_text(MR)
    yield place
    place.close()


@pytest.fixture
def gateway(gateway: Command):
    """`gateway ARGUMENTS` in that folder: its exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        code, out, err = gateway("", *arguments)
        return code, out + err

    return run


def look(place: Place) -> None:
    """As the stage does: with what is in force now."""
    place.now += timedelta(seconds=30)
    pipelines = {"bright": load_pipelines([HERE / "pipelines"])["bright"]}
    rules = Current(place.db, pipelines=lambda: pipelines, peers=lambda: ["pacs"])()
    settle(
        ct_series(3)[0].SeriesInstanceUID, place.now, policy=Policy(10, 3600), pipelines=pipelines, rules=rules,
        equipment=Equipment("a", "b", "1", "1"), store=place.store, db=place.db, queues=place.queues, put=Keep(place.store.headers).put,
    )  # fmt: skip


def test_a_series_that_no_rule_wanted_is_taken_by_a_version_that_was_replayed(place: Place, gateway, tmp_path: Path) -> None:
    assert gateway("rules", "apply") == (0, "version 1 is in force\n")
    look(place)
    assert "unmatched" in gateway("series", "held")[1]

    (tmp_path / "rules.yaml").write_text(CT)
    code, planned = gateway("rules", "plan")
    assert (code, "-  - {name: chest CT" in planned, "+  - {name: chest CT" in planned) == (2, True, True)
    told = json.loads(gateway("rules", "replay", "--json")[1])
    assert (told["series"], told["unkept"], told["new_jobs"], told["rules"][0]["gained"]) == (1, 0, 1, 1)
    assert "1 jobs more, 0 jobs fewer" in gateway("rules", "replay")[1]

    assert gateway("rules", "apply", "--note", "CT too") == (0, "version 2 is in force\n")
    assert gateway("rules", "plan") == (0, "version 2 is in force and says the same: nothing would change\n")
    assert "is looked at again" in gateway("series", "release")[1]
    place.now = datetime.now(UTC)
    look(place)
    with place.db() as session:
        assert [job.rules for job in session.query(Job)] == [["chest CT"]]
    assert "no series waits for a person" in gateway("series", "held")[1]

    assert gateway("rules", "rollback") == (0, "version 1 is in force\n")
    assert "CT too" in gateway("rules", "history")[1]
    assert gateway("rules", "show", "2") == (0, CT)
    assert "+  - {name: chest CT" in gateway("rules", "diff", "1", "2")[1]


def test_files_are_tried_without_a_word_of_the_patient(place: Place, gateway, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    for number, ds in enumerate(ct_series(3)):
        (folder / f"{number}.dcm").write_bytes(part10(ds))
    (folder / "notes.txt").write_text("no DICOM")
    deflated = ct_series(1, seed=2)[0]
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    (folder / "bomb.dcm").write_bytes(part10(deflated))
    gateway("rules", "apply")

    told = gateway("rules", "test", str(folder))[1]
    as_json = json.loads(gateway("rules", "test", str(folder), "--json")[1])
    written = gateway("rules", "suggest", str(folder))[1]
    (tmp_path / "suggested.yaml").write_text(written)

    assert "line 2: {attribute: Modality, is: MR} does not hold: expected MR; found CT" in told
    assert "line 2: {fact: slices, at_least: 2} holds: expected at least 2; found 3" in told
    assert "2 files are no DICOM of a series in a transfer syntax that is taken here" in told
    assert len(as_json) == 1
    assert [condition["held"] for condition in as_json[0]["rules"][0]["conditions"]] == [False, True]
    assert "matched" in gateway("rules", "test", str(folder), "--file", "suggested.yaml")[1]
    assert "CANARY" not in told + json.dumps(as_json) + written


def test_a_rule_is_suggested_without_a_pipeline_where_none_takes_such_images(place: Place, gateway, tmp_path: Path) -> None:
    (tmp_path / "nm").mkdir()
    (tmp_path / "nm" / "0.dcm").write_bytes(part10(ct_series(1, Modality="NM")[0]))
    gateway("rules", "apply")

    assert "    pipeline: PIPELINE  # none of yours takes NM\n" in gateway("rules", "suggest", str(tmp_path / "nm"))[1]


def test_a_rule_that_is_suggested_says_which_companions_its_pipeline_wants(place: Place, gateway, tmp_path: Path) -> None:
    (tmp_path / "mr").mkdir()
    for number, ds in enumerate(ct_series(2, Modality="MR")):
        (tmp_path / "mr" / f"{number}.dcm").write_bytes(part10(ds))
    gateway("rules", "apply")

    told = gateway("rules", "suggest", str(tmp_path / "mr"))[1]

    assert "    pipeline: prostate  # and companions: what adc, dwi are known by\n" in told


@pytest.mark.parametrize("arguments", [("rules", "activate", "9"), ("rules", "rollback"), ("series", "release", "1.2"), ("jobs", "release", "9"), ("rules", "show")])  # fmt: skip
def test_what_cannot_be_done_is_said(place: Place, gateway, arguments: tuple[str, ...]) -> None:
    code, told = gateway(*arguments)

    assert code == 1
    assert "there is no" in told or "no rules are in force" in told or "there is none" in told


def test_a_canary_without_results_is_said_to_have_none(place: Place, gateway) -> None:
    gateway("rules", "apply")

    assert "0 series went through both" in gateway("rules", "agreement", "chest CT")[1]


def test_the_agreement_of_a_rule_that_is_not_there_is_none(place: Place, gateway) -> None:
    gateway("rules", "apply")

    code, told = gateway("rules", "agreement", "chest TC")

    assert code != 0
    assert "no rule chest TC is in force" in " ".join(told.split())
    assert "chest CT" in told
