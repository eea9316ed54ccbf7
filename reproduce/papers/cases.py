"""Build the cases of a paper (rows, figures, sweeps and claims), which are the parameters of tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from reproduce import metrics
from reproduce.errors import UserError
from reproduce.figures import Draw, of_rows
from reproduce.figures import Figure as Drawn
from reproduce.papers.records import Cell, Point
from reproduce.papers.tables import COMPARED, Claim, Figure, Paper, Printed, Row, Task, full_label, is_task
from reproduce.stage import Stage

Recipe: TypeAlias = Callable[[Task, int], Stage[Any]]
"""A function of task and training seed that returns the stage that evaluates a row."""

SweepRecipe: TypeAlias = Callable[[Task, int, Any], Stage[Any]]
"""A function of task, training seed and value that returns the stage that evaluates a point of a sweep."""

Recipes: TypeAlias = Mapping[str, Mapping[str, Recipe | Mapping[str, Recipe]]]
"""Recipes by table, then by row id, in which underscores replace all signs but letters and digits; then by column, if
columns are methods."""


@dataclass(frozen=True)
class World:
    """A change of the drawn world, in which a row is run again."""

    seed: int | None = None
    """Seed of another world; None for the requested one."""
    off: str = ""
    """Cause of variation whose dial is set to 0; empty for none."""

    def __str__(self) -> str:
        return f"no-{self.off}" if self.off else f"world{self.seed}"


OTHER_WORLD = World(seed=2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One row on one task, or a point of a sweep over it, with its recipe."""

    paper: str
    table: str
    row: Row
    column: str
    task: Task
    recipe: Recipe | None
    """None if the method is not implemented yet."""
    world: World | None = None
    """Change of the drawn world; None for the requested world, or for real data."""
    figure: str = ""
    """Figure that shows it; empty for a case of the table."""
    point: Point | None = None
    """Point of a sweep; None for the row as printed."""

    @property
    def id(self) -> str:
        """Id of its test, such as `table3-m2d-ours`."""
        parts = [f"figure{self.figure}" if self.figure else f"table{self.table}", self.task.name, self.row.id]
        if not is_task(self.column):
            parts.append(self.column)
        if self.point:
            parts.append(f"{self.point.parameter}={self.point.value:g}")
        return "-".join(parts)

    @property
    def cell(self) -> Cell:
        """Its cell in records."""
        label = full_label(self.row)
        return Cell(
            paper=self.paper,
            table=self.table,
            row=self.row.id,
            column=self.column,
            label=f"{label}, {self.point.parameter} = {self.point.value:g}" if self.point else label,
            task=self.task.name,
            point=self.point,
        )

    @property
    def cells(self) -> int:
        """Number of printed numbers that a run of it is compared with."""
        return sum(value is not None for value in self.printed.values())

    @property
    def names(self) -> set[str]:
        """The data sets needed to do all that the paper did."""
        return self.task.names | ({self.row.pretrained} if self.row.pretrained else set())

    @property
    def withdrawn(self) -> bool:
        """Whether it needs a withdrawn data set."""
        return self.task.withdrawn

    @property
    def quoted(self) -> bool:
        """Whether the paper took its numbers from another paper; our run is then for reference."""
        return self.row.quoted(self.column)

    @property
    def printed(self) -> Printed:
        """The printed numbers of the metrics that a run measures; none for a point of a sweep."""
        cells = {} if self.point else self.row.printed[self.column]
        return {metric: value for metric, value in cells.items() if metric in metrics.measured()}


@dataclass(frozen=True, eq=False, kw_only=True)
class ClaimCase:
    """A claim that compares cells, with their cases."""

    paper: str
    claim: Claim
    left: Case
    right: tuple[Case, ...]
    family: int
    """Number of testable claims about the same table."""
    world: World | None = None
    """Change of the drawn world in which it is tested; None for the requested world, or real data."""
    baselines: Mapping[Case, Recipe] = field(default_factory=dict)
    """Supervised training with which the source models of cells on the right are compared, by cell."""

    @property
    def id(self) -> str:
        """Id of its test."""
        return "-".join(filter(None, ("claim", self.claim.id, str(self.world or ""))))

    @property
    def cells(self) -> tuple[Case, ...]:
        """The left cell, then those on the right."""
        return (self.left, *self.right)

    @property
    def withdrawn(self) -> bool:
        """Whether it needs a withdrawn data set."""
        return any(cell.withdrawn for cell in self.cells)

    @property
    def paired(self) -> bool:
        """Whether all cells are scored on the same queries."""
        return len({cell.task.name[2] for cell in self.cells}) == 1


