"""Data sets as stages see them: images with identity, camera and time."""

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
"""Identity of gallery images that every ranking ignores."""

UNKNOWN = -2
"""Identity of unlabelled images."""

BACKGROUND = 0
"""Identity of Market-1501's distractors: many people and false detections under one number."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a person."""

    path: str
    """Path relative to the root of its data set, with forward slashes."""
    pid: int
    """Identity; -1 for junk, 0 for the distractors of Market-1501, -2 if unlabelled."""
    camid: int
    """Camera, counted from 0; -1 if unknown."""
    frame: int | None = None
    """Number of the video frame, if the file name has it."""
    sequence: int | None = None
    """Number of the video sequence or part of a day, if the file name has it."""


class Unlabelled(Sequence[Image]):
    """Images without identity or camera, sorted by path and stored as one string: four million take 0.2 GB."""

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
    """The images of a domain, each split in the order of file names."""

    name: str
    """Name of the domain."""
    root: Path
    """The folder that image paths are relative to."""
    train: Sequence[Image]
    """Images to learn from, without junk."""
    query: Sequence[Image]
    """Images to search with, without junk; empty for an unlabelled set."""
    gallery: Sequence[Image]
    """Images to search in, with junk (pid -1) and distractors (identities that no query has)."""
    variant: str = ""
    """The way the set is used."""
    version: str = ""
    """Version of MSMT17, "V1" or "V2", if its folder tells."""
    digest: str = ""
    """Fingerprint of the images, if known."""

    @property
    def labelled(self) -> bool:
        """Whether identities and cameras are known."""
        return not isinstance(self.train, Unlabelled)

    @property
    def train_pids(self) -> tuple[int, ...]:
        """Return the identities of the training images, ascending; class i of a classifier is the i-th."""
        return tuple(sorted({image.pid for image in self.train})) if self.labelled else ()

    @property
    def train_labels(self) -> NDArray[np.int64]:
        """Return the class (N,) of each training image: the place of its identity in `train_pids`."""
        import numpy as np

        return np.unique([image.pid for image in self.train], return_inverse=True)[1]

    @property
    def cameras(self) -> tuple[int, ...]:
        """Return the cameras of all splits, ascending, counted from 0."""
        splits = (self.train, self.query, self.gallery) if self.labelled else ()
        return tuple(sorted({image.camid for split in splits for image in split}))


class Sightings(NamedTuple):
    """Where and when images were taken, without who they show."""

    camids: NDArray[np.int64]
    """(N,) cameras, -1 where unknown."""
    frames: NDArray[np.int64]
    """(N,) frame numbers, -1 where unknown."""
    sequences: NDArray[np.int64]
    """(N,) video sequences, -1 where unknown."""

    @classmethod
    def of(cls, images: Iterable[Image]) -> Sightings:
        """Collect the sightings of images, in their order."""
        import numpy as np

        sightings = [(image.camid, image.frame, image.sequence) for image in images]
        return cls(*np.array([[-1 if value is None else value for value in row] for row in sightings], np.int64).T)

    @property
    def images(self) -> int:
        """Return the number of images."""
        return len(self.camids)
