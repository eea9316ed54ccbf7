"""Read the papers' TOML files into checked values: tables, figures and claims."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduce import metrics
from reproduce.data.catalogue import CATALOGUE, letters, withdrawn
from reproduce.data.domains import Domain
from reproduce.errors import UserError
from reproduce.files import printable
from reproduce.metrics import METRICS
from reproduce.papers.installed import outside

UNLABELLED = "u"
"""Letter in a task for "no source"."""

EXECUTED = ("yes", "no", "unsure")
CLAIMS = ("gain", "value", "order", "sweep", "count", "other")
COMPARED = ("gain", "order", "sweep")
"""Kinds of claims that compare cells, or points of a sweep."""
TESTABLE = ("yes", "no", "part")
REPORTED = "reported.toml"
"""File of a folder of suites that holds what others measured; all other TOML files are papers."""
QUOTED = 15
"""Largest number of words in a quotation."""
GRIDS = ("text", "ours")
FIGURES = ("sweep", "convergence", "picture", "diagram")
CURVES = ("grid", "grid_from", "metrics")
"""Fields of convergence figures alone."""

BAND = 2.0
"""Percentage points around a printed number of an adapted model, until seed spread is measured."""

BAND_WHY = {
    1.0: "supervised training: authors call half a point normal (guxinqian/AP3D#3; yxgeee/SpCL#14)",
    2.0: "an adapted model: the same seed moved 1.5 mAP (alibaba/cluster-contrast-reid#7), and reruns of one code lie "
    "2 apart (yxgeee/SpCL#6)",
    3.0: "direct transfer or translated images: nothing ties the model to the target, so it moves more than an adapted "
    "one, which repeated runs moved by 5 rank-1 (LcDog/DomainAdaptiveReID#2)",
}
"""Reasons for the widths of the usual bands, with sources."""

Printed = Mapping[str, float | None]


@dataclass(frozen=True)
class Task:
    """A source and a target domain, such as `m2d`; a supervised row has the same domain twice, `u2m` has no source."""

    name: str

    @property
    def unsupervised(self) -> bool:
        """Whether there is no source, so that training uses only unlabelled images of the target."""
        return self.name[0] == UNLABELLED

    @property
    def source(self) -> Domain:
        """The labelled domain.

        Raises:
            UserError: The task has no source.
        """
        if self.unsupervised:
            raise UserError(f"{self.name} has no source")
        return Domain(letters()[self.name[0]])

    @property
    def target(self) -> Domain:
        return Domain(letters()[self.name[2]])

    @property
    def names(self) -> set[str]:
        """Names of the domains that the task needs."""
        return {self.target.name} | (set() if self.unsupervised else {self.source.name})

    @property
    def withdrawn(self) -> bool:
        """Whether it needs a withdrawn data set."""
        return not self.names.isdisjoint(withdrawn())

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Column:
    """A group of numbers under one heading."""

    id: str
    label: str
    task: str
    """Task, such as "m2d"; "none" if the numbers belong to no task."""
    metrics: tuple[str, ...]
    """Metrics in printed order."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row as printed."""

    id: str
    label: str
    printed: Mapping[str, Printed]
    """Numbers by column, then metric, in percent or as a count; None if the paper prints none."""
    executed: Mapping[str, str]
    """Whether the authors ran it ("yes"), quoted it ("no") or do not say ("unsure"), by column."""
    why: str = ""
    """Evidence for `executed`."""
    reference: bool = False
    """Whether a row that the paper quotes is run here, for reference."""
    runs: Mapping[str, str] = field(default_factory=dict)
    """Task that was run for a column, if it differs from the column's (supervised rows)."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Source domain printed for a column, if it is not the task's."""
    target: str = ""
    """Data set that a row of statistics describes."""
    ours: bool = True
    """Whether this project builds the row's system; other rows are no cases."""
    ticks: tuple[str, ...] = ()
    """Tick columns of the table that are ticked."""
    gain: tuple[str, ...] = ()
    """The two rows whose difference the printed gains are; empty without gains."""
    stage: str = ""
    """Column "stage" as printed."""
    ref: str = ""
    """Column "ref" as printed."""
    band: float = BAND
    """Percentage points by which a measured number may differ from the printed one; by default the table's."""
    band_why: str = BAND_WHY[BAND]
    """Reason for the band, and its source."""
    collapses: bool = False
    """Whether the paper reports that this row's training collapses, so that ours may."""
    pretrained: str = ""
    """Data set of the network's pre-training, if the paper names one."""
    note: str = ""
    doubts: tuple[str, ...] = ()
    """Inconsistencies that a reader found, each in a sentence."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """The note, if any, and the doubts."""
        return (*filter(None, (self.note,)), *self.doubts)

    def task(self, column: Column) -> str:
        """Return the task that is run for a column."""
        return self.runs.get(column.id, column.task)

    def quoted(self, column: str) -> bool:
        """Return whether the paper took a column's numbers from another paper."""
        return self.executed[column] == "no"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A printed table."""

    id: str
    caption: str
    where: str
    """Section or page of the table."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    checked: str
    """How the transcription was checked."""
    ticks: tuple[str, ...] = ()
    sources: bool = False
    """Whether the paper prints a source for every row and column."""
    note: str = ""
    doubts: tuple[str, ...] = ()
    """Inconsistencies that a reader found, each in a sentence."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """The note, if any, and the doubts."""
        return (*filter(None, (self.note,)), *self.doubts)

    def row(self, id: str) -> Row | None:
        """Return the row with an id, or None."""
        return next((row for row in self.rows if row.id == id), None)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A parameter that a figure varies."""

    parameter: str
    grid: tuple[float, ...]
    printed: bool
    """Whether the paper names the values of the grid; otherwise they are ours."""
    metrics: tuple[str, ...]
    label: str
    """The parameter in words."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure: what it shows, the rows and tasks that produce it, and values that the text states about it."""

    id: str
    kind: str
    where: str
    shows: str
    rows: tuple[str, ...] = ()
    """Rows, each spelled "table 3: ours", or "table 3: ours/m2d" with the column if that is no task."""
    task: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()
    grid: tuple[float, ...] = ()
    """Epochs or rounds at which the curves of a convergence figure are compared; empty for all."""
    grid_from: str = ""
    """Who names them: one of `GRIDS`; empty without a grid."""
    metrics: tuple[str, ...] = ()
    """What the curves of a convergence figure show."""
    doubts: tuple[str, ...] = ()
    """Inconsistencies that a reader found, each in a sentence."""

    @property
    def places(self) -> tuple[tuple[str, str, str], ...]:
        """Table, row and column by id of each of its rows; the column is empty if it is the task."""
        pairs = (row.removeprefix("table ").partition(": ") for row in self.rows)
        return tuple((table, *_two(row)) for table, _, row in pairs)

    def draws(self, table: str, row: str, column: str, task: str) -> bool:
        """Return whether it shows a row's numbers in a column, on a task."""
        return (table, row, column) in self.places or (column == task and (table, row, "") in self.places)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper, in our own words."""

    id: str
    where: str
    says: str
    kind: str
    """"gain" (left minus right is `stated`), "value" (left is `stated`), "order" (left above right), "sweep" (the same
    of points of a sweep), "count" (of a data set) or "other"."""
    left: str = ""
    right: tuple[str, ...] = ()
    """Cells on the right; `left` is compared with each. Cells are spelled table/row/column, points of a sweep "figure
    6/parameter=0.5/m2d"; a count's left is a data set."""
    stated: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the text states, by metric."""
    metrics: tuple[str, ...] = ()
    at_least: bool = False
    """Whether the text states this much or more."""
    about: bool = False
    """Whether the text states it as an approximate number."""
    quote: str = ""
    """The paper's own words, at most `QUOTED` of them."""
    cause: str = ""
    """Disturbance of the stand-in world that the claim names as its cause."""
    testable: str = "yes"
    """Whether executed rows decide it: "yes", "no" or "part"."""
    why: str = ""
    doubts: tuple[str, ...] = ()
    """Inconsistencies that a reader found, each in a sentence."""

    @property
    def table(self) -> str:
        """Table of its left cell, or "figure 6" for a point of a sweep; empty if it names no cell."""
        return self.left.partition("/")[0] if "/" in self.left else ""


