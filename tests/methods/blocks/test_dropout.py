from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.blocks.dropout import Dropout, address

ROWS = torch.ones(64, 50)


def net(p: float = 0.3) -> nn.Sequential:
    return nn.Sequential(Dropout(p), nn.Identity(), Dropout(p))


def test_mask_depends_only_on_its_address() -> None:
    one, other = net(), net()
    address(one, 1, "epoch", 3, 7)
    torch.rand(5)
    address(other, 1, "epoch", 2, 9)
    other(ROWS)
    address(other, 1, "epoch", 3, 7)
    first = one(ROWS)
    assert torch.equal(first, other(ROWS))
    assert not torch.equal(first, one(ROWS)), "another pass of the step has masks of its own"
    for place in ((2, "epoch", 3, 7), (1, "epoch", 3, 8)):
        address(one, *place)
        assert not torch.equal(first, one(ROWS))


def test_layers_have_different_masks() -> None:
    layers = net()
    address(layers, 1, 0)
    assert not torch.equal(layers[0](ROWS), layers[2](ROWS))


def test_mean_is_preserved_and_evaluation_is_the_identity() -> None:
    layer = nn.Sequential(Dropout(0.3))
    address(layer, 1)
    dropped = layer(torch.ones(400, 400, dtype=torch.float64))
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert set(dropped.unique().tolist()) == {0, 1 / 0.7}
    assert torch.equal(layer.eval()(ROWS), ROWS)
    assert torch.equal(Dropout(0.0)(ROWS), ROWS)


def test_misuse_raises() -> None:
    with pytest.raises(RuntimeError, match="call address"):
        Dropout(0.5)(ROWS)
    with pytest.raises(ValueError, match="dropout with probability 1"):
        Dropout(1)
