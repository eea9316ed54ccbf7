"""Packs: the same images as the folder, whole after a killed packing, and clear errors for damaged files."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pil

from reproduce.commands.cli import main
from reproduce.commands.doctor import examine
from reproduce.data import packing
from reproduce.data.images import Images
from reproduce.data.manifests import digest, take
from reproduce.data.packing import pack
from reproduce.data.packs import pack_at
from reproduce.data.reading import part, read
from reproduce.data.sampling import WINDOW, shuffled_batches
from reproduce.dataset import Unlabelled
from reproduce.errors import UserError

COUNT = 40
SHARD = 4000
"""Bytes, a few images."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty JPEGs of different sizes, at two depths, one with a name longer than tar's hundred letters."""
    root = tmp_path / "LUPerson"
    for number in range(COUNT):
        name = "long" * 40 if number == 7 else f"{number:03}"
        path = root / f"city {number % 3}" / (f"video {number % 2}" if number % 5 else "") / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (16 + number, 12, 3), dtype=np.uint8)
        Pil.fromarray(noise).save(path, quality=90)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return root


def packed(folder: Path, into: Path) -> Path:
    images = read(folder, "luperson").train
    assert isinstance(images, Unlabelled)
    pack(images, folder, into, shard_bytes=SHARD)
    return into


@pytest.fixture
def into(folder: Path, tmp_path: Path) -> Path:
    return packed(folder, tmp_path / "pack")


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_same_images_digest_and_batches(folder: Path, into: Path) -> None:
    one, other = read(folder, "luperson"), read(into, "luperson")
    assert list(one.train) == list(other.train)
    assert digest(one) == digest(other)
    assert digest(part(one, 1)) == digest(part(other, 1)) != digest(one)
    batches = shuffled_batches(COUNT, 8, seed=1, epoch=0, iterations=11)
    streams = [Images(each.root, each.train, (24, 12), budget_bytes=0).batches(batches) for each in (one, other)]
    for left, right in zip(*streams, strict=True):
        assert torch.equal(left, right)


def test_plain_tar_holds_the_unchanged_files(folder: Path, into: Path, tmp_path: Path) -> None:
    assert len(list(into.glob("shard-*.tar"))) > 3
    for shard in into.glob("*.tar"):
        with tarfile.open(shard) as tar:
            tar.extractall(tmp_path / "out", filter="data")
    for image in read(folder, "luperson").train:
        assert (tmp_path / "out" / image.path).read_bytes() == (folder / image.path).read_bytes()


def test_shards_hold_the_given_size_or_one_image(folder: Path, into: Path) -> None:
    held = pack_at(into)
    assert held
    for start, end in pairwise(held.starts):
        assert sum(held.sizes[start:end]) <= SHARD or end == start + 1


