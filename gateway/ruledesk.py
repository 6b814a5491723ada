"""The desk for rules: what a person asks of them and does with them at the command line."""

from collections.abc import Iterable
from difflib import unified_diff
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway import rulebook
from gateway.desk import Desk
from gateway.plan import plan as plan_of
from gateway.roster import known
from gateway.rulebook import VersionLine
from gateway.screen import Row, at
from gateway.sections import Config


class RuleDesk(Desk):
    def __init__(self, config: Config, out: Console) -> None:
        ready = plan_of(config, with_rules=False)
        super().__init__(config, out)
        self._names: dict[str, Any] = {"pipelines": tuple(ready.pipelines), "peers": known(config).names}
        self._approval = config.rules.approval

    def plan(self, file: Path | None) -> bool:
        """True where it would change something."""
        file = file or self._config.rules.file
        text, rules = rulebook.read(file, **self._names)
        active = rulebook.active(self._db)
        if active is not None and active.digest == rules.digest:
            self._screen.line(f"version {active.number} is in force and says the same: nothing would change")
            return False
        before, title = (active.text, f"version {active.number}, in force") if active else ("", "no rules")
        self._difference(unified_diff(before.splitlines(), text.splitlines(), title, str(file), lineterm=""))
        return True

    def apply(self, file: Path | None, note: str) -> None:
        text, _ = rulebook.read(file or self._config.rules.file, **self._names)
        said = rulebook.apply(self._db, text, note=note, approval=self._approval, **self._names, **self._by)
        self._screen.line(escape(said))

    def draft(self, file: Path | None, note: str) -> None:
        text, _ = rulebook.read(file or self._config.rules.file, **self._names)
        number = rulebook.store(self._db, text, note=note, **self._names, **self._by)
        self._screen.line(f"version {number}: `gateway rules activate {number}` puts it in force")

    def history(self) -> None:
        columns = ("version", "state", "rules", "written", "by", "approved by")
        self._screen.rows(columns, map(_line, rulebook.history(self._db)), empty="no version yet")

    def show(self, number: int | None) -> None:
        self._screen.out.file.write(rulebook.text_of(self._db, number))

    def diff(self, before: int, after: int) -> None:
        lines = rulebook.difference(self._db, before, after)
        self._difference(lines or ["they are the same"])

    def approve(self, number: int) -> None:
        self._screen.line(escape(rulebook.approve(self._db, number, **self._by)))

    def activate(self, number: int) -> None:
        said = rulebook.activate(self._db, number, approval=self._approval, **self._names, **self._by)
        self._screen.line(escape(said))

    def rollback(self) -> None:
        self._screen.line(escape(rulebook.rollback(self._db, approval=self._approval, **self._names, **self._by)))

    def _difference(self, lines: Iterable[str]) -> None:
        for line in lines:
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            self._screen.line(f"[{colour}]{escape(line)}[/]" if colour else escape(line))


def _line(line: VersionLine) -> Row:
    version = line.version
    written = (str(version.rules), at(version.written_at), version.author, version.approver)
    in_force = (f"in force from {at(one.at)} by {one.actor}" for one in line.activations)
    return (str(version.number), line.state, *written), (version.digest, version.note, *in_force)
