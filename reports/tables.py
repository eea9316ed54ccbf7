"""The tables of a paper as it shows them, filled with what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.claims import Claim, read_claims
from reports.figures import Figure, figures
from reports.identity import setting_words
from reports.words import (
    NOTHING,
    Spread,
    arrows,
    difference,
    is_number,
    listing,
    metric,
    percent,
    row_label,
    scalar,
    unique,
)

if TYPE_CHECKING:
    from reports.cases import Case

USUAL_METRICS = ("rank1", "rank5", "rank10", "mAP")


@dataclass(frozen=True)
class Column:
    """One task of a table, and the metrics printed for it."""

    id: str
    label: str
    metrics: tuple[str, ...]

    @property
    def headings(self) -> tuple[str, ...]:
        return tuple(metric(name) for name in self.metrics)


@dataclass(frozen=True)
class Cell:
    """One row on one task: what is printed, what was measured, and how they differ where that means anything."""

    width: int
    printed: tuple[str, ...]
    case: Case | None
    measured: tuple[Spread | None, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def has_numbers(self) -> bool:
        """Whether at least one metric was measured."""
        return any(self.measured)


@dataclass(frozen=True)
class Row:
    """A row of a table as it is shown.

    Attributes:
        kind: "run" (at least one cell has a result), "not run" or "quoted" (the authors copied it).
        mark: footnote letters.
    """

    label: str
    kind: str
    mark: str
    cells: tuple[Cell, ...]

    @property
    def has_numbers(self) -> bool:
        return any(cell.has_numbers for cell in self.cells)

    @property
    def has_differences(self) -> bool:
        return any(cell.differences for cell in self.cells)


@dataclass(frozen=True)
class Setting:
    """A table filled by runs that belong together: one scale, one set of data.

    Attributes:
        renewed: mAP with batch statistics of the target's training images, which is never judged: a sentence, or empty.
    """

    title: str
    compared: bool
    reasons: str
    rows: tuple[Row, ...]
    renewed: str = ""

    @property
    def executed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind != "quoted")


@dataclass(frozen=True)
class Table:
    """A table of a paper with what was measured for it."""

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
        """Where methods depart from the paper: each departure once, with the rows it touches ("" where all do)."""
        rows: dict[str, list[str]] = {}
        for case in self.cases:
            for deviation in case.deviations:
                labels = rows.setdefault(deviation, [])
                labels += [] if case.label in labels else [case.label]
        every = len({case.label for case in self.cases})
        return tuple((text, "" if len(labels) == every else listing(labels)) for text, labels in rows.items())

    @property
    def compared(self) -> bool:
        """Whether a run of it shows the printed numbers beside its own; then they are not repeated apart."""
        return any(setting.compared for setting in self.settings)

    @property
    def width(self) -> int:
        """Metric cells in a row."""
        return sum(len(column.metrics) for column in self.columns)


@dataclass(frozen=True)
class Paper:
    """A paper and those of its tables that have results.

    Attributes:
        file: its page.
        short: what readers call it.
        others: tables without results.
    """

    id: str
    file: str
    short: str
    title: str
    authors: str
    venue: str
    tables: tuple[Table, ...]
    others: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every case, in the order of its tables."""
        return tuple(case for table in self.tables for case in table.cases)


def filled(
    paper: str,
    described: Mapping[str, Any],
    cases: Sequence[Case],
    claims: Sequence[Mapping[str, Any]],
    drawings: Sequence[Mapping[str, Any]],
    files: Counter[str],
) -> Paper:
    """A paper with what was measured for it.

    Args:
        paper: its id.
        described: its TOML file.
        cases: its cases; they learn where they are shown.
        claims: the records of its claims.
        drawings: the records of its figures.
        files: names of pages that are taken.
    """
    sources = [table for table in described.get("table") or () if isinstance(table, Mapping)]
    known = [str(table.get("id", "")) for table in sources]
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.table, []).append(case)
    sources += [{"id": name} for name in found if name not in known]
    page = unique(paper[:40], files)
    for case in cases:
        case.paper_name = short_name(paper, described)
    anchors: Counter[str] = Counter({"top": 1, "content": 1, "claims": 1, "untried": 1})
    return Paper(
        id=paper,
        file=f"{page}.html",
        short=short_name(paper, described),
        title=str(described.get("title") or paper),
        authors=_joined(described.get("authors")),
        venue=" ".join(scalar(described[name]) for name in ("venue", "year") if described.get(name)),
        tables=tuple(
            _table(f"{page}.html", table, found[str(table.get("id", ""))], anchors, files)
            for table in sources
            if str(table.get("id", "")) in found
        ),
        others=tuple(name for name in known if name not in found),
        figures=figures(described, cases, _titled, drawings),
        claims=read_claims(described, claims, anchors),
    )


def short_name(paper: str, described: Mapping[str, Any]) -> str:
    """What readers call a paper."""
    usual = paper.upper() if paper.isascii() and paper.islower() and len(paper) <= 8 else paper
    return str(described.get("name") or usual)


def _joined(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value or "")


def _columns(table: Mapping[str, Any], cases: Sequence[Case]) -> tuple[Column, ...]:
    metrics = tuple(str(name) for name in table.get("metrics") or ()) or USUAL_METRICS
    columns = [
        Column(
            str(column["id"]),
            arrows(str(column.get("label") or column["id"])),
            tuple(str(name) for name in column.get("metrics") or ()) or metrics,
        )
        for column in table.get("columns") or ()
    ]
    known = {column.id for column in columns}
    extra = dict.fromkeys(case.column for case in cases if case.column not in known)
    return (*columns, *(Column(name, name, metrics) for name in extra))


