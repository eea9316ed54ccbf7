"""Domains as values, and the reader of real ones: folders laid out as Market-1501 and DukeMTMC-reID are."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.stage import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
"""The folders of a layout."""

JUNK = -1
"""Identity of the gallery images that are left out of every ranking."""

BACKGROUND = 0
"""Identity that Market-1501 gives to its distractors: many people and false detections under one number."""

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "market": ("Market-1501-v15.09.15", "Market-1501", "market1501", "market"),
    "duke": ("DukeMTMC-reID", "DukeMTMC", "duke"),
}
"""Names under which a domain's folder is known; case and punctuation do not matter."""

_ENDINGS = r"(?:\.(?:jpe?g|png|bmp))+"
_IMAGE = re.compile(rf".*{_ENDINGS}", re.IGNORECASE)
_GRAMMARS = {
    "Market-1501": re.compile(
        rf"(?P<pid>-1|\d+)_c(?P<camera>\d+)s(?P<sequence>\d+)_(?P<frame>\d+)_\d+{_ENDINGS}", re.IGNORECASE
    ),
    "DukeMTMC-reID": re.compile(rf"(?P<pid>-1|\d+)_c(?P<camera>\d+)_f(?P<frame>\d+){_ENDINGS}", re.IGNORECASE),
}
"""How image names spell what they show. Cameras count from 1; `.jpg.jpg` occurs in Market-1501."""


@dataclass(frozen=True)
class Domain:
    """A domain by name, as suites write it; running replaces it by what stands for that name.

    Attributes:
        name: such as "market" or "duke".
    """

    name: str


@dataclass(frozen=True)
class Real:
    """A domain that was read from a folder, identified by its content; where the folder is does not matter.

    Attributes:
        name: such as "market".
        digest: fingerprint of the files (`reproduce.data.manifests.digest`).
        subset: how many identities of it are used; None for all.
    """

    name: str
    digest: str
    subset: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a person.

    Attributes:
        path: relative to the root of its dataset, with forward slashes.
        pid: identity as in the file name; -1 for junk, and 0 for the distractors of Market-1501.
        camid: camera, counted from 0.
        frame: number of the video frame, where the name tells it.
        sequence: number of the video sequence, where the name tells it.
    """

    path: str
    pid: int
    camid: int
    frame: int | None = None
    sequence: int | None = None


@dataclass(frozen=True)
class Dataset:
    """The images of a domain, each split in the order of file names.

    Attributes:
        name: of the domain.
        root: folder that the images' paths start from.
        train: images to learn from, without junk.
        query: images to search with, without junk.
        gallery: images to search in, with junk (pid -1) and distractors (identities that no query has).
    """

    name: str
    root: Path
    train: tuple[Image, ...]
    query: tuple[Image, ...]
    gallery: tuple[Image, ...]

    @property
    def train_pids(self) -> tuple[int, ...]:
        """The identities of the training images, ascending; class i of a classifier is the i-th of them."""
        return tuple(sorted({image.pid for image in self.train}))

    @property
    def cameras(self) -> tuple[int, ...]:
        """The cameras of all splits, ascending, counted from 0."""
        return tuple(sorted({image.camid for split in (self.train, self.query, self.gallery) for image in split}))


@dataclass(frozen=True)
class Counts:
    """How many identities, images and cameras a split has, junk apart."""

    ids: int
    images: int
    cameras: int


@dataclass(frozen=True)
class Description:
    """What a dataset holds.

    Attributes:
        train, query, gallery: counts of each split; those of the gallery include distractors.
        distractors: gallery images of identities that no query has.
        junk: gallery images that every ranking leaves out.
    """

    train: Counts
    query: Counts
    gallery: Counts
    distractors: int
    junk: int


PUBLISHED: Mapping[str, Description] = {
    "market": Description(Counts(751, 12936, 6), Counts(750, 3368, 6), Counts(751, 15913, 6), 2798, 3819),
    "duke": Description(Counts(702, 16522, 8), Counts(702, 2228, 8), Counts(1110, 17661, 8), 3463, 0),
}
"""What the published sets hold. Some papers count Market-1501's gallery with its junk (19,732)."""


