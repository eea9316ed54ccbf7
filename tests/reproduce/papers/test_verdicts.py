from __future__ import annotations

from typing import Any

import made
import numpy as np
import pytest

from reproduce import metrics
from reproduce.papers import verdicts
from reproduce.papers.records import Identity, Spread
from reproduce.papers.verdicts import unlike_starts

REAL: dict[str, Any] = {
    "scale": "paper",
    "data": {"market": {"kind": "real", "digest": "a"}},
    "weights": "abc",
    "selection": "last",
    "bn_group": None,
    "subset": None,
}


@pytest.mark.parametrize(
    ("verdict", "reasons", "passes"),
    [
        ("reproduced", [], True),
        ("not comparable", ["stand-in data"], True),
        ("consistent", [], True),
        ("inconclusive", [], False),
        ("below", [], False),
        ("error", ["stand-in data"], False),
        ("collapsed", [], False),
        ("collapsed", ["stand-in data"], True),
    ],
)
def test_what_passes(verdict: str, reasons: list[str], passes: bool) -> None:
    assert verdicts.passes(made.result(verdict=verdict, reasons=reasons)) is passes


def test_a_row_that_collapsed_in_its_paper_may() -> None:
    assert verdicts.passes(made.result(verdict="collapsed", collapses=True))
    assert not verdicts.passes(made.result(verdict="below", collapses=True))


def seeds(*values: float) -> dict[str, dict[str, float]]:
    """Seeds from 1, with one number for each metric."""
    return {str(seed): dict.fromkeys(metrics.printed(), value) for seed, value in enumerate(values, 1)}


def spread(sd: float, freedom: int = 10) -> dict[str, Spread]:
    return dict.fromkeys(metrics.printed(), Spread(sd=sd, freedom=freedom))


PRINTED = {"mAP": 50.0, "rank1": 50.0}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((50.0,), "consistent"),
        ((51.0,), "consistent"),
        ((51.1,), "inconclusive"),
        ((48.9,), "inconclusive"),
        ((20.0,), "inconclusive"),
        ((49.5, 50.5), "consistent"),
        ((49.9, 50.1, 50.3), "reproduced"),
        ((49.5, 50.5, 51.5), "consistent"),
        ((50.9, 51.0, 51.1), "consistent"),
        ((51.0, 51.1, 51.2), "inconclusive"),
        ((51.3, 51.4, 51.5), "above"),
        ((48.5, 48.6, 48.7), "below"),
        ((47.0, 49.0, 50.5), "inconclusive"),
        ((20.0, 50.0, 80.0), "inconclusive"),
        ((39.0, 69.0, 100.0), "inconclusive"),
        ((60.0, 60.0, 60.0), "above"),
    ],
)
def test_verdicts(values: tuple[float, ...], verdict: str) -> None:
    assert verdicts.judge(PRINTED, seeds(*values), 1.0) == verdict


@pytest.mark.parametrize(
    ("values", "pooled", "verdict"),
    [
        ((49.5, 50.0, 50.5), spread(0.5), "reproduced"),
        ((49.5, 50.0, 50.5), spread(0.5, 9), "reproduced"),
        ((49.5, 50.0, 50.5), spread(1.0), "consistent"),
        ((50.2, 50.2, 50.3), spread(0.5), "reproduced"),
        ((50.9, 50.9, 50.9), spread(0.5), "consistent"),
        ((50.9, 50.9, 50.9), spread(0.5, 9), "reproduced"),
        ((49.2, 50.0, 50.8), spread(0.39), "consistent"),
        ((49.2, 50.0, 50.8), spread(0.41), "reproduced"),
        ((51.9, 51.9, 51.9), spread(0.5), "above"),
        ((48.1, 48.1, 48.1), spread(0.5), "below"),
        ((40.0, 45.0, 50.0), spread(0.5), "inconclusive"),
    ],
)
def test_the_spread_is_the_tables_where_it_tells_more(
    values: tuple[float, ...], pooled: dict[str, Spread], verdict: str
) -> None:
    """It may narrow and widen an interval, but not that of a row that spreads more than twice as much."""
    assert verdicts.judge(PRINTED, seeds(*values), 1.0, pooled) == verdict


def test_only_seeds_in_turn_reproduce() -> None:
    """Who runs ten and shows three of them could show the three that fit."""
    good = seeds(49.9, 50.1, 50.3, 50.0)
    assert verdicts.judge(PRINTED, good, 1.0) == "reproduced"
    del good["2"]
    assert verdicts.judge(PRINTED, good, 1.0) == "consistent"


def test_below_in_one_metric_is_below() -> None:
    assert verdicts.judge({"mAP": 40.0, "rank1": 60.0}, seeds(50.0, 50.0, 50.0), 1.0) == "below"


def test_every_metric_must_be_reproduced() -> None:
    assert verdicts.judge({"mAP": 50.0, "rank1": 49.1}, seeds(49.9, 50.0, 50.1), 1.0) == "consistent"


def test_a_row_is_judged_by_what_it_prints() -> None:
    assert verdicts.judge({"mAP": None, "rank1": 50.0}, seeds(50.0), 1.0) == "consistent"
    without = {"mAP": None, "rank1": None, "rank5": 60.0, "rank10": 50.0}
    assert verdicts.judge(without, seeds(50.0, 50.0, 50.0), 1.0) == "below"
    assert verdicts.judge(without | {"rank5": 50.0}, seeds(50.0, 50.0, 50.0), 1.0) == "reproduced"
    assert verdicts.judge({**PRINTED, "rank5": 90.0}, seeds(50.0, 50.0, 50.0), 1.0) == "reproduced"


