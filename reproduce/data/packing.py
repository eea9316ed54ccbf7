"""Write packs (`reproduce.data.packs`): shard by shard, so that a killed packing goes on."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zlib
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import msgspec

from reproduce.data.manifests import HEAD, check_head
from reproduce.data.packs import AGAIN, CONTENTS, FORMAT, Contents, Shard, lines, shard_name
from reproduce.dataset import Unlabelled
from reproduce.errors import UserError
from reproduce.files import replacing, sha256

_AHEAD = 256
"""Images read from the folder at a time."""

_BLOCK = 512
"""Bytes of a block of a tar file."""


def pack(
    images: Unlabelled,
    folder: Path,
    into: Path,
    *,
    shard_bytes: int,
    threads: int = 4,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Contents:
    """Pack the images of a folder. Whole shards of an earlier, killed packing of the same images are kept.

    Args:
        images: the images, relative to `folder`.
        folder: the folder.
        into: the pack's folder; its shards are equal whenever the images are.
        shard_bytes: size at which a shard ends, in bytes of images.
        threads: images read at once.
        progress: called after each shard with the images packed so far, and all.

    Raises:
        UserError: an image is missing, no image, or changes meanwhile; `into` holds something else, or cannot be
            written.
    """
    sizes, changed = array("Q"), array("q")
    for image in images:
        status = _status(folder / image.path)
        sizes.append(status.st_size)
        changed.append(status.st_mtime_ns)
    starts, shards = _cut(sizes, shard_bytes), []
    try:
        _clear(into, len(starts) - 1)
        for number, (start, end) in enumerate(pairwise(starts)):
            place = into / shard_name(number)
            wanted = [(images[at].path, sizes[at]) for at in range(start, end)]
            kept = _kept(place, wanted, max(changed[start:end]))
            shards.append(kept or _write(place, wanted, folder, threads))
            progress(end, len(images))
        contents = Contents(FORMAT, len(images), shards)
        with replacing(into / CONTENTS) as draft:
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(contents), indent=1) + b"\n")
    except OSError as error:
        raise UserError(f"{into} cannot be written ({error.strerror}): free some room, and {AGAIN}") from None
    return contents


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); copy it again") from None


def _clear(into: Path, shards: int) -> None:
    """Delete from a pack's folder, made if it is missing, what a killed packing was writing, and the contents."""
    into.mkdir(parents=True, exist_ok=True)
    own = {f"{shard_name(number)}{suffix}" for number in range(shards) for suffix in (".tar", ".index")}
    for path in sorted(into.iterdir()):
        if path.name == CONTENTS or path.name.startswith((f".{CONTENTS}.", ".shard-")):
            path.unlink()
        elif path.name not in own:
            raise UserError(f"{path} is no part of this pack: give an empty folder")


def _cut(sizes: Sequence[int], most: int) -> list[int]:
    """Return the positions at which shards begin, and the number of images."""
    starts, filled = [0], 0
    for at, size in enumerate(sizes):
        if filled + size > most and at > starts[-1]:
            starts.append(at)
            filled = 0
        filled += size
    return [*starts, len(sizes)]


def _kept(place: Path, wanted: list[tuple[str, int]], changed: int) -> Shard | None:
    """Return the shard that is there already, if it is whole, holds these paths and sizes, and is newer than these."""
    tar, index = place.with_suffix(".tar"), place.with_suffix(".index")
    if not (tar.exists() and index.exists()):
        return None
    status = tar.stat()
    shard = Shard(place.name, status.st_size, len(wanted), sha256(index))
    try:
        held = list(lines(index, shard.index))
    except ValueError:
        return None
    same = [(path, size) for _, size, _, path in held] == wanted
    offset, size, _, _ = held[-1] if held else (0, 0, 0, "")
    end = offset + _up(size, _BLOCK) + 2 * _BLOCK
    return shard if same and shard.bytes == _up(end, tarfile.RECORDSIZE) and status.st_mtime_ns > changed else None


def _up(size: int, unit: int) -> int:
    """Round up to whole units."""
    return -(-size // unit) * unit


def _write(place: Path, wanted: list[tuple[str, int]], folder: Path, threads: int) -> Shard:
    """Write a shard, then its index: a shard with an index is whole."""
    index = place.with_suffix(".index")
    index.unlink(missing_ok=True)
    entries = []
    with replacing(place.with_suffix(".tar")) as draft:
        with (
            draft.open("wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar,
            ThreadPoolExecutor(threads) as pool,
        ):
            for start in range(0, len(wanted), _AHEAD):
                some = wanted[start : start + _AHEAD]
                for (path, size), content in zip(some, pool.map(lambda one: _content(folder, *one), some), strict=True):
                    entry = tarfile.TarInfo(path)
                    entry.size = size
                    tar.addfile(entry, io.BytesIO(content))
                    entries.append(f"{tar.offset - _up(size, _BLOCK)}\t{size}\t{zlib.crc32(content)}\t{path}\n")
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        length = draft.stat().st_size
    text = "".join(entries).encode()
    with replacing(index) as draft:
        draft.write_bytes(text)
    return Shard(place.name, length, len(wanted), hashlib.sha256(text).hexdigest())


def _content(folder: Path, path: str, size: int) -> bytes:
    try:
        content = (folder / path).read_bytes()
    except OSError as error:
        raise UserError(f"{folder / path} cannot be read ({error.strerror}); copy it again") from None
    check_head(folder / path, content[:HEAD])
    if len(content) != size:
        raise UserError(f"{folder / path} changed while it was packed: {AGAIN}, which goes on")
    return content
