"""Domains as values, and the reader of real ones: what a data set holds, whatever its layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reproduce.data.layouts import GALLERY, QUERY, TRAIN, VARIANTS, Unlabelled, find, is_layout, parse, version
from reproduce.data.layouts import JUNK as JUNK
from reproduce.data.layouts import Image as Image
from reproduce.data.sources import FOLDER, Source
from reproduce.stage import Env, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BACKGROUND = 0
"""Identity that Market-1501 gives to its distractors: many people and false detections under one number."""

WITHDRAWN: Mapping[str, str] = {"duke": "DukeMTMC-reID"}
"""Data sets that their makers have withdrawn: whoever asks today gets none, and nothing here fetches one."""

UNLABELLED_PER_IDENTITY = 20
"""Images that a subset keeps of an unlabelled set for each identity asked for; LUPerson has 4 M of 200,000 people."""


@dataclass(frozen=True)
class Domain:
    """A domain by name, as suites write it; running replaces it by what stands for that name.

    Attributes:
        name: such as "market" or "duke".
        variant: one of the ways in which the set is used (`VARIANTS`), by default the first; "" where there is one way.
    """

    name: str
    variant: str = ""

    def __post_init__(self) -> None:
        known = VARIANTS.get(self.name, ("",))
        if self.variant not in ("", *known):
            has = ", ".join(filter(None, known)) or "none"
            raise UserError(f"{self.name} has no variant {self.variant!r}; it has {has}")
        object.__setattr__(self, "variant", self.variant or known[0])


@dataclass(frozen=True)
class Real(Source):
    """A domain that was read from a folder, identified by its content; where the folder is does not matter.

    Attributes:
        name: such as "market".
        digest: fingerprint of the whole set (`reproduce.data.manifests.digest`).
        subset: how many identities of it are used; None for all.
        variant: the way in which it is used, such as "train+val" of MSMT17.
    """

    name: str
    digest: str
    subset: int | None = None
    variant: str = ""

    @property
    def label(self) -> str:
        usual = self.variant in ("", Domain(self.name).variant)
        return self.name if usual else f"{self.name} {self.variant}"

    def open(self, env: Env) -> Dataset:
        whole = read(env.place(self.digest), self.name, variant=self.variant)
        env.verify(whole, self.digest)
        return replace(whole if self.subset is None else part(whole, self.subset), digest=self.digest)

    def describe(self) -> dict[str, Any]:
        """As of a folder that nobody has checked; what was found out about it is added by `Setting`."""
        return {"kind": FOLDER, "digest": self.digest, **({"variant": self.variant} if self.variant else {})}


@dataclass(frozen=True)
class Dataset:
    """The images of a domain, each split in the order of file names.

    Attributes:
        name: of the domain.
        root: folder that the images' paths start from.
        train: images to learn from, without junk.
        query: images to search with, without junk; none of an unlabelled set.
        gallery: images to search in, with junk (pid -1) and distractors (identities that no query has).
        variant: the way in which the set is used.
        version: "V1" or "V2" of MSMT17, where its folder tells.
        digest: fingerprint of the images, where it is known.
    """

    name: str
    root: Path
    train: Sequence[Image]
    query: Sequence[Image]
    gallery: Sequence[Image]
    variant: str = ""
    version: str = ""
    digest: str = ""

    @property
    def labelled(self) -> bool:
        """Whether identities and cameras are known."""
        return not isinstance(self.train, Unlabelled)

    @property
    def train_pids(self) -> tuple[int, ...]:
        """The identities of the training images, ascending; class i of a classifier is the i-th of them."""
        return tuple(sorted({image.pid for image in self.train})) if self.labelled else ()

    @property
    def cameras(self) -> tuple[int, ...]:
        """The cameras of all splits, ascending, counted from 0."""
        splits = (self.train, self.query, self.gallery) if self.labelled else ()
        return tuple(sorted({image.camid for split in splits for image in split}))


class Sightings(NamedTuple):
    """Where and when images were taken; not who they show."""

    camids: NDArray[np.int64]
    """(N,) cameras, -1 where unknown."""
    frames: NDArray[np.int64]
    """(N,) frame numbers, -1 where unknown."""
    sequences: NDArray[np.int64]
    """(N,) video sequences, -1 where unknown."""

    @classmethod
    def of(cls, images: Iterable[Image]) -> Sightings:
        """Those of images, in their order."""
        import numpy as np

        told = [(image.camid, image.frame, image.sequence) for image in images]
        return cls(*np.array([[-1 if value is None else value for value in one] for one in told], np.int64).T)

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self.camids)


@dataclass(frozen=True)
class Counts:
    """How many identities, images and cameras a split has, junk apart; an unlabelled one has no known identities."""

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


_MSMT17 = Counts(3060, 11659, 15), Counts(3060, 82161, 15), 0, 0
PUBLISHED: Mapping[Domain, Description] = {
    Domain("market"): Description(Counts(751, 12936, 6), Counts(750, 3368, 6), Counts(751, 15913, 6), 2798, 3819),
    Domain("duke"): Description(Counts(702, 16522, 8), Counts(702, 2228, 8), Counts(1110, 17661, 8), 3463, 0),
    Domain("msmt17", "train+val"): Description(Counts(1041, 32621, 15), *_MSMT17),
    Domain("msmt17", "train"): Description(Counts(1041, 30248, 15), *_MSMT17),
    Domain("cuhk03", "labelled"): Description(Counts(767, 7368, 2), Counts(700, 1400, 2), Counts(700, 5328, 2), 0, 0),
    Domain("cuhk03", "detected"): Description(Counts(767, 7365, 2), Counts(700, 1400, 2), Counts(700, 5332, 2), 0, 0),
    Domain("personx"): Description(Counts(410, 9840, 6), Counts(856, 5136, 6), Counts(856, 30816, 6), 0, 0),
}
"""What the published sets hold. Some papers count Market-1501's gallery with its junk (19,732).

