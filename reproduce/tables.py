"""What the papers print: TOML files as checked values, and their rows as test cases."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.data.domains import Domain
from reproduce.stage import Stage, UserError

LETTERS = {"m": "market", "d": "duke", "t": "msmt17", "c": "cuhk03", "x": "personx"}
METRICS = ("mAP", "rank1", "rank5", "rank10")
BAND = 2.0
"""Percent points around a printed number of an adapted model, until seed spread is measured."""

EXECUTED = ("yes", "no", "unsure")

Printed = Mapping[str, float | None]


@dataclass(frozen=True)
class Task:
    """A source and a target domain, such as `m2d`; a supervised row has the same domain twice."""

    name: str

    @property
    def source(self) -> Domain:
        return Domain(LETTERS[self.name[0]])

    @property
    def target(self) -> Domain:
        return Domain(LETTERS[self.name[2]])

    def __str__(self) -> str:
        return self.name


Recipe = Callable[[Task, int], Stage[Any]]
"""What produces a row: from the task and a training seed to the stage that evaluates it."""


@dataclass(frozen=True)
class Row:
    """A row as the paper shows it.

    Attributes:
        printed: by column, then metric, in percent; None where the paper prints no number.
        executed: whether the authors ran it ("yes"), quoted it ("no"), or do not say ("unsure").
        runs: the task that was really run for a column, where it is another one (supervised rows).
        band: how far, in percent points, a measured number may lie from the printed one.
    """

    id: str
    label: str
    executed: str
    printed: Mapping[str, Printed]
    runs: Mapping[str, str]
    band: float
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A printed table.

    Attributes:
        where: the section or page that holds it.
        columns: heading by task.
        metrics: in printed order.
        checked: how the transcription was checked.
    """

    id: str
    caption: str
    where: str
    columns: Mapping[str, str]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    checked: str
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper and its tables."""

    id: str
    title: str
    authors: str
    venue: str
    tables: Mapping[str, Table]

    def cases(self, table: str, **recipes: Recipe) -> list[Any]:
        """The executed rows of a table on each task, as parameters for `pytest.mark.parametrize("case", ...)`.

        Args:
            table: the table's id.
            recipes: what produces each row, by row id; a row without one is skipped with that reason.

        Raises:
            UserError: a recipe names no executed row of the table.
        """
        import pytest

        rows = {row.id: row for row in self.tables[table].rows if row.executed != "no"}
        if unknown := sorted(set(recipes) - set(rows)):
            raise UserError(
                f"{self.id} table {table} has no executed row {unknown[0]!r}: its rows are {', '.join(rows)}"
            )
        cases = [
            Case(self.id, table, row, column, Task(row.runs.get(column, column)), recipes.get(row.id))
            for row in rows.values()
            for column in row.printed
        ]
        return [pytest.param(case, id=case.id) for case in cases]


@dataclass(frozen=True, eq=False)
class Case:
    """One row on one task, and how to run it."""

    paper: str
    table: str
    row: Row
    column: str
    task: Task
    recipe: Recipe | None

    @property
    def id(self) -> str:
        return f"{self.task}-{self.row.id}"

    @property
    def printed(self) -> Printed:
        return self.row.printed[self.column]


def read(path: Path) -> Paper:
    """Read and check a paper's TOML file.

    Raises:
        UserError: it is not as described; the message names file, table and row.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from error
    place = _Place(path.name)
    tables = [_table(entry, place) for entry in place.take(raw, "table", list)]
    place.no_duplicates("table", [table.id for table in tables])
    place.only(raw, "paper", "title", "authors", "venue", "table")
    id, title, authors, venue = (place.take(raw, name, str) for name in ("paper", "title", "authors", "venue"))
    return Paper(id, title, authors, venue, {table.id: table for table in tables})


def read_all(folder: Path) -> dict[str, Paper]:
    """Every paper of a folder of TOML files, by id."""
    papers = [read(path) for path in sorted(folder.glob("*.toml"))]
    return {paper.id: paper for paper in papers}


