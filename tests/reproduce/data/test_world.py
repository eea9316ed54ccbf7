"""The stand-in world: content and names of its images, and effects of dials."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import fields, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp, kstest

from reproduce.data.catalogue import drawn as drawn_names
from reproduce.data.catalogue import statistics
from reproduce.data.drawing import Scene, cover, render, rows
from reproduce.data.places import Statistics
from reproduce.data.reading import read
from reproduce.data.sheets import contact_sheet, dial_sheet, folder_sheet
from reproduce.data.spelling import DAY_PARTS, FRAME_GROUP
from reproduce.data.standins import StandIn
from reproduce.data.world import (
    CAUSES,
    FPS,
    STEEPEST,
    WORLD_VERSION,
    Dials,
    Person,
    Plan,
    Size,
    _turn,
    draw,
    look,
    named,
    network,
    plan,
    stage,
    station,
    walk,
)
from reproduce.dataset import Dataset, Image
from reproduce.errors import UserError
from reproduce.running.runner import Site, Store, build
from reproduce.scales import SCALES, stand_in_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SIZE = Size(train_ids=40, test_ids=30, distractor_ids=15, height=64, width=32)
SMALL = Size(train_ids=2, test_ids=2, distractor_ids=1, height=32, width=16)
UNLABELLED = Size(train_ids=40, test_ids=0, distractor_ids=0, height=64, width=32)
GRAMMAR = {
    "market": re.compile(r"(-1|\d{4})_c([1-6])s([1-6])_(\d{6})_(\d\d)\.jpg(\.jpg)?"),
    "duke": re.compile(r"(\d{4})_c([1-8])_f(\d{7})\.jpg"),
}


@pytest.fixture(scope="module", params=["market", "duke"])
def world(request: pytest.FixtureRequest) -> tuple[str, Plan]:
    return request.param, plan(request.param, seed=1, size=SIZE)


def parsed(name: str, paths: list[str]) -> Iterator[tuple[str, int, int, str]]:
    """Parse folder, identity, camera and file name of each path."""
    for path in paths:
        folder, file = path.split("/")
        match = GRAMMAR[name].fullmatch(file)
        assert match, path
        yield folder, int(match[1]), int(match[2]), file


def scene(name: str, world: Plan, dials: Dials, images: slice = slice(None)) -> Scene:
    return stage(name, rows(world.shots, images), world.looks, world.stations, dials)


def test_names_follow_the_grammar_and_are_sorted(world: tuple[str, Plan]) -> None:
    name, (paths, shots, _, _) = world
    assert paths == sorted(set(paths))
    assert len(paths) == len(shots.person)
    names = list(parsed(name, paths))
    assert {folder for folder, *_ in names} == {"bounding_box_train", "query", "bounding_box_test"}
    assert [camera - 1 for _, _, camera, _ in names] == shots.camera.tolist()
    assert {camera for _, _, camera, _ in names} == set(range(1, statistics(name).cameras + 1))


def test_market_has_its_oddities() -> None:
    names = list(parsed("market", plan("market", seed=1, size=SIZE).paths))
    odd = [(folder, pid) for folder, pid, _, file in names if file.endswith(".jpg.jpg")]
    assert {folder for folder, _ in odd} == {"query", "bounding_box_test"}
    assert len({pid for _, pid in odd}) == 2
    assert 0 in {pid for _, pid in odd}
    assert {file.split("_")[3][:2] for folder, _, _, file in names if folder == "query"} == {"00"}
    assert "00" not in {file.split("_")[3][:2] for folder, _, _, file in names if folder != "query"}


def test_splits_are_disjoint_and_have_the_requested_people(world: tuple[str, Plan]) -> None:
    name, (paths, _, looks, _) = world
    names = list(parsed(name, paths))
    people = {folder: {pid for f, pid, *_ in names if f == folder} for folder, *_ in names}
    train, query, gallery = (people[f] for f in ("bounding_box_train", "query", "bounding_box_test"))
    assert len(train) == SIZE.train_ids
    assert len(query) == SIZE.test_ids
    assert not train & (query | gallery)
    assert gallery - query == {-1, 0} if name == "market" else len(gallery - query) == SIZE.distractor_ids
    assert len(looks.build) == SIZE.train_ids + SIZE.test_ids + SIZE.distractor_ids
    assert max(train | query | gallery) <= 9999


def test_one_query_per_person_and_camera_with_matches_from_other_cameras(world: tuple[str, Plan]) -> None:
    name, (paths, *_) = world
    cameras: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for folder, pid, camera, _ in parsed(name, paths):
        cameras[folder][pid].append(camera)
    for pid, asked in cameras["query"].items():
        assert len(asked) == len(set(asked)) >= 2
        assert set(cameras["bounding_box_test"][pid]) == set(asked)
    assert all(len(set(seen)) >= 2 or len(seen) < 4 for seen in cameras["bounding_box_train"].values())


@pytest.mark.parametrize(
    ("name", "per_train_id", "per_query_id", "per_gallery_id", "junk", "distractors"),
    [
        ("market", 17.2, 4.5, 17.5, 5.1, 7.0),
        ("duke", 23.5, 3.2, 20.2, 0, 8.5),
        ("msmt17", 31.3, 3.8, 26.9, 0, 8.0),
        ("cuhk03", 9.6, 2, 7.6, 0, 5.0),
        ("personx", 24, 6, 36, 0, 7.0),
    ],
)
def test_proportions_match_the_real_set(
    name: str, per_train_id: float, per_query_id: float, per_gallery_id: float, junk: float, distractors: float
) -> None:
    size = Size(300, 300, 100, 64, 32)
    roads = network(name, 1)
    count = {
        role: [len(walk(Person(name, role, k), 1, roads).frame) for k in range(n)]
        for role, n in (("train", size.train_ids), ("test", size.test_ids), ("distractor", size.distractor_ids))
    }
    seen = [len(set(walk(Person(name, "test", k), 1, roads).camera)) for k in range(size.test_ids)]
    assert np.mean(count["train"]) == pytest.approx(per_train_id, rel=0.12)
    assert np.mean(seen) == pytest.approx(per_query_id, rel=0.12)
    assert np.mean(count["test"]) - np.mean(seen) == pytest.approx(per_gallery_id, rel=0.12)
    assert np.mean(count["distractor"]) == pytest.approx(distractors, rel=0.15)
    if name in ("market", "duke", "msmt17"):
        assert np.std(count["train"]) > 5
    if name in ("cuhk03", "personx"):
        assert max(count["train"]) == {"cuhk03": 10, "personx": 24}[name]
    if junk:
        parts = [len(walk(Person(name, "junk", k), 1, roads).frame) for k in range(size.test_ids)]
        assert np.mean(parts) == pytest.approx(junk, rel=0.15)


@pytest.mark.parametrize("name", drawn_names())
def test_walks_follow_the_transit_times_of_the_network(name: str) -> None:
    roads = network(name, 3)
    assert roads.chance.sum(1) == pytest.approx(1)
    transits = 0
    for number in range(60):
        way = walk(Person(name, "train", number), 3, roads)
        assert (np.diff(way.frame) > 0).all()
        assert way.frame.min() >= 1
        assert len(set(way.sequence)) == 1
        moves = np.flatnonzero(np.diff(way.camera))
        seconds = np.diff(way.frame)[moves] / FPS
        expected = roads.transit[way.camera[moves], way.camera[moves + 1]]
        assert ((seconds >= expected / 1.35 - 0.05) & (seconds <= expected / 0.75 + 0.05)).all()
        assert seconds / expected == pytest.approx((seconds / expected)[:1].repeat(len(moves)), rel=0.01)
        transits += len(moves)
    assert transits > 60 * 0.5 * (statistics(name).visits[0] - 1)


def visits(name: str, dial: float, people: int) -> tuple[Any, Any, Any]:
    """Collect where in a session visits begin (fraction), their session, and who is seen, as names tell it."""
    roads, moments, sessions, who = network(name, 1), [], [], []
    for number in range(people):
        person = Person(name, "train", number)
        way = named(person, 1, walk(person, 1, roads), dial)
        begins = np.flatnonzero(np.diff(way.camera, prepend=-1))
        moments += (way.frame[begins] / statistics(name).session).tolist()
        sessions += way.sequence[begins].tolist()
        who += [number] * len(begins)
    return np.array(moments), np.array(sessions), np.array(who)


@pytest.mark.parametrize("name", ["market", "duke", "msmt17"])
def test_time_dial_at_zero_hides_who_is_seen(name: str) -> None:
    """Visits are anywhere in any session, and two of one person as far apart as any two."""
    moments, sessions, who = visits(name, 0.0, 400)
    assert kstest(moments, "uniform").statistic < 0.05
    counts = np.bincount(sessions)[1:]
    assert len(counts) == statistics(name).sequences
    assert len(counts) == 1 or chisquare(counts).pvalue > 1e-3
    same, places = who[1:] == who[:-1], moments + sessions
    apart = np.abs(np.diff(places))
    any_two = np.abs(np.subtract.outer(places, places)).ravel()[::97]
    assert ks_2samp(apart[same], any_two).statistic < 0.06
    own, _, _ = visits(name, 1.0, 400)
    near = np.abs(np.diff(own))[same]
    assert np.median(near) < 0.1 * np.median(apart[same]), "which walks are not"


def test_time_dial_is_the_share_of_visits_that_keep_their_moment() -> None:
    own, _, _ = visits("duke", 1.0, 300)
    for dial in (0.0, 0.3, 0.7, 2.0):
        kept = visits("duke", dial, 300)[0] == own
        assert kept.mean() == pytest.approx(min(1.0, dial), abs=0.05)


FRAMES = {
    "market": "b84c8d38c1f9801e",
    "duke": "93055ab5968bd4fb",
    "msmt17": "70dae78dca8d7eb7",
    "luperson": "809214313a8fe7bf",
}
"""Digests of cameras, sessions and frames of forty people of world 1, from before the dial of time existed."""


@pytest.mark.parametrize("name", FRAMES)
def test_walks_are_pinned(name: str) -> None:
    roads, digest = network(name, 1), hashlib.sha256()
    for number in range(40):
        way = walk(Person(name, "train", number), 1, roads)
        digest.update(np.stack([way.camera, way.sequence, way.frame]).astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == FRAMES[name]


@given(
    name=st.sampled_from(drawn_names()),
    number=st.integers(0, 500),
    seed=st.integers(1, 5),
    dial=st.sampled_from([0.0, 0.3, 2.0]),
)
@settings(max_examples=40)
def test_time_dial_changes_only_frames(name: str, number: int, seed: int, dial: float) -> None:
    person, roads = Person(name, "train", number), network(name, seed)
    usual = walk(person, seed, roads)
    turned = named(person, seed, usual, dial)
    for field in ("camera", "away", "progress"):
        assert np.array_equal(getattr(usual, field), getattr(turned, field))
    assert turned.frame.min() >= 1
    stays = np.diff(usual.camera) == 0
    assert np.array_equal(np.diff(usual.frame)[stays], np.diff(turned.frame)[stays]), "visits move as a whole"
    assert (np.diff(turned.sequence)[stays] == 0).all()
    assert turned.sequence.min() >= 1
    assert turned.sequence.max() <= statistics(name).sequences
    assert turned.frame.max() <= max(usual.frame.max(), statistics(name).session)
    if dial >= 1:
        assert all(np.array_equal(one, other) for one, other in zip(usual, turned, strict=True))


def test_time_dial_changes_no_pixels(tmp_path: Path) -> None:
    """Files, splits, people and cameras are equal; only the frames and sessions in the names differ."""
    for name in ("market", "duke", "msmt17"):
        size = READ["msmt17"] if name == "msmt17" else SMALL
        seen, names = [], []
        for time in (1.0, 0.0):
            folder = tmp_path / f"{name} {time}"
            draw(folder, name, seed=1, size=size, dials=Dials(time=time))
            data = read(folder, name)
            splits = {"train": data.train, "query": data.query, "gallery": data.gallery}
            seen.append(
                Counter(
                    (split, image.pid, image.camid, (data.root / image.path).read_bytes())
                    for split, images in splits.items()
                    for image in images
                )
            )
            names.append({image.path for images in splits.values() for image in images})
        assert seen[0] == seen[1]
        assert names[0] != names[1]


def test_cover_with_the_time_dial_at_zero() -> None:
    """`cover` finds images by names that depend on the dial."""
    size, dials = READ["msmt17"], Dials(time=0.0)
    world = plan("msmt17", seed=1, size=size, time=0.0)
    images = [Image(world.paths[k], 0, 0) for k in (5, 0, 99)]
    shown = StandIn("msmt17", size, dials=dials).cover(images, 16, 8)
    assert torch.equal(shown, cover(scene("msmt17", rows_of(world, [5, 0, 99]), dials), 16, 8))
    assert StandIn("msmt17", size, dials=dials).detail == "no time"
    assert StandIn("msmt17", size, dials=dials).key != StandIn("msmt17", size).key
    versions = {time: StandIn("msmt17", size, dials=Dials(time=time)).version for time in (0.0, 0.9, 1.0)}
    assert versions == {0.0: WORLD_VERSION + 1, 0.9: WORLD_VERSION + 1, 1.0: WORLD_VERSION}


def test_everybody_differs_and_sizes_agree() -> None:
    def wardrobe(name: str, role: str, seed: int) -> set[tuple[float, ...]]:
        people = (look(Person(name, role, k), seed) for k in range(20))
        return {tuple(np.concatenate([np.ravel(v) for v in person])) for person in people}

    groups = [
        wardrobe(n, r, s)
        for n in ("market", "duke", "luperson")
        for r in ("train", "test", "distractor")
        for s in (1, 2)
    ]
    assert len(set().union(*groups)) == sum(map(len, groups)) == 20 * len(groups)
    little, large = (plan("duke", seed=1, size=size) for size in (SMALL, SIZE))
    assert np.array_equal(little.looks.upper[:2], large.looks.upper[:2])


def test_drawing_is_deterministic(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = draw(tmp_path / "a", "market", seed=1, size=SMALL, dials=Dials(), progress=lambda *c: calls.append(c))
    second = draw(tmp_path / "b", "market", seed=1, size=SMALL, dials=Dials())
    assert first == second
    files = {
        root: {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.jpg")}
        for root in (tmp_path / "a", tmp_path / "b")
    }
    assert files[tmp_path / "a"] == files[tmp_path / "b"]
    world = plan("market", seed=1, size=SMALL)
    assert sorted(files[tmp_path / "a"]) == world.paths
    assert calls[-1] == (len(world.paths),) * 2
    pixels = render(scene("market", world, Dials()), 32, 16).numpy()
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == first
    with PIL.Image.open(tmp_path / "a" / world.paths[0]) as image:
        assert (image.size, image.mode, image.format) == ((16, 32), "RGB", "JPEG")
    assert draw(tmp_path / "c", "market", seed=2, size=SMALL, dials=Dials()) != first


@pytest.fixture(scope="module", params=["market", "duke", "msmt17", "luperson"])
def dialled(request: pytest.FixtureRequest) -> tuple[str, Plan]:
    name = request.param
    return name, plan(name, seed=1, size=SIZE if statistics(name).labelled else UNLABELLED)


def test_dial_changes_only_its_cause(dialled: tuple[str, Plan]) -> None:
    name, drawn = dialled
    parts = {"pose": {"view"}, "detection": {"view"}, "occlusion": {"others"}, "illumination": {"light"}}
    parts["camera"] = {"style", "scenery"}
    views = {"pose": {"phase", "azimuth", "elevation", "distance"}}
    views["detection"] = {"right", "down", "zoom", "aspect"}
    usual = scene(name, drawn, Dials())
    for cause in CAUSES:
        turned = scene(name, drawn, replace(Dials(), **{cause: 0.5}))
        assert {part for part in Scene._fields if changed(getattr(usual, part), getattr(turned, part))} == parts[cause]
        before, after = usual.view._asdict(), turned.view._asdict()
        moved = {field for field in before if changed(before[field], after[field])}
        assert moved == views.get(cause, set())


def changed(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return any(changed(x, y) for x, y in zip(a, b, strict=True))
    return not np.array_equal(a, b)  # type: ignore[arg-type]


def test_dial_at_zero_disables_its_cause(dialled: tuple[str, Plan]) -> None:
    name, drawn = dialled
    train = drawn.shots.fragment + drawn.shots.bystander == 0  # of a whole person, be it who it may

    def still(table: tuple[np.ndarray, ...]) -> bool:
        return all(np.ptp(column[train], 0).max() < 1e-12 for column in table)

    off = {cause: scene(name, drawn, replace(Dials(), **{cause: 0.0})) for cause in CAUSES}
    everything = scene(name, drawn, Dials(**dict.fromkeys(CAUSES, 0.0)))
    assert still(off["pose"].view[:4])
    assert still(off["detection"].view[4:8])
    assert off["occlusion"].others.opacity.max() == 0
    assert still((off["illumination"].light.gain, off["illumination"].light.gamma, off["illumination"].light.shadow))
    assert still((*off["camera"].style[:5], off["camera"].scenery.wall, off["camera"].scenery.floor))
    assert still(everything.view)
    same = np.flatnonzero(train & (drawn.shots.person == drawn.shots.person[train][0]))[:6]
    pixels = render(rows(everything, same), 64, 32)
    assert (pixels == pixels[:1]).all()


def test_dials_scale(world: tuple[str, Plan]) -> None:
    name, drawn = world
    one, two = (scene(name, drawn, Dials(detection=d, occlusion=d, illumination=d)) for d in (1.0, 2.0))
    assert 2 * np.log(one.light.gain) == pytest.approx(np.log(two.light.gain))
    usual = drawn.shots.draws("detection")[0][:, 0] >= 2 * statistics(name).cut  # boxes around the whole person
    person = usual & (drawn.shots.fragment == 0)
    assert 2 * one.view.down[person] == pytest.approx(two.view.down[person])
    assert (two.others.opacity >= one.others.opacity).all()
    assert two.others.opacity.sum() > one.others.opacity.sum()
    assert (two.light.shadow >= one.light.shadow).all()


def test_invalid_requests_raise(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"viper.*cuhk03, duke, luperson, market, msmt17, personx"):
        draw(tmp_path, "viper", seed=1, size=SMALL, dials=Dials())
    with pytest.raises(UserError, match="cuhk03: a labelled set has people to train on and people to search for"):
        draw(tmp_path, "cuhk03", seed=1, size=UNLABELLED, dials=Dials())
    with pytest.raises(UserError, match="luperson: an unlabelled set has people to train on and no others"):
        draw(tmp_path, "luperson", seed=1, size=SMALL, dials=Dials())
    with pytest.raises(UserError, match="9999"):
        draw(tmp_path, "duke", seed=1, size=replace(SMALL, train_ids=9999), dials=Dials())


LARGE = {"bystander_images", "junk", "on_top", "stroll", "hue", "hue_spread", "sink"}


def test_statistics_are_plausible() -> None:
    for domain in map(statistics, drawn_names()):
        for field in fields(Statistics):
            value = getattr(domain, field.name)
            if isinstance(value, dict):
                assert sum(value.values()) == 100, field.name
                assert all(re.fullmatch("[0-9a-f]{6}", code) for code in value)
            if isinstance(value, float) and field.name not in LARGE:
                assert 0 <= value <= 1, field.name


SPREADS = (
    "hem",
    "saturation",
    "tone",
    "haze",
    "blur",
    "elevation",
    "axis",
    "zoom",
    "aspect",
    "gain",
    "warmth",
    "gamma",
)


@pytest.mark.parametrize("name", drawn_names())
def test_spreads_and_kinds_are_plausible(name: str) -> None:
    domain = statistics(name)
    assert all(getattr(domain, field)[1] >= 0 for field in SPREADS)
    assert min(domain.obstacles) >= 0
    assert sum(domain.obstacles) == pytest.approx(1)
    assert 0 <= domain.dark[0] <= domain.dark[1] <= 1


def staged(name: str, monkeypatch: pytest.MonkeyPatch, dials: Dials, **changes: object) -> tuple[Plan, Scene]:
    """Change the statistics of Market."""
    changed = replace(statistics(name), **changes)  # type: ignore[arg-type]
    monkeypatch.setattr("reproduce.data.world.statistics", lambda _: changed)
    world = plan(name, seed=1, size=SIZE)
    return world, scene(name, world, dials)


@pytest.mark.parametrize("dial", [0.0, 0.5, 1.0])
def test_light_differs_by_domain(dial: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check means of brightness, colour and tone and the depth of shadows; without spread all images have them."""
    still = {"gain": (1.0, 0.0), "warmth": (0.3, 0.0), "gamma": (-0.2, 0.0)}
    _, shown = staged("market", monkeypatch, Dials(illumination=dial), **still, shade=1.0, dark=(0.4, 0.6))
    gain = 2**dial * np.exp(dial * 0.3 * np.array([1, 0, -1]))
    np.testing.assert_allclose(shown.light.gain, np.broadcast_to(gain, shown.light.gain.shape), rtol=1e-12)
    assert shown.light.gamma == pytest.approx(np.exp(-0.2 * dial))
    shadow = shown.light.shadow
    assert dial == 0 or 0.4 <= shadow[shadow > 0].min() <= shadow.max() <= 0.6
    assert (shadow > 0).mean() == pytest.approx(dial, abs=0.05)


