"""Drawn objects: a hundred kinds of things, the stand-in for ImageNet beside drawn domains.

A kind is an outline, a proportion, two textures and three colours. A picture shows one thing of its kind, turned, moved
and perhaps mirrored, before two pieces of clutter and a background, in its own light; sometimes a third piece is in
front. Nothing of the pedestrians' world is used.

The content of a picture is drawn in float64; its pixels are computed by separate float32 operations that IEEE 754
rounds correctly, as in `reproduce.data.drawing`.

Units. A picture spans [-1, 1] both ways, x to the right and y downwards. Colours are fractions.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from math import pi
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from reproduce.artifacts import Folder
from reproduce.data.sampling import numpy_generator
from reproduce.data.sources import STAND_IN, Source
from reproduce.dataset import Dataset, Image
from reproduce.stage import Env, Stage, role

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    Array = npt.NDArray[Any]

OBJECTS_VERSION = 1
HARMONICS = 3
"""Harmonics of an outline: the second to the fourth."""
TRAIN, HELD_OUT = "train", "val"
"""Folders, named like ImageNet's usual ones, with one folder per kind."""


@dataclass(frozen=True)
class Objects(Stage[Folder], Source):
    """Draw objects: a picture's identity is its kind, and the gallery holds the pictures held out from training."""

    kinds: int = 100
    """Number of kinds."""
    images: int = 190
    """Training pictures per kind."""
    held_out: int = 10
    """Test pictures per kind."""
    side: int = role("pixels", 192)
    """Height and width in pixels."""
    seed: int = 1
    """Seeds kinds and pictures."""
    version: ClassVar[int] = OBJECTS_VERSION

    @property
    def label(self) -> str:
        return "objects"

    @property
    def drawn(self) -> bool:
        return True

    def describe(self) -> dict[str, Any]:
        return {"kind": STAND_IN, "objects": self.version, **asdict(self)}

    def open(self, env: Env) -> Dataset:
        folder = env.get(self)

        def split(name: str, numbers: range) -> list[Image]:
            kinds = range(self.kinds)
            return [Image(_path(name, kind, number), kind + 1, number) for kind in kinds for number in numbers]

        seen, every = range(self.images), range(self.images, self.images + self.held_out)
        train, gallery = split(TRAIN, seen), split(HELD_OUT, every)
        return Dataset(self.label, folder.path, train, [], gallery, digest=folder.facts["pixels"])

    def run(self, env: Env) -> Folder:
        from reproduce.data.images import encode

        for split in (TRAIN, HELD_OUT):
            for kind in range(self.kinds):
                (env.folder / _path(split, kind, 0)).parent.mkdir(parents=True)
        digest = hashlib.sha256()
        splits = [TRAIN] * self.images + [HELD_OUT] * self.held_out
        with ThreadPoolExecutor(2) as pool:
            for kind in range(self.kinds):
                pixels = pictures(kind, self.images + self.held_out, self.side, seed=self.seed)
                digest.update(pixels.tobytes())
                paths = [env.folder / _path(split, kind, number) for number, split in enumerate(splits)]
                list(pool.map(encode, paths, pixels))
                env.progress(kind + 1, self.kinds, "kind")
        return Folder(env.folder, {"pixels": digest.hexdigest()})


def _path(split: str, kind: int, number: int) -> str:
    return f"{split}/{kind:03d}/{number:04d}.jpg"


class Shapes(NamedTuple):
    """A thing in each of N pictures."""

    place: Array  # (N, 2) position
    turn: Array  # (N,) rotation, radians
    size: Array  # (N,) 1 reaches the border
    mirrored: Array  # (N,) 1 or -1
    harmonics: Array  # (N, HARMONICS, 2) cosine and sine
    aspect: Array  # (N,) width over height
    textures: Array  # (N, 2, 3) periods along x and y, and the phase
    colours: Array  # (N, 3, 3) of the thing and its two textures


def _random_things(random: Any, count: int) -> Shapes:
    """Draw random things, upright in the middle: the prototypes of kinds, or clutter."""
    import numpy as np

    z = random.standard_normal
    way, turns = 2 * pi * random.random((count, 2)), 0.6 + 1.6 * random.random((count, 2))
    colours = random.random((count, 3, 3))
    return Shapes(
        place=np.zeros((count, 2)),
        turn=np.zeros(count),
        size=np.ones(count),
        mirrored=np.ones(count),
        harmonics=np.clip(0.10 * z((count, HARMONICS, 2)), -0.22, 0.22),
        aspect=np.exp(np.clip(0.30 * z(count), -0.7, 0.7)),
        textures=np.stack([turns * np.cos(way), turns * np.sin(way), random.random((count, 2))], -1),
        colours=0.04 + 0.92 * colours,
    )


