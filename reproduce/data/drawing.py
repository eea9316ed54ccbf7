"""Draw pedestrians: articulated 3-D bodies, seen by a camera, composited as anti-aliased soft shapes.

Everything visible is made of `Bars`: segments whose flat half-width may differ between the ends, rounded by a corner
radius. A limb is a bar without flat part (a capsule), a head a short fat one, a rucksack or a door one with a large
flat part. Bars are composited from far to near.

Pixels are computed by separate operations that IEEE 754 rounds correctly (+, -, *, /, square root, minimum, maximum,
floor), image by image: they do not depend on the batch, the number of threads or the vector width.

Units. Bodies live in metres, x to the person's left, y up, z forward, feet at y = 0. Images are one unit high and half
a unit wide at every resolution: x in [-0.25, 0.25], y in [0, 1] downwards. Colours are fractions. Angles are radians.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Array = npt.NDArray[Any]
Number = Array | float
Rows = TypeVar("Rows", bound=tuple[Any, ...])

PIXELS_AT_ONCE = 131072  # on a CPU: small enough for its caches, large enough to hide the cost of a call
TILE, TEXELS = 1024, 256  # side of a noise tile, and texels per image height
TRUNK, GROUND = 0.06, -9.0  # lifts: clothes on the trunk hide parts at the same depth; shadows hide nothing


class Look(NamedTuple):
    """A person's build, clothes and luggage. Shapes (N,), colours (N, 3); flags are 0 or 1."""

    build: Array  # width relative to the average
    legs: Array  # leg length relative to the average
    skin: Array
    hair: Array
    long_hair: Array
    upper: Array
    accent: Array  # second colour of the upper garment
    stripes: Array  # bands along the trunk; 0 = none
    columns: Array  # bands across the trunk; 0 = none
    logo: Array
    open: Array  # upper garment worn open over the accent colour
    sleeves: Array  # long sleeves
    hem: Array  # length of the upper garment below the hips, metres
    lower: Array
    shorts: Array
    skirt: Array
    shoes: Array
    rucksack: Array
    satchel: Array  # -1 right, 1 left, 0 none
    bag: Array
    hat: Array
    cap: Array  # colour of the hat


class View(NamedTuple):
    """Pose, viewpoint and detection box of a person. Shapes (N,)."""

    phase: Array  # of the gait
    azimuth: Array  # 0 = walks towards the camera, pi = away from it
    elevation: Array  # of the camera above the horizon
    distance: Array  # of the camera, metres
    right: Array  # box error, box heights
    down: Array  # box error, box heights
    zoom: Array  # size of the person relative to that in a perfect box
    aspect: Array  # factor on the person's width
    present: Array  # 0 = false detection without a person


class Light(NamedTuple):
    """Illumination of one image."""

    gain: Array  # (N, 3), brightness and colour temperature
    gamma: Array  # (N,), 1 = linear
    shadow: Array  # (N,), fraction of the light removed on the shadow's side
    edge: Array  # (N, 3), the shadow's border: a x + b y + c = 0
    side: Array  # (N,), shading from the left (-) or the right (+)


class Style(NamedTuple):
    """A camera's effect on colours and edges."""

    matrix: Array  # (N, 3, 3)
    offset: Array  # (N, 3)
    gamma: Array  # (N,)
    blur: Array  # (N,), width of an edge, image heights
    noise: Array  # (N,), standard deviation
    grain: Array  # (N, 2), position in the noise tile, fraction of the tile


class Bars(NamedTuple):
    """Soft shapes of N images, K each: in the image, or in the body's space if `start` and `end` have 3 columns."""

    start: Array  # (N, K, 2)
    end: Array  # (N, K, 2)
    width: Array  # (N, K, 2), flat half-width at start and end
    corner: Array  # (N, K), radius
    colour: Array  # (N, K, 3)
    opacity: Array  # (N, K)
    garment: Array  # (N, K), 1 = carries the pattern of the upper garment
    relief: Array  # (N, K), strength of the round shading
    depth: Array  # (N, K), larger is nearer


