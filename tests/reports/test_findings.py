"""The numbers in docs/findings.md are those of the recorded results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

import pytest

from reproduce.data.world import CAUSES
from reproduce.metrics import METRICS
from reproduce.papers.records import ClaimRecord, Numbers, Result, read, read_claims
from reproduce.papers.statistics import on_its_own
from reproduce.papers.tables import is_task, read_all

ROOT = Path(__file__).parents[2]
ROWS = {"da": "+ DA", "pl": "+ PL", "selection": "+ cluster selection", "ours": "+ CN"}
SMALL = [
    it for it in read(ROOT / "reports" / "results") if (it.identity.scale, it.identity.drawn) == ("small", "world 1")
]
RECORDED = [it for it in SMALL if not it.case.point]


def recorded(*place: str) -> list[Result]:
    """The results of a row: paper, table, row, column."""
    return [it for it in RECORDED if (it.case.paper, it.case.table, it.case.row, it.case.column) == place]


def measured(*place: str) -> dict[str, Numbers]:
    """The numbers of a row by seed."""
    (result,) = recorded(*place)
    return result.measured


def by_seed(found: dict[str, Numbers], name: str, form: str = ".1f") -> str:
    return ", ".join(format(one[name], form) for one in found.values())


def shown(text: str, page: str = "findings.md") -> None:
    assert text in (ROOT / "docs" / page).read_text(), f"the page should hold:\n{text}"


def block(column: str) -> str:
    """The rows of table 3 on a task: mAP by seed, its difference to direct transfer, and its labels."""
    direct = measured("msplr", "3", "ibn", column)
    lines = [
        "| row | mAP by seed | to direct transfer | clusters | images kept, % | purity, % |",
        "|---|---|---|---|---|---|",
        f"| direct transfer | {by_seed(direct, 'mAP')} | | | | |",
    ]
    for row, label in ROWS.items():
        found = measured("msplr", "3", row, column)
        values = [
            by_seed(found, "mAP"),
            ", ".join(f"{found[seed]['mAP'] - direct[seed]['mAP']:+.1f}" for seed in direct),
            *(by_seed(found, name, ".0f") for name in ("clusters", "portion", "purity")),
        ]
        lines.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("column", ["m2d", "d2m"])
def test_the_page_shows_what_was_recorded(column: str) -> None:
    shown(block(column))


def tried(paper: str) -> str:
    """A paper's claims, with verdict, difference and 95 % interval in each world; mAP if it is compared."""
    records = [it for it in read_claims(ROOT / "reports" / "results") if it.claim.paper == paper]
    lines = ["| claim | world 1 | world 2 | with the dial of its cause at 0 |", "|---" * 4 + "|"]
    for id in dict.fromkeys(claim.id for claim in read_all(ROOT / "suites")[paper].claims):
        by_world = {it.world: it for it in records if it.claim.id == id}
        if by_world:
            texts = [_outcome(by_world[world]) if world in by_world else "" for world in ("", "world2")]
            dials = [f"{it}, {_outcome(by_world[f'no-{it}'])}" for it in CAUSES if f"no-{it}" in by_world]
            lines.append(f"| {by_world[''].claim.says} | {' | '.join(texts)} | {'; '.join(dials)} |")
    return "\n".join(lines)


def _outcome(record: ClaimRecord) -> str:
    one = next((it for it in record.compared if it.metric == "mAP"), record.compared[0])
    name = METRICS[one.metric].short or METRICS[one.metric].title
    alone = on_its_own(record)
    verdict = f"{record.verdict} (alone: {alone})" if alone else record.verdict
    return f"{verdict}: {name} {one.difference:+.1f} ({one.low:+.1f} to {one.high:+.1f})"


@pytest.mark.parametrize("paper", ["msplr", "rae", "sptd"])
def test_the_page_shows_what_became_of_the_claims(paper: str) -> None:
    shown(tried(paper))


def pretrained() -> str:
    """SPTD's pre-trained networks on the target: mAP by seed beside the printed one, and with its own statistics."""
    lines = ["| pre-trained with | task | mAP by seed | with statistics of the target | printed |", "|---" * 5 + "|"]
    parts = ("rf", "re", "cd", "rc")
    rows = [("6", "baseline"), ("5", "sptd-idx"), *(("6", f"sptd-{'+'.join(parts[:end])}") for end in range(1, 5))]
    for table, row in (*rows, ("7", "simclr")):
        for it in (*recorded("sptd", table, row, "m2d"), *recorded("sptd", table, row, "d2m")):
            values = f"{by_seed(it.measured, 'mAP')} | {by_seed(it.measured, 'renewed')}"
            label = it.case.label.removeprefix("Pre-training: ")
            lines.append(f"| {label} | {it.case.task} | {values} | {it.printed['mAP']} |")
    return "\n".join(lines)


def fine_tuned() -> str:
    """What MMT makes of SPTD's networks, tables 1 and 2: mAP by seed beside the printed one."""
    lines = ["| fine-tuned | task | mAP by seed | clusters | purity, % | printed |", "|---" * 6 + "|"]
    for table, column in (("1", "m2d"), ("2", "d2m")):
        for row in ("mmt-dbscan", "sptd-dbscan", "sptd-kmeans"):
            for it in recorded("sptd", table, row, column):
                labels = f"{by_seed(it.measured, 'clusters', '.0f')} | {by_seed(it.measured, 'purity', '.0f')}"
                numbers = f"{by_seed(it.measured, 'mAP')} | {labels} | {it.printed['mAP']}"
                lines.append(f"| {it.case.label} | {column} | {numbers} |")
    return "\n".join(lines)


