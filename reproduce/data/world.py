"""The stand-in world: drawn pedestrians for whoever has no data.

A domain ("market", "duke") is a population and a set of cameras. People walk from camera to camera; each sighting is
an image with a pose, a detection box, occlusion and illumination of its own, in the style of its camera. `Dials` scale
these causes one by one. Images are written in the layout and under the name grammar of the real data set.

Every draw is addressed by (world seed, domain, who, cause): a dial scales draws and never reshuffles them, and a
smaller world shows the same people as a larger one. What differs between domains is `DOMAINS`, a table.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from math import cos, log, pi, radians, sin, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from reproduce.data.sampling import numpy_generator
from reproduce.stage import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import PIL.Image

    from reproduce.data.drawing import Bars, Light, Look, Scene, Scenery, Style, View

    Array = npt.NDArray[Any]

WORLD_VERSION = 1
FPS = 25  # frames a second
BLOCK = 256  # images staged together; without effect on the pixels


@dataclass(frozen=True)
class Dials:
    """Strength of each cause of variation: 0 switches it off, 1 is the calibrated strength."""

    pose: float = 1.0  # gait, walking direction, distance
    detection: float = 1.0  # shift, size and aspect of the box, boxes around a part
    occlusion: float = 1.0  # people and things in the way
    illumination: float = 1.0  # brightness, tones, colour temperature, shadows
    camera: float = 1.0  # colours, sharpness, noise, view point and background of each camera


FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
CAUSES = tuple(field.name for field in fields(Dials))


@dataclass(frozen=True)
class Size:
    """How much to draw. Images per identity, cameras and junk follow from the domain.

    Attributes:
        train_ids: people of the training split.
        test_ids: people of query and gallery.
        distractor_ids: people of the gallery alone; DukeMTMC-reID has 408 beside 702 test identities, and Market-1501's
            identity 0000 amounts to about 400 beside 750.
        height: of the images, pixels.
        width: of the images, pixels; their content is drawn for half the height.
    """

    train_ids: int
    test_ids: int
    distractor_ids: int
    height: int
    width: int


Palette = dict[str, int]
"""Colours as RRGGBB with their shares in percent."""

Spread = tuple[float, float]
"""Mean and standard deviation."""


@dataclass(frozen=True)
class Statistics:
    """What makes a domain. Plain numbers are chances (fractions) or, under a dial, standard deviations."""

    grammar: str  # of folders and file names: "market" or "duke"
    cameras: int
    sequences: int  # recording sessions; frames count anew in each
    session: int  # frames
    images: tuple[float, float, int, int]  # of an identity: mean, spread of the logarithm, least, most
    visits: tuple[float, int]  # cameras that see an identity: mean, most
    queries_on_top: bool  # test identities have as many images in the gallery as training ones have
    bystander_images: float  # of a distractor, mean
    empty: float  # a distractor's box that holds nobody
    junk: float  # boxes around a part of a test person, mean number per identity

    upper: Palette
    lower: Palette
    shoes: Palette
    bags: Palette
    hair: Palette
    skin: Palette
    dye: float  # standard deviation of a garment's colour around the palette's
    long_sleeves: float
    shorts: float
    skirt: float
    long_hair: float
    rucksack: float
    satchel: float
    hat: float
    striped: float
    logo: float
    jacket: float
    hem: Spread  # below the hip, metres

    # camera
    walls: Palette
    floors: Palette
    tint: tuple[float, float, float]  # gain of red, green, blue
    tint_spread: float  # of the cameras, log
    saturation: Spread
    hue: float  # turn of all colours about grey, degrees
    mixing: float  # between colour channels
    tone: Spread  # log gamma
    haze: Spread  # black level
    blur: Spread  # width of an edge, image heights
    noise: float
    elevation: Spread  # degrees
    axis: float  # way of those who come towards it, degrees

    # pose, detection, occlusion, illumination
    stroll: float  # of the azimuth around the way, degrees
    shift: float  # box heights
    zoom: float  # log
    cut: float  # chance of a box around a part of the person
    occluded: float  # chance
    gain: float  # log2
    temperature: float  # log
    gamma: float  # log
    shade: float  # chance of a cast shadow


# fmt: off
DOMAINS = {
    "market": Statistics(
        grammar="market", cameras=6, sequences=6, session=71_000, images=(17.2, 0.55, 2, 72), visits=(4.5, 6),
        queries_on_top=True, bystander_images=7.0, empty=0.4, junk=5.1,
        upper={"ebebeb": 20, "1a1a1c": 14, "c72429": 10, "eb99ad": 9, "f0d140": 8, "409457": 9, "5c99db": 10,
               "24337a": 8, "7a4794": 6, "9e9e9e": 6},
        lower={"1f1f24": 30, "425c8f": 24, "7a99c7": 12, "ad9975": 12, "808080": 10, "e6e0d9": 7, "b33d42": 5},
        shoes={"e6e6e0": 40, "1f1f1f": 30, "73523d": 20, "bf3333": 10},
        bags={"1f1f21": 35, "b8292e": 20, "2e478c": 20, "8c6b47": 15, "d98033": 10},
        hair={"1a1414": 80, "422b1f": 20}, skin={"e0b394": 80, "c29170": 20}, dye=0.06,
        long_sleeves=0.30, shorts=0.40, skirt=0.18, long_hair=0.38, rucksack=0.26, satchel=0.24, hat=0.10,
        striped=0.28, logo=0.15, jacket=0.06, hem=(0.04, 0.05),
        walls={"6b7a5c": 35, "b8b3a3": 35, "5c666e": 30}, floors={"a8a399": 50, "8f8575": 30, "7a8f6b": 20},
        tint=(1.12, 1.04, 0.86), tint_spread=0.025, saturation=(1.15, 0.05), hue=50.0, mixing=0.010, tone=(-0.2, 0.08),
        haze=(0.01, 0.008), blur=(0.007, 0.003), noise=0.03, elevation=(7.0, 2.5), axis=16.0,
        stroll=12.0, shift=0.014, zoom=0.03, cut=0.03, occluded=0.10, gain=0.10, temperature=0.02, gamma=0.07,
        shade=0.15,
    ),
    "duke": Statistics(
        grammar="duke", cameras=8, sequences=1, session=127_000, images=(23.5, 0.50, 6, 110), visits=(3.2, 6),
        queries_on_top=False, bystander_images=8.5, empty=0.0, junk=0.0,
        upper={"1a1a1c": 20, "525459": 12, "212b5c": 12, "9e9ea1": 9, "99262e": 9, "2e6638": 9, "7d4f2e": 9,
               "38619e": 9, "dedede": 6, "b8862e": 5},
        lower={"38476b": 28, "1a1a1f": 26, "a38c61": 16, "616166": 14, "7d94b8": 12, "733338": 4},
        shoes={"242121": 45, "664733": 25, "d9d9d9": 30},
        bags={"1c1c1f": 34, "334a80": 22, "8f2429": 18, "707570": 14, "b3803d": 12},
        hair={"241a14": 45, "5c3d24": 35, "b38f57": 20}, skin={"e6b89e": 65, "805740": 35}, dye=0.06,
        long_sleeves=0.85, shorts=0.12, skirt=0.09, long_hair=0.40, rucksack=0.15, satchel=0.22, hat=0.18,
        striped=0.20, logo=0.10, jacket=0.10, hem=(0.10, 0.10),
        walls={"70665c": 40, "66665e": 30, "7d7872": 30}, floors={"85807d": 50, "7a6b63": 30, "737566": 20},
        tint=(0.90, 1.00, 1.18), tint_spread=0.040, saturation=(0.65, 0.05), hue=-50.0, mixing=0.020, tone=(0.35, 0.08),
        haze=(0.18, 0.012), blur=(0.027, 0.004), noise=0.006, elevation=(22.0, 2.5), axis=10.0,
        stroll=9.0, shift=0.010, zoom=0.03, cut=0.03, occluded=0.10, gain=0.10, temperature=0.02, gamma=0.07,
        shade=0.15,
    ),
}
# fmt: on


def statistics(name: str) -> Statistics:
    """Statistics of a domain; `UserError` for a name that has none."""
    if name not in DOMAINS:
        drawn = ", ".join(sorted(DOMAINS))
        raise UserError(f"no stand-in can be drawn for {name!r}, only for {drawn}; bring real data for it")
    return DOMAINS[name]


# -- people and their walks --------------------------------------------------------------------------------------------


class Person(NamedTuple):
    """Somebody: role is "train", "test", "junk" (parts of that test person) or "distractor"; numbers count from 0."""

    name: str
    role: str
    number: int


class Network(NamedTuple):
    """The cameras of a domain on the ground."""

    place: Array  # (C, 2) metres
    facing: Array  # (C,) direction of sight, radians
    transit: Array  # (C, C) seconds from leaving one camera to entering another, for an average walker
    chance: Array  # (C, C) that a walk goes there next; rows sum to 1


class Walk(NamedTuple):
    """Sightings of one person in order of time, (n,) each."""

    camera: Array  # from 0
    sequence: Array  # recording session, from 1
    frame: Array
    away: Array  # 1 = walks away from the camera
    progress: Array  # through the camera's view, fraction


def look(person: Person, seed: int) -> Look:
    """Draws what a person looks like: one row of a `Look`."""
    import numpy as np

    from reproduce.data.drawing import Look

    domain, numbers = statistics(person.name), numpy_generator(seed, "world", *person, "look")

    def chance(p: float) -> float:
        return float(numbers.random() < p)

    def dyed(palette: Palette, spread: float = domain.dye) -> Array:
        brightness, hue = numbers.standard_normal(), numbers.standard_normal(3)
        return np.clip(_entry(palette, numbers.random()) + spread * (brightness + 0.5 * hue), 0.02, 0.98)

    upper, accent = dyed(domain.upper), dyed(domain.upper)
    if np.abs(upper - accent).sum() < 0.5:  # a pattern that could not be seen
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
        "hem": np.clip(domain.hem[0] + domain.hem[1] * numbers.standard_normal(), 0.0, 0.35),
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
    """Colours (..., 3) of a palette at quantiles (...) in [0, 1)."""
    import numpy as np

    shares = np.cumsum(list(palette.values()))
    colours = np.array([list(bytes.fromhex(code)) for code in palette]) / 255
    return np.asarray(colours[np.searchsorted(shares[:-1], np.asarray(quantile) * shares[-1], side="right")])


def network(name: str, seed: int) -> Network:
    """Lays out the cameras of a domain, on a rough circle of 35 to 80 metres."""
    import numpy as np

    numbers, count = numpy_generator(seed, "world", name, "network"), statistics(name).cameras
    turn = 2 * pi * (np.arange(count) + 0.6 * numbers.random(count)) / count
    place = np.stack([np.cos(turn), np.sin(turn)], 1) * (35 + 45 * numbers.random((count, 1)))
    metres = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))
    detour = 1 + 0.4 * numbers.random((count, count))
    chance = np.exp(-metres / 40) * (1 - np.eye(count))
    return Network(place, 2 * pi * numbers.random(count), metres * detour / 1.35, chance / chance.sum(1, keepdims=True))


def walk(person: Person, seed: int, roads: Network) -> Walk:
    """Walks a person from camera to camera; a walker's speed is 0.75 to 1.35 times the average.

    Training and test people are seen by two cameras or more, a test person at least twice by each.
    """
    import numpy as np

    domain, numbers = statistics(person.name), numpy_generator(seed, "world", *person, "walk")
    if person.role in ("train", "test"):
        each = 2 if person.role == "test" else 1
        mean, spread, least, most = domain.images
        mean += domain.visits[0] * (domain.queries_on_top and person.role == "test")
        count = mean * np.exp(spread * numbers.standard_normal() - spread**2 / 2)
        count = int(np.clip(round(count), max(least, 2 * each), most))
        seen, most_seen = domain.visits
        visits = min(2 + numbers.binomial(most_seen - 2, (seen - 2) / max(most_seen - 2, 1)), count // each)
    else:
        each = visits = 1
        count = 1 + numbers.poisson((domain.junk if person.role == "junk" else domain.bystander_images) - 1)
    path = [int(numbers.integers(domain.cameras))]
    while len(path) < visits + 1:  # one more than is recorded: where the last sighting heads for
        open_ = np.delete(np.arange(domain.cameras), path if len(path) < domain.cameras else path[-1])
        chance = roads.chance[path[-1], open_]
        path.append(int(numbers.choice(open_, p=chance / chance.sum())))
    stays = each + numbers.multinomial(count - each * visits, numbers.dirichlet(np.full(visits, 3.0)))
    speed = np.clip(np.exp(0.12 * numbers.standard_normal()), 0.75, 1.35)

    steps = numbers.integers(5, 30, count)
    enters = np.cumsum(stays)[:-1]
    steps[enters] = np.ceil(FPS * roads.transit[path[: visits - 1], path[1:visits]] / speed)
    steps[0] = 0
    frame = np.cumsum(steps)
    way = np.diff(roads.place[path], axis=0)
    away = np.cos(np.arctan2(way[:, 1], way[:, 0]) - roads.facing[path[:visits]]) > 0
    return Walk(
        camera=np.repeat(path[:visits], stays),
        sequence=np.full(count, numbers.integers(1, domain.sequences + 1)),
        frame=frame + numbers.integers(1, max(2, domain.session - frame[-1])),
        away=np.repeat(away, stays).astype(float),
        progress=np.concatenate([(np.arange(stay) + 0.5) / stay for stay in stays]),
    )


# -- cameras and scenes ------------------------------------------------------------------------------------------------


class Station(NamedTuple):
    """A camera as it is at dial 1: what it does to colours, and what it looks at. Rows of cameras, when stacked."""

    tint: Array  # (3,) log gain
    saturation: Array
    mixing: Array  # (3, 3), rows sum to 0
    tone: Array  # log gamma
    haze: Array  # (3,)
    blur: Array
    noise: Array
    elevation: Array  # radians
    axis: Array  # azimuth of people who come towards it
    wall: Array  # (3,)
    floor: Array  # (3,)
    horizon: Array
    grain: Array
    props: Array  # (J, 9): posts, doors, kerbs: x, y of both ends, half-width, corner, colour


class Shots(NamedTuple):
    """Images that will be drawn, N of them; `stage` makes a `Scene` of them under given dials."""

    person: Array  # row in the table of looks
    camera: Array
    away: Array
    progress: Array
    fragment: Array  # 1 = a box around a part of a person
    bystander: Array  # 1 = a distractor, perhaps nobody
    uniform: Array  # (N, causes, 8)
    normal: Array  # (N, causes, 8)

    def draws(self, cause: str) -> tuple[Array, Array]:
        """Uniform and normal numbers of a cause, (N, 8) each."""
        return self.uniform[:, CAUSES.index(cause)], self.normal[:, CAUSES.index(cause)]


def station(name: str, camera: int, seed: int) -> Station:
    """Sets up one camera of a domain; cameras count from 0."""
    import numpy as np

    domain, numbers = statistics(name), numpy_generator(seed, "world", name, "camera", camera)
    z, u = numbers.standard_normal, numbers.random
    elevation = radians(np.clip(domain.elevation[0] + domain.elevation[1] * z(), 0, 40))
    horizon = 0.72 - 1.4 * elevation + 0.10 * z()
    wall, floor = (np.clip(_entry(palette, u()) + 0.03 * z(), 0.05, 0.95) for palette in (domain.walls, domain.floors))
    mixing = domain.mixing * z((3, 3))
    x, size, slope = np.linspace(-0.9, 0.9, 7) + 0.12 * z(7), u(7), 0.1 * z(7)
    upright = u(7) < 0.6  # posts and doors; the others are kerbs and lines on the floor
    foot = horizon + np.where(upright, 0.02 + 0.10 * size, 0.08 + 0.6 * size)
    long, high = np.where(upright, 0, 0.5), np.where(upright, 0.3 + 0.8 * size, 0)
    half, corner = np.where(upright, 0.01 + 0.10 * size**2, 0.002), np.where(upright, 0.012, 0.008)
    paint = np.where(upright[:, None], wall, floor) * np.exp(0.25 * z((7, 1))) + 0.03 * z((7, 3))
    ends = [x - long, foot - high - slope * ~upright, x + long, foot + slope * ~upright]
    values: dict[str, Any] = {
        "tint": np.log(domain.tint) + domain.tint_spread * z(3),
        "saturation": domain.saturation[0] + domain.saturation[1] * z(),
        "mixing": mixing - mixing.mean(1, keepdims=True) + _turn(radians(domain.hue)) - np.eye(3),
        "tone": domain.tone[0] + domain.tone[1] * z(),
        "haze": np.maximum(domain.haze[0] + domain.haze[1] * (z() + 0.3 * z(3)), 0),
        "blur": max(domain.blur[0] + domain.blur[1] * z(), 0),
        "noise": domain.noise * np.exp(0.3 * z()),
        "elevation": elevation,
        "axis": radians(domain.axis) * z(),
        "wall": wall,
        "floor": floor,
        "horizon": horizon,
        "grain": 0.03 + 0.03 * u(),
        "props": np.column_stack([*ends, half, corner, np.clip(paint, 0.02, 0.98)]),
    }
    return Station(**{key: np.asarray(value, dtype=float) for key, value in values.items()})


def _turn(angle: float) -> Array:
    """The rotation of colours about grey (3, 3), which turns hues and leaves greys as they are."""
    import numpy as np

    part = sin(angle) / sqrt(3) * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return cos(angle) * np.eye(3) + (1 - cos(angle)) / 3 + part


def stage(name: str, shots: Shots, looks: Look, stations: Station, dials: Dials) -> Scene:
    """Puts people before cameras: what the renderer draws.

    Args:
        name: the domain.
        shots: N images.
        looks: a row for each person.
        stations: a row for each camera.
        dials: scale the draws, each those of its cause.
    """
    from reproduce.data.drawing import Scene, rows

    domain, at = statistics(name), rows(stations, shots.camera)
    return Scene(
        look=rows(looks, shots.person),
        view=_view(domain, shots, at, dials),
        light=_light(domain, shots, dials.illumination),
        style=_style(shots, at, dials.camera),
        scenery=_scenery(shots, at, dials.camera),
        others=_others(domain, shots, dials.occlusion),
    )


def _view(domain: Statistics, shots: Shots, at: Station, dials: Dials) -> View:
    import numpy as np

    from reproduce.data.drawing import View

    u, z = shots.draws("pose")
    turn = pi * min(dials.pose, 1) * shots.away + dials.pose * radians(domain.stroll) * z[:, 0]
    phase, distance = 0.9 + dials.pose * 2 * pi * u[:, 0], 9 * np.exp(dials.pose * 0.15 * np.clip(z[:, 1], -2, 2))

    u, z = shots.draws("detection")
    part = shots.fragment > 0
    cut = (u[:, 0] < dials.detection * domain.cut) * (0.2 + 0.4 * u[:, 1])
    lean = np.where(part, 0.18 * np.sign(u[:, 3] - 0.5), 0)
    sink = np.where(part, 0.35 + 0.3 * u[:, 4], 0.5 * cut) * np.sign(0.7 - u[:, 2])  # mostly the upper part
    return View(
        phase=phase,
        azimuth=dials.camera * at.axis + turn,
        elevation=radians(12) + dials.camera * (at.elevation - radians(12)),
        distance=distance,
        right=dials.detection * domain.shift * z[:, 0] + lean,
        down=dials.detection * domain.shift * z[:, 1] + sink,
        zoom=np.exp(dials.detection * domain.zoom * z[:, 2]) * np.where(part, 1.3 + u[:, 5], 1 + cut),
        aspect=np.exp(dials.detection * domain.zoom * z[:, 3]),
        present=1.0 - shots.bystander * (u[:, 6] < domain.empty),
    )


def _light(domain: Statistics, shots: Shots, dial: float) -> Light:
    import numpy as np

    from reproduce.data.drawing import Light

    u, z = shots.draws("illumination")
    warmth = domain.temperature * z[:, 1:2] * np.array([1, 0, -1])
    turn = 2 * pi * u[:, 2]
    return Light(
        gain=np.exp(dial * (domain.gain * log(2) * z[:, :1] + warmth)),
        gamma=np.exp(dial * domain.gamma * z[:, 2]),
        shadow=(u[:, 0] < dial * domain.shade) * (0.2 + 0.35 * u[:, 1]),
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


def _scenery(shots: Shots, at: Station, dial: float) -> Scenery:
    import numpy as np

    from reproduce.data.drawing import Bars, Scenery

    u, _ = shots.draws("camera")
    n, j = at.props.shape[:2]
    walked = 1.3 * (shots.progress - 0.5) + 0.1 * (u[:, 2] - 0.5)
    across = np.stack([walked, np.zeros(n)], -1)[:, None]
    flat = np.zeros((n, j))
    props = Bars(
        start=at.props[..., 0:2] - across,
        end=at.props[..., 2:4] - across,
        width=at.props[..., [4, 4]],
        corner=at.props[..., 5],
        colour=at.props[..., 6:9],
        opacity=flat + min(dial, 1),
        garment=flat,
        relief=flat,
        depth=flat - 50 + np.arange(j),
    )
    wall, floor = (np.clip(0.5 + dial * (colour - 0.5), 0, 1) for colour in (at.wall, at.floor))
    return Scenery(wall, floor, at.horizon, dial * at.grain, np.stack([u[:, 3], walked % 1], -1), props)


def _others(domain: Statistics, shots: Shots, dial: float) -> Bars:
    """Somebody passing (before or, less often, behind), a post or a low thing: 8 bars an image, most of them unseen."""
    import numpy as np

    from reproduce.data.drawing import Bars

    u, z = shots.draws("occlusion")
    n, seen = len(u), u[:, 0] < dial * domain.occluded
    figure, post, low = (seen & (a <= u[:, 1]) & (u[:, 1] < b) for a, b in ((0, 0.6), (0.6, 0.8), (0.8, 1)))
    behind = figure & (u[:, 3] > 0.7)
    side = np.sign(u[:, 2] - 0.5)
    x, top, rise = side * (0.09 + 0.13 * u[:, 3]), 0.07 - 0.11 * z[:, 0], 0.62 + 0.12 * u[:, 4]
    wear = [_entry(p, u[:, 4 + k]) for k, p in enumerate((domain.upper, domain.lower, domain.skin, domain.hair))]
    grey = 0.35 + 0.12 * z[:, 1:4]
    bars: list[tuple[Any, ...]] = [  # both ends, half-width at each, corner, shown, colour
        (x, top + 0.20, x, top + 0.46, 0.065, 0.05, 0.03, figure, wear[0]),
        (x - 0.03, top + 0.50, x - 0.05, 0.95, 0.025, 0.012, 0.02, figure, wear[1]),
        (x + 0.03, top + 0.50, x + 0.04, 0.93, 0.025, 0.012, 0.02, figure, wear[1]),
        (x, top + 0.08, x, top + 0.10, 0, 0, 0.045, figure, wear[2]),
        (x, top + 0.05, x, top + 0.06, 0, 0, 0.045, figure, wear[3]),
        (0.8 * x, -0.1, 0.8 * x, 1.1, 0.02, 0.02, 0.01, post, grey),
        (-0.3, rise + 0.05 * side, 0.3, rise - 0.05 * side, 0.012, 0.012, 0.008, low, grey),
        (-0.3, rise + 0.28, 0.3, rise + 0.28, 0.16, 0.16, 0.02, low, 0.8 * grey),
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
    """A domain before a pixel is drawn: N images in the order of their paths."""

    paths: list[str]
    shots: Shots
    looks: Look
    stations: Station


def plan(name: str, *, seed: int, size: Size) -> Plan:
    """Casts, dresses and walks everybody, and names the images."""
    import numpy as np

    from reproduce.data.drawing import join, rows

    domain, roads = statistics(name), network(name, seed)
    looks, shots = [], []
    paths: dict[str, None] = {}
    for person, pid, ending in _cast(name, seed, size):
        if person.role != "junk":
            looks.append(look(person, seed))
        way = walk(person, seed, roads)
        shots.append(_shots(person, seed, way, len(looks) - 1))
        numbers = numpy_generator(seed, "world", *person, "names")
        boxes, asked = numbers.integers(1, 5, len(way.frame)), np.zeros(len(way.frame), dtype=bool)
        if person.role == "test":  # one query a camera
            asked[[numbers.choice(np.flatnonzero(way.camera == camera)) for camera in np.unique(way.camera)]] = True
        for k, query in enumerate(asked):
            folder = FOLDERS["query" if query else "train" if person.role == "train" else "gallery"]
            place, frame, box = (way.camera[k] + 1, way.sequence[k]), way.frame[k], 0 if query else boxes[k]
            while (path := f"{folder}/{_stem(domain, pid, *place, frame, box)}{ending}") in paths:
                frame += 1  # strangers under one number meet in a frame
            paths[path] = None
    names = list(paths)
    order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    stations = [station(name, camera, seed) for camera in range(domain.cameras)]
    return Plan([names[k] for k in order], rows(join(shots), order), join(looks, np.stack), join(stations, np.stack))


def _stem(domain: Statistics, pid: int, camera: int, sequence: int, frame: int, box: int) -> str:
    """A file's name without its ending; cameras count from 1 here."""
    who = "-1" if pid == -1 else f"{pid:04d}"
    if domain.grammar == "duke":
        return f"{who}_c{camera}_f{frame:07d}"
    return f"{who}_c{camera}s{sequence}_{frame:06d}_{box:02d}"


