"""Readers on folders as users have them: complete, odd or broken."""

from __future__ import annotations

import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reproduce.data.catalogue import published
from reproduce.data.domains import Domain
from reproduce.data.layouts import find
from reproduce.data.reading import Counts, Description, describe, differences, read
from reproduce.dataset import Dataset, Image
from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

MARKET = {
    "bounding_box_train": ["0007_c2s3_070952_01.jpg", "0002_c1s1_000451_03.jpg", "0002_c6s4_000001_12.jpg"],
    "query": ["1488_c1s6_018321_00.jpg.jpg", "0003_c1s6_015971_00.jpg"],
    "bounding_box_test": [
        "1488_c6s3_099442_02.jpg.jpg",
        "0003_c2s1_000151_01.jpg",
        "0000_c1s1_000151_01.jpg",
        "-1_c1s1_000401_03.jpg",
    ],
}
DUKE = {
    "bounding_box_train": ["0001_c2_f0046182.jpg", "0001_c1_f0044158.jpg"],
    "query": ["0005_c2_f0046985.jpg"],
    "bounding_box_test": ["0005_c8_f0000001.jpg", "5388_c2_f0230000.jpg"],
}


def lay_out(root: Path, names: dict[str, list[str]]) -> Path:
    for split, files in names.items():
        (root / split).mkdir(parents=True)
        for file in files:
            (root / split / file).touch()
    return root


def many(ids: int, distractors: int, crowd: int) -> dict[str, list[str]]:
    """Write a domain with half of the identities in training, and the given numbers of distractors, 0000 and -1."""
    half = ids // 2

    def person(pid: int, cameras: Iterable[int]) -> list[str]:
        return [f"{pid:04d}_c{camera}s1_{camera:06d}_00.jpg" for camera in cameras]

    return {
        "bounding_box_train": [name for pid in range(1, half + 1) for name in person(pid, (1, 2))],
        "query": [name for pid in range(half + 1, ids + 1) for name in person(pid, (1,))],
        "bounding_box_test": [
            *(name for pid in range(half + 1, ids + distractors + 1) for name in person(pid, (2, 3))),
            *(f"{pid}_c1s1_{frame:06d}_01.jpg" for pid in ("0000", "-1") for frame in range(crowd)),
        ],
    }


def test_market_names(tmp_path: Path) -> None:
    dataset = read(lay_out(tmp_path, MARKET), "market")
    assert dataset.train == (
        Image("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 0, 451, 1),
        Image("bounding_box_train/0002_c6s4_000001_12.jpg", 2, 5, 1, 4),
        Image("bounding_box_train/0007_c2s3_070952_01.jpg", 7, 1, 70952, 3),
    )
    assert dataset.query[1] == Image("query/1488_c1s6_018321_00.jpg.jpg", 1488, 0, 18321, 6)
    assert [image.pid for image in dataset.gallery] == [-1, 0, 3, 1488]
    assert (dataset.name, dataset.root, dataset.train_pids, dataset.cameras) == ("market", tmp_path, (2, 7), (0, 1, 5))


def test_duke_names(tmp_path: Path) -> None:
    dataset = read(lay_out(tmp_path, DUKE), "duke")
    assert dataset.train[0] == Image("bounding_box_train/0001_c1_f0044158.jpg", 1, 0, 44158, None)
    assert [image.pid for image in dataset.gallery] == [5, 5388]


def test_names_decide_the_grammar_not_the_domain(tmp_path: Path) -> None:
    assert read(lay_out(tmp_path / "a", MARKET), "duke").train[0].sequence == 1
    assert read(lay_out(tmp_path / "b", DUKE), "market").train[0].sequence is None


@pytest.mark.parametrize("ending", [".png", ".jpeg", ".JPG", ".bmp"])
def test_other_image_types(tmp_path: Path, ending: str) -> None:
    names = {split: [file.removesuffix(".jpg") + ending for file in files] for split, files in MARKET.items()}
    assert len(read(lay_out(tmp_path, names), "market").gallery) == 4


def test_other_files_and_folders_are_skipped(tmp_path: Path) -> None:
    expected = read(lay_out(tmp_path, MARKET), "market")
    for split in (".", *MARKET):
        for clutter in ("Thumbs.db", ".DS_Store", "._0002_c1s1_000451_03.jpg", "readme.txt", "notes.jpg.part"):
            (tmp_path / split / clutter).touch()
        (tmp_path / split / "folder.jpg").mkdir()
    for extra in ("gt_bbox", "gt_query", "__MACOSX", "bounding_box_train_camstyle"):
        (tmp_path / extra).mkdir()
        (tmp_path / extra / "0002_c1s1_000451_03_fake_1to2.jpg").touch()
    assert read(tmp_path, "market") == expected


def test_reading_does_not_depend_on_listing_order(tmp_path: Path) -> None:
    backwards = {split: list(reversed(files)) for split, files in MARKET.items()}
    first, second = read(lay_out(tmp_path / "a", MARKET), "m"), read(lay_out(tmp_path / "b", backwards), "m")
    assert (first.train, first.query, first.gallery) == (second.train, second.query, second.gallery)


def test_root_may_be_relative_or_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path / "data", MARKET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(Path("data"), "m").root == read(Path("~/data"), "m").root == tmp_path / "data"


@pytest.mark.parametrize("split", list(MARKET))
@pytest.mark.parametrize("missing", [True, False])
def test_incomplete_folder_raises(tmp_path: Path, split: str, missing: bool) -> None:
    lay_out(tmp_path, {**MARKET, split: []})
    if missing:
        (tmp_path / split).rmdir()
    with pytest.raises(UserError, match=f"m: {tmp_path} has no images .* in {split}; copy what is missing"):
        read(tmp_path, "m")


def test_missing_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"m: there is no folder {tmp_path}/x; give the one that holds"):
        read(tmp_path / "x", "m")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="there is no folder"):
        read(tmp_path / "file", "m")
    with pytest.raises(UserError, match=r"m: cannot list .* give a folder that can be read"):
        find(tmp_path / "x", "m")
    with pytest.raises(UserError, match="holds neither"):
        read(tmp_path, "m")


