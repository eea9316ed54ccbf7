"""The statistics of claims: coverage by simulation, known answers, Holm, and verdicts at their nominal rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reproduce.artifacts import Scores
from reproduce.papers.statistics import (
    Compared,
    Difference,
    beside_stated,
    by_person,
    by_query,
    compare,
    fallen,
    holm,
    p_value,
    verdict,
)
from reproduce.papers.statistics import difference as between_people
from reproduce.papers.tables import Claim

QUERIES = 120

ALIKE = 0.31
"""How far differences of AP within an identity correlate."""


def difference(left: Any, right: Any, *, paired: bool) -> Difference:
    """Where every query is of another person."""
    return between_people(left, right, (np.arange(left.shape[1]), np.arange(right.shape[1])), paired=paired)


def layout(draw: Any, seeds: int, mean: float, seed_noise: float, query_noise: float, rest: float = 30.0) -> Any:
    """Differences (S, Q) around a mean, with noise of seeds, of queries and of both."""
    rows = seed_noise * draw.standard_normal((seeds, 1)) + query_noise * draw.standard_normal((1, QUERIES))
    return mean + rows + rest * draw.standard_normal((seeds, QUERIES))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("seed_noise", "query_noise"), [(4.0, 5.0), (1.0, 30.0), (3.0, 30.0), (0.0, 20.0)])
def test_intervals_cover_what_they_say(seeds: int, seed_noise: float, query_noise: float) -> None:
    draw = np.random.default_rng([seeds, int(10 * seed_noise), int(query_noise)])
    trials = 800
    covered = 0
    for _ in range(trials):
        sample = layout(draw, seeds, 7.0, seed_noise, query_noise)
        found = difference(sample, np.zeros_like(sample), paired=True)
        covered += found.low <= 7.0 <= found.high
    assert 0.93 <= covered / trials <= 0.995


def crowd(draw: Any, seeds: int, people: int, mean: float, noise: tuple[float, float, float]) -> tuple[Any, Any]:
    """Differences (S, Q) and whose queries they are (Q,): 1 to 26 a person, which are alike.

    Args:
        noise: of seeds, of queries and of both.
    """
    pids = np.repeat(np.arange(people), np.minimum(draw.geometric(0.25, people), 26))

    def alike(rows: int) -> Any:
        own, shared = draw.standard_normal((rows, len(pids))), draw.standard_normal((rows, people))[:, pids]
        return np.sqrt(1 - ALIKE) * own + np.sqrt(ALIKE) * shared

    of_seeds, of_queries, of_both = noise
    return mean + of_seeds * draw.standard_normal((seeds, 1)) + of_queries * alike(1) + of_both * alike(seeds), pids


@pytest.mark.parametrize(("people", "mean"), [(50, 0.0), (50, 7.0), (700, 7.0)])
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("noise", [(0.3, 30.0, 30.0), (1.0, 30.0, 5.0), (3.0, 10.0, 20.0)])
def test_intervals_cover_where_queries_of_a_person_are_alike(
    noise: tuple[float, float, float], seeds: int, people: int, mean: float
) -> None:
    """At least 93 %, less three standard errors of the trials."""
    draw = np.random.default_rng([seeds, people, int(mean), int(10 * noise[0])])
    trials, covered = 600, 0
    for _ in range(trials):
        sample, pids = crowd(draw, seeds, people, mean, noise)
        found = between_people(sample, np.zeros_like(sample), (pids, pids), paired=True)
        covered += found.low <= mean <= found.high
    assert covered / trials >= 0.93 - 3 * np.sqrt(0.07 * 0.93 / trials)


def test_the_bootstrap_of_one_seed_draws_people() -> None:
    draw = np.random.default_rng(7)
    trials, covered = 300, 0
    for _ in range(trials):
        (left, pids), (right, others) = (crowd(draw, 1, 100, mean, (0.0, 30.0, 0.0)) for mean in (50.0, 43.0))
        found = between_people(left, right, (pids, others), paired=False)
        covered += found.low <= 7.0 <= found.high
    assert covered / trials >= 0.9


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=12).filter(lambda pids: len(set(pids)) > 1),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_a_persons_value_keeps_the_mean_and_is_the_linearised_ratio(pids: list[int], seeds: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((seeds, len(pids)))
    people = sorted(set(pids))
    found = by_person(values, np.array(pids))
    assert found.shape == (seeds, len(people))
    np.testing.assert_allclose(found.mean(1), values.mean(1), atol=1e-12)
    for place, person in enumerate(people):
        above = sum(values[:, at] - values.mean() for at, pid in enumerate(pids) if pid == person)
        np.testing.assert_allclose(found[:, place], values.mean() + len(people) / len(pids) * above, atol=1e-12)
    alone = np.arange(len(pids))[::-1]
    np.testing.assert_allclose(by_person(values, alone), values[:, ::-1], atol=1e-12)


def test_the_interval_of_different_queries_covers_too() -> None:
    draw = np.random.default_rng(11)
    covered = 0
    for _ in range(600):
        left, right = layout(draw, 3, 50.0, 3.0, 25.0), layout(draw, 3, 43.0, 3.0, 25.0)[:, :70]
        found = difference(left, right, paired=False)
        covered += found.low <= 7.0 <= found.high
    assert 0.93 <= covered / 600 <= 0.99


@settings(max_examples=50)
@given(st.lists(st.floats(-50, 50).map(lambda value: round(value, 6)), min_size=2, max_size=8, unique=True))
def test_without_queries_it_is_scipys_t_test(values: list[float]) -> None:
    column = np.array(values)[:, None]
    found = difference(column, np.zeros_like(column), paired=True)
    known = stats.ttest_1samp(values, 0.0)
    interval = known.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert 2 * min(found.above, found.below) == pytest.approx(known.pvalue, abs=1e-9)
    other = 0.5 * column**2
    welch = stats.ttest_ind(values, other[:, 0], equal_var=False)
    apart = difference(column, other, paired=False)
    assert 2 * min(apart.above, apart.below) == pytest.approx(welch.pvalue, abs=1e-9)


def test_without_noise_there_is_no_doubt() -> None:
    found = difference(np.full((3, 4), 2.0), np.zeros((3, 4)), paired=True)
    assert (found.mean, found.low, found.high, found.above, found.below) == (2, 2, 2, 0, 1)
    assert difference(np.zeros((3, 4)), np.zeros((3, 4)), paired=True).above == 1
    hardly = difference(np.array([[0.0], [1e-159]]), np.zeros((2, 1)), paired=True)
    assert (hardly.above, hardly.below) == (0, 1), "what cannot be squared is no spread"


def test_one_seed_speaks_of_this_training_only() -> None:
    draw = np.random.default_rng(2)
    left = 40 + 20 * draw.standard_normal((1, 400))
    found = difference(left, left - 5 + draw.standard_normal((1, 400)), paired=True)
    assert found.low < 5 < found.high
    assert found.high - found.low < 0.5
    assert (found.above, found.below) == (1, 1)
    assert found.kind == "95 % bootstrap over identities, this training only"
    apart = difference(left, left - 5, paired=False)
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * 20 * (2 / 400) ** 0.5, rel=0.15)


def test_holm_by_hand_and_with_claims_that_were_not_tried() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.04], 5) == pytest.approx([0.05, 0.16])
    assert holm([0.9, 0.02], 2) == pytest.approx([0.9, 0.04])
    assert holm([], 3) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 5))
def test_holm_is_monotone_and_between_bonferroni_and_none(p_values: list[float], more: int) -> None:
    adjusted = holm(p_values, len(p_values) + more)
    pairs = list(zip(p_values, adjusted, strict=True))
    assert all(p <= q <= min(1, (len(p_values) + more) * p) + 1e-12 for p, q in pairs)
    assert all(q <= s for (p, q) in pairs for (r, s) in pairs if p < r)


def simulated(mean: float, trials: int, seed: int, metrics: int = 2) -> list[str]:
    """Verdicts on a claim of that many metrics whose true difference is the mean, three seeds."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(trials):
        compared = []
        for _ in range(metrics):
            sample = layout(draw, 3, mean, 2.0, 15.0)
            compared.append(Compared("", "mAP", None, {}, difference(sample, np.zeros_like(sample), paired=True)))
        p, direction = p_value(compared)
        found.append(verdict(direction, holm([p], 1)[0], 3)[0])
    return found


