from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import dropping, history, run
from torch import nn

from methods import bdb
from methods.blocks.backbones import build
from methods.blocks.bdb import BDB, Branches, drop_rows
from reproduce.data.domains import Domain
from reproduce.data.sampling import generator
from reproduce.data.transforms import Augment, augment
from reproduce.evaluation import Evaluate
from reproduce.session.setting import SCRATCH, Setting

GOLDEN = [7.690509893835734, 7.527346211657141]
"""Losses of two epochs of one iteration in float64."""

PUBLISHED = 31_151_720
"""Parameters of the published network with 20 classes."""


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = dropping(epochs=2, precision="float64")
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


@given(
    groups=st.integers(1, 3), images=st.integers(1, 2), h=st.integers(1, 9), height=st.floats(0, 1), seed=st.integers(0)
)
def test_each_group_loses_one_stripe(groups: int, images: int, h: int, height: float, seed: int) -> None:
    places = torch.rand(groups, generator=torch.Generator().manual_seed(seed % 2**32)).tolist()
    maps = torch.rand(groups * images, 3, h, 2) + 1
    kept = drop_rows(maps, places, height)
    rows = round(height * h)
    for at in range(len(maps)):
        start = int(places[at // images] * (h - rows + 1))
        assert 0 <= start <= h - rows
        inside = [start <= row < start + rows for row in range(h)]
        for row in range(h):
            expected = torch.zeros(3, 2) if inside[row] else maps[at, :, row]
            assert torch.equal(kept[at, :, row], expected)


def test_a_third_of_24_rows_is_8_and_all_starts_are_drawn() -> None:
    maps = torch.ones(1, 1, 24, 1)
    starts = set()
    for step in range(400):
        (place,) = dropping(bn_group=None).places(12, 0, step)
        gone = (drop_rows(maps, [place], 0.33)[0, 0, :, 0] == 0).nonzero().flatten().tolist()
        assert gone == list(range(gone[0], gone[0] + 8))
        starts.add(gone[0])
    assert starts == set(range(17))


def test_one_stripe_per_group_of_the_batch() -> None:
    assert [len(bdb.Train(None, bn_group=group).places(128, 0, 0)) for group in (32, None, 128, 500)] == [4, 1, 1, 1]
    assert len(set(bdb.Train(None).places(128, 0, 0))) == 4


def test_branches_equal_their_layers() -> None:
    net = BDB(build("narrow", seed=1, last_stride=1), 5, (16, 24), seed=1).double().train()
    images = torch.randn(4, 3, 48, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = net(images, [0.5], 0.33)
    assert isinstance(outputs, Branches)
    fresh = BDB(build("narrow", seed=1, last_stride=1), 5, (16, 24), seed=1).double().train()
    maps = fresh.backbone(images)
    dropped = fresh.bottleneck(maps).clone()
    dropped[:, :, 4:8] = 0
    pooled = maps.mean((2, 3)), dropped.flatten(2).max(2).values
    for number in (0, 1):
        feature = fresh.reductions[number](pooled[number])
        torch.testing.assert_close(outputs.features[number], feature)
        torch.testing.assert_close(outputs.logits[number], fresh.classifiers[number](feature))
    whole = net.eval()(images)
    assert isinstance(whole, torch.Tensor)
    assert whole.shape == (4, 40)
    parts = fresh.eval().reductions
    fresh.load_state_dict(net.state_dict())
    maps = fresh.backbone(images)
    expected = [parts[0](maps.mean((2, 3))), parts[1](fresh.bottleneck(maps).amax((2, 3)))]
    torch.testing.assert_close(whole, torch.cat(expected, 1))


def test_parameters_and_initial_weights_of_the_published_network() -> None:
    net = bdb.Train(None, weights=None).network(20)
    assert sum(part.numel() for part in net.parameters()) == PUBLISHED
    net = bdb.Train(None, weights=None, backbone="narrow", widths=(512, 1024)).network(751)
    for layer, variance in (
        (net.reductions[0][0], 2 / 128),  # type: ignore[index]
        (net.reductions[1][0], 2 / 1024),  # type: ignore[index]
        (net.classifiers[0], 2 / 751),
        (net.classifiers[1], 2 / 751),
    ):
        assert isinstance(layer, nn.Linear)
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.02)
        assert not layer.bias.any()


def test_cutout_is_a_square_of_a_twelfth() -> None:
    images = torch.full((200, 3, 384, 128), 255, dtype=torch.uint8)
    shown = augment(images, Augment(flip=0.0, pad=0, erase=bdb.CUTOUT), generator(1, "cutout"))
    gone = (shown[:, 0] == 0).sum((1, 2))
    assert set(gone.tolist()) == {0, 64 * 64}
    assert 70 < (gone > 0).sum() < 130


def test_the_last_is_tested_by_euclidean_distances(setting: Setting, tmp_path: Path) -> None:
    stage = dropping(epochs=3, lr=0.01)
    training, entries = run(stage, setting, tmp_path), history(stage, setting, tmp_path)
    assert set(training.checkpoints) == {"last", "best on source"}
    scored = {
        (at, metric): run(Evaluate(stage, Domain("market"), at=at, metric=metric), setting, tmp_path)
        for at, metric in (("last", "euclidean"), ("best on source", "euclidean"), ("last", "cosine"))
    }
    assert scored["last", "euclidean"].mAP == pytest.approx(entries[-1]["mAP"])
    assert scored["best on source", "euclidean"].rank1 == pytest.approx(max(entry["rank1"] for entry in entries))
    separations = [scored["last", metric].by_query["separation"] for metric in ("euclidean", "cosine")]
    assert (separations[0] != separations[1]).any()


def test_fewer_identities_fill_whole_groups(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six identities of four images fill three groups of eight; without groups, six of three are a batch."""
    sizes = []
    places = bdb.Train.places

    def listening(self: bdb.Train, images: int, epoch: int, step: int) -> list[float]:
        sizes.append(images)
        return places(self, images, epoch, step)

    monkeypatch.setattr(bdb.Train, "places", listening)
    run(dropping(P=8, K=4, bn_group=8), setting, tmp_path)
    run(dropping(P=8, K=3, bn_group=None), setting, tmp_path)
    assert sizes == [24, 18]


def test_another_training_continues_the_backbone(setting: Setting, tmp_path: Path) -> None:
    stage = dropping()
    after = dropping(weights=stage, lr=0.0)
    before, last = (run(each, setting, tmp_path).checkpoints["last"] for each in (stage, after))
    name = "backbone.layer4.0.conv1.weight"
    assert torch.equal(before[name], last[name])
    assert not torch.equal(before["bottleneck.conv1.weight"], last["bottleneck.conv1.weight"])


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    stage = dropping(epochs=15, P=6, K=4, lr=3e-3, eval_every=15, bn_group=None, augment=Augment(flip=0.0, pad=0))
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses[-1] < 0.6 * losses[0]


def test_schedule_at_small() -> None:
    small: Any = Setting("small", weights=SCRATCH).resolve(bdb.Train(Domain("market")))
    assert (small.epochs, small.warmup, small.milestones) == (133, 17, (67, 100))
    assert (small.input, small.widths, small.augment.erase) == ((96, 32), (32, 64), bdb.CUTOUT)


@pytest.mark.parametrize(("epoch", "later"), [(2, 0.0), (3, 0.01)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    killed_equals_uncut(setting.resolve(dropping(epochs=4)), setting.paths(), epoch, later)