@pytest.mark.parametrize(
    "odd", ["IMG_0001.jpg", "0002_c1s1_000451_03_fake_1to2.jpg", "0002_c1_0001.jpg", "0002_c1s1_000451.jpg"]
)
def test_unknown_grammar_raises(tmp_path: Path, odd: str) -> None:
    lay_out(tmp_path, {**MARKET, "query": [*MARKET["query"], odd]})
    with pytest.raises(UserError, match=f"m: 1 of 10 image names in .* not as in Market-1501, such as query/{odd};"):
        read(tmp_path, "m")


def test_mixed_grammars_raise(tmp_path: Path) -> None:
    lay_out(tmp_path, {**DUKE, "query": [*DUKE["query"], MARKET["query"][1]]})
    with pytest.raises(UserError, match=r"1 of 6 image names in .* are not as in DukeMTMC-reID"):
        read(tmp_path, "m")


def test_camera_zero_raises(tmp_path: Path) -> None:
    lay_out(tmp_path, {**DUKE, "query": ["0005_c0_f0046985.jpg"]})
    with pytest.raises(UserError, match="camera 0; number the cameras from 1"):
        read(tmp_path, "m")


def test_overlap_of_training_and_test_raises(tmp_path: Path) -> None:
    lay_out(tmp_path, {**MARKET, "bounding_box_train": ["0003_c1s1_000451_03.jpg", "0009_c1s1_000451_03.jpg"]})
    with pytest.raises(UserError, match=r"m: 1 identities of .* are in bounding_box_train and also in .*, such as 3;"):
        read(tmp_path, "m")


def test_junk_is_kept_in_the_gallery_only(tmp_path: Path) -> None:
    junk = "-1_c1s1_000001_01.jpg"
    lay_out(tmp_path, {split: [*{*files, junk}] for split, files in MARKET.items()})
    dataset = read(tmp_path, "m")
    assert dataset.train_pids == (2, 7)
    assert [image.pid for image in dataset.query] == [3, 1488]
    assert sum(image.pid == -1 for image in dataset.gallery) == 2


@pytest.mark.parametrize("split", ["query", "bounding_box_train"])
def test_split_of_junk_only_raises(tmp_path: Path, split: str) -> None:
    lay_out(tmp_path, {**MARKET, split: ["-1_c1s1_000001_01.jpg"]})
    with pytest.raises(UserError, match=f"{split} holds nothing but junk"):
        read(tmp_path, "m")


def test_describe(tmp_path: Path) -> None:
    description = describe(read(lay_out(tmp_path, MARKET), "market"))
    assert description == Description(Counts(2, 3, 3), Counts(2, 2, 1), Counts(3, 3, 3), distractors=1, junk=1)
    assert description != published("market")
    wanted = Description(Counts(2, 4, 3), Counts(2, 2, 1), Counts(3, 3, 3), distractors=0, junk=1)
    assert differences(description, wanted) == ["train images 3, not 4 (1 fewer)", "distractors 1, not 0 (1 more)"]
    assert differences(wanted, wanted) == []


