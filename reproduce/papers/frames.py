"""Collect printed, measured and reported numbers in one tidy data frame, for notebooks, exports and pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reproduce.papers.records import Result
from reproduce.papers.reported import Report
from reproduce.papers.tables import Number, Paper, ends, full_label, is_task

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "origin",
    "paper",
    "table",
    "row",
    "label",
    "column",
    "task",
    "source",
    "target",
    "metric",
    "value",
    "seed",
    "scale",
    "setting",
    "verdict",
    "executed",
    "parameter",
    "parameter_value",
    "by",
)
"""Columns of the data frame; see `frame`."""


def frame(
    papers: Mapping[str, Paper] | None = None, results: Iterable[Result] = (), reported: Iterable[Report] = ()
) -> pd.DataFrame:
    """Collect numbers in a data frame with one number per line.

    Args:
        papers: Papers by id, from `reproduce.papers.tables.read_all`.
        results: Results of runs, from `reproduce.papers.records.read`.
        reported: Third parties' measurements, from `reproduce.papers.reported.read_all`; numbers given as a text are
            left out.

    Returns:
        A data frame with the columns `COLUMNS`. "origin" is "printed", "measured" or "reported"; "value" is in percent,
        or a count; "seed" is the training seed of a measured number; "setting" is the digest of a measured number's
        identity, or how a reported one was measured; "parameter" and "parameter_value" give its point in a sweep; "by"
        is who measured a reported number. Values that an origin lacks are missing.
    """
    import pandas as pd

    lines = [
        *(line for paper in (papers or {}).values() for line in _printed(paper)),
        *(line for result in results for line in _measured(result)),
        *(line for report in reported for line in _reported(report)),
    ]
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    return table.astype({"value": float, "seed": "Int64", "parameter_value": float})


def _printed(paper: Paper) -> Iterator[dict[str, Any]]:
    for number in paper.numbers():
        yield {
            "origin": "printed",
            "paper": paper.id,
            "table": number.table,
            "row": number.row.id,
            "label": full_label(number.row),
            "column": number.column.id,
            "task": _task(number),
            "source": number.source,
            "target": number.target,
            "metric": number.metric,
            "value": number.value,
            "executed": number.row.executed[number.column.id],
        }


def _task(number: Number) -> str | None:
    task = number.row.task(number.column)
    return task if is_task(task) else None


def _measured(result: Result) -> Iterator[dict[str, Any]]:
    cell = result.case
    source, target = ends(cell.task) if is_task(cell.task) else ("none", None)
    for seed, numbers in result.measured.items():
        for metric, value in numbers.items():
            yield {
                "origin": "measured",
                "paper": cell.paper,
                "table": cell.table,
                "row": cell.row,
                "label": cell.label,
                "column": cell.column,
                "task": cell.task,
                "source": source,
                "target": target,
                "metric": metric,
                "value": value,
                "seed": int(seed),
                "scale": result.identity.scale,
                "setting": result.identity.digest,
                "verdict": result.verdict,
                "parameter": cell.point.parameter if cell.point else None,
                "parameter_value": cell.point.value if cell.point else None,
            }


def _reported(report: Report) -> Iterator[dict[str, Any]]:
    source, target = ends(report.task)
    for metric, value in report.numbers.items():
        if not isinstance(value, str):
            yield {
                "origin": "reported",
                "label": report.method,
                "task": report.task,
                "source": source,
                "target": target,
                "metric": metric,
                "value": value,
                "setting": report.setting,
                "by": report.who,
            }
