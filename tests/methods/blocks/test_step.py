"""Golden numbers of two training steps through every block, in float64."""

from __future__ import annotations

import pytest
import torch

from methods.blocks.backbones import build
from methods.blocks.heads import ReID
from methods.blocks.losses import CentreLoss, batch_hard_triplet, smoothed_cross_entropy
from methods.blocks.norm import group_batch_norm
from methods.blocks.schedules import warmup_steps
from reproduce.data.sampling import generator, identity_batches
from reproduce.data.transforms import Augment, Erase, augment

LOSSES = [3.7684683583394407, 3.2058100475305746]
AFTER = {
    "weights": 8100.250607656838,
    "statistics": 869.8364455206795,
    "centres": 468.3754453050808,
    "embedding": 119.66865823021168,
}


def test_golden() -> None:
    pids = [number // 5 for number in range(30)]
    images = torch.randint(0, 256, (30, 3, 32, 16), generator=generator(0, "images"), dtype=torch.uint8)
    recipe = Augment(pad=2, erase=Erase())
    net = group_batch_norm(ReID(build("narrow_ibn_a", seed=1), 6, seed=1), 8).double()
    centre = CentreLoss(6, net.channels, seed=1).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=3.5e-4, weight_decay=5e-4)
    losses = []
    for step, batch in enumerate(identity_batches(pids, 4, 4, seed=1, epoch=0, iterations=2)):
        optimiser.param_groups[0]["lr"] = 3.5e-4 * warmup_steps(10 * step)
        labels = torch.tensor([pids[position] for position in batch])
        features, _, logits = net(augment(images[batch], recipe, generator(1, "augment", 0, step)).double())
        loss = smoothed_cross_entropy(logits, labels) + batch_hard_triplet(features, labels)
        loss = loss + 0.005 * centre(features, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        centre.step(features.detach(), labels)
        losses.append(loss.item())
    net.eval()
    with torch.no_grad():
        embedding = net(augment(images[:3], Augment(flip=0, pad=0), generator(0)).double())
    after = {
        "weights": sum(parameter.abs().sum().item() for parameter in net.parameters()),
        "statistics": sum(value.sum().item() for name, value in net.named_buffers() if "running" in name),
        "centres": centre.centres.abs().sum().item(),
        "embedding": embedding.abs().sum().item(),
    }
    assert (losses, after) == (pytest.approx(LOSSES, rel=1e-6), pytest.approx(AFTER, rel=1e-6)), (
        f"numbers changed: raise version or undo ({losses}, {after})"
    )
