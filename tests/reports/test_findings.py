"""The numbers in docs/findings.md are those of the recorded results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import pytest

from reproduce.data.world import CAUSES
from reproduce.metrics import METRICS
from reproduce.papers.records import ClaimRecord, Numbers, read, read_claims
from reproduce.papers.statistics import on_its_own
from reproduce.papers.tables import is_task, read_all

ROOT = Path(__file__).parents[2]
ROWS = {"da": "+ DA", "pl": "+ PL", "selection": "+ cluster selection", "ours": "+ CN"}
RECORDED = [
    it for it in read(ROOT / "reports" / "results") if (it.identity.scale, it.identity.drawn) == ("small", "world 1")
]


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


def tried(paper: str) -> str:
    """A paper's claims, with verdict, difference and 95 % interval in each world; mAP if it is compared."""
    records = [it for it in read_claims(ROOT / "reports" / "results") if it.claim.paper == paper]
    changed = {f"no-{cause}": f"{cause} dial at 0" for cause in CAUSES}
    names = {"": "world 1", "world2": "world 2"} | changed
    worlds = {world: name for world, name in names.items() if any(it.world == world for it in records)}
    lines = [f"| claim | {' | '.join(worlds.values())} |", "|---" * (1 + len(worlds)) + "|"]
    for id in dict.fromkeys(claim.id for claim in read_all(ROOT / "suites")[paper].claims):
        by_world = {it.world: it for it in records if it.claim.id == id}
        if by_world:
            texts = (_outcome(by_world[world]) if world in by_world else "" for world in worlds)
            lines.append(f"| {by_world[''].claim.says} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _outcome(record: ClaimRecord) -> str:
    one = next((it for it in record.compared if it.metric == "mAP"), record.compared[0])
    name = METRICS[one.metric].short or METRICS[one.metric].title
    alone = on_its_own(record)
    verdict = f"{record.verdict} (alone: {alone})" if alone else record.verdict
    return f"{verdict}: {name} {one.difference:+.1f} ({one.low:+.1f} to {one.high:+.1f})"


@pytest.mark.parametrize("paper", ["msplr", "sptd"])
def test_the_page_shows_what_became_of_the_claims(paper: str) -> None:
    assert tried(paper) in (ROOT / "docs" / "findings.md").read_text(), f"the page should hold:\n{tried(paper)}"


def pretrained() -> str:
    """SPTD's pre-trained networks on the target: mAP by seed beside the printed one, and with its own statistics."""
    lines = ["| pre-trained with | task | mAP by seed | with statistics of the target | printed |", "|---" * 5 + "|"]
    for table, row in (
        ("6", "baseline"),
        ("5", "sptd-idx"),
        *(("6", f"sptd-{'+'.join(('rf', 're', 'cd', 'rc')[:number])}") for number in range(1, 5)),
        ("7", "simclr"),
    ):
        for task in ("m2d", "d2m"):
            for it in RECORDED:
                if (it.case.paper, it.case.table, it.case.row, it.case.column) == ("sptd", table, row, task):
                    by_seed = (
                        ", ".join(f"{seed[name]:.1f}" for seed in it.measured.values()) for name in ("mAP", "renewed")
                    )
                    label = it.case.label.removeprefix("Pre-training: ")
                    lines.append(f"| {label} | {task} | {' | '.join(by_seed)} | {it.printed['mAP']} |")
    return "\n".join(lines)


def fine_tuned() -> str:
    """What MMT makes of SPTD's networks, tables 1 and 2: mAP by seed beside the printed one."""
    lines = ["| fine-tuned | task | mAP by seed | clusters | purity, % | printed |", "|---" * 6 + "|"]
    for table, row in ((table, row) for table in "12" for row in ("mmt-dbscan", "sptd-dbscan", "sptd-kmeans")):
        for it in RECORDED:
            if (it.case.paper, it.case.table, it.case.row) == ("sptd", table, row):
                by_seed = (
                    ", ".join(f"{seed[name]:{form}}" for seed in it.measured.values())
                    for name, form in (("mAP", ".1f"), ("clusters", ".0f"), ("purity", ".0f"))
                )
                lines.append(f"| {it.case.label} | {it.case.task} | {' | '.join(by_seed)} | {it.printed['mAP']} |")
    return "\n".join(lines)


@pytest.mark.parametrize("block", [pretrained, fine_tuned])
def test_the_page_shows_what_became_of_pretraining(block: Callable[[], str]) -> None:
    assert block() in (ROOT / "docs" / "findings.md").read_text(), f"the page should hold:\n{block()}"


def judges() -> str:
    """What UP-ReID judges pre-trained weights by, from those of drawn objects: mAP by seed beside what is printed."""
    lines = ["| trained | task | mAP by seed | printed |", "|---|---|---|---|"]
    for name, table, column in (
        ("BOT", "1b", "bot"),
        ("BDB", "1b", "bdb"),
        ("MGN", "1b", "mgn"),
        ("SpCL", "2", "u2m"),
        ("SpCL", "2", "x2m"),
    ):
        (it,) = (it for it in RECORDED if (it.case.paper, it.case.table, it.case.column) == ("upreid", table, column))
        values = ", ".join(f"{seed['mAP']:.1f}" for seed in it.measured.values())
        lines.append(f"| {name} | {it.case.task} | {values} | {it.printed['mAP']} |")
    return "\n".join(lines)


def test_the_page_shows_what_pretrained_weights_are_judged_by() -> None:
    assert judges() in (ROOT / "docs" / "findings.md").read_text(), f"the page should hold:\n{judges()}"


def spreads() -> str:
    """Mean and standard deviation between training seeds of every recorded row, mAP and rank-1, each cell once."""
    lines = ["| row | task | seeds | mAP | rank-1 |", "|---|---|---|---|---|"]
    for result in sorted(
        RECORDED, key=lambda it: (it.case.paper, it.case.table, it.case.task, it.case.row, it.case.column)
    ):
        case = result.case
        column = "" if is_task(case.column) else f", {case.column.upper()}"
        several = [[seed[name] for seed in result.measured.values()] for name in ("mAP", "rank1")]
        numbers = [f"{mean(values):.1f} ± {stdev(values):.1f}" for values in several if len(values) > 1]
        place = f"{case.paper} {case.table}, {case.label}{column}"
        lines.append(f"| {place} | {case.task} | {len(result.measured)} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def test_the_calibration_page_shows_how_far_seeds_spread() -> None:
    page = (ROOT / "docs" / "calibration.md").read_text()
    assert spreads() in page, f"the page should hold:\n{spreads()}"
