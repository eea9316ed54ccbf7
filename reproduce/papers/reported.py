"""Read what others measured on the real data sets with methods that papers print, and set it beside printed cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce import metrics
from reproduce.papers.installed import outside
from reproduce.papers.tables import REPORTED, Column, Paper, Row, TomlPlace, toml_of

INDEPENDENCE = ("independent", "same authors", "unclear")


@dataclass(frozen=True, kw_only=True)
class Report:
    """One measurement by a third party, as reported."""

    method: str
    """The method's name in the report."""
    task: str
    """Task, such as "m2d"; "u2m" for training without labels on the target alone, "m2m" for supervised training."""
    setting: str
    numbers: Mapping[str, float | str]
    """Numbers by metric in percent; a text, such as "75.x to 77.x", where the report gives no single number."""
    who: str
    independence: str
    """One of `INDEPENDENCE`: whether the authors of the method measured it."""
    code: str
    source: str
    """Web page of the report."""
    link: str
    """A link to the version of the page that was read, if it has one."""
    accessed: str
    """Day on which the page was read."""
    backbone: str
    pooling: str
    rows: tuple[str, ...]
    """Printed rows that have this method, backbone and pooling: a paper with table/row, or table/row/column."""
    apart: str
    """Why it belongs beside no printed row; empty if it does."""

    @property
    def independent(self) -> bool:
        return self.independence == "independent"


@dataclass(frozen=True)
class Collection:
    """All reports, and the names of methods of which none was found."""

    reports: tuple[Report, ...] = ()
    without: tuple[str, ...] = ()

    def beside(self, paper: str, table: str, row: Row, column: Column) -> tuple[Report, ...]:
        """Return the reports of a printed cell's method, backbone and pooling on its task."""
        places = {f"{paper} {table}/{row.id}", f"{paper} {table}/{row.id}/{column.id}"}
        return tuple(it for it in self.reports if it.task == row.task(column) and not places.isdisjoint(it.rows))


NOBODY = Collection()
"""No reports."""


@dataclass(frozen=True)
class Range:
    """Smallest and largest of several numbers."""

    low: float
    high: float
    count: int

    @property
    def text(self) -> str:
        """The range with the count in brackets."""
        return f"{self.low:.1f}" + (f"\u2013{self.high:.1f}" if self.high != self.low else "") + f" ({self.count})"


def spread(reports: Iterable[Report], metric: str) -> Range | None:
    """Return the range of a metric over reports that give a number."""
    values = [value for it in reports if isinstance(value := it.numbers.get(metric), int | float)]
    return Range(min(values), max(values), len(values)) if values else None


def summary(reports: Sequence[Report], metric: str) -> str:
    """Summarise a metric: the range of independent reports, and that of the others apart; empty if there are none."""
    alone = spread((it for it in reports if it.independent), metric)
    others = spread((it for it in reports if not it.independent), metric)
    parts = [alone.text] if alone else []
    parts += [f"same authors or unclear {others.text}"] if others else []
    return "; ".join(parts)


def read_all(folder: Path, papers: Mapping[str, Paper]) -> Collection:
    """Read the reports of a folder of suites and of other installed packages.

    Raises:
        UserError: A file is invalid, or names a row that no paper has; the message names file, method and place.
    """
    places = dict.fromkeys(place.resolve() for place in (folder, *outside()))
    found = [read(place / REPORTED, papers) for place in places if (place / REPORTED).is_file()]
    return Collection(
        tuple(it for one in found for it in one.reports), tuple(name for one in found for name in one.without)
    )


def read(path: Path, papers: Mapping[str, Paper]) -> Collection:
    """Read and check one file of reports.

    Raises:
        UserError: As in `read_all`.
    """
    place = TomlPlace(path.name)
    raw = toml_of(path)
    place.only(raw, "accessed", "without", "method")
    accessed = place.take(raw, "accessed", str)
    entries = place.take(raw, "method", list)
    place.no_duplicates("method", [place.take(entry, "name", str) for entry in entries])
    reports = tuple(report for entry in entries for report in _method(entry, accessed, papers, place))
    return Collection(reports, place.texts(raw, "without"))


def _method(raw: Mapping[str, Any], accessed: str, papers: Mapping[str, Paper], place: TomlPlace) -> list[Report]:
    place = place.at(f"method {raw['name']}")
    place.only(raw, "name", "backbone", "pooling", "rows", "apart", "number")
    rows, apart = place.texts(raw, "rows"), place.take(raw, "apart", str, "")
    if bool(rows) == bool(apart):
        raise place.error("name either the printed rows of this method (rows) or why there are none (apart)")
    for row in rows:
        if not _exists(row, papers):
            raise place.error(f"there is no row {row!r}; name one as PAPER TABLE/ROW or PAPER TABLE/ROW/COLUMN")
    reports = []
    for number, entry in enumerate(place.take(raw, "number", list), 1):
        at = place.at(f"number {number}")
        known = metrics.names(judged=True)
        at.only(entry, "task", "setting", *known, "who", "independence", "code", "source", "link")
        at.task(entry.get("task"))
        numbers = {name: at.take(entry, name, (int, float, str)) for name in known if name in entry}
        if not numbers:
            raise at.error(f"a report states at least one of {', '.join(known)}")
        if wrong := [it for it in numbers.values() if not isinstance(it, str) and not 0 <= it <= 100]:
            raise at.error(f"numbers must lie between 0 and 100, and {wrong[0]} does not")
        reports.append(
            Report(
                method=place.take(raw, "name", str),
                task=entry["task"],
                setting=at.take(entry, "setting", str),
                numbers=numbers,
                who=at.take(entry, "who", str),
                independence=at.one_of(entry, "independence", INDEPENDENCE),
                code=at.take(entry, "code", str, ""),
                source=_link(entry, "source", at),
                link=_link(entry, "link", at, ""),
                accessed=accessed,
                backbone=place.take(raw, "backbone", str, ""),
                pooling=place.take(raw, "pooling", str, ""),
                rows=rows,
                apart=apart,
            )
        )
    return reports


def _link(raw: Mapping[str, Any], name: str, place: TomlPlace, default: str | None = None) -> str:
    text: str = place.take(raw, name, str, default)
    if text and not text.startswith("https://"):
        raise place.error(f"{name} must be a link that starts with https://, not {text!r}")
    return text


def _exists(row: str, papers: Mapping[str, Paper]) -> bool:
    """Return whether a paper has a row, or is not among the papers that were read."""
    id, _, place = row.partition(" ")
    table, _, rest = place.partition("/")
    name, _, column = rest.partition("/")
    if id not in papers:
        return bool(name)
    found = papers[id].tables[table].row(name) if table in papers[id].tables else None
    return found is not None and (not column or column in found.printed)
