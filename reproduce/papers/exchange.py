"""Export printed, reported and measured numbers for other tools: JSON with a published schema, and a flat CSV."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from reproduce.files import as_text
from reproduce.metrics import METRICS
from reproduce.papers.records import Result
from reproduce.papers.reported import Report
from reproduce.papers.statistics import half_width
from reproduce.papers.tables import Number, Paper, ends, full_label, is_task

FORMAT = 1
"""Version of the exported document; raised with every change that a reader would notice."""

CONFIDENCE = 0.9
"""Level of the interval of a mean over training seeds, as in verdicts."""


class Exported(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One number: printed by a paper, reported by a third party, or measured here as a mean over training seeds."""

    origin: Literal["documentation", "third party", "measured"]
    method: str
    """Row of the table, or the method's name in a report."""
    metric: str
    unit: Literal["percent", "percentage points", "count", "number"]
    value: float | None = None
    """The number; for a measured one the mean over seeds. Missing if a report gives only a text."""
    text: str = ""
    """What a report gives instead of one number."""
    paper: str = ""
    table: str = ""
    row: str = ""
    column: str = ""
    task: str = ""
    source: str = ""
    """Labelled data set; "none" if there is none."""
    target: str = ""
    """Data set of the test."""
    executed: str = ""
    """Whether the paper's authors ran a printed row: "yes", "no" (quoted) or "unsure"."""
    n: int | None = None
    """Number of training seeds of a measured number."""
    sd: float | None = None
    """Sample standard deviation between them; missing for one seed."""
    low: float | None = None
    """Lower end of the 90 % t interval of their mean."""
    high: float | None = None
    scale: str = ""
    setting: str = ""
    """How a reported number was measured, or the digest of a measured number's identity."""
    stand_ins: bool | None = None
    """Whether a measured number was measured on drawn images, which say nothing about the printed number."""
    verdict: str = ""
    parameter: str = ""
    """Parameter of a sweep, of which a measured number is a point."""
    parameter_value: float | None = None
    by: str = ""
    independence: str = ""
    """Whether the method's authors measured a reported number."""
    link: str = ""
    accessed: str = ""


class Document(Struct, kw_only=True, forbid_unknown_fields=True):
    """All numbers."""

    format: int
    numbers: list[Exported]


SCHEMA: dict[str, Any] = msgspec.json.schema(Document)
"""JSON Schema of the exported document; `docs/export.schema.json` is a copy."""


def as_json(papers: Mapping[str, Paper], reports: Iterable[Report], results: Iterable[Result]) -> dict[str, Any]:
    """Return all numbers as plain JSON values that satisfy `SCHEMA`."""
    document = Document(format=FORMAT, numbers=list(_all(papers, reports, results)))
    plain: dict[str, Any] = msgspec.to_builtins(document)
    return plain


def as_csv(papers: Mapping[str, Paper], reports: Iterable[Report], results: Iterable[Result]) -> str:
    """Format all numbers as CSV, with the fields of `Exported` as columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, Exported.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    for number in _all(papers, reports, results):
        fields = msgspec.to_builtins(number)
        writer.writerow({name: as_text(value) if isinstance(value, str) else value for name, value in fields.items()})
    return text.getvalue()


def _all(papers: Mapping[str, Paper], reports: Iterable[Report], results: Iterable[Result]) -> Iterator[Exported]:
    for id, paper in papers.items():
        yield from (_printed(id, number) for number in paper.numbers())
    for report in reports:
        yield from _reported(report)
    for result in results:
        yield from _measured(result)


def _printed(paper: str, number: Number) -> Exported:
    kind = METRICS[number.metric].kind
    task = number.row.task(number.column)
    return Exported(
        origin="documentation",
        method=full_label(number.row),
        metric=number.metric,
        unit="count" if kind == "count" else "percentage points" if kind == "gain" else "percent",
        value=number.value,
        paper=paper,
        table=number.table,
        row=number.row.id,
        column=number.column.id,
        task=task if is_task(task) else "",
        source=number.source,
        target=number.target,
        executed=number.row.executed[number.column.id],
    )


def _reported(report: Report) -> Iterator[Exported]:
    for metric, value in report.numbers.items():
        source, target = ends(report.task)
        yield Exported(
            origin="third party",
            method=report.method,
            metric=metric,
            unit="percent",
            value=None if isinstance(value, str) else float(value),
            text=value if isinstance(value, str) else "",
            task=report.task,
            source=source,
            target=target,
            setting=report.setting,
            by=report.who,
            independence=report.independence,
            link=report.link or report.source,
            accessed=report.accessed,
        )


def _measured(result: Result) -> Iterator[Exported]:
    cell, seeds = result.case, list(result.measured.values())
    source, target = ends(cell.task) if is_task(cell.task) else ("", "")
    for metric, mean in result.means.items():
        if metric not in METRICS:
            continue
        values = [seed[metric] for seed in seeds]
        sd = reach = None
        if len(values) > 1:
            sd = statistics.stdev(values)
            reach = half_width(sd / math.sqrt(len(values)), len(values) - 1, CONFIDENCE)
        yield Exported(
            origin="measured",
            method=cell.label,
            metric=metric,
            unit="percent" if METRICS[metric].percent else "number",
            value=mean,
            paper=cell.paper,
            table=cell.table,
            row=cell.row,
            column=cell.column,
            task=cell.task,
            source=source,
            target=target,
            n=len(values),
            sd=sd,
            low=None if reach is None else mean - reach,
            high=None if reach is None else mean + reach,
            scale=result.identity.scale,
            setting=result.identity.digest,
            stand_ins=any(entry["kind"] == "stand-in" for entry in result.identity.data.values()),
            verdict=result.verdict,
            parameter=cell.point.parameter if cell.point else "",
            parameter_value=float(cell.point.value) if cell.point else None,
        )
