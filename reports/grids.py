"""Format tables as Markdown; cells are escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from reports import words
from reports.words import NOTHING

STANDING = frozenset({"collapsed", "drifted"})
"""Verdicts shown beside numbers that are not comparable with the paper."""

if TYPE_CHECKING:
    from reports.claims import Claim
    from reports.pictures import Picture
    from reports.tables import Row, Setting, Table


def grid(head: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """Build a Markdown table from escaped cells; the first `left` columns are left-aligned, the rest right-aligned."""
    wordy = {"verdict", "seeds of each task", "nearest images, in order"}
    rules = [":--" if place < left or name in wordy else "--:" for place, name in enumerate(head)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rules, *lines])


def _headings(table: Table | Setting) -> list[str]:
    return [words.markdown(f"{column.id} {heading}") for column in table.columns for heading in column.headings]


def _legend(table: Table | Setting) -> str:
    labelled = [
        f"{words.code(column.id)} {words.markdown(column.label)}"
        for column in table.columns
        if column.label != column.id
    ]
    return f"{'; '.join(labelled)}\n\n" if labelled else ""


def _row_name(row: Row) -> str:
    name = words.markdown(row.label)
    mark = f" ({row.mark})" if row.mark else ""
    return f"*{name}*{mark}" if row.kind == "quoted" else f"{name}{mark}"


def beside_lines(setting: Setting) -> str:
    lines = []
    for row in setting.rows:
        printed = [text for cell in row.cells for text in cell.printed]
        lines.append([_row_name(row), "printed" if row.kind == "run" else row.kind, *printed, ""])
        if row.has_reported:
            lines.append(["", "reported by others", *_reported(row), ""])
        if row.kind != "run":
            continue
        verdicts = [
            f"{cell.case.column} {cell.case.verdict.text}{f' ({cell.case.n})' if cell.has_numbers else ''}"
            for cell in row.cells
            if cell.case
        ]
        lines.append(["", "**measured**", *_numbers(row), words.markdown("; ".join(verdicts))])
        if row.has_differences:
            gaps = [text for cell in row.cells for text in cell.differences or [""] * cell.width]
            lines.append(["", "difference", *gaps, ""])
    return _legend(setting) + grid(["row", "", *_headings(setting), "verdict"], lines, left=2)


def _reported(row: Row) -> list[str]:
    return [words.markdown(text) for cell in row.cells for text in cell.reported or [""] * cell.width]


def _numbers(row: Row) -> list[str]:
    return [
        f"**{value.text}**" if value else NOTHING if cell.case else ""
        for cell in row.cells
        for value in cell.measured or [None] * cell.width
    ]


def measured_lines(setting: Setting) -> str:
    lines = []
    for row in setting.executed:
        numbers = [text.replace("**", "") for text in _numbers(row)]
        outcomes = [
            f"{cell.case.column} {cell.case.n if cell.has_numbers else cell.case.verdict.text}"
            + (f", {cell.case.verdict.text}" if cell.has_numbers and cell.case.verdict.word in STANDING else "")
            for cell in row.cells
            if cell.case
        ]
        lines.append([_row_name(row), *numbers, words.markdown("; ".join(outcomes) or "not run")])
    return _legend(setting) + grid(["row", *_headings(setting), "seeds of each task"], lines)


def renewed_lines(setting: Setting) -> str:
    lines = [
        [words.markdown(found.row), words.markdown(found.task), found.trained.text, found.renewed.text]
        for found in setting.renewed
    ]
    return grid(["row", "on", "as trained", "target’s statistics"], lines, left=2)


def printed_lines(setting: Setting, table: Table) -> str:
    lines = []
    for row in setting.rows:
        lines.append([_row_name(row), *(text for cell in row.cells for text in cell.printed)])
        if row.has_reported:
            lines.append(["reported by others", *_reported(row)])
    legend = _legend(table) if setting.columns != table.columns else ""
    return legend + grid(["row", *_headings(table)], lines)


def claim_lines(claims: Sequence[Claim]) -> str:
    """List the trials of each claim, one line per world and comparison."""
    lines = []
    for claim in claims:
        for trial in claim.trials:
            head = [words.markdown(text) for text in (claim.says, f"{trial.world} ({trial.where})", trial.text)]
            for comparison in trial.comparisons:
                parts = (
                    f"{comparison.metric}, {comparison.against}",
                    comparison.stated,
                    comparison.text,
                    comparison.seeds,
                )
                lines.append(head + [words.markdown(text) for text in parts])
            if not trial.comparisons:
                lines.append([*head, words.markdown("; ".join(trial.reasons)), "", "", ""])
    headings = ("claim", "world", "verdict", "difference in", "stated", "measured (interval)", "by seed")
    return grid(headings, lines, left=4)


def rank_lines(picture: Picture) -> str:
    """List a figure's rank lists, one line per query and network."""
    lines = [
        [
            words.markdown(query.image.words) if place == 0 else "",
            words.markdown(ranked.network),
            ranked.ap,
            ranked.signs,
        ]
        for query in picture.content.queries
        for place, ranked in enumerate(query.lists)
    ]
    return grid(["query", "network", "AP", "nearest images, in order"], lines, left=2)


def decoded_lines(picture: Picture) -> str:
    """List how much a figure's decoded images differ, one line per image."""
    return grid(
        ["image", "domain", *(f"difference, {words.markdown(network)}" for network in picture.networks)],
        [
            [pair.image.words, "labelled" if pair.labelled else "other", *(made.differs for made in pair.made)]
            for pair in picture.content.decoded
        ],
    )


def plane_lines(picture: Picture) -> str:
    """List a figure's projections, one line per network."""
    return grid(
        ["network", "silhouette"], [[words.markdown(it.network), it.silhouette] for it in picture.content.planes]
    )
