"""What the papers print: TOML files as checked values, and their rows as test cases."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reproduce.data.catalogue import CATALOGUE, letters, withdrawn
from reproduce.data.domains import Domain
from reproduce.errors import UserError
from reproduce.figures import Draw, of_rows
from reproduce.figures import Figure as Drawn
from reproduce.stage import Stage

UNLABELLED = "u"
"""The letter that stands in a task for no source at all."""

METRICS = ("mAP", "rank1", "rank5", "rank10")
"""How well a run retrieves, in percent."""

GAINS = {"mAP_gain": "mAP", "rank1_gain": "rank1"}
COUNTS = ("train_ids", "train_images", "gallery_ids", "gallery_images", "query_ids", "query_images")
MEASURED = (*METRICS, "portion")
"""What a run measures, in percent; the last is the share of target images that pseudo labels keep."""

ON_DRAWN = ("on_person", "on_others")
"""What is measured where images are drawn, because only there it is known where the person is."""

UNPRINTED = ("separation", "first_labels", *ON_DRAWN)
"""What a run measures to try claims for which no paper prints a number: see `evaluation` and `methods.mmt`."""

KNOWN = (*MEASURED, *GAINS, *COUNTS)

EXECUTED = ("yes", "no", "unsure")
CLAIMS = ("gain", "value", "order", "count", "other")
TESTABLE = ("yes", "no", "part")
FIGURES = ("sweep", "convergence", "picture", "diagram")

BAND = 2.0
"""Percent points around a printed number of an adapted model, until seed spread is measured."""

BAND_WHY = {
    1.0: "supervised training: authors call half a point normal (guxinqian/AP3D#3; yxgeee/SpCL#14)",
    2.0: "an adapted model: the same seed moved 1.5 mAP (alibaba/cluster-contrast-reid#7), and reruns of one code lie "
    "2 apart (yxgeee/SpCL#6)",
    3.0: "direct transfer or translated images: nothing ties the model to the target, so it moves more than an adapted "
    "one, which repeated runs moved by 5 rank-1 (LcDog/DomainAdaptiveReID#2)",
}
"""Why the usual bands are as wide as they are, and where that was seen."""

Printed = Mapping[str, float | None]


@dataclass(frozen=True)
class Task:
    """A source and a target domain, such as `m2d`; a supervised row has the same domain twice, `u2m` has no source."""

    name: str

    @property
    def unsupervised(self) -> bool:
        """Whether there is no source: all that is learnt comes from unlabelled images of the target."""
        return self.name[0] == UNLABELLED

    @property
    def source(self) -> Domain:
        """The labelled domain.

        Raises:
            UserError: the task has none.
        """
        if self.unsupervised:
            raise UserError(f"{self.name} has no source")
        return Domain(letters()[self.name[0]])

    @property
    def target(self) -> Domain:
        return Domain(letters()[self.name[2]])

    @property
    def names(self) -> set[str]:
        """The domains that must be there."""
        return {self.target.name} | (set() if self.unsupervised else {self.source.name})

    @property
    def withdrawn(self) -> bool:
        """Whether it needs a data set that its makers have withdrawn."""
        return not self.names.isdisjoint(withdrawn())

    def __str__(self) -> str:
        return self.name


Recipe = Callable[[Task, int], Stage[Any]]
"""What produces a row: from the task and a training seed to the stage that evaluates it."""


@dataclass(frozen=True)
class Column:
    """A group of numbers under one heading.

    Attributes:
        task: such as "m2d"; "none" where the numbers belong to no task.
        metrics: in printed order.
    """

    id: str
    label: str
    task: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row as the paper shows it.

    Attributes:
        printed: by column, then metric, in percent or as a count; None where the paper prints no number.
        executed: whether the authors ran it ("yes"), quoted it ("no"), or do not say ("unsure").
        why: what `executed` rests on.
        runs: the task that was really run for a column, where it is another one (supervised rows).
        source: the source domain printed for a column, where it is not the task's.
        target: the data set that a row of statistics describes.
        pretrained: the data set whose images its network was pre-trained on, where the paper names one.
        ticks: which of the table's tick columns are ticked.
        stage, ref: further columns as printed.
        ours: whether the system is one that this project builds; a row of another is no case.
        gain: the two rows whose difference the row's printed gains are; empty without gains.
        band: how far, in percent points, a measured number may lie from the printed one; the table's unless the row
            names one.
        band_why: the reason, and its source.
        collapses: whether the paper reports that this row's training falls apart; then it may.
    """

    id: str
    label: str
    executed: str
    printed: Mapping[str, Printed]
    runs: Mapping[str, str]
    source: Mapping[str, str]
    target: str = ""
    ours: bool = True
    ticks: tuple[str, ...] = ()
    gain: tuple[str, ...] = ()
    stage: str = ""
    ref: str = ""
    why: str = ""
    band: float = BAND
    band_why: str = BAND_WHY[BAND]
    note: str = ""
    collapses: bool = False
    pretrained: str = ""


