"""Fill the tables of a paper, as printed, with measured numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reports.claims import Claim, read_claims
from reports.figures import Figure, figures
from reports.identity import folders_of, setting_words
from reports.words import NOTHING, Spread, arrows, difference, percent, spread, unique
from reproduce import metrics
from reproduce.metrics import METRICS, title
from reproduce.papers.export import printed_source
from reproduce.papers.reported import NOBODY, Collection, summary
from reproduce.papers.tables import Column as DescribedColumn
from reproduce.papers.tables import Paper as Described
from reproduce.papers.tables import Row as DescribedRow
from reproduce.papers.tables import Table as DescribedTable
from reproduce.papers.tables import ends, full_label
from reproduce.wording import listing

if TYPE_CHECKING:
    from reports.cases import Case
    from reproduce.papers.cases import Coverage
    from reproduce.papers.records import ClaimRecord, FigureRecord


@dataclass(frozen=True)
class Column:
    """One task of a table, and the metrics printed for it."""

    id: str
    label: str
    metrics: tuple[str, ...]

    @property
    def headings(self) -> tuple[str, ...]:
        return tuple(title(name) for name in self.metrics)


@dataclass(frozen=True)
class Cell:
    """One row on one task: printed and measured numbers, and their differences if comparable."""

    width: int
    printed: tuple[str, ...]
    case: Case | None
    measured: tuple[Spread | None, ...] = ()
    differences: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    """What others measured, by metric: a range and a count; empty if nobody reports this cell."""

    @property
    def has_numbers(self) -> bool:
        """Whether at least one metric was measured."""
        return any(self.measured)


@dataclass(frozen=True)
class Line:
    """One row on one task."""

    column: Column
    cell: Cell


@dataclass(frozen=True)
class Row:
    """A row of a table for display."""

    label: str
    kind: str
    """"run" (at least one cell has a result), "not run" or "quoted" (the authors copied it)."""
    mark: str
    """Footnote letters."""
    cells: tuple[Cell, ...]

    def lines(self, columns: Sequence[Column]) -> Iterator[Line]:
        """Yield a line for each of the table's columns in which it has a number or a case."""
        for column, cell in zip(columns, self.cells, strict=True):
            if cell.case or cell.reported or {*cell.printed} != {NOTHING}:
                yield Line(column, cell)

    @property
    def has_numbers(self) -> bool:
        return any(cell.has_numbers for cell in self.cells)

    @property
    def has_differences(self) -> bool:
        return any(cell.differences for cell in self.cells)

    @property
    def has_reported(self) -> bool:
        return any(cell.reported for cell in self.cells)


@dataclass(frozen=True)
class Renewed:
    """mAP with batch statistics of the target's training images, which adapts and is never judged."""

    row: str
    task: str
    trained: Spread
    """With the statistics of training."""
    renewed: Spread


@dataclass(frozen=True)
class Setting:
    """A table filled by runs of one scale on one set of data."""

    title: str
    compared: bool
    reasons: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    """The table's columns, titled by the user's folders where it was run on them."""
    first: bool
    """Whether it is the first of its table, which also names the rows that were not run and shows what is printed."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics of its columns, each once, in the usual order."""
        own = {name for column in self.columns for name in column.metrics}
        return tuple(name for name in METRICS if name in own)

    @property
    def executed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == "run" or (self.first and row.kind != "quoted"))

    @property
    def renewed(self) -> tuple[Renewed, ...]:
        pairs = [(row.label, cell.case) for row in self.rows for cell in row.cells if cell.case]
        found = [(label, case.column_label, case.spread("mAP"), case.spread("renewed")) for label, case in pairs]
        return tuple(Renewed(row, task, one, two) for row, task, one, two in found if one and two)


@dataclass(frozen=True)
class Table:
    """A table of a paper with measured numbers."""

    id: str
    anchor: str
    where: str
    caption: str
    columns: tuple[Column, ...]
    notes: tuple[tuple[str, str], ...]
    settings: tuple[Setting, ...]
    cases: tuple[Case, ...]

    @property
    def deviations(self) -> tuple[tuple[str, str], ...]:
        """Deviations of methods from the paper, each once, with the rows concerned ("" for all)."""
        return _by_row([(case.label, case.deviations) for case in self.cases])

    @property
    def compared(self) -> bool:
        """Whether a run of it shows the printed numbers too, so that they are not repeated separately."""
        return any(setting.compared for setting in self.settings)

    @property
    def width(self) -> int:
        """Number of metric cells in a row."""
        return sum(len(column.metrics) for column in self.columns)


