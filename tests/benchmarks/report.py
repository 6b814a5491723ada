"""Figures of a benchmark as text: a table for each scenario, and at the end every goal with what was reached."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

Figures = dict[str, float]
"""Of one run: what was measured, by the heading of its column."""


@dataclass(frozen=True)
class Goal:
    """`reached` is wanted to be at least (or at most) `wanted`."""

    what: str
    reached: float
    wanted: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.reached <= self.wanted if self.at_most else self.reached >= self.wanted

    def __str__(self) -> str:
        bound = "at most" if self.at_most else "at least"
        return f"{self.what:78} {self.reached:8.2f}   goal: {bound} {self.wanted:g}   {'holds' if self.holds else 'missed'}"


@dataclass
class Report:
    scenarios: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)

    def tell(self, scenario: str, title: str, rounds: Mapping[str, list[Figures]]) -> None:
        """Print the medians of each row; the first column with its spread."""
        self.scenarios[scenario] = dict(rounds)
        columns = list(dict.fromkeys(name for runs in rounds.values() for figures in runs for name in figures))
        print(f"\n{scenario}: {title}")
        print(" " * 26 + "".join(f"{name:>{_width(n, name)}}" for n, name in enumerate(columns)))
        for row, runs in rounds.items():
            cells = [
                _cell([figures[name] for figures in runs if name in figures], spread=n == 0) for n, name in enumerate(columns)
            ]
            print(f"  {row:24}" + "".join(f"{cell:>{_width(n, columns[n])}}" for n, cell in enumerate(cells)), flush=True)

    def reach(self, what: str, reached: float | None, wanted: float, *, at_most: bool = False) -> None:
        if reached is not None:
            self.goals.append(Goal(what, reached, wanted, at_most))
            print(f"  {self.goals[-1]}", flush=True)

    def compare(self, scenario: str, column: str, row: str, wanted: Mapping[str, float]) -> None:
        """The ratio of the medians of `row` and of each other one."""
        rounds = self.scenarios[scenario]
        for other, goal in wanted.items():
            self.reach(f"{scenario}: {column} of {row} / {other}", ratio(rounds, column, row, other), goal)

    def tell_goals(self) -> None:
        if self.goals:
            print(f"\n{sum(goal.holds for goal in self.goals)} of {len(self.goals)} goals hold")
        for goal in self.goals:
            print(f"  {goal}")

    def save(self, file: Path) -> None:
        goals = [asdict(goal) | {"holds": goal.holds} for goal in self.goals]
        file.write_text(json.dumps({"scenarios": self.scenarios, "goals": goals}, indent=1))


def ratio(rounds: Mapping[str, Sequence[Figures]], column: str, row: str, other: str) -> float | None:
    one, two = (median(rounds.get(name, ()), column) for name in (row, other))
    return one / two if one is not None and two else None


def median(runs: Sequence[Figures], column: str) -> float | None:
    values = [figures[column] for figures in runs if column in figures]
    return statistics.median(values) if values else None


def _cell(values: Sequence[float], *, spread: bool) -> str:
    if not values:
        return "-"
    text = _number(statistics.median(values))
    return f"{text} ({_number(min(values))}..{_number(max(values))})" if spread else text


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _width(column: int, name: str) -> int:
    return 24 if column == 0 else max(len(name) + 3, 9)
