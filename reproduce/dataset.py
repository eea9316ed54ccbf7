"""What stages see of a data set: its images, who they show, where and when they were taken."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

JUNK = -1
"""Identity of the gallery images that are left out of every ranking."""

UNKNOWN = -2
"""Identity of images that nobody labelled."""

BACKGROUND = 0
"""Identity that Market-1501 gives to its distractors: many people and false detections under one number."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a person.

    Attributes:
        path: relative to the root of its dataset, with forward slashes.
        pid: identity; -1 for junk, 0 for the distractors of Market-1501, -2 where nobody labelled it.
        camid: camera, counted from 0; -1 where the set does not tell it.
        frame: number of the video frame, where the name tells it.
        sequence: number of the video sequence or part of a day, where the name tells it.
    """

    path: str
    pid: int
    camid: int
    frame: int | None = None
    sequence: int | None = None


class Unlabelled(Sequence[Image]):
    """Images without identity or camera, sorted by path and kept as one text: four million of them take 0.2 GB."""

    def __init__(self, paths: Iterable[str]) -> None:
        ordered = sorted(paths)
        self._text = "".join(ordered)
        self._ends = array("Q", accumulate(map(len, ordered), initial=0))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> Image: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Image]: ...
    def __getitem__(self, at: int | slice) -> Image | Sequence[Image]:
        if isinstance(at, slice):
            return tuple(self[index] for index in range(*at.indices(len(self))))
        index = range(len(self))[at]
        return Image(self._text[self._ends[index] : self._ends[index + 1]], UNKNOWN, -1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unlabelled) and (self._text, self._ends) == (other._text, other._ends)

    __hash__ = None  # type: ignore[assignment]


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
