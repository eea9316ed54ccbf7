"""Layouts of data sets on disk: names of folders, lists, and the grammar of image names.

Market-1501, DukeMTMC-reID, PersonX, CUHK03-NP and a re-packed MSMT17 are three folders of images; MSMT17 as published
and CUHK03 as unpacked by torchreid and fast-reid are images with lists; LUPerson is images alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from reproduce.data.catalogue import CATALOGUE
from reproduce.data.packs import check_ended, pack_at
from reproduce.dataset import Image, Unlabelled
from reproduce.errors import UserError

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
SPLITS = (TRAIN, QUERY, GALLERY)
"""Folders of Market-1501's layout."""

COLLECTIONS = ("reid-data", "datasets", "examples/data", "data")
"""Folders in which the field's code bases keep data sets, relative to their root."""

TEST_FROM = 10_000
"""Offset of MSMT17's test identities, which are published from 0 like the training ones."""

_HALVES = {"labeled": "labelled", "labelled": "labelled", "detected": "detected"}
_MATS = {
    "labelled": ("images_labeled", "cuhk03_new_protocol_config_labeled.mat"),
    "detected": ("images_detected", "cuhk03_new_protocol_config_detected.mat"),
}
_RAW = ("cuhk-03.mat", "cuhk03_release/cuhk-03.mat")
_MAT_NUMBERS = ("labels", "train_idx", "query_idx", "gallery_idx")
_MASKED = ("mask_train_v2", "mask_test_v2")
_LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
_PARTS = {"morning": 0, "noon": 1, "afternoon": 2}
_DAYS = {"0113": 0, "0114": 1, "0302": 2, "0303": 3}
_PERSONX_CAMERAS = {3: 0, 4: 1, 8: 2, 10: 3, 11: 4, 12: 5}