@dataclass(frozen=True)
class Paper:
    """A paper with its tables that have results."""

    id: str
    file: str
    """File of its page."""
    short: str
    """Name for readers."""
    title: str
    authors: str
    venue: str
    tables: tuple[Table, ...]
    others: tuple[str, ...]
    """Tables without results."""
    own: frozenset[tuple[str, str, str, str]]
    """The numbers (table, row, column, metric) that it prints in rows that the authors ran, or may have run."""
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()
    points: tuple[Case, ...] = ()
    """Points of sweeps, which its figures draw."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every case, in the order of its tables, then the points of sweeps."""
        return (*(case for table in self.tables for case in table.cases), *self.points)


def filled(
    paper: Described,
    cases: Sequence[Case],
    claims: Sequence[ClaimRecord],
    drawings: Sequence[FigureRecord],
    files: Counter[str],
    covered: Coverage | None = None,
    reported: Collection = NOBODY,
) -> Paper:
    """Fill a paper with measured numbers.

    Args:
        paper: The paper as printed.
        cases: Its cases; points of sweeps go to its figures, all others to its tables.
        claims: Records of its claims.
        drawings: Records of its figures.
        files: Names of pages already used.
        covered: What the cases of all suites cover; None if they were not collected.
        reported: What others measured.
    """
    whole = completed(paper, cases)
    page = f"{unique(paper.id[:40], files)}.html"
    anchors: Counter[str] = Counter({"top": 1, "content": 1, "claims": 1, "untried": 1})
    by_table = {id: [case for case in cases if case.cell.table == id] for id in whole.tables}
    placed = {
        id: _placed(page, unique(f"table-{id}", anchors), whole, id, members, files)
        for id, members in by_table.items()
        if members
    }
    placed = _with_direct(placed)
    every = [case for members in placed.values() for case in members]
    rows = {id: [case for case in members if not case.cell.point] for id, members in placed.items()}
    drawn = figures(whole, every, by_setting, drawings)
    links = {figure.id: f"#{figure.anchor}" for figure in drawn}
    return Paper(
        id=paper.id,
        file=page,
        short=paper.name,
        title=paper.title,
        authors=paper.authors,
        venue=paper.venue,
        tables=tuple(_table(paper.id, whole.tables[id], members, reported) for id, members in rows.items() if members),
        others=tuple(id for id in paper.tables if not rows.get(id)),
        own=_own(paper),
        figures=drawn,
        claims=read_claims(whole, claims, anchors, covered, every),
        points=tuple(
            replace(case, place=f"Figure {point.figure}", home=page + links.get(point.figure, ""), printed_now={})
            for case in every
            if (point := case.cell.point)
        ),
    )


def _own(paper: Described) -> frozenset[tuple[str, str, str, str]]:
    return frozenset(
        (number.table, number.row.id, number.column.id, number.metric)
        for number in paper.numbers()
        if number.row.ours and not number.row.quoted(number.column.id) and number.metric in metrics.measured()
    )


def _with_direct(placed: Mapping[str, Sequence[Case]]) -> dict[str, list[Case]]:
    """Add to each case what direct transfer measured: a test, on the same data, of a network its training starts from.

    Of several such networks the one with the fewest stages counts, which is the source model. An adapted case whose own
    start no row tests, such as a source model with a part that the tested one lacks, has that of its table's other
    rows, if they have the same one.
    """
    every = [case for members in placed.values() for case in members if case.measured and not case.cell.point]

    def comparable(one: Case, other: Case) -> bool:
        return one.task == other.task and one.identity.agrees_on_data(other.identity)

    def start(case: Case) -> Case | None:
        behind = {stage.key for stage in case.stages} - case.tested
        tested = [other for other in every if other.tested and other.tested <= behind and comparable(case, other)]
        return min(tested, key=lambda other: (len(other.stages), other.order), default=None)

    def direct(case: Case, table: Sequence[Case]) -> dict[str, float]:
        own = starts[id(case)]
        beside = {id(it): it for other in table if comparable(case, other) and (it := starts[id(other)])}
        if own is None and case.adapted and len(beside) == 1:
            [own] = beside.values()
        return {name: found.mean for name in metrics.printed() if own and (found := own.spread(name))}

    starts = {id(case): start(case) for members in placed.values() for case in members}
    return {name: [replace(case, direct=direct(case, table)) for case in table] for name, table in placed.items()}