@dataclass(frozen=True)
class Table:
    """A printed table.

    Attributes:
        where: the section or page that holds it.
        checked: how the transcription was checked.
    """

    id: str
    caption: str
    where: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    checked: str
    ticks: tuple[str, ...] = ()
    note: str = ""

    def row(self, id: str) -> Row | None:
        return next((row for row in self.rows if row.id == id), None)


@dataclass(frozen=True)
class Figure:
    """A figure: what it shows, the rows and tasks that produce it, and values that the text states about it."""

    id: str
    kind: str
    where: str
    shows: str
    rows: tuple[str, ...] = ()
    task: tuple[str, ...] = ()
    values: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Claim:
    """A conclusion of a paper in our own words.

    Attributes:
        kind: "gain" (left minus right is `stated`), "value" (left is `stated`), "order" (left above right), "count" (of
            a data set) or "other".
        left, right: cells as table/row/column; several on the right mean each of them. A count's left is a data set.
        stated: the numbers of the text, by metric.
        at_least: whether the text says that it is this much or more.
        cause: the disturbance of the stand-in world that the claim names as its cause.
        testable: "yes", "no" or "part": whether executed rows decide it.
    """

    id: str
    where: str
    says: str
    kind: str
    left: str = ""
    right: tuple[str, ...] = ()
    stated: Mapping[str, float] | None = None
    metrics: tuple[str, ...] = ()
    at_least: bool = False
    cause: str = ""
    testable: str = "yes"
    why: str = ""

    @property
    def table(self) -> str:
        """The table whose claims it belongs to; empty for one that names no cell."""
        return self.left.partition("/")[0] if "/" in self.left else ""


@dataclass(frozen=True)
class Number:
    """One printed number and where it stands."""

    paper: str
    table: str
    row: Row
    column: Column
    source: str
    target: str
    metric: str
    value: float

    @property
    def place(self) -> str:
        """For a reader: paper, table, row and column."""
        return f"{self.paper} table {self.table}, {full_label(self.row)}, {self.column.label}"


