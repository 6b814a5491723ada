"""People, sign-ins and tokens, on SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import update

from gateway.access import people, signin
from gateway.errors import ConfigError
from gateway.rows.accounts import Account, Right
from tests.rows_fixture import NOW

PASSWORD = "correct horse battery staple"
LIVES = signin.Lives(timedelta(minutes=30), timedelta(hours=12))


@pytest.fixture
def db(db):
    people.add_person(db, "admin", role="administrator", password=PASSWORD, actor="tests", now=NOW)
    people.add_person(db, "miller", role="operator", password=PASSWORD, actor="admin", now=NOW)
    return db


def who(db, secret: str) -> signin.Person | None:
    return signin.who_signed_in(db, secret, lives=LIVES, now=NOW, is_act=True)


def test_a_person_signs_in_is_known_and_signs_out(db) -> None:
    secret = signin.sign_in(db, "miller", PASSWORD, address="10.0.0.1", now=NOW)

    person = who(db, secret)
    assert (person.name, person.role) == ("miller", Right.OPERATOR)
    signin.sign_out(db, person, now=NOW)
    assert who(db, secret) is None


def test_wrong_passwords_are_counted_however_many_come_at_once(db) -> None:
    def guess(_number: int) -> None:
        with pytest.raises(signin.NotLetIn):
            signin.sign_in(db, "miller", "wrong", address="10.0.0.1", now=NOW)

    with ThreadPoolExecutor(6) as guesses:
        list(guesses.map(guess, range(6)))

    assert people.show_person(db, "miller").failures >= 5
    with pytest.raises(signin.NotLetIn, match="try again in 5 minutes"):
        signin.sign_in(db, "miller", PASSWORD, address="10.0.0.1", now=NOW)
    assert signin.sign_in(db, "miller", PASSWORD, address="10.0.0.1", now=NOW + timedelta(minutes=5))


def test_a_name_is_given_once_however_many_ask_at_once(db) -> None:
    def add(number: int) -> bool:
        try:
            people.add_person(db, "new", role="viewer", password=PASSWORD, actor=f"a{number}", now=NOW)
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(4) as asked:
        assert sum(asked.map(add, range(4))) == 1


@pytest.mark.parametrize("name", ["gateway", "Gateway", "setup", "unknown"])
def test_nobody_has_a_name_that_the_trail_has_for_itself(db, name: str) -> None:
    with pytest.raises(ConfigError, match="none that the trail has for itself"):
        people.add_person(db, name, role="viewer", password=PASSWORD, actor="admin", now=NOW)

    elsewhere = people.from_elsewhere(db, issuer="https://idp", subject="4711", name=name, role="viewer", now=NOW)
    assert elsewhere == "4711"


def test_two_administrators_cannot_disable_each_other(db) -> None:
    people.change_role(db, "miller", role="administrator", actor="admin", now=NOW)

    def disable(name: str) -> bool:
        try:
            people.disable(db, name, actor="x", now=NOW)
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(2) as asked:
        assert sum(asked.map(disable, ["admin", "miller"])) == 1


def test_somebody_else_is_disabled_where_there_is_no_administrator(db) -> None:
    people.add_person(db, "viewer", role="viewer", password=PASSWORD, actor="x", now=NOW)
    with db.begin() as session:
        session.execute(update(Account).where(Account.name == "admin").values(disabled_at=NOW))

    assert people.disable(db, "miller", actor="x", now=NOW) == "miller may not sign in any more"
    assert people.change_role(db, "viewer", role="operator", actor="x", now=NOW) == "viewer is operator now"


def test_a_new_password_ends_all_sign_ins_but_the_one_that_set_it(db) -> None:
    mine, other = (signin.begin(db, "miller", address="", now=NOW) for _ in range(2))

    people.set_password(
        db, "miller", password=PASSWORD[::-1], present=PASSWORD, actor="miller", now=NOW, keep=who(db, mine).digest
    )

    assert who(db, mine)
    assert who(db, other) is None


def test_sign_ins_that_are_over_are_forgotten(db) -> None:
    signin.begin(db, "miller", address="", now=NOW - timedelta(hours=1))
    kept = signin.begin(db, "miller", address="", now=NOW)

    signin.forget_ended(db, lives=LIVES, now=NOW)

    assert len(people.list_sign_ins(db, "miller")) == 1
    assert who(db, kept)


def test_who_may_not_sign_in_gets_no_token_for_the_day_on_which_they_may_again(db) -> None:
    people.disable(db, "miller", actor="root", now=NOW)

    with pytest.raises(ConfigError, match="miller may not sign in: expected somebody who may"):
        people.make_token(db, "miller", label="reports", role="viewer", days=7, actor="root", now=NOW)

    assert people.list_tokens(db) == []


def test_a_token_lets_a_program_in_until_it_is_revoked(db) -> None:
    made = people.make_token(db, "miller", label="reports", role="viewer", days=7, actor="miller", now=NOW)

    assert signin.who_has_token(db, made.secret, now=NOW) == signin.Person("miller", Right.VIEWER)
    assert people.list_tokens(db, "miller")[0].used_at == NOW
    people.revoke_token(db, made.token.id, actor="admin", now=NOW)
    assert signin.who_has_token(db, made.secret, now=NOW) is None
    assert people.list_tokens(db) == []


@pytest.mark.parametrize("ends", ["reset", "sign-out", "disabled"])
def test_what_an_administrator_ends_is_over_for_programs_too_and_it_is_said(db, ends: str) -> None:
    made = people.make_token(db, "miller", label="reports", role="viewer", days=7, actor="miller", now=NOW)
    act = {
        "reset": lambda: people.set_password(db, "miller", password=PASSWORD[::-1], actor="admin", now=NOW),
        "sign-out": lambda: people.end_sign_ins(db, "miller", actor="admin", now=NOW),
        "disabled": lambda: people.disable(db, "miller", actor="admin", now=NOW),
    }[ends]

    said = act()

    assert ends == "disabled" or said.endswith("; tokens revoked: 1")
    people.enable(db, "miller", actor="admin", now=NOW)
    assert signin.who_has_token(db, made.secret, now=NOW) is None


def test_what_people_end_themselves_leaves_their_programs_alone(db) -> None:
    made = people.make_token(db, "miller", label="reports", role="viewer", days=7, actor="miller", now=NOW)
    mine = who(db, signin.begin(db, "miller", address="", now=NOW)).digest

    people.end_sign_ins(db, "miller", actor="miller", now=NOW, keep=mine)
    people.set_password(db, "miller", password=PASSWORD[::-1], present=PASSWORD, actor="miller", now=NOW, keep=mine)

    assert signin.who_has_token(db, made.secret, now=NOW)


def test_somebody_from_elsewhere_is_the_same_person_each_time(db) -> None:
    def came(**changes: str) -> str:
        values = {"issuer": "https://idp", "subject": "s1", "name": "jones", "role": "viewer"} | changes
        return people.from_elsewhere(db, **values, now=NOW)

    assert came() == came(name="renamed", role="operator") == "jones"
    assert people.show_person(db, "jones").role == "operator"
    with pytest.raises(ConfigError, match="somebody of that name"):
        came(subject="s2", name="miller")
    with pytest.raises(signin.NotLetIn):
        signin.sign_in(db, "jones", "", address="", now=NOW)