@dataclass(frozen=True)
class _Place:
    """Where in a file we are, for messages."""

    name: str

    def at(self, more: str) -> _Place:
        return _Place(f"{self.name}, {more}")

    def error(self, message: str) -> UserError:
        return UserError(f"{self.name}: {message}")

    def take(self, raw: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
        value = raw.get(name, default)
        if value is None:
            raise self.error(f"{name} is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"{name} must be of type {kind.__name__}, not {value!r}")
        return value

    def only(self, raw: Mapping[str, Any], *known: str) -> None:
        if unknown := sorted(set(raw) - set(known)):
            raise self.error(f"unknown entry {unknown[0]!r}; known are {', '.join(known)}")

    def no_duplicates(self, what: str, ids: list[str]) -> None:
        if twice := sorted({id for id in ids if ids.count(id) > 1}):
            raise self.error(f"{what} {twice[0]!r} stands twice")


def _table(raw: Mapping[str, Any], place: _Place) -> Table:
    place = place.at(f"table {raw.get('id', '?')}")
    place.only(raw, "id", "caption", "where", "columns", "metrics", "row", "checked", "note")
    columns = {
        place.take(entry, "id", str): place.take(entry, "label", str) for entry in place.take(raw, "columns", list)
    }
    for task in columns:
        _check_task(task, place)
    metrics = tuple(place.take(raw, "metrics", list))
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise place.error(f"unknown metric {unknown[0]!r}; known are {', '.join(METRICS)}")
    rows = tuple(_row(entry, columns, metrics, place) for entry in place.take(raw, "row", list))
    place.no_duplicates("row", [row.id for row in rows])
    return Table(
        place.take(raw, "id", str),
        place.take(raw, "caption", str),
        place.take(raw, "where", str),
        columns,
        metrics,
        rows,
        place.take(raw, "checked", str),
        place.take(raw, "note", str, ""),
    )


def _row(raw: Mapping[str, Any], columns: Mapping[str, str], metrics: tuple[str, ...], place: _Place) -> Row:
    place = place.at(f"row {raw.get('id', '?')}")
    place.only(raw, "id", "label", "executed", "runs", "band", "note", *columns)
    executed = place.take(raw, "executed", str)
    if executed not in EXECUTED:
        raise place.error(f"executed must be one of {', '.join(EXECUTED)}, not {executed!r}")
    runs = place.take(raw, "runs", dict, {})
    for column, task in runs.items():
        if column not in columns:
            raise place.error(f"runs names the column {column!r}, which the table does not have")
        _check_task(task, place)
    printed = {column: _cells(place.take(raw, column, list), metrics, place.at(column)) for column in columns}
    return Row(
        place.take(raw, "id", str),
        place.take(raw, "label", str),
        executed,
        printed,
        runs,
        place.take(raw, "band", float, BAND),
        place.take(raw, "note", str, ""),
    )


def _cells(cells: list[Any], metrics: tuple[str, ...], place: _Place) -> Printed:
    if len(cells) != len(metrics):
        raise place.error(f'{len(cells)} cells for {len(metrics)} metrics; write "-" where the paper prints no number')
    values: dict[str, float | None] = {}
    for metric, cell in zip(metrics, cells, strict=True):
        if cell == "-":
            values[metric] = None
        elif isinstance(cell, (int, float)) and not isinstance(cell, bool) and 0 <= cell <= 100:
            values[metric] = float(cell)
        else:
            raise place.error(f'{metric} must be a number between 0 and 100 or "-", not {cell!r}')
    return values


def _check_task(task: str, place: _Place) -> None:
    if not (len(task) == 3 and task[1] == "2" and task[0] in LETTERS and task[2] in LETTERS):
        raise place.error(f"{task!r} is no task: two letters of {', '.join(LETTERS)} around a 2")
