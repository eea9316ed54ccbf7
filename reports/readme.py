"""Format results as a table for a README, and insert it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reports import pages, words
from reports.files import write
from reports.grids import grid
from reports.tables import reasons
from reports.words import sentence
from reproduce.errors import UserError
from reproduce.papers.audit import audit
from reproduce.papers.tables import is_task
from reproduce.wording import listing

if TYPE_CHECKING:
    from reports.cases import Case
    from reproduce.papers.records import ClaimRecord, Result
    from reproduce.papers.tables import Paper


def readme_table(results: Sequence[Result], papers: Mapping[str, Paper], claims: Sequence[ClaimRecord] = ()) -> str:
    """Format results as Markdown tables for a README, comparable ones first and the others apart.

    If claims were tried, a sentence before the tables counts their verdicts. A case in several drawn worlds, as claims
    need them, is shown in the first one alone.
    """
    page = pages.page(results, papers, "", claims)
    cases = [case for paper in page.papers for table in paper.tables for case in table.cases if case.measured]
    compared = [case for case in cases if case.comparable]
    parts = [page.whole.finding] if any(claim.trials for paper in page.papers for claim in paper.claims) else []
    if compared:
        head = (
            "paper",
            "row",
            "task",
            "seeds",
            "mAP printed",
            "mAP measured",
            "rank-1 printed",
            "rank-1 measured",
            "verdict",
        )
        parts.append(grid(head, [_compared_line(case) for case in compared], left=3))
    settings: dict[str, list[Case]] = {}
    drawn: set[tuple[str, ...]] = set()
    for paper in page.papers:
        for table in paper.tables:
            for setting in table.settings:
                members = settings.setdefault(setting.title, [])
                for case in (cell.case for row in setting.rows for cell in row.cells if cell.case):
                    place = (case.paper, case.table, case.row, case.column, case.identity.scale)
                    again = case.identity.on_stand_ins and place in drawn
                    if case.measured and not case.comparable and not again:
                        members.append(case)
                    if case.identity.on_stand_ins:
                        drawn.add(place)
    for setting_title, members in settings.items():
        if members:
            why = reasons(members)
            verdict = "Not comparable with the papers" + (f": {words.markdown(why)}" if why else "")
            parts.append(f"{words.markdown(sentence(setting_title))} **{verdict}.**")
            head = ("paper", "row", "task", "seeds", "mAP", "rank-1", "", "printed, other data: mAP", "rank-1")
            parts.append(grid(head, [_apart_line(same) for same in _folded(members)], left=3))
    return "\n\n".join(parts) if parts else "No results yet."


def printed_counts(papers: Mapping[str, Paper]) -> str:
    """Count in a sentence what the papers print and what an audit of it finds."""
    tables = sum(len(paper.tables) for paper in papers.values())
    numbers = sum(1 for paper in papers.values() for _ in paper.numbers())
    claims = sum(len(paper.claims) for paper in papers.values())
    found = audit(papers)
    checked, agree = (sum(getattr(tally, name) for tally in found.tallies) for name in ("checked", "agree"))
    return (
        f"{len(papers)} papers ({listing([paper.name for paper in papers.values()])}) print {tables} tables. All "
        f"{numbers:,} numbers are stored as printed, misprints included, with the papers' figures and {claims} claims "
        f"in our own words. An audit compares them with each other: {agree:,} of {checked:,} comparisons agree, and "
        f"the other {checked - agree} make {len(found.findings)} findings."
    )


def update_readme(path: Path, results: str, printed: str = "") -> bool:
    """Replace the texts between the markers of a README.

    Args:
        path: A file that contains `<!-- results -->` and, after it, `<!-- /results -->`, once each, and perhaps the
            same for `printed`.
        results: Markdown from `readme_table`.
        printed: Text from `printed_counts`.

    Returns:
        Whether the file changed.

    Raises:
        UserError: The file or its markers are missing, or the markers are not in this order.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): name a README with --readme") from None
    new = replaced(path, old, "results", results)
    if printed and _marks("printed")[0] in old:
        new = replaced(path, new, "printed", "\n".join(textwrap.wrap(printed, 127)))
    if new == old:
        return False
    write(path, new)
    return True


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def replaced(path: Path, old: str, name: str, text: str) -> str:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->` in the text `old` of a file.

    Raises:
        UserError: The markers are missing, or not in this order.
    """
    start_mark, end_mark = _marks(name)
    before, start, rest = old.partition(start_mark)
    _, end, after = rest.partition(end_mark)
    if not start or not end or start_mark in rest or end_mark in after or end_mark in before:
        raise UserError(
            f"{path} needs the lines {start_mark} and {end_mark}, once each and in this order: add them where it goes"
        )
    return f"{before}{start_mark}\n{text.strip()}\n{end_mark}{after}"


def _folded(cases: Sequence[Case]) -> list[list[Case]]:
    """Group cases that measured the same: a row printed in several tables."""
    folded: dict[str, list[Case]] = {}
    for case in cases:
        folded.setdefault(repr((case.paper, case.task, case.measured)), []).append(case)
    return list(folded.values())


def _where(case: Case, places: str) -> list[str]:
    collapsed = f" ({len(case.collapsed)} collapsed)" if case.collapsed else ""
    task = case.task if is_task(case.column) else f"{case.task}, {case.column_label}"
    texts = (f"{case.paper}, {places}", case.label, task, f"{len(case.measured)}{collapsed}")
    return [words.markdown(text) for text in texts]


def _compared_line(case: Case) -> list[str]:
    pairs = [text for name in ("mAP", "rank1") for text in (words.percent(case.printed.get(name)), case.text(name))]
    return [*_where(case, case.place), *pairs, words.markdown(case.verdict.text)]


def _apart_line(same: Sequence[Case]) -> list[str]:
    case = same[0]
    tables = list(dict.fromkeys(one.table for one in same))
    places = f"Tables {listing(tables)}" if len(tables) > 1 else case.place
    printed = [words.percent(case.printed.get(name)) for name in ("mAP", "rank1")]
    return [*_where(case, places), case.text("mAP"), case.text("rank1"), "", *printed]