def _cast(name: str, seed: int, size: Size) -> Iterator[tuple[Person, int, str]]:
    """Everybody, with the identity and the ending that the file names will have; junk follows its test person."""
    market = statistics(name).grammar == "market"
    counts = {"train": size.train_ids, "test": size.test_ids, "distractor": size.distractor_ids}
    if min(counts.values()) < 0 or sum(counts.values()) > 9999:
        raise UserError(f"a drawn domain has 0 to 9999 people, not {counts}")
    pids = iter(1 + numpy_generator(seed, "world", name, "pids").permutation(sum(counts.values())))
    for role, count in counts.items():
        for number in range(count):
            # Market-1501 has 22 names with a double ending: of one test identity, and a few distractors.
            ending = ".jpg.jpg" if market and role != "train" and number == count - 1 else ".jpg"
            pid = int(next(pids))
            yield Person(name, role, number), 0 if market and role == "distractor" else pid, ending
            if role == "test" and statistics(name).junk:
                yield Person(name, "junk", number), -1, ".jpg"


def _shots(person: Person, seed: int, way: Walk, row: int) -> Shots:
    import numpy as np

    n = len(way.frame)
    streams = [numpy_generator(seed, "world", *person, cause) for cause in CAUSES]
    uniform = np.stack([numbers.random((n, 8)) for numbers in streams], 1)
    normal = np.stack([numbers.standard_normal((n, 8)) for numbers in streams], 1)
    enters = np.flatnonzero(np.diff(way.camera, prepend=-1))
    entry = np.repeat(enters, np.diff(enters, append=n))  # light changes little while somebody passes
    light = CAUSES.index("illumination")
    normal[:, light] = 0.8 * normal[entry, light] + 0.6 * normal[:, light]
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


