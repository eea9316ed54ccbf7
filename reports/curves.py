"""Compute the geometry of learning curves as small SVG panels: one panel per quantity, one line per seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from reports.words import MINUS, is_number, spread
from reproduce.metrics import METRICS
from reproduce.metrics import title as title_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WIDTH, HEIGHT = 280, 150
LEFT, RIGHT, TOP, BOTTOM = 36, 62, 8, 30
PLOT_RIGHT = WIDTH - RIGHT
PLOT_BOTTOM = HEIGHT - BOTTOM

DASHES = ("none", "6 3", "2 2", "8 2 2 2")
MOST_POINTS = 120
MOST_MARKS = 25
FEW_POINTS = 12
MOST_LABELS = len(DASHES)
LABEL_GAP = 12.0
MOST_PANELS = 15
ADVERSARIAL = ("reconstruction", "feature_accuracy", "pixel_accuracy")
LABELS = ("clusters", "outliers", "portion", "purity", "together", "agreement", "largest", "median", "tail")
LEADING = ("loss", "mAP", "rank1", *LABELS[:5], *ADVERSARIAL, *LABELS[5:])
COUNTED = ("epoch", "step", "iteration")
NO_CURVE = frozenset({*COUNTED, "images_per_s"})
Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: position and text."""

    at: float
    text: str
    usual: bool = False
    """Whether it is the value of a sweep that the row of a table has."""
    missing: bool = False
    """Whether there is no number for it."""


@dataclass(frozen=True)
class Label:
    """The last value of a line, shown at its end."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point of a line that tells its value: shown as a dot, or found by pointing at it."""

    x: float
    y: float
    text: str
    shown: bool
    hollow: bool = False
    href: str = ""


@dataclass(frozen=True)
class Bar:
    """A vertical bar from the lowest to the highest seed."""

    x: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Swept:
    """What runs give at one value of a varied parameter."""

    at: float
    by_seed: tuple[float, ...]
    """A metric by training seed; empty if none gave a number."""
    collapsed: bool = False
    """Whether a seed collapsed."""
    usual: bool = False
    """Whether the row of a table has this value."""
    href: str = ""
    """Page of its case."""