@dataclass(frozen=True)
class Paper:
    """A paper: its tables, figures and claims. `name` is what readers call it."""

    id: str
    title: str
    authors: str
    venue: str
    tables: Mapping[str, Table]
    name: str
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()

    def cases(self, table: str, **recipes: Recipe) -> list[Any]:
        """The rows of a table that were, or may have been, executed, as parameters for `parametrize("case", ...)`.

        Args:
            table: the table's id.
            recipes: what produces each row, by row id with underscores for other signs; a row without one is skipped
                with that reason. A row that the paper quotes is a case where it has one, for reference.

        Raises:
            UserError: a recipe names no such row of the table.
        """
        import pytest

        every = {re.sub(r"\W", "_", row.id): row for row in self.tables[table].rows}
        rows = {name: row for name, row in every.items() if (row.executed != "no" and row.ours) or name in recipes}
        if unknown := sorted(set(recipes) - set(rows)):
            known = ", ".join(every)
            raise UserError(f"{self.id} table {table} has no row {unknown[0]!r}: its rows are {known}")
        cases = [
            Case(self.id, table, row, column.id, Task(row.runs.get(column.id, column.task)), recipes.get(name))
            for name, row in rows.items()
            for column in self.tables[table].columns
            if column.task != "none" and any(row.printed[column.id].get(metric) is not None for metric in METRICS)
        ]
        marks = {True: (pytest.mark.withdrawn,), False: ()}
        return [pytest.param(case, id=case.id, marks=marks[case.task.withdrawn]) for case in cases]

    def figure_cases(self, figure: str, tables: Mapping[str, Mapping[str, Recipe]]) -> list[Any]:
        """The cases of the table rows that a figure shows, on its tasks, as `cases` gives them.

        Args:
            figure: the figure's id; its rows are spelled "table 3: ours".
            tables: recipes by row, by table, as `cases` takes them.
        """
        shown = next(found for found in self.figures if found.id == figure)
        return [
            param
            for table, recipes in tables.items()
            for param in self.cases(table, **recipes)
            if f"table {table}: {param.values[0].row.id}" in shown.rows and param.values[0].column in shown.task
        ]

    def picture_cases(self, draws: Mapping[str, Draw], tables: Mapping[str, Mapping[str, Recipe]]) -> list[Any]:
        """The figures that show what rows make of images, on each of their tasks, as parameters as `cases` has them.

        Args:
            draws: what works out a figure, by its id.
            tables: recipes by row, by table, as `cases` takes them.
        """
        import pytest

        params = []
        for id, draw in draws.items():
            figure = next(found for found in self.figures if found.id == id)
            cells = [param.values[0] for param in self.figure_cases(id, tables)]
            for task in figure.task:
                own = [cell for cell in cells if cell.column == task and cell.recipe]
                shown = tuple(sorted(own, key=lambda cell: figure.rows.index(f"table {cell.table}: {cell.row.id}")))
                if len(shown) < len(figure.rows):
                    raise UserError(f"{self.id} figure {id} shows rows on {task} that no recipe of its tables produces")
                case = FigureCase(self.id, figure, shown, draw)
                marks = [pytest.mark.withdrawn] if case.task.withdrawn else []
                params.append(pytest.param(case, id=case.id, marks=marks))
        return params

    def claim_cases(
        self, tables: Mapping[str, Mapping[str, Recipe]], baselines: Mapping[str, Recipe] | None = None
    ) -> list[Any]:
        """The claims that cases can try, as parameters for `parametrize("case", ...)`.

        Each is tried in the world that was asked for (or on real data), in a second drawn world and, where it names a
        cause, with the cause's dial at 0.

        Args:
            tables: recipes by row, by table, as `cases` takes them.
            baselines: by the id of a row that claims compare with, the supervised training on its source which its own
                source model should come near to.
        """
        import pytest

        known = {
            f"{table}/{case.row.id}/{case.column}": case
            for table, recipes in tables.items()
            for case in (param.values[0] for param in self.cases(table, **recipes))
            if case.recipe
        }
        found = [
            claim
            for claim in self.claims
            if claim.kind in ("gain", "order") and known.keys() >= {claim.left, *claim.right}
            if claim.testable != "no" or any(known[cell].quoted for cell in (claim.left, *claim.right))
        ]
        family = Counter(claim.table for claim in found)
        params = []
        for claim in found:
            for world in (None, OTHER_WORLD, *([World(off=claim.cause)] if claim.cause else [])):
                left, *right = (replace(known[cell], world=world) for cell in (claim.left, *claim.right))
                named = baselines or {}
                held = tuple((cell, named[cell.row.id]) for cell in right if cell.row.id in named)
                case = ClaimCase(self.id, claim, left, tuple(right), family[claim.table], world, held)
                marks = [pytest.mark.withdrawn] if any(cell.task.withdrawn for cell in (left, *right)) else []
                params.append(pytest.param(case, id=case.id, marks=marks))
        return params

    def numbers(self) -> Iterator[Number]:
        """Every printed number, in printed order."""
        for table in self.tables.values():
            for row in table.rows:
                for column in table.columns:
                    source, target = domains(row, column)
                    for metric, value in row.printed[column.id].items():
                        if value is not None:
                            yield Number(self.name, table.id, row, column, source, target, metric, value)

    def cell(self, place: str) -> Printed | None:
        """The numbers of a cell named table/row/column; None where there is none."""
        table, _, rest = place.partition("/")
        row_id, _, column = rest.rpartition("/")
        row = self.tables[table].row(row_id) if table in self.tables else None
        return row.printed.get(column) if row else None