def draw(
    folder: Path,
    name: str,
    *,
    seed: int,
    size: Size,
    dials: Dials,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Draws a domain into a folder, in the layout of the real data set, as JPEG files of quality 95.

    Args:
        folder: receives bounding_box_train, query and bounding_box_test.
        name: "market" or "duke".
        seed: of the world; another one has other people and other cameras.
        size: people, and pixels of the files.
        dials: strength of each cause of variation.
        progress: called with the images done and the images there will be.

    Returns:
        The sha256 of all pixels before they were coded, in the order of the files' paths.

    Raises:
        UserError: for a domain that has no stand-in, or too many people.
    """
    import PIL.Image

    from reproduce.data.drawing import render, rows

    world = plan(name, seed=seed, size=size)
    for each in FOLDERS.values():
        (folder / each).mkdir(parents=True, exist_ok=True)

    def write(path: str, pixels: npt.NDArray[np.uint8]) -> None:
        PIL.Image.fromarray(pixels).save(folder / path, "JPEG", quality=95)

    digest, count = hashlib.sha256(), len(world.paths)
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, count, BLOCK):
            block = slice(start, start + BLOCK)
            scene = stage(name, rows(world.shots, block), world.looks, world.stations, dials)
            pixels = render(scene, size.height, size.width).numpy()
            digest.update(pixels.tobytes())
            list(pool.map(write, world.paths[block], pixels))
            if progress:
                progress(min(start + BLOCK, count), count)
    return digest.hexdigest()


def contact_sheet(
    name: str, *, seed: int = 1, dials: Dials | None = None, height: int = 128, people: int = 8
) -> PIL.Image.Image:
    """Shows a domain on one page: a row a person and a column a camera; then a row a dial, at 0, 0.5, 1 and 2.

    A dial's row shows the first person twice at each level; nothing but that dial differs from the first two pictures.
    """
    import numpy as np
    import PIL.Image
    import PIL.ImageDraw

    from reproduce.data.drawing import join, render, rows

    cameras, dials = np.arange(statistics(name).cameras), dials or Dials()
    crowd = [Person(name, "test", number) for number in range(people)]
    away, progress = (cameras % 3 == 1) * 1.0, (cameras * 0.37 + 0.2) % 1.0
    way = Walk(cameras, cameras, cameras, away, progress)
    shots = join([_shots(person, seed, way, row) for row, person in enumerate(crowd)])
    looks = join([look(person, seed) for person in crowd], np.stack)
    stations = join([station(name, int(camera), seed) for camera in cameras], np.stack)

    def strip(images: slice, at: Dials) -> list[npt.NDArray[np.uint8]]:
        return list(render(stage(name, rows(shots, images), looks, stations, at), height, height // 2).numpy())

    count = len(cameras)
    page = [(f"person {k + 1}", strip(slice(k * count, (k + 1) * count), dials)) for k in range(people)]
    for cause in CAUSES:
        levels = [replace(dials, **{cause: level}) for level in (0.0, 0.5, 1.0, 2.0)]
        page.append((f"{cause}\n0, 0.5, 1, 2", [image for at in levels for image in strip(slice(0, 2), at)]))
    margin, gap = 84, 2
    columns = max(len(images) for _, images in page)
    sheet = PIL.Image.new("RGB", (margin + columns * (height // 2 + gap), len(page) * (height + gap)), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for row, (label, images) in enumerate(page):
        pen.text((4, row * (height + gap) + 4), label, fill="black")
        for column, image in enumerate(images):
            sheet.paste(PIL.Image.fromarray(image), (margin + column * (height // 2 + gap), row * (height + gap)))
    return sheet