@dataclass(frozen=True)
class Line:
    """One curve: path, dash pattern, tint, and marks."""

    path: str
    dash: str
    tint: int
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Level:
    """A value to compare curves with, drawn as a horizontal line."""

    y: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One quantity over the epochs of one kind of stage."""

    title: str
    unit: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    summary: str
    """Text alternative of the panel, for screen readers."""
    of_labels: bool = False
    level: Level | None = None
    bars: tuple[Bar, ...] = ()
    note: str = ""
    """What is said beside the title."""
    values: tuple[tuple[str, str], ...] = ()
    """Label and value of each line if all have a single point: they are a table, not a curve."""


def panels(
    histories: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    x_label: str = "epoch",
    direct: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Panel, ...]:
    """Draw a panel for each quantity in the histories, loss and mAP first, with a tint for each seed.

    Args:
        histories: Seed and stage history of each line, one mapping per logged step.
        x_label: Name of a step if the history does not name it.
        direct: Values of direct transfer, by quantity.
    """
    names = {name for _, entries in histories for entry in entries for name in entry}
    ordered = [name for name in LEADING if name in names] + sorted(names - set(LEADING) - NO_CURVE)
    by_name = {}
    for name in ordered:
        curves = [(label, _points(entries, name)) for label, entries in histories]
        if curves := [(label, points) for label, points in curves if points]:
            by_name[name] = curves
    xs = [x for curves in by_name.values() for _, points in curves for x, _ in (points[0], points[-1])]
    return tuple(
        _panel(
            name, by_name[name], (min(xs), max(xs)), _x_name(histories, x_label), direct=direct.get(name), who="seed "
        )
        for name in list(by_name)[:MOST_PANELS]
    )


def chart(
    name: str, lines: Sequence[tuple[str, list[Point]]], title: str, x_label: str, direct: float | None = None
) -> Panel:
    """Draw one panel with a line for each label, told apart by dashes; line ends show values without labels."""
    xs = [x for _, points in lines for x, _ in points]
    panel = _panel(name, lines, (min(xs), max(xs)), x_label, direct=direct)
    ends = tuple(replace(label, text=label.text.partition(" ")[0]) for label in panel.labels)
    return replace(panel, title=title, labels=ends, summary=panel.summary.replace("seed ", ""))


def sweep(
    name: str, points: Sequence[Swept], title: str, x_label: str, *, note: str = "", direct: float | None = None
) -> Panel:
    """Draw one panel over a varied parameter: means over seeds, bars over their range, hollow where one collapsed.

    The axis is logarithmic if the logarithms of the grid's values are spaced more evenly than the values.

    Args:
        name: The metric.
        points: In the order of the parameter, each value once; at least one has a number.
        title: Title of the panel.
        x_label: The parameter.
        note: What is said beside the title.
        direct: Value of direct transfer.
    """
    values = [point.at for point in points]
    logarithmic = values[0] > 0 and _unevenness(list(map(math.log, values))) < _unevenness(values)
    forth = math.log if logarithmic else float
    shown = [point for point in points if point.by_seed]
    reach = [(forth(point.at), min(point.by_seed), max(point.by_seed)) for point in shown]
    means = [(forth(point.at), fmean(point.by_seed)) for point in shown]
    ticks = [(forth(point.at), f"{point.at:.3g}") for point in points]
    panel = _panel(name, [("", means)], (ticks[0][0], ticks[-1][0]), x_label, ticks=ticks, reach=reach, direct=direct)
    [line] = panel.lines
    marks = tuple(
        replace(mark, text=f"{x_label} {_swept(name, point)}", shown=True, hollow=point.collapsed, href=point.href)
        for mark, point in zip(line.marks, shown, strict=True)
    )
    return replace(
        panel,
        title=title,
        x_label=x_label + ", on a logarithmic scale" * logarithmic,
        note=note,
        x_ticks=tuple(
            replace(tick, usual=point.usual, missing=not point.by_seed)
            for tick, point in zip(panel.x_ticks, points, strict=True)
        ),
        lines=(replace(line, marks=marks),),
        labels=(),
        values=(),
        summary=f"{title_of(name)} by {x_label}; " + ", ".join(_swept(name, point) for point in points),
    )


def _swept(name: str, point: Swept) -> str:
    """Describe a point: "0.5: 45.0 (40.0 to 50.0)"."""
    if not point.by_seed:
        return f"{point.at:g}: no number"
    low, high = (_value(name, value) for value in (min(point.by_seed), max(point.by_seed)))
    spread_out = f" ({low} to {high})" * (len(point.by_seed) > 1)
    return f"{point.at:g}: {_value(name, fmean(point.by_seed))}{spread_out}{', collapsed' * point.collapsed}"


def _unevenness(values: Sequence[float]) -> float:
    """Return the ratio of the largest to the smallest distance between neighbours; 1 if there are fewer than two."""
    steps = [after - before for before, after in pairwise(values)]
    return max(steps) / min(steps) if steps else 1.0


def _in_percent(name: str) -> bool:
    return name in METRICS and METRICS[name].percent


def _x_name(histories: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], default: str) -> str:
    units = {name for _, entries in histories for entry in entries for name in ("epoch", "iteration") if name in entry}
    return units.pop() if len(units) == 1 else default


def _points(entries: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    unit = next((unit for unit in COUNTED if entries and unit in entries[0]), "")
    points = []
    for place, entry in enumerate(entries, 1):
        y = entry.get(name)
        if is_number(y):
            x = entry.get(unit, place)
            points.append((x if is_number(x) else place, y))
    return points


def _thin(points: list[Point], most: int) -> list[Point]:
    if len(points) <= most:
        return points
    last = len(points) - 1
    return [points[round(place * last / (most - 1))] for place in range(most)]


def _panel(
    name: str,
    curves: Sequence[tuple[str, list[Point]]],
    across: tuple[float, float],
    x_label: str,
    *,
    ticks: Sequence[tuple[float, str]] = (),
    reach: Sequence[tuple[float, float, float]] = (),
    direct: float | None = None,
    who: str = "",
) -> Panel:
    x_low, x_high = across
    ys = [y for _, points in curves for _, y in points] + ([] if direct is None else [direct])
    ys += [y for _, *ends in reach for y in ends]
    y_values = _y_range(min(ys), max(ys))
    y_low, y_high = y_values[0], y_values[-1]

    def place(point: Point) -> Point:
        right = (point[0] - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (point[1] - y_low) / (y_high - y_low)
        return LEFT + right * (PLOT_RIGHT - LEFT), PLOT_BOTTOM - up * (PLOT_BOTTOM - TOP)

    lines = []
    for index, (label, points) in enumerate(curves):
        thin = _thin(points, MOST_POINTS)
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(place, thin))
        style = index if len(curves) <= MOST_LABELS else 0
        named = f" ({who}{label})" if label else ""
        marks = tuple(
            Mark(
                round(x, 1),
                round(y, 1),
                f"{x_label} {point[0]:,.0f}: {_value(name, point[1])}{named}",
                len(thin) <= FEW_POINTS or point == points[-1],
            )
            for point in (points if ticks else _thin(points, MOST_MARKS))
            for x, y in [place(point)]
        )
        lines.append(Line(path, DASHES[0 if who else style], style if who else 0, marks))
    x_values = ticks or [(x, f"{x:,.0f}") for x in dict.fromkeys(across)]
    return Panel(
        title=title_of(name).replace("_", " "),
        unit="%" if _in_percent(name) else "",
        x_label=x_label,
        x_ticks=tuple(Tick(round(place((x, y_low))[0], 1), text) for x, text in x_values),
        y_ticks=tuple(Tick(round(place((x_low, y))[1], 1), _short(y)) for y in y_values),
        lines=tuple(lines),
        labels=_labels(name, curves, place),
        summary=_summary(name, curves, x_label, x_high),
        of_labels=name in METRICS and METRICS[name].kind == "labels",
        level=None if direct is None else Level(round(place((x_low, direct))[1], 1), _value(name, direct)),
        bars=tuple(Bar(*(round(at, 1) for at in (*place((x, high)), place((x, low))[1]))) for x, low, high in reach),
        values=() if any(len(points) > 1 for _, points in curves) else _values(name, curves),
    )


def _values(name: str, curves: Sequence[tuple[str, list[Point]]]) -> tuple[tuple[str, str], ...]:
    return tuple((label, _value(name, points[0][1])) for label, points in curves)


def _labels(name: str, curves: Sequence[tuple[str, list[Point]]], place: Callable[[Point], Point]) -> tuple[Label, ...]:
    """Place last values at the ends of the lines, moved apart if they would touch."""
    ends = [(place(points[-1]), label, points[-1][1]) for label, points in curves]
    if len(ends) > MOST_LABELS:
        summary = spread(value for _, _, value in ends)
        assert summary is not None
        height = sum(y for (_, y), _, _ in ends) / len(ends)
        return (Label(PLOT_RIGHT + 5, round(height, 1), f"mean {_value(name, summary.mean)}"),)
    ends.sort(key=lambda end: (end[0][1], end[1]))
    heights = [y for (_, y), _, _ in ends]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + LABEL_GAP)
    heights[-1] = min(heights[-1], PLOT_BOTTOM)
    for index in reversed(range(len(heights) - 1)):
        heights[index] = min(heights[index], heights[index + 1] - LABEL_GAP)
    texts = [_value(name, value) + (f" ({label})" if len(ends) > 1 else "") for _, label, value in ends]
    return tuple(Label(PLOT_RIGHT + 5, round(height, 1), text) for height, text in zip(heights, texts, strict=True))


def _summary(name: str, curves: Sequence[tuple[str, list[Point]]], x_label: str, x_high: float) -> str:
    parts = [
        f"seed {label}: from {_value(name, points[0][1])} to {_value(name, points[-1][1])}" for label, points in curves
    ]
    return f"{title_of(name)} over {x_high:,.0f} {x_label}s; " + "; ".join(parts)


def _y_range(low: float, high: float) -> list[float]:
    """Choose a few round values that span the data and zero, so that no axis exaggerates a difference."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        high = 1.0
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _short(value: float) -> str:
    text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.6g}"
    return text.replace("-", MINUS)


def _value(name: str, value: float) -> str:
    if _in_percent(name):
        return f"{value:.1f}"
    whole = abs(value) >= 1000 or (float(value).is_integer() and abs(value) >= 10)
    return (f"{value:,.0f}" if whole else f"{value:#.3g}".rstrip(".")).replace("-", MINUS)
