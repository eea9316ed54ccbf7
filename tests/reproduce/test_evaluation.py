"""The ranking kernel against slow loops, against itself, and against published values."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from demo_stages import Learned, Untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import pretraining, source

from methods import mmt, msplr, rae
from methods.blocks.norm import group_batch_norm
from reproduce import evaluation
from reproduce.artifacts import Scores
from reproduce.clustering import DBSCAN, KMeans, Rho
from reproduce.data import images as decoding
from reproduce.data.domains import Domain, Real
from reproduce.data.manifests import digest
from reproduce.data.reading import read
from reproduce.data.standins import StandIn
from reproduce.data.transforms import IMAGENET, LUPERSON, Pixels, normalise
from reproduce.data.world import Size
from reproduce.errors import Diverged, UserError
from reproduce.evaluation import (
    Evaluate,
    OnSource,
    Rerank,
    Retrieval,
    Seen,
    embed,
    evaluate_ranking,
    renew_statistics,
    source_models,
)
from reproduce.figures import ActivationMaps, AttentionMaps, Network
from reproduce.running.runner import Site, Store, build
from reproduce.stage import added, closure

Problem = tuple[Any, Any, Any, Any, Any]


@pytest.fixture
def real() -> Path:
    folder = os.environ.get("REPRODUCE_TEST_DATA")
    if not folder:
        pytest.skip("REPRODUCE_TEST_DATA does not name the folder of real test data")
    return Path(folder)


def slow(distances: Any, query_pids: Any, gallery_pids: Any, query_camids: Any, gallery_camids: Any) -> dict[str, Any]:
    """Compute the definition image by image."""
    aps, inps, firsts, separations = [], [], [], []
    for row, pid, camid in zip(distances, query_pids, query_camids, strict=True):
        rank, hits, precisions, last = 0, 0, [], 0
        for _, _, other, camera in sorted(zip(row, range(len(row)), gallery_pids, gallery_camids, strict=True)):
            if other == -1 or (other == pid and camera == camid):
                continue
            rank += 1
            if other == pid:
                hits += 1
                precisions.append(hits / rank)
                last = rank
                if hits == 1:
                    firsts.append(rank)
        pairs = list(zip(row, gallery_pids, gallery_camids, strict=True))
        within = [float(far) for far, other, camera in pairs if other == pid != -1 and camera != camid]
        between = [float(far) for far, other, _ in pairs if other not in (pid, -1)]
        known = between and np.mean(between) > 1e-6
        near = max(0.0, np.mean(within)) if within else np.nan
        separations.append((100 - 100 * near / np.mean(between) if known else 0.0) if within else np.nan)
        aps.append(sum(precisions) / hits if hits else np.nan)
        inps.append(hits / last if hits else np.nan)
    if not firsts:
        raise UserError("none")
    return {
        "mAP": 100 * np.nanmean(aps),
        "mINP": 100 * np.nanmean(inps),
        **{f"rank{k}": 100 * np.mean([first <= k for first in firsts]) for k in (1, 5, 10)},
        "ap": aps,
        "separated": separations,
        "queries": len(aps),
        "unmatched": len(aps) - len(firsts),
    }


def assert_equal(scores: Scores, expected: Scores | dict[str, Any], *, ranking_alone: bool = False) -> None:
    if not isinstance(expected, dict):
        expected = {**expected.numbers, "ap": expected.ap, "separated": expected.by_query["separation"]}
    if ranking_alone:
        expected = {name: value for name, value in expected.items() if name not in ("separated", "separation")}
    for name, value in expected.items():
        reach = {"rtol": 1e-5, "atol": 1e-3} if name in ("separated", "separation") else {"rtol": 1e-12}
        by_name = scores.numbers | {"ap": scores.ap, "separated": scores.by_query["separation"]}
        np.testing.assert_allclose(by_name[name], value, err_msg=name, **reach)


def problem(seed: int, queries: int = 40, images: int = 150, ids: int = 6, cameras: int = 3) -> Problem:
    """Draw distances without ties, with some junk, distractors and queries without a match."""
    draw = np.random.default_rng(seed)
    distances = draw.permutation(queries * images).reshape(queries, images) / (queries * images)
    return (
        distances,
        draw.integers(0, ids + 1, queries),
        draw.integers(-1, ids, images),
        draw.integers(0, cameras, queries),
        draw.integers(0, cameras, images),
    )


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Draw small problems with many ties, junk and queries without a match."""
    queries, images = draw(st.integers(1, 5)), draw(st.integers(1, 14))
    levels = draw(st.integers(1, 20))

    def integers(count: int, low: int, high: int) -> Any:
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    return (
        integers(queries * images, -levels, levels).reshape(queries, images) / 4,
        integers(queries, -1, 2),
        integers(images, -1, 2),
        integers(queries, 0, 1),
        integers(images, 0, 1),
    )


