"""Fingerprints: what changes them, what does not, and the memory that makes them cheap."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.io
import trees

from reproduce.data.manifests import digest, glance, recheck, take
from reproduce.data.reading import read
from reproduce.dataset import Dataset, Image, Unlabelled
from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

JPEG = b"\xff\xd8\xff"
LONG_AGO = 1_600_000_000_000_000_000


def write(path: Path, content: bytes, changed: int = LONG_AGO) -> None:
    """A file that begins as a JPEG does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(JPEG + content)
    os.utime(path, ns=(changed, changed))


def dataset(root: Path, names: str = "abcdef") -> Dataset:
    """A dataset of one file a letter, two a split."""
    images = [Image(f"split/{name}.jpg", 1, 0) for name in names]
    for image in images:
        if not (root / image.path).exists():
            write(root / image.path, image.path.encode())
    return Dataset("m", root, tuple(images[:2]), tuple(images[2:4]), tuple(images[4:]))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content was hashed."""
    names: list[str] = []
    original: Callable[..., object] = hashlib.file_digest

    def counted(file: object, kind: str) -> object:
        names.append(Path(file.name).name)  # type: ignore[attr-defined]
        return original(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return names


def test_the_definition(tmp_path: Path) -> None:
    lines = "".join(
        f"{split}\0split/{name}.jpg\x001\x000\0{hashlib.sha256(JPEG + f'split/{name}.jpg'.encode()).hexdigest()}\n"
        for split, names in (("gallery", "ef"), ("query", "cd"), ("train", "ab"))
        for name in names
    )
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert digest(dataset(tmp_path / "data"), cache=tmp_path / "cache") == expected


def test_place_time_and_order_do_not_count(tmp_path: Path) -> None:
    first = digest(dataset(tmp_path / "a"), cache=tmp_path / "cache")
    moved = dataset(tmp_path / "b", "badcfe")
    for image in moved.train:
        os.utime(moved.root / image.path, ns=(LONG_AGO + 5, LONG_AGO + 5))
    assert digest(moved, cache=tmp_path / "cache", threads=1) == first


@pytest.mark.parametrize("threads", [1, 4])
def test_content_names_and_number_count(tmp_path: Path, threads: int) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    seen = {digest(dataset(root), cache=cache, threads=threads), digest(dataset(root, "abcdeg"), cache=cache)}
    seen.add(digest(dataset(root, "abcde"), cache=cache))
    write(root / "split" / "a.jpg", b"split/A.jpg", LONG_AGO + 1)
    seen.add(digest(dataset(root), cache=cache))
    write(root / "split" / "a.jpg", b"longer than before")
    seen.add(digest(dataset(root), cache=cache))
    assert len(seen) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda data: {"query": data.gallery, "gallery": data.query},
        lambda data: {"train": data.train[:1], "query": (*data.query, data.train[1])},
        lambda data: {"train": (data.train[0], replace(data.train[1], pid=2))},
        lambda data: {"query": (data.query[0], replace(data.query[1], camid=3))},
        lambda data: {"gallery": (*data.gallery, data.query[0])},
    ],
)
def test_labels_and_splits_count(tmp_path: Path, reads: list[str], change: Callable[[Dataset], Any]) -> None:
    data, cache = dataset(tmp_path / "data"), tmp_path / "cache"
    first = digest(data, cache=cache)
    assert digest(replace(data, **change(data)), cache=cache) != first
    assert len(reads) == 6, "the content is that of before"


def test_msmt17_with_its_test_lists_swapped_or_two_people_merged(tmp_path: Path) -> None:
    root = trees.plant_msmt17(tmp_path / "msmt17", keep=20)

    def found() -> str:
        return digest(read(root, "msmt17"), cache=tmp_path / "cache")

    query, gallery, train = (root / f"list_{name}.txt" for name in ("query", "gallery", "train"))
    kept = {path: path.read_text() for path in (query, gallery, train)}
    first = found()
    query.write_text(kept[gallery])
    gallery.write_text(kept[query])
    swapped = found()
    query.write_text(kept[query])
    gallery.write_text(kept[gallery])
    assert found() == first
    one, two = sorted({line.split()[1] for line in kept[train].splitlines()})[:2]
    train.write_text("".join(f"{re.sub(f' {one}$', f' {two}', line)}\n" for line in kept[train].splitlines()))
    assert len({first, swapped, found()}) == 3


def test_cuhk03_with_another_split(tmp_path: Path) -> None:
    people = np.array([[pid] for pid in (1, 2, 3, 4) for _ in (1, 2)])
    files = np.empty((8, 1), dtype=object)
    files[:, 0] = [f"1_{pid:03}_{camera}_01.png" for pid in (1, 2, 3, 4) for camera in (1, 2)]
    trees.plant(tmp_path, (f"images_labeled/{file}" for file in files[:, 0]))
    digests = set()
    for rows in ((0, 1, 2, 3), (4, 5, 6, 7)), ((4, 5, 6, 7), (0, 1, 2, 3)), ((0, 1, 4, 5), (2, 3, 6, 7)):
        train, test = (np.array([[row + 1] for row in part]) for part in rows)
        index = {"train_idx": train, "query_idx": test[::2], "gallery_idx": test[1::2]}
        scipy.io.savemat(
            tmp_path / "cuhk03_new_protocol_config_labeled.mat", {"filelist": files, "labels": people, **index}
        )
        digests.add(digest(read(tmp_path, "cuhk03"), cache=tmp_path / "cache"))
    assert len(digests) == 3


def test_a_manifest_sees_what_changed_since(tmp_path: Path) -> None:
    data, cache = dataset(tmp_path / "data"), tmp_path / "cache"
    path, later = data.root / "split" / "c.jpg", data.root / "split" / "e.jpg"
    content = path.read_bytes()
    for manifest in (glance(data), take(data, cache=cache)):
        assert manifest.changed() is None
        write(path, b"split/C.jpg", LONG_AGO + 1)
        write(later, b"longer than before")
        assert manifest.changed() == path
        path.write_bytes(content)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
        assert manifest.changed() == later
        later.unlink()
        assert manifest.changed() == later
        write(later, b"split/e.jpg")
        assert manifest.changed() is None


def test_another_fingerprint_than_the_wanted_one_names_what_changed(tmp_path: Path, reads: list[str]) -> None:
    data, cache = dataset(tmp_path / "data"), tmp_path / "cache"
    wanted = digest(data, cache=cache)
    reads.clear()
    assert take(data, wanted=wanted, cache=cache).digest == wanted
    assert reads == []
    path = data.root / "split" / "d.jpg"
    write(path, b"split/d.jpg", LONG_AGO + 1)
    assert take(data, wanted=wanted, cache=cache).digest == wanted, "the same content, copied again"
    assert reads == ["d.jpg"]
    write(path, b"split/D.jpg", LONG_AGO + 2)
    for _ in range(2):
        with pytest.raises(UserError, match=r"/split/d\.jpg has changed since the run began, .*: run the same command"):
            take(data, wanted=wanted, cache=cache)
    write(path, b"split/d.jpg", LONG_AGO + 1)
    (data.root / data.train[0].path).unlink()
    with pytest.raises(UserError, match=r"/split/a\.jpg has changed since"):
        take(replace(data, train=data.train[1:]), wanted=wanted, cache=cache)
    write(data.root / data.train[0].path, b"split/a.jpg")
    with pytest.raises(UserError, match=rf"^{data.root} has changed since"):
        take(replace(data, query=data.gallery, gallery=data.query), wanted=wanted, cache=cache)


def test_content_that_changed_under_size_and_time_is_found_by_reading(tmp_path: Path) -> None:
    data, cache = dataset(tmp_path / "data"), tmp_path / "cache"
    first = digest(data, cache=cache)
    assert recheck(data.root, cache=cache) == []
    write(data.root / "split" / "a.jpg", b"split/A.jpg")
    write(data.root / "split" / "b.jpg", b"changed, and seen by its size")
    (data.root / "split" / "c.jpg").unlink()
    assert recheck(data.root, cache=cache) == ["split/a.jpg"]
    assert recheck(data.root, cache=cache) == [], "what was read is remembered"
    for name in "bc":
        write(data.root / "split" / f"{name}.jpg", f"split/{name}.jpg".encode())
    assert digest(data, cache=cache) != first


def test_only_what_changed_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    first = digest(dataset(root), cache=cache)
    assert sorted(reads) == [f"{name}.jpg" for name in "abcdef"]
    reads.clear()
    assert digest(dataset(root), cache=cache) == first
    assert digest(dataset(root, "abc"), cache=cache) != first
    assert reads == []
    write(root / "split" / "b.jpg", b"other", LONG_AGO + 1)
    assert digest(dataset(root), cache=cache) != first
    assert reads == ["b.jpg"]
    assert digest(dataset(root), cache=cache) != first
    assert reads == ["b.jpg"]


def test_a_part_does_not_forget_the_rest(tmp_path: Path, reads: list[str]) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    digest(dataset(root), cache=cache)
    digest(dataset(root, "abg"), cache=cache)
    reads.clear()
    digest(dataset(root, "abcdefg"), cache=cache)
    assert reads == []


def test_a_file_written_just_now_is_not_trusted(tmp_path: Path, reads: list[str]) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    data = dataset(root)
    path = root / "split" / "a.jpg"
    path.write_bytes(JPEG + b"one")
    stat = path.stat()
    first = digest(data, cache=cache)
    write(path, b"two", stat.st_mtime_ns)  # same size, and the same time to the nanosecond
    reads.clear()
    assert digest(data, cache=cache) != first
    assert reads == ["a.jpg"]


@pytest.mark.parametrize("broken", ["", "{", "[]", "null", '{"split/a.jpg": 3}', '{"split/a.jpg": ["x", 1, 2]}'])
def test_a_broken_memory_is_ignored_and_mended(tmp_path: Path, reads: list[str], broken: str) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    first = digest(dataset(root), cache=cache)
    (memory,) = cache.iterdir()
    whole = json.loads(memory.read_text())
    memory.write_text(broken)
    assert digest(dataset(root), cache=cache) == first
    assert [path.name for path in cache.iterdir()] == [memory.name]
    assert json.loads(memory.read_text()) == whole
    assert len(reads) == 12


def test_a_memory_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    expected = digest(dataset(tmp_path / "data"), cache=tmp_path / "cache")
    (tmp_path / "file").touch()
    assert digest(dataset(tmp_path / "data"), cache=tmp_path / "file" / "cache") == expected


def test_the_default_memory_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    digest(dataset(tmp_path / "data"))
    assert len(list((tmp_path / "home" / "reproduce" / "manifests").iterdir())) == 1


def test_a_missing_file(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    (data.root / "split" / "c.jpg").unlink()
    with pytest.raises(UserError, match=r"c\.jpg cannot be read \(No such file or directory\); copy it again"):
        digest(data, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "an HTML page"),
        (b"\xef\xbb\xbf\n <html>", "an HTML page"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1", "no image"),
    ],
)
def test_what_is_no_image_is_named_whatever_its_name_says(tmp_path: Path, content: bytes, what: str) -> None:
    data = dataset(tmp_path / "data")
    (data.root / "split" / "d.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"d\.jpg is {what}, whatever its name says; copy it again"):
        digest(data, cache=tmp_path / "cache")


def test_an_unlabelled_set_is_known_by_paths_and_sizes(tmp_path: Path, reads: list[str]) -> None:
    def unlabelled() -> str:
        images = Unlabelled(f"{name}.jpg" for name in ("b", "a"))
        return digest(Dataset("luperson", tmp_path, images, (), ()), cache=tmp_path / "cache")

    for name in "ab":
        write(tmp_path / f"{name}.jpg", b"one")
    first = unlabelled()
    lines = "".join(f"{name}.jpg\0{6}\n" for name in "ab")
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    write(tmp_path / "a.jpg", b"three")
    assert unlabelled() != first
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"b\.jpg cannot be read .*; copy it again"):
        unlabelled()
    assert reads == []
    assert not (tmp_path / "cache").exists()


def test_processes_share_the_memory(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    for name in range(300):
        write(data.root / "split" / f"{name}.jpg", b"%d" % name)
    script = (
        "import sys; from pathlib import Path; from reproduce.dataset import Dataset, Image;"
        "from reproduce.data.manifests import digest;"
        "root, cache, low, high = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]);"
        "images = lambda n: tuple(Image(f'split/{i}.jpg', 1, 0) for i in range(low, n));"
        "print([digest(Dataset('m', root, images(n), (), ()), cache=cache) for n in range(low + 1, high)][-1])"
    )
    command = [sys.executable, "-c", script, str(data.root), str(tmp_path / "cache")]
    ranges = [("0", "80"), ("0", "80"), ("50", "130")]
    running = [subprocess.Popen([*command, *ends], stdout=subprocess.PIPE, text=True) for ends in ranges]
    printed = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert printed[0] == printed[1] != printed[2]
    (memory,) = (tmp_path / "cache").iterdir()
    for path, (size, changed, content) in json.loads(memory.read_text()).items():
        stat = (data.root / path).stat()
        assert (size, changed) == (stat.st_size, stat.st_mtime_ns)
        assert content == hashlib.sha256((data.root / path).read_bytes()).hexdigest()