def pictures(kind: int, count: int, side: int, *, seed: int = 1) -> npt.NDArray[Any]:
    """Draw pictures of a kind: uint8 `(count, side, side, 3)`; a larger count starts with the same pictures.

    Args:
        kind: number of the kind, from 0.
        count: number of pictures.
        side: height and width in pixels.
        seed: seeds kinds and pictures.
    """
    import numpy as np
    import torch

    from reproduce.data.drawing import tensor

    streams = [numpy_generator(seed, "objects", kind, "picture", number) for number in range(count)]
    u = np.stack([stream.random(24) for stream in streams])
    z = np.stack([stream.standard_normal(24) for stream in streams])
    mine = _random_things(numpy_generator(seed, "objects", kind), 1)
    thing = Shapes(*(np.repeat(column, count, 0) for column in mine))._replace(
        place=0.5 * (u[:, 0:2] - 0.5),
        turn=pi * 80 / 180 * (u[:, 2] - 0.5),
        size=0.6 + 0.5 * u[:, 3],
        mirrored=np.where(u[:, 4] < 0.5, 1.0, -1.0),
    )
    others = []
    for k in range(3):  # two behind; the third in front, in one picture of four
        loose = [_random_things(stream, 1) for stream in streams]
        other = Shapes(*(np.concatenate(column) for column in zip(*loose, strict=True)))
        at = 5 + 4 * k
        shown = u[:, at + 3] < 0.25 if k == 2 else np.ones(count, bool)
        far = 0.9 + 0.5 * u[:, at + 2] if k == 2 else 0.4 + 0.7 * u[:, at + 2]
        place = far[:, None] * np.stack([np.cos(2 * pi * u[:, at]), np.sin(2 * pi * u[:, at])], -1)
        size = (0.3 + 0.5 * u[:, at + 1]) * shown
        others.append(other._replace(place=place, turn=2 * pi * u[:, at + 3], size=size))
    corners = np.stack([stream.random((3, 3, 3)) for stream in streams])
    cast = np.exp(0.12 * z[:, 0:3] + 0.2 * z[:, 3:4])
    contrast, lift = np.exp(0.2 * z[:, 4]), 0.06 * z[:, 5]
    noise = np.stack([stream.integers(-128, 129, (3, side, side)) for stream in streams])
    strength = 0.06 * u[:, 20]

    image = _backdrop(corners, side)
    for shape in (*others[:2], thing, others[2]):
        _lay(image, shape)
    of_picture = partial(tensor, axes=3)
    image.sub_(0.5).mul_(of_picture(contrast)).add_(of_picture(0.5 + lift)).mul_(tensor(cast, axes=2))
    image.add_(tensor(noise / 128) * of_picture(strength))
    pixels: Array = image.clamp_(0.0, 1.0).mul_(255.0).add_(0.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(pixels)


def _backdrop(corners: Array, side: int) -> Tensor:
    """Interpolate colours (N, 3, 3, 3) at three by three points linearly: (N, 3, side, side)."""
    import torch

    from reproduce.data.drawing import tensor

    at = (torch.arange(side, dtype=torch.float32) + 0.5) / side * 2.0
    weights = [(1.0 - (at - k).abs()).clamp_min(0.0) for k in range(3)]
    image = torch.zeros(len(corners), 3, side, side)
    for i in range(3):
        for j in range(3):
            image.add_(tensor(corners[:, i, j], axes=2) * (weights[i][:, None] * weights[j]))
    return image


def _lay(image: Tensor, shapes: Shapes) -> None:
    """Draw a thing over each picture, in place; a size of 0 draws nothing."""
    import numpy as np
    import torch

    from reproduce.data.drawing import tensor

    load, side = partial(tensor, axes=2), image.shape[-1]
    centre = (torch.arange(side, dtype=torch.float32) + 0.5) / side * 2.0 - 1.0
    cos, sin = (load(f(shapes.turn)) for f in (np.cos, np.sin))
    size = load(np.maximum(shapes.size, 1e-3))
    wide = load(np.sqrt(shapes.aspect))
    right = centre[None, None, :] - load(shapes.place[:, 0])
    down = centre[None, :, None] - load(shapes.place[:, 1])
    x = (right * cos + down * sin) / size / wide * load(shapes.mirrored)
    y = (down * cos - right * sin) / size * wide

    radius = (x * x + y * y).sqrt().clamp_min_(1e-6)
    c, s = x / radius, y / radius
    outline, ck, sk = torch.full_like(radius, 0.75), c, s
    for k in range(HARMONICS):
        ck, sk = ck * c - sk * s, sk * c + ck * s
        a, b = (load(shapes.harmonics[:, k, part]) for part in (0, 1))
        outline = outline + ck * a + sk * b
    cover = ((outline - radius) * size * (0.5 * side) + 0.5).clamp_(0.0, 1.0) * load(shapes.size > 0)

    own, *inks = (load(shapes.colours[:, k]) for k in range(3))
    paint = own.expand(-1, -1, side, side)
    for k, ink in enumerate(inks):
        fx, fy, start = (load(shapes.textures[:, k, part]) for part in range(3))
        turns = x * fx + y * fy + start
        wave = ((turns - turns.floor() - 0.5).abs() * 2.0)[:, None]
        wave = wave * wave * (3.0 - 2.0 * wave)
        paint = paint + (ink - paint) * (wave * (0.9 - 0.3 * k))
    image.add_((paint - image) * cover[:, None])
