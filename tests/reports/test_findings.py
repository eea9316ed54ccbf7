"""The numbers in docs/findings.md are those of the recorded results."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproduce.papers.records import Numbers, read

ROOT = Path(__file__).parents[2]
ROWS = {"da": "+ DA", "pl": "+ PL", "selection": "+ cluster selection", "ours": "+ CN"}
RECORDED = [result for result in read(ROOT / "reports" / "results") if result.identity.scale == "small"]


def measured(*place: str) -> dict[str, Numbers]:
    """The numbers of a row by seed: paper, table, row, column."""
    cells = [(result.case, result.measured) for result in RECORDED]
    (numbers,) = [it for cell, it in cells if (cell.paper, cell.table, cell.row, cell.column) == place]
    return numbers


def block(column: str) -> str:
    """The rows of table 3 on a task: mAP by seed, its difference to direct transfer, and its labels."""
    direct = measured("msplr", "3", "ibn", column)
    lines = [
        "| row | mAP by seed | to direct transfer | clusters | images kept, % | purity, % |",
        "|---|---|---|---|---|---|",
        f"| direct transfer | {', '.join(format(one['mAP'], '.1f') for one in direct.values())} | | | | |",
    ]
    for row, label in ROWS.items():
        found = measured("msplr", "3", row, column)
        values = [
            ", ".join(f"{found[seed]['mAP']:.1f}" for seed in direct),
            ", ".join(f"{found[seed]['mAP'] - direct[seed]['mAP']:+.1f}" for seed in direct),
            *(", ".join(f"{found[seed][name]:.0f}" for seed in direct) for name in ("clusters", "portion", "purity")),
        ]
        lines.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("column", ["m2d"])
def test_the_page_shows_what_was_recorded(column: str) -> None:
    assert block(column) in (ROOT / "docs" / "findings.md").read_text(), f"the page should hold:\n{block(column)}"
