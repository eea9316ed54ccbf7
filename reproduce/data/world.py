"""The stand-in world: drawn pedestrians, for use without real data.

A domain, such as "market", is a population and a set of cameras. People walk from camera to camera; each sighting is
an image with its own pose, detection box, occlusion and illumination, in the style of its camera. `Dials` scale these
causes one by one. Images are written in the layout and name grammar of the real data set.

Every draw is addressed by (world seed, domain, who, cause): a dial scales draws and never reshuffles them, and a
smaller world shows the same people as a larger one. `reproduce.data.places` lists what differs between domains.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from math import cos, log, pi, radians, sin, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from reproduce.data.catalogue import statistics
from reproduce.data.places import Palette, Spread, Statistics
from reproduce.data.sampling import numpy_generator
from reproduce.data.spelling import SPELL, Caption, lists
from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

    from reproduce.data.drawing import Bars, Light, Look, Scene, Scenery, Style, View

    Array = npt.NDArray[Any]

WORLD_VERSION = 4
FPS = 25  # frames per second
USUAL = radians(12)  # elevation of all cameras with the pose dial at 0
STEEPEST = radians(70)  # largest elevation of a camera
FALL = 1.4  # drop of the horizon in image heights per radian of elevation
BLOCK = 256  # images staged together; does not affect pixels


@dataclass(frozen=True)
class Dials:
    """Strength of each cause of variation: 0 switches it off, 1 is the calibrated strength."""

    pose: float = 1.0
    """Gait, walking direction, distance and viewpoint of the cameras."""
    detection: float = 1.0
    """Shift, size and aspect of the box, and boxes around parts of people."""
    occlusion: float = 1.0
    """People and things in the way."""
    illumination: float = 1.0
    """Brightness, tones, colour temperature and shadows."""
    camera: float = 1.0
    """Colours, sharpness, noise and background of each camera."""
    time: float = 1.0
    """Probability that a visit to a camera is named after its own moment. At 0 all are named after random ones, so that
    times tell nothing about people or ways; pictures do not depend on it."""


CAUSES = tuple(field.name for field in fields(Dials) if field.name != "time")
"""Dials that change pictures."""


@dataclass(frozen=True)
class Size:
    """The amount to draw. The domain determines images per identity, cameras and junk."""

    train_ids: int
    """People in the training split."""
    test_ids: int
    """People in query and gallery; 0 for LUPerson, which has no test split."""
    distractor_ids: int
    """People in the gallery only; DukeMTMC-reID has 408 beside 702 test identities, and Market-1501's identity 0000
    amounts to about 400 beside 750."""
    height: int
    """Height of the images in pixels."""
    width: int
    """Width of the images in pixels; their content is drawn for half the height."""


# -- people and their walks --------------------------------------------------------------------------------------------


class Person(NamedTuple):
    """A person of a domain."""

    name: str  # of the domain
    role: str  # "train", "test", "junk" (boxes around parts of the test person of this number) or "distractor"
    number: int  # from 0


class Network(NamedTuple):
    """Positions of a domain's cameras, and ways between them."""

    place: Array  # (C, 2) metres
    facing: Array  # (C,) viewing direction, radians
    transit: Array  # (C, C) seconds from leaving one camera to entering another, for an average walker
    chance: Array  # (C, C) probability of the next camera of a walk; rows sum to 1


class Walk(NamedTuple):
    """Sightings of one person in temporal order, (n,) each."""

    camera: Array  # from 0
    sequence: Array  # recording session, from 1
    frame: Array
    away: Array  # 1 = walks away from the camera
    progress: Array  # position along the way through the camera's view, fraction