@pytest.mark.parametrize("few", [0, 2, 10**9], ids=["counted", "either", "sorted"])
@settings(deadline=None, max_examples=200)
@given(case=problems(), data=st.data())
def test_equals_slow_loops(few: int, case: Problem, data: st.DataObject) -> None:
    case = case[0].astype(data.draw(st.sampled_from(["float32", "float64"]))), *case[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_SORTED", few)
        patch.setattr(evaluation, "_CELLS", data.draw(st.sampled_from([1, 20, 1000])))
        try:
            expected = slow(*case)
        except UserError:
            with pytest.raises(UserError, match="no query has a match"):
                evaluate_ranking(*case)
        else:
            assert_equal(evaluate_ranking(*case), expected)


@pytest.mark.parametrize("ids", [1, 6])
def test_equals_slow_loops_on_longer_rows(ids: int) -> None:
    case = problem(0, queries=12, images=700, ids=ids)  # one identity: more matches than are counted one by one
    assert_equal(evaluate_ranking(*case), slow(*case))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_order_of_gallery_and_queries_is_irrelevant(seed: int) -> None:
    distances, query_pids, gallery_pids, query_camids, gallery_camids = problem(seed)
    expected = evaluate_ranking(distances, query_pids, gallery_pids, query_camids, gallery_camids)
    draw = np.random.default_rng(seed)
    rows, columns = draw.permutation(len(query_pids)), draw.permutation(len(gallery_pids))
    scores = evaluate_ranking(
        distances[rows][:, columns],
        query_pids[rows],
        gallery_pids[columns],
        query_camids[rows],
        gallery_camids[columns],
    )
    np.testing.assert_array_equal(scores.ap, expected.ap[rows])
    assert scores.numbers == pytest.approx(expected.numbers)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), power=st.sampled_from([0.5, 3.0]), scale=st.sampled_from([1e-6, 1e6]))
def test_scores_depend_only_on_the_order_of_distances(seed: int, power: float, scale: float) -> None:
    distances, *labels = problem(seed)
    expected = evaluate_ranking(distances, *labels)
    assert_equal(evaluate_ranking(scale * (distances**power - 7), *labels), expected, ranking_alone=True)
    assert_equal(evaluate_ranking(scale**0.5 * distances, *labels), expected)


def test_scores_do_not_depend_on_the_numbers_of_people_and_cameras() -> None:
    distances, query_pids, gallery_pids, query_camids, gallery_camids = problem(1)

    def renamed(pids: Any) -> Any:
        return np.where(pids == -1, -1, 1000 - 7 * pids)

    scores = evaluate_ranking(
        distances, renamed(query_pids), renamed(gallery_pids), query_camids * -3, gallery_camids * -3
    )
    assert_equal(scores, evaluate_ranking(distances, query_pids, gallery_pids, query_camids, gallery_camids))


def test_ties_go_to_the_lower_index() -> None:
    labels = [1], [2, 1, 2], [0], [1, 1, 1]
    assert evaluate_ranking(np.zeros((1, 3)), *labels).mAP == 50.0
    assert evaluate_ranking(np.array([[1.0, 0.5, 0.5]]), *labels).mAP == 100.0