def completed(paper: Described, cases: Sequence[Case]) -> Described:
    """Add tables, columns and rows that only results contain, such as those of another version."""
    tables = dict(paper.tables)
    for case in cases:
        cell = case.cell
        table = tables.get(cell.table) or DescribedTable(
            id=cell.table, caption="", where="", columns=(), rows=(), checked=""
        )
        if cell.column not in {column.id for column in table.columns}:
            column = DescribedColumn(cell.column, cell.column, cell.task, metrics.printed())
            table = replace(table, columns=(*table.columns, column))
        if table.row(cell.row) is None:
            row = DescribedRow(id=cell.row, label=cell.label or cell.row, printed={}, executed={})
            table = replace(table, rows=(*table.rows, row))
        tables[cell.table] = table
    return replace(paper, tables=tables)


def _placed(
    page: str, anchor: str, paper: Described, table: str, cases: Sequence[Case], files: Counter[str]
) -> list[Case]:
    """Sort the cases of a table in its order, and add their pages and places."""
    described = paper.tables[table]
    rows = [row.id for row in described.rows]
    columns = {column.id: arrows(column.label) for column in described.columns}
    order = list(columns)

    def place(case: Case) -> tuple[Any, ...]:
        return rows.index(case.cell.row), order.index(case.cell.column), *_setting_order(case)

    printed = {row.id: row.printed for row in described.rows}
    return [
        replace(
            case,
            paper_name=paper.name,
            file=f"cases/{unique(case.file_stem, files)}.html",
            home=f"{page}#{anchor}",
            place=f"Table {table}",
            column_label=folders_of(case.task, [case.identity]) or columns[case.cell.column],
            printed_now=printed[case.cell.row].get(case.cell.column, {}),
        )
        for case in sorted(cases, key=place)
    ]


def _table(paper: str, table: DescribedTable, cases: Sequence[Case], reported: Collection) -> Table:
    beside = {
        (row.id, column.id): tuple(summary(reports, name) or NOTHING for name in column.metrics)
        for row in table.rows
        for column in table.columns
        if (reports := reported.beside(paper, table.id, row, column))
    }
    columns = tuple(Column(column.id, _heading(column, table), column.metrics) for column in table.columns)
    notes, marks = _notes(table)
    return Table(
        id=table.id,
        anchor=cases[0].home.partition("#")[2],
        where=table.where,
        caption=arrows(table.caption),
        columns=columns,
        notes=notes,
        settings=tuple(
            _setting(group, columns, table, marks, beside, first=not number)
            for number, group in enumerate(_together(cases))
        ),
        cases=tuple(cases),
    )