class Scenery(NamedTuple):
    """Background of one image: a wall and a floor with grain, and bars (posts, doors, kerbs)."""

    wall: Array  # (N, 3)
    floor: Array  # (N, 3)
    horizon: Array  # (N,), y at which the floor starts
    grain: Array  # (N,), strength
    place: Array  # (N, 2), position in the grain tile, fraction of the tile
    bars: Bars


class Scene(NamedTuple):
    """All parameters of N images."""

    look: Look
    view: View
    light: Light
    style: Style
    scenery: Scenery
    others: Bars  # (N, K), people and things, in front of or behind the person


def rows(table: Rows, index: Any) -> Rows:
    """Select rows of a (nested) named tuple of arrays."""
    return type(table)(*(rows(x, index) if isinstance(x, tuple) else x[index] for x in table))


def join(tables: Sequence[Rows], how: Callable[[Sequence[Array]], Array] = np.concatenate) -> Rows:
    """Join named tuples of arrays into one: concatenated, or stacked with `how=np.stack`."""
    return type(tables[0])(*(how(column) for column in zip(*tables, strict=True)))


class _Figure:
    """Builder of walking bodies: parts in the body's space, with ends `(N, 3)` in metres."""

    def __init__(self, look: Look, phase: Array, azimuth: Array) -> None:
        self.look, self.phase, self.azimuth = look, phase, azimuth
        self.parts: list[list[Array]] = []
        self.hip = 0.90 * look.legs
        self.shoulder = self.hip + 0.53
        self.crown = self.shoulder + 0.21
        self.front = 0.13 * look.build
        self.swing = 0.38 * np.sin(phase)
        self.shadow()
        self.legs()
        self.trunk()
        self.arms()
        self.head()
        self.luggage()

    def bars(self) -> Bars:
        return Bars(*(np.stack(column, 1) for column in zip(*self.parts, strict=True)))

    def at(self, x: Number, y: Number, z: Number) -> Array:
        return np.stack(np.broadcast_arrays(x, y, z, self.phase)[:3], -1)

    def seen(self, across: float, deep: float) -> Array:
        """Compute the half-width of an elliptic cross-section (half-axes in metres) as seen by the camera."""
        width: Array = np.hypot(across * np.cos(self.azimuth), deep * np.sin(self.azimuth))
        return width

    def add(
        self,
        start: Array,
        end: Array,
        colour: Array,
        radius: float,
        flat: tuple[Number, Number] = (0.0, 0.0),
        *,
        shown: Number = 1.0,
        garment: Number = 0.0,
        relief: float = 0.35,
        lift: float = 0.0,
    ) -> None:
        """Add a part; `lift` moves it in front of (or, if negative, behind) parts at the same depth, metres."""
        sizes = np.broadcast_arrays(*flat, radius, shown, garment, relief, lift, self.phase)
        near, far, corner, *others, _ = (size.astype(float) for size in sizes)
        self.parts.append([start, end, np.maximum(np.stack([near, far], -1), 0), corner, colour, *others])

    def shadow(self) -> None:
        self.shadow_part = len(self.parts)
        black = np.zeros_like(self.look.skin)
        self.add(self.at(-0.2, 0, 0), self.at(0.2, 0, 0), black, 0.05, shown=0.3, relief=0, lift=GROUND)

    def legs(self) -> None:
        look, at, hip = self.look, self.at, self.hip
        thigh, shin = 0.43 * look.legs[:, None], 0.41 * look.legs[:, None]
        calf = _choose(np.maximum(look.shorts, look.skirt), look.skin, look.lower)
        loose = look.build * (1 - 0.12 * look.skirt)
        for side in (-1, 1):
            forward = side * self.swing
            backward = forward - 0.10 - 0.55 * np.maximum(side * np.cos(self.phase), 0)  # the knee bends
            joint = at(side * 0.085 * look.build, hip, 0)
            knee = joint + thigh * at(0, -np.cos(forward), np.sin(forward))
            ankle = knee + shin * at(0, -np.cos(backward), np.sin(backward))
            self.add(ankle + at(0, -0.02, -0.03), ankle + at(side * 0.02, -0.03, 0.17), look.shoes, 0.045, lift=0.01)
            self.add(knee, ankle, calf, 0.042, (0.022 * loose, 0.008))
            leg = _choose(look.skirt, look.skin, look.lower)
            self.add(joint, knee, leg, 0.055, (0.034 * look.build, 0.018 * loose), lift=-0.08)
        seat, waist = self.seen(0.105, 0.06) * look.build, at(0, hip + 0.05, 0)
        self.add(waist, at(0, hip - 0.05, 0), look.lower, 0.05, (seat, seat))
        flare = (self.seen(0.12, 0.08) * look.build, self.seen(0.20, 0.19) * look.build)
        self.add(waist, at(0, hip - 0.36, 0), look.lower, 0.03, flare, shown=look.skirt, lift=0.12)

    def trunk(self) -> None:
        self.trunk_part = len(self.parts)
        look, at, shoulder = self.look, self.at, self.shoulder
        hem, facing = self.hip + 0.03 - look.hem, np.abs(np.cos(self.azimuth))
        sides = (self.seen(0.09, 0.04) * look.build, (self.seen(0.10, 0.055) + 0.12 * look.hem) * look.build)
        self.add(at(0, shoulder - 0.07, 0), at(0, hem, 0), look.upper, 0.07, sides, garment=1, lift=TRUNK)
        collar, chest = at(0, shoulder - 0.03, self.front), at(0, shoulder - 0.15, self.front)
        opening, badge = (0.05 * facing, 0.035 * facing), (0.075 * facing, 0.075 * facing)
        self.add(collar, at(0, hem, self.front), look.accent, 0.01, opening, shown=look.open, relief=0, lift=TRUNK)
        self.add(chest, chest - at(0, 0.14, 0), look.accent, 0.01, badge, shown=look.logo, relief=0, lift=TRUNK)

    def arms(self) -> None:
        look, at = self.look, self.at
        forearm = _choose(look.sleeves, look.upper, look.skin)
        for side in (-1, 1):
            forward = -0.9 * side * self.swing
            joint = at(side * 0.175 * look.build, self.shoulder - 0.085, 0)
            elbow = joint + 0.29 * at(side * 0.12, -np.cos(forward), np.sin(forward))
            wrist = elbow + 0.24 * at(side * 0.02, -np.cos(forward + 0.45), np.sin(forward + 0.45))
            cuff = (0.010 * look.sleeves, 0.004 * look.sleeves)
            self.add(wrist, wrist + at(0, -0.045, 0.02), look.skin, 0.036)
            self.add(elbow, wrist, forearm, 0.036, cuff, garment=look.sleeves, lift=0.005)
            sleeve = (0.014 * look.build, 0.008 * look.build)
            self.add(joint, elbow, look.upper, 0.045, sleeve, garment=1, lift=0.02)

    def head(self) -> None:
        look, at, crown = self.look, self.at, self.crown
        neck, nape = at(0, self.shoulder - 0.02, 0), at(0, crown - 0.05, -0.05)
        self.add(neck, neck + at(0, 0.09, 0.01), look.skin, 0.045, relief=0.5)
        self.add(at(0, crown - 0.10, 0.02), at(0, crown - 0.02, 0.02), look.skin, 0.078, (0, 0.010), lift=0.10)
        self.add(at(0, crown - 0.05, -0.03), at(0, crown + 0.01, -0.015), look.hair, 0.092, lift=0.10)
        self.add(at(0, crown + 0.035, 0.03), at(0, crown + 0.04, 0), look.hair, 0.062, relief=0.2, lift=0.15)
        long = at(0, self.shoulder - 0.10, -0.12)
        self.add(nape, long, look.hair, 0.06, (0.035, 0.03), shown=look.long_hair, lift=0.12)
        self.add(at(0, crown + 0.02, 0), at(0, crown + 0.06, 0), look.cap, 0.085, shown=look.hat, lift=0.25)
        self.add(at(0, crown + 0.01, 0.05), at(0, crown, 0.16), look.cap, 0.03, (0.05, 0.04), shown=look.hat)

    def luggage(self) -> None:
        look, at, shoulder = self.look, self.at, self.shoulder
        back = -self.front - 0.07
        sack = (self.seen(0.10, 0.06), self.seen(0.13, 0.09))
        top, bottom = at(0, shoulder - 0.05, back), at(0, shoulder - 0.40, back - 0.02)
        self.add(top, bottom, look.bag, 0.04, sack, shown=look.rucksack)
        for side in (-1, 1):
            strap = at(side * 0.115 * look.build, shoulder, self.front - 0.02)
            end = at(side * 0.125 * look.build, shoulder - 0.30, self.front)
            self.add(strap, end, look.bag, 0.022, shown=look.rucksack, relief=0, lift=TRUNK)
        hangs, shown, height = look.satchel * look.build, np.abs(look.satchel), self.hip + 0.10
        top, bag = at(0.24 * hangs, height, -0.02), (self.seen(0.04, 0.11), self.seen(0.05, 0.13))
        self.add(top, top - at(0, 0.20, 0), look.bag, 0.03, bag, shown=shown, lift=0.04)
        for z in (self.front, -self.front):
            strap = at(-0.11 * look.satchel, shoulder + 0.01, 0.6 * z)
            self.add(strap, at(0.20 * hangs, height, z), look.bag, 0.016, shown=shown, relief=0, lift=TRUNK)