def test_example_by_hand() -> None:
    # ranks:        1     2      -          3     -          4
    pids = np.array([9, 1, 1, 0, -1, 1])
    cams = np.array([0, 1, 0, 0, 1, 2])
    distances = np.array([[0.1, 0.2, 0.05, 0.3, 0.0, 0.4]])
    scores = evaluate_ranking(distances, [1], pids, [0], cams)
    assert scores.numbers == pytest.approx(
        {"mAP": 50.0, "rank1": 0, "rank5": 100, "rank10": 100, "mINP": 50.0, "queries": 1, "unmatched": 0}
        | {"separation": 100 * (1 - (0.2 + 0.4) / (0.1 + 0.3))}
    )


def test_junk_is_ignored_and_distractors_count() -> None:
    distances, query_pids, gallery_pids, query_camids, gallery_camids = problem(2)
    expected = evaluate_ranking(distances, query_pids, gallery_pids, query_camids, gallery_camids)

    def extended(pid: int, distance: float) -> Scores:
        extra = np.full((len(distances), 5), distance)
        return evaluate_ranking(
            np.hstack([extra, distances]),
            query_pids,
            np.concatenate([[pid] * 5, gallery_pids]),
            query_camids,
            np.concatenate([[0] * 5, gallery_camids]),
        )

    assert_equal(extended(-1, -1.0), expected)
    assert_equal(extended(99, 2.0), expected, ranking_alone=True)
    worse = extended(99, -1.0)
    assert worse.mAP < expected.mAP
    assert worse.rank5 == 0.0


def test_queries_without_a_match_are_not_scored() -> None:
    distances = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    scores = evaluate_ranking(distances, [1, 5, -1], [1, -1], [0, 0, 0], [1, 1])
    assert (scores.mAP, scores.rank1, scores.queries, scores.unmatched) == (100.0, 100.0, 3, 2)
    np.testing.assert_array_equal(scores.ap, [1.0, np.nan, np.nan])


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int16", "uint8", "longdouble"])
def test_array_types(kind: str) -> None:
    distances, *labels = problem(3, queries=10, images=12)
    distances = np.round(distances * 100).astype(kind)
    assert_equal(evaluate_ranking(distances, *labels), slow(distances, *labels))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32])
