"""Export the papers' content: tables as CSV and Markdown, claims and audit as pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby

from reproduce.files import as_text
from reproduce.metrics import METRICS
from reproduce.papers.audit import DATED, VERSION, Audit, Tally
from reproduce.papers.cases import Coverage, coverage
from reproduce.papers.findings import EFFECTS, Finding
from reproduce.papers.frames import frame
from reproduce.papers.reported import NOBODY, Collection, summary
from reproduce.papers.tables import Claim, Column, Paper, Row, Table, domains, full_label

EXPORTED = ("paper", "table", "row", "source", "target", "metric", "value", "executed")
"""The columns of the CSV file."""

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
    exported = table.assign(
        row=[as_text(label) for label in labels], metric=table["metric"].map(_exported), value=values
    )
    text: str = exported[list(EXPORTED)].to_csv(index=False, lineterminator="\n")
    return text


def as_markdown(papers: Iterable[Paper], reported: Collection = NOBODY) -> str:
    """Format the tables as the papers draw them, one section per table, with what others measured beside each row."""
    parts: list[str] = []
    for paper in papers:
        parts.append(f"# {paper.name}: {paper.title}\n\n{paper.authors}. {paper.venue}")
        parts.extend(_table(paper.id, table, reported) for table in paper.tables.values())
    return "\n\n".join(parts) + "\n"


def _table(paper: str, table: Table, reported: Collection) -> str:
    beside = [_reported(paper, table, row, reported) for row in table.rows]
    several = len(table.columns) > 1
    heads = [
        *(["stage"] if any(row.stage for row in table.rows) else []),
        "row",
        *(["ref"] if any(row.ref for row in table.rows) else []),
        *table.ticks,
        *(heading for column in table.columns for heading in _headings(column, several, table.sources)),
        *(["reported by others"] if any(beside) else []),
        "run by the authors",
    ]
    rows = [
        [*cells, *([text] if any(beside) else []), _ran(row)]
        for row, cells, text in zip(table.rows, (_row(row, table) for row in table.rows), beside, strict=True)
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    grid = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
    notes = [f"{full_label(row)}: {remark}" for row in table.rows for remark in _remarks(row)]
    under = "\n".join(f"- {note}" for note in [*table.remarks, *notes])
    return f"## Table {table.id}\n\n{table.caption} ({table.where}; {table.checked})\n\n{grid}" + (
        f"\n\n{under}" if under else ""
    )


def _reported(paper: str, table: Table, row: Row, reported: Collection) -> str:
    """Summarise what others measured of a row, by column and metric."""
    parts = []
    for column in table.columns:
        reports = reported.beside(paper, table.id, row, column)
        numbers = [(name, summary(reports, name)) for name in column.metrics]
        texts = [f"{METRICS[name].title} {text}" for name, text in numbers if text]
        if texts:
            parts.append((f"{column.label}: " if len(table.columns) > 1 else "") + ", ".join(texts))
    return "; ".join(parts)


def _remarks(row: Row) -> list[str]:
    """Return the remarks on a row, and the evidence for whether the authors ran it."""
    return [*row.remarks, *([f"Run by the authors: {_ran(row)}. {row.why}"] if row.why else [])]


def _headings(column: Column, several: bool, sources: bool) -> list[str]:
    names = [*(["source"] if sources else []), *(_exported(metric).replace("_", " ") for metric in column.metrics)]
    return [f"{column.label}: {name}" if several else name for name in names]


def _row(row: Row, table: Table) -> list[str]:
    cells: list[str] = []
    for column in table.columns:
        cells += [printed_source(row, column)] if table.sources else []
        cells += [_shown(row.printed[column.id][metric], metric) for metric in column.metrics]
    return [
        *([row.stage] if any(other.stage for other in table.rows) else []),
        row.label,
        *([row.ref] if any(other.ref for other in table.rows) else []),
        *("x" if tick in row.ticks else "" for tick in table.ticks),
        *cells,
    ]


def printed_source(row: Row, column: Column) -> str:
    """Return the source that a table prints for a row in a column; "-" if the row has no numbers there."""
    empty = all(value is None for value in row.printed[column.id].values()) and column.id not in row.source
    return "-" if empty else domains(row, column)[0]


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
    covered = coverage(collected)
    parts = [WORDS]
    for paper in papers:
        own = sum(covered.standing(paper.id, claim) == "tested" for claim in paper.claims)
        counts = f"{len(paper.claims)} claims, in our own words; cases test {own} of them."
        parts.append(f"# {paper.name}: {paper.title}\n\n{counts}")
        for where, claims in groupby(paper.claims, lambda claim: claim.where):
            lines = [_claim(paper.id, claim, covered) for claim in claims]
            parts.append(f"## {where}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _claim(paper: str, claim: Claim, covered: Coverage) -> str:
    match covered.standing(paper, claim):
        case "tested":
            notes = [TRIED[claim.testable]]
        case "lacking":
            notes = [f"no case tests it yet: no recipe computes {', '.join(covered.missing(paper, claim))}"]
        case "uncompared":
            notes = ["no case tests it: it is not stated as a comparison of cells"]
        case _:
            notes = ["no case can test it"]
    if claim.cause:
        notes.append(f"the cause it names: {claim.cause}")
    if claim.why:
        notes.append(claim.why.rstrip("."))
    quote = f" \u201c{claim.quote}\u201d" if claim.quote else ""
    return f"- `{claim.id}` {claim.says}{quote} *({'; '.join(notes)})*"


def audit_page(found: Audit, papers: Iterable[Paper]) -> str:
    """Format an audit: what was compared, the findings by effect, each with its places, and what readers found."""
    titles = "\n".join(f"- {paper.name}: {paper.title} ({paper.venue})" for paper in papers)
    parts = [
        f"# Audit of the printed tables\n\nVersion {VERSION} of {DATED}. {len(found.findings)} findings, computed from "
        "the tables and the numbers that the papers' text states. A finding is no verdict on a method: most are slips "
        "of the pen. CITATION.cff says how to cite it; authors' replies are printed under the findings.",
        titles,
        WORDS,
        "## What was compared\n\n" + "\n".join(map(_tally, found.tallies)),
    ]
    for effect, members in found.by_effect:
        title = effect[0].upper() + effect[1:]
        parts.append(f"## {title}: {EFFECTS[effect]} ({len(members)})")
        parts.extend(map(_finding, members))
    if found.readings:
        parts.append(f"## Found by reading, not computed ({len(found.readings)})")
        parts.append("\n".join(f"- {it.paper} {it.where}: {it.says}" for it in found.readings))
    return "\n\n".join(parts) + "\n"


def _tally(tally: Tally) -> str:
    return f"- {tally.what}: {tally.agree:,} of {tally.checked:,} agree"


def _finding(finding: Finding) -> str:
    parts = [f"### {finding.id}: {finding.rule}", finding.says]
    parts += [f"> \u201c{quote}\u201d" for quote in finding.quotes]
    parts += [f"Differs from the others: {finding.odd}."] if finding.odd else []
    parts += [f"Note: {why}" for why in finding.why]
    parts.append("\n".join(f"- {place.name}: {place.value}" for place in finding.places))
    parts += [f"The authors reply: {finding.reply}"] if finding.reply else []
    return "\n\n".join(parts)
