from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce.errors import UserError
from reproduce.papers import results
from reproduce.papers.tables import METRICS

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
    assert results.passes({"verdict": verdict, "reasons": reasons}) is passes


def test_a_row_that_collapsed_in_its_paper_may() -> None:
    assert results.passes({"verdict": "collapsed", "reasons": [], "collapses": True})
    assert not results.passes({"verdict": "below", "reasons": [], "collapses": True})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300)
@given(history=st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4))
def test_a_result_is_written_with_a_line_for_each_logged_step(
    history: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = {"paper": "p{", "table": "1", "task": "m2d", "row": "}r"}
    result = {"format": 1, "case": case, "identity": {"scale": "small"}, "stages": [{"history": history}]}
    path = results.write(result, tmp_path_factory.mktemp("results"))
    assert json.loads(path.read_text()) == result
    flat = {"step": 1, "loss": 2.5}
    lines = results.write({**result, "stages": [{"history": [flat, flat]}]}, path.parent).read_text().splitlines()
    assert sum('{ "loss": 2.5, "step": 1 }' in line for line in lines) == 2


def seeds(*values: float) -> dict[str, dict[str, float]]:
    """Seeds from 1, with one number for each metric."""
    return {str(seed): dict.fromkeys(METRICS, value) for seed, value in enumerate(values, 1)}


def spread(sd: float, freedom: int = 10) -> dict[str, dict[str, float]]:
    return {metric: {"sd": sd, "freedom": freedom} for metric in METRICS}


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
    assert results.judge(PRINTED, seeds(*values), 1.0) == verdict


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
    values: tuple[float, ...], pooled: dict[str, dict[str, float]], verdict: str
) -> None:
    """It may narrow and widen an interval, but not that of a row that spreads more than twice as much."""
    assert results.judge(PRINTED, seeds(*values), 1.0, pooled) == verdict


def test_only_seeds_in_turn_reproduce() -> None:
    """Who runs ten and shows three of them could show the three that fit."""
    good = seeds(49.9, 50.1, 50.3, 50.0)
    assert results.judge(PRINTED, good, 1.0) == "reproduced"
    del good["2"]
    assert results.judge(PRINTED, good, 1.0) == "consistent"


def test_below_in_one_metric_is_below() -> None:
    assert results.judge({"mAP": 40.0, "rank1": 60.0}, seeds(50.0, 50.0, 50.0), 1.0) == "below"


def test_every_metric_must_be_reproduced() -> None:
    assert results.judge({"mAP": 50.0, "rank1": 49.1}, seeds(49.9, 50.0, 50.1), 1.0) == "consistent"


def test_a_row_is_judged_by_what_it_prints() -> None:
    assert results.judge({"mAP": None, "rank1": 50.0}, seeds(50.0), 1.0) == "consistent"
    without = {"mAP": None, "rank1": None, "rank5": 60.0, "rank10": 50.0}
    assert results.judge(without, seeds(50.0, 50.0, 50.0), 1.0) == "below"
    assert results.judge(without | {"rank5": 50.0}, seeds(50.0, 50.0, 50.0), 1.0) == "reproduced"
    assert results.judge({**PRINTED, "rank5": 90.0}, seeds(50.0, 50.0, 50.0), 1.0) == "reproduced"


def test_the_pooled_spread_by_hand() -> None:
    rows = [list(seeds(*values).values()) for values in ((1.0, 3.0), (5.0, 5.0, 8.0), (70.0,))]
    found = results.pool(rows)
    assert found["mAP"] == {"sd": pytest.approx(((2 + 6) / 3) ** 0.5), "freedom": 3}
    assert found.keys() == set(METRICS)
    assert results.pool(rows[2:]) == {}


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
        found += results.judge({"mAP": 0.0, "rank1": 0.0}, measured, 1.0, results.pool(table)) == verdict
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
    assert results.reasons_against(REAL) == []
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
        (found,) = results.reasons_against({**REAL, **change})
        assert reason in found


def result(**identity: Any) -> results.Result:
    case = {"paper": "p", "table": "1", "row": "a", "label": "A", "column": "m2d", "task": "m2d"}
    return {"format": 1, "case": case, "identity": {**REAL, **identity}, "measured": {}, "verdict": "consistent"}


def test_a_result_is_found_again_by_cell_and_identity(tmp_path: Path) -> None:
    for scale in ("paper", "paper", "trial"):
        results.write(result(scale=scale), tmp_path)
    assert [found["identity"]["scale"] for found in results.read(tmp_path)] == ["paper", "trial"]
    assert results.file_name(result()) == results.file_name(result())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 7}', '"text"'])
def test_a_broken_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is not a (readable )?result"):
        results.read(tmp_path)
