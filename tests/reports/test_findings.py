"""The numbers in docs/findings.md are those of the recorded results."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

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


@pytest.mark.parametrize("column", ["m2d", "d2m"])
def test_the_page_shows_what_was_recorded(column: str) -> None:
    assert block(column) in (ROOT / "docs" / "findings.md").read_text(), f"the page should hold:\n{block(column)}"


def spreads() -> str:
    """Mean and standard deviation between training seeds of every recorded row, mAP and rank-1, each cell once."""
    lines = ["| row | task | seeds | mAP | rank-1 |", "|---|---|---|---|---|"]
    for result in sorted(RECORDED, key=lambda it: (it.case.paper, it.case.table, it.case.task, it.case.row)):
        several = [[seed[name] for seed in result.measured.values()] for name in ("mAP", "rank1")]
        numbers = [f"{mean(values):.1f} ± {stdev(values):.1f}" for values in several if len(values) > 1]
        place = f"{result.case.paper} {result.case.table}, {result.case.label}"
        lines.append(f"| {place} | {result.case.task} | {len(result.measured)} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def test_the_calibration_page_shows_how_far_seeds_spread() -> None:
    page = (ROOT / "docs" / "calibration.md").read_text()
    assert spreads() in page, f"the page should hold:\n{spreads()}"
