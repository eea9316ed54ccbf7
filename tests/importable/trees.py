"""Data sets as trees of one image under many names: the published counts in the published spelling."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

LINKS = 60_000
"""Names that one file gets; ext4 allows 65,000."""

DAYS = [f"{day}{part}" for day in ("0113", "0114", "0302", "0303") for part in ("morning", "noon", "afternoon")]


def pixel(kind: str = "JPEG") -> bytes:
    """An image of 1 x 1 pixels."""
    out = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(out, kind)
    return out.getvalue()


def plant(root: Path, paths: Iterable[str]) -> Path:
    """One image under every path below a folder, which is made."""
    root.mkdir(parents=True, exist_ok=True)
    made: set[str] = set()
    source = root / ".pixel"
    for number, path in enumerate(paths):
        if number % LINKS == 0:
            source.unlink(missing_ok=True)
            source.write_bytes(pixel())
        folder = path.rpartition("/")[0]
        if folder not in made:
            made.add(folder)
            (root / folder).mkdir(parents=True, exist_ok=True)
        os.link(source, f"{root}/{path}")
    source.unlink(missing_ok=True)
    return root


def people(ids: Sequence[int], images: int, cameras: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(identity, camera, number) of so many images: all identities, all cameras, numbers unique within an identity."""
    for count in range(images):
        turn, at = divmod(count, len(ids))
        yield ids[at], cameras[(turn + at) % len(cameras)], turn


def market() -> Iterator[str]:
    def name(split: str, pid: int, camera: int, number: int, ending: str = ".jpg") -> str:
        return (
            f"{split}/{pid if pid < 0 else f'{pid:04}'}_c{camera}s{number % 6 + 1}_{number:06}_{number % 7:02}{ending}"
        )

    six, test = range(1, 7), [pid for pid in range(752, 1502) if pid != 1488]
    yield from (name("bounding_box_train", *image) for image in people(range(1, 752), 12936, six))
    yield from (name("query", *image) for image in people(test, 3368 - 6, six))
    yield from (name("query", *image, ".jpg.jpg") for image in people([1488], 6, six))
    yield from (name("bounding_box_test", *image) for image in people(test, 15913 - 2798 - 13, six))
    yield from (name("bounding_box_test", *image, ".jpg.jpg") for image in people([1488], 13, six))
    yield from (name("bounding_box_test", *image) for image in people([0], 2795, six))
    yield from (name("bounding_box_test", 0, 1, number, ".jpg.jpg") for number in range(9000, 9003))
    yield from (name("bounding_box_test", *image) for image in people([-1], 3819, six))


def duke() -> Iterator[str]:
    eight, test = range(1, 9), range(703, 1405)
    for split, ids, images in (
        ("bounding_box_train", range(1, 703), 16522),
        ("query", test, 2228),
        ("bounding_box_test", test, 17661 - 3463),
        ("bounding_box_test", range(5000, 5408), 3463),
    ):
        yield from (
            f"{split}/{pid:04}_c{camera}_f{number:07}.jpg" for pid, camera, number in people(ids, images, eight)
        )


MSMT17 = {
    "train": (range(1041), 30248, 0),
    "val": (range(1041), 2373, 100),
    "query": (range(3060), 11659, 0),
    "gallery": (range(3060), 82161, 100),
}
"""Identities and images of each list, and the number of an identity's first image in it."""


def msmt17(split: str) -> Iterator[tuple[int, int, int]]:
    """(identity, camera from 1, number) of one list."""
    ids, images, first = MSMT17[split]
    for pid, camera, number in people(ids, images, range(1, 16)):
        yield pid, camera, number + first


def msmt17_name(pid: int, camera: int, number: int) -> str:
    day, ex = DAYS[(pid + number) % 12], "_ex" if (pid + number) % 100 < 42 else ""
    return f"{pid:04}/{pid:04}_{number:03}_{camera:02}_{day}_{number % 700:04}_{number % 13}{ex}.jpg"


def plant_msmt17(root: Path, folders: tuple[str, str] = ("train", "test"), keep: int | None = None) -> Path:
    """MSMT17 as published: two folders and four lists, in no order; `keep` images of each."""
    root.mkdir(parents=True, exist_ok=True)
    for split in MSMT17:
        images = [(pid, msmt17_name(pid, camera, number)) for pid, camera, number in msmt17(split)][:keep]
        folder = folders[split in ("query", "gallery")]
        plant(root, (f"{folder}/{name}" for _, name in images))
        random.Random(split).shuffle(images)
        (root / f"list_{split}.txt").write_text("".join(f"{name} {pid}\n" for pid, name in images))
    return root


def msmt17_repacked() -> Iterator[str]:
    places = ("bounding_box_train", "bounding_box_train", "query", "bounding_box_test")
    for split, place in zip(MSMT17, places, strict=True):
        for pid, camera, number in msmt17(split):
            yield f"{place}/{pid:04}_c{camera}_{number:04}.jpg"


CUHK03 = {"labeled": (7368, 1400, 5328), "detected": (7365, 1400, 5332)}


def cuhk03(half: str) -> Iterator[tuple[str, int, int, int]]:
    """(split, identity, camera from 1, number over the whole half); training and test identities alternate."""
    test = range(2, 1402, 2)
    train = [pid for pid in range(1, 1468) if pid not in test]
    number = 0
    for split, ids, images in zip(
        ("bounding_box_train", "query", "bounding_box_test"), (train, test, test), CUHK03[half], strict=True
    ):
        for pid, camera, _ in people(ids, images, (1, 2)):
            number += 1
            yield split, pid, camera, number


def cuhk03_np(half: str) -> Iterator[str]:
    for split, pid, camera, number in cuhk03(half):
        yield f"{half}/{split}/{pid:04}_c{camera}_{number}.png"


def plant_cuhk03_mat(root: Path, half: str) -> Path:
    """What torchreid and fast-reid make of cuhk-03.mat: a person's number is unique within a camera pair only."""
    from scipy.io import savemat

    rows = list(cuhk03(half))
    random.Random(half).shuffle(rows)
    seen: dict[int, int] = {}
    files = []
    for _, pid, camera, _ in rows:
        seen[pid] = seen.get(pid, 0) + 1
        files.append(f"{1 + (pid - 1) // 843}_{1 + (pid - 1) % 843:03}_{camera}_{seen[pid]:02}.png")
    plant(root, (f"images_{half}/{file}" for file in files))
    filelist = np.empty((len(files), 1), dtype=object)
    filelist[:, 0] = files
    index = {
        field: np.array([[1 + at] for at, row in enumerate(rows) if row[0] == split])
        for field, split in (
            ("train_idx", "bounding_box_train"),
            ("query_idx", "query"),
            ("gallery_idx", "bounding_box_test"),
        )
    }
    labels = np.array([[pid] for _, pid, _, _ in rows])
    savemat(root / f"cuhk03_new_protocol_config_{half}.mat", {"filelist": filelist, "labels": labels, **index})
    return root


def personx() -> Iterator[str]:
    for split, ids, each in (
        ("bounding_box_train", range(1, 411), 4),
        ("query", range(411, 1267), 1),
        ("bounding_box_test", range(411, 1267), 6),
    ):
        for pid in ids:
            for camera in (3, 4, 8, 10, 11, 12):
                yield from (f"{split}/{pid:04}_c{camera}_s{number}_0.jpg" for number in range(each))


def luperson(images: int = 10_000) -> Iterator[str]:
    for number in range(images):
        yield f"video_{number % 37:02}/{number % 3}/{number:07}_p{number % 5}.jpg"