def test_boxes_differ_by_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the mean size of a person in a box, and the part shown by a partial box."""
    boxes = {"zoom": (0.2, 0.0), "aspect": (-0.1, 0.0), "sink": 0.0, "cut": 1.0, "shift": 0.0}
    for above, sign in ((1.0, 1), (0.0, -1)):
        world, shown = staged("market", monkeypatch, Dials(), **boxes, above=above)
        whole = world.shots.fragment == 0
        cut = 2 * np.abs(shown.view.down[whole])
        assert (np.sign(shown.view.down) == sign).all()
        np.testing.assert_allclose(shown.view.zoom[whole], np.exp(0.2) * (1 + cut))
        assert shown.view.aspect == pytest.approx(np.exp(-0.1))
    _, off = staged("market", monkeypatch, Dials(detection=0.0), **boxes)
    assert (off.view.zoom[whole] == 1).all()
    assert (off.view.aspect == 1).all()
    low = {"sink": 0.05, "cut": 0.0, "shift": 0.0}
    world, shown = staged("market", monkeypatch, Dials(detection=0.5), **low)
    assert shown.view.down[world.shots.fragment == 0] == pytest.approx(0.025)


@pytest.mark.parametrize(("kind", "bars"), [(0, range(5)), (1, [5]), (2, [6, 7])])
def test_obstacles_differ_by_domain(kind: int, bars: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one kind of obstacle, a domain has only people, posts or low things, all with the same frequency."""
    shares = tuple(float(kind == k) for k in range(3))
    _, shown = staged("market", monkeypatch, Dials(), occluded=0.5, obstacles=shares)
    seen = shown.others.opacity > 0
    assert set(np.flatnonzero(seen.any(0))) == set(bars)
    assert seen.any(1).mean() == pytest.approx(0.5, abs=0.05)


