"""Compare the numbers that several papers print for one method with each other and with those measured here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reports.words import percent
from reproduce import metrics
from reproduce.data.catalogue import letters
from reproduce.metrics import title
from reproduce.papers.tables import UNLABELLED, Number, Paper, full_label
from reproduce.wording import listing

if TYPE_CHECKING:
    from reports.cases import Case

OWN = frozenset({"ours", "baseline", ""})
"""Names that mean something different in each paper."""


def shown() -> tuple[str, ...]:
    """Return the metrics to compare."""
    return metrics.names(judged=True)


@dataclass(frozen=True)
class Line:
    """One row, or several of one paper that agree: a cell for each task and metric, empty where nothing is printed."""

    paper: str
    file: str
    tables: str
    label: str
    ref: str
    cells: tuple[str, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Method:
    """A method printed by at least two papers."""

    name: str
    anchor: str
    tasks: tuple[str, ...]
    papers: str
    lines: tuple[Line, ...]
    headings: tuple[str, ...] = field(default_factory=lambda: tuple(map(title, shown())))


@dataclass
class _Row:
    """Rows of one paper whose numbers for one method agree where they overlap."""

    key: str
    label: str
    ref: str
    values: dict[tuple[str, str], float]
    places: list[tuple[str, str, str]]

    @property
    def paper(self) -> str:
        return self.places[0][0]


def methods(papers: Mapping[str, Paper], cases: Sequence[Case], files: Mapping[str, str]) -> tuple[Method, ...]:
    """Find the methods that at least two papers print, by name.

    Args:
        papers: Papers as printed.
        cases: Measured cases.
        files: Page of each paper that has one.
    """
    by_key: dict[str, list[_Row]] = {}
    for id, paper in papers.items():
        rows: dict[tuple[str, str, str], _Row] = {}
        for number in paper.numbers():
            key = _key(number.row.label, paper.name)
            if number.metric in shown() and number.column.task != "none" and key not in OWN:
                place = (id, number.table, number.row.id)
                row = rows.setdefault(place, _Row(key, full_label(number.row), number.row.ref, {}, [place]))
                row.values[_task(number), number.metric] = number.value
        for row in rows.values():
            _join(row, by_key.setdefault(row.key, []))
    by_place: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        by_place.setdefault((case.paper, case.table, case.row), []).append(case)
    shared = {key: rows for key, rows in by_key.items() if len({row.paper for row in rows}) > 1}
    return tuple(_method(key, shared[key], papers, by_place, files) for key in sorted(shared))


def _key(label: str, paper: str) -> str:
    """Normalise a method's name: drop references, variants and signs."""
    plain = re.sub(r"\[[^]]*\]|\([^)]*\)|:.*", "", label).lower()
    name = re.sub(r"[^a-z0-9+]", "", plain)
    return re.sub(r"[^a-z0-9+]", "", paper.lower()) if name == "ours" else name


def _task(number: Number) -> str:
    """Name a task: `m2d`, `u2d` without a source, or words if the source is no single data set."""
    by_name = {name: letter for letter, name in letters().items()} | {"none": UNLABELLED}
    source, target = (by_name.get(name, name) for name in (number.source, number.target))
    return f"{source}2{target}" if len(source) == 1 else f"{source} to {target}"


def _join(row: _Row, rows: list[_Row]) -> None:
    """Merge a row with one of its paper that does not contradict it, or append it."""
    for other in rows:
        same = (other.paper, other.label, other.ref) == (row.paper, row.label, row.ref)
        if same and all(other.values.get(where, value) == value for where, value in row.values.items()):
            other.values |= row.values
            other.places += row.places
            return
    rows.append(row)


def _tables(row: _Row) -> str:
    names = list(dict.fromkeys(table for _, table, _ in row.places))
    return f"table{'s' if len(names) > 1 else ''} {listing(names)}"


def _method(
    key: str,
    rows: Sequence[_Row],
    papers: Mapping[str, Paper],
    cases: Mapping[tuple[str, str, str], list[Case]],
    files: Mapping[str, str],
) -> Method:
    counted: dict[str, int] = {}
    for row in rows:
        for task in dict.fromkeys(task for task, _ in row.values):
            counted[task] = counted.get(task, 0) + 1
    tasks = tuple(sorted(counted, key=lambda task: (-counted[task], task)))
    printing = dict.fromkeys(papers[row.paper].name for row in rows)
    lines = tuple(
        Line(
            paper=papers[row.paper].name,
            file=files.get(row.paper, ""),
            tables=_tables(row),
            label=row.label,
            ref=row.ref,
            cells=tuple(
                percent(row.values[place]) if place in row.values else ""
                for place in ((task, name) for task in tasks for name in shown())
            ),
            cases=tuple(case for place in row.places for case in cases.get(place, ()) if case.measured),
        )
        for row in rows
    )
    shortest = min((row.label for row in rows if _key(row.label, "") == key), key=len, default=rows[0].label)
    name = re.sub(r"\s*(\([^)]*\)|:.*)", "", shortest) or key
    return Method(name, f"method-{key}", tasks, listing(list(printing)), lines)