def look(person: Person, seed: int) -> Look:
    """Draw a person's appearance: one row of a `Look`."""
    import numpy as np

    from reproduce.data.drawing import Look

    domain, numbers = statistics(person.name), numpy_generator(seed, "world", *person, "look")

    def chance(p: float) -> float:
        return float(numbers.random() < p)

    def dyed(palette: Palette, spread: float = domain.dye) -> Array:
        brightness, hue = numbers.standard_normal(), numbers.standard_normal(3)
        return np.clip(_entry(palette, numbers.random()) + spread * (brightness + 0.5 * hue), 0.02, 0.98)

    upper, accent = dyed(domain.upper), dyed(domain.upper)
    if np.abs(upper - accent).sum() < 0.5:  # the pattern would be invisible
        accent = np.clip(upper + (0.5 if upper.mean() < 0.5 else -0.45), 0.02, 0.98)
    striped, jacket = chance(domain.striped), chance(domain.jacket)
    skirt, rucksack = chance(domain.skirt), chance(domain.rucksack)
    weave = numbers.integers(3)  # bands, columns or checks
    values: dict[str, Any] = {
        "build": np.clip(1 + 0.13 * numbers.standard_normal(), 0.75, 1.35),
        "legs": np.clip(1 + 0.05 * numbers.standard_normal(), 0.88, 1.12),
        "skin": dyed(domain.skin, 0.025),
        "hair": dyed(domain.hair, 0.025),
        "long_hair": chance(domain.long_hair),
        "upper": upper,
        "accent": accent,
        "stripes": striped * (weave != 1) * numbers.integers(3, 7),
        "columns": striped * (weave != 0) * numbers.integers(2, 5),
        "logo": chance(domain.logo) * (1 - striped) * (1 - jacket),
        "open": jacket * (1 - striped),
        "sleeves": max(chance(domain.long_sleeves), jacket),
        "hem": np.clip(_around(domain.hem, numbers.standard_normal()), 0.0, 0.35),
        "lower": dyed(domain.lower),
        "shorts": chance(domain.shorts) * (1 - skirt),
        "skirt": skirt,
        "shoes": dyed(domain.shoes),
        "rucksack": rucksack,
        "satchel": chance(domain.satchel) * (1 - rucksack) * numbers.choice([-1, 1]),
        "bag": dyed(domain.bags),
        "hat": chance(domain.hat),
        "cap": dyed(domain.bags),
    }
    return Look(**{key: np.asarray(value, dtype=float) for key, value in values.items()})


def _entry(palette: Palette, quantile: Array | float) -> Array:
    """Look up colours (..., 3) of a palette at quantiles (...) in [0, 1)."""
    import numpy as np

    shares = np.cumsum(list(palette.values()))
    colours = np.array([list(bytes.fromhex(code)) for code in palette]) / 255
    return np.asarray(colours[np.searchsorted(shares[:-1], np.asarray(quantile) * shares[-1], side="right")])


def network(name: str, seed: int) -> Network:
    """Place the cameras of a domain on a rough circle of 35 to 80 metres."""
    import numpy as np

    numbers, count = numpy_generator(seed, "world", name, "network"), statistics(name).cameras
    turn = 2 * pi * (np.arange(count) + 0.6 * numbers.random(count)) / count
    place = np.stack([np.cos(turn), np.sin(turn)], 1) * (35 + 45 * numbers.random((count, 1)))
    metres = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))
    detour = 1 + 0.4 * numbers.random((count, count))
    chance = np.exp(-metres / 40) * (1 - np.eye(count))
    return Network(place, 2 * pi * numbers.random(count), metres * detour / 1.35, chance / chance.sum(1, keepdims=True))


