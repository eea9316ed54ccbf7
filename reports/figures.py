"""Fill a paper's figures: convergence curves and sweeps from runs of their rows, and pictures of what networks see."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

from reports.cases import Case
from reports.curves import Panel, Point, Swept, chart, sweep
from reports.pictures import Picture, pictures
from reports.words import is_number, spread, unique
from reproduce.metrics import title as metric_title
from reproduce.papers.records import FigureRecord, Shown
from reproduce.papers.tables import Figure as Described
from reproduce.papers.tables import Paper
from reproduce.wording import listing

GRIDS = {"text": "the paper's text", "ours": "our choice", "": ""}
"""Who names the epochs or rounds at which curves are compared."""

SWEPT = (
    "A point is the mean over the training seeds, with a bar from the lowest to the highest; it is hollow where a seed "
    "collapsed, and ✕ stands where there is no number."
)
USUAL = "The value in bold is that of the paper’s tables."

Together: TypeAlias = Callable[[Sequence[Case]], Sequence[tuple[str, Sequence[Case]]]]


@dataclass(frozen=True)
class Drawn:
    """A figure in one setting: one panel per task, and a legend of rows."""

    title: str
    legend: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]
    across: str = "step"
    """Quantity on the horizontal axis."""


@dataclass(frozen=True)
class Figure:
    """A figure of a paper, and what runs give for it."""

    id: str
    anchor: str
    where: str
    shows: str
    drawn: tuple[Drawn, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def reading(self) -> tuple[str, ...]:
        """How to read its sweeps and pictures, once per kind."""
        panels = [panel for drawn in self.drawn for panel in drawn.panels if panel.bars]
        usual = any(tick.usual for panel in panels for tick in panel.x_ticks)
        swept = [SWEPT + f" {USUAL}" * usual] * bool(panels)
        return tuple(dict.fromkeys([*swept, *(picture.reading for picture in self.pictures if picture.reading)]))


def figures(
    paper: Paper, cases: Sequence[Case], together: Together, records: Sequence[FigureRecord] = ()
) -> tuple[Figure, ...]:
    """Collect the figures with runs, in the paper's order, then those that its file does not describe.

    Args:
        paper: The paper as printed.
        cases: Cases of the paper.
        together: Groups cases by setting and names the settings.
        records: Records of figures that show images.
    """
    seen: dict[str, list[FigureRecord]] = {}
    for record in records:
        seen.setdefault(record.figure.id, []).append(record)
    written: dict[str, Described | Shown] = {figure.id: figure for figure in paper.figures}
    written |= {id: seen[id][0].figure for id in sorted(seen.keys() - written.keys())}
    anchors: Counter[str] = Counter()
    made = []
    for id, figure in written.items():
        curves = (
            ()
            if isinstance(figure, Shown)
            else (*_convergence(figure, cases, together), *_sweeps(figure, cases, together))
        )
        shown = pictures(paper, seen.get(id, ()))
        if curves or shown:
            made.append(Figure(id, unique(f"figure-{id}", anchors), figure.where, figure.shows, curves, shown))
    return tuple(made)


def _convergence(figure: Described, cases: Sequence[Case], together: Together) -> tuple[Drawn, ...]:
    """Draw the panels of a convergence figure by setting; none without runs."""
    if figure.kind != "convergence":
        return ()
    shown = [case for case in cases if figure.draws(*_place(case), case.task) and case.measured and not case.cell.point]
    drawn = [_drawn(title, figure, group) for title, group in together(shown)]
    return tuple(curves for curves in drawn if curves.panels)


def _place(case: Case) -> tuple[str, str, str]:
    return case.table, case.row, case.column


def _drawn(title: str, figure: Described, cases: Sequence[Case]) -> Drawn:
    by_place = {_place(case): case for case in cases}
    panels: list[Panel] = []
    legend: dict[str, str] = {}
    for task in figure.task:
        found = [by_place.get((table, row, column or task)) for table, row, column in figure.places]
        members = [case for case in found if case and (case.column == task or case.task == task)]
        for name in figure.metrics:
            lines = [(case.label, points) for case in members if (points := _by_step(case, name))]
            if not lines:
                continue
            direct = _direct([case for case in cases if case.task == task], name)
            panels.append(chart(name, lines, f"{task}: {metric_title(name)}", "step", direct))
            legend |= {label: line.dash for (label, _), line in zip(lines, panels[-1].lines, strict=True)}
    grid = f": compared at {listing([f'{step:g}' for step in figure.grid])}, by {GRIDS[figure.grid_from]}"
    return Drawn(title + grid * bool(figure.grid), tuple(legend.items()), tuple(panels), "step")


def _by_step(case: Case, name: str) -> list[Point]:
    """Average a metric over seeds after each step; a seed that ended early keeps its last value."""
    by_key = {stage.key: stage for stage in case.stages}
    evaluated = [(stage.spec.get("train") or {}).get("key") for stage in case.stages]
    curves = [
        [entry[name] for entry in by_key[key].history if is_number(entry.get(name))]
        for key in dict.fromkeys(evaluated)
        if key in by_key
    ]
    curves = [curve for curve in curves if curve]
    steps = range(max(map(len, curves), default=0))
    return [(step + 1.0, fmean(curve[min(step, len(curve) - 1)] for curve in curves)) for step in steps]


def _sweeps(figure: Described, cases: Sequence[Case], together: Together) -> Iterator[Drawn]:
    """Draw a figure's sweeps: in each setting one panel per row, task and metric, over the parameter's values."""
    points = [case for case in cases if case.cell.point and case.cell.point.figure == figure.id]
    rows: dict[tuple[str, str, str], frozenset[str]] = {}
    for case in cases:
        if not case.cell.point:
            rows[_place(case)] = rows.get(_place(case), frozenset()) | case.tested
    for title, group in together(points):
        for declared in figure.sweeps:
            own = [case for case in group if case.cell.point and case.cell.point.parameter == declared.parameter]
            panels: list[Panel] = []
            varied = dict.fromkeys((task, case.table, case.row) for task in figure.task for case in own)
            for task, *row in varied:
                members = [case for case in own if [case.table, case.row] == row and case.column == task]
                of = f", {members[0].label}" if members and len(varied) > len(figure.task) else ""
                for name in declared.metrics:
                    swept = sorted((_swept(case, name, rows) for case in members), key=lambda point: point.at)
                    if not any(point.by_seed for point in swept):
                        continue
                    heading, direct = f"{task}: {metric_title(name)}{of}", _direct(members, name)
                    panels.append(sweep(name, swept, heading, declared.parameter, note=_within(swept), direct=direct))
            grid = "the grid is printed" if declared.printed else "the grid is ours"
            if panels:
                yield Drawn(f"{title}: {declared.label} ({grid})", (), tuple(panels), declared.parameter)


def _direct(cases: Sequence[Case], name: str) -> float | None:
    """Return what direct transfer reached, by the first case that knows; None if none does."""
    return next((case.direct[name] for case in cases if name in case.direct), None)


def _swept(case: Case, name: str, rows: Mapping[tuple[str, str, str], frozenset[str]]) -> Swept:
    """Take a metric of a point of a sweep, beside the trainings that the rows of tables test."""
    assert case.cell.point
    values = (numbers.get(name) for numbers in case.measured.values())
    return Swept(
        at=float(case.cell.point.value),
        by_seed=tuple(filter(is_number, values)),
        collapsed=bool(case.collapsed),
        usual=bool(case.tested & rows.get(_place(case), frozenset())),
        href=case.file,
    )


def _within(points: Sequence[Swept]) -> str:
    """Say how far the means of a sweep lie apart, which papers make statements about, and how far seeds do."""
    found = [several for point in points if (several := spread(point.by_seed))]
    parts = []
    if len(found) > 1:
        means = [each.mean for each in found]
        parts.append(f"means within {max(means) - min(means):.1f}")
    if variances := [each.sd**2 for each in found if each.sd is not None]:
        parts.append(f"SD of a seed {math.sqrt(fmean(variances)):.1f}")
    counts = [each.n for each in found]
    few, most = min(counts), max(counts)
    parts.append(f"n = {most}" if few == most else f"n = {few} to {most}")
    return ", ".join(parts)