@dataclass(frozen=True)
class World:
    """A change of the drawn world, under which a row is run again.

    Attributes:
        seed: of another world; None for the one that was asked for.
        off: the cause of variation whose dial stands at 0; empty for none.
    """

    seed: int | None = None
    off: str = ""

    def __str__(self) -> str:
        return f"no-{self.off}" if self.off else f"world{self.seed}"


OTHER_WORLD = World(seed=2)


@dataclass(frozen=True, eq=False)
class Case:
    """One row on one task, and how to run it.

    Attributes:
        world: the change of the drawn world; None for the world that was asked for, or for real data.
    """

    paper: str
    table: str
    row: Row
    column: str
    task: Task
    recipe: Recipe | None
    world: World | None = None

    @property
    def id(self) -> str:
        id = f"{self.task}-{self.row.id}"
        return id if _is_task(self.column) else f"{id}-{self.column}"

    @property
    def names(self) -> set[str]:
        """The data sets that must be there to do all that the paper did."""
        return self.task.names | ({self.row.pretrained} if self.row.pretrained else set())

    @property
    def quoted(self) -> bool:
        """Whether the paper took its numbers from another, so that a run of ours stands beside them for reference."""
        return self.row.executed == "no"

    @property
    def printed(self) -> Printed:
        """The printed numbers of the metrics that a run measures."""
        return {metric: value for metric, value in self.row.printed[self.column].items() if metric in MEASURED}


@dataclass(frozen=True, eq=False)
class ClaimCase:
    """A claim that compares cells, and how to run them.

    Attributes:
        family: how many claims about the same table can be tried.
        world: the change of the drawn world in which it is tried; None for the world that was asked for, or real data.
        baselines: cells on the right with the supervised training that their source models are held against.
    """

    paper: str
    claim: Claim
    left: Case
    right: tuple[Case, ...]
    family: int
    world: World | None = None
    baselines: tuple[tuple[Case, Recipe], ...] = ()

    @property
    def id(self) -> str:
        return f"{self.claim.id}-{self.world}" if self.world else self.claim.id

    @property
    def cells(self) -> tuple[Case, ...]:
        return (self.left, *self.right)

    @property
    def paired(self) -> bool:
        """Whether all cells are scored on the same queries."""
        return len({cell.task.name[2] for cell in self.cells}) == 1


@dataclass(frozen=True, eq=False)
class FigureCase:
    """A figure that shows what rows make of images, on one task.

    Attributes:
        cells: the rows on the task, in the figure's order.
        draw: makes the stage that works it out.
    """

    paper: str
    figure: Figure
    cells: tuple[Case, ...]
    draw: Draw

    @property
    def task(self) -> Task:
        return self.cells[0].task

    @property
    def id(self) -> str:
        return f"{self.task}-figure{self.figure.id}"

    def stage(self, seed: int) -> Drawn:
        """What works the figure out, from the networks of one training seed."""
        return of_rows(self.draw, [cell.recipe(cell.task, seed) for cell in self.cells if cell.recipe], seed)


def full_label(row: Row) -> str:
    """A row's label with the stage and the ticks that tell it from its neighbours."""
    return labelled(row.label, row.stage, row.ticks)


def labelled(label: str, stage: str, ticks: Sequence[str]) -> str:
    """A label with its stage before it and its ticks behind, as far as there are any."""
    return (f"{stage}: " if stage else "") + label + (f" ({' + '.join(ticks)})" if ticks else "")


