"""Drawn objects: kinds, reproducible pixels, and the stage that writes them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from math import atan2, cos, floor, hypot, sin, sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce.data.manifests import take
from reproduce.data.objects import (
    HARMONICS,
    OBJECTS_VERSION,
    Objects,
    Shapes,
    _backdrop,
    _lay,
    _random_things,
    pictures,
)
from reproduce.data.sheets import object_sheet
from reproduce.data.sources import sources
from reproduce.dataset import Dataset
from reproduce.running.runner import Site, Store, build

FROZEN = {
    48: "80ca3129ffa44f6982b3cb0f9c62a336e056b98d67dcd051ca28bfd84867143a",
    96: "005577b94ad36eccb280a20811828812a847a9bce19d004e7a757c4ba8b2d3cd",
}
"""SHA-256 of five pictures of each of the first four kinds, by side, on any processor and number of threads."""


def digest(side: int) -> str:
    return hashlib.sha256(b"".join(pictures(kind, 5, side).tobytes() for kind in range(4))).hexdigest()


@pytest.mark.parametrize("side", FROZEN)
def test_pixels_are_frozen(side: int) -> None:
    assert digest(side) == FROZEN[side], "shipped weights have seen others: raise OBJECTS_VERSION or undo"


@pytest.mark.parametrize("side", FROZEN)
def test_pixels_do_not_depend_on_vector_instructions(side: int) -> None:
    """Disable the vector instructions that torch and NumPy choose for the processor."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    optional = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])
    plain = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": optional}
    code = f"""
import hashlib
import torch
from reproduce.data.objects import pictures
drawn = b"".join(pictures(kind, 5, {side}).tobytes() for kind in range(4))
print(torch.backends.cpu.get_cpu_capability(), hashlib.sha256(drawn).hexdigest())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **plain}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["DEFAULT", FROZEN[side]]


def test_pixels_do_not_depend_on_threads_or_global_state() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        torch.manual_seed(7)
        assert digest(48) == FROZEN[48]
    finally:
        torch.set_num_threads(threads)


@given(
    kind=st.integers(0, 10_000),
    count=st.integers(1, 4),
    side=st.integers(1, 40),
    seed=st.integers(1, 2**31),
    more=st.integers(0, 3),
)
@settings(max_examples=60)
def test_number_and_size_of_pictures(kind: int, count: int, side: int, seed: int, more: int) -> None:
    """A larger count starts with the same pictures."""
    drawn = pictures(kind, count, side, seed=seed)
    assert (drawn.shape, drawn.dtype) == ((count, side, side, 3), np.uint8)
    assert drawn.flags.c_contiguous
    assert np.array_equal(pictures(kind, count + more, side, seed=seed)[:count], drawn)


def test_kinds_pictures_and_seeds_all_differ() -> None:
    drawn = [picture.tobytes() for seed in (1, 2) for kind in range(6) for picture in pictures(kind, 6, 16, seed=seed)]
    assert len(set(drawn)) == len(drawn)
    assert pictures(0, 6, 64).std(0).mean() > 10, "nor are they nearly the same"


def test_pictures_of_a_kind_resemble_each_other() -> None:
    """Classify by the nearest mean colour of the middle, a small part of what makes a kind; guessing gives 5 %."""
    colours = np.array([pictures(kind, 30, 32)[:, 11:21, 11:21].mean((1, 2)) for kind in range(20)])
    means, asked = colours[:, :20].mean(1), colours[:, 20:]
    nearest = np.linalg.norm(asked[:, :, None] - means, axis=-1).argmin(-1)
    assert (nearest == np.arange(20)[:, None]).mean() > 0.3


# -- what is laid over a picture ---------------------------------------------------------------------------------------


def some_shapes(count: int, seed: int) -> Shapes:
    numbers = np.random.default_rng(seed)
    return _random_things(numbers, count)._replace(
        place=numbers.uniform(-0.7, 0.7, (count, 2)),
        turn=numbers.uniform(-7, 7, count),
        size=numbers.uniform(0.2, 1.4, count),
        mirrored=numbers.choice([-1.0, 1.0], count),
    )


def lay_slowly(image: np.ndarray, shapes: Shapes) -> None:
    """Compute the outline as a Fourier series of the angle, and textures as smooth waves, pixel by pixel."""
    side = image.shape[-1]
    for n, (place, turn, size, mirrored, harmonics, aspect, textures, colours) in enumerate(zip(*shapes, strict=True)):
        for row in range(side):
            for column in range(side):
                right, down = 2 * (column + 0.5) / side - 1 - place[0], 2 * (row + 0.5) / side - 1 - place[1]
                x = (right * cos(turn) + down * sin(turn)) / size / sqrt(aspect) * mirrored
                y = (down * cos(turn) - right * sin(turn)) / size * sqrt(aspect)
                angle = atan2(y, x)
                outline = 0.75 + sum(
                    a * cos((k + 2) * angle) + b * sin((k + 2) * angle) for k, (a, b) in enumerate(harmonics)
                )
                cover = min(max((outline - hypot(x, y)) * size * side / 2 + 0.5, 0), 1)
                paint = colours[0]
                for (fx, fy, start), ink, strength in zip(textures, colours[1:], (0.9, 0.6), strict=True):
                    turns = x * fx + y * fy + start
                    wave = abs(2 * (turns - floor(turns)) - 1)
                    paint = paint + (ink - paint) * strength * wave**2 * (3 - 2 * wave)
                image[n, :, row, column] += cover * (paint - image[n, :, row, column])


def test_lay_equals_slow_loops() -> None:
    shapes, slow = some_shapes(4, seed=1), np.random.default_rng(2).random((4, 3, 18, 18))
    assert shapes.harmonics.shape == (4, HARMONICS, 2)
    fast = torch.tensor(slow, dtype=torch.float32)
    before = fast.clone()
    _lay(fast, shapes)
    lay_slowly(slow, shapes)
    np.testing.assert_allclose(fast.numpy(), slow, atol=2e-5)
    assert ((fast != before).any(1).sum((1, 2)) > 20).all(), "each is seen"


@given(seed=st.integers(0, 10_000), side=st.integers(1, 24), size=st.sampled_from([0.0, 1e-9, 1e-3, 0.5, 1.4]))
@settings(max_examples=60)
def test_mixed_colours_stay_in_range(seed: int, side: int, size: float) -> None:
    """Values are finite even for a thing of size 0, which stays invisible, or with its centre on a pixel."""
    numbers = np.random.default_rng(seed)
    image = _backdrop(numbers.random((3, 3, 3, 3)), side)
    before = image.clone()
    _lay(image, some_shapes(3, seed)._replace(size=np.full(3, size), place=np.zeros((3, 2))))
    for part in (before, image):
        assert torch.isfinite(part).all()
        assert -1e-5 <= part.min() <= part.max() <= 1 + 1e-5
    assert size > 0 or torch.equal(image, before)


def test_backdrop_is_linear_between_nine_colours() -> None:
    corners = np.random.default_rng(1).random((2, 3, 3, 3))
    image = _backdrop(corners, 63).double().numpy()
    for row, i in ((0, 0), (31, 1), (62, 2)):
        for column, j in ((0, 0), (31, 1), (62, 2)):
            np.testing.assert_allclose(image[:, :, row, column], corners[:, i, j], atol=0.05)
    bends = np.abs(np.diff(image, 2, axis=3))
    assert np.delete(bends, [29, 30, 31], axis=3).max() < 1e-5


# -- the stage ---------------------------------------------------------------------------------------------------------

TINY = Objects(kinds=3, images=4, held_out=2, side=24)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Any]:
    """Run the stage; return its opened data set and its artifact."""
    root = tmp_path_factory.mktemp("store")
    build(TINY, Site(root), lambda _: None)
    env: Any = SimpleNamespace(get=Store(root).load)
    return TINY.open(env), Store(root).load(TINY)


def test_written_files_match_the_listed_images(drawn: tuple[Dataset, Any]) -> None:
    data, folder = drawn
    listed = [image.path for image in (*data.train, *data.query, *data.gallery)]
    assert len(listed) == len(set(listed)) == 3 * (4 + 2)
    assert {path.relative_to(data.root).as_posix() for path in data.root.rglob("*.*")} == set(listed)
    pixels = [pictures(kind, 6, 24) for kind in range(3)]
    assert folder.facts["pixels"] == hashlib.sha256(b"".join(each.tobytes() for each in pixels)).hexdigest()
    for image in (*data.train, *data.gallery):
        with PIL.Image.open(data.root / image.path) as file:
            assert (file.format, file.mode, file.size) == ("JPEG", "RGB", (24, 24))
            off = np.asarray(file, dtype=float) - pixels[image.pid - 1][image.camid]
        assert np.abs(off).mean() < 12, image.path
    assert take(data).digest, "every file is an image"
    assert data.digest == folder.facts["pixels"], "known, so that no file is read again for it"


def test_identities_are_kinds_and_splits_share_no_picture(drawn: tuple[Dataset, Any]) -> None:
    data, _ = drawn
    assert data.name == TINY.label == "objects"
    assert data.train_pids == (1, 2, 3)
    assert not data.query
    assert [image.pid for image in data.train] == [kind for kind in (1, 2, 3) for _ in range(4)]
    assert [image.pid for image in data.gallery] == [kind for kind in (1, 2, 3) for _ in range(2)]
    files = [{(data.root / image.path).read_bytes() for image in split} for split in (data.train, data.gallery)]
    assert [len(each) for each in files] == [12, 6]
    assert not files[0] & files[1]


def test_larger_training_set_has_the_same_kinds(tmp_path: Path, drawn: tuple[Dataset, Any]) -> None:
    longer = replace(TINY, images=5, kinds=2)
    build(longer, Site(tmp_path), lambda _: None)
    env: Any = SimpleNamespace(get=Store(tmp_path).load)
    data, other = drawn[0], longer.open(env)
    for image in data.train[:8]:
        assert (other.root / image.path).read_bytes() == (data.root / image.path).read_bytes()


def test_identity_describes_drawn_objects() -> None:
    assert TINY.drawn
    assert TINY.describe() == {
        "kind": "stand-in",
        "objects": OBJECTS_VERSION,
        "kinds": 3,
        "images": 4,
        "held_out": 2,
        "side": 24,
        "seed": 1,
    }
    assert sources([TINY]) == [TINY]
    keys = {replace(TINY, **{field: 7}).key for field in ("kinds", "images", "held_out", "side", "seed")}
    assert len(keys | {TINY.key}) == 6


def test_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    was = replace(TINY).key
    monkeypatch.setattr(Objects, "version", OBJECTS_VERSION + 1)
    assert replace(TINY).key != was
    assert TINY.describe()["objects"] == OBJECTS_VERSION + 1


def test_sheet_has_a_row_per_kind() -> None:
    sheet = object_sheet(side=16, kinds=3, count=4)
    assert (sheet.mode, sheet.size) == ("RGB", (84 + 4 * 18, 3 * 18))
    shown = np.asarray(sheet)
    for kind in range(3):
        for number, picture in enumerate(pictures(kind, 4, 16)):
            at = 84 + number * 18
            assert np.array_equal(shown[kind * 18 : kind * 18 + 16, at : at + 16], picture)