def walk(person: Person, seed: int, roads: Network) -> Walk:
    """Walk a person from camera to camera, at 0.75 to 1.35 times the average speed.

    Two cameras or more see each training and test person (except in LUPerson), each of them a test person at least
    twice.
    """
    import numpy as np

    domain, numbers = statistics(person.name), numpy_generator(seed, "world", *person, "walk")
    if person.role in ("train", "test"):
        per_camera = 2 if person.role == "test" else 1
        mean, spread, least, most = domain.images
        mean += domain.on_top * (person.role == "test")
        count = mean * np.exp(spread * numbers.standard_normal() - spread**2 / 2)
        count = int(np.clip(round(count), max(least, 2 * per_camera), most))
        seen, few, many = domain.visits
        visits = min(few + numbers.binomial(many - few, (seen - few) / max(many - few, 1)), count // per_camera)
    else:
        per_camera = visits = 1
        count = 1 + numbers.poisson((domain.junk if person.role == "junk" else domain.bystander_images) - 1)
    path = [int(numbers.integers(domain.cameras))]
    while len(path) < visits + 1:  # one more than recorded: the destination after the last sighting
        open_ = np.delete(np.arange(domain.cameras), path if len(path) < domain.cameras else path[-1])
        chance = roads.chance[path[-1], open_]
        path.append(int(numbers.choice(open_, p=chance / chance.sum())))
    stays = per_camera + numbers.multinomial(count - per_camera * visits, numbers.dirichlet(np.full(visits, 3.0)))
    if domain.even:
        stays = count // visits + (np.arange(visits) < count % visits)
    speed = np.clip(np.exp(0.12 * numbers.standard_normal()), 0.75, 1.35)

    steps = numbers.integers(5, 30, count)
    enters = np.cumsum(stays)[:-1]
    steps[enters] = np.ceil(FPS * (roads.transit[path[: visits - 1], path[1:visits]] / speed))
    steps[0] = 0
    frame = np.cumsum(steps)
    way = np.diff(roads.place[path], axis=0)
    away = np.cos(np.arctan2(way[:, 1], way[:, 0]) - roads.facing[path[:visits]]) > cos(pi * domain.away)
    return Walk(
        camera=np.repeat(path[:visits], stays),
        sequence=np.full(count, numbers.integers(1, domain.sequences + 1)),
        frame=frame + numbers.integers(1, max(2, domain.session - frame[-1])),
        away=np.repeat(away, stays).astype(float),
        progress=np.concatenate([(np.arange(stay) + 0.5) / stay for stay in stays]),
    )


def named(person: Person, seed: int, way: Walk, time: float) -> Walk:
    """Return the moments that file names tell of a walk.

    Each visit to a camera keeps its own with the probability of the dial `time`; others lie anywhere in any session.
    """
    import numpy as np

    domain, numbers = statistics(person.name), numpy_generator(seed, "world", *person, "time")
    frame, sequence = way.frame.copy(), way.sequence.copy()
    for visit in np.split(np.arange(len(frame)), np.flatnonzero(np.diff(way.camera)) + 1):
        luck, session, moment = numbers.random(3)
        if luck >= time:
            stay = frame[visit] - frame[visit[0]]
            frame[visit] = 1 + int(moment * max(1, domain.session - stay[-1] - 1)) + stay
            sequence[visit] = 1 + int(session * domain.sequences)
    return way._replace(frame=frame, sequence=sequence)


# -- cameras and scenes ------------------------------------------------------------------------------------------------


class Station(NamedTuple):
    """A camera at dial 1: its effect on colours, its view and its background. Stacked, a row per camera."""

    tint: Array  # (3,) log gain
    saturation: Array
    mixing: Array  # (3, 3), rows sum to 0
    tone: Array  # log gamma
    haze: Array  # (3,)
    blur: Array
    noise: Array
    elevation: Array  # radians
    axis: Array  # azimuth of people who walk towards it, radians
    wall: Array  # (3,)
    floor: Array  # (3,)
    horizon: Array
    grain: Array
    props: Array  # (J, 9) posts, doors and kerbs: x, y of both ends, half-width, corner, colour


class Shots(NamedTuple):
    """N images to draw; `stage` turns them into a `Scene` under given dials."""

    person: Array  # row in the table of looks
    camera: Array
    away: Array
    progress: Array
    fragment: Array  # 1 = box around a part of a person
    bystander: Array  # 1 = distractor, possibly an empty box
    uniform: Array  # (N, causes, 8)
    normal: Array  # (N, causes, 8)

    def draws(self, cause: str) -> tuple[Array, Array]:
        """Return the uniform and normal numbers of a cause, (N, 8) each."""
        return self.uniform[:, CAUSES.index(cause)], self.normal[:, CAUSES.index(cause)]


def station(name: str, camera: int, seed: int) -> Station:
    """Set up one camera of a domain; cameras count from 0.

    Differences between cameras are spread evenly over those of a domain, so that all worlds are about equally hard.
    """
    import numpy as np

    domain, numbers = statistics(name), numpy_generator(seed, "world", name, "camera", camera)
    z, u = numbers.standard_normal, numbers.random
    shared = numpy_generator(seed, "world", name, "cameras")
    quantiles = iter(_evenly(domain.cameras, 14, shared)[camera])  # as many as are used below

    def own(spread: Spread = (0.0, 1.0)) -> float:
        return float(_around(spread, NormalDist().inv_cdf(next(quantiles))))

    elevation = np.clip(radians(own(domain.elevation)), 0, STEEPEST)
    horizon = 0.72 - FALL * elevation + 0.10 * own()
    wall, floor = (
        np.clip(_entry(palette, next(quantiles)) + 0.03 * z(), 0.05, 0.95) for palette in (domain.walls, domain.floors)
    )
    mixing, hue = domain.mixing * z((3, 3)), own((domain.hue, domain.hue_spread))
    x, size, slope = np.linspace(-0.9, 0.9, 7) + 0.12 * z(7), u(7), 0.1 * z(7)
    upright = u(7) < 0.6  # posts and doors; the others are kerbs and lines on the floor
    foot = horizon + np.where(upright, 0.02 + 0.10 * size, 0.08 + 0.6 * size)
    long, high = np.where(upright, 0, 0.5), np.where(upright, 0.3 + 0.8 * size, 0)
    half, corner = np.where(upright, 0.01 + 0.10 * size**2, 0.002), np.where(upright, 0.012, 0.008)
    paint = np.where(upright[:, None], wall, floor) * np.exp(0.25 * z((7, 1))) + 0.03 * z((7, 3))
    ends = [x - long, foot - high - slope * ~upright, x + long, foot + slope * ~upright]
    values: dict[str, Any] = {
        "tint": np.log(domain.tint) + domain.tint_spread * np.array([own(), own(), own()]),
        "saturation": own(domain.saturation),
        "mixing": mixing - mixing.mean(1, keepdims=True) + _turn(radians(hue)) - np.eye(3),
        "tone": own(domain.tone),
        "haze": np.maximum(own(domain.haze) + 0.3 * domain.haze[1] * z(3), 0),
        "blur": max(own(domain.blur), 0),
        "noise": domain.noise * np.exp(0.3 * own()),
        "elevation": elevation,
        "axis": radians(own(domain.axis)),
        "wall": wall,
        "floor": floor,
        "horizon": horizon,
        "grain": 0.03 + 0.03 * u(),
        "props": np.column_stack([*ends, half, corner, np.clip(paint, 0.02, 0.98)]),
    }
    return Station(**{key: np.asarray(value, dtype=float) for key, value in values.items()})


def _evenly(rows: int, columns: int, numbers: Any) -> Array:
    """Draw uniform numbers (rows, columns) with each column spread evenly over 0 to 1 (Latin hypercube sampling)."""
    import numpy as np

    ranks = numbers.permuted(np.tile(np.arange(rows)[:, None], (1, columns)), axis=0)
    return np.asarray((ranks + numbers.random((rows, columns))) / rows)


def _around(spread: Spread, normal: Any) -> Any:
    """Scale normal numbers to the mean and standard deviation of a spread."""
    return spread[0] + spread[1] * normal


def _turn(angle: float) -> Array:
    """Compute the rotation of colours about grey (3, 3), which changes hues and keeps greys."""
    import numpy as np

    part = sin(angle) / sqrt(3) * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return cos(angle) * np.eye(3) + (1 - cos(angle)) / 3 + part


def stage(name: str, shots: Shots, looks: Look, stations: Station, dials: Dials) -> Scene:
    """Combine people and cameras into a scene for the renderer.

    Args:
        name: the domain.
        shots: N images.
        looks: one row per person.
        stations: one row per camera.
        dials: each scales the draws of its cause.
    """
    from reproduce.data.drawing import Scene, rows

    domain, at = statistics(name), rows(stations, shots.camera)
    return Scene(
        look=rows(looks, shots.person),
        view=_view(domain, shots, at, dials),
        light=_light(domain, shots, dials.illumination),
        style=_style(shots, at, dials.camera),
        scenery=_scenery(domain, shots, at, dials),
        others=_others(domain, shots, dials.occlusion),
    )


def _view(domain: Statistics, shots: Shots, at: Station, dials: Dials) -> View:
    import numpy as np

    from reproduce.data.drawing import View

    u, z = shots.draws("pose")
    turn = pi * min(dials.pose, 1) * shots.away + dials.pose * (at.axis + radians(domain.stroll) * z[:, 0])
    phase, distance = 0.9 + dials.pose * 2 * pi * u[:, 0], 9 * np.exp(dials.pose * 0.15 * np.clip(z[:, 1], -2, 2))
    elevation = np.minimum(USUAL + dials.pose * (at.elevation - USUAL), STEEPEST)

    u, z = shots.draws("detection")
    part = shots.fragment > 0
    cut = (u[:, 0] < dials.detection * domain.cut) * (0.2 + 0.4 * u[:, 1])
    lean = np.where(part, 0.18 * np.sign(u[:, 3] - 0.5), 0)
    sink = np.where(part, 0.35 + 0.3 * u[:, 4], 0.5 * cut) * np.sign(domain.above - u[:, 2])
    return View(
        phase=phase,
        azimuth=turn,
        elevation=elevation,
        distance=distance,
        right=dials.detection * domain.shift * z[:, 0] + lean,
        down=dials.detection * (domain.sink + domain.shift * z[:, 1]) + sink,
        zoom=np.exp(dials.detection * _around(domain.zoom, z[:, 2])) * np.where(part, 1.3 + u[:, 5], 1 + cut),
        aspect=np.exp(dials.detection * _around(domain.aspect, z[:, 3])),
        present=1.0 - shots.bystander * (u[:, 6] < domain.empty),
    )


def _light(domain: Statistics, shots: Shots, dial: float) -> Light:
    import numpy as np

    from reproduce.data.drawing import Light

    u, z = shots.draws("illumination")
    colour = dial * _around(domain.warmth, z[:, 1:2]) * np.array([1, 0, -1])
    turn, (least, most) = 2 * pi * u[:, 2], domain.dark
    return Light(
        gain=np.exp(log(2) * dial * _around(domain.gain, z[:, :1]) + colour),
        gamma=np.exp(dial * _around(domain.gamma, z[:, 2])),
        shadow=(u[:, 0] < dial * domain.shade) * (least + (most - least) * u[:, 1]),
        edge=np.stack([2 * np.cos(turn), np.sin(turn), -0.5 * np.sin(turn) + 0.3 * (u[:, 3] - 0.5)], -1),
        side=np.clip(dial * 0.18 * z[:, 3], -0.4, 0.4),
    )


def _style(shots: Shots, at: Station, dial: float) -> Style:
    import numpy as np

    from reproduce.data.drawing import Style

    saturation = 1 + dial * (at.saturation - 1)[:, None, None]
    matrix = saturation * np.eye(3) + (1 - saturation) / 3 + dial * at.mixing
    gain = np.exp(dial * at.tint) * (1 - dial * at.haze)
    return Style(
        matrix=gain[:, :, None] * matrix,
        offset=dial * at.haze,
        gamma=np.exp(dial * at.tone),
        blur=dial * at.blur,
        noise=dial * at.noise,
        grain=shots.draws("camera")[0][:, :2],
    )


def _scenery(domain: Statistics, shots: Shots, at: Station, dials: Dials) -> Scenery:
    import numpy as np

    from reproduce.data.drawing import Bars, Scenery

    (u, _), dial = shots.draws("camera"), dials.camera
    n, j = at.props.shape[:2]
    walked = 1.3 * (shots.progress - 0.5) + 0.1 * (u[:, 2] - 0.5)
    across = np.stack([walked, np.zeros_like(walked)], -1)[:, None]
    flat = np.zeros((n, j))
    props = Bars(
        start=at.props[..., 0:2] - across,
        end=at.props[..., 2:4] - across,
        width=at.props[..., [4, 4]],
        corner=at.props[..., 5],
        colour=at.props[..., 6:9],
        opacity=flat + min(dial, 1) * domain.clutter,
        garment=flat,
        relief=flat,
        depth=flat - 50 + np.arange(j),
    )
    wall, floor = (np.clip(0.5 + dial * (colour - 0.5), 0, 1) for colour in (at.wall, at.floor))
    grain, place = dial * at.grain * domain.clutter, np.stack([u[:, 3], walked % 1], -1)
    return Scenery(wall, floor, at.horizon, grain, place, props)


def _others(domain: Statistics, shots: Shots, dial: float) -> Bars:
    """Make a passer-by (in front or, less often, behind), a post or a low thing: 8 bars per image, most unseen."""
    import numpy as np

    from reproduce.data.drawing import Bars

    u, z = shots.draws("occlusion")
    n, seen = len(u), u[:, 0] < dial * domain.occluded
    people, posts, _ = domain.obstacles
    ends = ((0, people), (people, people + posts), (people + posts, 1))
    figure, post, low = (seen & (a <= u[:, 1]) & (u[:, 1] < b) for a, b in ends)
    behind = figure & (u[:, 3] > 0.7)
    side = np.sign(u[:, 2] - 0.5)
    x, top, rise = side * (0.09 + 0.13 * u[:, 3]), 0.07 - 0.11 * z[:, 0], 0.62 + 0.12 * u[:, 4]
    wear = [_entry(p, u[:, 4 + k]) for k, p in enumerate((domain.upper, domain.lower, domain.skin, domain.hair))]
    paint = _entry(domain.furniture, u[:, 5]) + 0.05 * z[:, 1:4]
    bars: list[tuple[Any, ...]] = [  # both ends, half-width at each, corner, shown, colour
        (x, top + 0.20, x, top + 0.46, 0.065, 0.05, 0.03, figure, wear[0]),
        (x - 0.03, top + 0.50, x - 0.05, 0.95, 0.025, 0.012, 0.02, figure, wear[1]),
        (x + 0.03, top + 0.50, x + 0.04, 0.93, 0.025, 0.012, 0.02, figure, wear[1]),
        (x, top + 0.08, x, top + 0.10, 0, 0, 0.045, figure, wear[2]),
        (x, top + 0.05, x, top + 0.06, 0, 0, 0.045, figure, wear[3]),
        (0.8 * x, -0.1, 0.8 * x, 1.1, domain.post, domain.post, 0.01, post, paint),
        (-0.3, rise + 0.05 * side, 0.3, rise - 0.05 * side, 0.012, 0.012, 0.008, low, paint),
        (-0.3, rise + 0.28, 0.3, rise + 0.28, 0.16, 0.16, 0.02, low, 0.8 * paint),
    ]
    *numbers, colours = zip(*bars, strict=True)
    columns = [np.stack([np.broadcast_to(v, n) for v in column], 1).astype(float) for column in numbers]
    x0, y0, x1, y1, w0, w1, corner, shown = columns
    return Bars(
        start=np.stack([x0, y0], -1),
        end=np.stack([x1, y1], -1),
        width=np.stack([w0, w1], -1),
        corner=corner,
        colour=np.clip(np.stack(colours, 1), 0.02, 0.98),
        opacity=shown,
        garment=np.zeros_like(shown),
        relief=np.full_like(shown, 0.35),
        depth=np.where(behind, -5.0, 5.0)[:, None] + 0.01 * np.arange(len(bars)),
    )


# -- data sets ---------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """A domain before drawing: N images sorted by path."""

    paths: list[str]
    shots: Shots
    looks: Look
    stations: Station


def plan(name: str, *, seed: int, size: Size, time: float = 1.0) -> Plan:
    """Plan all people, their looks and walks, and the names of images; `time` is the dial of that name."""
    return _plan(name, seed, size, time)[0]


def _plan(name: str, seed: int, size: Size, time: float) -> tuple[Plan, list[str]]:
    """Return the plan, and the split of each image."""
    import numpy as np

    from reproduce.data.drawing import join, rows

    domain, roads = statistics(name), network(name, seed)
    looks, shots = [], []
    splits: dict[str, str] = {}  # by path
    for person, pid, odd in _cast(name, seed, size):
        if person.role != "junk":
            looks.append(look(person, seed))
        way = walk(person, seed, roads)
        shots.append(shoot(person, seed, way, len(looks) - 1))
        for caption in _captions(domain, person, pid, odd, named(person, seed, way, time), seed):
            while (path := SPELL[domain.grammar](caption._replace(total=len(splits)))) in splits:
                caption = caption._replace(frame=caption.frame + 1)  # several people under one number may share a frame
            splits[path] = caption.split
    names = list(splits)
    order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    stations = [station(name, camera, seed) for camera in range(domain.cameras)]
    paths = [names[k] for k in order]
    world = Plan(paths, rows(join(shots), order), join(looks, np.stack), join(stations, np.stack))
    return world, [splits[path] for path in paths]


def _captions(domain: Statistics, person: Person, pid: int, odd: bool, way: Walk, seed: int) -> Iterator[Caption]:
    """Yield the captions of a person's images."""
    import numpy as np

    count, numbers = len(way.frame), numpy_generator(seed, "world", *person, "names")
    boxes, few = numbers.integers(1, 5, count), np.full(count, odd)
    splits = ["train" if person.role == "train" else "gallery"] * count
    if person.role == "test":  # one query per camera
        for camera in np.unique(way.camera):
            splits[numbers.choice(np.flatnonzero(way.camera == camera))] = "query"
    if domain.grammar == "msmt17":
        few = numbers.random(count) < 0.42
        if person.role == "train":  # list_val.txt has 7 % of everybody's training images
            for k in numbers.permutation(count)[: max(1, round(0.073 * count))]:
                splits[k] = "val"
    for k, split in enumerate(splits):
        place = int(way.camera[k]), int(way.sequence[k]), int(way.frame[k])
        yield Caption(split, pid, *place, int(boxes[k]), k, 0, bool(few[k]))


class _Member(NamedTuple):
    """A person of the cast."""

    person: Person
    pid: int
    odd: bool  # whether image names have the rare spelling


def _cast(name: str, seed: int, size: Size) -> list[_Member]:
    """List everybody in a domain; junk follows its test person."""
    domain = statistics(name)
    counts = {"train": size.train_ids, "test": size.test_ids, "distractor": size.distractor_ids}
    if min(counts.values()) < 0 or sum(counts.values()) > 9999:
        raise UserError(f"a drawn domain has 0 to 9999 people, not {counts}")
    if domain.labelled and not (size.train_ids and size.test_ids):
        raise UserError(f"{name}: a labelled set has people to train on and people to search for, not {counts}")
    if not domain.labelled and (size.test_ids or size.distractor_ids or not size.train_ids):
        raise UserError(f"{name}: an unlabelled set has people to train on and no others, not {counts}")
    market = domain.grammar == "market"
    pids = iter(1 + numpy_generator(seed, "world", name, "pids").permutation(sum(counts.values())))
    cast: list[_Member] = []
    for role, count in counts.items():
        for number in range(count):
            # Market-1501 has 22 names with a double suffix: those of one test identity and a few distractors.
            odd = market and role != "train" and number == count - 1
            pid = int(next(pids))
            if domain.grammar == "msmt17":  # both halves count from 0
                pid = number + size.test_ids * (role == "distractor")
            cast.append(_Member(Person(name, role, number), 0 if market and role == "distractor" else pid, odd))
            if role == "test" and domain.junk:
                cast.append(_Member(Person(name, "junk", number), -1, False))
    if domain.grammar == "cuhk03":  # its images are numbered consecutively, sorted by identity
        cast.sort(key=lambda member: member.pid)
    return cast


def shoot(person: Person, seed: int, way: Walk, row: int) -> Shots:
    """Draw the parameters of the images of a walk; `row` is the person's row in the table of looks."""
    import numpy as np

    n = len(way.frame)
    streams = [numpy_generator(seed, "world", *person, cause) for cause in CAUSES]
    uniform = np.stack([numbers.random((n, 8)) for numbers in streams], 1)
    normal = np.stack([numbers.standard_normal((n, 8)) for numbers in streams], 1)
    enters = np.flatnonzero(np.diff(way.camera, prepend=-1))
    entry = np.repeat(enters, np.diff(enters, append=n))  # light changes little during one pass
    light = CAUSES.index("illumination")
    normal[:, light] = 0.8 * normal[entry, light] + 0.6 * normal[:, light]
    if daylight := statistics(person.name).daylight:
        for session in np.unique(way.sequence):
            numbers = numpy_generator(seed, "world", person.name, "session", int(session))
            normal[way.sequence == session, light] += daylight * numbers.standard_normal(8)
    return Shots(
        person=np.full(n, row),
        camera=way.camera,
        away=way.away,
        progress=way.progress,
        fragment=np.full(n, float(person.role == "junk")),
        bystander=np.full(n, float(person.role == "distractor")),
        uniform=uniform,
        normal=normal,
    )


def cover(name: str, paths: Sequence[str], height: int, width: int, *, seed: int, size: Size, dials: Dials) -> Tensor:
    """Compute `reproduce.data.drawing.cover` for images of a domain drawn by `draw`: (N, 2, height, width).

    Args:
        name: the domain.
        paths: N of the paths that `draw` writes.
        height, width: of the result, whatever the size of the files.
        seed, size, dials: as given to `draw`.
    """
    import numpy as np
    import torch

    from reproduce.data import drawing

    world = plan(name, seed=seed, size=size, time=dials.time)
    places = {path: place for place, path in enumerate(world.paths)}
    wanted = np.array([places[path] for path in paths])
    blocks = [wanted[start : start + BLOCK] for start in range(0, len(wanted), BLOCK)]
    shots = (drawing.rows(world.shots, block) for block in blocks)
    scenes = (stage(name, block, world.looks, world.stations, dials) for block in shots)
    return torch.cat([torch.empty(0, 2, height, width), *(drawing.cover(it, height, width) for it in scenes)])


def draw(
    folder: Path,
    name: str,
    *,
    seed: int,
    size: Size,
    dials: Dials,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Draw a domain into a folder, in the layout of the real data set: JPEG files of quality 95, or PNG for CUHK03.

    Args:
        folder: receives the files, like the real data set's own folder.
        name: of the domain, such as "market".
        seed: of the world; different seeds have different people and cameras.
        size: number of people, and size of the files in pixels.
        dials: strength of each cause of variation.
        progress: called with the number of images done and in total.

    Returns:
        The sha256 of all pixels before encoding, sorted by path.

    Raises:
        UserError: the domain has no stand-in, too many people, or a split without the people it needs.
    """
    from reproduce.data.drawing import render, rows
    from reproduce.data.images import encode

    world, splits = _plan(name, seed, size, dials.time)
    for inner in {path.rpartition("/")[0] for path in world.paths}:
        (folder / inner).mkdir(parents=True, exist_ok=True)
    for file, lines in lists(statistics(name).grammar, zip(world.paths, splits, strict=True)).items():
        (folder / file).write_text(lines)

    digest, count = hashlib.sha256(), len(world.paths)
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, count, BLOCK):
            block = slice(start, start + BLOCK)
            scene = stage(name, rows(world.shots, block), world.looks, world.stations, dials)
            pixels = render(scene, size.height, size.width).numpy()
            digest.update(pixels.tobytes())
            list(pool.map(encode, [folder / path for path in world.paths[block]], pixels))
            if progress:
                progress(min(start + BLOCK, count), count)
    return digest.hexdigest()
