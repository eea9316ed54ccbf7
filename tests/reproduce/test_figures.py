from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import numpy as np
import PIL.Image
import pytest
import torch
from demo_stages import Number, Untrained
from msgspec import structs
from runs import run
from sklearn.metrics import silhouette_samples

from reproduce.data.domains import Domain, Real
from reproduce.data.images import Images
from reproduce.data.reading import read
from reproduce.data.standins import StandIn
from reproduce.data.transforms import IMAGENET, normalise
from reproduce.data.world import Size
from reproduce.dataset import Dataset, Image
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate, Rerank, embed
from reproduce.figures import ActivationMaps, AttentionMaps, Decoded, Figure, Network, Projection, RankLists, of_rows
from reproduce.papers import records
from reproduce.session.setting import Setting
from reproduce.stage import Stage

ROWS = (Network(Untrained(1), "last"), Network(Untrained(2), "last"))


@pytest.fixture
def place(tiny_domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Add two junk images and one distractor to the gallery of the tiny domain."""
    root = tmp_path_factory.mktemp("domain") / "place"
    shutil.copytree(tiny_domain, root)
    gallery = root / "bounding_box_test"
    for name in ("-1_c1s1_000009_01", "-1_c2s1_000009_01", "0000_c2s1_000009_01"):
        (gallery / f"{name}.png").write_bytes((root / "query" / "0011_c1s1_000000_00.png").read_bytes())
    return root


@pytest.fixture
def setting(place: Path) -> Setting:
    return Setting("paper", {"market": place}, weights="scratch")


def figure(kind: type[Figure], **changes: Any) -> Figure:
    return replace(kind(ROWS, Domain("market")), **changes)


def rows_of(train: Untrained, data: Dataset, images: list[Image]) -> np.ndarray[Any, Any]:
    """Embed images in float64."""
    net = train.embedder(None, "last")  # type: ignore[arg-type]
    return embed(net, Images(data.root, images, train.input)).double().numpy()


def test_rank_lists_equal_a_slow_sort(setting: Setting, place: Path, tmp_path: Path) -> None:
    drawing = run(figure(RankLists, queries=4, ranks=6), setting, tmp_path)
    data, images = read(place, "market"), drawing.facts["images"]
    by_name = {image.path.rpartition("/")[2]: image for image in (*data.query, *data.gallery)}
    assert Counter(map(json.dumps, images)).most_common(1)[0][1] == 1, "each image is named once"
    queries = [by_name[images[place]["name"]] for place in drawing.facts["queries"]]
    assert [query in data.query for query in queries] == [True] * 4
    for train, row in zip((Untrained(1), Untrained(2)), drawing.facts["rows"], strict=True):
        own, others = rows_of(train, data, queries), rows_of(train, data, list(data.gallery))
        for query, vector, shown in zip(queries, own, row["lists"], strict=True):
            counted = [
                (float(1 - vector @ other), place)
                for place, (image, other) in enumerate(zip(data.gallery, others, strict=True))
                if image.pid != -1 and (image.pid, image.camid) != (query.pid, query.camid)
            ]
            first = sorted(counted)[:6]
            assert [images[entry["image"]]["name"] for entry in shown["entries"]] == [
                data.gallery[place].path.rpartition("/")[2] for _, place in first
            ]
            assert [entry["distance"] for entry in shown["entries"]] == pytest.approx(
                [far for far, _ in first], abs=1e-4
            )
            right = [data.gallery[place].pid == query.pid for _, place in sorted(counted)]
            assert [entry["right"] for entry in shown["entries"]] == right[:6]
            precisions = [sum(right[: at + 1]) / (at + 1) for at, it in enumerate(right) if it]
            assert shown["AP"] == pytest.approx(100 * float(np.mean(precisions)))
    assert drawing.pictures is None


def test_figure_ranks_like_the_evaluation_of_its_row(setting: Setting, tmp_path: Path) -> None:
    """mAP and lists follow mirror images and re-ranking."""
    row = Evaluate(Untrained(1), Domain("market"), flip=True, rerank=Rerank(k1=4, k2=2))
    plain = Evaluate(Untrained(1), Domain("market"))
    drawing = run(of_rows(RankLists, [row, plain], seed=1), setting, tmp_path)
    assert [shown["mAP"] for shown in drawing.facts["rows"]] == [
        pytest.approx(run(stage, setting, tmp_path).mAP) for stage in (row, plain)
    ]
    distances = [[entry["distance"] for entry in shown["lists"][0]["entries"]] for shown in drawing.facts["rows"]]
    assert distances[0] != distances[1]
    assert distances[0] == sorted(distances[0])


@pytest.mark.parametrize("kind", [RankLists, ActivationMaps, Projection])
def test_images_depend_only_on_the_seed(kind: type[Figure], setting: Setting, tmp_path: Path) -> None:
    few = {RankLists: {"queries": 3}, ActivationMaps: {"number": 3}, Projection: {"identities": 3}}[kind]

    def shown(rows: tuple[Network, ...], seed: int) -> Any:
        facts = run(figure(kind, rows=rows, seed=seed, **few), setting, tmp_path).facts
        named = facts.get("queries", facts.get("shown"))
        return facts["rows"][-1]["silhouette"] if named is None else [facts["images"][place]["name"] for place in named]

    first = [shown(ROWS, seed) for seed in range(1, 5)]
    assert first == [shown(ROWS[1:], seed) for seed in range(1, 5)]
    assert len(set(map(str, first))) > 1


def test_pictures_match_the_facts(setting: Setting, place: Path, tmp_path: Path) -> None:
    stage = figure(RankLists, pictures=True)
    assert setting.resolve(stage).key != setting.resolve(replace(stage, pictures=False)).key
    drawing = run(stage, setting, tmp_path)
    names = [image["name"] for image in drawing.facts["images"]]
    paths = {path.name: path for path in place.rglob("*.png")}
    assert drawing.pictures.shape == (len(names), 32, 16, 3)
    for name, pixels in zip(names, drawing.pictures, strict=True):
        assert np.array_equal(pixels, np.asarray(PIL.Image.open(paths[name])))


def test_large_pictures_are_shrunk(setting: Setting, tmp_path: Path) -> None:
    wide = (Network(Untrained(1, input=(256, 128)), "last"),)
    assert run(figure(ActivationMaps, rows=wide, pictures=True), setting, tmp_path).pictures.shape[1:] == (128, 64, 3)


def test_activation_maps_are_sums_of_squares(setting: Setting, place: Path, tmp_path: Path) -> None:
    drawing = run(figure(ActivationMaps, number=3), setting, tmp_path)
    data = read(place, "market")
    names = [drawing.facts["images"][place]["name"] for place in drawing.facts["shown"]]
    images = [image for image in data.query if image.path.rpartition("/")[2] in names]
    [pixels] = Images(data.root, images, (32, 16)).batches([range(3)])
    for image, shown in zip(normalise(pixels), drawing.facts["rows"][0]["maps"], strict=True):
        blocks = [[image[:2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].double() for x in range(2)] for y in range(4)]
        energy = [[float((block.mean((1, 2)) ** 2).sum()) for block in line] for line in blocks]
        largest = max(map(max, energy))
        assert np.abs(np.array(shown) - 255 * np.array(energy) / largest).max() <= 0.51
        assert max(map(max, shown)) == 255


@pytest.mark.parametrize(("kind", "needs"), [(ActivationMaps, "maps"), (AttentionMaps, "passing")])
def test_network_without_maps_raises(kind: type[Figure], needs: str, setting: Setting, tmp_path: Path) -> None:
    blind = (Network(Untrained(1, looks=False), "last"),)
    with pytest.raises(UserError, match=rf"demo_stages\.Untrained has no `{needs}`, which {kind.KIND} need"):
        run(figure(kind, rows=blind), setting, tmp_path)


def test_projection_has_all_images_of_its_people(setting: Setting, place: Path, tmp_path: Path) -> None:
    facts = run(figure(Projection, identities=3), setting, tmp_path).facts
    again = run(figure(Projection, identities=3), setting, tmp_path / "again").facts
    assert facts == again
    assert Counter(facts["people"]) == dict.fromkeys(range(3), 8)
    data = read(place, "market")
    for train, row in zip((Untrained(1), Untrained(2)), facts["rows"], strict=True):
        assert len(row["x"]) == len(row["y"]) == 24
        assert len(set(zip(row["x"], row["y"], strict=True))) >= 18, "six queries are in the gallery too"
        expected = set()
        for left_out in sorted({image.pid for image in data.query}):
            images = [image for image in (*data.query, *data.gallery) if image.pid not in (left_out, -1, 0)]
            pids = [image.pid for image in images]
            expected.add(
                round(float(np.mean(silhouette_samples(rows_of(train, data, images), pids, metric="cosine"))), 5)
            )
        assert round(row["silhouette"], 5) in expected


class Negative(torch.nn.Module):
    """Restyles images as their negatives, a little darker than black."""

    def restyled(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
        return 1 - 2 * (images * std + mean) - 0.01


def test_decoded_images_are_those_of_the_decoder(
    setting: Setting, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training images of the labelled domain come first; what a network makes of each follows the images."""
    resolved: Any = setting.resolve(figure(Decoded))
    monkeypatch.setattr(Untrained, "labelled", resolved.on, raising=False)
    monkeypatch.setattr(Untrained, "at_moment", lambda *_: Negative())
    drawing = run(figure(Decoded, number=2, pictures=True), setting, tmp_path)
    facts, data = drawing.facts, read(place, "market")
    names = [facts["images"][place]["name"] for place in facts["shown"]]
    assert facts["labelled"] == [True, True, False, False]
    for name, split in zip(names, [data.train] * 2 + [data.query] * 2, strict=True):
        assert name in {image.path.rpartition("/")[2] for image in split}
    assert [row["made"] for row in facts["rows"]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert drawing.pictures.shape == (12, 32, 16, 3)
    for row in facts["rows"]:
        for at, (number, differs) in enumerate(zip(row["made"], row["differs"], strict=True)):
            image, shown = drawing.pictures[facts["shown"][at]].astype(float), drawing.pictures[4 + number]
            expected = 255 - image - 1.275
            assert np.abs(shown - expected.clip(0)).max() <= 1
            assert differs == pytest.approx(np.abs(expected - image).mean() / 255, abs=1e-3)


def test_decoded_images_of_people_are_kept_only_if_asked_for() -> None:
    """Test images may be drawn where the labelled ones are photographs."""
    drawn = StandIn("market", Size(2, 2, 0, 32, 16))
    shown = {
        name: Decoded((Network(Untrained(domains=(of,)), "last"),), drawn).shows_nobody
        for name, of in {"photographs": Real("duke", "00"), "drawn": StandIn("duke", Size(2, 2, 0, 32, 16))}.items()
    }
    assert shown == {"photographs": False, "drawn": True}


def test_networks_without_decoder_or_labels_raise(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="trained with the labels of one domain"):
        run(figure(Decoded), setting, tmp_path)
    resolved: Any = setting.resolve(figure(Decoded))
    monkeypatch.setattr(Untrained, "labelled", resolved.on, raising=False)
    with pytest.raises(UserError, match=r"demo_stages\.Untrained has no decoder"):
        run(figure(Decoded), setting, tmp_path)


def test_similarities_are_of_cosine_distances_alone(setting: Setting, tmp_path: Path) -> None:
    plain, similar = (run(figure(RankLists, similarities=on), setting, tmp_path).facts for on in (False, True))
    assert plain | {"similarities": True} == similar
    rows = (Network(Untrained(1), "last", rerank=Rerank(k1=4, k2=2)),)
    with pytest.raises(UserError, match="similarities are those of cosine distances"):
        run(figure(RankLists, rows=rows, similarities=True), setting, tmp_path)


def test_too_few_people_for_a_projection_raise(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="market has too few test images or identities for a projection"):
        run(figure(Projection, identities=1), setting, tmp_path)


def test_missing_moment_raises(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kept no network of 'step 3'; it kept last"):
        run(figure(RankLists, rows=(Network(Untrained(1), "step 3"),)), setting, tmp_path)


@pytest.mark.parametrize(
    "rows",
    [
        [Evaluate(Untrained(1), Domain("market")), Evaluate(Untrained(1), Domain("duke"))],
        [Evaluate(Untrained(1), Domain("market")), Number(1.0)],
        [],
    ],
    ids=["two domains", "no evaluation", "no rows"],
)
def test_invalid_rows_raise(rows: list[Stage[Any]]) -> None:
    with pytest.raises(UserError, match="a figure needs rows that are evaluated on one domain"):
        of_rows(RankLists, rows, seed=1)


RECORD = records.FigureRecord(
    figure=records.Shown(paper="p", id="6", task="m2d", where="", shows="", rows=["A"]),
    identity=made.identity(),
    seed=1,
    verdict="drawn",
    drawing={"kind": "rank lists", "images": [], "queries": [], "rows": []},
)


def test_figure_survives_a_round_trip_with_its_strip(tmp_path: Path) -> None:
    pictures = torch.randint(0, 256, (3, 4, 2, 3), dtype=torch.uint8).numpy()
    path = records.write_figure(RECORD, pictures, tmp_path / "figures")
    assert path.name.startswith("p-figure6-m2d-small-seed1-")
    [figure] = records.read_figures(tmp_path)
    strip = figure.pictures
    assert strip
    assert structs.replace(figure, pictures=None) == RECORD
    assert (strip.count, strip.height, strip.width) == (3, 4, 2)
    pixels = np.asarray(PIL.Image.open(strip.path))
    for place in range(3):
        assert np.array_equal(pixels[:, 2 * place : 2 * place + 2], pictures[place])
    assert "path" not in json.loads(path.read_text())["pictures"], "it may lie elsewhere later"
    assert records.read(tmp_path) == records.read_claims(tmp_path) == []
    assert sorted(one.suffix for one in path.parent.iterdir()) == [".json", ".png"]
    assert records.write_figure(RECORD, None, path.parent) == path
    assert [one.suffix for one in path.parent.iterdir()] == [".json"], "pictures that are not wanted any more go"
    records.write_figure(RECORD, pictures, path.parent)
    Path(strip.path).unlink()
    assert records.read_figures(tmp_path)[0].pictures is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"drawing": 3}, "is not a result that this version can show: Expected"),
        ({"figure": {"paper": "p"}}, r"missing required field `\w+` - at `\$\.figure`"),
        ({"pictures": "x"}, r"at `\$\.pictures`"),
        ({"pictures": {"file": "../x.png", "count": 1, "height": 1, "width": 1}}, "names pictures in another folder"),
    ],
    ids=str,
)
def test_invalid_figure_raises_with_its_file(damage: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = records.write_figure(RECORD, None, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(UserError, match=rf"{path.name} .*{message}"):
        records.read_figures(tmp_path)
