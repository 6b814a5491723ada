"""Versions of the rules: kept for ever, one in force, and every change of it told with who and when."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.acts import rulebook
from gateway.acts.rulebook import Current, VersionState
from gateway.db import Database
from gateway.errors import ConfigError
from gateway.rows.trail import AuditEvent

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
NAMES = {"pipelines": ("bright", "dark"), "peers": ("pacs", "archive")}
FIRST = "rules:\n  - {name: one, when: {all: [{attribute: Modality, is: CT}]}, pipeline: bright, send_to: [pacs]}\n"
SECOND = FIRST + "  - {name: two, when: {all: [{attribute: Modality, is: MR}]}, pipeline: dark, send_to: [archive]}\n"


def apply(db: Database, text: str, *, actor: str = "anna", approval: bool = False, minutes: int = 0) -> str:
    return rulebook.apply(db, text, approval=approval, actor=actor, now=NOW + timedelta(minutes=minutes), **NAMES)


def activate(db: Database, number: int, *, actor: str = "anna", approval: bool = False) -> str:
    return rulebook.activate(db, number, approval=approval, actor=actor, now=NOW, **NAMES)


def draft(db: Database, text: str, *, actor: str = "anna") -> int:
    return rulebook.store(db, text, actor=actor, now=NOW, **NAMES)


def states(db: Database) -> list[tuple[int, str]]:
    return [(line.version.number, line.state) for line in rulebook.history(db)]


def events(db: Database) -> list[AuditEvent]:
    with db() as session:
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.id)))


def test_the_file_becomes_version_one_at_the_first_start_and_is_not_read_again(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(FIRST)

    rulebook.begin(db, file, now=NOW, **NAMES)
    file.write_text("rules: [wrong")
    rulebook.begin(db, file, now=NOW, **NAMES)

    assert states(db) == [(1, VersionState.ACTIVE)]
    assert rulebook.text_of(db) == FIRST
    assert [event.act for event in events(db)] == ["rules.written", "rules.activated"]


def test_processes_that_start_at_once_make_one_first_version(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(FIRST)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: rulebook.begin(db, file, now=NOW, **NAMES), range(4)))

    assert states(db) == [(1, VersionState.ACTIVE)]
    assert [event.act for event in events(db)] == ["rules.written", "rules.activated"]


def test_a_wrong_first_file_is_refused_with_its_lines(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(FIRST.replace("bright", "brightt"))

    with pytest.raises(ConfigError, match=r"rules.yaml: line 2, rule 'one': expected pipeline: .*, did you mean 'bright'"):
        rulebook.begin(db, file, now=NOW, **NAMES)

    assert states(db) == []


def test_an_applied_text_is_a_new_version_in_force_and_the_trail_says_who(db: Database) -> None:
    apply(db, FIRST)

    assert apply(db, SECOND, actor="berta") == "version 2 is in force"
    assert apply(db, SECOND + "# a comment\n") == "version 2 is in force and says the same: nothing is changed"
    assert states(db) == [(2, VersionState.ACTIVE), (1, VersionState.RETIRED)]
    last = events(db)[-1]
    first, second = (line.version.digest for line in rulebook.history(db)[::-1])
    assert (last.act, last.actor) == ("rules.activated", "berta")
    assert last.detail == {"version": 2, "rules_digest": second, "before": first}


def test_a_bad_text_is_refused_and_the_version_in_force_stays(db: Database) -> None:
    apply(db, FIRST)

    for bad in (
        FIRST.replace("Modality", "Modalty"),
        "rules: [" + "{}," * 10_001 + "]",
        FIRST.replace("is: CT", "matches: '(a+)+('"),
    ):
        with pytest.raises(ConfigError):
            apply(db, bad)

    assert states(db) == [(1, VersionState.ACTIVE)]


def test_a_rollback_puts_the_version_before_in_force(db: Database) -> None:
    apply(db, FIRST)
    apply(db, SECOND)

    said = rulebook.rollback(db, approval=True, actor="anna", now=NOW, **NAMES)

    assert said == "version 1 is in force"
    assert states(db) == [(2, VersionState.RETIRED), (1, VersionState.ACTIVE)]
    assert [one.actor for one in rulebook.history(db)[1].activations] == ["anna", "anna"]


def test_without_a_version_before_there_is_no_rollback(db: Database) -> None:
    apply(db, FIRST)

    with pytest.raises(ConfigError, match="there is none"):
        rulebook.rollback(db, approval=False, actor="anna", now=NOW, **NAMES)


def test_where_a_second_person_has_to_agree_the_author_alone_changes_nothing(db: Database) -> None:
    assert apply(db, FIRST, approval=True).startswith("version 1 is a draft")

    with pytest.raises(ConfigError, match="another person"):
        activate(db, 1, approval=True)
    with pytest.raises(ConfigError, match="another person"):
        rulebook.approve(db, 1, actor="anna", now=NOW)
    assert states(db) == [(1, VersionState.DRAFT)]

    rulebook.approve(db, 1, actor="berta", now=NOW)
    assert states(db) == [(1, VersionState.APPROVED)]
    with pytest.raises(ConfigError, match="approved already"):
        rulebook.approve(db, 1, actor="carl", now=NOW)
    assert activate(db, 1, approval=True) == "version 1 is in force"

    draft(db, SECOND)
    assert activate(db, 2, actor="berta", approval=True) == "version 2 is in force"


def test_a_version_that_fits_no_more_does_not_come_into_force(db: Database) -> None:
    apply(db, FIRST)
    draft(db, SECOND)

    with pytest.raises(ConfigError, match="expected send_to"):
        rulebook.activate(db, 2, pipelines=NAMES["pipelines"], peers=("pacs",), approval=False, actor="anna", now=NOW)

    assert states(db) == [(2, VersionState.DRAFT), (1, VersionState.ACTIVE)]


def test_of_two_who_activate_at_once_each_change_is_one_row(db: Database) -> None:
    apply(db, FIRST)
    for name in ("b", "c", "d", "e"):
        draft(db, FIRST.replace("one", name))

    def try_it(number: int) -> bool:
        try:
            activate(db, number)
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(try_it, (2, 3, 4, 5)))

    told = [event.detail["version"] for event in events(db) if event.act == "rules.activated"]
    assert any(done)
    assert len(told) == 1 + sum(done)
    assert states(db)[::-1][told[-1] - 1] == (told[-1], VersionState.ACTIVE)


def test_what_is_in_force_is_read_anew_when_it_changes(db: Database) -> None:
    peers = ["pacs", "archive"]
    current = Current(db, pipelines=lambda: NAMES["pipelines"], peers=lambda: peers)
    assert current().rules == ()

    apply(db, FIRST)
    first = current()
    assert (first.version, [rule.name for rule in first.rules]) == (1, ["one"])
    assert current() is first

    apply(db, SECOND)
    assert (current().version, len(current().rules)) == (2, 2)


def test_a_rule_whose_peer_has_gone_is_refused_and_the_others_go_on(db: Database) -> None:
    apply(db, SECOND)

    rules = Current(db, pipelines=lambda: NAMES["pipelines"], peers=lambda: ["pacs"])()

    assert [(rule.name, rule.problem) for rule in rules.rules] == [
        ("one", ""),
        ("two", "line 3, rule 'two': expected send_to: one of pacs"),
    ]


def test_the_lines_that_differ_are_told(db: Database) -> None:
    apply(db, FIRST)
    apply(db, SECOND)

    assert [line[:12] for line in rulebook.difference(db, 1, 2)] == [
        "--- version ",
        "+++ version ",
        "@@ -1,2 +1,3",
        " rules:",
        "   - {name: ",
        "+  - {name: ",
    ]


def test_a_version_that_is_not_there_is_said_not_to_be(db: Database) -> None:
    for act in (lambda: rulebook.text_of(db, 7), lambda: activate(db, 7), lambda: rulebook.approve(db, 7, actor="a", now=NOW)):
        with pytest.raises(ConfigError, match="there is no version 7"):
            act()
    with pytest.raises(ConfigError, match="no rules are in force yet"):
        rulebook.text_of(db)
