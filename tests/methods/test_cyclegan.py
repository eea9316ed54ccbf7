from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from runs import history, run

from methods import cyclegan
from methods.blocks.cyclegan import Discriminator, Generator, Pair, least_squares
from reproduce.data.domains import Domain
from reproduce.data.reading import read
from reproduce.data.sampling import normal
from reproduce.session.setting import Setting


def tiny(**changes: Any) -> cyclegan.CycleGAN:
    stage = cyclegan.CycleGAN(
        Domain("market"), Domain("duke"), input=(32, 16), width=4, blocks=1, widths=(4, 4, 4), epochs=1
    )
    return replace(stage, **changes)


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return normal(shape, seed, "test").tanh()


@pytest.mark.parametrize("size", [(32, 16), (64, 32)])
def test_networks_keep_sizes(size: tuple[int, int]) -> None:
    images = drawn(2, 3, *size).float()
    made = Generator(4, 2, seed=1, name="forth")(images)
    assert made.shape == images.shape
    assert made.abs().max() <= 1
    patches = Discriminator((4, 4, 4), seed=1, name="first")(images)
    assert patches.shape == (2, 1, size[0] // 8, size[1] // 8)


def test_a_patch_sees_38_pixels() -> None:
    judge = Discriminator((2, 2, 2), seed=1, name="first").double()
    images = drawn(1, 3, 128, 128).requires_grad_()
    layers = torch.nn.Sequential(*(layer for layer in judge if not isinstance(layer, torch.nn.InstanceNorm2d)))
    layers(images)[0, 0, 8, 8].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 38


@pytest.mark.parametrize("real", [True, False])
def test_least_squares_equals_slow_loops(real: bool) -> None:
    patches = drawn(2, 1, 3, 2)
    values = [(float(value) - real) ** 2 for value in patches.flatten()]
    assert float(least_squares(patches, real)) == pytest.approx(sum(values) / 12)


def test_losses_equal_their_definition() -> None:
    """Check adversarial, cycle and identity losses of both directions, and that of the discriminators, in float64."""
    net = Pair(4, 1, (4, 4, 4), seed=1).double()
    first, second = drawn(2, 3, 32, 16), drawn(2, 3, 32, 16, seed=2)
    made = net.translate(first, second)
    with torch.no_grad():
        to_second, to_first = net.forth(first), net.back(second)
        assert torch.equal(made.as_first, to_first)
        assert torch.equal(made.as_second, to_second)
        fooled = ((net.first(to_first) - 1) ** 2).mean() + ((net.second(to_second) - 1) ** 2).mean()
        cycle = (net.back(to_second) - first).abs().mean() + (net.forth(to_first) - second).abs().mean()
        same = (net.back(first) - first).abs().mean() + (net.forth(second) - second).abs().mean()
        judged = [
            ((judge(own) - 1) ** 2).mean() + (judge(other) ** 2).mean()
            for judge, own, other in ((net.first, first, to_first), (net.second, second, to_second))
        ]
    for found, expected in zip(made[2:], (fooled, cycle, same), strict=True):
        torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(net.judge(first, second, made).detach(), sum(judged) / 2)
    assert not made.as_first.requires_grad


def test_steps_move_their_own_networks(setting: Setting, tmp_path: Path) -> None:
    start = tiny().network().state_dict()
    end = run(tiny(), setting, tmp_path).checkpoints["last"]
    assert not any(torch.equal(start[name], end[name]) for name in start if name.endswith("layers.0.weight"))
    assert {name.partition(".")[0] for name in end} == {"forth", "back", "first", "second"}
    [entry] = history(tiny(), setting, tmp_path)
    assert entry.keys() >= {"adversarial", "cycle", "same", "discriminators"}


def test_cycles_close(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(epochs=14, width=8, lr=2e-3)
    run(stage, setting, tmp_path)
    cycles = [entry["cycle"] for entry in history(stage, setting, tmp_path)]
    assert cycles[-1] < 0.7 * cycles[0]


def test_translated_domain(setting: Setting, tmp_path: Path) -> None:
    """Training images change and keep names, identities and cameras; test images are copied."""
    there = cyclegan.Translated(tiny(), Domain("market"))
    made = read(run(there, setting, tmp_path).path, there.label)
    whole = read(setting.folders["market"], "market")
    assert (made.train, made.query, made.gallery) == (whole.train, whole.query, whole.gallery)
    for image in whole.query:
        assert (made.root / image.path).read_bytes() == (whole.root / image.path).read_bytes()

    net = there.network()
    weights = run(tiny(), setting, tmp_path).checkpoints["last"]
    net.load_state_dict({name[6:]: value for name, value in weights.items() if name.startswith("forth.")})
    image = whole.train[0]
    pixels = np.asarray(PIL.Image.open(whole.root / image.path)).transpose(2, 0, 1)
    with torch.no_grad():
        [expected] = net(torch.tensor(pixels)[None] / 127.5 - 1)
    shown = np.asarray(PIL.Image.open(made.root / image.path)).transpose(2, 0, 1)
    np.testing.assert_allclose(shown, 127.5 * (expected.numpy() + 1), atol=0.51)
    assert np.abs(shown - pixels.astype(int)).max() > 8


def test_translation_back_uses_the_other_generator(setting: Setting, tmp_path: Path) -> None:
    there = cyclegan.Translated(tiny(), Domain("market"))
    back = cyclegan.Translated(tiny(), there, back=True)
    first, second = (read(run(stage, setting, tmp_path).path, stage.label) for stage in (there, back))
    assert [image.path for image in first.train] == [image.path for image in second.train]
    assert (first.root / first.train[0].path).read_bytes() != (second.root / second.train[0].path).read_bytes()
    assert [setting.resolve(stage).detail for stage in (there, back)] == ["to duke", "to market"]


def test_killed_equals_uncut(setting: Setting, killed_equals_uncut: Callable[..., None]) -> None:
    killed_equals_uncut(setting.resolve(tiny(epochs=4)), setting.paths(), 3, 0.02)