def _choose(flag: Array, yes: Array, no: Array) -> Array:
    return np.where(flag[:, None] > 0, yes, no)


def _project(body: Bars, view: View) -> Bars:
    """Project bodies through a perspective camera into the detection box: bars in image units.

    The perfect box holds feet, crown and shoulders; `view` shifts and scales it.
    """
    cos, sin = np.cos(view.azimuth)[:, None], np.sin(view.azimuth)[:, None]
    up, over = np.cos(view.elevation)[:, None], np.sin(view.elevation)[:, None]

    def see(at: Array) -> tuple[Array, Array, Array, Array]:
        x, y, z = at[..., 0] * cos + at[..., 2] * sin, at[..., 1] - 0.9, at[..., 2] * cos - at[..., 0] * sin
        scale = view.distance[:, None] / (view.distance[:, None] - y * over - z * up)
        return x * scale, (z * over - y * up) * scale, z, scale

    x0, y0, z0, scale0 = see(body.start)
    x1, y1, z1, scale1 = see(body.end)
    solid = (body.depth > GROUND) & (body.opacity > 0.0)
    low = np.where(solid, np.minimum(y0, y1) - body.corner, np.inf).min(1)
    high = np.where(solid, np.maximum(y0, y1) + body.corner, -np.inf).max(1)
    height = 1.06 * (high - low)
    tall = (view.zoom / height)[:, None]
    wide = tall * view.aspect[:, None]
    top, left = ((low + high) / 2)[:, None], ((x0 + x1) / 2 * solid).sum(1, keepdims=True) / solid.sum(1, keepdims=True)

    def place(x: Array, y: Array) -> Array:
        return np.stack([(x - left) * wide + view.right[:, None], 0.5 + (y - top) * tall + view.down[:, None]], -1)

    middle = np.sqrt(tall * wide)
    width = body.width * np.stack([scale0, scale1], -1) * middle[..., None]
    corner = body.corner * (scale0 + scale1) / 2 * middle
    return body._replace(
        start=place(x0, y0),
        end=place(x1, y1),
        width=width,
        corner=corner,
        opacity=body.opacity * view.present[:, None],
        depth=(z0 + z1) / 2 + body.depth,
    )


