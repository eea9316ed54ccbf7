"""The renderer: compositing against slow loops, and independence of batch, threads and size."""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, max_pool2d

from reproduce.data.drawing import Bars, composite, cover, join, pixel_centres, render, rows
from reproduce.data.world import Dials, Plan, Size, plan, stage


def some_bars(n: int, k: int, seed: int) -> Bars:
    numbers = np.random.default_rng(seed)
    return Bars(
        start=numbers.uniform([-0.25, 0], [0.25, 1], (n, k, 2)),
        end=numbers.uniform([-0.25, 0], [0.25, 1], (n, k, 2)),
        width=numbers.uniform(0, 0.1, (n, k, 2)) * numbers.integers(0, 2, (n, k, 1)),
        corner=numbers.uniform(0.001, 0.08, (n, k)),
        colour=numbers.random((n, k, 3)),
        opacity=numbers.random((n, k)),
        garment=numbers.integers(0, 2, (n, k)).astype(float),
        relief=numbers.random((n, k)),
        depth=np.zeros((n, k)),
    )


def composite_slowly(canvas: np.ndarray, bars: Bars, softness: np.ndarray, side: np.ndarray) -> None:
    """Compute the formula of `composite` for one pixel and one bar at a time."""
    n, _, height, width = canvas.shape
    for i in range(n):
        for row in range(height):
            for column in range(width):
                x, y = 0.5 * ((column + 0.5) / width - 0.5), (row + 0.5) / height
                for k in range(bars.corner.shape[1]):
                    (ax, ay), (bx, by), (wa, wb), r = (field[i, k] for field in bars[:4])
                    length = sqrt((bx - ax) ** 2 + (by - ay) ** 2)
                    ux, uy = (bx - ax) / length, (by - ay) / length
                    s, q = (x - ax) * ux + (y - ay) * uy, (y - ay) * ux - (x - ax) * uy
                    radius = max(wa, wb) + r
                    grown = max(softness[i] / 2 - r, 0)
                    wa, wb, r = max(wa - grown, 0), max(wb - grown, 0), r + grown
                    t = min(max(s, min(grown, length / 2)), length - min(grown, length / 2))
                    d = sqrt(max(abs(q) - (wa + (wb - wa) * t / length), 0) ** 2 + (s - t) ** 2)
                    cover = min(max((r - d) / softness[i] + 0.5, 0), 1)
                    cover *= bars.opacity[i, k] * min(1, 2 * radius / softness[i])
                    shade = 1 + q / radius * (side[i] - bars.relief[i, k] * q / radius)
                    paint = np.append(bars.colour[i, k], bars.garment[i, k]) * shade
                    canvas[i, :, row, column] = canvas[i, :, row, column] * (1 - cover) + cover * paint


def test_composite_equals_slow_loops() -> None:
    bars, numbers = some_bars(3, 6, seed=1), np.random.default_rng(2)
    slow = numbers.random((3, 4, 20, 10))
    softness, side = np.array([0.05, 0.1, 0.02]), np.array([-0.3, 0.0, 0.2])
    fast = torch.tensor(slow, dtype=torch.float32)
    composite(fast, bars, torch.tensor(softness, dtype=torch.float32), torch.tensor(side, dtype=torch.float32))
    composite_slowly(slow, bars, softness, side)
    np.testing.assert_allclose(fast.numpy(), slow, atol=2e-5)


def test_opaque_bar_over_the_image_shows_its_colour() -> None:
    bars = some_bars(1, 1, seed=3)._replace(
        start=np.array([[[0, -0.5]]]), end=np.array([[[0, 1.5]]]), width=np.ones((1, 1, 2)), opacity=np.ones((1, 1))
    )
    canvas = torch.rand(1, 4, 8, 4)
    bars = bars._replace(relief=np.zeros((1, 1)), corner=np.full((1, 1), 0.01))
    composite(canvas, bars, torch.tensor([0.1]), torch.zeros(1))
    expected = torch.tensor([*bars.colour[0, 0], bars.garment[0, 0]], dtype=torch.float32)
    torch.testing.assert_close(canvas, expected.view(1, 4, 1, 1).expand_as(canvas))


def test_pixel_centres_span_the_image_at_every_size() -> None:
    for height, width in ((64, 32), (384, 128)):
        x, y = pixel_centres(height, width)
        assert (x.shape, y.shape) == ((1, 1, width), (1, height, 1))
        assert x.sum().abs() < 1e-4
        assert float(x.max()) == pytest.approx(0.25 - 0.25 / width)
        assert float(y.max()) == pytest.approx(1 - 0.5 / height)