@pytest.mark.parametrize("moment", range(12))
def test_killed_packing_goes_on(
    folder: Path, into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Stop at any image, as a kill does; what was whole is not written again, and the pack is the same."""
    wanted, half, left = files(into), tmp_path / "half", 3 * moment
    content = packing._content

    def dying(*given: object) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return content(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "_content", dying)
    monkeypatch.setattr(packing, "_AHEAD", 1)
    with pytest.raises(KeyboardInterrupt):
        packed(folder, half)
    (half / ".shard-00099.tar.0123abcd").write_bytes(b"draft")
    whole = {path: path.stat().st_mtime_ns for path in half.glob("shard-*") if path.with_suffix(".index").exists()}
    if moment:
        with pytest.raises(UserError, match=r"holds shards but no pack\.json: packing has not ended|holds no images"):
            read(half, "luperson")
    monkeypatch.setattr(packing, "_content", content)
    packed(folder, half)
    assert files(half) == wanted
    assert all(path.stat().st_mtime_ns == before for path, before in whole.items())
    assert moment < 6 or whole


def test_changed_images_are_packed_again(folder: Path, into: Path) -> None:
    path = sorted(folder.rglob("*.jpg"))[20]
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    os.utime(path, (time.time() + 5, time.time() + 5))
    before = files(into)
    packed(folder, into)
    assert sum(before[name] != content for name, content in files(into).items()) == 3, "a shard, its index, the list"


def test_image_that_is_none_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "city 1" / "page.jpg").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(UserError, match=r"page\.jpg is an HTML page, whatever its name says"):
        packed(folder, tmp_path / "pack")


def reading(root: Path) -> None:
    """Read everything."""
    data = read(root, "luperson")
    images = Images(data.root, data.train, (24, 12), budget_bytes=0)
    for _ in images.batches([[index] for index in range(len(images))]):
        pass


DAMAGE = {
    "cut shard": ("shard-00002.tar", lambda content: content[:-5000], r"it is truncated: [\d,]+ of [\d,]+ bytes"),
    "empty shard": ("shard-00002.tar", lambda content: b"", r"it is truncated: 0 of [\d,]+ bytes"),
    "other bytes": ("shard-00002.tar", lambda c: c[:1000] + bytes([c[1000] ^ 1]) + c[1001:], r"the content of .*\.jpg"),
    "missing shard": ("shard-00002.tar", None, r"it cannot be read \(No such file"),
    "missing index": ("shard-00002.index", None, r"it cannot be read \(No such file"),
    "other index": ("shard-00002.index", lambda content: content[:-3], r"its content has changed"),
    "broken list": ("pack.json", lambda content: content[:-9], r"pack\.json is damaged"),
    "missing list": ("pack.json", None, r"holds shards but no pack\.json"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_mended(folder: Path, into: Path, kind: str) -> None:
    name, change, message = DAMAGE[kind]
    wanted, file = files(into), into / name
    content = file.read_bytes()
    file.unlink()
    if change:
        file.write_bytes(change(content))  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match=message) as error:
        reading(into)
    assert name in str(error.value)
    assert "reproduce data pack` again" in str(error.value)
    file.unlink(missing_ok=True)
    packed(folder, into)
    assert files(into) == wanted
    reading(into)


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_no_changed_byte_of_an_image_passes(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    root = tmp_path_factory.mktemp("one")
    (root / "in").mkdir()
    Pil.new("RGB", (8, 16), (200, 10, 40)).save(root / "in" / "a.jpg")
    into = packed(root / "in", root / "pack")
    shard = into / "shard-00000.tar"
    content = bytearray(shard.read_bytes())
    content[512 + place % (root / "in" / "a.jpg").stat().st_size] ^= 1 << bit
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"the content of a\.jpg has changed"):
        reading(into)
    shutil.rmtree(root)


def test_changed_pack_is_noticed_during_a_run(into: Path) -> None:
    manifest = take(read(into, "luperson"))
    assert manifest.changed() is None
    os.utime(into / "shard-00001.tar")
    assert manifest.changed() == into / "shard-00001.tar"


def test_doctor_decodes_a_pack(folder: Path, into: Path, tmp_path: Path) -> None:
    assert examine("luperson", None, into, deep=True).says == examine("luperson", None, folder, deep=True).says
    (tmp_path / "broken").mkdir()
    broken = tmp_path / "broken" / "a.jpg"
    broken.write_bytes(sorted(folder.rglob("*.jpg"))[0].read_bytes()[:300])
    finding = examine("luperson", None, packed(broken.parent, tmp_path / "pack of it"), deep=True)
    assert "shard-00000.tar: a.jpg is not a readable image" in finding.says


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "pack", str(folder), str(tmp_path / "new")]) == 0
    assert "packed 40 images" in capsys.readouterr().out
    assert digest(read(folder, "luperson")) == digest(read(tmp_path / "new", "luperson"))
    for arguments, message in (
        ([folder, folder / "inside"], "name a folder outside it"),
        ([tmp_path / "new", tmp_path / "other"], "is a pack already"),
        ([folder, tmp_path], "is no part of this pack: give an empty folder"),
        ([folder, tmp_path / "other", "--shard-size", "0"], "give at least 1 MiB"),
        ([folder / "city 1" / "004.jpg", tmp_path / "other"], "there is no folder"),
    ):
        assert main(["data", "pack", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err


@given(count=st.integers(1, 300), block=st.integers(1, 40), seed=st.integers(0, 9))
def test_order_by_blocks(count: int, block: int, seed: int) -> None:
    """Every position once a pass, and each window of the pass from few blocks."""
    batches = shuffled_batches(count, 1, seed=seed, epoch=0, block=block)
    order = [position for batch in batches for position in batch]
    assert sorted(order) == list(range(count))
    reach = WINDOW * block
    for start in range(0, count, reach):
        blocks = {position // block for position in order[start : start + reach]}
        assert len(blocks) <= WINDOW + 1


def test_order_by_blocks_is_random_and_goes_on() -> None:
    batches = shuffled_batches(5000, 50, seed=1, epoch=0, iterations=250, block=100)
    assert list(batches[120:]) == list(batches)[120:], "a resumed run repeats and skips nothing"
    passes = [[position for batch in batches[at : at + 100] for position in batch] for at in (0, 100)]
    assert passes[0] != passes[1]
    order = passes[0]
    assert sum(abs(one - other) < 100 for one, other in pairwise(order)) < 2000