def _sorted(*groups: Bars) -> Bars:
    """Merge groups of bars, sorted from far to near."""
    bars = join(groups, partial(np.concatenate, axis=1))
    order = np.argsort(bars.depth, 1, kind="stable")
    return Bars(*(np.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), 1) for x in bars))


def composite(canvas: Tensor, bars: Bars, softness: Tensor, side: Tensor) -> None:
    """Composite bars over a canvas, in place.

    With s along and q across a bar, flat half-width w(s) and corner radius r, let t be s clamped to the bar's length. A
    point is d = sqrt(max(|q| - w, 0)^2 + (s - t)^2) from the flat part, and its coverage is (r - d) / softness + 1/2,
    clamped to [0, 1]. If r is less than half an edge, the flat part shrinks (in w, and at both ends in s); the coverage
    of a bar thinner than an edge is scaled by 2 (w + r) / softness. The colour is shaded by 1 + n (side - relief n),
    n = q / (w + r). The last two use the larger w.

    Args:
        canvas: `(N, 4, H, W)`: red, green, blue, and coverage of the patterned garment.
        bars: K bars per image, far to near.
        softness: `(N,)` width of an edge, image heights; at least a pixel.
        side: `(N,)` light from the left (-) or the right (+).
    """
    n, _, height, width = canvas.shape

    def of_bar(k: int, x: Tensor) -> Tensor:
        return x[:, k, None, None]

    load = partial(tensor, device=canvas.device)
    across, down = pixel_centres(height, width, canvas.device)
    a, b, flat, corner = (load(x) for x in (bars.start, bars.end, bars.width, bars.corner))
    step = b - a
    length = (step[..., 0] * step[..., 0] + step[..., 1] * step[..., 1]).sqrt().clamp_min(1e-6)
    ux, uy = step[..., 0] / length, step[..., 1] / length
    radius = torch.maximum(flat[..., 0], flat[..., 1]) + corner
    soft = softness[:, None]
    grown = (0.5 * soft - corner).clamp_min(0.0)
    corner, flat = corner + grown, (flat - grown[..., None]).clamp_min(0.0)
    taper = (flat[..., 1] - flat[..., 0]) / length
    near = torch.minimum(grown, 0.5 * length)
    far = length - near
    opacity = load(bars.opacity) * (2.0 * radius / soft).clamp_max(1.0)
    colour = torch.cat([load(bars.colour), load(bars.garment)[..., None]], -1)
    scale, full = -1.0 / soft[..., None], corner / soft + 0.5
    relief, inverse = -load(bars.relief), 1.0 / radius

    shape = (n, height, width)
    s, q, t, d, alpha = (canvas.new_empty(shape) for _ in range(5))
    paint = torch.empty_like(canvas)
    for k in range(a.shape[1]):
        at = partial(of_bar, k)
        x, y = across - at(a[..., 0]), down - at(a[..., 1])
        torch.add(x * at(ux), y * at(uy), out=s)
        torch.sub(y * at(ux), x * at(uy), out=q)
        torch.minimum(torch.maximum(s, at(near), out=t), at(far), out=t)
        s.sub_(t).mul_(s)
        t.mul_(at(taper)).add_(at(flat[..., 0]))
        torch.abs(q, out=d).sub_(t).clamp_min_(0.0)
        d.mul_(d).add_(s).sqrt_()
        torch.mul(d, scale, out=alpha).add_(at(full)).clamp_(0.0, 1.0).mul_(at(opacity))
        q.mul_(at(inverse))
        torch.mul(q, at(relief), out=t).add_(side[:, None, None]).mul_(q).add_(1.0).mul_(alpha)
        alpha.neg_().add_(1.0)
        torch.mul(t[:, None], colour[:, k, :, None, None], out=paint)
        canvas.mul_(alpha[:, None]).add_(paint)