def describe(dataset: Dataset) -> Description:
    """Count what a dataset holds, to be shown or compared with `PUBLISHED`."""

    def counts(images: Sequence[Image]) -> Counts:
        return Counts(len({image.pid for image in images}), len(images), len({image.camid for image in images}))

    searched = {image.pid for image in dataset.query}
    gallery = [image for image in dataset.gallery if image.pid != JUNK]
    return Description(
        train=counts(dataset.train),
        query=counts(dataset.query),
        gallery=counts(gallery),
        distractors=sum(image.pid not in searched for image in gallery),
        junk=len(dataset.gallery) - len(gallery),
    )


def find(root: Path, name: str) -> Path | None:
    """Look for a domain's folder by the names it is known under (`FOLDERS`).

    Args:
        root: a folder of datasets, such as one with `market1501/Market-1501-v15.09.15` in it; or the folder itself.
        name: of the domain. One that is not in `FOLDERS` is looked for under its own name.

    Returns:
        The folder that holds the splits, or None where there is none.

    Raises:
        UserError: `root` cannot be listed, or holds more than one such folder.
    """
    known = {_plain(folder) for folder in FOLDERS.get(name, (name,))}
    root = Path(root).expanduser().absolute()
    if _plain(root.name) in known and _is_layout(root):
        return root
    outer = [folder for folder in _folders(root, name) if _plain(folder.name) in known]
    inner = [folder for parent in outer for folder in _folders(parent, name) if _plain(folder.name) in known]
    found = {folder.resolve(): folder for folder in outer + inner if _is_layout(folder)}
    if len(found) > 1:
        folders = " and ".join(sorted(str(folder) for folder in found.values()))
        raise UserError(f"{name}: found {folders}; name the one to use")
    return next(iter(found.values()), None)


def read(root: Path, name: str, *, subset: int | None = None, allow_overlap: bool = False) -> Dataset:
    """Read a dataset in the layout of Market-1501 or DukeMTMC-reID: three folders of images, named by what they show.

    Which of the two is seen from the images' names. Junk in the training and query folders is left out.

    Args:
        root: the folder that holds `bounding_box_train`, `query` and `bounding_box_test`, or one for `find` to search.
        name: of the domain; any name will do for a folder given directly.
        subset: keep this many identities to train on and as many to search for, always the same ones, with junk and
            distractors in proportion; a smaller subset is part of a larger one. None, or more than there are: all.
        allow_overlap: accept identities that are both trained on and searched for.

    Returns:
        The images, in the order of their names.

    Raises:
        UserError: the folder is missing, incomplete or not in such a layout; the message tells how to mend it.
    """
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"{name}: there is no folder {root}; give the one that holds {TRAIN}, {QUERY} and {GALLERY}")
    if not _is_layout(root):
        found = find(root, name)
        if found is None:
            raise UserError(f"{name}: {root} holds neither {TRAIN}, {QUERY} and {GALLERY} nor a known folder that does")
        root = found

    names = {split: _image_names(root / split, name) for split in (TRAIN, QUERY, GALLERY)}
    empty = " and ".join(split for split in names if not names[split])
    if empty:
        raise UserError(f"{name}: {root} has no images (.jpg, .png, .bmp) in {empty}; copy what is missing")
    images = _parse(names, root, name)
    train = tuple(image for image in images[TRAIN] if image.pid != JUNK)
    query = tuple(image for image in images[QUERY] if image.pid != JUNK)
    for split, kept in ((TRAIN, train), (QUERY, query)):
        if not kept:
            raise UserError(f"{name}: {root / split} holds nothing but junk (identity -1); give images of people")
    dataset = Dataset(name, root, train, query, tuple(images[GALLERY]))

    tested = {image.pid for image in (*dataset.query, *dataset.gallery)}
    both = sorted(tested.intersection(dataset.train_pids))
    if both and not allow_overlap:
        raise UserError(
            f"{name}: {len(both)} identities of {root} are in {TRAIN} and also in {QUERY} or {GALLERY}, "
            f"such as {both[0]}; remove them from one side, or renumber them if they are different people"
        )
    return dataset if subset is None else _subset(dataset, subset)


