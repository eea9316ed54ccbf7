"""The renderer: its compositing against slow loops, and what must not change a pixel."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch

from reproduce.data.drawing import Bars, composite, join, pixel_centres, render, rows
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
    """The formula of `composite`, a pixel and a bar at a time."""
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


def test_composite_is_what_slow_loops_give() -> None:
    bars, numbers = some_bars(3, 6, seed=1), np.random.default_rng(2)
    slow = numbers.random((3, 4, 20, 10))
    softness, side = np.array([0.05, 0.1, 0.02]), np.array([-0.3, 0.0, 0.2])
    fast = torch.tensor(slow, dtype=torch.float32)
    composite(fast, bars, torch.tensor(softness, dtype=torch.float32), torch.tensor(side, dtype=torch.float32))
    composite_slowly(slow, bars, softness, side)
    np.testing.assert_allclose(fast.numpy(), slow, atol=2e-5)


def test_an_opaque_bar_over_the_image_leaves_its_colour() -> None:
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


def test_pixels_depend_on_neither_batch_nor_threads(world: tuple[str, Plan]) -> None:
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
def test_a_large_image_shrinks_to_the_small_one(world: tuple[str, Plan], height: int, width: int) -> None:
    name, (_, shots, looks, stations) = world
    scene = stage(name, rows(shots, slice(0, 12)), looks, stations, Dials())
    small = render(scene, 64, 32).float()
    large = render(scene, height, width).float()
    shrunk = torch.nn.functional.avg_pool2d(large.permute(0, 3, 1, 2), height // 64).permute(0, 2, 3, 1)
    difference = (small - shrunk).abs()
    assert difference.mean() < 4
    assert difference.mean() < 0.15 * (shrunk - shrunk.roll(1, 0)).abs().mean()


def test_nothing_to_draw(world: tuple[str, Plan]) -> None:
    name, (_, shots, looks, stations) = world
    assert render(stage(name, rows(shots, slice(0, 0)), looks, stations, Dials()), 64, 32).shape == (0, 64, 32, 3)


def test_tables_of_arrays_are_cut_and_joined() -> None:
    bars = some_bars(5, 2, seed=4)
    again = join([rows(bars, slice(0, 2)), rows(bars, slice(2, 5))])
    assert all(np.array_equal(a, b) for a, b in zip(bars, again, strict=True))