def test_furniture_differs_by_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    paint = {"furniture": {"ff0000": 100}, "post": 0.03, "occluded": 1.0}
    _, posts = staged("market", monkeypatch, Dials(), **paint, obstacles=(0.0, 1.0, 0.0))
    assert (posts.others.width[:, 5] == 0.03).all()
    assert posts.others.colour[:, 5, 0].mean() > 0.9
    assert posts.others.colour[:, 5, 1:].mean() < 0.1
    _, rails = staged("market", monkeypatch, Dials(), **paint, obstacles=(0.0, 0.0, 1.0))
    begins = rails.others.start[:, 6, 1]
    assert 0.55 <= begins.min() < begins.max() <= 0.8


@pytest.mark.parametrize("name", drawn_names())
def test_differences_between_cameras_are_spread_evenly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any world, each n-th of a distribution has one of n cameras."""
    changed = replace(statistics(name), saturation=(1.0, 0.1), axis=(0.0, 9.0), tone=(0.2, 0.3))
    monkeypatch.setattr("reproduce.data.world.statistics", lambda _: changed)
    for seed in (1, 2, 3):
        cameras = [station(name, camera, seed) for camera in range(changed.cameras)]
        columns = {
            "saturation": [float(it.saturation - 1) / 0.1 for it in cameras],
            "axis": [float(it.axis) / np.radians(9) for it in cameras],
            "tone": [(float(it.tone) - 0.2) / 0.3 for it in cameras],
        }
        ranks = {key: [int(NormalDist().cdf(z) * changed.cameras) for z in values] for key, values in columns.items()}
        assert all(sorted(places) == list(range(changed.cameras)) for places in ranks.values())
        assert changed.cameras < 4 or len({tuple(places) for places in ranks.values()}) == 3, (
            "each in an order of its own"
        )


def test_walking_angle_differs_by_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    angle = np.radians(30)
    world, shown = staged("market", monkeypatch, Dials(), axis=(30.0, 0.0), stroll=0.0, away=0.3)
    come = world.shots.away == 0
    assert 0 < come.mean() < 1
    np.testing.assert_allclose(shown.view.azimuth[come], angle)
    np.testing.assert_allclose(shown.view.azimuth[~come], np.pi + angle)
    _, off = staged("market", monkeypatch, Dials(pose=0.0), axis=(30.0, 0.0), elevation=(30.0, 0.0))
    assert (off.view.azimuth == 0).all()
    assert off.view.elevation == pytest.approx(np.radians(12)), "without pose all cameras look from twelve degrees"


def test_camera_elevation_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    for dial in (1.0, 2.0):
        view = staged("duke", monkeypatch, Dials(pose=dial), elevation=(56.0, 9.0))[1].view
        assert view.elevation.max() <= STEEPEST + 1e-9


def test_walking_direction_differs_by_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    away = [
        staged("duke", monkeypatch, Dials(), away=share)[0].shots.away.mean() for share in (0.0, 0.2, 0.5, 0.8, 1.0)
    ]
    assert away[0] == 0
    assert away[-1] == 1
    assert away == sorted(away)
    assert away[2] == pytest.approx(0.5, abs=0.2), "cameras are few, so their share is rough"


@pytest.mark.parametrize("angle", [-2.0, -0.3, 0.0, 1.0])
def test_hue_rotation_keeps_greys_and_lengths(angle: float) -> None:
    turn = _turn(angle)
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.allclose(turn @ np.ones(3), 1)
    assert np.trace(turn) == pytest.approx(1 + 2 * math.cos(angle))


@pytest.mark.parametrize(("name", "cameras"), [("market", 6), ("luperson", 15)])
def test_contact_sheet(name: str, cameras: int) -> None:
    sheet = contact_sheet(name, height=32, people=3)
    assert sheet.mode == "RGB"
    assert sheet.size == (84 + max(cameras, 8) * 18, (3 + len(CAUSES)) * 34)
    assert len(Counter(sheet.resize((100, 100)).get_flattened_data())) > 500


def test_folder_sheet(tiny_domain: Path, tmp_path: Path) -> None:
    """Images of one name stand below each other, also after they were changed; a missing one is named."""
    changed = shutil.copytree(tiny_domain, tmp_path / "changed")
    for path in (changed / "bounding_box_train").iterdir():
        pixels = np.asarray(PIL.Image.open(path))
        PIL.Image.fromarray(255 - pixels).save(path)
    sheet = np.asarray(folder_sheet([tiny_domain, changed], height=32, count=6)).astype(int)
    assert sheet.shape == (2 * 34, 84 + 6 * 18, 3)
    first, second = sheet[:32, 84:100], sheet[34:66, 84:100]
    np.testing.assert_array_equal(first, 255 - second)
    name = min(path.name for path in (tiny_domain / "bounding_box_train").iterdir())
    np.testing.assert_array_equal(first, np.asarray(PIL.Image.open(tiny_domain / "bounding_box_train" / name)))
    (changed / "bounding_box_train" / name).unlink()
    with pytest.raises(UserError, match=name):
        folder_sheet([tiny_domain, changed])


@pytest.mark.parametrize("cause", CAUSES)
def test_dial_sheet(cause: str) -> None:
    domains = ["market", "personx"]
    sheet = np.asarray(dial_sheet(cause, height=32, people=1, sightings=12, domains=domains), dtype=float)
    assert sheet.shape == (20 + len(domains) * 34, 84 + 12 * 18, 3)
    for row, name in enumerate(domains):
        strips = sheet[20 + row * 34 :][:32, 84:].reshape(32, 4, 54, 3).swapaxes(0, 1)
        moved = np.abs(strips - strips[:1]).mean((1, 2, 3))
        still = name == "personx" and cause in ("detection", "occlusion")  # nobody is in the way there
        assert moved.max() == 0 if still else moved[3] > 1, name


# -- the frozen domains ------------------------------------------------------------------------------------------------

FROZEN = {
    "cuhk03": (
        "2b20614dc1375dfd9ffc26506df5759789bb20da5d5cf1e29cd35fc7a51cc3ad",
        "19f1cd67102a3ff20cd3",
        {
            7: "a1947c4d443da2957ebbaa8fc1b095b6af96bcaf95c0af94c4b396fdf6d3aaa58eb7a78eb9a98fc4a194988376c1b094"
            "c1b095bd9a8d9f847ab8a88ec6b59aedc2a7c2b298bbab90b4a489e3bba1c0b095c4b398b7a78cbbaf95c2b195c8b79b",
            121: "a89d8578705fa49981a2977ec3b69a5f584cb5a48eb9ac91c2b599d9debad9ddbac3b69a998577dce0bdd7dbb9cbbda0"
            "c6b99cdde1bed7dbb9cdc0a3b5a88d9ea68f9d9983bbae93c9bca0c39586cdbfa2c0b398c7ba9d559b939a8f79c5b89c",
            234: "ada58b5d5749a39b82b0a78dc7bc9ec8c1a1cdc3a4c1b79ad1c6a7c4c3a0f4f3c6fff0cdd1c6a6cac9a5d9d5b0d1c6a7"
            "cabfa1b09081544245d0c5a6cec3a5b4a98f513f42d0c5a6c3b99bd4c9aa4d3d3fcbc0a2d1c6a8cdc2a4c8bda0d8ccac",
        },
    ),
    "duke": (
        "4b2ac0d0eafb675908a34a876c5f6c66278161a542847f11b6494cb294851bae",
        "a66603122e5cd27f2ef3",
        {
            7: "444b43495047484f4743494243453e42433927231d474d454950482c3522293e224d544c4a5148142514142f13424941"
            "424941335351273635484f463c423b4b5249464c442c342c454c44464d45464d45444b43454c44474e46424841434a42",
            285: "5c5657544e505650524a44465d5658554c4e4f4c4e5751525b555642484c4b4c595d5758595354515a5f524b4d565051"
            "5952545750525e57555c5556585153544e506159515b5556524c4d635c5e5e57595d56585e5759565052595354595355",
            562: "656e74575f65646e74626b71656f754f5558241e1a596267616b712a211b241b16646d745e676d211b19181722667077"
            "656e758f8c86626b72687178636d73727c845d666b4c4239596167636d73667076687279616a70646e7469737a5e676d",
        },
    ),
    "luperson": (
        "99baaa5de223aed3badfefa8e38f2b533297993b9bafcf7eaedba66af310bc94",
        "6b5db8c4f90bfd491bf4",
        {
            7: "bdb9a57c786a85746aa49f8ec0bba52e271f325a8ca09c8cc8c3ac2a4970294e7da39f8eb5b09a203f67305b92aeaa98"
            "d1ccb50f102f14153aa39f8ec8c3ad1617372d2e51a8a392c7cabe1f2044939692b1b5a9aaada288969e7c8077b9bdb0",
            469: "7d7c7e7a797b7c7b7c7a787a8a88856c6868807f807776788c8a87262420302d29847f8592908d21201e2e2b267e797f"
            "92908d44403c5b554f807a808b89868a6d6e7767775d525d60555d6b5a637e687060535c6658656456645b4d5b685a67",
            929: "705c4db98061655344695646715c4cd89f74dba2776d5949695647d9a075d69e75705b4ab9826376604b7b5a4468594e"
            "5a4d4376604b5c4c3c6b5c5064554a6e5647cf8f6c695a4f615349655246a28f7c6d5e5267594d6f605463554a63554a",
        },
    ),
    "market": (
        "1d0f1631043ea93f1b779d5400936bf864dc4385a932a6765becf3e6ae098b16",
        "424133562212767d3b85",
        {
            7: "d5c4a5d6c5a6e0ceaed8c6a8dac8aadac8a9cebda0d9c7a9e5d3b3d9c7a9deccadd5c4a5ddccacdbc9aad4c3a5162129"
            "d3c1a2d9c8a9e3d2b2edbe95e2d1b1e2d0b0b46f7cf69fafdfcdb3a5696ab5686f94749cdeccb2c26768b86262f08082",
            330: "6fa17bdcccb0efdfc2e7d7ba669872deceb2e9d9bbe7d7ba699b75756246e4d4b7e5d5b8659771794c96764892eadabd"
            "6fa17b352340d6ae54ecdcbe6a9d76695445e3d3bbe6d6be6a9c76fcd7aeebdac1dfcfb86a9c76e0cfbae0d0b9dfcfb8",
            652: "7e7f808283848283847d7e7f8687888182837e7f807b7c7d8081824757545b6b68797a7b78797a1f3c372f51487f8081"
            "abb58633543d525a589aa376a6b0814e4550737167a3ac7ea2ac7e4b424dacb588acb686a5af818b926edcd8bfa7b183",
        },
    ),
    "msmt17": (
        "b7e750745e8b9341ec878cb71558118b0af41b82f244e7a1cb923c74cf641298",
        "db2ef3b754a74ef6e716",
        {
            7: "6466657375746668666e706f7476755859576b6e6c7577767577755456556364637375746c6e6d4b4d4d676a68636563"
            "8384855f615e7f7f7f7b7b7c8686876c6d6c6769667d7e7e7d7c7e7273737d7e7e8484857d7d7e7c7c7d8888898a8a8b",
            467: "6c6c6b7272716c6c6b6565647374727979775656566e6e6c6b6b6a8287815454546464636868677a7d796f706e6e6e6d"
            "73737276777484878569696883838189908f99a4a38484827878767071708c93927b7b79888986858683797977878785",
            926: "7373727272716867677676747676756767666867687373716a6a696763656562636f6f6e6f6f6d888481696768696968"
            "7373726561635a585a6e6e6c80817e4c4b4c4e4e4f8282807f7f7d8284856465657f7f7d8787847f7f7d757573878785",
        },
    ),
    "personx": (
        "7cb203735c537b24fc95de46030eddea008c3958b718d1bec0795351454cc6ce",
        "edef63e85ca6d549f59c",
        {
            7: "bebfa9b9baa4bebfa9bebfa9bebfa9c2c2a03b2814bebfa9bebfa9f3e1227d7310bebfa9c6c38df3e1227d7310bebfa9"
            "b6b9b37e71287e7c5eb6b9b3b6b9b3adb0abb6b9b3b6b9b3b6b9b3b6b9b3434143b6b9b3b6b9b3a5a9a3e3e9e2b6b9b3",
            357: "a2a8d76e5e66a2a8d7a2a8d7a2a8d78a8a9d1a1219a2a8d7a2a8d71a121ae2c01ca2a8d7a3a4c81a121ae2c01ca3a4c8"
            "a69daea98f15e2c01ca69daea69dae171721a49baca69daea69daea69daea69daea69daea69daef5e8ffa69daea69dae",
            705: "8da78da828158da78d8da78d8da78d8da78d8da78d8da78da19b877d2d8f7e318ea19b87a19b877e26927a2290a19b87"
            "a19b87a5925ba7955ca19b87a19b87a5925ba5935ba19b87a19b87a19b87a19b879f9883c2c2c5a19b87716d5fe0e1e5",
        },
    ),
}
"""For every domain at scale smoke: the digest of the file names, the key of the stage, and every eighth pixel in both
directions of three images, given by their positions in the list."""


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_domains_are_pinned(name: str) -> None:
    """Recorded results depend on them. Grey levels may differ by one, since NumPy's sines may in the last bit."""
    names, key, images = FROZEN[name]
    size = stand_in_size(name, SCALES["smoke"])
    world = plan(name, seed=1, size=size)
    assert hashlib.sha256("\n".join(world.paths).encode()).hexdigest() == names
    assert StandIn(name, size).key == key
    pixels = render(scene(name, rows_of(world, list(images)), Dials()), size.height, size.width).numpy()
    for image, known in zip(pixels, images.values(), strict=True):
        expected = np.frombuffer(bytes.fromhex(known), dtype=np.uint8).astype(int)
        assert np.abs(image[4::8, 4::8].ravel() - expected).max() <= 1


