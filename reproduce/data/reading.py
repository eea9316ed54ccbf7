"""Read data sets from disk in any known layout, and compare their counts with the published ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from reproduce.data.catalogue import Counts, Description, usual
from reproduce.data.layouts import GALLERY, QUERY, TRAIN, find, is_layout, parse, version
from reproduce.dataset import BACKGROUND, JUNK, Dataset, Image, Unlabelled
from reproduce.errors import UserError

FEW = 3
"""Identities to train on below which `oddities` says how few there are."""

UNLABELLED_PER_IDENTITY = 20
"""Images per requested identity in a subset of an unlabelled set; LUPerson has 4 M of 200,000 people."""


def describe(dataset: Dataset) -> Description:
    """Count the content of a data set, for display or comparison with the published counts."""

    def counts(images: Sequence[Image]) -> Counts:
        return Counts(len({image.pid for image in images}), len(images), len({image.camid for image in images}))

    searched = {image.pid for image in dataset.query}
    gallery = [image for image in dataset.gallery if image.pid != JUNK]
    return Description(
        train=counts(dataset.train) if dataset.labelled else Counts(0, len(dataset.train), 0),
        query=counts(dataset.query),
        gallery=counts(gallery),
        distractors=sum(image.pid not in searched for image in gallery),
        junk=len(dataset.gallery) - len(gallery),
    )


def differences(counted: Description, published: Description) -> list[str]:
    """List deviations from the published counts: "train images 12,935, not 12,936 (1 fewer)"."""

    def numbers(description: Description) -> dict[str, int]:
        splits = {split: getattr(description, split) for split in ("train", "query", "gallery")}
        parts = {f"{split} {what}": count for split, counts in splits.items() for what, count in vars(counts).items()}
        return parts | {"distractors": description.distractors, "junk": description.junk}

    wanted = numbers(published)
    return [
        f"{what} {count:,}, not {wanted[what]:,} ({abs(gap):,} {'more' if gap > 0 else 'fewer'})"
        for what, count in numbers(counted).items()
        if (gap := count - wanted[what])
    ]


def oddities(dataset: Dataset) -> list[str]:
    """List what limits training or tests: few identities, one camera, queries without a match; empty if unlabelled."""
    if not dataset.labelled:
        return []
    odd: list[str] = []
    if (people := len(dataset.train_pids)) < FEW:
        odd.append(f"there {'is 1 identity' if people == 1 else f'are {people} identities'} to train on")
    odd += [
        f"all images of {split} are of one camera"
        for split, images in (("training", dataset.train), ("the test", (*dataset.query, *dataset.gallery)))
        if len({image.camid for image in images}) == 1
    ]
    seen: dict[int, set[int]] = {}
    for image in dataset.gallery:
        seen.setdefault(image.pid, set()).add(image.camid)
    if unmatched := sum(not seen.get(image.pid, set()) - {image.camid} for image in dataset.query):
        several = (
            "no query has"
            if unmatched == len(dataset.query)
            else f"{unmatched:,} of {len(dataset.query):,} queries lack"
        )
        odd.append(f"{several} a match of another camera in the gallery")
    return odd


def read(root: Path, name: str, *, variant: str = "", subset: int | None = None) -> Dataset:
    """Read a data set from a folder in any known layout (`reproduce.data.layouts`).

    The folder shows the layout, and the names show their grammar: a folder in Market-1501's layout can be any domain.
    Junk in the training and query folders is skipped. MSMT17's test identities count from 10,000, since the published
    ones repeat the numbers of its training identities.

    Args:
        root: the data set's folder, or one for `find` to search.
        name: of the domain; any name is allowed for a folder given directly.
        variant: see `Domain`.
        subset: number of identities, see `part`; None for all.

    Returns:
        The images, sorted by name.

    Raises:
        UserError: the folder is missing, incomplete or in an unknown layout; the message says how to fix it.
    """
    variant = usual(name, variant)
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"{name}: there is no folder {root}; give the one that holds {TRAIN}, {QUERY} and {GALLERY}")
    if not is_layout(root, name):
        folder = find(root, name)
        if folder is None:
            raise UserError(f"{name}: {root} holds neither {TRAIN}, {QUERY} and {GALLERY} nor a known folder that does")
        root = folder

    splits = parse(root, name, variant)
    if isinstance(splits.train, Unlabelled):
        whole = Dataset(name, root, splits.train, (), ())
        return whole if subset is None else part(whole, subset)
    train, query = (tuple(image for image in split if image.pid != JUNK) for split in splits[:2])
    for split, people in ((TRAIN, train), (QUERY, query)):
        if not people:
            raise UserError(f"{name}: {root / split} holds nothing but junk (identity -1); give images of people")
    dataset = Dataset(name, root, train, query, splits.gallery, variant, version(root, name))

    tested = {image.pid for image in (*dataset.query, *dataset.gallery)}
    both = sorted(tested.intersection(dataset.train_pids))
    if both:
        raise UserError(
            f"{name}: {len(both)} identities of {root} are in {TRAIN} and also in {QUERY} or {GALLERY}, "
            f"such as {both[0]}; remove them from one side, or renumber them if they are different people"
        )
    return dataset if subset is None else part(dataset, subset)


def part(dataset: Dataset, count: int) -> Dataset:
    """Take a fixed subset: `count` training and `count` test identities, with junk and distractors in proportion.

    Smaller subsets are contained in larger ones.

    Args:
        dataset: the whole set.
        count: number of identities, or all if there are fewer; for an unlabelled set, `UNLABELLED_PER_IDENTITY` images
            per identity.

    Raises:
        UserError: the subset would be empty.
    """
    if count < 1:
        raise UserError(f"{dataset.name}: a subset of {count} identities is empty; give 1 or more")
    if not dataset.labelled:
        kept = _first((image.path for image in dataset.train), count * UNLABELLED_PER_IDENTITY)
        return replace(dataset, train=Unlabelled(map(str, kept)))
    searched = {image.pid for image in dataset.query}
    share = count / len(searched)
    train = _first(dataset.train_pids, count)
    test = _first(searched, count)
    others = {image.pid for image in dataset.gallery} - searched - {JUNK, BACKGROUND}
    test |= _first(others, round(share * len(others)))
    for pid in {JUNK, BACKGROUND} - searched:  # many people under one number, so only a share is kept
        crowd = [image.path for image in dataset.gallery if image.pid == pid]
        test |= _first(crowd, round(share * len(crowd)))
    return replace(
        dataset,
        train=tuple(image for image in dataset.train if image.pid in train),
        query=tuple(image for image in dataset.query if image.pid in test),
        gallery=tuple(image for image in dataset.gallery if image.pid in test or image.path in test),
    )


def _first(items: Iterable[int | str], count: int) -> set[int | str]:
    """Choose a fixed, scattered selection of items; smaller selections are contained in larger ones."""
    return set(sorted(items, key=lambda item: hashlib.sha256(str(item).encode()).digest())[:count])