def pixel_centres(height: int, width: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Compute image coordinates of pixel centres: x `(1, 1, W)` and y `(1, H, 1)`."""
    x = ((torch.arange(width, dtype=torch.float32) + 0.5) / width - 0.5) * 0.5
    y = (torch.arange(height, dtype=torch.float32) + 0.5) / height
    return x.view(1, 1, -1).to(device), y.view(1, -1, 1).to(device)


def tensor(x: Array, device: torch.device | str = "cpu", axes: int = 0) -> Tensor:
    """Convert an array to a float32 tensor, with `axes` more axes of size 1 at the end."""
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32).reshape(x.shape + (1,) * axes)).to(device)


@cache
def _tile(cell: int, device: torch.device) -> Tensor:
    """Make a periodic tile of smooth noise, `(TILE, TILE)`, standard deviation 1, with `cell` texels per grain."""
    noise = np.random.Generator(np.random.PCG64(cell)).standard_normal((TILE // cell,) * 2)
    ramp = ((np.arange(cell) + 0.5) / cell)[:, None]
    for _ in range(2):  # linear between grains, along one axis and then the other
        noise = (noise[:, None] * (1 - ramp) + np.roll(noise, -1, 0)[:, None] * ramp).reshape(TILE, -1).T
    return tensor(np.round(noise / noise.std() * 1024) / 1024, device)


def _grain(cell: int, place: Array, height: int, width: int, device: torch.device) -> Tensor:
    """Read the noise tile from `place` (N, 2) on: `(N, H, W)`, the same grains at every resolution."""
    start = torch.from_numpy((place * TILE).astype(np.int64)).to(device)
    y = start[:, :1] + (2 * torch.arange(height, device=device) + 1) * TEXELS // (2 * height)
    x = start[:, 1:] + (2 * torch.arange(width, device=device) + 1) * TEXELS // (4 * width)
    return _tile(cell, device)[(y % TILE)[:, :, None], (x % TILE)[:, None, :]]


def _pattern(trunk: Bars, look: Look, height: int, width: int, softness: Tensor) -> Tensor:
    """Compute the upper garment's pattern in the trunk's frame (without axis K): `(N, H, W)`, 0 plain to 1 accent."""
    load = partial(tensor, device=softness.device, axes=2)
    step = trunk.end - trunk.start
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-6)
    ux, uy = step[:, 0] / length, step[:, 1] / length
    girth = 2 * np.maximum(trunk.width.max(-1), 0.03)
    across, down = pixel_centres(height, width, softness.device)
    x, y = across - load(trunk.start[:, 0]), down - load(trunk.start[:, 1])
    bands = torch.zeros(len(length), height, width, device=softness.device)
    for count, kx, ky, size in ((look.stripes, ux, uy, length), (look.columns, -uy, ux, girth)):
        turns = (x * load(kx) + y * load(ky)) * load(count / size) + 0.25
        wave = (turns - turns.floor() - 0.5).abs() - 0.25
        sharpness = 12.0 / (load(2 * count / size) * softness[:, None, None]).clamp_min(1.0)
        bands += (wave * sharpness).clamp(-1.0, 1.0) * load(count > 0)
    kinds = 1.0 * (look.stripes > 0) + (look.columns > 0)
    return (bands / load(np.maximum(kinds, 1)) + 1.0) * load(0.5 * (kinds > 0))


def _bend(image: Tensor, gamma: Tensor) -> Tensor:
    """Apply the tone curve v / (v + gamma (1 - v)) in place: a rational version of v ** gamma that keeps 0 and 1."""
    image.clamp_(0.0, 1.0)
    return image.div_((1.0 - image).mul_(gamma).add_(image).clamp_min_(1e-6))


def _block(scene: Scene, height: int, width: int, device: torch.device) -> Tensor:
    """Render one block: uint8 `(N, H, W, 3)`."""
    look, view, light, style, scenery, others = scene
    load = partial(tensor, device=device)
    across, down = pixel_centres(height, width, device)
    pixel, blur = 0.5 * (1.0 / height + 0.5 / width), load(style.blur)
    softness = (blur * blur + pixel * pixel).sqrt()

    canvas = torch.zeros(len(blur), 4, height, width, device=device)
    image, garment = canvas[:, :3], canvas[:, 3]
    below = ((down - load(scenery.horizon, axes=2)) / softness[:, None, None] + 0.5).clamp(0.0, 1.0)
    wall, floor = load(scenery.wall, axes=2), load(scenery.floor, axes=2)
    texture = _grain(16, scenery.place, height, width, device).mul_(load(scenery.grain, axes=2)).add_(1.0)
    image.copy_(wall + below[:, None] * (floor - wall)).mul_(texture[:, None])
    figure = _Figure(look, view.phase, view.azimuth)
    person = _project(figure.bars(), view)
    composite(canvas, _sorted(scenery.bars, person, others), softness, load(light.side))
    trunk = Bars(*(x[:, figure.trunk_part] for x in person))
    pattern = _pattern(trunk, look, height, width, softness).mul_(garment)
    image.add_(pattern[:, None] * load(look.accent - look.upper, axes=2))

    edge = load(light.edge, axes=2)
    dark = ((across * edge[:, 0] + down * edge[:, 1] + edge[:, 2]) * 8.0 + 0.5).clamp_(0.0, 1.0)
    dark.mul_(-load(light.shadow, axes=2)).add_(1.0)
    image.mul_(dark[:, None]).mul_(load(light.gain, axes=2))
    _bend(image, load(light.gamma, axes=3))

    red, green, blue = image.unbind(1)
    mixed = load(style.matrix, axes=2).unbind(1)
    image = torch.stack([red * m[:, 0] + green * m[:, 1] + blue * m[:, 2] for m in mixed], 1)
    _bend(image.add_(load(style.offset, axes=2)), load(style.gamma, axes=3))
    noise = _grain(4, style.grain, height, width, device).mul_(load(style.noise, axes=2))
    image.add_(noise[:, None]).clamp_(0.0, 1.0).mul_(255.0).add_(0.5)
    return image.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def cover(scene: Scene, height: int, width: int) -> Tensor:
    """Compute the shares of each pixel that show the person and the others: `(N, 2, height, width)`, fractions.

    The others are people and things in front of or behind the person; shadows belong to neither. Edges are as sharp as
    pixels allow, whatever the camera's blur.
    """
    look, view, _, _, scenery, others = scene
    figure = _Figure(look, view.phase, view.azimuth)
    person = _project(figure.bars(), view)
    parts = []
    for bars, channel in ((scenery.bars, None), (person, 0), (others, 1)):
        colour = np.zeros_like(bars.colour)
        if channel is not None:
            colour[..., channel] = 1
        parts.append(
            bars._replace(colour=colour, garment=np.zeros_like(bars.garment), relief=np.zeros_like(bars.relief))
        )
    parts[1].colour[:, figure.shadow_part] = 0
    pixel = torch.full((len(view.phase),), 0.5 * (1.0 / height + 0.5 / width))
    canvas = torch.zeros(len(pixel), 4, height, width)
    composite(canvas, _sorted(*parts), pixel, torch.zeros_like(pixel))
    return canvas[:, :2]


def render(scene: Scene, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw images: uint8 `(N, height, width, 3)` on `device`, with the same content at every size."""
    device = torch.device(device)
    count, step = len(scene.view.phase), PIXELS_AT_ONCE if device.type == "cpu" else 64 * PIXELS_AT_ONCE
    step = max(1, step // (height * width))
    blocks = [_block(rows(scene, slice(i, i + step)), height, width, device) for i in range(0, count, step)]
    return torch.cat([torch.empty(0, height, width, 3, dtype=torch.uint8, device=device), *blocks])