def test_tensor_types(kind: torch.dtype) -> None:
    distances, *labels = problem(3, queries=10, images=12)
    tensor = torch.tensor(np.round(distances * 100)).to(kind)
    expected = slow(tensor.tolist(), *labels)
    assert_equal(evaluate_ranking(tensor, *map(torch.tensor, labels)), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors() -> None:
    case = problem(4)
    assert_equal(evaluate_ranking(*(torch.tensor(part, device="cuda") for part in case)), evaluate_ranking(*case))


def test_tensors_with_gradients_or_from_inference_mode() -> None:
    distances, *labels = problem(5)
    expected = evaluate_ranking(distances, *labels)
    assert_equal(evaluate_ranking(torch.tensor(distances, requires_grad=True), *labels), expected)
    with torch.inference_mode():
        assert_equal(evaluate_ranking(torch.tensor(distances), *labels), expected)


def test_views_and_lists_are_accepted_and_not_changed() -> None:
    distances, *labels = problem(6)
    expected = evaluate_ranking(distances, *labels)
    padded = np.full((2 * distances.shape[0], 3 * distances.shape[1]), np.nan)
    padded[::2, ::3] = distances
    case = [distances, *labels]
    before = [part.copy() for part in case]
    for view in (
        padded[::2, ::3],
        np.asfortranarray(distances),
        torch.tensor(padded)[::2, ::3],
        torch.tensor(distances),
    ):
        assert_equal(evaluate_ranking(view, *(part.tolist() for part in labels)), expected)
    for part in case:
        part.flags.writeable = False
    assert_equal(evaluate_ranking(*case), expected)
    for part, copy in zip(case, before, strict=True):
        np.testing.assert_array_equal(part, copy)
    tensor = torch.tensor(before[0])
    evaluate_ranking(tensor, *labels)
    np.testing.assert_array_equal(tensor.numpy(), before[0])


def test_memory_does_not_grow_with_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_CELLS", 1 << 13)
    distances, *labels = problem(7, queries=400, images=4000, ids=400)
    evaluate_ranking(distances[:2], labels[0][:2], labels[1], labels[2][:2], labels[3])
    tracemalloc.start()
    try:
        evaluate_ranking(distances, *labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < distances.nbytes / 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: np.zeros(3)}, r"distances have shape \(3,\)"),
        ({0: np.zeros((2, 3, 1))}, r"shape \(2, 3, 1\)"),
        ({0: np.zeros((0, 3)), 1: [], 3: []}, r"shape \(0, 3\)"),
        ({0: np.zeros((2, 0)), 2: [], 4: []}, r"shape \(2, 0\)"),
        ({1: [1]}, r"query_pids have shape \(1,\) where the distances need \(2,\)"),
        ({2: [1, 2]}, r"gallery_pids have shape \(2,\) where the distances need \(3,\)"),
        ({3: [[0, 0]]}, r"query_camids have shape \(1, 2\)"),
        ({4: torch.zeros(4, dtype=torch.int64)}, r"gallery_camids have shape \(4,\)"),
        ({1: ["a", "b"]}, "query_pids are of type <U1; give integers"),
        ({2: [1.0, 2.0, 3.0]}, "gallery_pids are of type float64; give integers"),
        ({0: np.array([[0, 1, 2], [0, np.nan, 1]])}, "distances of query 1 hold NaN or infinity"),
        ({0: np.array([[np.inf, 1, 2], [0, np.nan, 1]])}, "distances of query 0 hold NaN or infinity"),
        ({0: torch.tensor([[0, 1, 2], [0, -torch.inf, 1]])}, "distances of query 1 hold NaN or infinity"),
        ({0: np.array([["a"] * 3] * 2)}, "distances are of type <U1; give real numbers"),
        ({0: np.zeros((2, 3), complex)}, "distances are of type complex128"),
        ({1: [7, 8]}, "no query has a match"),
        ({4: [0, 0, 0]}, "no query has a match"),
        ({2: [-1, -1, -1]}, "no query has a match"),
    ],
)
def test_invalid_input_raises(changes: dict[int, Any], message: str) -> None:
    case: list[Any] = [np.zeros((2, 3)), [1, 2], [1, 2, 3], [0, 0], [1, 1, 1]]
    evaluate_ranking(*case)
    for position, value in changes.items():
        case[position] = value
    with pytest.raises(UserError, match=message):
        evaluate_ranking(*case)


def test_nan_in_any_block_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_CELLS", 450)
    distances, *labels = problem(8)
    distances[37, 5] = np.nan
    with pytest.raises(UserError, match="query 37"):
        evaluate_ranking(distances, *labels)


def test_visda_rank_list_scores_like_six_public_evaluators(real: Path) -> None:
    def labels(name: str) -> tuple[list[int], list[int]]:
        rows = [line.split() for line in (real / "visda2020" / name).read_text().splitlines()]
        return [int(row[2]) for row in rows], [int(row[1]) for row in rows]

    query_pids, query_camids = labels("index_validation_query.txt")
    gallery_pids, gallery_camids = labels("index_validation_gallery.txt")
    lists = [list(map(int, line.split())) for line in (real / "visda2020" / "ranklist.txt").read_text().splitlines()]
    distances = np.full((len(query_pids), len(gallery_pids)), 100.0)  # the rest is tied: in index order
    for row, listed in zip(distances, lists, strict=True):
        row[listed] = np.arange(len(listed))
    assert distances.shape == (377, 3600)
    scores = evaluate_ranking(distances, query_pids, gallery_pids, query_camids, gallery_camids)
    assert scores.rank1 / 100 == pytest.approx(0.336870, abs=1e-6)
    assert scores.rank5 / 100 == pytest.approx(0.557029, abs=1e-6)
    assert scores.rank10 / 100 == pytest.approx(0.652520, abs=1e-6)
    assert scores.mAP / 100 == pytest.approx(0.177813308, abs=1e-9)
    assert scores.mINP / 100 == pytest.approx(0.016842, abs=1e-6)
    assert scores.unmatched == 0


