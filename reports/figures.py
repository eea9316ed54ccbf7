"""Figures of a paper: how methods converge, drawn from the runs of the rows they show, and what networks see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

from reports.cases import Case
from reports.curves import Panel, Point, chart
from reports.identity import mapping
from reports.pictures import Picture, pictures
from reports.words import is_number, unique

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
    drawn: tuple[Drawn, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def reading(self) -> tuple[str, ...]:
        """How to read its pictures, each kind once."""
        return tuple(dict.fromkeys(picture.reading for picture in self.pictures if picture.reading))


def figures(
    described: Mapping[str, Any],
    cases: Sequence[Case],
    together: Together,
    records: Sequence[Mapping[str, Any]] = (),
) -> tuple[Figure, ...]:
    """The figures that anything was run for, in the paper's order, then those that its file does not hold.

    Args:
        described: the paper, as its TOML file reads; a figure's rows are spelled "table 3: ours".
        cases: of the paper.
        together: puts cases of one setting together, and names it.
        records: of what networks see, as `reproduce.papers.results.read_figures` gives them.
    """
    seen: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        seen.setdefault(str(mapping(record.get("figure")).get("id")), []).append(record)
    written = {str(figure["id"]): figure for figure in described.get("figure") or ()}
    written |= {id: mapping(seen[id][0].get("figure")) for id in sorted(seen.keys() - written.keys())}
    anchors: Counter[str] = Counter()
    found = []
    for id, figure in written.items():
        drawn, shown = _convergence(figure, cases, together), pictures(described, seen.get(id, ()))
        if drawn is not None or shown:
            where, shows = str(figure.get("where") or ""), str(figure.get("shows") or "")
            found.append(Figure(id, unique(f"figure-{id}", anchors), where, shows, drawn or (), shown))
    return tuple(found)


def _convergence(figure: Mapping[str, Any], cases: Sequence[Case], together: Together) -> tuple[Drawn, ...] | None:
    """The panels of a figure, by setting; None where it shows no convergence, or nothing was run for it."""
    rows = [str(row) for row in figure.get("rows") or ()]
    shown = [case for case in cases if _place(case) in rows and case.measured]
    if figure.get("kind") != "convergence" or not shown:
        return None
    drawn = [_drawn(title, rows, figure.get("task") or (), group) for title, group in together(shown)]
    return tuple(each for each in drawn if each.panels)


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