_N = r"\d{1,18}"
"""Matches numbers that 64 bits can hold."""
_ENDINGS = r"(?:\.(?:jpe?g|png|bmp))+"
_IMAGE = re.compile(rf".*{_ENDINGS}", re.IGNORECASE | re.DOTALL)
_UNTELLABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Matches what names of images may not hold: control characters, and bytes that are not UTF-8."""
_REPACKED, _PERSONX = "MSMT17 (re-packed)", "PersonX"
_GRAMMARS = {
    title: re.compile(pattern + _ENDINGS, re.IGNORECASE)
    for title, pattern in {
        "Market-1501": rf"(?P<pid>-1|{_N})_c(?P<camera>{_N})s(?P<sequence>{_N})_(?P<frame>{_N})_{_N}",
        "DukeMTMC-reID": rf"(?P<pid>-1|{_N})_c(?P<camera>{_N})_f(?P<frame>{_N})",
        _REPACKED: rf"(?P<pid>{_N})_c(?P<camera>{_N})_{_N}",
        "CUHK03-NP": rf"(?P<pid>{_N})_c(?P<camera>\d)_{_N}",
        _PERSONX: rf"(?P<pid>{_N})_c(?P<camera>0?[348]|1[0-2])_.+",
    }.items()
}
"""Grammars of image names. Cameras count from 1; `.jpg.jpg` occurs in Market-1501."""

_MSMT17 = re.compile(
    rf"(?P<pid>{_N})_{_N}_(?P<camera>{_N})_(?P<day>{'|'.join(_DAYS)})(?P<part>{'|'.join(_PARTS)})_(?P<frame>{_N})_{_N}"
    rf"(?:_ex)?{_ENDINGS}",
    re.IGNORECASE,
)
_CUHK03 = re.compile(rf"[1-5]_{_N}_(?P<camera>[12])_{_N}{_ENDINGS}", re.IGNORECASE)


class Splits(NamedTuple):
    """The images of a set, each split sorted by path, with junk."""

    train: Sequence[Image]
    query: Sequence[Image]
    gallery: Sequence[Image]


def find(root: Path, name: str) -> Path | None:
    """Find a domain's folder by its known names (`Known.folders`), where the field's code bases put it.

    Args:
        root: a folder of data sets, such as one with `market1501/Market-1501-v15.09.15` in it; the root of a copy of
            torchreid, MMT and so on with the data inside (`COLLECTIONS`); or the domain's folder itself.
        name: of the domain. A domain outside the catalogue is looked for under its own name.

    Returns:
        The folder that holds the splits, or None. MSMT17_V2 only if there is no V1.

    Raises:
        UserError: `root` cannot be listed, or holds several such folders.
    """
    names = CATALOGUE[name].folders if name in CATALOGUE else (name,)
    outside = {_plain(folder) for folder in names if "/" not in folder}
    inside = outside | {_plain(folder.partition("/")[2]) for folder in names if "/" in folder}
    root = Path(root).expanduser().absolute()
    if _plain(root.name) in inside and is_layout(root, name):
        return root
    collections = [root, *(root / collection for collection in COLLECTIONS if (root / collection).is_dir())]
    outer = [folder for place in collections for folder in _folders(place, name) if _plain(folder.name) in outside]
    inner = [folder for parent in outer for folder in _folders(parent, name) if _plain(folder.name) in inside]
    candidates = outer if name == "luperson" else outer + inner
    folders = list({folder.resolve(): folder for folder in candidates if is_layout(folder, name)}.values())
    folders = [folder for folder in folders if version(folder, name) != "V2"] or folders
    if len(folders) > 1:
        several = " and ".join(sorted(map(str, folders)))
        raise UserError(f"{name}: found {several}; name the one to use, with --domain {name}=DIR")
    return next(iter(folders), None)


def is_layout(folder: Path, name: str) -> bool:
    """Whether a folder has the layout of a data set, even if incomplete; for LUPerson any folder does."""
    if name == "luperson":
        return folder.is_dir()
    return (
        _holds(folder, SPLITS)
        or _has_lists(folder, name)
        or (name == "cuhk03" and (_has_halves(folder) or _has_mats(folder)))
    )


def version(root: Path, name: str) -> str:
    """Return the version of MSMT17: "V1", "V2" (blurred faces, same lists), or "" if neither name nor layout tells."""
    if name != "msmt17":
        return ""
    named = _plain(root.name)
    if named.endswith("v2") or _holds(root, _MASKED):
        return "V2"
    return "V1" if named.endswith("v1") or _has_lists(root, name) else ""


def parse(root: Path, name: str, variant: str) -> Splits:
    """Read the images of a data set from a folder for which `is_layout` holds.

    Raises:
        UserError: something is missing or follows no known grammar; the message says how to fix it.
    """
    if name == "luperson":
        return Splits(_unlabelled(root), (), ())
    if _has_lists(root, name):
        return _by_lists(root, name, variant)
    if name == "cuhk03" and _has_mats(root) and not _has_halves(root):
        return _by_mat(root, name, variant)
    return _by_folders(root, name, variant)


def _plain(folder: str) -> str:
    return re.sub(r"[^a-z0-9]", "", folder.lower())


def _holds(folder: Path, inner: Iterable[str]) -> bool:
    return any((folder / name).is_dir() for name in inner)


def _folders(folder: Path, name: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"{name}: cannot list {folder} ({error.strerror}); give a folder that can be read") from None


def _has_lists(folder: Path, name: str) -> bool:
    """Whether a folder is MSMT17 as published, or the rest of it; a re-packing takes precedence over such a rest."""
    if any((folder / file).is_file() for file in _LISTS):
        return True
    return name == "msmt17" and _holds(folder, ("train", "test", *_MASKED)) and not _holds(folder, SPLITS)


def _has_halves(folder: Path) -> bool:
    return any(_holds(folder / half, SPLITS) for half in _HALVES)


def _has_mats(folder: Path) -> bool:
    return any((folder / part).exists() for part in (*chain.from_iterable(_MATS.values()), *_RAW))


def _image_names(folder: Path, name: str) -> list[str]:
    """List the names of images in a folder, sorted, without hidden and other files; empty if there is no folder."""
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if _is_image(entry.name) and not entry.is_dir())
    except OSError as error:
        raise UserError(f"{name}: cannot list {folder} ({error.strerror}); make it readable") from None
    _check_names(names, folder, name)
    return names


def _is_image(file: str) -> bool:
    return not file.startswith(".") and _IMAGE.fullmatch(file) is not None


def _check_names(names: Iterable[str], folder: Path | str, name: str) -> None:
    """Refuse names that lists, digests and pages cannot hold.

    Raises:
        UserError: there is one.
    """
    if odd := next(filter(_UNTELLABLE.search, names), None):
        raise UserError(
            f"{name}: {folder} holds the name {odd!a}, with control characters or bytes that are not UTF-8; rename it"
        )


# -- three folders of images -------------------------------------------------------------------------------------------


def _by_folders(root: Path, name: str, variant: str) -> Splits:
    half = _half(root, name, variant) if name == "cuhk03" else ""
    if name == "msmt17" and variant == "train":
        raise UserError(
            f"msmt17: {root} is re-packed, and its names do not tell list_train's images from list_val's: "
            f"give MSMT17 as published, with its lists"
        )
    names = {split: _image_names(root / half / split, name) for split in SPLITS}
    empty = " and ".join(split for split in names if not names[split])
    if empty:
        raise UserError(f"{name}: {root / half} has no images (.jpg, .png, .bmp) in {empty}; copy what is missing")
    grammar = _grammar(names, root / half, name)
    images = {split: tuple(_image(grammar, half, split, file) for file in files) for split, files in names.items()}
    if any(image.camid < 0 for split in images.values() for image in split):
        raise UserError(f"{name}: some names in {root} have camera 0; number the cameras from 1")
    return Splits(images[TRAIN], images[QUERY], images[GALLERY])


def _half(root: Path, name: str, variant: str) -> str:
    """Return the folder of the requested boxes inside CUHK03-NP, with a slash; empty if `root` is that folder."""
    if _holds(root, SPLITS):
        if (own := _HALVES.get(root.name.lower(), variant)) != variant:
            raise UserError(f"{name}: {root} holds the {own} boxes, but the {variant} ones are needed: give its parent")
        return ""
    halves = {meant: word for word, meant in _HALVES.items() if (root / word).is_dir()}
    if variant not in halves:
        raise UserError(f"{name}: {root} holds the {' and '.join(halves)} boxes and no {variant} ones; copy them too")
    return f"{halves[variant]}/"


def _grammar(names: Mapping[str, Sequence[str]], root: Path, name: str) -> str:
    """Find the grammar that all names follow: the domain's own, or one of the common ones."""
    own = CATALOGUE[name].grammar if name in CATALOGUE else ""
    titles = list(dict.fromkeys(filter(None, (own, *list(_GRAMMARS)[:2]))))
    files = [f"{split}/{file}" for split, listed in names.items() for file in listed]
    odd: dict[str, list[str]] = {}
    for title in titles:
        fits = _GRAMMARS[title].fullmatch
        odd[title] = [file for file in files if not fits(file.rpartition("/")[2])]
        if not odd[title]:
            return title
    title, strange = min(odd.items(), key=lambda item: len(item[1]))
    raise UserError(
        f"{name}: {len(strange)} of {len(files)} image names in {root} are not as in {title}, such as {strange[0]}; "
        f"rename or remove them (known are the names of {' and '.join(titles)})"
    )


