"""Export the papers' content: tables as CSV and Markdown, claims and audit as pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby

from reproduce.metrics import METRICS
from reproduce.papers.audit import Finding
from reproduce.papers.cases import Case, ClaimCase
from reproduce.papers.frames import frame
from reproduce.papers.tables import Claim, Column, Paper, Row, Table, full_label

EXPORTED = ("paper", "table", "row", "source", "target", "metric", "value", "executed")
"""The columns of the CSV file."""

WEIGHTS = {
    "contradiction": "text and table cannot both be right",
    "misprint": "one of the numbers is most likely wrong",
    "implausible": "a number stands out among comparable ones; it may be right",
    "different setting": "both may be right, for different things",
}

WORDS = (
    "The papers train a network on one set of photographs (the source) and adapt it, without labels, to another (the "
    "target), then search a gallery of the target for the people of its queries. Rank-k is the percentage of queries "
    "with a right image among the first k, mAP (mean average precision) rates the whole list; higher is better. m2d "
    "means from Market-1501 to DukeMTMC-reID, and so on: m Market-1501, d DukeMTMC-reID, t MSMT17."
)

TRIED = {
    "yes": "cases test it",
    "part": "cases test part of it",
    "no": "cases test it, with a row that the paper quotes",
}


def as_csv(papers: Mapping[str, Paper]) -> str:
    """Format every printed number on a line of its own."""
    table = frame(papers)
    twice = {
        (paper.id, id, task)
        for paper in papers.values()
        for id, printed in paper.tables.items()
        for task, count in Counter(column.task for column in printed.columns).items()
        if count > 1
    }
    headings = {
        (paper.id, id, column.id): (column.task, column.label)
        for paper in papers.values()
        for id, printed in paper.tables.items()
        for column in printed.columns
    }
    places = list(zip(table["paper"], table["table"], table["column"], strict=True))
    labels = [
        label + (f" / {headings[place][1]}" if (*place[:2], headings[place][0]) in twice else "")
        for label, place in zip(table["label"], places, strict=True)
    ]
    values = [
        f"{value:.0f}" if METRICS[metric].kind == "count" else f"{value:.1f}"
        for metric, value in zip(table["metric"], table["value"], strict=True)
    ]
    exported = table.assign(row=labels, metric=table["metric"].map(_exported), value=values)
    text: str = exported[list(EXPORTED)].to_csv(index=False, lineterminator="\n")
    return text


def as_markdown(papers: Iterable[Paper]) -> str:
    """Format the tables as the papers draw them, one section per table."""
    parts: list[str] = []
    for paper in papers:
        parts.append(f"# {paper.name}: {paper.title}\n\n{paper.authors}. {paper.venue}")
        parts.extend(_table(table) for table in paper.tables.values())
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    several = len(table.columns) > 1
    heads = [
        *(["stage"] if any(row.stage for row in table.rows) else []),
        "row",
        *(["ref"] if any(row.ref for row in table.rows) else []),
        *table.ticks,
        *(_heading(column, metric, several) for column in table.columns for metric in column.metrics),
        "run by the authors",
    ]
    lines = [heads, ["---"] * len(heads), *(_row(row, table) for row in table.rows)]
    grid = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
    notes = [f"{full_label(row)}: {row.note}" for row in table.rows if row.note]
    under = "\n".join(f"- {note}" for note in [*([table.note] if table.note else []), *notes])
    return f"## Table {table.id}\n\n{table.caption} ({table.where}; {table.checked})\n\n{grid}" + (
        f"\n\n{under}" if under else ""
    )


def _heading(column: Column, metric: str, several: bool) -> str:
    name = _exported(metric).replace("_", " ")
    return f"{column.label}: {name}" if several else name


def _row(row: Row, table: Table) -> list[str]:
    cells = [row.printed[column.id][metric] for column in table.columns for metric in column.metrics]
    metrics = [metric for column in table.columns for metric in column.metrics]
    return [
        *([row.stage] if any(other.stage for other in table.rows) else []),
        row.label,
        *([row.ref] if any(other.ref for other in table.rows) else []),
        *("x" if tick in row.ticks else "" for tick in table.ticks),
        *(_shown(value, metric) for value, metric in zip(cells, metrics, strict=True)),
        _ran(row),
    ]


def _ran(row: Row) -> str:
    """Say whether the authors ran a row, in a word or by column."""
    words = set(row.executed.values())
    return words.pop() if len(words) == 1 else "; ".join(f"{column} {word}" for column, word in row.executed.items())


def _exported(metric: str) -> str:
    """Return a metric's name in a CSV file: `rank-1`, `mAP-gain`, `train_ids`."""
    declared = METRICS[metric]
    return declared.title.replace(" ", "-") if declared.kind in ("retrieval", "gain") else metric