def test_the_pooled_spread_by_hand() -> None:
    rows = [list(seeds(*values).values()) for values in ((1.0, 3.0), (5.0, 5.0, 8.0), (70.0,))]
    found = verdicts.pool(rows)
    assert (found["mAP"].sd, found["mAP"].freedom) == (pytest.approx(((2 + 6) / 3) ** 0.5), 3)
    assert found.keys() == set(metrics.printed())
    assert verdicts.pool(rows[2:]) == {}


def rate(verdict: str, off: float, sd: float, count: int, trials: int, rows: int = 1) -> float:
    """How often a row whose true mean lies so far off (in bands) gets a verdict.

    Args:
        sd: between seeds, in bands; mAP and rank-1 correlate 0.8.
        rows: of the table, which share the spread.
    """
    draw = np.random.default_rng([int(100 * (off + 9)), int(100 * sd), count, rows])
    shape = np.linalg.cholesky(np.array([[1.0, 0.8], [0.8, 1.0]]))
    found = 0
    for _ in range(trials):
        noise = sd * draw.standard_normal((rows, count, 2)) @ shape.T
        table = [[{**seed, "rank5": 0.0, "rank10": 0.0} for seed in pairs(row)] for row in noise + off]
        measured = {str(seed): numbers for seed, numbers in enumerate(table[0], 1)}
        found += verdicts.judge({"mAP": 0.0, "rank1": 0.0}, measured, 1.0, verdicts.pool(table)) == verdict
    return found / trials


def pairs(row: Any) -> list[dict[str, float]]:
    return [{"mAP": float(mAP), "rank1": float(rank1)} for mAP, rank1 in row]


@pytest.mark.parametrize("sd", [0.1, 0.3, 0.6])
@pytest.mark.parametrize(("count", "rows"), [(3, 1), (3, 6), (5, 1), (5, 4), (10, 1), (10, 2)])
def test_what_lies_at_the_edge_is_seldom_called_reproduced(count: int, rows: int, sd: float) -> None:
    """At most 5 %, plus three standard errors of the trials; beyond the edge nearly never."""
    trials = 300
    error = 3 * (0.05 * 0.95 / trials) ** 0.5
    assert rate("reproduced", 1.0, sd, count, trials, rows) <= 0.05 + error
    assert rate("below", -1.0, sd, count, trials, rows) <= 2 * 0.05 + error, "either of two metrics"


def test_what_agrees_is_found_to_agree() -> None:
    """The power that docs/decisions.md tells of."""
    assert rate("reproduced", 0.0, 0.25, 3, 300) > 0.9
    assert rate("reproduced", 0.0, 0.5, 3, 300) < 0.6
    assert rate("reproduced", 0.0, 0.5, 3, 300, rows=6) > 0.75
    assert rate("reproduced", 0.0, 0.5, 5, 300) > 0.85
    assert rate("reproduced", 0.0, 0.5, 10, 300) > 0.95
    assert rate("below", -3.0, 0.5, 3, 300) > 0.8


def test_only_the_published_setting_is_comparable() -> None:
    assert verdicts.reasons_against(Identity(**REAL)) == []
    for change, reason in [
        ({"data": {"market": {"kind": "stand-in"}}}, "stand-in data"),
        ({"data": {"market": {"kind": "folder"}}}, "not checked"),
        (
            {"data": {**REAL["data"], "rae.Transfer": {"kind": "made", "by": "rae.Transfer"}}},
            "images made by rae.Transfer",
        ),
        ({"data": {**REAL["data"], "hall": {"kind": "outside", "by": "lab.Hall"}}}, "a data set of lab.Hall"),
        ({"data": {**REAL["data"], "hall": {"kind": "filmed"}}}, "data of another kind (filmed)"),
        ({"data": {}}, "no data that its stages name"),
        ({"scale": "trial"}, "scale trial"),
        ({"weights": "scratch"}, "from scratch"),
        ({"weights": "drawn objects 1aacc2be2683"}, "drawn-object weights"),
        ({"weights": "0123456789abcdef, drawn objects 1aacc2be2683"}, "drawn-object weights"),
        ({"subset": 10}, "subset of 10"),
        ({"unpublished_weights": "0123456789abcdef"}, "weights that are not the published file (sha256 0123456789ab)"),
    ]:
        (found,) = verdicts.reasons_against(Identity(**(REAL | change)))
        assert reason in found


@pytest.mark.parametrize(
    ("scale", "starts", "unlike"),
    [
        ("small", ["drawn objects abc", "those of moco.Pretrain"], True),
        ("small", ["scratch", "scratch, those of moco.Pretrain"], True),
        ("small", ["scratch", "scratch"], False),
        ("small", ["those of upreid.Pretrain", "those of moco.Pretrain"], False),
        ("small", ["drawn objects abc", "drawn objects abc, those of sptd.Pretrain"], False),
        ("paper", ["0676ba61", "those of moco.Pretrain"], False),
    ],
)
def test_starts_that_we_drew_are_no_evidence_for_published_ones(scale: str, starts: list[str], unlike: bool) -> None:
    said = unlike_starts([made.identity(scale=scale, weights=start) for start in starts])
    assert bool(said) == unlike
    assert not unlike or " and ".join(sorted(starts)) in said


DRAWN, MADE = {"kind": "stand-in"}, {"kind": "made", "by": "cyclegan.Translated", "version": 1}


@pytest.mark.parametrize(
    ("data", "void"),
    [
        ({"market": DRAWN, "market to duke": MADE}, "learns from images made by cyclegan.Translated of drawn ones"),
        ({"market": DRAWN}, ""),
        ({**REAL["data"], "market to duke": MADE}, ""),
        ({}, ""),
    ],
)
def test_what_learns_from_translated_drawings_supports_nothing_by_being_lower(data: dict[str, Any], void: str) -> None:
    assert verdicts.void(Identity(**(REAL | {"data": data}))) == void
