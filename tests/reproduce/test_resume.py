from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reproduce.resume import load_state, save_state


def state(seed: int, classes: int = 3) -> SimpleNamespace:
    torch.manual_seed(seed)
    nets = [nn.Sequential(nn.Linear(2, classes), nn.BatchNorm1d(classes)) for _ in range(2)]
    optimizer = torch.optim.Adam(nets[0].parameters(), 0.1)
    nets[0](torch.rand(4, 2)).sum().backward()
    optimizer.step()
    return SimpleNamespace(
        nets=nets,
        optimizer=optimizer,
        queue=torch.rand(3),
        labels=np.arange(seed, seed + 3),
        half=torch.rand(2).bfloat16(),
        best={"mAP": 1.5 * seed, "weights": {"a": torch.rand(2)}, 3: None},
        threshold=0.1 * seed,
        shape=(seed, "x"),
        stopped=bool(seed % 2),
    )


def same(left: Any, right: Any) -> bool:
    match left:
        case nn.Module() | torch.optim.Optimizer():
            return same(dict(left.state_dict()), dict(right.state_dict()))
        case torch.Tensor():
            return left.dtype == right.dtype and torch.equal(left, right)
        case np.ndarray():
            return left.dtype == right.dtype and bool((left == right).all())
        case dict():
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        case list() | tuple():
            return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
        case _:
            return type(left) is type(right) and bool(left == right)


def test_every_attribute_comes_back(tmp_path: Path) -> None:
    saved, other = state(1), state(2)
    assert not any(same(value, getattr(other, name)) for name, value in vars(saved).items())
    save_state(tmp_path / "s", saved, {"done": 5, "history": [{"step": 1, "loss": 0.1}], "spent": 2.5})
    assert load_state(tmp_path / "s", other) == {"done": 5, "history": [{"step": 1, "loss": 0.1}], "spent": 2.5}
    for name, value in vars(saved).items():
        assert same(value, getattr(other, name)), name


def test_an_optimiser_still_moves_the_parameters_it_was_made_for(tmp_path: Path) -> None:
    saved, other = state(1), state(2)
    save_state(tmp_path / "s", saved, {})
    load_state(tmp_path / "s", other)
    before = other.nets[0][0].weight.clone()
    other.optimizer.step()
    assert not torch.equal(before, other.nets[0][0].weight)


def test_a_classifier_of_another_size_comes_back(tmp_path: Path) -> None:
    saved, other = state(1, classes=7), state(2, classes=3)
    save_state(tmp_path / "s", saved, {})
    load_state(tmp_path / "s", other)
    assert same(saved.nets, other.nets)
    assert other.nets[0](torch.rand(2, 2)).shape == (2, 7)


def test_saving_does_not_alias(tmp_path: Path) -> None:
    saved = SimpleNamespace(queue=torch.zeros(2))
    save_state(tmp_path / "s", saved, {})
    saved.queue += 1
    other = SimpleNamespace(queue=None)
    load_state(tmp_path / "s", other)
    assert other.queue.tolist() == [0, 0]


def test_what_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not set"):
        save_state(tmp_path / "s", SimpleNamespace(seen={1, 2}), {})
    assert not (tmp_path / "s").exists()
