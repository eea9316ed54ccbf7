"""The stand-in world: what its images show, what they are called, and what a dial changes."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import pytest

from reproduce.data.drawing import Scene, render, rows
from reproduce.data.world import (
    CAUSES,
    DOMAINS,
    FPS,
    Dials,
    Person,
    Plan,
    Size,
    Statistics,
    _turn,
    contact_sheet,
    draw,
    look,
    network,
    plan,
    stage,
    walk,
)
from reproduce.stage import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = Size(train_ids=40, test_ids=30, distractor_ids=15, height=64, width=32)
SMALL = Size(train_ids=2, test_ids=2, distractor_ids=1, height=32, width=16)
GRAMMAR = {
    "market": re.compile(r"(-1|\d{4})_c([1-6])s([1-6])_(\d{6})_(\d\d)\.jpg(\.jpg)?"),
    "duke": re.compile(r"(\d{4})_c([1-8])_f(\d{7})\.jpg"),
}


@pytest.fixture(scope="module", params=["market", "duke"])
def world(request: pytest.FixtureRequest) -> tuple[str, Plan]:
    return request.param, plan(request.param, seed=1, size=SIZE)


def parsed(name: str, paths: list[str]) -> Iterator[tuple[str, int, int, str]]:
    """Folder, identity, camera and file name of each path."""
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
    found = list(parsed(name, paths))
    assert {folder for folder, *_ in found} == {"bounding_box_train", "query", "bounding_box_test"}
    assert [camera - 1 for _, _, camera, _ in found] == shots.camera.tolist()
    assert {camera for _, _, camera, _ in found} == set(range(1, DOMAINS[name].cameras + 1))


def test_market_has_its_oddities() -> None:
    found = list(parsed("market", plan("market", seed=1, size=SIZE).paths))
    odd = [(folder, pid) for folder, pid, _, file in found if file.endswith(".jpg.jpg")]
    assert {folder for folder, _ in odd} == {"query", "bounding_box_test"}
    assert len({pid for _, pid in odd}) == 2
    assert 0 in {pid for _, pid in odd}
    assert {file.split("_")[3][:2] for folder, _, _, file in found if folder == "query"} == {"00"}
    assert "00" not in {file.split("_")[3][:2] for folder, _, _, file in found if folder != "query"}


def test_splits_share_nobody_and_hold_who_was_asked_for(world: tuple[str, Plan]) -> None:
    name, (paths, _, looks, _) = world
    found = list(parsed(name, paths))
    people = {folder: {pid for f, pid, *_ in found if f == folder} for folder, *_ in found}
    train, query, gallery = (people[f] for f in ("bounding_box_train", "query", "bounding_box_test"))
    assert len(train) == SIZE.train_ids
    assert len(query) == SIZE.test_ids
    assert not train & (query | gallery)
    assert gallery - query == {-1, 0} if name == "market" else len(gallery - query) == SIZE.distractor_ids
    assert len(looks.build) == SIZE.train_ids + SIZE.test_ids + SIZE.distractor_ids
    assert max(train | query | gallery) <= 9999


def test_a_query_is_one_image_of_a_person_and_camera_and_has_matches_elsewhere(world: tuple[str, Plan]) -> None:
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
    [("market", 17.2, 4.5, 17.5, 5.1, 7.0), ("duke", 23.5, 3.2, 20.2, 0, 8.5)],
)
def test_proportions_are_those_of_the_real_set(
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
    assert np.std(count["train"]) > 5
    if junk:
        parts = [len(walk(Person(name, "junk", k), 1, roads).frame) for k in range(size.test_ids)]
        assert np.mean(parts) == pytest.approx(junk, rel=0.15)


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_walks_take_the_transit_times_of_the_network(name: str) -> None:
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
    assert transits > 60


def test_everybody_differs_and_sizes_agree() -> None:
    def wardrobe(name: str, role: str, seed: int) -> set[tuple[float, ...]]:
        people = (look(Person(name, role, k), seed) for k in range(20))
        return {tuple(np.concatenate([np.ravel(v) for v in person])) for person in people}

    groups = [wardrobe(n, r, s) for n in DOMAINS for r in ("train", "test", "distractor") for s in (1, 2)]
    assert len(set().union(*groups)) == sum(map(len, groups)) == 20 * len(groups)
    little, large = (plan("duke", seed=1, size=size) for size in (SMALL, SIZE))
    assert np.array_equal(little.looks.upper[:2], large.looks.upper[:2])


def test_the_same_world_is_drawn_again(tmp_path: Path) -> None:
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


def test_a_dial_touches_its_cause_alone(world: tuple[str, Plan]) -> None:
    name, drawn = world
    parts = {"pose": {"view"}, "detection": {"view"}, "occlusion": {"others"}, "illumination": {"light"}}
    parts["camera"] = {"view", "style", "scenery"}
    views = {"pose": {"phase", "azimuth", "distance"}, "camera": {"azimuth", "elevation"}}
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


def test_a_dial_at_zero_switches_its_cause_off(world: tuple[str, Plan]) -> None:
    name, drawn = world
    train = np.array([path.startswith("bounding_box_train") for path in drawn.paths])

    def still(table: tuple[np.ndarray, ...]) -> bool:
        return all(np.ptp(column[train], 0).max() < 1e-12 for column in table)

    off = {cause: scene(name, drawn, replace(Dials(), **{cause: 0.0})) for cause in CAUSES}
    everything = scene(name, drawn, Dials(**dict.fromkeys(CAUSES, 0.0)))
    assert still((off["pose"].view.phase, off["pose"].view.distance))
    assert still(off["detection"].view[4:8])
    assert off["occlusion"].others.opacity.max() == 0
    assert still((off["illumination"].light.gain, off["illumination"].light.gamma, off["illumination"].light.shadow))
    assert still((*off["camera"].style[:5], off["camera"].view.elevation, off["camera"].scenery.wall))
    assert still(everything.view)
    same = np.flatnonzero(train & (drawn.shots.person == drawn.shots.person[train][0]))[:6]
    pixels = render(rows(everything, same), 64, 32)
    assert (pixels == pixels[:1]).all()


def test_dials_scale(world: tuple[str, Plan]) -> None:
    name, drawn = world
    one, two = (scene(name, drawn, Dials(detection=d, occlusion=d, illumination=d)) for d in (1.0, 2.0))
    assert 2 * np.log(one.light.gain) == pytest.approx(np.log(two.light.gain))
    usual = drawn.shots.draws("detection")[0][:, 0] >= 2 * DOMAINS[name].cut  # boxes around the whole person
    person = usual & (drawn.shots.fragment == 0)
    assert 2 * one.view.down[person] == pytest.approx(two.view.down[person])
    assert (two.others.opacity >= one.others.opacity).all()
    assert two.others.opacity.sum() > one.others.opacity.sum()
    assert (two.light.shadow >= one.light.shadow).all()


def test_requests_that_cannot_be_met_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cuhk03.*duke, market"):
        draw(tmp_path, "cuhk03", seed=1, size=SMALL, dials=Dials())
    with pytest.raises(UserError, match="9999"):
        draw(tmp_path, "duke", seed=1, size=replace(SMALL, train_ids=9999), dials=Dials())


def test_statistics_are_plausible() -> None:
    for domain in DOMAINS.values():
        for field in fields(Statistics):
            value = getattr(domain, field.name)
            if isinstance(value, dict):
                assert sum(value.values()) == 100, field.name
                assert all(re.fullmatch("[0-9a-f]{6}", code) for code in value)
            if isinstance(value, float) and field.name not in ("bystander_images", "junk", "stroll", "axis", "hue"):
                assert 0 <= value <= 1, field.name


@pytest.mark.parametrize("angle", [-2.0, -0.3, 0.0, 1.0])
def test_a_turn_of_hues_leaves_greys_and_lengths_alone(angle: float) -> None:
    turn = _turn(angle)
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.allclose(turn @ np.ones(3), 1)
    assert np.trace(turn) == pytest.approx(1 + 2 * math.cos(angle))


def test_contact_sheet() -> None:
    sheet = contact_sheet("market", height=32, people=3)
    assert sheet.mode == "RGB"
    assert sheet.height == (3 + len(CAUSES)) * 34
    assert len(Counter(sheet.resize((100, 100)).get_flattened_data())) > 500