def test_a_true_claim_is_supported_a_false_one_contradicted_a_weak_one_undecided() -> None:
    assert simulated(30.0, 200, 1).count("supported") > 190
    assert simulated(-30.0, 200, 2).count("contradicted") > 190
    weak = simulated(1.0, 400, 3)
    assert weak.count("undecided") > 370
    none = simulated(0.0, 800, 4, metrics=1)
    assert none.count("supported") + none.count("contradicted") <= 0.07 * 800


def between(low: float, mean: float, high: float, p: float = 0.01) -> Difference:
    return Difference(mean, low, high, p if mean > 0 else 1 - p, p if mean < 0 else 1 - p, "")


@pytest.mark.parametrize(
    ("means", "stated", "direction"),
    [
        ((5.0, 6.0), (None, None), "supported"),
        ((-5.0, -6.0), (None, None), "contradicted"),
        ((5.0, -6.0), (None, None), "contradicted"),
        ((-5.0, -6.0), (-1.0, -2.0), "supported"),
        ((5.0, 6.0), (-1.0, None), "contradicted"),
    ],
)
def test_every_comparison_must_go_the_claims_way(
    means: tuple[float, ...], stated: tuple[float | None, ...], direction: str
) -> None:
    compared = [
        Compared("", "mAP", said, {}, between(mean - 1, mean, mean + 1))
        for mean, said in zip(means, stated, strict=True)
    ]
    p, way = p_value(compared)
    assert way == direction
    assert 0 < p < 0.05


