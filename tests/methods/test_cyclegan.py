from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from runs import history, run

from methods import cyclegan
from methods.blocks.cyclegan import Discriminator, Generator, Pair, least_squares
from methods.blocks.styles import in_styles
from reproduce.data.domains import Domain
from reproduce.data.images import Images
from reproduce.data.reading import read
from reproduce.data.sampling import normal
from reproduce.errors import UserError
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


def test_the_usual_translation_is_the_published_one() -> None:
    gan = cyclegan.CycleGAN(Domain("market"), Domain("duke"))
    assert (gan.blocks, gan.width, gan.widths, gan.batch) == (6, 64, (64, 128, 256), 1)
    assert (gan.cycle, gan.identity, gan.lr) == (10.0, 5.0, 2e-4)


@pytest.mark.parametrize("name", ["cycle", "identity"])
def test_weights_of_the_losses_act(name: str, setting: Setting, tmp_path: Path) -> None:
    one, other = (run(tiny(**{name: value}), setting, tmp_path).checkpoints["last"] for value in (1.0, 50.0))
    assert any(not torch.equal(one[key], other[key]) for key in one if key.startswith("forth."))


def styles_of(setting: Setting) -> tuple[cyclegan.CameraStyle, ...]:
    cameras = sorted({image.camid for image in read(setting.folders["duke"], "duke").train})
    small: Any = {"input": (32, 16), "width": 4, "blocks": 1, "widths": (4, 4, 4), "epochs": 1}
    return tuple(
        replace(style, gans=tuple(replace(gan, **small) for gan in style.gans))
        for style in cyclegan.camera_styles(Domain("duke"), cameras)
    )


def test_each_pair_of_cameras_shares_a_translation() -> None:
    styles = cyclegan.camera_styles(Domain("duke"), [0, 2, 5], seed=3)
    assert [style.camera for style in styles] == [0, 2, 5]
    assert [[gan.cameras for gan in style.gans] for style in styles] == [
        [(0, 2), (0, 5)],
        [(0, 2), (2, 5)],
        [(0, 5), (2, 5)],
    ]
    assert {gan.seed for style in styles for gan in style.gans} == {3}


def test_camera_styles_translate_the_images_of_other_cameras(setting: Setting, tmp_path: Path) -> None:
    whole = read(setting.folders["duke"], "duke")
    for style in styles_of(setting):
        folder = run(style, setting, tmp_path).path
        for camera in whole.cameras:
            gan = next((gan for gan in style.gans if gan.cameras and camera in gan.cameras), None)
            for image in [image for image in whole.train if image.camid == camera][:2]:
                before, after = whole.root / image.path, folder / image.path
                if camera == style.camera or gan is None:
                    assert after.read_bytes() == before.read_bytes()
                    continue
                net = gan.network()
                net.load_state_dict(run(gan, setting, tmp_path).checkpoints["last"])
                translate = net.forth if gan.cameras == (camera, style.camera) else net.back
                pixels = np.asarray(PIL.Image.open(before)).transpose(2, 0, 1)
                with torch.no_grad():
                    [expected] = translate(torch.tensor(pixels)[None] / 127.5 - 1)
                shown = np.asarray(PIL.Image.open(after)).transpose(2, 0, 1)
                np.testing.assert_allclose(shown, 127.5 * (expected.numpy() + 1), atol=0.51)


def test_a_translation_between_cameras_learns_from_their_images_alone(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    whole = Images.__init__

    def init(self: Any, root: Any, images: Any, *rest: Any, **more: Any) -> None:
        seen.append({image.camid for image in images})
        whole(self, root, images, *rest, **more)

    monkeypatch.setattr(Images, "__init__", init)
    gan = styles_of(setting)[0].gans[0]
    run(gan, setting, tmp_path)
    assert gan.cameras
    assert seen == [{camera} for camera in gan.cameras]
    assert setting.resolve(gan).detail == f"camera {gan.cameras[0] + 1} and camera {gan.cameras[1] + 1}"
    with pytest.raises(UserError, match="no training image is of camera 8 and camera 9"):
        run(replace(gan, cameras=(7, 8)), setting, tmp_path)


def test_a_camera_without_translation_raises(setting: Setting, tmp_path: Path) -> None:
    style = styles_of(setting)[0]
    with pytest.raises(UserError, match=r"duke has images of camera [\d, ]+: give a translation from each to camera 1"):
        run(replace(style, gans=()), setting, tmp_path)


def test_views_are_in_random_styles_that_differ() -> None:
    """Each image of three styles is its number, plus ten times its style's."""
    styles: Any = [SimpleNamespace(batches=partial(numbered, 10 * style)) for style in range(3)]
    [drawn] = in_styles(styles, [[4, 0, 7]], views=4, seed=1, epoch=0)
    table = torch.stack([view[:, 0, 0, 0] for view in drawn]).T.tolist()
    assert [[int(value) % 10 for value in row] for row in table] == [[4] * 4, [0] * 4, [7] * 4]
    chosen = [[int(value) // 10 for value in row] for row in table]
    assert all(sorted(row[:3]) == [0, 1, 2] and row[3] == row[0] for row in chosen)
    many = [next(in_styles(styles, [[0] * 300], views=1, seed=1, epoch=epoch))[0] for epoch in (0, 1)]
    counts = torch.stack([torch.bincount(view[:, 0, 0, 0].long() // 10) for view in many])
    assert bool((counts > 70).all())
    assert not torch.equal(many[0], many[1])


def numbered(offset: int, batches: list[list[int]]) -> Iterator[torch.Tensor]:
    for batch in batches:
        yield (offset + torch.tensor(batch)).byte().view(-1, 1, 1, 1).expand(-1, 3, 2, 1)


def test_killed_equals_uncut(setting: Setting, killed_equals_uncut: Callable[..., None]) -> None:
    killed_equals_uncut(setting.resolve(tiny(epochs=4)), setting.paths(), 3, 0.02)