LUPerson is published as a list of videos, so that no two copies are the same: there is nothing to compare one with.
"""


def describe(dataset: Dataset) -> Description:
    """Count what a dataset holds, to be shown or compared with `PUBLISHED`."""

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


def differences(found: Description, published: Description) -> list[str]:
    """What a dataset has more or less of than the published one: "train images 12,935, not 12,936 (1 fewer)"."""

    def numbers(description: Description) -> dict[str, int]:
        splits = {split: getattr(description, split) for split in ("train", "query", "gallery")}
        parts = {f"{split} {what}": count for split, counts in splits.items() for what, count in vars(counts).items()}
        return parts | {"distractors": description.distractors, "junk": description.junk}

    wanted = numbers(published)
    return [
        f"{what} {count:,}, not {wanted[what]:,} ({abs(gap):,} {'more' if gap > 0 else 'fewer'})"
        for what, count in numbers(found).items()
        if (gap := count - wanted[what])
    ]


def read(
    root: Path, name: str, *, variant: str = "", subset: int | None = None, allow_overlap: bool = False
) -> Dataset:
    """Read a data set from a folder, in whichever layout it is (`reproduce.data.layouts`).

    The layout is seen from the folder, and how names are spelled from the names: a folder in Market-1501's layout can
    be any domain. Junk in the training and query folders is left out. MSMT17's test identities count from 10,000, since
    as published they have the same numbers as its training identities.

    Args:
        root: the data set's folder, or one for `find` to search.
        name: of the domain; any name will do for a folder given directly.
        variant: see `Domain`.
        subset: as `part` has it; None for all.
        allow_overlap: accept identities that are both trained on and searched for.

    Returns:
        The images, in the order of their names.

    Raises:
        UserError: the folder is missing, incomplete or not in such a layout; the message tells how to mend it.
    """
    domain = Domain(name, variant)
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"{name}: there is no folder {root}; give the one that holds {TRAIN}, {QUERY} and {GALLERY}")
    if not is_layout(root, name):
        found = find(root, name)
        if found is None:
            raise UserError(f"{name}: {root} holds neither {TRAIN}, {QUERY} and {GALLERY} nor a known folder that does")
        root = found

    splits = parse(root, name, domain.variant)
    if isinstance(splits.train, Unlabelled):
        whole = Dataset(name, root, splits.train, (), ())
        return whole if subset is None else part(whole, subset)
    train, query = (tuple(image for image in split if image.pid != JUNK) for split in splits[:2])
    for split, people in ((TRAIN, train), (QUERY, query)):
        if not people:
            raise UserError(f"{name}: {root / split} holds nothing but junk (identity -1); give images of people")
    dataset = Dataset(name, root, train, query, splits.gallery, domain.variant, version(root, name))

    tested = {image.pid for image in (*dataset.query, *dataset.gallery)}
    both = sorted(tested.intersection(dataset.train_pids))
    if both and not allow_overlap:
        raise UserError(
            f"{name}: {len(both)} identities of {root} are in {TRAIN} and also in {QUERY} or {GALLERY}, "
            f"such as {both[0]}; remove them from one side, or renumber them if they are different people"
        )
    return dataset if subset is None else part(dataset, subset)


def part(dataset: Dataset, count: int) -> Dataset:
    """Some identities to train on and as many to search for, always the same, with junk and distractors in proportion.

    A smaller part is in a larger one.

    Args:
        dataset: the whole.
        count: of identities; more than there are: all. Of an unlabelled set, `UNLABELLED_PER_IDENTITY` images for each.

    Raises:
        UserError: the part would be empty.
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
    for pid in {JUNK, BACKGROUND} - searched:  # not one person each, so kept in part
        crowd = [image.path for image in dataset.gallery if image.pid == pid]
        test |= _first(crowd, round(share * len(crowd)))
    return replace(
        dataset,
        train=tuple(image for image in dataset.train if image.pid in train),
        query=tuple(image for image in dataset.query if image.pid in test),
        gallery=tuple(image for image in dataset.gallery if image.pid in test or image.path in test),
    )


def _first(items: Iterable[int | str], count: int) -> set[int | str]:
    """Some items, scattered, always the same ones; fewer are part of more."""
    return set(sorted(items, key=lambda item: hashlib.sha256(str(item).encode()).digest())[:count])