@pytest.mark.parametrize(("paired", "mean"), [(True, 0.0), (False, 80 / 3 - 70 / 3)])
def test_queries_without_a_value_leave_pairs_whole(paired: bool, mean: float) -> None:
    """A query counts where every training has a value of it: in both cells where these are paired, else in its own."""

    def told(*values: float) -> Scores:
        return replace(scores([0.5] * 4, [1] * 4), by_query={"separation": np.array(values)})

    left = {1: told(10, np.nan, 30, 40), 2: told(10, 20, 30, 40)}
    right = {1: told(10, 20, np.nan, 40), 2: told(10, 20, 90, 40)}
    claim = Claim(id="c", where="", says="", kind="order", left="1/a/m2d", right=("1/b/m2d",), metrics=("separation",))
    (found,) = compare(claim, left, [right], paired=paired)
    assert found.difference.mean == pytest.approx(mean)
    assert found.by_seed == pytest.approx({1: mean, 2: mean})


def test_nothing_is_decided_below_three_seeds() -> None:
    assert verdict("supported", 0.001, 2) == ("undecided", ["2 seeds: nothing is decided below 3"])
    assert verdict("supported", 0.001, 3) == ("supported", [])
    assert verdict("contradicted", 0.2, 3)[0] == "undecided"


def scores(ap: list[float], first: list[int], **health: float) -> Scores:
    found = np.array(ap)
    pids = np.arange(len(ap))
    return Scores(100 * float(np.nanmean(found)), 0, 0, 0, 0, found, np.array(first), len(ap), 0, pids, health)


def test_what_is_compared_query_by_query() -> None:
    one = scores([0.5, np.nan, 1.0], [2, 0, 1], portion=60.0)
    np.testing.assert_allclose(by_query(one, "mAP"), [50, np.nan, 100])
    np.testing.assert_allclose(by_query(one, "rank1"), [0, np.nan, 100])
    np.testing.assert_allclose(by_query(one, "rank5"), [100, np.nan, 100])
    np.testing.assert_allclose(by_query(one, "portion"), [60])
    apart = replace(one, by_query={"separation": np.array([25, np.nan, -50])})
    np.testing.assert_allclose(by_query(apart, "separation"), [25, np.nan, -50])
    assert apart.numbers["separation"] == -12.5
    other = scores([0.25, np.nan, 0.5], [4, 0, 2], portion=70.0)
    nothing = replace(one, by_query={"on_others": np.full(3, np.nan)})
    assert "on_others" not in nothing.numbers
    unclear = Claim(
        id="c", where="", says="", kind="order", left="1/a/m2d", right=("1/b/m2d",), metrics=("mAP", "on_others")
    )
    assert compare(unclear, {1: nothing}, [{1: nothing}], paired=True) == []
    claim = Claim(
        id="c",
        where="",
        says="",
        kind="gain",
        left="1/a/m2d",
        right=("1/b/m2d",),
        stated={"mAP": 10.0, "portion": -5.0},
        metrics=("mAP", "portion"),
    )
    found = compare(claim, {1: one, 2: one}, [{1: other, 2: other}], paired=True)
    assert [(each.metric, each.stated) for each in found] == [("mAP", 10.0), ("portion", -5.0)]
    assert found[0].by_seed == {1: 37.5, 2: 37.5}
    assert found[1].difference.mean == -10
    assert found[1].difference.kind == "95 % t interval over 2 seeds"
    assert p_value(found)[1] == "supported"