@dataclass(frozen=True)
class Numbered:
    """The permanent id of a finding of the audit, and what the authors reply to it."""

    id: str
    reply: str = ""


@dataclass(frozen=True)
class Number:
    """One printed number and its place."""

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
        """Paper, table, row and column, for readers."""
        return f"{self.paper} table {self.table}, {full_label(self.row)}, {self.column.label}"


@dataclass(frozen=True)
class Paper:
    """A paper with its tables, figures and claims."""

    id: str
    title: str
    authors: str
    venue: str
    tables: Mapping[str, Table]
    name: str
    """Name for readers."""
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()
    findings: Mapping[str, Numbered] = field(default_factory=dict)
    """Permanent ids of the audit's findings about it, by what they are about (`Finding.about`)."""

    def numbers(self) -> Iterator[Number]:
        """Yield every printed number, in printed order."""
        for table in self.tables.values():
            for row in table.rows:
                for column in table.columns:
                    source, target = domains(row, column)
                    for metric, value in row.printed[column.id].items():
                        if value is not None:
                            yield Number(self.name, table.id, row, column, source, target, metric, value)

    @property
    def points(self) -> set[str]:
        """The names of all points of sweeps."""
        return {
            point_name(figure.id, sweep.parameter, value, task)
            for figure in self.figures
            for sweep in figure.sweeps
            for value in sweep.grid
            for task in figure.task
        }

    def cell(self, place: str) -> Printed | None:
        """Return the numbers of a cell named table/row/column, or None."""
        table, _, rest = place.partition("/")
        row_id, _, column = rest.rpartition("/")
        row = self.tables[table].row(row_id) if table in self.tables else None
        return row.printed.get(column) if row else None


