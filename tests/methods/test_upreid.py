from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import history, intra_identity, momentum_contrast, run
from torch.nn import functional as F

from methods import upreid
from methods.blocks.moco import encoder
from methods.blocks.momentum import follow
from methods.blocks.norm import larger_groups
from methods.blocks.schedules import cosine
from reproduce.data.domains import Domain
from reproduce.data.images import Images
from reproduce.data.reading import read
from reproduce.data.sampling import generator, shuffled_batches
from reproduce.data.transforms import augment, normalise
from reproduce.session.setting import SCRATCH, Setting

GOLDEN = {
    "loss": [3.8784032280705585, 3.4695307693234403],
    "global": [0.45017206445890146, 2.4777755030404243],
    "patches": [0.29386669821826056, 1.8811120871667801],
    "consistency": [3.459492236859785, 1.1110879494577446],
}
"""Losses of two epochs of four iterations in float64."""


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = intra_identity(epochs=2, precision="float64")
    run(stage, setting, tmp_path)
    entries = history(stage, setting, tmp_path)
    losses = {name: [entry[name] for entry in entries] for name in GOLDEN}
    expected = {name: pytest.approx(values, rel=1e-6) for name, values in GOLDEN.items()}
    assert losses == expected, "numbers changed: raise version or undo"


def test_the_loss_is_the_weighted_sum_of_its_parts(setting: Setting, tmp_path: Path) -> None:
    stage = intra_identity(precision="float64", lambda_g=0.3, lambda_p=0.6)
    run(stage, setting, tmp_path)
    (entry,) = history(stage, setting, tmp_path)
    assert entry["loss"] == pytest.approx(0.3 * entry["global"] + 0.6 * entry["patches"] + entry["consistency"])
    assert min(entry["global"], entry["patches"], entry["consistency"]) > 0


def test_without_patches_and_consistency_it_is_moco(setting: Setting, tmp_path: Path) -> None:
    ours = intra_identity(epochs=2, precision="float64", lambda_g=1.0, lambda_p=0.0, consistent=False)
    theirs = momentum_contrast(epochs=2, precision="float64", lr=ours.lr)
    first, second = (run(stage, setting, tmp_path).checkpoints["last"] for stage in (ours, theirs))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [[entry["loss"] for entry in history(stage, setting, tmp_path)] for stage in (ours, theirs)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("mirrored", [True, False])
def test_training_equals_the_equations(mirrored: bool, setting: Setting, tiny_domain: Path, tmp_path: Path) -> None:
    """Equations 1 to 10 image by image, with the mean squared difference as the distance of similarities."""
    stage = intra_identity(epochs=1, precision="float64", mirrored=mirrored, distance="entries")
    trained = run(stage, setting, tmp_path).checkpoints["last"]
    data = read(tiny_domain, "market")
    images = Images(data.root, data.train, stage.input)
    batches = shuffled_batches(len(images), 8, seed=1, epoch=0, iterations=4)
    net = encoder(stage).train()
    mean, queues = deepcopy(net), [torch.zeros(0, 16, dtype=torch.float64) for _ in range(5)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1 * cosine(0, end=0), momentum=0.9, weight_decay=1e-4)

    def patches(encoder: Any, given: torch.Tensor) -> torch.Tensor:
        parts = [given[:, :, top : top + 16, left : left + 8] for top in (0, 16) for left in (0, 8)]
        with larger_groups(encoder, 4):
            encoded: torch.Tensor = encoder(torch.stack(parts, 1).flatten(0, 1))
        return encoded.view(8, 4, 16)

    for step, pixels in enumerate(images.batches(batches)):
        first, second = (
            augment(pixels, stage.augment, generator(1, "augment", step, view)).double() for view in (0, 1)
        )
        plain = normalise(pixels, stage.pixels).double()
        order = torch.randperm(8, generator=generator(1, "shuffled", step))
        q, p = net(first), patches(net, first)
        follow(mean, net, 0.9)
        with torch.no_grad():
            k, r = mean(second[order]), mean(plain[order])
            kp = patches(mean, second[order])
            back = order.argsort()
            k, r, kp, rq = k[back], r[back], kp[back], net(plain)

        def ratio(query: torch.Tensor, near: list[torch.Tensor], far: torch.Tensor) -> torch.Tensor:
            own = torch.stack([(query @ key / 0.1).exp() for key in near]).sum()
            return -(own / (own + (far @ query / 0.1).exp().sum())).log()

        whole = torch.stack([ratio(q[image], [k[image]], queues[0]) for image in range(8)]).mean()
        local = torch.stack(
            [
                ratio(p[image, at], [kp[image, at], *([kp[image, at ^ 1]] if mirrored else [])], queues[1 + at])
                for image in range(8)
                for at in range(4)
            ]
        ).mean()
        halves = [slice(0, 4), slice(4, 8)]
        consist = torch.stack([F.mse_loss(q[half] @ k[half].T, rq[half] @ r[half].T) for half in halves]).mean()
        optimizer.zero_grad()
        (0.8 * whole + 0.2 * local + consist).backward()
        optimizer.step()
        queues = [torch.cat([queue, new])[-20:] for queue, new in zip(queues, [k, *kp.unbind(1)], strict=True)]
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=1e-9, atol=1e-12)


def test_every_setting_changes_the_training(setting: Setting, tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"M": 8},
        {"mirrored": False},
        {"consistent": False},
        {"lambda_p": 0.0},
        {"distance": "linear"},
    ]
    weights = [run(intra_identity(**each), setting, tmp_path).checkpoints["last"]["head.2.weight"] for each in settings]
    assert all(not torch.equal(one, other) for at, one in enumerate(weights) for other in weights[:at])
    labels = [intra_identity(**{"M": 8, **each}).detail for each in settings[2:5]]
    assert labels == ["UP-ReID, no HM", "UP-ReID, no CC", "UP-ReID, no ICC"]


@pytest.mark.parametrize("count", [0, 3, 7])
def test_odd_patches_raise(count: int) -> None:
    with pytest.raises(ValueError, match=f"M = {count} patches: give an even number"):
        intra_identity(M=count)


def test_published_recipe_and_that_of_small() -> None:
    stage = upreid.Pretrain(Domain("luperson"))
    assert (stage.M, stage.lambda_g, stage.lambda_p, stage.temperature) == (8, 0.8, 0.2, 0.1)
    assert (stage.batch, stage.N, stage.lr, stage.bn_group * 8) == (800, 65_536, 0.1, 800)
    small: Any = Setting("small", weights=SCRATCH).resolve(stage)
    assert (small.batch, small.N, small.width, small.M) == (800, 800, 32, 8)


@pytest.mark.parametrize(("epoch", "later"), [(2, 0.0), (3, 0.01)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    killed_equals_uncut(setting.resolve(intra_identity(epochs=4, N=13)), setting.paths(), epoch, later)