def _table(
    page: str, table: Mapping[str, Any], cases: Sequence[Case], anchors: Counter[str], files: Counter[str]
) -> Table:
    name = str(table.get("id", ""))
    anchor = unique(f"table-{name}", anchors)
    columns = _columns(table, cases)
    sources = [dict(row) for row in table.get("row") or ()]
    known = {str(row.get("id")) for row in sources}
    for case in cases:
        if case.row not in known:
            known.add(case.row)
            sources.append({"id": case.row, "label": case.label, "source": "executed"})
    row_order = {str(row.get("id")): place for place, row in enumerate(sources)}
    column_order = {column.id: place for place, column in enumerate(columns)}
    labels = {column.id: column.label for column in columns}
    ordered = sorted(cases, key=lambda case: (row_order[case.row], column_order[case.column], *_setting_order(case)))
    for case in ordered:
        case.file = f"cases/{unique(case.file_stem, files)}.html"
        case.home = f"{page}#{anchor}"
        case.place = f"Table {name}"
        case.column_label = labels[case.column]
    notes, marks = _notes(table, sources)
    return Table(
        id=name,
        anchor=anchor,
        where=f"page {scalar(table['page'])}" if table.get("page") is not None else str(table.get("where") or ""),
        caption=arrows(str(table.get("caption") or "")),
        columns=columns,
        notes=notes,
        settings=tuple(_setting(group, columns, sources, marks) for group in _together(cases)),
        cases=tuple(ordered),
    )


def _notes(
    table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """Footnotes (letter, text), and the letters of each row; a note that several rows share is written once."""
    letters: dict[str, str] = {}
    marks: dict[str, str] = {}
    for row in rows:
        texts = [str(row["note"])] if row.get("note") else []
        if row.get("executed") == "unsure":
            texts.append("The paper leaves open whether its authors ran this row themselves.")
        for text in texts:
            letters.setdefault(text, _letter(len(letters)))
        marks[str(row.get("id"))] = " ".join(letters[text] for text in texts)
    general = [("", str(table["note"]))] if table.get("note") else []
    if table.get("checked"):
        general.append(("", f"Printed numbers: {table['checked']}."))
    return (*general, *((letter, text) for text, letter in letters.items())), marks


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else _letter(index // 26 - 1) + _letter(index % 26)


def _together(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases of one table in groups that can share a grid: one scale, agreeing data, at most one result a cell."""
    groups: list[list[Case]] = []
    for case in sorted(cases, key=_setting_order):
        home = next((group for group in groups if all(_agree(case, other) for other in group)), None)
        if home is None:
            groups.append([case])
        else:
            home.append(case)
    return groups


def _titled(cases: Sequence[Case]) -> list[tuple[str, list[Case]]]:
    """Cases of a paper in groups, as `_together`, each with its title."""
    return [(setting_words([case.identity for case in group]), group) for group in _together(cases)]


def _setting_order(case: Case) -> tuple[Any, ...]:
    return not case.measured, not case.comparable, case.identity.rank, case.order


ALIKE = ("scale_version", "subset", "weights", "precision")


def _agree(case: Case, other: Case) -> bool:
    one, two = case.identity, other.identity
    if (case.row, case.column) == (other.row, other.column) or one.scale != two.scale:
        return False
    if one.on_stand_ins != two.on_stand_ins and one.data and two.data:
        return False
    if not case.measured or not other.measured:
        return True
    if one.older != two.older or any(one.record.get(name) != two.record.get(name) for name in ALIKE):
        return False
    return all(entry == two.data.get(domain, entry) for domain, entry in one.data.items())


def _setting(
    cases: Sequence[Case], columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], marks: Mapping[str, str]
) -> Setting:
    found = {(case.row, case.column): case for case in cases}
    compared = any(case.comparable for case in cases)
    shown = []
    for row in rows:
        name = str(row.get("id"))
        cells = tuple(_cell(row, column, found.get((name, column.id))) for column in columns)
        quoted = row.get("source") == "quoted" or row.get("executed") == "no"
        kind = "run" if any(cell.case for cell in cells) else "quoted" if quoted else "not run"
        shown.append(Row(row_label(row), kind, marks.get(name, ""), cells))
    reasons = dict.fromkeys(reason for case in cases if not case.comparable for reason in case.reasons)
    title = setting_words([case.identity for case in cases])
    return Setting(title, compared, ", ".join(reasons), tuple(shown), _renewed(shown))


def _renewed(rows: Sequence[Row]) -> str:
    told = [
        (f"{row.label}, {cell.case.column_label}", cell.case.spread("mAP"), cell.case.spread("renewed"))
        for row in rows
        for cell in row.cells
        if cell.case
    ]
    each = [f"{name} {after.text} (as trained {before.text})" for name, before, after in told if before and after]
    if not each:
        return ""
    of = "batch statistics of the target\u2019s training images, which adapts and is not judged"
    return f"mAP with {of}: {'; '.join(each)}."


def _cell(row: Mapping[str, Any], column: Column, case: Case | None) -> Cell:
    values = row.get(column.id)
    printed = dict(zip(column.metrics, values, strict=False)) if isinstance(values, list | tuple) else {}
    if not printed and case:
        printed = dict(case.printed)
    texts = tuple(percent(printed.get(name)) for name in column.metrics)
    if case is None:
        return Cell(len(column.metrics), texts, None)
    case.printed_now = printed
    case.band = row.get("band") if case.band is None else case.band
    measured = tuple(case.spread(name) for name in column.metrics)
    gaps: tuple[str, ...] = ()
    if case.comparable and any(measured):
        gaps = tuple(
            difference(found.mean, printed[name]) if found and is_number(printed.get(name)) else NOTHING
            for found, name in zip(measured, column.metrics, strict=True)
        )
    return Cell(len(column.metrics), texts, case, measured, gaps)
