"""Collect all that is known of one method: printed, quoted differently, reported, measured, claimed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from reproduce.errors import UserError
from reproduce.metrics import title
from reproduce.papers.audit import audit
from reproduce.papers.findings import cell_at
from reproduce.papers.records import ClaimRecord, Result
from reproduce.papers.reported import Collection, Report
from reproduce.papers.tables import Paper, Row, Table, full_label

RAN = {"yes": "run by the authors", "no": "quoted", "unsure": "perhaps run by the authors"}


def evidence_page(
    name: str,
    papers: Mapping[str, Paper],
    reported: Collection,
    results: Iterable[Result],
    claims: Iterable[ClaimRecord],
) -> str:
    """Format all that is known of a method as Markdown.

    Args:
        name: The method's name, as a table or a report prints it; case and signs do not matter.
        papers: Papers by id.
        reported: What others measured.
        results: Measured results.
        claims: Records of tested claims.

    Raises:
        UserError: No paper and no report knows the method.
    """
    wanted = _plain(name)
    rows = [
        (paper, table, row)
        for paper in papers.values()
        for table in paper.tables.values()
        for row in table.rows
        if wanted in (_plain(row.label), _plain(row.label.partition("(")[0]), _plain(row.label.partition(":")[0]))
        or (_plain(row.label).startswith("ours") and wanted == _plain(paper.name))
        or any(wanted == _plain(it.method) for it in _beside(paper, table, row, reported))
    ]
    own = [
        it
        for it in reported.reports
        if _plain(it.method).startswith(wanted)
        or any(it in _beside(paper, table, row, reported) for paper, table, row in rows)
    ]
    if not rows and not own:
        known = sorted(
            {row.label for paper in papers.values() for table in paper.tables.values() for row in table.rows}
        )
        near = [label for label in known if wanted and wanted[:3] in _plain(label)]
        raise UserError(f"no paper prints and nobody reports {name!r}" + (f": try {', '.join(near)}" if near else ""))
    parts = [f"# What is known of {name}", "## Printed", *(_lines(_printed(rows)) or ["Nothing."])]
    places = {(paper.name, f"{table.id}/{row.id}/") for paper, table, row in rows}
    concerned = [
        f"{it.id} {it.rule}: {it.says}"
        for it in audit(papers).findings
        if any((place.paper, place.cell.rpartition("/")[0] + "/") in places for place in it.places)
    ]
    parts += ["## What the audit finds", *(_lines(concerned) or ["Nothing."])]
    parts += ["## Reported by others", *(_lines(map(_report, own)) or [_nobody(name, reported)])]
    cells = {(paper.id, table.id, row.id) for paper, table, row in rows}
    parts += ["## Measured here", *(_lines(_measured(results, cells)) or ["Nothing is recorded."])]
    parts += ["## Claims", *(_lines(_claims(papers, cells, claims)) or ["None names a row of it."])]
    return "\n\n".join(parts) + "\n"


def _lines(texts: Iterable[str]) -> list[str]:
    lines = [f"- {text}" for text in texts]
    return ["\n".join(lines)] if lines else []


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == "+")


def _beside(paper: Paper, table: Table, row: Row, reported: Collection) -> list[Report]:
    return [it for column in table.columns for it in reported.beside(paper.id, table.id, row, column)]


def _printed(rows: Iterable[tuple[Paper, Table, Row]]) -> Iterator[str]:
    for paper, table, row in rows:
        for column in table.columns:
            place = cell_at(paper, f"{table.id}/{row.id}/{column.id}").place()
            if place.numbers:
                ref = f" ({row.ref})" if row.ref else ""
                yield f"{place.name}{ref}: {place.value} [{row.task(column)}; {RAN[row.executed[column.id]]}]"
        yield from (f"{paper.name} table {table.id}, {full_label(row)}, noted: {text}" for text in row.remarks)


def _report(report: Report) -> str:
    numbers = ", ".join(f"{title(name)} {value}" for name, value in report.numbers.items())
    link = f"{report.source} (read {report.accessed}" + (f"; this version: {report.link})" if report.link else ")")
    code = f", {report.code}" if report.code else ""
    apart = f"; beside no printed row: {report.apart}" if report.apart else ""
    of = f"{report.who}, {report.independence}{code}{apart}"
    return f"{report.method}, {report.task}, {report.setting}: {numbers} [{of}] {link}"


def _nobody(name: str, reported: Collection) -> str:
    known = {_plain(it) for it in reported.without}
    return "No independent number was found." if _plain(name) in known else "No report is known."


def _measured(results: Iterable[Result], cells: set[tuple[str, str, str]]) -> Iterator[str]:
    for result in results:
        cell = result.case
        if (cell.paper, cell.table, cell.row) in cells and result.measured:
            seeds = "; ".join(
                f"seed {seed}: "
                + ", ".join(f"{title(name)} {numbers[name]:.1f}" for name in ("mAP", "rank1") if name in numbers)
                for seed, numbers in result.measured.items()
            )
            label = f"{cell.label}, {cell.task}" + (
                f", {cell.point.parameter} = {cell.point.value:g}" if cell.point else ""
            )
            yield f"{label}, scale {result.identity.scale} [{result.verdict}]: {seeds}"


def _claims(
    papers: Mapping[str, Paper], cells: set[tuple[str, str, str]], records: Iterable[ClaimRecord]
) -> Iterator[str]:
    verdicts: dict[tuple[str, str], list[str]] = {}
    for record in records:
        verdicts.setdefault((record.claim.paper, record.claim.id), []).append(record.verdict)
    for paper in papers.values():
        for claim in paper.claims:
            named = {tuple(id.split("/")[:2]) for id in (claim.left, *claim.right) if "/" in id}
            if any((paper.id, *place) in cells for place in named):
                tried = verdicts.get((paper.id, claim.id))
                yield f"{paper.name} {claim.where}: {claim.says}" + (f" [{', '.join(tried)}]" if tried else "")