def test_variant_defaults_to_the_usual_one_and_unknown_ones_raise() -> None:
    assert Domain("msmt17") == Domain("msmt17", "train+val") != Domain("msmt17", "train")
    assert (Domain("cuhk03").variant, Domain("market").variant) == ("labelled", "")
    with pytest.raises(UserError, match="msmt17 has no variant 'val'; it has train\\+val, train"):
        Domain("msmt17", "val")
    with pytest.raises(UserError, match="market has no variant 'train'"):
        Domain("market", "train")


def test_published_counts_add_up() -> None:
    market, duke = published("market"), published("duke")
    assert market.gallery.images + market.junk == 19732
    assert duke.gallery.ids - duke.query.ids == 408
    assert sum(split.images for split in (duke.train, duke.query, duke.gallery)) == 36411
    assert duke.train.ids + duke.gallery.ids == 1812
    msmt17 = published("msmt17")
    assert msmt17.train.images - published("msmt17", "train").train.images == 2373
    assert msmt17.train.images + msmt17.query.images + msmt17.gallery.images == 126441
    totals = {name: published("cuhk03", name) for name in ("labelled", "detected")}
    images = {name: it.train.images + it.query.images + it.gallery.images for name, it in totals.items()}
    assert images == {"labelled": 14096, "detected": 14097}


def identities(dataset: Dataset, split: str) -> set[int]:
    return {image.pid for image in getattr(dataset, split)}


def test_subset_keeps_whole_identities_and_proportions(tmp_path: Path) -> None:
    whole = read(lay_out(tmp_path, many(ids=40, distractors=12, crowd=30)), "m")
    part = read(tmp_path, "m", subset=5)
    assert len(part.train_pids) == len(identities(part, "query")) == 5
    for split in ("train", "query"):
        images = getattr(whole, split)
        assert getattr(part, split) == tuple(image for image in images if image.pid in identities(part, split))
    assert describe(part) == Description(Counts(5, 10, 2), Counts(5, 5, 1), Counts(9, 24, 3), distractors=14, junk=8)
    assert set(part.gallery) < set(whole.gallery)


def test_subsets_are_nested_up_to_the_whole_set(tmp_path: Path) -> None:
    whole = read(lay_out(tmp_path, many(ids=20, distractors=7, crowd=9)), "m")
    parts = [read(tmp_path, "m", subset=count) for count in range(1, 13)]
    for smaller, larger in pairwise(parts):
        for split in ("train", "query", "gallery"):
            assert set(getattr(smaller, split)) <= set(getattr(larger, split))
    assert parts[9] == parts[-1] == whole
    assert [len(part.train_pids) for part in parts] == [*range(1, 11), 10, 10]


def test_subset_is_fixed_and_scattered(tmp_path: Path) -> None:
    lay_out(tmp_path / "a", many(ids=40, distractors=0, crowd=0))
    lay_out(tmp_path / "b", many(ids=40, distractors=5, crowd=5))
    first, second = read(tmp_path / "a", "m", subset=4), read(tmp_path / "b", "n", subset=4)
    assert (first.train, first.query) == (second.train, second.query)
    assert first.train_pids == (8, 9, 13, 17)


@pytest.mark.parametrize("count", [0, -3])
def test_empty_subset_raises(tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match=f"m: a subset of {count} identities is empty; give 1 or more"):
        read(lay_out(tmp_path, MARKET), "m", subset=count)


def test_dataset_can_be_pickled(tmp_path: Path) -> None:
    dataset = read(lay_out(tmp_path, many(ids=80, distractors=5, crowd=40)), "m")
    stored = pickle.dumps(dataset)
    assert pickle.loads(stored) == dataset
    images = len(dataset.train) + len(dataset.query) + len(dataset.gallery)
    assert len(stored) < 100 * images


def test_reads_omniglot_in_the_layout_of_market() -> None:
    folder = os.environ.get("REPRODUCE_TEST_DATA")
    if not folder:
        pytest.skip("REPRODUCE_TEST_DATA does not name the folder of real test data")
    greek = read(Path(folder) / "omniglot" / "greek_latin_etc", "market")
    assert describe(greek) == Description(Counts(68, 1360, 6), Counts(68, 408, 6), Counts(68, 952, 6), 0, 0)
    sanskrit = describe(read(Path(folder) / "omniglot" / "japanese_sanskrit_tagalog", "duke"))
    assert sanskrit == Description(Counts(53, 1060, 6), Counts(53, 318, 6), Counts(53, 742, 6), 0, 0)
