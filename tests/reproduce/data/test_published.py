"""Every reader on a tree with published counts and real name grammars, including their traps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trees

from reproduce.data.catalogue import published
from reproduce.data.reading import describe, differences, read
from reproduce.dataset import UNKNOWN


def test_market(in_memory: Path) -> None:
    dataset = read(trees.plant(in_memory, trees.market()), "market")
    assert describe(dataset) == published("market")
    twice = Counter(
        split
        for split in ("train", "query", "gallery")
        for image in getattr(dataset, split)
        if image.path.endswith(".jpg.jpg")
    )
    assert twice == {"query": 6, "gallery": 16}
    assert len(dataset.gallery) == 19_732


def test_duke(in_memory: Path) -> None:
    assert describe(read(trees.plant(in_memory, trees.duke()), "duke")) == published("duke")


def test_msmt17_in_both_grammars(in_memory: Path) -> None:
    original = read(trees.plant_msmt17(in_memory / "MSMT17_V1"), "msmt17")
    assert describe(original) == published("msmt17")
    assert (original.version, original.variant) == ("V1", "train+val")
    assert (original.train_pids[0], original.train_pids[-1]) == (0, 1040)
    assert min(image.pid for image in original.query) == 10_000
    assert not {image.pid for image in original.gallery} & set(original.train_pids)

    train = read(in_memory / "MSMT17_V1", "msmt17", variant="train")
    assert describe(train) == published("msmt17", "train")
    assert (set(train.train) < set(original.train), train.query, train.gallery) == (
        True,
        original.query,
        original.gallery,
    )

    repacked = read(trees.plant(in_memory / "repacked", trees.msmt17_repacked()), "msmt17")
    assert describe(repacked) == published("msmt17")
    for split in ("train", "query", "gallery"):
        first, second = (Counter((it.pid, it.camid) for it in getattr(each, split)) for each in (original, repacked))
        assert first == second
    one_digit = sum(int(image.path.partition("_c")[2][0]) != image.camid + 1 for image in repacked.train)
    assert one_digit > 10_000, "Market's one-digit pattern would have read these cameras right"


@pytest.mark.parametrize(("half", "variant"), [("labeled", "labelled"), ("detected", "detected")])
def test_cuhk03_as_images_and_with_a_mat_file(in_memory: Path, half: str, variant: str) -> None:
    images = read(trees.plant(in_memory / "cuhk03-np", trees.cuhk03_np(half)), "cuhk03", variant=variant)
    assert describe(images) == published("cuhk03", variant)
    mat = read(trees.plant_cuhk03_mat(in_memory / "cuhk03", half), "cuhk03", variant=variant)
    assert describe(mat) == published("cuhk03", variant)
    for split in ("train", "query", "gallery"):
        first, second = (Counter((it.pid, it.camid) for it in getattr(each, split)) for each in (images, mat))
        assert first == second
    numbers = {image.path.rpartition("/")[2].split("_")[1] for image in mat.train + mat.query}  # type: ignore[operator]
    assert len(numbers) == 843, "the number in a name is no identity"


def test_personx(in_memory: Path) -> None:
    dataset = read(trees.plant(in_memory / "personx" / "subset1", trees.personx()), "personx")
    assert describe(dataset) == published("personx")
    assert dataset.cameras == (0, 1, 2, 3, 4, 5)
    assert set(Counter((image.pid, image.camid) for image in dataset.train).values()) == {4}


def test_luperson(in_memory: Path) -> None:
    dataset = read(trees.plant(in_memory / "LUPerson", trees.luperson()), "luperson")
    assert len(dataset.train) == 10_000
    assert [image.path for image in dataset.train] == sorted(trees.luperson())
    assert {(image.pid, image.camid) for image in dataset.train} == {(UNKNOWN, -1)}
    assert (dataset.query, dataset.gallery, dataset.train_pids, dataset.cameras) == ((), (), (), ())
    assert describe(dataset).train.images == 10_000
    part, less = (read(in_memory / "LUPerson", "luperson", subset=count) for count in (30, 10))
    assert (len(part.train), len(less.train)) == (600, 200)
    assert set(less.train) < set(part.train) < set(dataset.train)


def test_single_missing_image_is_reported(in_memory: Path) -> None:
    trees.plant(in_memory, trees.personx())
    (in_memory / "query" / "0411_c10_s0_0.jpg").unlink()
    gaps = differences(describe(read(in_memory, "personx")), published("personx"))
    assert gaps == ["query images 5,135, not 5,136 (1 fewer)"]