def domains(row: Row, column: Column) -> tuple[str, str]:
    """Source and target of a row's numbers: names of data sets, "none" or "mix" for the source."""
    if column.task == "none":
        return "none", row.target
    task = row.runs.get(column.id, column.task)
    source = "none" if task[0] == UNLABELLED else letters()[task[0]]
    return row.source.get(column.id, source), letters()[task[2]]


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
    place.only(raw, "paper", "name", "title", "authors", "venue", "table", "figure", "claim")
    tables = [_table(entry, place) for entry in place.take(raw, "table", list)]
    place.no_duplicates("table", [table.id for table in tables])
    figures = tuple(_figure(entry, place) for entry in place.take(raw, "figure", list, []))
    place.no_duplicates("figure", [figure.id for figure in figures])
    claims = tuple(_claim(entry, place) for entry in place.take(raw, "claim", list, []))
    place.no_duplicates("claim", [claim.id for claim in claims])
    name = place.take(raw, "name", str, str(raw.get("paper", "")).upper())
    id, title, authors, venue = (place.take(raw, name, str) for name in ("paper", "title", "authors", "venue"))
    paper = Paper(id, title, authors, venue, {table.id: table for table in tables}, name, figures, claims)
    for claim in claims:
        _check_cells(paper, claim, place.at(f"claim {claim.id}"))
    return paper


def read_all(folder: Path) -> dict[str, Paper]:
    """Every paper of a folder of TOML files and of other installed packages, by id.

    Raises:
        UserError: there is none, one is not as described, or two have one id.
    """
    papers: dict[str, Paper] = {}
    for path in paths(folder):
        paper = read(path)
        if paper.id in papers:
            raise UserError(f"{path} describes the paper {paper.id!r}, and so does another file: rename one")
        papers[paper.id] = paper
    return papers


def paths(folder: Path) -> list[Path]:
    """The TOML files of a folder of suites, and of those that other installed packages bring.

    Raises:
        UserError: there is none.
    """
    places = dict.fromkeys(place.resolve() for place in (folder, *outside()))
    found = [path for place in places for path in sorted(place.glob("*.toml"))]
    if not found:
        raise UserError(f"{folder} holds no papers (*.toml): name the folder of the suites")
    return found


def outside() -> list[Path]:
    """Folders of suites that other installed packages bring, through entry points of the group `reproduce.suites`.

    Raises:
        UserError: an entry point names no package.
    """
    folders = []
    for entry in entry_points(group="reproduce.suites"):
        spec = find_spec(entry.value)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"the entry point {entry.name} of reproduce.suites names {entry.value!r}, no package")
        folders.append(Path(spec.submodule_search_locations[0]))
    return folders