def rows_of(world: Plan, images: list[int]) -> Plan:
    return world._replace(paths=[world.paths[k] for k in images], shots=rows(world.shots, images))


# -- the other sets, through the readers of the real ones --------------------------------------------------------------

READ = {
    "msmt17": Size(train_ids=25, test_ids=12, distractor_ids=2, height=16, width=8),
    "cuhk03": Size(train_ids=12, test_ids=8, distractor_ids=0, height=16, width=8),
    "personx": Size(train_ids=4, test_ids=3, distractor_ids=0, height=16, width=8),
    "luperson": Size(train_ids=15, test_ids=0, distractor_ids=0, height=16, width=8),
}


@pytest.fixture(scope="module")
def drawn_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Draw every stand-in with its stage and open it from the store."""
    root = tmp_path_factory.mktemp("store")
    sets = {}
    for name, size in READ.items():
        stage_of = StandIn(name, size)
        build(stage_of, Site(root), lambda _: None)
        sets[name] = read(Store(root).load(stage_of).path, name)
    return sets


@pytest.mark.parametrize("name", ["msmt17", "cuhk03", "personx"])
def test_drawn_sets_are_read_like_real_ones(name: str, drawn_sets: dict[str, Dataset]) -> None:
    data, size = drawn_sets[name], READ[name]
    assert len(data.train_pids) == size.train_ids
    searched = {image.pid for image in data.query}
    assert len(searched) == size.test_ids
    assert len({image.pid for image in data.gallery} - searched) == size.distractor_ids
    assert set(data.cameras) <= set(range(statistics(name).cameras))
    places = [(image.pid, image.camid) for image in data.query]
    assert len(places) == len(set(places)), "one query an identity and camera"
    seen = {(image.pid, image.camid) for image in data.gallery}
    assert all(sum(pid == other for other, _ in seen) >= 2 for pid in searched)
    images = len(data.train) + len(data.query) + len(data.gallery)
    assert images == len(plan(name, seed=1, size=size).paths)
    with PIL.Image.open(data.root / data.query[0].path) as image:
        assert (image.size, image.format) == ((8, 16), "PNG" if name == "cuhk03" else "JPEG")


@pytest.mark.parametrize("name", ["msmt17", "cuhk03", "personx"])
def test_cover_of_drawn_sets(name: str, drawn_sets: dict[str, Dataset]) -> None:
    """Use the paths from the readers of real sets, in any order."""
    size, data = READ[name], drawn_sets[name]
    images = [*data.gallery[::-3], data.query[1], data.train[2]]
    shown = StandIn(name, size).cover(images, 16, 8)
    assert shown.shape == (len(images), 2, 16, 8)
    world = plan(name, seed=1, size=size)
    for place in (0, len(images) - 2, len(images) - 1):
        one = rows_of(world, [world.paths.index(images[place].path)])
        assert torch.equal(shown[place], cover(scene(name, one, Dials()), 16, 8)[0])
    assert StandIn(name, size).cover([], 16, 8).shape == (0, 2, 16, 8)


def test_msmt17_follows_the_published_layout(drawn_sets: dict[str, Dataset]) -> None:
    data = drawn_sets["msmt17"]
    part = read(data.root, "msmt17", variant="train")
    assert (data.version, data.variant) == ("V1", "train+val")
    val = set(data.train) - set(part.train)
    assert {image.pid for image in val} == set(data.train_pids) == set(part.train_pids) == set(range(25))
    assert len(val) / len(data.train) == pytest.approx(0.073, rel=0.25)
    assert {image.pid for image in data.query} == set(range(10_000, 10_012))
    files = [image.path.rpartition("/")[2] for image in data.train]
    assert 0.3 < sum(file.endswith("_ex.jpg") for file in files) / len(files) < 0.55
    assert all(image.path.split("/")[:2] == ["train", f"{image.pid:04d}"] for image in data.train)
    numbers = Counter(file.split("_")[0] + file.split("_")[1] for file in files)
    assert set(numbers.values()) == {1}, "an image's number is unique within its identity"
    assert {file.split("_")[3] for file in files} <= set(DAY_PARTS)
    assert max(image.frame or 0 for image in data.train) <= 1946
    for image in data.train:
        assert DAY_PARTS[(image.sequence or 0) - 1] in image.path
    assert (data.root / "list_val.txt").read_text().splitlines()[0].count("/") == 1


def test_cuhk03_is_numbered_consecutively(drawn_sets: dict[str, Dataset]) -> None:
    data = drawn_sets["cuhk03"]
    assert data.variant == "labelled"
    images = [*data.train, *data.query, *data.gallery]
    numbers = {int(image.path.removesuffix(".png").rpartition("_")[2]): image for image in images}
    assert sorted(numbers) == list(range(1, len(images) + 1))
    assert [numbers[k].pid for k in sorted(numbers)] == sorted(image.pid for image in images)
    assert max(Counter((image.pid, image.camid) for image in images).values()) <= 5
    assert sorted({image.pid for image in images}) == list(range(1, 21))
    assert not {image.pid for image in data.train} & {image.pid for image in data.gallery}


def test_personx_has_equal_numbers_of_images(drawn_sets: dict[str, Dataset]) -> None:
    data = drawn_sets["personx"]
    assert data.cameras == tuple(range(6))
    assert {match[1] for image in data.train if (match := re.search(r"_c(\d+)_", image.path))} == {
        "3", "4", "8", "10", "11", "12",
    }  # fmt: skip
    for images, each in ((data.train, 4), (data.query, 1), (data.gallery, 6)):
        assert set(Counter((image.pid, image.camid) for image in images).values()) == {each}


def test_luperson_has_images_only(drawn_sets: dict[str, Dataset]) -> None:
    data = drawn_sets["luperson"]
    assert not data.labelled
    assert (len(data.query), len(data.gallery)) == (0, 0)
    assert len(data.train) == len(plan("luperson", seed=1, size=READ["luperson"]).paths) > 200
    pattern = re.compile(r"country_\d\d/city_\d\d/video_\d{4}/\d{6}_\d\.jpg")
    assert all(pattern.fullmatch(image.path) for image in data.train)
    roads = network("luperson", 1)
    seen = [len(set(walk(Person("luperson", "train", k), 1, roads).camera)) for k in range(200)]
    assert set(seen) == {1, 2}
    assert np.mean(seen) == pytest.approx(1.2, abs=0.1)


@pytest.mark.parametrize("seed", [1, 2])
def test_luperson_has_at_most_50000_images(seed: int) -> None:
    size, roads = stand_in_size("luperson", SCALES["paper"]), network("luperson", seed)
    images = sum(len(walk(Person("luperson", "train", k), seed, roads).frame) for k in range(size.train_ids))
    assert 45_000 < images <= 50_000


@pytest.mark.parametrize(("name", "frames"), [("market", 1), ("duke", 1), ("msmt17", FRAME_GROUP)])
def test_names_carry_transit_times(name: str, frames: int, tmp_path: Path) -> None:
    """A spatio-temporal model reads them: people move between two cameras at walking speed."""
    size = replace(READ["msmt17"], distractor_ids=0)
    draw(tmp_path, name, seed=1, size=size, dials=Dials())
    roads, transits, shared = network(name, 1), 0, 0.0
    people: dict[int, list[Image]] = defaultdict(list)
    for image in read(tmp_path, name).train:
        people[image.pid].append(image)
    for images in people.values():
        assert len({image.sequence for image in images}) == 1
        assert all(image.frame is not None for image in images)
        way = sorted(images, key=lambda image: (image.frame or 0, image.path.split("_")[1]))
        for one, two in itertools.pairwise(way):
            gap = ((two.frame or 0) - (one.frame or 0)) * frames / FPS
            if one.camid != two.camid:
                expected, slack = roads.transit[one.camid, two.camid], frames / FPS + 0.05
                assert expected / 1.35 - slack <= gap <= expected / 0.75 + slack
                transits, shared = transits + 1, shared + gap / expected
            else:
                assert gap <= 30 / FPS + frames / FPS
    assert transits > 40
    assert shared / transits == pytest.approx(1, abs=0.1)
