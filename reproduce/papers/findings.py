"""Describe what an audit finds: a contradiction, its places, and what depends on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reproduce.metrics import METRICS
from reproduce.papers.tables import Claim, Column, Paper, Printed, Row, Table, full_label

ROUNDING = 0.051
"""Largest rounding error of a difference of two numbers with one decimal, printed with one decimal."""

EFFECTS = {
    "changes a conclusion": "the text concludes what its tables do not show, in no reading that was tried",
    "one reading": "a conclusion holds in one reading of the text and fails in another",
    "slip": "a number or a name is most likely wrong; the conclusion stands",
    "rounding": "a number is rounded generously, or a tie is called a lead",
    "open": "a number stands out, or papers differ; all may be right",
}
"""What depends on a finding, the gravest first, and what that means."""

GRAVEST = next(iter(EFFECTS))

Papers = Mapping[str, Paper]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place in a paper, and the numbers that stand there."""

    paper: str
    """Name of the paper."""
    where: str
    """Section or table."""
    row: str = ""
    column: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Numbers by metric, in percent, percentage points or as a count."""
    text: str = ""
    """What stands there instead of numbers."""
    cell: str = ""
    """Table, row and column by id; empty for a place in the text."""
    claim: str = ""
    """Id of the claim that paraphrases the place; empty for a place in a table."""

    @property
    def name(self) -> str:
        """The place in words."""
        return ", ".join(filter(None, (f"{self.paper} {self.where}", self.row, self.column)))

    @property
    def value(self) -> str:
        """The numbers or the text in words."""
        return self.text or ", ".join(f"{metric_name(name)} {shown(name, it)}" for name, it in self.numbers.items())


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A contradiction, or a number that stands out."""

    rule: str
    """The general rule that found it."""
    effect: str
    """What depends on it: one of `EFFECTS`."""
    about: str
    """What it is about, by ids; a finding keeps its number as long as this stays the same."""
    says: str
    """Explanation for someone who has not read the papers."""
    places: tuple[Place, ...]
    quotes: tuple[str, ...] = ()
    """The papers' own words."""
    why: tuple[str, ...] = ()
    """What the papers' files say about the statements concerned."""
    odd: str = ""
    """Name of the one paper that differs from several others; may be empty."""
    count: int = 1
    """Number of comparisons that failed."""
    id: str = ""
    """Permanent id, such as RAE-03."""
    reply: str = ""
    """What the authors reply."""

    @property
    def home(self) -> str:
        """Name of the paper that numbers it."""
        return self.odd or self.places[0].paper


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the numbers of one row in one column."""

    paper: Paper
    table: Table
    row: Row
    column: Column

    @property
    def printed(self) -> Printed:
        return self.row.printed[self.column.id]

    @property
    def id(self) -> str:
        """Table, row and column by id, as claims spell it."""
        return f"{self.table.id}/{self.row.id}/{self.column.id}"

    @property
    def label(self) -> str:
        """The row in words."""
        return full_label(self.row)

    @property
    def target(self) -> str:
        """Letter of the data set on which it was tested; empty for cells without a task."""
        return "" if self.column.task == "none" else self.column.task[2]

    def place(self, names: Iterable[str] = ()) -> Place:
        """Return its place with the numbers of some metrics, or of all."""
        wanted = set(names)
        return Place(
            paper=self.paper.name,
            where=f"table {self.table.id}",
            row=self.label,
            column=self.column.label,
            numbers={
                name: value
                for name, value in self.printed.items()
                if value is not None and (not wanted or name in wanted)
            },
            cell=self.id,
        )


def cells(papers: Papers) -> Iterator[Cell]:
    """Yield every cell, in printed order."""
    for paper in papers.values():
        for table in paper.tables.values():
            for row in table.rows:
                for column in table.columns:
                    yield Cell(paper, table, row, column)


def cell_at(paper: Paper, id: str) -> Cell:
    """Return the cell that a claim names; it must exist."""
    table_id, _, rest = id.partition("/")
    row_id, _, column_id = rest.rpartition("/")
    table = paper.tables[table_id]
    row = table.row(row_id)
    assert row
    return Cell(paper, table, row, next(column for column in table.columns if column.id == column_id))


def in_text(paper: Paper, claim: Claim) -> Place:
    """Return the place of a claim in the text, with the numbers that it states."""
    compared = claim.kind in ("value", "gain", "order")
    rows = [cell_at(paper, id).label for id in (claim.left, *claim.right)] if compared else []
    return Place(
        paper=paper.name,
        where=claim.where,
        row=" over ".join(rows) if len(rows) <= 2 else rows[0],
        numbers=claim.stated,
        text="" if claim.stated else "an ordering",
        claim=claim.id,
    )


def agrees(got: float, stated: float, claim: Claim) -> bool:
    """Return whether a number equals the stated one to its precision: 3 means 2.5 to 3.5, and 3.0 means 3.0."""
    if claim.at_least:
        return got >= stated - ROUNDING
    return abs(got - stated) <= (0.5 + ROUNDING if isinstance(stated, int) else ROUNDING)


def metric_name(name: str) -> str:
    """Return a metric's or count's name in a sentence."""
    metric = METRICS.get(name)
    if metric is None or metric.kind == "count":
        return name.replace("_", " ")
    return f"gain in {METRICS[metric.gain_of].title}" if metric.gain_of else metric.title


def shown(name: str, value: float) -> str:
    """Format a number of a metric: counts with separators, all others as stated."""
    metric = METRICS.get(name)
    return f"{value:,.0f}" if (metric is None or metric.kind == "count") and value == int(value) else f"{value}"


def method(row: Row) -> str:
    """Return a normalised name of a method, to match it across papers: without references and signs."""
    plain = re.sub(r"\[[^]]*\]|\([^)]*(?:19|20|')\d\d[^)]*\)|\([^)]*et al[^)]*\)", "", row.label)
    return re.sub(r"[^a-z0-9+]", "", plain.lower())


def odd_one(values: Mapping[str, object]) -> str:
    """Return the only key whose value differs from that of all others, if these are several and agree; else ""."""
    counted = Counter(map(repr, values.values()))
    alone = [name for name, value in values.items() if counted[repr(value)] == 1]
    return alone[0] if len(values) >= 3 and len(counted) == 2 and len(alone) == 1 else ""
