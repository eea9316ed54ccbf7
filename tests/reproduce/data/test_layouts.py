"""Finding data sets and parsing their lists and names, on small trees."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce.data.layouts import TEST_FROM, find, version
from reproduce.data.reading import read
from reproduce.dataset import UNKNOWN, Image, Unlabelled
from reproduce.errors import UserError

PLAIN = ["bounding_box_train/0002_c1s1_000451_03.jpg", "query/0003_c1s6_015971_00.jpg"]
PLAIN += ["bounding_box_test/0003_c2s1_000151_01.jpg"]
PACKED = ["bounding_box_train/0000_c1_0000.jpg", "bounding_box_train/0001_c15_0007.jpg"]
PACKED += ["query/0000_c3_0001.jpg", "bounding_box_test/0000_c10_0002.jpg"]
CUHK03 = ["bounding_box_train/0001_c1_1.png", "query/0002_c2_14096.png", "bounding_box_test/0002_c1_17.png"]
LISTS = {
    "train": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_004_12_0113noon_0700_12_ex.jpg 1"],
    "val": ["0001/0001_002_03_0302afternoon_0031_1_ex.jpg 1"],
    "query": ["0000/0000_001_15_0114noon_1234_2.jpg 0"],
    "gallery": ["0000/0000_003_05_0303afternoon_0002_1_ex.jpg 0", "0001/0001_000_02_0113morning_0001_0.jpg 1"],
}


def lay_out(root: Path, name: str) -> Path:
    """Write a few images of a domain in its published layout."""
    if name == "msmt17":
        return lists(root)
    names = {"luperson": ["a/1.jpg"], "cuhk03": [f"labeled/{path}" for path in CUHK03]}
    return trees.plant(root, names.get(name, PLAIN))


def lists(root: Path, folders: tuple[str, str] = ("train", "test")) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split, lines in LISTS.items():
        folder = folders[split in ("query", "gallery")]
        trees.plant(root, (f"{folder}/{line.split(' ')[0]}" for line in lines))
        (root / f"list_{split}.txt").write_text("\n".join(reversed(lines)) + "\n")
    return root


# -- where they are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        # torchreid
        ("market", "reid-data/market1501/Market-1501-v15.09.15"),
        ("duke", "reid-data/dukemtmc-reid/DukeMTMC-reID"),
        ("msmt17", "reid-data/msmt17/MSMT17_V1"),
        ("cuhk03", "reid-data/cuhk03"),
        # OpenUnReID
        ("market", "datasets/market1501/Market-1501-v15.09.15"),
        ("duke", "datasets/dukemtmcreid/DukeMTMC-reID"),
        ("msmt17", "datasets/msmt17/MSMT17_V1"),
        ("personx", "datasets/personx/subset1"),
        ("personx", "datasets/personx"),
        # MMT, SpCL
        ("market", "examples/data/market1501/Market-1501-v15.09.15"),
        ("duke", "examples/data/dukemtmc/DukeMTMC-reID"),
        ("duke", "examples/data/dukemtmcreid/DukeMTMC-reID"),
        ("msmt17", "examples/data/msmt17/MSMT17_V1"),
        ("personx", "examples/data/personx/PersonX"),
        # fast-reid
        ("market", "Market-1501-v15.09.15"),
        ("duke", "DukeMTMC-reID"),
        ("msmt17", "MSMT17_V1"),
        ("cuhk03", "cuhk03"),
        # TLlib
        ("market", "data/market1501/Market-1501-v15.09.15"),
        ("duke", "data/DukeMTMC-reID"),
        ("msmt17", "data/msmt17"),
        ("personx", "data/personx"),
        # others
        ("market", "Market-1501"),
        ("market", "market1501"),
        ("duke", "duke"),
        ("msmt17", "MSMT17"),
        ("cuhk03", "cuhk03-np"),
        ("cuhk03", "CUHK03_NP"),
        ("cuhk03", "cuhk03/cuhk03-np"),
        ("luperson", "LUPerson"),
        ("luperson", "LUP"),
        ("mine", "Mine"),
    ],
)
def test_finds_known_folders_below_the_root(tmp_path: Path, name: str, inside: str) -> None:
    folder = lay_out(tmp_path / inside, name)
    for other in {"market", "duke", "msmt17", "cuhk03", "personx", "luperson"} - {name}:
        assert find(tmp_path, other) is None
    assert find(tmp_path, name) == folder
    assert find(folder, name) == folder
    if name != "luperson":
        assert read(tmp_path, name).root == folder


def test_never_finds_another_domain(tmp_path: Path) -> None:
    folder = trees.plant(tmp_path / "market1501" / "Market-1501-v15.09.15", PLAIN)
    assert find(tmp_path, "duke") is None
    assert find(folder, "duke") is None
    with pytest.raises(UserError, match=r"duke: .* holds neither bounding_box_train"):
        read(tmp_path, "duke")


def test_two_folders_of_one_domain_raise_but_links_do_not(tmp_path: Path) -> None:
    folder = trees.plant(tmp_path / "data" / "market1501", PLAIN)
    (tmp_path / "data" / "Market-1501").symlink_to(folder)
    first = find(tmp_path / "data", "market")
    assert first is not None
    assert first.resolve() == folder.resolve()
    trees.plant(tmp_path / "data" / "Market-1501-v15.09.15", PLAIN)
    with pytest.raises(
        UserError, match=r"market: found .*Market-1501-v15.09.15 and .*; name the one to use, with --do"
    ):
        find(tmp_path / "data", "market")


def test_prefers_v1_and_never_takes_v2_for_v1(tmp_path: Path) -> None:
    second = lists(tmp_path / "msmt17" / "MSMT17_V2", ("mask_train_v2", "mask_test_v2"))
    assert find(tmp_path, "msmt17") == second
    assert read(second, "msmt17").version == "V2"
    first = lists(tmp_path / "msmt17" / "MSMT17_V1")
    assert find(tmp_path, "msmt17") == first
    assert read(tmp_path, "msmt17").version == "V1"


def test_version_follows_the_folders_not_the_name_of_their_parent(tmp_path: Path) -> None:
    assert version(lists(tmp_path / "MSMT17_V1", ("mask_train_v2", "mask_test_v2")), "msmt17") == "V2"
    assert version(lists(tmp_path / "MSMT17_V2"), "msmt17") == "V2"
    assert version(lists(tmp_path / "anything"), "msmt17") == "V1"
    assert version(trees.plant(tmp_path / "packed", PACKED), "msmt17") == ""
    assert version(tmp_path / "MSMT17_V2", "market") == ""
    assert read(tmp_path / "MSMT17_V1", "msmt17").train[0].path.startswith("mask_train_v2/")


# -- MSMT17 ------------------------------------------------------------------------------------------------------------


def test_msmt17_names_and_lists(tmp_path: Path) -> None:
    dataset = read(lists(tmp_path / "under_scores"), "msmt17")
    assert dataset.train == (
        Image("train/0000/0000_000_01_0303morning_0015_0.jpg", 0, 0, 15, 10),
        Image("train/0001/0001_002_03_0302afternoon_0031_1_ex.jpg", 1, 2, 31, 9),
        Image("train/0001/0001_004_12_0113noon_0700_12_ex.jpg", 1, 11, 700, 2),
    )
    assert [image.camid for image in read(dataset.root, "msmt17", variant="train").train] == [0, 11]


def test_training_and_test_labels_do_not_collide(tmp_path: Path) -> None:
    dataset = read(lists(tmp_path), "msmt17")
    assert dataset.train_pids == (0, 1)
    assert [image.pid for image in dataset.query] == [TEST_FROM]
    assert [image.pid for image in dataset.gallery] == [TEST_FROM, TEST_FROM + 1]
    packed = read(trees.plant(tmp_path / "packed", PACKED), "msmt17")
    assert packed.train_pids == (0, 1)
    assert {image.pid for image in (*packed.query, *packed.gallery)} == {TEST_FROM}


def test_repacked_cameras_have_one_or_two_digits(tmp_path: Path) -> None:
    packed = read(trees.plant(tmp_path, PACKED), "msmt17")
    assert [image.camid for split in (packed.train, packed.query, packed.gallery) for image in split] == [0, 14, 2, 9]
    assert packed.train[1] == Image("bounding_box_train/0001_c15_0007.jpg", 1, 14)
    with pytest.raises(UserError, match=r"msmt17: .* is re-packed, and its names do not tell list_train's images"):
        read(tmp_path, "msmt17", variant="train")


def test_lists_take_precedence_over_a_repacking(tmp_path: Path) -> None:
    trees.plant(lists(tmp_path), PACKED)
    assert len(read(tmp_path, "msmt17").train) == 3
    for split in LISTS:
        (tmp_path / f"list_{split}.txt").unlink()
    assert len(read(tmp_path, "msmt17").train) == 2


def test_windows_line_ends_and_empty_lines_are_ignored(tmp_path: Path) -> None:
    expected = read(lists(tmp_path), "msmt17").train
    for path in tmp_path.glob("list_*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert read(tmp_path, "msmt17").train == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf0000/0000_001_15_0114noon_1234_2.jpg 0\n", "list_query.txt begins with a byte order mark"),
        ("0000/0000_001_15_0114noon_1234_2.jpg 0\n".encode("utf-16"), "list_query.txt cannot be read as UTF-8 text"),
        (b"", "list_query.txt lists no images"),
        (b"\n<!DOCTYPE html>\n", "line 2 of .*list_query.txt is not the path of an image and its label"),
        (b"0000/0000_001_15_0114noon_1234_2.jpg\n", "line 1 of .*list_query.txt is not the path"),
        (b"0000/0000_001_15_0114noon_1234_2.jpg zero\n", "line 1 of .*list_query.txt is not the path"),
        (b"0000/0000_c1s1_000001_01.jpg 0\n", "line 1 of .*list_query.txt is not the path"),
        (b"../0000_001_15_0114noon_1234_2.jpg 0\n", "line 1 of .*list_query.txt is not the path"),
        (b"/0000_001_15_0114noon_1234_2.jpg 0\n", "line 1 of .*list_query.txt is not the path"),
    ],
)
def test_broken_list_raises(tmp_path: Path, content: bytes, message: str) -> None:
    (lists(tmp_path) / "list_query.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"msmt17: .*{message}"):
        read(tmp_path, "msmt17")


def test_incomplete_msmt17_raises(tmp_path: Path) -> None:
    lists(tmp_path)
    (tmp_path / "test/0001/0001_000_02_0113morning_0001_0.jpg").unlink()
    with pytest.raises(
        UserError, match=r"1 of the 6 images in the lists of .* are not there, such as test/0001/0001_0"
    ):
        read(tmp_path, "msmt17")
    (tmp_path / "list_val.txt").unlink()
    with pytest.raises(UserError, match=r"msmt17: .* has no list_val.txt: the lists come with the data set"):
        read(tmp_path, "msmt17")
    for path in tmp_path.glob("list_*.txt"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"has no list_train.txt and no list_val.txt and no list_query.txt and no list_g"
    ):
        read(tmp_path, "msmt17")


# -- CUHK03 ------------------------------------------------------------------------------------------------------------


def test_cuhk03_has_png_images_in_two_variants(tmp_path: Path) -> None:
    trees.plant(tmp_path / "labeled", CUHK03)
    trees.plant(tmp_path / "detected", [*CUHK03, "bounding_box_train/0001_c2_3.png"])
    labelled, detected = read(tmp_path, "cuhk03"), read(tmp_path, "cuhk03", variant="detected")
    assert labelled.train == (Image("labeled/bounding_box_train/0001_c1_1.png", 1, 0),)
    assert labelled.query == (Image("labeled/query/0002_c2_14096.png", 2, 1),)
    assert (labelled.variant, detected.variant, len(detected.train)) == ("labelled", "detected", 2)
    assert read(tmp_path / "detected", "cuhk03", variant="detected").train[0].path.startswith("bounding_box_train/")
    with pytest.raises(UserError, match=r"holds the detected boxes, but the labelled ones are needed"):
        read(tmp_path / "detected", "cuhk03")


def test_wrong_boxes_raise(tmp_path: Path) -> None:
    trees.plant(tmp_path / "detected", CUHK03)
    with pytest.raises(UserError, match=r"cuhk03: .* holds the detected boxes and no labelled ones"):
        read(tmp_path, "cuhk03")


def test_packed_or_broken_cuhk03_raises(tmp_path: Path) -> None:
    (tmp_path / "cuhk03_release").mkdir()
    (tmp_path / "cuhk03_release" / "cuhk-03.mat").touch()
    with pytest.raises(UserError, match=r"needs images_labeled and cuhk03_new_protocol_config_labeled.mat .* unpack"):
        read(tmp_path, "cuhk03")
    (tmp_path / "images_labeled").mkdir()
    mat = tmp_path / "cuhk03_new_protocol_config_labeled.mat"
    mat.write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"config_labeled.mat is not a readable .mat file"):
        read(tmp_path, "cuhk03")
    from scipy.io import savemat

    savemat(mat, {"labels": [[1]]})
    with pytest.raises(UserError, match=r"config_labeled.mat has no filelist: it is not the new split"):
        read(tmp_path, "cuhk03")
    for at, named in ((1, "1_001_1_01.png"), (2, "image 2")):
        splits = {f"{split}_idx": [[at]] for split in ("train", "query", "gallery")}
        savemat(mat, {"labels": [[1]], "filelist": [["1_001_1_01.png"]], **splits})
        with pytest.raises(UserError, match=f"names {named}, which .*images_labeled does not hold"):
            read(tmp_path, "cuhk03")


# -- PersonX -----------------------------------------------------------------------------------------------------------


def test_personx_camera_numbers(tmp_path: Path) -> None:
    names = [f"bounding_box_train/0001_c{camera}_s1_0.jpg" for camera in ("3", "04", "8", "10", "11", "12")]
    names += ["query/0002_c3_a.jpg", "bounding_box_test/0002_c12_b_c.jpg"]
    dataset = read(trees.plant(tmp_path, names), "personx")
    assert sorted(image.camid for image in dataset.train) == [0, 1, 2, 3, 4, 5]
    assert dataset.gallery[0].camid == 5
    trees.plant(tmp_path / "bounding_box_train", ["0001_c5_s1_0.jpg"])
    with pytest.raises(
        UserError, match=r"personx: 1 of 9 image names .* not as in PersonX, such as .*/0001_c5_s1_0.jpg"
    ):
        read(tmp_path, "personx")


# -- LUPerson ----------------------------------------------------------------------------------------------------------


def test_luperson_reads_images_at_any_depth(tmp_path: Path) -> None:
    names = ["b/2.jpg", "a/x/10.jpg", "top.PNG", "a/x/9.jpeg"]
    trees.plant(tmp_path, [*names, ".hidden/3.jpg", "a/.4.jpg", "a/keys.pkl", "a/notes.txt"])
    dataset = read(tmp_path, "luperson")
    assert [image.path for image in dataset.train] == ["a/x/10.jpg", "a/x/9.jpeg", "b/2.jpg", "top.PNG"]
    assert dataset.train[-1] == Image("top.PNG", UNKNOWN, -1)
    assert list(dataset.train[1:3]) == [dataset.train[1], dataset.train[2]]
    with pytest.raises(IndexError):
        dataset.train[4]
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    assert not dataset.labelled


def test_luperson_without_images_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"luperson: .* holds no images .* at any depth; copy the images"):
        read(tmp_path, "luperson")
    trees.plant(tmp_path, ["lmdb/data.mdb", "lmdb/keys.pkl"])
    with pytest.raises(UserError, match=r"it holds an LMDB, which must be unpacked into images first"):
        read(tmp_path, "luperson")


def test_millions_of_unlabelled_images_need_little_memory() -> None:
    images = Unlabelled(f"folder/{number:07}.jpg" for number in range(100_000))
    held = sys.getsizeof(images._text) + sys.getsizeof(images._ends)
    assert held < 30 * len(images)
    assert images[99_999].path == "folder/0099999.jpg"


# -- what a disk may hold that no published set does ------------------------------------------------------------------


@pytest.mark.parametrize("odd", [b"0009_c1s1_000451_03\n.jpg", b"0009_c1s1_\xff_03.jpg", b"0009_c1_\x1b[31m.jpg"])
@pytest.mark.parametrize("name", ["market", "personx", "luperson"])
def test_a_name_that_is_no_text_is_named_and_not_dropped(tmp_path: Path, odd: bytes, name: str) -> None:
    trees.plant(tmp_path, ["a/1.jpg"] if name == "luperson" else PLAIN)
    folder = tmp_path / ("a" if name == "luperson" else "bounding_box_train")
    (folder / os.fsdecode(odd)).touch()
    with pytest.raises(UserError, match=r"holds the name '.*', with control characters or bytes that are not UTF-8"):
        read(tmp_path, name)


@pytest.mark.parametrize("label", ["9" * 5000, "9" * 30, "-1", "1.5", "\u0663\u0662x"])
def test_a_label_that_is_no_number_of_64_bits_is_named(tmp_path: Path, label: str) -> None:
    lists(tmp_path)
    path, _, _ = LISTS["query"][0].rpartition(" ")
    (tmp_path / "list_query.txt").write_text(f"{path} {label}\n")
    with pytest.raises(UserError, match=r"line 1 of .*list_query\.txt is not the path of an image and its label"):
        read(tmp_path, "msmt17")


def test_a_number_of_200_digits_in_a_name_is_named(tmp_path: Path) -> None:
    trees.plant(tmp_path, [*PLAIN, f"query/{'9' * 200}_c1s6_015971_00.jpg"])
    with pytest.raises(UserError, match=r"1 of 4 image names in .* are not as in Market-1501"):
        read(tmp_path, "market")


def small_mat(root: Path, **changed: object) -> Path:
    """CUHK03 as torchreid unpacks it, with one image in each split; returns its .mat file."""
    from scipy.io import savemat

    files = ["1_001_1_01.png", "1_002_1_01.png", "1_002_2_01.png"]
    trees.plant(root, [f"images_labeled/{file}" for file in files])
    filelist = np.array([[file] for file in files], dtype=object)
    fields = {"labels": [[1], [2], [2]], "train_idx": [[1]], "query_idx": [[2]], "gallery_idx": [[3]]}
    savemat(mat := root / "cuhk03_new_protocol_config_labeled.mat", {"filelist": filelist, **fields, **changed})
    return mat


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", [[1.5, 2.0, 2.0]]),
        ("labels", [[float("nan"), 2.0, 2.0]]),
        ("labels", "text"),
        ("train_idx", {"a": 1}),
        ("query_idx", [[float("inf")]]),
        ("gallery_idx", [[1e300]]),
        ("gallery_idx", [[-1]]),
        ("filelist", [[1.0, 2.0, 3.0]]),
        ("filelist", {"a": 1}),
        ("filelist", "1_001_1_01.png"),
    ],
)
def test_a_mat_file_with_other_fields_is_named(tmp_path: Path, field: str, value: object) -> None:
    mat = small_mat(tmp_path, **{field: value})
    with pytest.raises(UserError, match=f"cuhk03: {mat} "):
        read(tmp_path, "cuhk03")


def test_a_mat_file_may_hold_whole_numbers_as_floats(tmp_path: Path) -> None:
    small_mat(tmp_path / "a")
    small_mat(tmp_path / "b", labels=[[1.0], [2.0], [2.0]], train_idx=[[1.0]])
    whole, floats = (read(tmp_path / folder, "cuhk03") for folder in "ab")
    assert (whole.train, whole.query, whole.gallery) == (floats.train, floats.query, floats.gallery)
    assert [type(image.pid) for image in floats.query] == [int]


def test_linked_folders_of_luperson_are_read_once(tmp_path: Path) -> None:
    trees.plant(tmp_path / "elsewhere", ["deep/3.jpg"])
    root = trees.plant(tmp_path / "luperson", ["a/1.jpg", "a/b/2.jpg"])
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "around").symlink_to(root)
    (root / "z").symlink_to(root / "a" / "b")
    assert [image.path for image in read(root, "luperson").train] == ["a/1.jpg", "a/b/2.jpg", "linked/deep/3.jpg"]


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
def test_a_folder_of_luperson_that_cannot_be_listed_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = trees.plant(Path(folder) / "luperson", ["a/1.jpg", "b/2.jpg"])
        Path(folder).chmod(0o755)
        (root / "b").chmod(0o700)
        script = "import sys; from pathlib import Path; from reproduce.data.reading import read; "
        script += f"print(len(read(Path({str(root)!r}), 'luperson').train))"
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script]
        done = subprocess.run(nobody, capture_output=True, text=True)
    assert f"luperson: cannot list {root / 'b'} (Permission denied); make it readable" in done.stderr


# -- any bytes at all -------------------------------------------------------------------------------------------------

NAMES = st.one_of(
    st.from_regex(r"(-1|\d{1,4})_c\d{1,2}(s\d)?_f?\d{1,7}(_\d\d)?\.(jpg|png|JPG)", fullmatch=True),
    st.binary(min_size=1, max_size=20).map(lambda name: os.fsdecode(name.replace(b"/", b"_").replace(b"\0", b"_"))),
    st.text(max_size=20).map(lambda name: name.replace("/", "_").replace("\0", "_") + ".jpg"),
)


@given(
    splits=st.lists(st.lists(NAMES, max_size=4), min_size=3, max_size=3),
    name=st.sampled_from(["market", "duke", "msmt17", "cuhk03", "personx", "luperson"]),
)
@settings(max_examples=100)
def test_any_names_are_read_or_refused(splits: list[list[str]], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for split, names in zip(("bounding_box_train", "query", "bounding_box_test"), splits, strict=True):
            (Path(folder) / split).mkdir()
            for file in names:
                with contextlib.suppress(OSError, UnicodeEncodeError):
                    (Path(folder) / split / file).touch()
        with contextlib.suppress(UserError):
            dataset = read(Path(folder), name)
            assert dataset.train


@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_list_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (lists(Path(folder)) / "list_query.txt").write_bytes(content)
        with contextlib.suppress(UserError):
            read(Path(folder), "msmt17")
