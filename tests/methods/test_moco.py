from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import history, momentum_contrast, run
from torch.nn import functional as F

from methods import moco, supervised
from methods.blocks.moco import encoder
from methods.blocks.momentum import follow
from methods.blocks.schedules import cosine
from reproduce.commands.cli import main
from reproduce.data.domains import Domain
from reproduce.data.images import Images
from reproduce.data.reading import read
from reproduce.data.sampling import generator, shuffled_batches
from reproduce.data.transforms import augment
from reproduce.session.setting import SCRATCH, Setting

GOLDEN = [0.5322340298446671, 1.55434912844292]
"""Losses of two epochs of four iterations in float64."""


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = momentum_contrast(epochs=2, precision="float64")
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


def test_training_equals_the_published_pseudocode(setting: Setting, tiny_domain: Path, tmp_path: Path) -> None:
    """Algorithm 1 of the paper, with one device's batch after the other and keys of shuffled images."""
    stage = momentum_contrast(epochs=2, precision="float64")
    trained = run(stage, setting, tmp_path).checkpoints["last"]
    data = read(tiny_domain, "market")
    images = Images(data.root, data.train, stage.input)
    batches = shuffled_batches(len(images), 8, seed=1, epoch=0, iterations=8)
    net = encoder(stage).train()
    mean, queue = deepcopy(net), torch.zeros(0, 16, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-4)
    for step, pixels in enumerate(images.batches(batches)):
        optimizer.param_groups[0]["lr"] = 0.3 * cosine(step // 4 / 2, end=0)
        first, second = (
            augment(pixels, stage.augment, generator(1, "augment", step, view)).double() for view in (0, 1)
        )
        queries = net(first)
        follow(mean, net, 0.9)
        order = torch.randperm(8, generator=generator(1, "shuffled", step))
        with torch.no_grad():
            mixed = mean(second[order])
        keys = torch.empty_like(mixed)
        keys[order] = mixed
        logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], 1) / 0.1
        loss = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue = torch.cat([queue, keys])[-20:]
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=1e-9, atol=1e-12)


def test_another_training_continues_the_backbone(setting: Setting, tmp_path: Path) -> None:
    stage = momentum_contrast()
    after = supervised.Train(
        Domain("market"), backbone="narrow", weights=stage, input=(32, 16), P=6, epochs=1, lr=0.0, centre_lr=0.0
    )
    before, last = (run(each, setting, tmp_path).checkpoints["last"] for each in (stage, after))
    name = "backbone.layer4.0.conv1.weight"
    assert torch.equal(before[name], last[name])
    assert not any(name.startswith("head") for name in last)


def test_embeddings_are_features_of_the_statistics_of_luperson(setting: Setting, tmp_path: Path) -> None:
    stage = momentum_contrast()
    net = stage.embedder(run(stage, setting, tmp_path), "last")
    assert net(torch.zeros(2, 3, 32, 16)).shape == (2, 128)
    assert stage.pixels == stage.augment.pixels != moco.Augment().pixels


def test_loss_falls_below_that_of_guessing(setting: Setting, tmp_path: Path) -> None:
    stage = momentum_contrast(epochs=20, K=16, lr=0.1, augment=moco.Augment(pad=2, flip=0.0))
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses[-1] < 0.9 * math.log(1 + 16)


def test_published_recipe_and_that_of_small() -> None:
    stage = moco.Pretrain(Domain("luperson"))
    assert (stage.batch, stage.K, stage.lr, stage.epochs, stage.bn_group * 8) == (2560, 65_536, 0.3, 200, 2560)
    small: Any = Setting("small", weights=SCRATCH).resolve(moco.Pretrain(Domain("luperson"), batch=800))
    assert (small.backbone, small.input, small.width, small.lr) == ("narrow", (64, 32), 32, 0.3)
    assert (small.epochs, small.batch, small.K) == (67, 800, 800)
    assert small.m == pytest.approx(1 - 0.001 * 200 / 67 * 200_000 / 2400)
    assert small.domain.size.train_ids == 2400


@pytest.mark.parametrize(("epoch", "later"), [(2, 0.0), (3, 0.01)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    killed_equals_uncut(setting.resolve(momentum_contrast(epochs=4, K=13)), setting.paths(), epoch, later)


def test_pack_trains_like_its_folder(
    tiny_domain: Path, tmp_path: Path, killed_equals_uncut: Callable[..., None]
) -> None:
    """The same key and bits, and no image is repeated or skipped after a kill."""
    folder, packed = tiny_domain / "bounding_box_train", tmp_path / "pack"
    assert main(["data", "pack", str(folder), str(packed), "--shard-size", "1"]) == 0
    settings = [Setting("paper", {"luperson": place}, weights=SCRATCH) for place in (folder, packed)]
    stage = momentum_contrast(domain=Domain("luperson"), epochs=3, block=2)
    one, other = (setting.resolve(stage) for setting in settings)
    assert one.key == other.key
    first, second = (
        run(stage, setting, tmp_path / f"store-{number}").checkpoints["last"] for number, setting in enumerate(settings)
    )
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    killed_equals_uncut(other, settings[1].paths(), 2, 0.02)
