"""The desk for the roll: people and tokens, as the command line asks for and changes them."""

from gateway.access import people
from gateway.commands.desk import Desk
from gateway.commands.screen import Row, at


class Roll(Desk):
    def list_people(self) -> None:
        rows: list[Row] = [
            ((one.name, one.role, at(one.created_at), "disabled" if one.disabled_at else "may sign in"), (one.issuer,))
            for one in people.list_people(self._db)
        ]
        self._screen.rows(
            ("name", "role", "since", "state"), rows, empty="nobody may use the console yet: gateway users add NAME"
        )  # fmt: skip

    def list_tokens(self) -> None:
        now = self._by["now"]
        rows: list[Row] = [
            (
                (str(one.id), one.account, one.role, at(one.expires_at), at(one.used_at) if one.used_at else "never"),
                (one.label + (": it is over" if one.expires_at <= now else ""),),
            )
            for one in people.list_tokens(self._db)
        ]
        self._screen.rows(("token", "of", "role", "until", "last used"), rows, empty="there are no tokens")

    def add(self, name: str, role: str, password: str) -> None:
        self._say(people.add_person(self._db, name, role=role, password=password, **self._by))

    def change_role(self, name: str, role: str) -> None:
        self._say(people.change_role(self._db, name, role=role, **self._by))

    def disable(self, name: str) -> None:
        self._say(people.disable(self._db, name, **self._by))

    def enable(self, name: str) -> None:
        self._say(people.enable(self._db, name, **self._by))

    def set_password(self, name: str, password: str) -> None:
        self._say(people.set_password(self._db, name, password=password, **self._by))

    def make_token(self, name: str, label: str, role: str, days: int) -> None:
        """Prints its secret."""
        self._say(people.make_token(self._db, name, label=label, role=role, days=days, **self._by).secret)

    def revoke_token(self, token: int) -> None:
        self._say(people.revoke_token(self._db, token, **self._by))