def test_toy_rankings_have_the_published_scores(real: Path) -> None:
    toys = json.loads((real / "cmc_toy.json").read_text())["open-reid/openvino cmc"]
    assert len(toys) == 3
    for toy in toys:
        curve = next(toy[key] for key in toy if key.startswith("cmc"))
        scores = evaluate_ranking(np.array(toy["dist"]), toy["q"], toy["g"], toy["qc"], toy["gc"])
        assert scores.rank1 == pytest.approx(100 * curve[0])
        assert scores.rank5 == pytest.approx(100 * curve[-1])
        if len(set(toy["q"])) == len(toy["q"]):  # one match each, so AP = 1 / rank tells the whole curve
            assert [np.mean(1 / scores.ap <= k) for k in range(1, len(curve) + 1)] == pytest.approx(curve)


def test_first_ranks_agree_with_cmc() -> None:
    draw = np.random.default_rng(5)
    pids, cameras = draw.integers(0, 9, 60), draw.integers(0, 3, 60)
    scores = evaluate_ranking(draw.random((20, 40)), pids[:20], pids[20:], cameras[:20], cameras[20:])
    np.testing.assert_array_equal(scores.first == 0, np.isnan(scores.ap))
    first = scores.first[scores.first > 0]
    for k, percent in ((1, scores.rank1), (5, scores.rank5), (10, scores.rank10)):
        assert 100 * np.mean(first <= k) == pytest.approx(percent)
    one = evaluate_ranking(np.array([[0.1, 0.2, 0.3]]), [4], [7, 4, 4], [0], [1, 1, 2])
    assert one.first.tolist() == [2]