@dataclass(frozen=True)
class _Place:
    """Where in a file we are, for messages."""

    name: str

    def at(self, more: str) -> _Place:
        return _Place(f"{self.name}, {more}")

    def error(self, message: str) -> UserError:
        return UserError(f"{self.name}: {message}")

    def take(self, raw: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        value = raw.get(name, default)
        if value is None:
            raise self.error(f"{name} is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = kind.__name__ if isinstance(kind, type) else " or ".join(each.__name__ for each in kind)
            raise self.error(f"{name} must be of type {wanted}, not {value!r}")
        return value

    def one_of(self, raw: Mapping[str, Any], name: str, known: Sequence[str], default: str | None = None) -> str:
        value: str = self.take(raw, name, str, default)
        if value not in known:
            raise self.error(f"{name} must be one of {', '.join(known)}, not {value!r}")
        return value

    def texts(self, raw: Mapping[str, Any], name: str) -> tuple[str, ...]:
        values = self.take(raw, name, list, [])
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise self.error(f"{name} must hold texts, not {wrong[0]!r}")
        return tuple(values)

    def only(self, raw: Any, *known: str) -> None:
        if not isinstance(raw, Mapping):
            raise self.error(f"expected a table, not {raw!r}")
        if unknown := sorted(set(raw) - set(known)):
            raise self.error(f"unknown entry {unknown[0]!r}; known are {', '.join(known)}")

    def no_duplicates(self, what: str, ids: list[str]) -> None:
        if twice := sorted({id for id in ids if ids.count(id) > 1}):
            raise self.error(f"{what} {twice[0]!r} stands twice")

    def id(self, raw: Mapping[str, Any]) -> str:
        id: str = self.take(raw, "id", str)
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", id):
            raise self.error(f"id {id!r} must be lower-case letters, digits, -, + and .")
        return id


def _table(raw: Any, place: _Place) -> Table:
    place = place.at(f"table {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    place.only(
        raw, "id", "caption", "where", "columns", "metrics", "row", "checked", "note", "ticks", "band", "band_why"
    )
    metrics = place.texts(raw, "metrics")
    columns = tuple(_column(entry, metrics, place) for entry in place.take(raw, "columns", list))
    place.no_duplicates("column", [column.id for column in columns])
    ticks = place.texts(raw, "ticks")
    usual = {name: raw[name] for name in ("band", "band_why") if name in raw}
    entries = [{**usual, **entry} if isinstance(entry, Mapping) else entry for entry in place.take(raw, "row", list)]
    rows = tuple(_row(entry, columns, ticks, place) for entry in entries)
    place.no_duplicates("row", [row.id for row in rows])
    for row in rows:
        if missing := [id for id in row.gain if id not in {other.id for other in rows}]:
            raise place.at(f"row {row.id}").error(f"gain names the row {missing[0]!r}, which the table does not have")
    return Table(
        place.id(raw),
        place.take(raw, "caption", str),
        place.take(raw, "where", str),
        columns,
        rows,
        place.take(raw, "checked", str),
        ticks,
        place.take(raw, "note", str, ""),
    )


def _column(raw: Any, metrics: tuple[str, ...], place: _Place) -> Column:
    place.only(raw, "id", "label", "task", "metrics")
    own = place.texts(raw, "metrics") or metrics
    if unknown := [metric for metric in own if metric not in KNOWN]:
        raise place.error(f"unknown metric {unknown[0]!r}; known are {', '.join(KNOWN)}")
    if not own:
        raise place.error("metrics are missing")
    column = Column(place.id(raw), place.take(raw, "label", str), raw.get("task", raw["id"]), own)
    if column.task != "none":
        _check_task(column.task, place)
    return column


def _row(raw: Any, columns: tuple[Column, ...], ticks: tuple[str, ...], place: _Place) -> Row:
    place = place.at(f"row {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    names = {column.id for column in columns}
    known = (
        "id",
        "label",
        "executed",
        "runs",
        "source",
        "target",
        "ours",
        "ticks",
        "gain",
        "stage",
        "ref",
        "why",
        "band",
        "band_why",
        "collapses",
        "pretrained",
        "note",
    )
    place.only(raw, *known, *names)
    runs, source = place.take(raw, "runs", dict, {}), place.take(raw, "source", dict, {})
    for what, mapping in (("runs", runs), ("source", source)):
        if unknown := sorted(set(mapping) - names):
            raise place.error(f"{what} names the column {unknown[0]!r}, which the table does not have")
    for task in runs.values():
        _check_task(task, place)
    for name in source:
        place.one_of(source, name, (*letters().values(), "none", "mix"))
    if unticked := [tick for tick in place.texts(raw, "ticks") if tick not in ticks]:
        raise place.error(f"ticks {unticked[0]!r}, which is no tick column of the table")
    band = float(place.take(raw, "band", (int, float), BAND))
    target = place.one_of(raw, "target", ("", *letters().values()), "")
    if not target and any(column.task == "none" for column in columns):
        raise place.error("target is missing: which data set do these numbers describe?")
    printed = {
        column.id: _cells(place.take(raw, column.id, list), column.metrics, place.at(column.id)) for column in columns
    }
    return Row(
        place.id(raw),
        place.take(raw, "label", str),
        place.one_of(raw, "executed", EXECUTED),
        printed,
        runs,
        source,
        target,
        place.take(raw, "ours", bool, True),
        place.texts(raw, "ticks"),
        place.texts(raw, "gain"),
        place.take(raw, "stage", str, ""),
        place.take(raw, "ref", str, ""),
        place.take(raw, "why", str, ""),
        band,
        place.take(raw, "band_why", str, BAND_WHY.get(band)),
        place.take(raw, "note", str, ""),
        place.take(raw, "collapses", bool, False),
        place.one_of(raw, "pretrained", ("", *CATALOGUE), ""),
    )


def _cells(cells: list[Any], metrics: tuple[str, ...], place: _Place) -> Printed:
    if len(cells) != len(metrics):
        raise place.error(f'{len(cells)} cells for {len(metrics)} metrics; write "-" where the paper prints no number')
    return {
        metric: None if cell == "-" else _number(cell, metric, place)
        for metric, cell in zip(metrics, cells, strict=True)
    }


def _number(cell: Any, metric: str, place: _Place) -> float:
    number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    if metric in COUNTS and not (number and cell >= 0 and cell == int(cell)):
        raise place.error(f'{metric} must be a count from 0 or "-", not {cell!r}')
    if metric in MEASURED and not (number and 0 <= cell <= 100):
        raise place.error(f'{metric} must be a number between 0 and 100 or "-", not {cell!r}')
    if metric in GAINS and not (number and -100 <= cell <= 100):
        raise place.error(f'{metric} must be a number between -100 and 100 or "-", not {cell!r}')
    return float(cell)


def _figure(raw: Any, place: _Place) -> Figure:
    place = place.at(f"figure {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    place.only(raw, "id", "kind", "where", "shows", "rows", "task", "values")
    for task in place.texts(raw, "task"):
        _check_task(task, place)
    return Figure(
        place.id(raw),
        place.one_of(raw, "kind", FIGURES),
        place.take(raw, "where", str),
        place.take(raw, "shows", str),
        place.texts(raw, "rows"),
        place.texts(raw, "task"),
        place.take(raw, "values", dict, {}),
    )


def _claim(raw: Any, place: _Place) -> Claim:
    place = place.at(f"claim {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    place.only(
        raw, "id", "where", "says", "kind", "left", "right", "stated", "metrics", "at_least", "cause", "testable", "why"
    )
    kind = place.one_of(raw, "kind", CLAIMS)
    right = place.take(raw, "right", (str, list), [])
    stated = place.take(raw, "stated", dict, {})
    for name, value in stated.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise place.error(f"stated {name} must be a number, not {value!r}")
    metrics = place.texts(raw, "metrics") or tuple(stated)
    comparable = (*MEASURED, *GAINS, *UNPRINTED)
    if kind in ("gain", "order") and (unknown := [metric for metric in metrics if metric not in comparable]):
        raise place.error(f"unknown metric {unknown[0]!r}; claims compare {', '.join(comparable)}")
    if kind in ("gain", "value", "count") and not stated:
        raise place.error(f"a claim of kind {kind} states a number")
    return Claim(
        place.id(raw),
        place.take(raw, "where", str),
        place.take(raw, "says", str),
        kind,
        place.take(raw, "left", str, ""),
        (right,) if isinstance(right, str) else place.texts(raw, "right"),
        stated,
        metrics,
        place.take(raw, "at_least", bool, False),
        place.take(raw, "cause", str, ""),
        place.one_of(raw, "testable", TESTABLE, "yes"),
        place.take(raw, "why", str, ""),
    )


def _check_cells(paper: Paper, claim: Claim, place: _Place) -> None:
    """Every cell that a claim names must exist."""
    named = () if claim.kind in ("count", "other") else (claim.left, *claim.right)
    for cell in named:
        if paper.cell(cell) is None:
            raise place.error(f"there is no cell {cell!r}; name one as table/row/column")


def _check_task(task: Any, place: _Place) -> None:
    if not _is_task(task):
        raise place.error(f"{task!r} is no task: two letters of {', '.join(letters())} around a 2 (u for no source)")


def _is_task(name: Any) -> bool:
    known = "".join(letters())
    return isinstance(name, str) and re.fullmatch(rf"[{known}{UNLABELLED}]2[{known}]", name) is not None