def _image(title: str, half: str, split: str, file: str) -> Image:
    fields = _match(_GRAMMARS[title], file)
    pid, camera = int(fields["pid"]), int(fields["camera"])
    if title == _REPACKED and split != TRAIN:
        pid += TEST_FROM
    camid = _PERSONX_CAMERAS[camera] if title == _PERSONX else camera - 1
    frame, sequence = fields.get("frame"), fields.get("sequence")
    return Image(
        f"{half}{split}/{file}", pid, camid, int(frame) if frame else None, int(sequence) if sequence else None
    )


def _match(pattern: re.Pattern[str], file: str) -> dict[str, str]:
    match = pattern.fullmatch(file)
    assert match, file
    return match.groupdict()


# -- images with lists -------------------------------------------------------------------------------------------------


def _by_lists(root: Path, name: str, variant: str) -> Splits:
    if missing := [file for file in _LISTS if not (root / file).is_file()]:
        raise UserError(
            f"{name}: {root} has no {' and no '.join(missing)}: the lists come with the data set and say which image "
            "is in which split; copy them too"
        )
    train, test = _MASKED if _holds(root, _MASKED) else ("train", "test")
    places = ((train, 0), (train, 0), (test, TEST_FROM), (test, TEST_FROM))
    parts = [_listed(root / file, folder, first, name) for file, (folder, first) in zip(_LISTS, places, strict=True)]
    if absent := _absent(root, [image.path for part in parts for image in part]):
        total = sum(map(len, parts))
        raise UserError(
            f"{name}: {len(absent):,} of the {total:,} images in the lists of {root} are not there, "
            f"such as {absent[0]}; copy what is missing"
        )
    listed = parts[0] if variant == "train" else parts[0] + parts[1]
    return Splits(*(tuple(sorted(part, key=lambda image: image.path)) for part in (listed, *parts[2:])))