def test_people_are_those_of_the_queries_that_have_a_value() -> None:
    """Twice as many queries of the same people, each like another, make nothing surer."""
    draw = np.random.default_rng(3)
    claim = Claim(id="c", where="", says="", kind="order", left="1/a/m2d", right=("1/b/m2d",), metrics=("mAP",))

    def cell(copies: int, values: Any) -> dict[int, Scores]:
        def one(ap: Any) -> Scores:
            told = np.append(np.repeat(ap, copies), np.nan)
            made = scores(list(told), [1] * len(told))
            return replace(made, pids=np.append(np.repeat(np.arange(len(ap)), copies), 99))

        return {seed: one(ap) for seed, ap in enumerate(values, 1)}

    left, right = draw.random((2, 3, 40))
    for paired in (True, False):
        (once,) = compare(claim, cell(1, left), [cell(1, right)], paired=paired)
        (twice,) = compare(claim, cell(2, left), [cell(2, right)], paired=paired)
        assert twice.difference.low == pytest.approx(once.difference.low)
        assert twice.difference.high == pytest.approx(once.difference.high)


@pytest.mark.parametrize(
    ("left", "right", "stated", "direction", "named"),
    [
        ((90.0, ""), (50.0, "1 cluster"), None, "undecided", "1/b/m2d"),
        ((90.0, "1 cluster"), (50.0, ""), None, "supported", ""),
        ((50.0, "1 cluster"), (90.0, ""), None, "contradicted", ""),
        ((50.0, ""), (90.0, "1 cluster"), None, "contradicted", "1/b/m2d"),
        ((50.0, "1 cluster"), (90.0, ""), -30.0, "undecided", "1/a/m2d"),
        ((50.0, ""), (90.0, "1 cluster"), -30.0, "supported", ""),
    ],
)
def test_what_collapsed_supports_nothing_by_being_lower(
    left: tuple[float, str], right: tuple[float, str], stated: float | None, direction: str, named: str
) -> None:
    """But it keeps its mAP, and a claim that puts it higher is contradicted. One seed that collapsed is enough."""
    draw = np.random.default_rng(4)

    def cell(mean: float, collapsed: str) -> dict[int, Scores]:
        def one(seed: int) -> Scores:
            ap = (mean + 5 * draw.standard_normal(60)) / 100
            return replace(scores(list(ap), [1] * 60), collapsed=collapsed if seed == 2 else "")

        return {seed: one(seed) for seed in (1, 2, 3)}

    told = None if stated is None else {"mAP": stated}
    claim = Claim(
        id="c",
        where="",
        says="",
        kind="gain",
        left="1/a/m2d",
        right=("1/b/m2d",),
        stated=told or {},
        metrics=("mAP",),
    )
    compared = compare(claim, cell(*left), [cell(*right)], paired=True)
    p, way = p_value(compared)
    assert verdict(way, p, 3)[0] == direction
    assert fallen(claim, compared) == ([f"{named} collapsed: that it is lower supports nothing"] if named else [])
    sound = [{seed: replace(one, collapsed="") for seed, one in cell(*side).items()} for side in (left, right)]
    lower = claim.left if stated else "1/b/m2d"
    compared = compare(claim, sound[0], sound[1:], paired=True, voids={lower: "is drawn", "1/c/m2d": "is not asked"})
    assert fallen(claim, compared) == [f"{lower} is drawn: that it is lower supports nothing"]
    p, way = p_value(compared)
    assert (verdict(way, p, 3)[0] == "contradicted") == (direction == "contradicted")
    assert verdict(way, p, 3)[0] != "supported"


@pytest.mark.parametrize(
    ("stated", "interval", "changes", "word"),
    [
        (7.5, (5.0, 7.4), {}, "smaller than stated"),
        (7.5, (5.0, 7.6), {}, ""),
        (7.5, (7.6, 9.0), {}, "larger than stated"),
        (7.5, (7.6, 9.0), {"at_least": True}, ""),
        (7.5, (7.6, 9.0), {"void": "collapsed"}, ""),
        (7.5, (5.0, 7.4), {"at_least": True}, "smaller than stated"),
        (7, (5.0, 6.6), {}, ""),
        (7, (5.0, 6.4), {}, "smaller than stated"),
        (-7.5, (-7.0, -5.0), {}, "smaller than stated"),
        (-7.5, (-9.0, -8.0), {}, "larger than stated"),
        (7.5, (-9.0, -8.0), {}, "smaller than stated"),
        (None, (5.0, 7.4), {}, ""),
    ],
)
def test_a_size_is_told_where_the_interval_excludes_the_stated_one(
    stated: float | None, interval: tuple[float, float], changes: dict[str, bool], word: str
) -> None:
    low, high = interval
    one = Compared("", "mAP", stated, {}, between(low, (low + high) / 2, high), **changes)
    assert beside_stated([one]) == word


def test_sizes_of_several_metrics_are_told_together() -> None:
    several = [Compared("", "mAP", stated, {}, between(5.0, 6.0, 7.0)) for stated in (4.0, 8.0, 6.0)]
    assert beside_stated(several) == "larger and smaller than stated"