def _plain(folder: str) -> str:
    return re.sub(r"[^a-z0-9]", "", folder.lower())


def _is_layout(folder: Path) -> bool:
    return any((folder / split).is_dir() for split in (TRAIN, QUERY, GALLERY))


def _folders(folder: Path, name: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"{name}: cannot list {folder} ({error.strerror}); give a folder that can be read") from None


def _image_names(folder: Path, name: str) -> list[str]:
    """The names of the images in a folder, sorted, without hidden and other files; none if there is no such folder."""
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and _IMAGE.fullmatch(entry.name) and not entry.is_dir()
            )
    except OSError as error:
        raise UserError(f"{name}: cannot list {folder} ({error.strerror}); make it readable") from None


def _parse(names: Mapping[str, Sequence[str]], root: Path, name: str) -> dict[str, list[Image]]:
    """The images of each split, by the one grammar that all names follow."""
    odd: dict[str, list[str]] = {}
    for title, grammar in _GRAMMARS.items():
        images: dict[str, list[Image]] = {split: [] for split in names}
        odd[title] = []
        for split in names:
            for file in names[split]:
                match = grammar.fullmatch(file)
                if match is None:
                    odd[title].append(f"{split}/{file}")
                else:
                    images[split].append(_image(f"{split}/{file}", match.groupdict()))
        if not odd[title]:
            if any(image.camid < 0 for split in images.values() for image in split):
                raise UserError(f"{name}: some names in {root} have camera 0; number the cameras from 1")
            return images
    title, files = min(odd.items(), key=lambda item: len(item[1]))
    total = sum(map(len, names.values()))
    raise UserError(
        f"{name}: {len(files)} of {total} image names in {root} are not as in {title}, such as {files[0]}; "
        f"rename or remove them (known are the names of {' and '.join(_GRAMMARS)})"
    )


def _image(path: str, fields: Mapping[str, str]) -> Image:
    sequence = fields.get("sequence")
    return Image(
        path=path,
        pid=int(fields["pid"]),
        camid=int(fields["camera"]) - 1,
        frame=int(fields["frame"]),
        sequence=None if sequence is None else int(sequence),
    )


def _subset(dataset: Dataset, count: int) -> Dataset:
    if count < 1:
        raise UserError(f"{dataset.name}: a subset of {count} identities is empty; give 1 or more")
    searched = {image.pid for image in dataset.query}
    share = count / len(searched)
    train = _first(dataset.train_pids, count)
    test = _first(searched, count)
    others = {image.pid for image in dataset.gallery} - searched - {JUNK, BACKGROUND}
    test |= _first(others, round(share * len(others)))
    for pid in {JUNK, BACKGROUND} - searched:  # not one person each, so kept in part
        crowd = [image.path for image in dataset.gallery if image.pid == pid]
        test |= _first(crowd, round(share * len(crowd)))
    return Dataset(
        dataset.name,
        dataset.root,
        tuple(image for image in dataset.train if image.pid in train),
        tuple(image for image in dataset.query if image.pid in test),
        tuple(image for image in dataset.gallery if image.pid in test or image.path in test),
    )


def _first(items: Iterable[int | str], count: int) -> set[int | str]:
    """Some items, scattered, always the same ones; fewer are part of more."""
    return set(sorted(items, key=lambda item: hashlib.sha256(str(item).encode()).digest())[:count])