def point_name(figure: str, parameter: str, value: float, task: str) -> str:
    """Return the name by which claims call a point of a sweep."""
    return f"figure {figure}/{parameter}={value:g}/{task}"


def full_label(row: Row) -> str:
    """Return a row's label with its stage and ticks."""
    return labelled(row.label, row.stage, row.ticks)


def labelled(label: str, stage: str, ticks: Sequence[str]) -> str:
    """Put a stage, if any, before a label and ticks, if any, after it."""
    return (f"{stage}: " if stage else "") + label + (f" ({' + '.join(ticks)})" if ticks else "")


def domains(row: Row, column: Column) -> tuple[str, str]:
    """Return source and target of a row's numbers: names of data sets, or "none" or "mix" for the source."""
    if column.task == "none":
        return "none", row.target
    task = row.task(column)
    source, target = ends(task)
    return row.source.get(column.id, source), target


def read(path: Path) -> Paper:
    """Read and check a paper's TOML file.

    Raises:
        UserError: It is invalid; the message names file, table and row.
    """
    return parse(toml_of(path), path.name)


def toml_of(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from error


def parse(raw: Mapping[str, Any], name: str) -> Paper:
    """Check a paper's TOML document; `name` is its file's name, for messages.

    Raises:
        UserError: It is invalid; the message names file, table and row.
    """
    place = TomlPlace(name)
    place.only(raw, "paper", "name", "title", "authors", "venue", "table", "figure", "claim", "finding")
    tables = [_table(entry, place) for entry in place.take(raw, "table", list)]
    place.no_duplicates("table", [table.id for table in tables])
    figures = tuple(_figure(entry, place) for entry in place.take(raw, "figure", list, []))
    place.no_duplicates("figure", [figure.id for figure in figures])
    claims = tuple(_claim(entry, place) for entry in place.take(raw, "claim", list, []))
    place.no_duplicates("claim", [claim.id for claim in claims])
    name = place.take(raw, "name", str, str(raw.get("paper", "")).upper())
    id = place.id(raw, "paper")
    title, authors, venue = (place.take(raw, name, str) for name in ("title", "authors", "venue"))
    findings = _findings(place.take(raw, "finding", list, []), place)
    paper = Paper(id, title, authors, venue, {table.id: table for table in tables}, name, figures, claims, findings)
    for claim in claims:
        _check_cells(paper, claim, place.at(f"claim {claim.id}"))
    for figure in figures:
        _check_rows(paper, figure, place.at(f"figure {figure.id}"))
    return paper


def read_all(folder: Path) -> dict[str, Paper]:
    """Read every paper of a folder of TOML files and of other installed packages, by id.

    Raises:
        UserError: There is none, one is invalid, or two have the same id.
    """
    papers: dict[str, Paper] = {}
    for path in paths(folder):
        paper = read(path)
        if paper.id in papers:
            raise UserError(f"{path} describes the paper {paper.id!r}, and so does another file: rename one")
        papers[paper.id] = paper
    return papers


def paths(folder: Path) -> list[Path]:
    """List the papers' TOML files in a folder of suites and in those of other installed packages.

    The folder's own files come before those of an installed copy of the same package.

    Raises:
        UserError: There is none.
    """
    places = dict.fromkeys(place.resolve() for place in (folder, *outside()))
    files = [path for place in places for path in sorted(place.glob("*.toml")) if path.name != REPORTED]
    files = list({path.parts[-3:]: path for path in reversed(files)}.values())[::-1]
    if not files:
        raise UserError(f"{folder} holds no papers (*.toml): name the folder of the suites")
    return files


@dataclass(frozen=True)
class TomlPlace:
    """A place in a TOML file, which error messages name."""

    name: str

    def at(self, more: str) -> TomlPlace:
        return TomlPlace(f"{self.name}, {more}")

    def error(self, message: str) -> UserError:
        return UserError(f"{self.name}: {message}")

    def take(self, raw: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        value = raw.get(name, default)
        if value is None:
            raise self.error(f"{name} is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = kind.__name__ if isinstance(kind, type) else " or ".join(type_.__name__ for type_ in kind)
            raise self.error(f"{name} must be of type {wanted}, not {value!r}")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text != printable(text):
                raise self.error(f"{name} holds control characters: {text!r}")
        return value

    def one_of(self, raw: Mapping[str, Any], name: str, known: Sequence[str], default: str | None = None) -> str:
        value: str = self.take(raw, name, str, default)
        if value not in known:
            raise self.error(f"{name} must be one of {', '.join(known)}, not {value!r}")
        return value

    def texts(self, raw: Mapping[str, Any], name: str) -> tuple[str, ...]:
        values = self.take(raw, name, list, [])
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise self.error(f"{name} must be strings, not {wrong[0]!r}")
        return tuple(values)

    def only(self, raw: Any, *known: str) -> None:
        if not isinstance(raw, Mapping):
            raise self.error(f"expected a table, not {raw!r}")
        if unknown := sorted(set(raw) - set(known)):
            raise self.error(f"unknown entry {unknown[0]!r}; known are {', '.join(known)}")

    def no_duplicates(self, what: str, ids: list[str]) -> None:
        if duplicates := sorted({id for id in ids if ids.count(id) > 1}):
            raise self.error(f"duplicate {what} {duplicates[0]!r}")

    def task(self, name: Any) -> None:
        if not is_task(name):
            raise self.error(f"{name!r} is no task: two letters of {', '.join(letters())} around a 2 (u for no source)")

    def id(self, raw: Mapping[str, Any], name: str = "id") -> str:
        id: str = self.take(raw, name, str)
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", id):
            raise self.error(f"{name} {id!r} must be lower-case letters, digits, -, + and .")
        return id


def _table(raw: Any, place: TomlPlace) -> Table:
    place = place.at(f"table {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    place.only(
        raw,
        "id",
        "caption",
        "where",
        "columns",
        "metrics",
        "row",
        "checked",
        "sources",
        "note",
        "doubts",
        "ticks",
        "band",
        "band_why",
    )
    usual_metrics = place.texts(raw, "metrics")
    columns = tuple(_column(entry, usual_metrics, place) for entry in place.take(raw, "columns", list))
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
        id=place.id(raw),
        caption=place.take(raw, "caption", str),
        where=place.take(raw, "where", str),
        columns=columns,
        rows=rows,
        checked=place.take(raw, "checked", str),
        ticks=ticks,
        sources=place.take(raw, "sources", bool, False),
        note=place.take(raw, "note", str, ""),
        doubts=place.texts(raw, "doubts"),
    )


def _column(raw: Any, usual: tuple[str, ...], place: TomlPlace) -> Column:
    place.only(raw, "id", "label", "task", "metrics")
    own = place.texts(raw, "metrics") or usual
    known = metrics.names(printed=True)
    if unknown := [metric for metric in own if metric not in known]:
        raise place.error(f"unknown metric {unknown[0]!r}; known are {', '.join(known)}")
    if not own:
        raise place.error("metrics are missing")
    column = Column(place.id(raw), place.take(raw, "label", str), raw.get("task", raw["id"]), own)
    if column.task != "none":
        place.task(column.task)
    return column


def _row(raw: Any, columns: tuple[Column, ...], ticks: tuple[str, ...], place: TomlPlace) -> Row:
    place = place.at(f"row {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    names = {column.id for column in columns}
    known = (
        "id",
        "label",
        "executed",
        "reference",
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
        "doubts",
    )
    place.only(raw, *known, *names)
    runs, source = place.take(raw, "runs", dict, {}), place.take(raw, "source", dict, {})
    for what, mapping in (("runs", runs), ("source", source)):
        if unknown := sorted(set(mapping) - names):
            raise place.error(f"{what} names the column {unknown[0]!r}, which the table does not have")
    for task in runs.values():
        place.task(task)
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
    executed = _executed(raw, tuple(column.id for column in columns), place)
    reference = place.take(raw, "reference", bool, False)
    if reference and "no" not in executed.values():
        raise place.error("reference is for rows that the paper quotes, and this one was executed")
    return Row(
        id=place.id(raw),
        label=place.take(raw, "label", str),
        printed=printed,
        executed=executed,
        why=place.take(raw, "why", str, ""),
        reference=reference,
        runs=runs,
        source=source,
        target=target,
        ours=place.take(raw, "ours", bool, True),
        ticks=place.texts(raw, "ticks"),
        gain=place.texts(raw, "gain"),
        stage=place.take(raw, "stage", str, ""),
        ref=place.take(raw, "ref", str, ""),
        band=band,
        band_why=place.take(raw, "band_why", str, BAND_WHY.get(band)),
        collapses=place.take(raw, "collapses", bool, False),
        pretrained=place.one_of(raw, "pretrained", ("", *CATALOGUE), ""),
        note=place.take(raw, "note", str, ""),
        doubts=place.texts(raw, "doubts"),
    )


def _executed(raw: Mapping[str, Any], columns: tuple[str, ...], place: TomlPlace) -> dict[str, str]:
    """Return whether the authors ran a row, by column, from one entry or one per column."""
    executed = place.take(raw, "executed", (str, dict))
    if isinstance(executed, str):
        return dict.fromkeys(columns, place.one_of(raw, "executed", EXECUTED))
    if set(executed) != set(columns):
        raise place.error(f"executed must be one value, or one for each of {', '.join(columns)}")
    return {column: place.one_of(executed, column, EXECUTED) for column in columns}


def _cells(cells: list[Any], names: tuple[str, ...], place: TomlPlace) -> Printed:
    if len(cells) != len(names):
        raise place.error(f'{len(cells)} cells for {len(names)} metrics; write "-" where the paper prints no number')
    return {
        metric: None if cell == "-" else _number(cell, metric, place) for metric, cell in zip(names, cells, strict=True)
    }


def _number(cell: Any, metric: str, place: TomlPlace) -> float:
    number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    match METRICS[metric].kind:
        case "count":
            if not (number and cell >= 0 and cell == int(cell)):
                raise place.error(f'{metric} must be a count from 0 or "-", not {cell!r}')
        case "gain":
            if not (number and -100 <= cell <= 100):
                raise place.error(f'{metric} must be a number between -100 and 100 or "-", not {cell!r}')
        case _:
            if not (number and 0 <= cell <= 100):
                raise place.error(f'{metric} must be a number between 0 and 100 or "-", not {cell!r}')
    return float(cell)


def _figure(raw: Any, place: TomlPlace) -> Figure:
    place = place.at(f"figure {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    place.only(raw, "id", "kind", "where", "shows", "rows", "task", "values", "sweep", *CURVES, "doubts")
    for task in place.texts(raw, "task"):
        place.task(task)
    kind = place.one_of(raw, "kind", FIGURES)
    sweeps = tuple(_sweep(entry, place) for entry in place.take(raw, "sweep", list, []))
    place.no_duplicates("sweep", [sweep.parameter for sweep in sweeps])
    if sweeps and (kind != "sweep" or len(place.texts(raw, "rows")) != 1):
        raise place.error('sweeps belong to a figure of kind "sweep" with one row, the one that they vary')
    grid = _grid(raw, place) if "grid" in raw else ()
    if (grid or "grid_from" in raw) and not (grid and kind == "convergence"):
        raise place.error('grid and grid_from belong together, to a figure of kind "convergence"')
    if "metrics" in raw and kind != "convergence":
        raise place.error('metrics belong to a figure of kind "convergence", or to a sweep')
    return Figure(
        id=place.id(raw),
        kind=kind,
        where=place.take(raw, "where", str),
        shows=place.take(raw, "shows", str),
        rows=place.texts(raw, "rows"),
        task=place.texts(raw, "task"),
        values=place.take(raw, "values", dict, {}),
        sweeps=sweeps,
        grid=grid,
        grid_from=place.one_of(raw, "grid_from", GRIDS) if grid else "",
        metrics=_measured(raw, place, ("mAP",)) if kind == "convergence" else (),
        doubts=place.texts(raw, "doubts"),
    )


def _sweep(raw: Any, place: TomlPlace) -> Sweep:
    place = place.at(f"sweep {raw.get('parameter', '?') if isinstance(raw, Mapping) else '?'}")
    place.only(raw, "parameter", "grid", "printed", "metrics", "label")
    parameter = place.take(raw, "parameter", str)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", parameter):
        raise place.error(f"parameter {parameter!r} must be letters, digits and _")
    grid = _grid(raw, place)
    shown = _measured(raw, place, metrics.names(judged=True))
    return Sweep(
        parameter=parameter,
        grid=grid,
        printed=place.take(raw, "printed", bool),
        metrics=shown,
        label=place.take(raw, "label", str, parameter),
    )


def _measured(raw: Mapping[str, Any], place: TomlPlace, usual: tuple[str, ...]) -> tuple[str, ...]:
    shown = place.texts(raw, "metrics") or usual
    if unknown := [metric for metric in shown if metric not in metrics.measured()]:
        raise place.error(f"unknown metric {unknown[0]!r}; runs measure {', '.join(metrics.measured())}")
    return shown


def _grid(raw: Mapping[str, Any], place: TomlPlace) -> tuple[float, ...]:
    grid = place.take(raw, "grid", list)
    if wrong := [value for value in grid if not isinstance(value, (int, float)) or isinstance(value, bool)]:
        raise place.error(f"grid must be numbers, not {wrong[0]!r}")
    if len(set(grid)) < max(2, len(grid)):
        raise place.error("grid must be two or more different numbers")
    return tuple(grid)


def _claim(raw: Any, place: TomlPlace) -> Claim:
    place = place.at(f"claim {raw.get('id', '?') if isinstance(raw, Mapping) else '?'}")
    place.only(
        raw,
        *("id", "where", "says", "quote", "kind", "left", "right", "stated", "metrics", "at_least", "about", "cause"),
        *("testable", "why", "doubts"),
    )
    kind = place.one_of(raw, "kind", CLAIMS)
    right = place.take(raw, "right", (str, list), [])
    stated = place.take(raw, "stated", dict, {})
    for name, value in stated.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise place.error(f"stated {name} must be a number, not {value!r}")
    compared = place.texts(raw, "metrics") or tuple(stated)
    comparable = metrics.names(claimed=True)
    if kind in COMPARED and (unknown := [metric for metric in compared if metric not in comparable]):
        raise place.error(f"unknown metric {unknown[0]!r}; claims compare {', '.join(comparable)}")
    if kind in ("gain", "value", "count") and not stated:
        raise place.error(f"a claim of kind {kind} states a number")
    quote = place.take(raw, "quote", str, "")
    if len(quote.split()) > QUOTED:
        raise place.error(f"quote has {len(quote.split())} words: quote {QUOTED} at most, and paraphrase the rest")
    return Claim(
        id=place.id(raw),
        where=place.take(raw, "where", str),
        says=place.take(raw, "says", str),
        kind=kind,
        left=place.take(raw, "left", str, ""),
        right=(right,) if isinstance(right, str) else place.texts(raw, "right"),
        stated=stated,
        metrics=compared,
        at_least=place.take(raw, "at_least", bool, False),
        about=place.take(raw, "about", bool, False),
        quote=quote,
        cause=place.take(raw, "cause", str, ""),
        testable=place.one_of(raw, "testable", TESTABLE, "yes"),
        why=place.take(raw, "why", str, ""),
        doubts=place.texts(raw, "doubts"),
    )


def _findings(entries: list[Any], place: TomlPlace) -> dict[str, Numbered]:
    """Read the permanent ids of findings, by what they are about."""
    place = place.at("finding")
    for entry in entries:
        place.only(entry, "id", "about", "reply")
    ids = [place.take(entry, "id", str) for entry in entries]
    if wrong := [id for id in ids if not re.fullmatch(r"[A-Za-z0-9-]+-\d{2,}", id)]:
        raise place.error(f"id {wrong[0]!r} must be a name, a - and at least two digits, such as RAE-03")
    place.no_duplicates("id", ids)
    place.no_duplicates("about", [place.take(entry, "about", str) for entry in entries])
    return {
        entry["about"]: Numbered(id, place.take(entry, "reply", str, ""))
        for id, entry in zip(ids, entries, strict=True)
    }


def _check_cells(paper: Paper, claim: Claim, place: TomlPlace) -> None:
    """Check that every cell named by a claim exists."""
    named = () if claim.kind in ("count", "other") else (claim.left, *claim.right)
    if claim.kind == "sweep":
        if unknown := sorted({*named} - paper.points):
            raise place.error(f"there is no point {unknown[0]!r}; name one as figure 6/parameter=value/task")
        return
    for cell in named:
        if paper.cell(cell) is None:
            raise place.error(f"there is no cell {cell!r}; name one as table/row/column")


def _check_rows(paper: Paper, figure: Figure, place: TomlPlace) -> None:
    """Check that every row named by a figure exists, and its column if it names one."""
    for spelled, (table, id, column) in zip(figure.rows, figure.places, strict=True):
        row = paper.tables[table].row(id) if table in paper.tables else None
        if row is None or (column and column not in row.printed):
            raise place.error(f'there is no row {spelled!r}; name one as "table 3: ours" or "table 3: ours/m2d"')


def _two(row: str) -> tuple[str, str]:
    """Split a row's spelling into row and column; the column may be missing."""
    id, _, column = row.partition("/")
    return id, column


def ends(task: str) -> tuple[str, str]:
    """Return the names of a task's source, "none" if it has none, and target."""
    return letters().get(task[0], "none"), letters()[task[2]]


def is_task(name: Any) -> bool:
    """Return whether this is the name of a task."""
    known = "".join(letters())
    return isinstance(name, str) and re.fullmatch(rf"[{known}{UNLABELLED}]2[{known}]", name) is not None