def _listed(file: Path, folder: str, first: int, name: str) -> list[Image]:
    """Read the images of one list, lines of "relative/path label"; `first` is added to the labels."""
    images: list[Image] = []
    for number, line in enumerate(_text(file, name).splitlines(), 1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        match = _MSMT17.fullmatch(path.rpartition("/")[2])
        if not match or not re.fullmatch(_N, label) or ".." in path or path.startswith("/"):
            raise UserError(
                f"{name}: line {number} of {file} is not the path of an image and its label, "
                f"as in MSMT17: {line[:80]!r}; copy the list again"
            )
        session = 3 * _DAYS[match["day"]] + _PARTS[match["part"].lower()] + 1
        images.append(
            Image(f"{folder}/{path}", int(label) + first, int(match["camera"]) - 1, int(match["frame"]), session)
        )
    if not images:
        raise UserError(f"{name}: {file} lists no images; copy it again")
    return images


def _text(path: Path, name: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: {path} cannot be read as UTF-8 text ({error}); copy it again") from None
    if text.startswith("\ufeff"):
        raise UserError(
            f"{name}: {path} begins with a byte order mark, so it was edited since it was published; "
            "copy the original, or save it as UTF-8 without the mark"
        )
    return text


def _absent(root: Path, paths: Sequence[str]) -> list[str]:
    """List the missing files, reading each folder once."""
    there: dict[str, set[str]] = {}
    absent: list[str] = []
    for path in paths:
        folder, _, file = path.rpartition("/")
        if folder not in there:
            there[folder] = set(_image_names(root / folder, "msmt17"))
        if file not in there[folder]:
            absent.append(path)
    return absent


def _by_mat(root: Path, name: str, variant: str) -> Splits:
    """Read CUHK03 as unpacked by torchreid and fast-reid: images by camera pair, and the new split as a .mat file."""
    folder, mat = (root / part for part in _MATS[variant])
    if not folder.is_dir() or not mat.is_file():
        raise UserError(
            f"{name}: {root} needs {folder.name} and {mat.name} for the {variant} boxes: torchreid and fast-reid "
            "unpack cuhk-03.mat into such images when they first use it; or take CUHK03-NP, which comes as images"
        )
    fields = _mat(mat, name)
    try:
        files = ["".join(map(str, entry)) for entry in fields["filelist"].ravel()]
        labels, *indices = (_integers(fields[field]) for field in _MAT_NUMBERS)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {mat} is not the new split of CUHK03 ({error}); copy it again") from None
    pids = dict(zip(range(1, len(files) + 1), labels, strict=False))  # MATLAB counts from 1
    there = set(_image_names(folder, name))
    splits: list[tuple[Image, ...]] = []
    for index in indices:
        images: list[Image] = []
        for at in index:
            file = files[at - 1] if at in pids else f"image {at}"
            match = _CUHK03.fullmatch(file)
            if match is None or file not in there:
                raise UserError(f"{name}: {mat} names {file}, which {folder} does not hold; unpack cuhk-03.mat again")
            images.append(Image(f"{folder.name}/{file}", pids[at], int(match["camera"]) - 1))
        splits.append(tuple(sorted(images, key=lambda image: image.path)))
    return Splits(*splits)


def _integers(field: Any) -> list[int]:
    """Convert numbers of a .mat file, which MATLAB keeps as floats.

    Raises:
        ValueError: they are text, structs or no whole numbers.
    """
    import numpy as np

    numbers = np.asarray(field).ravel()
    if numbers.dtype.kind not in "uif" or not np.isfinite(numbers).all() or (numbers % 1).any():
        raise ValueError(f"whole numbers are wanted, and it holds {numbers.dtype}")
    return [int(number) for number in numbers.tolist()]


def _mat(path: Path, name: str) -> dict[str, Any]:
    from scipy.io import loadmat

    wanted = ("filelist", *_MAT_NUMBERS)
    try:
        fields: dict[str, Any] = loadmat(path, variable_names=wanted)
    except Exception as error:  # scipy's error depends on the damage
        raise UserError(f"{name}: {path} is not a readable .mat file ({type(error).__name__}); copy it again") from None
    if missing := [field for field in wanted if field not in fields]:
        raise UserError(f"{name}: {path} has no {missing[0]}: it is not the new split of CUHK03; copy it again")
    return fields


# -- images alone ------------------------------------------------------------------------------------------------------


def _unlabelled(root: Path) -> Unlabelled:
    """List every image of a pack or below a folder, at any depth, each folder once, without hidden ones."""
    if pack := pack_at(root):
        return pack.images
    check_ended(root)
    start = len(os.fspath(root)) + 1
    walked: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        raise UserError(f"luperson: cannot list {error.filename} ({error.strerror}); make it readable")

    def paths() -> Iterable[str]:
        for folder, inner, files in os.walk(root, followlinks=True, onerror=unreadable):
            place = os.stat(folder)  # noqa: PTH116
            if (place.st_dev, place.st_ino) in walked:  # a link to a folder that is there too, or around
                inner.clear()
                continue
            walked.add((place.st_dev, place.st_ino))
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            prefix = folder[start:].replace(os.sep, "/")
            images = [f"{prefix}/{file}" if prefix else file for file in files if _is_image(file)]
            _check_names(images, root, "luperson")
            yield from images

    images = Unlabelled(paths())
    if not images:
        packed = any(root.rglob("*.mdb"))
        hint = "it holds an LMDB, which must be unpacked into images first" if packed else "copy the images"
        raise UserError(f"luperson: {root} holds no images (.jpg, .png, .bmp) at any depth; {hint}")
    return images
