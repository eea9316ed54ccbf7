"""Render results as self-contained HTML pages and as one Markdown file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from reports import pages
from reports.files import write, write_all
from reports.templating import environment
from reproduce import metrics
from reproduce.papers.reported import NOBODY

if TYPE_CHECKING:
    from reports.pages import Page
    from reproduce.papers.cases import Coverage
    from reproduce.papers.records import ClaimRecord, FigureRecord, Result
    from reproduce.papers.reported import Collection
    from reproduce.papers.tables import Paper


def render(
    results: Sequence[Result],
    papers: Mapping[str, Paper],
    out: Path,
    *,
    claims: Sequence[ClaimRecord] = (),
    figures: Sequence[FigureRecord] = (),
    problem: str | None = None,
    covered: Coverage | None = None,
    reported: Collection = NOBODY,
    title: str = "reproduce",
    of: Sequence[Path] = (),
) -> tuple[Path, Path]:
    """Write `report/index.html`, the pages that it links to, and `report.md`.

    The same results and papers give the same bytes in any order. Pages that only an earlier report wrote are removed.

    Args:
        results: Results of rows.
        papers: Papers by id.
        out: Folder to write to, created if missing.
        claims: Records of claims.
        figures: Records of figures.
        problem: As in `pages.page`.
        covered: As in `pages.page`.
        reported: What others measured.
        title: Heading of the first page.
        of: Folders of the results; empty if unknown.

    Returns:
        Paths of the first HTML page and of the Markdown page.
    """
    page = pages.page(results, papers, title, claims, figures, problem, covered, reported)
    folder = out / "report"
    write_all(folder, dict(_html(page)), of)
    write(out / "report.md", environment().get_template("report.md.j2").render(page=page))
    return folder / "index.html", out / "report.md"


def _html(page: Page) -> Iterator[tuple[str, str]]:
    """Yield every page as (path, text)."""
    linked = [("Overview", "index.html"), *((paper.short, paper.file) for paper in page.papers)]
    linked += [("Methods", "methods.html")] if page.printed.methods else []
    linked += [("Audit", "audit.html")] if page.printed.count else []

    def made(template: str, here: str, **more: Any) -> tuple[str, str]:
        root = "../" * here.count("/")
        return here, environment().get_template(template).render(page=page, pages=linked, here=here, root=root, **more)

    judged = metrics.names(judged=True)
    yield made("index.html.j2", "index.html")
    for name in ("methods", "audit"):
        if any(file == f"{name}.html" for _, file in linked):
            yield made(f"{name}.html.j2", f"{name}.html")
    for audited in page.printed.papers:
        yield made("audited.html.j2", audited.file, audited=audited)
    for paper, summary in page.each:
        yield made("paper.html.j2", paper.file, paper=paper, summary=summary)
        for place, case in enumerate(paper.cases):
            before, after = paper.cases[place - 1] if place else None, next(iter(paper.cases[place + 1 :]), None)
            neighbours = [
                other
                for other in paper.cases
                if (other.table, other.column, other.identity.where, other.cell.point)
                == (case.table, case.column, case.identity.where, case.cell.point)
            ]
            siblings = [other for other in paper.cases if other is not case and other.cell.place == case.cell.place]
            claims = [claim for claim in paper.claims if claim.trials and case.cell.name in claim.cells]
            beside = {"siblings": siblings, "neighbours": neighbours, "before": before, "after": after}
            yield made("case.html.j2", case.file, paper=paper, case=case, claims=claims, judged=judged, **beside)
            yield case.data_file, msgspec.json.format(msgspec.json.encode(case.result, order="sorted")).decode() + "\n"
