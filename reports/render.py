"""Results as one self-contained HTML page and as Markdown, and the README's table."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from reports import curves, pages, words
from reports.words import NOTHING
from reproduce.stage import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reports.cases import Case
    from reports.tables import Row, Setting, Table

START, END = "<!-- results -->", "<!-- /results -->"


def render(
    results: Sequence[Mapping[str, Any]],
    papers: Mapping[str, Mapping[str, Any]],
    out: Path,
    *,
    title: str = "reproduce",
) -> tuple[Path, Path]:
    """Write `report.html` and `report.md`.

    The same results and papers give the same bytes, in whatever order they come.

    Args:
        results: result records of format 1, as `reproduce.results.read` gives them.
        papers: what the papers print, by the paper's id, as `suites/<paper>.toml` reads.
        out: the folder to write to; made where it is missing.
        title: the page's heading.

    Returns:
        The paths of the HTML and of the Markdown page.
    """
    page = pages.page(results, papers, title)
    out.mkdir(parents=True, exist_ok=True)
    paths = out / "report.html", out / "report.md"
    for path in paths:
        _write(path, _environment().get_template(f"{path.name}.j2").render(page=page))
    return paths


def readme_table(results: Sequence[Mapping[str, Any]], papers: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as Markdown tables for a README: what compares with the papers first, the rest apart."""
    page = pages.page(results, papers, "")
    cases = [case for paper in page.papers for table in paper.tables for case in table.cases if case.measured]
    compared = [case for case in cases if case.comparable]
    parts = []
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
        parts.append(_grid(head, [_compared_line(case) for case in compared], left=3))
    settings: dict[str, list[Case]] = {}
    for paper in page.papers:
        for table in paper.tables:
            for setting in table.settings:
                members = [cell.case for row in setting.rows for cell in row.cells if cell.case]
                settings.setdefault(setting.title, []).extend(c for c in members if c.measured and not c.comparable)
    for setting_title, members in settings.items():
        if members:
            why = ", ".join(dict.fromkeys(reason for case in members for reason in case.reasons))
            verdict = "Not comparable with the papers" + (f": {words.markdown(why)}" if why else "")
            parts.append(f"{words.markdown(_sentence(setting_title))} **{verdict}.**")
            head = ("paper", "row", "task", "seeds", "mAP", "rank-1", "", "printed, other data: mAP", "rank-1")
            parts.append(_grid(head, [_apart_line(case) for case in members], left=3))
    return "\n\n".join(parts) if parts else "No results yet."


def update_readme(path: Path, text: str) -> bool:
    """Put text between the markers of a README.

    Args:
        path: a file that holds `<!-- results -->` and, after it, `<!-- /results -->`, once each.
        text: Markdown, as `readme_table` gives it.

    Returns:
        Whether the file changed.

    Raises:
        UserError: the file or its markers are missing, or the markers are not in this order.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): name a README with --readme") from None
    before, start, rest = old.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in after or END in before:
        raise UserError(
            f"{path} needs the lines {START} and {END}, once each and in this order: add them where the table goes"
        )
    new = f"{before}{START}\n{text.strip()}\n{END}{after}"
    if new == old:
        return False
    _write(path, new)
    return True


def _write(path: Path, text: str) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "md": words.markdown,
        "code": words.code,
        "fenced": words.fenced,
        "md_prose": words.markdown_prose,
        "prose": _prose,
        "sentence": _sentence,
        "beside_lines": _beside_lines,
        "measured_lines": _measured_lines,
        "printed_lines": _printed_lines,
    }
    environment.globals["size"] = SimpleNamespace(
        width=curves.WIDTH, height=curves.HEIGHT, left=curves.LEFT, right=curves.PLOT_RIGHT, bottom=curves.PLOT_BOTTOM
    )
    return environment


def _prose(text: object) -> Markup:
    """Text as HTML; what stands between backticks becomes code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


# --- Markdown tables --------------------------------------------------------------------------------------------------


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table from cells that are escaped already; the first `left` columns are set left, the rest right."""
    wordy = {"verdict", "seeds of each task"}
    rules = [":--" if place < left or name in wordy else "--:" for place, name in enumerate(head)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rules, *lines])


def _headings(table: Table) -> list[str]:
    return [words.markdown(f"{column.id} {heading}") for column in table.columns for heading in column.headings]


def _legend(table: Table) -> str:
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


def _beside_lines(setting: Setting, table: Table) -> str:
    lines = []
    for row in setting.rows:
        printed = [text for cell in row.cells for text in cell.printed]
        lines.append([_row_name(row), "printed" if row.kind == "run" else row.kind, *printed, ""])
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
    return _legend(table) + _grid(["row", "", *_headings(table), "verdict"], lines, left=2)


def _numbers(row: Row) -> list[str]:
    return [
        f"**{found.text}**" if found else NOTHING if cell.case else ""
        for cell in row.cells
        for found in cell.measured or [None] * cell.width
    ]


def _measured_lines(setting: Setting, table: Table) -> str:
    lines = []
    for row in setting.executed:
        numbers = [text.replace("**", "") for text in _numbers(row)]
        outcomes = [
            f"{cell.case.column} {cell.case.n if cell.has_numbers else cell.case.verdict.text}"
            + (f", {len(cell.case.collapsed)} collapsed" if cell.case.collapsed else "")
            for cell in row.cells
            if cell.case
        ]
        lines.append([_row_name(row), *numbers, words.markdown("; ".join(outcomes) or "not run")])
    return _legend(table) + _grid(["row", *_headings(table), "seeds of each task"], lines)


def _printed_lines(setting: Setting, table: Table) -> str:
    lines = [[_row_name(row), *(text for cell in row.cells for text in cell.printed)] for row in setting.rows]
    return _grid(["row", *_headings(table)], lines)


def _where(case: Case) -> list[str]:
    return [words.markdown(text) for text in (f"{case.paper}, {case.place}", case.label, case.task)] + [
        str(len(case.measured))
    ]


def _compared_line(case: Case) -> list[str]:
    pairs = [text for name in ("mAP", "rank1") for text in (words.percent(case.printed.get(name)), case.text(name))]
    return [*_where(case), *pairs, words.markdown(case.verdict.text)]


def _apart_line(case: Case) -> list[str]:
    printed = [words.percent(case.printed.get(name)) for name in ("mAP", "rank1")]
    return [*_where(case), case.text("mAP"), case.text("rank1"), "", *printed]