def _shown(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if METRICS[metric].kind == "count" else f"{value:.1f}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def claims_page(papers: Iterable[Paper], collected: Iterable[object]) -> str:
    """List every claim of the papers, in our own words, and whether a case tests it.

    Args:
        papers: The papers.
        collected: The cases of their suites, from `reproduce.session.planning.collected`.
    """
    cases = list(collected)
    tested = {(case.paper, case.claim.id) for case in cases if isinstance(case, ClaimCase)}
    rows = [case for case in cases if isinstance(case, Case)]
    run = {(case.paper, f"{case.table}/{case.row.id}/{case.column}") for case in rows if case.recipe}
    parts = [WORDS]
    for paper in papers:
        own = sum((paper.id, claim.id) in tested for claim in paper.claims)
        counts = f"{len(paper.claims)} claims, in our own words; cases test {own} of them."
        parts.append(f"# {paper.name}: {paper.title}\n\n{counts}")
        for where, claims in groupby(paper.claims, lambda claim: claim.where):
            lines = [_claim(claim, (paper.id, claim.id) in tested, _missing(paper, claim, run)) for claim in claims]
            parts.append(f"## {where}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _missing(paper: Paper, claim: Claim, run: AbstractSet[tuple[str, str]]) -> list[str]:
    """Return the cells that a claim compares and no recipe computes."""
    compared = (claim.left, *claim.right) if claim.kind in ("gain", "order") else ()
    return [cell for cell in compared if (paper.id, cell) not in run]


def _claim(claim: Claim, tested: bool, missing: Sequence[str]) -> str:
    if tested:
        notes = [TRIED[claim.testable]]
    elif claim.testable != "no" and missing:
        notes = [f"no case tests it yet: no recipe computes {', '.join(missing)}"]
    elif claim.testable != "no":
        notes = ["no case tests it: it is not stated as a comparison of cells"]
    else:
        notes = ["no case can test it"]
    if claim.cause:
        notes.append(f"the cause it names: {claim.cause}, if the cause matters")
    if claim.why:
        notes.append(claim.why.rstrip("."))
    return f"- `{claim.id}` {claim.says} *({'; '.join(notes)})*"


def audit_page(findings: Sequence[Finding], papers: Iterable[Paper]) -> str:
    """Format the audit's findings, grouped by weight, each with its places and numbers."""
    titles = "\n".join(f"- {paper.name}: {paper.title} ({paper.venue})" for paper in papers)
    parts = [
        f"# Audit of the printed tables\n\n{len(findings)} findings, computed from the tables and the numbers that the "
        "papers' text states. A finding is no verdict on a method: most are typing errors.",
        titles,
        WORDS,
    ]
    for weight, meaning in WEIGHTS.items():
        chosen = [finding for finding in findings if finding.weight == weight]
        if chosen:
            parts.append(f"## {weight.capitalize()}: {meaning} ({len(chosen)})")
            parts.extend(_finding(finding) for finding in chosen)
    return "\n\n".join(parts) + "\n"


def _finding(finding: Finding) -> str:
    places = "\n".join(f"- {place.where}: {place.value}" for place in finding.places)
    papers = ", ".join(dict.fromkeys(place.where.split()[0] for place in finding.places))
    return f"### {papers}: {finding.rule}\n\n{finding.says}\n\n{places}"
