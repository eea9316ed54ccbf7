"""Figures of a paper that show how a method converges, drawn from the runs of the rows they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

from reports.cases import Case
from reports.curves import Panel, Point, chart
from reports.identity import mapping
from reports.words import is_number, slug

Together: TypeAlias = Callable[[Sequence[Case]], Sequence[tuple[str, Sequence[Case]]]]


@dataclass(frozen=True)
class Drawn:
    """A figure in one setting: a panel a task, and which line is which row."""

    title: str
    legend: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Figure:
    """A figure of a paper: what it shows there, and what runs here give for it."""

    id: str
    anchor: str
    where: str
    shows: str
    drawn: tuple[Drawn, ...]


def figures(described: Mapping[str, Any], cases: Sequence[Case], together: Together) -> tuple[Figure, ...]:
    """The convergence figures that anything was run for.

    Args:
        described: the paper, as its TOML file reads; a figure's rows are spelled "table 3: ours".
        cases: of the paper.
        together: puts cases of one setting together, and names it.
    """
    found = []
    for figure in described.get("figure") or ():
        rows = [str(row) for row in figure.get("rows") or ()]
        shown = [case for case in cases if _place(case) in rows and case.measured]
        if figure.get("kind") == "convergence" and shown:
            drawn = [_drawn(title, rows, figure.get("task") or (), group) for title, group in together(shown)]
            kept = tuple(each for each in drawn if each.panels)
            id, where = str(figure["id"]), str(figure.get("where", ""))
            found.append(Figure(id, f"figure-{slug(id)}", where, str(figure["shows"]), kept))
    return tuple(found)


def _place(case: Case) -> str:
    return f"table {case.table}: {case.row}"


def _drawn(title: str, rows: Sequence[str], tasks: Sequence[str], cases: Sequence[Case]) -> Drawn:
    by_place = {(_place(case), case.column): case for case in cases}
    panels: list[Panel] = []
    legend: dict[str, str] = {}
    for task in tasks:
        lines = [(case.label, _by_step(case)) for row in rows if (case := by_place.get((row, task)))]
        if lines := [(label, points) for label, points in lines if points]:
            panels.append(chart("mAP", lines, f"{task}: mAP", "step"))
            legend |= {label: line.dash for (label, _), line in zip(lines, panels[-1].lines, strict=True)}
    return Drawn(title, tuple(legend.items()), tuple(panels))


def _by_step(case: Case) -> list[Point]:
    """MAP after each step, the mean over the seeds; one that ended early stays where it was."""
    by_key = {str(stage.get("key")): stage for stage in case.stages}
    evaluated = [mapping(mapping(stage.get("spec")).get("train")).get("key") for stage in case.stages]
    curves = [
        [entry["mAP"] for entry in by_key[str(key)].get("history") or () if is_number(entry.get("mAP"))]
        for key in dict.fromkeys(evaluated)
        if str(key) in by_key
    ]
    curves = [curve for curve in curves if curve]
    steps = range(max(map(len, curves), default=0))
    return [(step + 1.0, fmean(curve[min(step, len(curve) - 1)] for curve in curves)) for step in steps]