@dataclass(frozen=True, eq=False, kw_only=True)
class FigureCase:
    """A figure that shows images processed by the networks of rows, on one task."""

    paper: str
    figure: Figure
    cells: tuple[Case, ...]
    """Rows on the task, in the figure's order."""
    draw: Draw
    """Builds the stage that computes the figure."""

    @property
    def task(self) -> Task:
        return self.cells[0].task

    @property
    def id(self) -> str:
        """Id of its test."""
        return f"figure{self.figure.id}-{self.task}"

    @property
    def withdrawn(self) -> bool:
        """Whether it needs a withdrawn data set."""
        return self.task.withdrawn

    def stage(self, seed: int) -> Drawn:
        """Return the stage that computes the figure from the networks of one training seed."""
        return of_rows(self.draw, [cell.recipe(cell.task, seed) for cell in self.cells if cell.recipe], seed)

    def labels(self, stage: Drawn) -> list[str]:
        """Label the networks of the figure's stage by their rows and, if other than the network under test, views."""
        networks = len(stage.rows) // len(self.cells)
        rows = [full_label(cell.row) for cell in self.cells for _ in range(networks)]
        named = zip(rows, stage.rows, strict=True)
        return [f"{row}, {network.view}" if network.view else row for row, network in named]


AnyCase: TypeAlias = Case | ClaimCase | FigureCase


@dataclass(frozen=True)
class Suite:
    """A paper with the recipes that produce its rows, figures and sweeps."""

    paper: Paper
    tables: Recipes = field(default_factory=dict)
    draws: Mapping[str, Draw] = field(default_factory=dict)
    """Builders of figures that show images, by figure id."""
    sweeps: Mapping[str, Mapping[str, SweepRecipe]] = field(default_factory=dict)
    """Recipes of the points of a sweep, by figure id, then by parameter."""
    baselines: Mapping[str, Recipe] = field(default_factory=dict)
    """Supervised training on the source that a row's own source model should come near to, by id of a row that claims
    compare with."""

    def __post_init__(self) -> None:
        """Check that every recipe belongs to a table, row, figure or sweep of the paper.

        Raises:
            UserError: A recipe does not.
        """
        figures = {figure.id: figure for figure in self.paper.figures}
        for what, named, known in (
            ("table", self.tables, self.paper.tables),
            ("figure", {**self.draws, **self.sweeps}, figures),
        ):
            if unknown := sorted(set(named) - set(known)):
                raise UserError(f"{self.paper.id} has no {what} {unknown[0]!r}: it has {', '.join(known)}")
        for id, recipes in self.sweeps.items():
            parameters = [sweep.parameter for sweep in figures[id].sweeps]
            if unknown := sorted(set(recipes) - set(parameters)):
                has = ", ".join(parameters) or "none"
                raise UserError(f"{self.paper.id} figure {id} sweeps no {unknown[0]!r}: its sweeps are {has}")
        for table, by_row in self.tables.items():
            rows = {_identifier(row.id): row for row in self.paper.tables[table].rows}
            for name in sorted(by_row):
                if name not in rows:
                    raise UserError(
                        f"{self.paper.id} table {table} has no row {name!r}: its rows are {', '.join(rows)}"
                    )
                if not rows[name].reference and set(rows[name].executed.values()) == {"no"}:
                    raise UserError(
                        f"{self.paper.id} table {table} quotes the row {name!r}: "
                        "give it reference = true to run it for reference"
                    )
                columns = [column.id for column in self.paper.tables[table].columns]
                by_column = by_row[name]
                if isinstance(by_column, Mapping) and (unknown := sorted(set(by_column) - set(columns))):
                    raise UserError(
                        f"{self.paper.id} table {table} has no column {unknown[0]!r}: its columns are "
                        f"{', '.join(columns)}"
                    )

    def cases(self) -> list[Any]:
        """Return every case (rows, figures, sweeps, claims) as parameters for `parametrize("case", ...)`."""
        import pytest

        cases: list[AnyCase] = [*self.rows(), *self.shown(), *self.points(), *self.pictures(), *self.claims()]
        duplicates = [id for id, count in Counter(case.id for case in cases).items() if count > 1]
        assert not duplicates, duplicates
        marks = {True: (pytest.mark.withdrawn,), False: ()}
        return [pytest.param(case, id=case.id, marks=marks[case.withdrawn]) for case in cases]

    def rows(self) -> Iterator[Case]:
        """Yield the rows that the authors ran or may have run, and those run for reference, on each of their tasks.

        A row whose method is not implemented yet has no recipe. One of which no number is printed anywhere, such as a
        method that is not published, runs in every column if it has a recipe.
        """
        for table in self.paper.tables.values():
            recipes = self.tables.get(table.id, {})
            for row in table.rows:
                of_row = recipes.get(_identifier(row.id))
                unpublished = of_row is not None and not any(map(_printed, row.printed.values()))
                for column in table.columns:
                    recipe = of_row.get(column.id) if isinstance(of_row, Mapping) else of_row
                    ran = row.ours and not row.quoted(column.id)
                    if column.task == "none" or not (ran or (recipe and row.reference)):
                        continue
                    if _printed(row.printed[column.id]) or unpublished:
                        task = Task(row.task(column))
                        yield Case(
                            paper=self.paper.id,
                            table=table.id,
                            row=row,
                            column=column.id,
                            task=task,
                            recipe=recipe,
                        )

    def shown(self) -> Iterator[Case]:
        """Yield the rows that figures draw as curves, on the figures' tasks."""
        for figure in self.paper.figures:
            if figure.kind == "convergence":
                yield from (replace(cell, figure=figure.id) for cell in self._cells(figure, runnable=False))

    def points(self) -> Iterator[Case]:
        """Yield the points of sweeps, on each of their tasks."""
        for figure in self.paper.figures:
            for sweep in figure.sweeps:
                recipe = self.sweeps.get(figure.id, {}).get(sweep.parameter)
                for cell in self._cells(figure, runnable=False):
                    for value in sweep.grid:
                        yield replace(
                            cell,
                            recipe=_at(recipe, value) if recipe else None,
                            figure=figure.id,
                            point=Point(figure=figure.id, parameter=sweep.parameter, value=value),
                        )

    def pictures(self) -> Iterator[FigureCase]:
        """Yield the figures that show images, on each of their tasks.

        Raises:
            UserError: A figure shows a row that no recipe produces.
        """
        for figure in self.paper.figures:
            if figure.id not in self.draws:
                continue
            cells = list(self._cells(figure))
            for task in figure.task:
                own = tuple(cell for cell in cells if cell.column == task)
                if len(own) < len(figure.rows):
                    raise UserError(
                        f"{self.paper.id} figure {figure.id} shows rows on {task} that no recipe of its tables produces"
                    )
                yield FigureCase(paper=self.paper.id, figure=figure, cells=own, draw=self.draws[figure.id])

    def claims(self) -> Iterator[ClaimCase]:
        """Yield the claims that rows and points of sweeps with recipes can test.

        Each is tested in the requested world (or on real data), in a second drawn world and, if it names a cause, with
        the cause's dial at 0.
        """
        runnable = {case.cell.name: case for case in (*self.rows(), *self.points()) if case.recipe}
        tested = [
            claim
            for claim in self.paper.claims
            if claim.kind in COMPARED and runnable.keys() >= {claim.left, *claim.right}
            if claim.testable != "no" or any(runnable[cell].quoted for cell in (claim.left, *claim.right))
        ]
        family = Counter(claim.table for claim in tested)
        for claim in tested:
            for world in (None, OTHER_WORLD, *([World(off=claim.cause)] if claim.cause else [])):
                left, *right = (replace(runnable[cell], world=world) for cell in (claim.left, *claim.right))
                yield ClaimCase(
                    paper=self.paper.id,
                    claim=claim,
                    left=left,
                    right=tuple(right),
                    family=family[claim.table],
                    world=world,
                    baselines={cell: self.baselines[cell.row.id] for cell in right if cell.row.id in self.baselines},
                )

    def _cells(self, figure: Figure, *, runnable: bool = True) -> Iterator[Case]:
        """Yield the rows of a figure on its tasks, in its order: only those with a recipe, or all."""
        cells = {(case.table, case.row.id, case.column): case for case in self.rows()}
        for task in figure.task:
            for table, row, column in figure.places:
                cell = cells.get((table, row, column or task))
                if cell and (not column or cell.task.name == task) and (cell.recipe or not runnable):
                    yield cell