@pytest.mark.parametrize("block", [pretrained, fine_tuned])
def test_the_page_shows_what_became_of_pretraining(block: Callable[[], str]) -> None:
    shown(block())


TRANSFERS = ("supervised", "direct", "baseline", "ft", "pt", "ft+pt", "rae", "pre-pt", "ft+pre-pt", "ft+pre-pt+f")


def transferred() -> str:
    """RAE's parts, table 4: mAP by seed beside the printed one, and the labels of the last epoch."""
    return adapted("rae", [("4", row) for row in TRANSFERS])


def attended() -> str:
    """DAAM's parts, tables 4 and 3: as RAE's, with the weight on other clusters."""
    parts = ("supervised", "direct", "hard", "lsr", "soft", "dsh+dsp", "dsh+daam", "dsh+dsp+ia", "ours")
    return adapted("daam", [*(("4", row) for row in parts), ("3", "ours")], tail=".1f")


def adapted(paper: str, rows: Sequence[tuple[str, str]], **more: str) -> str:
    """Rows, each with its table: mAP by seed beside the printed one, and the labels of the last epoch."""
    forms = {"mAP": ".1f", "renewed": ".1f", "clusters": ".0f", "portion": ".0f", "purity": ".0f"} | more
    heads = ["row", "task", "mAP by seed", "with statistics of the target", "clusters", "kept, %", "purity, %"]
    heads += [f"{name}, %" for name in more] + ["printed"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for table, row in rows:
        for column in ("m2d", "d2m", "m2t", "d2t"):
            for it in recorded(paper, table, row, column):
                measured = next(iter(it.measured.values()))
                values = [by_seed(it.measured, name, form) if name in measured else "" for name, form in forms.items()]
                lines.append(f"| {it.case.label} | {it.case.task} | {' | '.join(values)} | {it.printed['mAP']} |")
    return "\n".join(lines)


def fooled() -> str:
    """How RAE's discriminators and decoder fared: the first and the last epoch, one number a seed."""
    lines = ["| row | task | accuracy on maps, % | on images, % | reconstruction |", "|---" * 5 + "|"]
    names = ("feature_accuracy", "pixel_accuracy", "reconstruction")
    for row in ("ft", "pt", "rae"):
        for column in ("m2d", "d2m"):
            for it in recorded("rae", "4", row, column):
                runs = [stage.history for stage in it.stages if stage.name == "rae.Adapt"]
                cells = [", ".join(f"{a:.0f} to {b:.0f}" for a, b in ends(runs, name)) for name in names]
                lines.append(f"| {it.case.label} | {column} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ends(runs: list[list[dict[str, float]]], name: str) -> list[tuple[float, float]]:
    """The first and last value of a quantity in each history that has it."""
    values = [[entry[name] for entry in history if name in entry] for history in runs]
    return [(found[0], found[-1]) for found in values if found]


def weighed() -> str:
    """RAE's figure 6: mAP, rank-1 and labels by seed at each weight of a loss."""
    forms = {"mAP": ".1f", "rank1": ".1f", "clusters": ".0f", "portion": ".0f", "purity": ".0f"}
    lines = ["| loss | weight | mAP by seed | rank-1 | clusters | kept, % | purity, % |", "|---" * 7 + "|"]
    points = [(it.case.point, it.measured) for it in SMALL if it.case.paper == "rae" and it.case.point]
    for point, found in sorted(points, key=lambda it: (it[0].parameter, it[0].value)):
        values = [by_seed(found, name, form) for name, form in forms.items()]
        lines.append(f"| {point.parameter} | {point.value:g} | {' | '.join(values)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("block", [transferred, fooled, attended, weighed])
def test_the_page_shows_what_rae_s_transfers_and_daam_s_attention_did(block: Callable[[], str]) -> None:
    shown(block())


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
        (it,) = recorded("upreid", table, "insup", column)
        lines.append(f"| {name} | {it.case.task} | {by_seed(it.measured, 'mAP')} | {it.printed['mAP']} |")
    return "\n".join(lines)


def test_the_page_shows_what_pretrained_weights_are_judged_by() -> None:
    shown(judges())


def spreads() -> str:
    """Mean and standard deviation between training seeds of every row with several, mAP and rank-1, each cell once."""
    lines = ["| row | task | seeds | mAP | rank-1 |", "|---|---|---|---|---|"]
    several = [it for it in RECORDED if len(it.measured) > 1]
    for result in sorted(
        several, key=lambda it: (it.case.paper, it.case.table, it.case.task, it.case.row, it.case.column)
    ):
        case = result.case
        column = "" if is_task(case.column) else f", {case.column.upper()}"
        both = [[seed[name] for seed in result.measured.values()] for name in ("mAP", "rank1")]
        numbers = [f"{mean(values):.1f} ± {stdev(values):.1f}" for values in both]
        place = f"{case.paper} {case.table}, {case.label}{column}"
        lines.append(f"| {place} | {case.task} | {len(result.measured)} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def test_the_calibration_page_shows_how_far_seeds_spread() -> None:
    shown(spreads(), "calibration.md")
