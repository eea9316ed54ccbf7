from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import granular, history, run, source
from torch import nn
from torch.nn.functional import normalize

from methods import mgn
from methods.blocks.backbones import build
from methods.blocks.losses import batch_hard_triplet, circle_logits, smoothed_cross_entropy
from methods.blocks.mgn import METRIC, MGN, Granules, Head
from reproduce.data.domains import Domain
from reproduce.data.sampling import identity_batches
from reproduce.evaluation import Evaluate
from reproduce.session.setting import SCRATCH, Setting

GOLDEN = [53.41243001901419, 50.871462103892156]
"""Losses of two epochs of three iterations in float64."""

PUBLISHED = 68_848_712
"""Parameters of fast-reid's network with 20 classes."""


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = granular(epochs=2, precision="float64")
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 48, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def made() -> MGN:
    return MGN(build("narrow", seed=1, last_stride=1), 5, 16, seed=1).double()


def test_parameters_of_the_published_network() -> None:
    net = mgn.Train(None, weights=None).network(20)
    assert sum(part.numel() for part in net.parameters()) == PUBLISHED
    assert len(net.branches[0]) == 8, "five blocks of layer 3 and three of layer 4"  # type: ignore[arg-type]


def test_narrow_branches_are_copies_of_layer_4() -> None:
    net = made()
    own = net.backbone.layer4.state_dict()
    for branch in net.branches:
        copied = branch.state_dict()
        assert copied.keys() == own.keys()
        assert all(torch.equal(copied[name], own[name]) for name in own)
        assert not {id(part) for part in branch.parameters()} & {id(part) for part in net.backbone.parameters()}


def test_features_equal_their_layers() -> None:
    net, fresh = made().train(), made().train()
    outputs = net(images())
    assert isinstance(outputs, Granules)
    whole = [fresh.backbone(images())]
    trunk = nn.Sequential(*list(fresh.backbone.children())[:6], fresh.backbone.layer3)
    whole += [branch(trunk(images())) for branch in fresh.branches]
    assert [tuple(maps.shape) for maps in whole] == [(4, 128, 12, 4)] * 3
    granules = [*whole, whole[1][:, :, :6], whole[1][:, :, 6:], *(whole[2][:, :, at : at + 4] for at in (0, 4, 8))]
    for number, maps in enumerate(granules):
        head = fresh.heads[number]
        assert isinstance(head, Head)
        pooled = (maps.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3)
        feature = head.neck(pooled @ head.reduction.weight.T)
        torch.testing.assert_close(outputs.features[number], feature)
        torch.testing.assert_close(outputs.cosines[number], normalize(feature) @ normalize(head.classes).T)
    assert len(outputs.features) == 8
    whole_image = net.eval()(images())
    assert isinstance(whole_image, torch.Tensor)
    assert whole_image.shape == (4, 8 * 16)
    torch.testing.assert_close(net.maps(images()), net.backbone(images()))


def test_loss_is_the_mean_of_eight_and_of_five(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = MGN.forward, []

    def listening(self: MGN, shown: torch.Tensor) -> Any:
        outputs = forward(self, shown)
        if self.training:
            seen.append(outputs)
        return outputs

    monkeypatch.setattr(MGN, "forward", listening)
    stage = granular(precision="float64", P=6, K=6)
    run(stage, setting, tmp_path)
    (outputs,) = seen
    total = history(stage, setting, tmp_path)[0]["loss"]
    pids = [pid for pid in range(6) for _ in range(6)]
    (batch,) = identity_batches(pids, 6, 6, seed=1, epoch=0, iterations=1)
    target = torch.tensor(pids)[batch]
    known = sum(smoothed_cross_entropy(circle_logits(c, target), target, 0.1, "rest") for c in outputs.cosines) / 8
    first, second, third, *stripes = outputs.features
    joined = [first, second, third, torch.cat(stripes[:2], 1), torch.cat(stripes[2:], 1)]
    metric = sum(batch_hard_triplet(features, target, "soft") for features in joined) / 5
    assert len(METRIC) == 5
    assert total == pytest.approx((known + metric).item(), rel=1e-9)


def test_rate_by_iteration_and_epoch() -> None:
    """With 202 iterations per epoch: up until 2,000, flat for 31 epochs, then half a cosine over 30."""
    stage = mgn.Train(None)
    assert stage.rate(0, 0, 202) == pytest.approx(0.1)
    assert stage.rate(4, 192, 202) == pytest.approx(0.1 + 0.9 * 1000 / 2000)
    assert [stage.rate(epoch, 0, 202) for epoch in (10, 20, 30)] == [1.0] * 3
    for epoch in range(31, 60):
        expected = 0.002 + 0.998 * (1 + cos(pi * (epoch - 30) / 30)) / 2
        assert stage.rate(epoch, 7, 202) == pytest.approx(expected)
    short: Any = Setting("small", weights=SCRATCH).resolve(mgn.Train(Domain("market")))
    assert (short.epochs, short.delay, short.warmup, short.frozen, short.width) == (20, 10, 48, 24, 32)
    assert [short.rate(epoch, 0, 14) for epoch in (4, 10)] == [1.0] * 2
    assert short.rate(11, 0, 14) < 1


def test_heads_train_alone_at_first(setting: Setting, tmp_path: Path) -> None:
    """Three iterations per epoch, two of them frozen: then statistics and weights of the body move."""
    frozen, free = (granular(frozen=count, lr=0.01) for count in (99, 2))
    initial = frozen.network(6).state_dict()
    weights = {stage.frozen: run(stage, setting, tmp_path).checkpoints["last"] for stage in (frozen, free)}
    body = [name for name in initial if name.startswith(("backbone.", "branches."))]
    assert all(torch.equal(weights[99][name], initial[name]) for name in body)
    counted = [name for name in body if name.endswith("num_batches_tracked")]
    assert {int(weights[2][name]) for name in counted} == {1}
    assert all(not torch.equal(weights[2][name], initial[name]) for name in body if name.endswith("conv1.weight"))
    heads = [name for name in initial if name.startswith("heads.") and name.endswith(("weight", "classes", ".p"))]
    assert all(not torch.equal(weights[99][name], initial[name]) for name in heads)
    assert all(not weights[99][name].any() for name in initial if name.endswith("neck.bias"))


def test_another_training_continues_the_backbone(setting: Setting, tmp_path: Path) -> None:
    stage = granular()
    after = source(weights=stage, backbone="narrow", epochs=1, lr=0.0)
    last = run(after, setting, tmp_path).checkpoints["last"]
    before = run(stage, setting, tmp_path).checkpoints["last"]
    assert torch.equal(last["backbone.layer4.0.conv1.weight"], before["backbone.layer4.0.conv1.weight"])
    restart = granular(weights=stage, lr=0.0, frozen=99)
    again = run(restart, setting, tmp_path).checkpoints["last"]
    assert torch.equal(again["branches.0.0.conv1.weight"], before["backbone.layer4.0.conv1.weight"])


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    plain = replace(granular().augment, flip=0.0, pad=0)
    stage = granular(epochs=12, delay=12, P=6, lr=3e-3, eval_every=12, augment=plain)
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses[-1] < 0.7 * losses[0]
    assert run(Evaluate(stage, Domain("market")), setting, tmp_path).mAP > 0


@pytest.mark.parametrize(("epoch", "later"), [(2, 0.0), (3, 0.01)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    """The body is unfrozen in the second epoch."""
    killed_equals_uncut(setting.resolve(granular(epochs=4, frozen=4, warmup=5)), setting.paths(), epoch, later)