def _printed(numbers: Printed) -> bool:
    """Return whether a cell holds a number that cases measure."""
    return any(numbers.get(metric) is not None for metric in metrics.printed())


@dataclass(frozen=True)
class Coverage:
    """Which claims the cases of suites test, and which cells they compute."""

    tested: frozenset[tuple[str, str]]
    """Paper and id of each claim that is a case."""
    computed: frozenset[tuple[str, str]]
    """Paper and name of each cell and point that has a recipe."""

    def missing(self, paper: str, claim: Claim) -> list[str]:
        """Return the cells that a claim compares and no recipe computes."""
        compared = (claim.left, *claim.right) if claim.kind in COMPARED else ()
        return [cell for cell in compared if (paper, cell) not in self.computed]

    def standing(self, paper: str, claim: Claim) -> str:
        """Return whether cases test a claim: one of `STANDINGS`."""
        if (paper, claim.id) in self.tested:
            return "tested"
        if claim.testable == "no":
            return "never"
        return "lacking" if self.missing(paper, claim) else "uncompared"


STANDINGS = {
    "tested": "Cases test these; none of these results tries them",
    "lacking": "No case tests these yet: no recipe computes all their cells",
    "uncompared": "No case tests these: they are not stated as a comparison of cells",
    "never": "No case can test these",
}
"""Headings for claims that were not tried, by whether cases test them."""


def coverage(collected: Iterable[object]) -> Coverage:
    """Tell from all cases of suites what they cover."""
    cases = list(collected)
    return Coverage(
        frozenset((case.paper, case.claim.id) for case in cases if isinstance(case, ClaimCase)),
        frozenset((case.paper, case.cell.name) for case in cases if isinstance(case, Case) and case.recipe),
    )


def _identifier(id: str) -> str:
    return re.sub(r"\W", "_", id)


def _at(recipe: SweepRecipe, value: float) -> Recipe:
    """Return the recipe of one point of a sweep."""
    return lambda task, seed: recipe(task, seed, value)


def cases_of(params: Sequence[Any]) -> list[AnyCase]:
    """Return the cases of parameters that `Suite.cases` returned."""
    return [param.values[0] for param in params]