@pytest.fixture(scope="module", params=["market", "duke"])
def world(request: pytest.FixtureRequest) -> tuple[str, Plan]:
    return request.param, plan(request.param, seed=1, size=Size(4, 2, 1, 64, 32))


def test_pixels_do_not_depend_on_batch_or_threads(world: tuple[str, Plan]) -> None:
    name, (_, shots, looks, stations) = world
    scene = stage(name, rows(shots, slice(0, 45)), looks, stations, Dials())
    together = render(scene, 64, 32)
    assert (together.shape, together.dtype) == ((45, 64, 32, 3), torch.uint8)
    for k in (0, 7, 44):
        assert torch.equal(render(rows(scene, slice(k, k + 1)), 64, 32)[0], together[k])
    assert torch.equal(render(rows(scene, slice(3, 20)), 64, 32), together[3:20])
    backwards = render(rows(scene, slice(None, None, -1)), 64, 32)
    assert torch.equal(backwards.flip(0), together)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(render(scene, 64, 32), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("height", "width"), [(128, 64), (256, 128), (192, 96)])
def test_downscaled_large_image_equals_the_small_one(world: tuple[str, Plan], height: int, width: int) -> None:
    name, (_, shots, looks, stations) = world
    scene = stage(name, rows(shots, slice(0, 12)), looks, stations, Dials())
    small = render(scene, 64, 32).float()
    large = render(scene, height, width).float()
    shrunk = torch.nn.functional.avg_pool2d(large.permute(0, 3, 1, 2), height // 64).permute(0, 2, 3, 1)
    difference = (small - shrunk).abs()
    assert difference.mean() < 4
    assert difference.mean() < 0.15 * (shrunk - shrunk.roll(1, 0)).abs().mean()


def colours_turned(table: Any) -> Any:
    """Change the colour of everything that has one."""
    return table._replace(**{name: 1 - x for name, x in table._asdict().items() if x.ndim and x.shape[-1] == 3})


def test_cover_is_where_recolouring_changes_the_image(world: tuple[str, Plan]) -> None:
    """Changes stay within an edge and the camera's blur, and fully covered pixels do change."""
    name, (_, shots, looks, stations) = world
    scene = stage(name, rows(shots, slice(0, 60)), looks, stations, Dials())
    image, shown = render(scene, 64, 32), cover(scene, 64, 32)
    assert shown.shape == (60, 2, 64, 32)
    assert 0 <= shown.min() <= shown.sum(1).max() <= 1 + 1e-5
    others = scene._replace(others=scene.others._replace(colour=1 - scene.others.colour))
    for part, turned in enumerate((scene._replace(look=colours_turned(scene.look)), others)):
        changed = (render(turned, 64, 32) != image).any(-1)
        reach = ceil(64 * scene.style.blur.max()) + 2
        near = max_pool2d(shown[:, part : part + 1], 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
        assert changed.any()
        assert (changed & ~near).sum() < 1e-3 * changed.sum(), "all but seams that a blur opens"
        assert changed[shown[:, part] > 0.999].float().mean() > 0.97
    nobody = scene.view.present == 0
    assert shown[nobody, 0].max() == 0 if nobody.any() else shown[:, 0].amax((1, 2)).min() > 0.5
    without = stage(name, rows(shots, slice(0, 60)), looks, stations, Dials(occlusion=0.0))
    assert cover(without, 64, 32)[:, 1].max() == 0
    assert (cover(without, 64, 32)[:, 0] >= shown[:, 0] - 1e-5).all(), "nothing hides the person"


def test_cover_does_not_depend_on_size_or_batch(world: tuple[str, Plan]) -> None:
    name, (_, shots, looks, stations) = world
    scene = stage(name, rows(shots, slice(0, 30)), looks, stations, Dials())
    large, small = cover(scene, 128, 64), cover(scene, 32, 16)
    assert (avg_pool2d(large, 4) - small).abs().mean() < 0.02
    assert torch.equal(cover(rows(scene, slice(7, 9)), 32, 16), small[7:9])


def test_empty_scene(world: tuple[str, Plan]) -> None:
    name, (_, shots, looks, stations) = world
    assert render(stage(name, rows(shots, slice(0, 0)), looks, stations, Dials()), 64, 32).shape == (0, 64, 32, 3)


def test_rows_and_join() -> None:
    bars = some_bars(5, 2, seed=4)
    again = join([rows(bars, slice(0, 2)), rows(bars, slice(2, 5))])
    assert all(np.array_equal(a, b) for a, b in zip(bars, again, strict=True))
