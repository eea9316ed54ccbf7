"""Packs: millions of small image files as a few tar shards with an index, for sets without labels such as LUPerson.

A pack is a folder of `shard-00000.tar` and so on, plain tar files of the unchanged images in the order of their paths;
beside each its index, `shard-00000.index`, with a line per image (offset and size in bytes, CRC-32, path); and
`pack.json`, written last, which lists the shards. Images have the paths that they had in the folder, so the set has the
same digest and gives the same batches.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec import Struct

from reproduce.dataset import Image, Unlabelled
from reproduce.errors import UserError

CONTENTS = "pack.json"
"""File that makes a folder a pack."""

FORMAT = 1

AGAIN = "run `reproduce data pack` again"


def shard_name(number: int) -> str:
    """Return the name of a shard, without suffix."""
    return f"shard-{number:05}"


class Shard(Struct, frozen=True):
    """A tar file of a pack."""

    name: str
    """Name without suffix, such as "shard-00000"."""
    bytes: int
    images: int
    index: str
    """SHA-256 of its index."""


class Contents(Struct, frozen=True):
    """The content of `pack.json`."""

    format: int
    images: int
    shards: list[Shard]


class PackedImage(io.BytesIO):
    """The file of one image in a pack; as a string, its place."""

    def __init__(self, content: bytes, place: str) -> None:
        super().__init__(content)
        self.place = place

    def __str__(self) -> str:
        return self.place


@dataclass(frozen=True, eq=False)
class Pack:
    """A pack that is open for reading: some 0.1 kB of memory per image, nearly all of it for the path."""

    root: Path
    """Its folder."""
    shards: Sequence[Shard]
    """Shards in the order of their images."""
    images: Unlabelled
    """(N,) all images."""
    starts: Sequence[int]
    """Position of the first image of each shard, and N."""
    offsets: array[int]
    """(N,) bytes before each image in its shard."""
    sizes: array[int]
    """(N,) bytes of each image."""
    checks: array[int]
    """(N,) CRC-32 of each image."""

    @property
    def files(self) -> list[str]:
        """Return the names of all of its files."""
        return [CONTENTS, *(f"{shard.name}{suffix}" for shard in self.shards for suffix in (".index", ".tar"))]

    def position(self, path: str) -> int:
        """Return the position of an image.

        Raises:
            UserError: there is none with this path.
        """
        at = bisect_left(self.images, path, key=lambda image: image.path)
        if at == len(self.images) or self.images[at].path != path:
            raise UserError(f"{self.root} holds no image {path}: pack the folder again")
        return at

    def sizes_of(self, images: Sequence[Image]) -> Sequence[int]:
        """Return the sizes of all images, or of some, in bytes."""
        return self.sizes if images is self.images else [self.sizes[self.position(image.path)] for image in images]

    def read(self, path: str) -> PackedImage:
        """Read the file of an image.

        Raises:
            UserError: its shard is missing or truncated, or its content has changed.
        """
        at = self.position(path)
        file = self.root / f"{self.shards[bisect_left(self.starts, at + 1) - 1].name}.tar"
        try:
            with file.open("rb", buffering=0) as shard:
                content = os.pread(shard.fileno(), self.sizes[at], self.offsets[at])
        except OSError as error:
            raise _damaged(file, f"it cannot be read ({error.strerror})") from None
        if len(content) < self.sizes[at]:
            raise _damaged(file, f"it is truncated: {path} is not all there")
        if zlib.crc32(content) != self.checks[at]:
            raise _damaged(file, f"the content of {path} has changed")
        return PackedImage(content, f"{file}: {path}")


def file_of(root: Path, path: str) -> Path | PackedImage:
    """Return the file of an image in a folder or pack.

    Raises:
        UserError: as `pack_at` and `Pack.read`.
    """
    pack = pack_at(root)
    return pack.read(path) if pack else root / path


def pack_at(root: Path) -> Pack | None:
    """Open the pack in a folder; None if the folder is no pack.

    Raises:
        UserError: a file of the pack is missing, truncated or changed.
    """
    try:
        status = os.stat(root / CONTENTS)  # noqa: PTH116
    except OSError:
        return None
    return _opened(root, status.st_mtime_ns, status.st_size)


def check_ended(root: Path) -> None:
    """Refuse a folder of shards without contents.

    Raises:
        UserError: it is one.
    """
    if any((root / f"{shard_name(0)}{suffix}").exists() for suffix in (".tar", ".index")):
        raise UserError(f"{root} holds shards but no {CONTENTS}: packing has not ended; {AGAIN}, which goes on")


@lru_cache(2)
def _opened(root: Path, *_: int) -> Pack:
    file = root / CONTENTS
    try:
        contents = msgspec.json.decode(file.read_bytes(), type=Contents)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it; then {AGAIN}, which keeps what is whole") from None
    if contents.format != FORMAT:
        raise UserError(f"{file} is of format {contents.format}, and this version reads format {FORMAT}: {AGAIN}")
    starts, offsets, sizes, checks = [0], array("Q"), array("Q"), array("I")

    def paths() -> Iterator[str]:
        for shard in contents.shards:
            _check_length(root / f"{shard.name}.tar", shard.bytes)
            for offset, size, check, path in lines(root / f"{shard.name}.index", shard.index):
                offsets.append(offset)
                sizes.append(size)
                checks.append(check)
                yield path
            starts.append(len(offsets))

    images = Unlabelled(paths())
    if len(images) != contents.images or any(one.path >= other.path for one, other in pairwise(_ends(images, starts))):
        raise UserError(f"{file} and the indices beside it belong to different packs: {AGAIN}")
    return Pack(root, contents.shards, images, starts, offsets, sizes, checks)


def _ends(images: Unlabelled, starts: Sequence[int]) -> Iterator[Image]:
    """Yield the first and last image of each shard."""
    for start, end in pairwise(starts):
        yield from (images[start], *([images[end - 1]] if end > start + 1 else []))


def lines(index: Path, digest: str) -> Iterator[tuple[int, int, int, str]]:
    """Yield offset, size, CRC-32 and path of each image of an index.

    Raises:
        UserError: the file is missing, or not the one with this SHA-256.
    """
    try:
        content = index.read_bytes()
    except OSError as error:
        raise _damaged(index, f"it cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(index, "its content has changed")
    for line in content.decode().split("\n")[:-1]:
        offset, size, check, path = line.split("\t", 3)
        yield int(offset), int(size), int(check), path


def _check_length(shard: Path, size: int) -> None:
    try:
        actual = shard.stat().st_size
    except OSError as error:
        raise _damaged(shard, f"it cannot be read ({error.strerror})") from None
    if actual != size:
        what = "truncated" if actual < size else "too long"
        raise _damaged(shard, f"it is {what}: {actual:,} of {size:,} bytes")


def _damaged(file: Path, why: str) -> UserError:
    return UserError(f"{file} is damaged: {why}; remove it, and {AGAIN}, which writes only what is missing")