class Lamp(torch.nn.Module):
    """A network with fixed maps, whatever the images."""

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.given, self.weight = maps, torch.nn.Parameter(torch.zeros(1))

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        return self.given.expand(len(images), -1, -1, -1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[StandIn, Any]:
    domain = StandIn("duke", Size(2, 30, 0, 64, 32))
    store = tmp_path_factory.mktemp("store")
    build(domain, Site(store), lambda _: None)
    return domain, read(Store(store).load(domain).path, "duke")


def test_looked_at(drawn: tuple[StandIn, Any]) -> None:
    """Uniform maps give the cover itself; a map with one bright position gives the cover there."""
    domain, data = drawn
    retrieval = Retrieval(data, (64, 32), "cpu")
    shown = domain.cover(data.query, 64, 32).double()
    even = retrieval.looks(Lamp(torch.full((3, 16, 8), -0.5)), domain)
    np.testing.assert_allclose(even["on_person"], 100 * shown[:, 0].mean((1, 2)), atol=1e-4)
    hidden = shown[:, 1].mean((1, 2)) >= 0.05
    assert 0 < hidden.sum() < len(hidden)
    np.testing.assert_array_equal(np.isnan(even["on_others"]), ~hidden)
    np.testing.assert_allclose(even["on_others"][hidden], 100 * shown[hidden, 1].mean((1, 2)), atol=1e-4)

    spot = torch.zeros(2, 16, 8)
    spot[:, 6, 3] = torch.tensor([3.0, -4.0])
    bright = retrieval.looks(Lamp(spot), domain)
    np.testing.assert_allclose(bright["on_person"], 100 * shown[:, 0, 24:28, 12:16].mean((1, 2)), atol=1e-4)


def test_attention_maps_tell_the_mean_weight_on_the_person_and_elsewhere(
    drawn: tuple[StandIn, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half lets a weight of 0.75 through, the other 0.25; a map is not stretched to its own maximum."""
    domain, data = drawn
    weights = torch.full((16, 8), 0.25)
    weights[:8] = 0.75
    lamp = Lamp(weights[None])
    lamp.passing = lambda images: weights.expand(len(images), -1, -1)  # type: ignore[method-assign,assignment]
    monkeypatch.setattr(Untrained, "at_moment", lambda *arguments: lamp)
    figure = AttentionMaps((Network(Untrained(1, input=(64, 32)), "last"),), domain, number=5)
    for needed in closure([figure]):
        build(needed, Site(tmp_path), lambda _: None)
    facts = Store(tmp_path).load(figure).facts
    assert np.unique(facts["rows"][0]["maps"]).tolist() == [64, 191]
    shown = domain.cover([data.query[place] for place in queries_of(facts, data)], 64, 32)[:, 0].double()
    upper, whole = shown[:, :32].sum((1, 2)), shown.sum((1, 2))
    on = (0.75 * upper + 0.25 * (whole - upper)) / whole
    off = (0.75 * (32 * 32 - upper) + 0.25 * (32 * 32 - whole + upper)) / (64 * 32 - whole)
    np.testing.assert_allclose(facts["rows"][0]["weight_on_person"], 100 * on, atol=0.01)
    np.testing.assert_allclose(facts["rows"][0]["weight_elsewhere"], 100 * off, atol=0.01)


def queries_of(facts: Any, data: Any) -> list[int]:
    """Positions of a figure's images among the queries."""
    names = [image.path.rpartition("/")[2] for image in data.query]
    return [names.index(facts["images"][place]["name"]) for place in facts["shown"]]


def test_evaluations_on_drawn_images_measure_activation_maps(drawn: tuple[StandIn, Any], tmp_path: Path) -> None:
    domain, data = drawn
    for looks in (True, False):
        stage = Evaluate(Untrained(1, input=(64, 32), looks=looks), on=domain)
        for needed in closure([stage]):
            build(needed, Site(tmp_path), lambda _: None)
        scores = Store(tmp_path).load(stage)
        assert set(scores.by_query) == {"separation", *(("on_person", "on_others") if looks else ())}
        assert all(len(values) == len(data.query) for values in scores.by_query.values())
        assert scores.pids.tolist() == [image.pid for image in data.query]
        assert ("on_person" in scores.numbers) is looks
        if looks:
            figure = ActivationMaps((Network(stage.train, "last"),), domain, number=5)
            build(figure, Site(tmp_path), lambda _: None)
            facts = Store(tmp_path).load(figure).facts
            measured = scores.by_query["on_person"][queries_of(facts, data)]
            np.testing.assert_allclose(facts["rows"][0]["on_person"], measured, atol=0.01)


def test_test_images_are_decoded_once(tiny_domain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = decoding.decode

    def counted(path: Path, *arguments: Any) -> Any:
        decoded.append(path.name)
        return decode(path, *arguments)

    monkeypatch.setattr(decoding, "decode", counted)
    data = read(tiny_domain, "market")
    retrieval = Retrieval(data, (32, 16), "cpu")
    nets = [Untrained(seed).embedder(None, "last") for seed in (1, 2)]  # type: ignore[arg-type]
    numbers = [retrieval.score(net).numbers for net in nets]
    assert sorted(decoded) == sorted(image.path.rpartition("/")[2] for image in (*data.query, *data.gallery))
    assert numbers == [Retrieval(data, (32, 16), "cpu").score(net).numbers for net in nets]
    assert numbers[0] != numbers[1]


@dataclass(frozen=True)
class TwoViews(Untrained):
    """Like `Untrained`, with its own pixel statistics and a view on images in other colours."""

    test_views: ClassVar[tuple[str, ...]] = ("negative",)
    statistics: Pixels = added(IMAGENET)

    @property
    def pixels(self) -> Pixels:
        return self.statistics

    def viewed(self, training: Any, at: str, view: str) -> Any:
        net = self.embedder(training, at)
        forward = net.forward
        net.forward = lambda images: forward(-(images.abs()))
        return net


@dataclass(frozen=True)
class CameraOnly:
    """A distance that depends on cameras only."""

    weight: float = 1.0

    def blocks(self, training: Any, query: Seen, gallery: Seen) -> Iterator[Any]:
        assert set(training.checkpoints) == {"last"}
        assert query.embeddings.shape[0] == len(query.camids) == len(query.frames)
        assert not hasattr(query, "pids")
        for camera in query.camids:
            yield self.weight * np.abs(gallery.camids - camera)[None].astype(np.float32)


def scored(stage: Evaluate, place: Path, tmp_path: Path) -> Scores:
    domain = Real("market", digest(read(place, "market")))
    stage = replace(stage, on=domain)
    site = Site(tmp_path, folders={domain.digest: place})
    for needed in closure([stage]):
        build(needed, site, lambda _: None)
    return Store(tmp_path).load(stage)


def test_view_distance_and_pixels_of_the_training(tiny_domain: Path, tmp_path: Path) -> None:
    plain = Evaluate(TwoViews(), on=None)
    scores = [
        scored(stage, tiny_domain, tmp_path)
        for stage in (
            plain,
            replace(plain, view="negative"),
            replace(plain, train=TwoViews(statistics=LUPERSON)),
            replace(plain, distance=CameraOnly()),
        )
    ]
    assert len({tuple(measured.by_query["separation"]) for measured in scores}) == 4
    data = read(tiny_domain, "market")
    people = [[image.pid for image in split] for split in (data.query, data.gallery)]
    cameras = [[image.camid for image in split] for split in (data.query, data.gallery)]
    by_camera = np.abs(np.subtract.outer(*map(np.array, cameras))).astype(np.float32)
    assert scores[3].mAP == evaluate_ranking(by_camera, *people, *cameras).mAP
    with pytest.raises(UserError, match=r"has no view 'fused'; it has negative"):
        scored(replace(plain, view="fused"), tiny_domain, tmp_path)
    with pytest.raises(ValueError, match="not both"):
        replace(plain, distance=CameraOnly(), rerank=Rerank())
    with pytest.raises(ValueError, match="a distance replaces the metric"):
        replace(plain, distance=CameraOnly(), metric="euclidean")
    assert plain.detail == ""
    assert replace(plain, view="negative", distance=CameraOnly()).detail == "negative by CameraOnly"
    assert replace(plain, metric="euclidean").detail == "euclidean"
    assert replace(plain, view="").key == plain.key


@dataclass(frozen=True)
class Shifted(Untrained):
    """Like `Untrained`, after a batch normalisation that has never seen an image."""

    def embedder(self, training: Any, at: str) -> Any:
        normed = torch.nn.BatchNorm2d(3)
        normed.running_mean += torch.tensor([4.0, -4.0, 0.0])
        return torch.nn.Sequential(normed, super().embedder(training, at)).eval()


def test_target_statistics_are_evaluated_separately(tiny_domain: Path, tmp_path: Path) -> None:
    plain = Evaluate(Shifted(), on=None)
    stored, both = (scored(stage, tiny_domain, tmp_path) for stage in (plain, replace(plain, statistics="target")))
    data = read(tiny_domain, "market")
    net = Shifted().embedder(None, "last")  # type: ignore[arg-type]
    shown = normalise(
        next(iter(decoding.Images(data.root, data.train, (32, 16), "cpu").batches([range(len(data.train))])))
    )
    assert len(shown) <= 64, "one batch"
    net[0].running_mean, net[0].running_var = shown.mean((0, 2, 3)), shown.var((0, 2, 3))
    renewed = Retrieval(data, (32, 16), "cpu").score(net)
    np.testing.assert_allclose(both.by_query["renewed"], 100 * renewed.ap)
    assert both.numbers["renewed"] == pytest.approx(renewed.mAP)
    assert {**both.numbers, "renewed": 0} == {**stored.numbers, "renewed": 0}, "nothing else is touched"
    assert abs(renewed.mAP - stored.mAP) > 0.1
    assert replace(plain, statistics="").key == plain.key
    with pytest.raises(ValueError, match="or, as trained, empty; not 'source'"):
        replace(plain, statistics="source")


def test_scores_without_query_identities_raise(tmp_path: Path) -> None:
    """Old scores lack them: every query would count as a different person."""
    from safetensors.numpy import load_file, save_file

    evaluate_ranking(*problem(1)).save(tmp_path)
    arrays = load_file(tmp_path / "queries.safetensors")
    np.testing.assert_array_equal(Scores.load(tmp_path).pids, problem(1)[1])
    del arrays["pids"]
    save_file(arrays, tmp_path / "queries.safetensors")
    with pytest.raises(UserError, match="lack the identities of queries: delete that folder"):
        Scores.load(tmp_path)


class Normed(torch.nn.Module):
    """Two normalisations, one of them grouped, with statistics of another domain."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.BatchNorm2d(3)
        self.second = group_batch_norm(torch.nn.BatchNorm2d(3), 2)
        for norm in (self.first, self.second):
            norm.running_mean.fill_(50.0)
            norm.running_var.fill_(9.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images).square()).mean((2, 3))


def test_renewed_statistics_are_those_of_the_images(drawn: tuple[StandIn, Any]) -> None:
    _, data = drawn
    images = decoding.Images(data.root, data.train[:24], (64, 32), "cpu")
    net = Normed().eval()
    renew_statistics(net, images, batch=24)
    (pixels,) = images.batches([range(24)])
    inputs = normalise(pixels)
    torch.testing.assert_close(net.first.running_mean, inputs.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(net.first.running_var, inputs.transpose(0, 1).flatten(1).var(1), rtol=1e-3, atol=0)
    middle = torch.nn.functional.batch_norm(inputs, None, None, training=True).square()
    torch.testing.assert_close(net.second.running_mean, middle.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert not any(module.training for module in net.modules())
    assert (net.first.momentum, net.second.momentum) == (0.1, 0.1)
    kept = net.first.running_mean.clone()
    net.train()(inputs)
    assert not torch.equal(net.first.running_mean, kept), "training goes on as before"
    renew_statistics(net.eval(), images, batch=8)
    torch.testing.assert_close(net.first.running_mean, inputs.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_embeddings_without_direction_mean_that_training_diverged(drawn: tuple[StandIn, Any], value: float) -> None:
    _, data = drawn
    images = decoding.Images(data.root, data.train[:6], (64, 32), "cpu")
    net = Normed().eval()
    assert embed(net, images).norm(dim=1).tolist() == pytest.approx([1] * 6)
    net.second.weight.data.fill_(value)
    with pytest.raises(Diverged, match="embeddings of 6 of 6 images are zero or not finite: training diverged"):
        embed(net, images)
    assert embed(net, images, unit=False).shape == (6, 3)


def test_source_models_of_an_evaluation(drawn: tuple[StandIn, Any], tmp_path: Path) -> None:
    domain, _ = drawn
    inits = (pretraining(seed=1), pretraining(seed=2, objective=None, bn_target=True))
    adapted = mmt.Adapt(inits, Domain("duke"), KMeans(2))
    assert source_models(Evaluate(inits[1], on=Domain("duke"), at="best on source")) == [
        OnSource(inits[1], "best on source")
    ]
    assert source_models(Evaluate(adapted, on=Domain("duke"), at="best on target")) == [
        OnSource(init, "best on source") for init in inits
    ]
    assert source_models(Evaluate(msplr.Adapt(source(), Domain("duke"), KMeans(2)), on=Domain("duke"))) == [
        OnSource(source(), "last")
    ]
    encoder = rae.Source(Domain("market"))
    both = rae.Adapt(encoder, encoder.domain, Domain("duke"), DBSCAN(Rho()))
    assert source_models(Evaluate(both, on=Domain("duke"))) == [OnSource(encoder, "warm-up")], "it keeps the labels"
    assert source_models(Evaluate(Untrained(), on=domain)) == source_models(Untrained()) == []
    (stage,) = source_models(Evaluate(Learned(domain=domain, input=(64, 32)), on=domain))
    for needed in closure([stage, Evaluate(stage.train, on=domain)]):
        build(needed, Site(tmp_path), lambda _: None)
    plain = Store(tmp_path).load(Evaluate(stage.train, on=domain))
    assert Store(tmp_path).load(stage).mAP == plain.mAP, "a network without batch statistics"
