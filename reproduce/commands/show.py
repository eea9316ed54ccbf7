"""Answer whether a table reproduces: printed numbers, what others reported, what was measured here, what is left."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

from reproduce import metrics
from reproduce.errors import UserError
from reproduce.metrics import METRICS
from reproduce.papers.cases import Case
from reproduce.papers.records import Identity, Result
from reproduce.papers.reported import Collection, Report
from reproduce.papers.reported import spread as spread_of_reports
from reproduce.papers.tables import Column, Paper, Row, Table, full_label
from reproduce.papers.verdicts import SEEDS_FOR_A_REPRODUCTION, reasons_against
from reproduce.session.display import ROOMY, spread
from reproduce.wording import counted

Line = tuple[str, list[str], str]
"""Origin of numbers, the numbers as text, and a remark."""


def find_tables(papers: Mapping[str, Paper], paper: str, table: str = "") -> tuple[Paper, list[Table]]:
    """Return a paper, by id or name, and its table with an id, or all of them.

    Raises:
        UserError: There is no such paper or table; the message lists those that exist.
    """
    named = {name.lower(): each for each in papers.values() for name in (each.name, each.id)}
    if paper.lower() not in named:
        raise UserError(
            f"there is no folder or paper {paper!r}: name a folder of results, or one of {', '.join(papers)}"
        )
    chosen = named[paper.lower()]
    if not table:
        return chosen, list(chosen.tables.values())
    id = table.lower().removeprefix("table").strip()
    if id not in chosen.tables:
        raise UserError(f"{chosen.name} has no table {table!r}: name one of {', '.join(chosen.tables)}")
    return chosen, [chosen.tables[id]]


def page(
    paper: Paper,
    table: Table,
    reported: Collection,
    results: Iterable[Result],
    cases: Iterable[object],
    width: int,
    *,
    colour: bool = False,
) -> str:
    """Format a table's rows, each with printed, reported and measured numbers, and say what real data would decide.

    Args:
        paper: A paper.
        table: One of its tables.
        reported: What others measured.
        results: Measured results of any papers.
        cases: Cases of any suites.
        width: Width of the terminal, in columns.
        colour: Whether the terminal shows colours.
    """
    from rich.console import Console
    from rich.table import Table as Grid

    own = [result for result in results if (result.case.paper, result.case.table) == (paper.id, table.id)]
    own = [result for result in own if result.case.point is None]
    names = [name for name in metrics.measured() if any(name in column.metrics for column in table.columns)]
    names = [name for name in names if width >= ROOMY or not METRICS[name].roomy]
    out = io.StringIO()
    console = Console(file=out, width=max(width, 60), force_terminal=colour, no_color=not colour, highlight=False)
    console.print(f"{paper.name}, table {table.id}: {table.caption}", style="bold", markup=False)
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("in percent", min_width=14)
    grid.add_column()
    for name in names:
        grid.add_column(metrics.short(name), justify="right", no_wrap=True)
    grid.add_column()
    for row in table.rows:
        for column in table.columns:
            label = f"{full_label(row)}, {column.label if column.task == 'none' else row.task(column)}"
            for origin, numbers, remark in _lines(paper, table, row, column, reported, own, names):
                style = "" if origin == "measured" else "dim"
                grid.add_row(label, origin, *numbers, remark, style=style)
                label = ""
    console.print(grid, markup=False)
    runnable = [it for it in cases if isinstance(it, Case) and _of_table(it, paper, table)]
    if any("stand-in data" in result.reasons for result in own):
        console.print("Stand-in data: not comparable with the paper.", style="bold")
    console.print(_real_data(paper, table, own, runnable), soft_wrap=True, markup=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _of_table(case: Case, paper: Paper, table: Table) -> bool:
    return (case.paper, case.table, case.figure, case.point) == (paper.id, table.id, "", None)


def _lines(
    paper: Paper,
    table: Table,
    row: Row,
    column: Column,
    reported: Collection,
    results: Sequence[Result],
    names: Sequence[str],
) -> Iterator[Line]:
    """Yield the lines of one cell group: printed, reported, measured; none if all are empty."""
    reports = reported.beside(paper.id, table.id, row, column)
    measured = [
        it for it in results if (it.case.row, it.case.column) == (row.id, column.id) and (it.measured or it.error)
    ]
    printed = row.printed[column.id]
    if not any(printed.get(name) is not None for name in names) and not measured:
        return
    numbers = ["-" if (value := printed.get(name)) is None else f"{value:.1f}" for name in names]
    yield "printed", numbers, "quoted" if row.quoted(column.id) else ""
    for independent, remark in ((True, "by others"), (False, "by its authors or unclear")):
        if several := [it for it in reports if it.independent == independent]:
            yield "reported", _ranges(several, names), remark
    for result in measured:
        remark = f"{_where(result.identity)}, n={len(result.measured)}"
        remark += f": {result.verdict}" if result.verdict != "not comparable" else ""
        yield "measured", [spread(result, name) for name in names], remark


def _ranges(reports: Sequence[Report], names: Sequence[str]) -> list[str]:
    ranges = (spread_of_reports(reports, name) for name in names)
    return [found.text if found else "-" for found in ranges]


def _where(identity: Identity) -> str:
    """Describe scale and data in a few words."""
    words = {"stand-in": "stand-ins", "real": "real data", "made": "images made by a stage"}
    kinds = dict.fromkeys(
        f"folder {entry['folder']}" if entry["kind"] == "folder" and "folder" in entry else entry["kind"]
        for entry in identity.data.values()
    )
    return ", ".join([identity.scale, *(words.get(kind, kind) for kind in kinds)])


def _real_data(paper: Paper, table: Table, results: Sequence[Result], cases: Sequence[Case]) -> str:
    """Say how many of the table's cases were tried as printed, and which command tries them."""
    runnable = [case for case in cases if case.recipe and not case.quoted]
    if not runnable:
        missing = "no recipe produces a row of it yet" if cases else "the authors ran no row of it"
        return f"not tried on real data: {missing}"
    tried = {(it.case.row, it.case.column) for it in results if it.measured and not reasons_against(it.identity)}
    done = sum((case.row.id, case.column) in tried for case in runnable)
    seeds = ",".join(map(str, range(1, SEEDS_FOR_A_REPRODUCTION + 1)))
    command = f'pytest suites/ -k "{paper.id} and table{table.id}-" --data-root DIR --scale paper --seeds {seeds}'
    if done == len(runnable):
        return f"tried on real data: all {counted(done, 'case')}, by: {command}"
    state = f"tried on real data: {done} of {counted(len(runnable), 'case')}" if done else "not tried on real data"
    return f"{state}; this command would: {command}"