def _notes(table: DescribedTable) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """Return footnotes (letter, text) and the letters of each row; shared notes appear once."""
    letters: dict[str, str] = {}
    marks: dict[str, str] = {}
    for row in table.rows:
        texts = list(row.remarks)
        if "unsure" in row.executed.values():
            why = f" {row.why}" if row.why else ""
            texts.append(f"The paper leaves open whether its authors ran this row themselves.{why}")
        for text in texts:
            letters.setdefault(text, _letter(len(letters)))
        marks[row.id] = " ".join(letters[text] for text in texts)
    general = [("", remark) for remark in table.remarks]
    if table.checked:
        general.append(("", f"Printed numbers: {table.checked}."))
    return (*general, *((letter, text) for text, letter in letters.items())), marks


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else _letter(index // 26 - 1) + _letter(index % 26)


def _together(cases: Sequence[Case]) -> list[list[Case]]:
    """Group cases of one table that can share a grid: one scale, agreeing data, at most one result per cell."""
    groups: list[list[Case]] = []
    for case in sorted(cases, key=_setting_order):
        home = next((group for group in groups if all(_agree(case, other) for other in group)), None)
        if home is None:
            groups.append([case])
        else:
            home.append(case)
    return groups


def by_setting(cases: Sequence[Case]) -> list[tuple[str, list[Case]]]:
    """Group cases of a paper as `_together` does, with a title for each group."""
    return [(setting_words([case.identity for case in group]), group) for group in _together(cases)]


def _setting_order(case: Case) -> tuple[Any, ...]:
    return not case.measured, not case.comparable, case.identity.rank, case.order


def _agree(case: Case, other: Case) -> bool:
    one, two = case.identity, other.identity
    if case.cell.place == other.cell.place or one.scale != two.scale:
        return False
    if one.on_stand_ins != two.on_stand_ins and one.data and two.data:
        return False
    if not case.measured or not other.measured:
        return True
    if one.older != two.older or one.shared != two.shared:
        return False
    return all(entry == two.data.get(domain, entry) for domain, entry in one.data.items())


def _setting(
    cases: Sequence[Case],
    columns: Sequence[Column],
    table: DescribedTable,
    marks: Mapping[str, str],
    reported: Mapping[tuple[str, str], tuple[str, ...]],
    *,
    first: bool,
) -> Setting:
    by_cell = {(case.cell.row, case.cell.column): case for case in cases}
    compared = any(case.comparable for case in cases)
    shown = []
    for row in table.rows:
        cells = tuple(
            replace(_cell(row, column, by_cell), reported=reported.get((row.id, column.id), ())) for column in columns
        )
        quoted = bool(row.executed) and set(row.executed.values()) == {"no"}
        kind = "run" if any(cell.case or cell.has_numbers for cell in cells) else "quoted" if quoted else "not run"
        shown.append(Row(arrows(full_label(row) + _sources(row, table)), kind, marks.get(row.id, ""), cells))
    title = setting_words([case.identity for case in cases])
    identities = [case.identity for case in cases]
    named = [folders_of(column.task, identities) for column in table.columns]
    titled = tuple(
        replace(column, label=f"{name} ({column.id})" if named.count(name) > 1 else name) if name else column
        for column, name in zip(columns, named, strict=True)
    )
    ordered = [cell.case for row in shown for cell in row.cells if cell.case]
    return Setting(title, compared, reasons(ordered), tuple(shown), titled, first)


def reasons(cases: Sequence[Case]) -> str:
    """Say why cases are not comparable: each reason once, with the rows concerned if not all measured ones are."""
    apart = [case for case in cases if case.measured and not case.comparable]
    several = len({case.paper for case in apart}) > 1
    found = _by_row([(f"{case.paper_name}: {case.label}" if several else case.label, case.reasons) for case in apart])
    return ", ".join(f"{reason} (only {rows})" if rows else reason for reason, rows in found)


def _by_row(cases: Sequence[tuple[str, Sequence[str]]]) -> tuple[tuple[str, str], ...]:
    """Return texts about cases, each once, with the rows concerned ("" for all).

    Args:
        cases: Label of the row, and texts, of each case.
    """
    rows: dict[str, list[str]] = {}
    for label, texts in cases:
        for text in texts:
            labels = rows.setdefault(text, [])
            labels += [] if label in labels else [label]
    every = len({label for label, _ in cases})
    return tuple((text, "" if len(labels) == every else listing(labels)) for text, labels in rows.items())


def _sources(row: DescribedRow, table: DescribedTable) -> str:
    """Name the sources that a table prints for a row; empty if it prints none, or those of the columns' headings."""
    if not table.sources or not row.printed:
        return ""
    printed = [printed_source(row, column) for column in table.columns]
    if printed == [ends(column.task)[0] for column in table.columns]:
        return ""
    return f", source {' and '.join(dict.fromkeys(printed))}"


def _heading(column: DescribedColumn, table: DescribedTable) -> str:
    """Head a column, with the source of the rows that name none."""
    named = not table.sources or "source" in column.label
    return arrows(column.label if named else f"{column.label}, source {ends(column.task)[0]}")


def _cell(row: DescribedRow, column: Column, cases: Mapping[tuple[str, str], Case]) -> Cell:
    case = cases.get((row.id, column.id))
    printed = row.printed.get(column.id) or (case.printed if case else {})
    texts = tuple(percent(printed.get(name)) for name in column.metrics)
    measured: tuple[Spread | None, ...] = ()
    if case:
        measured = tuple(case.spread(name) for name in column.metrics)
    elif row.gain:
        parts = [cases.get((part, column.id)) for part in row.gain]
        measured = tuple(_gained(parts, name) for name in column.metrics)
    gaps: tuple[str, ...] = ()
    if case and case.comparable and any(measured):
        gaps = tuple(
            difference(spread.mean, value) if spread and (value := printed.get(name)) is not None else NOTHING
            for spread, name in zip(measured, column.metrics, strict=True)
        )
    return Cell(len(column.metrics), texts, case, measured if any(measured) or case else (), gaps)


def _gained(parts: Sequence[Case | None], name: str) -> Spread | None:
    """Compute the measured gain between two rows, over the seeds that both have."""
    base = METRICS[name].gain_of
    after, before = parts
    if not base or not after or not before:
        return None
    shared = [seed for seed in after.measured if seed in before.measured]
    pairs = [(after.measured[seed].get(base), before.measured[seed].get(base)) for seed in shared]
    return spread(one - other for one, other in pairs if one is not None and other is not None)
