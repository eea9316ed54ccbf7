"""The numbers in docs/findings.md are those of the recorded results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reproduce.results import read

ROOT = Path(__file__).parents[2]
ROWS = {"da": "+ DA", "pl": "+ PL", "selection": "+ cluster selection", "ours": "+ CN", "kmeans": "k-means (table 4)"}
PRETRAINED = {
    ("6", "baseline"): "baseline (MMT's pre-training)",
    ("5", "sptd-idx"): "index loss alone",
    ("6", "sptd-rf"): "SPTD, RF",
    ("6", "sptd-rf+re"): "SPTD, RF + RE",
    ("6", "sptd-rf+re+cd"): "SPTD, RF + RE + CD",
    ("6", "sptd-rf+re+cd+rc"): "SPTD, RF + RE + CD + RC",
    ("7", "simclr"): "SimCLR",
}
RECORDED = [result for result in read(ROOT / "reports" / "results") if result["identity"]["scale"] == "small"]


def recorded(paper: str, table: str, row: str, column: str) -> Mapping[str, Any]:
    """The record of a row."""
    place = {"paper": paper, "table": table, "row": row, "column": column}
    (found,) = [result for result in RECORDED if place.items() <= result["case"].items()]
    return found


def measured(*place: str) -> Mapping[str, Mapping[str, Any]]:
    """The numbers of a row by seed."""
    return recorded(*place)["measured"]  # type: ignore[no-any-return]


def older(*place: str) -> bool:
    """Whether a row was recorded before identities told recipes."""
    return "recipe" not in recorded(*place)["identity"]


def block(column: str) -> str:
    """The rows of table 3 and k-means on a task: mAP by seed, its difference to direct transfer, and its labels."""
    direct = measured("msplr", "3", "ibn", column)
    lines = [
        "| row | mAP by seed | to direct transfer | clusters | images kept, % | purity, % |",
        "|---|---|---|---|---|---|",
        f"| direct transfer | {', '.join(format(one['mAP'], '.1f') for one in direct.values())} | | | | |",
    ]
    for row, label in ROWS.items():
        place = "msplr", "4" if row == "kmeans" else "3", row, column
        found = measured(*place)
        differs = older(*place) != older("msplr", "3", "ibn", column)
        label += ", older recipe" * differs
        values = [
            ", ".join(f"{found[seed]['mAP']:.1f}" for seed in direct),
            *(["-"] if differs else [", ".join(f"{found[seed]['mAP'] - direct[seed]['mAP']:+.1f}" for seed in direct)]),
            *(", ".join(f"{found[seed][name]:.0f}" for seed in direct) for name in ("clusters", "portion", "purity")),
        ]
        lines.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("column", ["m2d", "d2m"])
def test_the_page_shows_what_was_recorded(column: str) -> None:
    assert block(column) in (ROOT / "docs" / "findings.md").read_text(), f"the page should hold:\n{block(column)}"


def pretrained(column: str) -> str:
    """SPTD's pre-trained models on a task: mAP by seed, its difference to the baseline, and where features lie."""
    baseline = measured("sptd", "6", "baseline", column)
    lines = ["| row | mAP by seed | to the baseline | separation, % | on the person, % |", "|---|---|---|---|---|"]
    for (table, row), label in PRETRAINED.items():
        if table != "6" and column != "m2d":
            continue
        found = measured("sptd", table, row, column)
        values = [
            ", ".join(f"{found[seed]['mAP']:.1f}" for seed in baseline),
            ", ".join(f"{found[seed]['mAP'] - baseline[seed]['mAP']:+.1f}" for seed in baseline)
            if found != baseline
            else "",
            *(", ".join(f"{found[seed][name]:.0f}" for seed in baseline) for name in ("separation", "on_person")),
        ]
        lines.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("column", ["m2d", "d2m"])
def test_the_page_shows_what_pretraining_gave(column: str) -> None:
    text = (ROOT / "docs" / "findings.md").read_text()
    assert pretrained(column) in text, f"the page should hold:\n{pretrained(column)}"
