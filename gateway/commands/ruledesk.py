"""The desk for rules: what a person asks of them and does with them at the command line."""

from collections.abc import Iterable
from contextlib import closing
from datetime import datetime, timedelta
from difflib import unified_diff
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape

from gateway.acts import rulebook
from gateway.acts.replay import Replay, replay
from gateway.acts.rulebook import VersionLine
from gateway.acts.trial import Tried, files_of, samples, tried
from gateway.commands.desk import Desk
from gateway.commands.screen import Row, at
from gateway.configuration.sections import Config
from gateway.decisions.arrival import arrival
from gateway.decisions.rules import RuleSet, load, load_taken
from gateway.errors import ConfigError
from gateway.roster import known
from gateway.serving.plan import plan as plan_of
from gateway.serving.stages import equipment
from gateway.store import Store
from gateway.views.agreement import agreement
from gateway.work.kept import Keep


class RuleDesk(Desk):
    def __init__(self, config: Config, out: Console) -> None:
        ready = plan_of(config, with_rules=False)
        super().__init__(config, out)
        self._names: rulebook.Names = {"pipelines": ready.pipelines, "peers": known(config).names}
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
        self._say(rulebook.apply(self._db, text, note=note, approval=self._approval, **self._names, **self._by))

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
        self._say(rulebook.approve(self._db, number, **self._by))

    def activate(self, number: int) -> None:
        self._say(rulebook.activate(self._db, number, approval=self._approval, **self._names, **self._by))

    def rollback(self) -> None:
        self._say(rulebook.rollback(self._db, approval=self._approval, **self._names, **self._by))

    def replay(self, file: Path | None, number: int | None, days: float) -> Replay:
        """The file, or a version, beside what is in force."""
        if number is None:
            after = rulebook.read(file or self._config.rules.file, **self._names)[1]
        else:
            after = load(rulebook.text_of(self._db, number), **self._names)
        before = self.version(None)
        since = self._by["now"] - timedelta(days=days)
        return replay(self._db, Keep(self._config.store_folder / "headers"), before=before, after=after, since=since)

    def version(self, number: int | None) -> RuleSet:
        """A version as it would be followed now; by default the one in force."""
        return load_taken(rulebook.text_of(self._db, number), **self._names, version=number or 0)

    def replayed(self, found: Replay) -> None:
        say = self._screen.line
        say(f"{found.series} series; {found.unkept} of them without kept headers, nothing is said of those")
        say(f"{found.unmatched} of them are wanted by no rule now; {found.would_be_unmatched} would be")
        say(f"{found.new_jobs} jobs more, {found.lost_jobs} jobs fewer, {found.changed_peers} to other peers")
        columns = ("rule", "matches", "would match", "gains", "loses")
        rows: list[Row] = [
            ((one.rule, str(one.matches), str(one.would_match), str(one.gained), str(one.lost)), one.examples)
            for one in found.rules
        ]
        self._screen.rows(columns, rows, empty="no rules")

    def agreement(self, rule: str) -> None:
        """Of a rule's canary with the pipeline beside it."""
        found, say = agreement(self._db, Store(self._config.store_folder), rule), self._screen.line
        names = [one.name for one in self.version(None).rules] if not found.pairs else [rule]
        if rule not in names:
            raise ConfigError([f"no rule {rule} is in force, and none had a canary: the rules are {', '.join(names)}"])
        say(f"{len(found.pairs)} series went through both; {found.unreadable} of which results are gone or damaged")
        dice: list[Row] = [
            ((label, str(one.n), f"{one.median:.3f}", f"{one.worst:.3f}"), ()) for label, one in found.dice.items()
        ]
        self._screen.rows(("segment", "n", "Dice, median", "worst"), dice, empty="no segments to compare")
        numbers: list[Row] = [
            ((", ".join(filter(None, what)), str(one.n), f"{one.median:.1%}", f"{one.worst:.1%}"), ())
            for what, one in found.differences.items()
        ]
        self._screen.rows(("measurement", "n", "difference, median", "worst"), numbers, empty="no measurements to compare")
        for pair in found.pairs:
            if pair.only_one:
                jobs = f"jobs {pair.jobs[0]} and {pair.jobs[1]} of series {pair.series_instance_uid}"
                say(escape(f"{jobs}: only one has {'; '.join(pair.only_one)}"))

    def _difference(self, lines: Iterable[str]) -> None:
        for line in lines:
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            self._screen.line(f"[{colour}]{escape(line)}[/]" if colour else escape(line))


def _line(line: VersionLine) -> Row:
    version = line.version
    written = (str(version.rules), at(version.written_at), version.author, version.approver)
    in_force = (f"in force from {at(one.at)} by {one.actor}" for one in line.activations)
    return (str(version.number), line.state, *written), (version.digest, version.note, *in_force)


def try_files(
    config: Config, path: Path, *, file: Path | None, number: int | None, titles: dict[str, str], at_time: datetime
) -> tuple[list[Tried], int]:
    """What the version in force, another one, or a file says of each series in `path`; and how many files no door would take.

    Where there is no database yet, [rules] file says it.
    """
    ready = plan_of(config, with_rules=False)
    peers = tuple(known(config).names)
    rules = _chosen(config, file, number, {"pipelines": ready.pipelines, "peers": peers})
    found, others = samples(files_of(path))
    came = arrival(at_time, zone=ZoneInfo(config.gateway.time_zone), caller="")
    takes = {name: pipeline.needs for name, pipeline in ready.pipelines.items()}
    more = {"equipment": equipment(), "pipelines": takes, "peers": peers, "arrival": came}
    return [tried(sample, rules, **titles, **more) for sample in found], others  # type: ignore[arg-type]


def _chosen(config: Config, file: Path | None, number: int | None, names: dict[str, Any]) -> RuleSet:
    if file is not None:
        return rulebook.read(file, **names)[1]
    try:
        desk = RuleDesk(config, Console(quiet=True))
    except ConfigError:
        if number is not None:
            raise
        return rulebook.read(config.rules.file, **names)[1]
    with closing(desk):
        return desk.version(number)
