"""Fingerprints of datasets: which files, with which content, wherever they lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from reproduce.data.packs import PackedImage, file_of, pack_at
from reproduce.errors import UserError
from reproduce.files import replacing, user_cache

if TYPE_CHECKING:
    from reproduce.dataset import Dataset, Image

Entry: TypeAlias = tuple[int, int, str]
"""Size in bytes, time of modification in nanoseconds, SHA-256 of the content."""

_CHUNK = 64
"""Files that a thread takes at a time."""

_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF")
"""How JPEG, PNG, BMP and WebP files begin."""

HEAD = 64
"""Bytes that tell an image from something else, such as an HTML page."""

_SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a file is sure to change its time of modification: FAT counts in 2 s."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """The files of a dataset as they were when they were looked at.

    Attributes:
        dataset: the images.
        stamps: size and time of modification of one file after the other, in the order of `_paths`: 64 MB for 4 M.
        digest: fingerprint of the dataset, where it was asked for.
    """

    dataset: Dataset
    stamps: array[int]
    digest: str = ""

    def changed(self) -> Path | None:
        """The first file whose size or time of modification is another now, or that is gone."""
        before = iter(self.stamps)
        for path in _paths(self.dataset):
            if _stamp_or_none(self.dataset.root, path) != (next(before), next(before)):
                return self.dataset.root / path
        return None


def glance(dataset: Dataset) -> Manifest:
    """Look at sizes and times alone.

    Raises:
        UserError: a file is missing; the message names it.
    """
    stamps = array("q")
    for path in _paths(dataset):
        stamps.extend(_stamp(dataset.root, path))
    return Manifest(dataset, stamps)


def digest(dataset: Dataset, *, cache: Path | None = None, threads: int = 4) -> str:
    """Fingerprint a dataset: SHA-256 over the sorted lines `split, path, pid, camid, SHA-256 of the content`.

    Reading every file takes a while, so the content's hash is remembered by path, size and time of modification. The
    memory is one JSON file for each root; a broken one is ignored, and processes may share it. Of an unlabelled set,
    which may have millions of files, paths and sizes count alone.

    Args:
        dataset: the images; paths count relative to its root, so a copy elsewhere has the same fingerprint.
        cache: folder of the memory; by default `reproduce/manifests` in the user's cache folder.
        threads: files read at once.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: a file is missing, cannot be read or is no image, such as an HTML page; the message names it.
    """
    return take(dataset, cache=cache, threads=threads).digest


def former_digest(dataset: Dataset, *, cache: Path | None = None, threads: int = 4) -> str:
    """The fingerprint that earlier versions gave: of paths, sizes and contents, without labels and splits.

    Raises:
        UserError: as `digest`.
    """
    if not dataset.labelled:
        return _shallow(dataset).digest
    entries = _entries(dataset.root, _paths(dataset), _recall(_memory(dataset.root, cache)), threads)
    lines = "".join(f"{path}\0{size}\0{content}\n" for path, (size, _, content) in entries.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def take(dataset: Dataset, *, wanted: str = "", cache: Path | None = None, threads: int = 4) -> Manifest:
    """Look at the files of a dataset and fingerprint it as `digest` does.

    Where all of them are remembered, this costs a look at size and time of each: seconds for the labelled sets, a
    minute or two for LUPerson's four million files.

    Args:
        dataset, cache, threads: as `digest` has them.
        wanted: the fingerprint that it had before.

    Raises:
        UserError: as `digest`; or the fingerprint is not the wanted one, and then the message names the first file that
            differs from what is remembered.
    """
    if not dataset.labelled:
        manifest = _shallow(dataset)
        if wanted and manifest.digest != wanted:
            raise _changed(dataset.root)
        return manifest
    memory = _memory(dataset.root, cache)
    known, settled = _recall(memory), time.time_ns() - _SETTLED
    entries = _entries(dataset.root, _paths(dataset), known, threads)
    gone = {path for path in known.keys() - entries.keys() if not _stamp_or_none(dataset.root, path)}
    found = _of_lines(dataset, entries)
    if wanted and found != wanted:
        others = (path for path, entry in entries.items() if path in known and known[path][2] != entry[2])
        raise _changed(dataset.root / next(chain(others, sorted(gone)), ""))
    fresh = {path: new for path, new in entries.items() if new != known.get(path) and new[1] < settled}
    if fresh or gone:
        kept = {path: entry for path, entry in _recall(memory).items() if path not in gone}
        _remember(memory, kept | fresh)
    return Manifest(dataset, array("q", chain.from_iterable(entry[:2] for entry in entries.values())), found)


def recheck(root: Path, *, cache: Path | None = None, threads: int = 4) -> list[str]:
    """The files under a root whose content is not the remembered one although their size and time are.

    Every remembered file is read again; what is found is remembered in its place.
    """
    memory = _memory(root, cache)
    known = {path: entry for path, entry in _recall(memory).items() if _stamp_or_none(root, path) == entry[:2]}
    entries = _entries(root, sorted(known), {}, threads)
    liars = {path: new for path, new in entries.items() if new[:2] == known[path][:2] and new != known[path]}
    if liars:
        _remember(memory, {**_recall(memory), **liars})
    return list(liars)


def _paths(dataset: Dataset) -> Iterable[str]:
    """The files of a dataset, each once, sorted; those of the pack if it is one."""
    if not dataset.labelled:
        if pack := pack_at(dataset.root):
            return pack.files
        return (image.path for image in dataset.train)
    return sorted({image.path for split in _splits(dataset).values() for image in split})


def _splits(dataset: Dataset) -> dict[str, Sequence[Image]]:
    return {"train": dataset.train, "query": dataset.query, "gallery": dataset.gallery}


def _of_lines(dataset: Dataset, entries: Mapping[str, Entry]) -> str:
    lines = sorted(
        f"{split}\0{image.path}\0{image.pid}\0{image.camid}\0{entries[image.path][2]}\n"
        for split, images in _splits(dataset).items()
        for image in images
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _entries(root: Path, paths: Iterable[str], known: Mapping[str, Entry], threads: int) -> dict[str, Entry]:
    """What the files are now; content is read only where a file is not known with this size and time."""

    def entry(path: str) -> Entry:
        stamp = _stamp(root, path)
        if (old := known.get(path)) and old[:2] == stamp:
            return old
        try:
            with (root / path).open("rb") as file:
                check_head(root / path, file.read(HEAD))
                file.seek(0)
                return *stamp, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(root / path, error) from None

    ordered = list(paths)
    with ThreadPoolExecutor(threads) as pool:
        chunks = (ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK))
        made = chain.from_iterable(pool.map(lambda chunk: [entry(path) for path in chunk], chunks))
        return dict(zip(ordered, made, strict=True))


def _changed(place: Path) -> UserError:
    return UserError(
        f"{place} has changed since the run began, and results would count for what was there before: "
        "run the same command again"
    )


def _stamp(root: Path, path: str) -> tuple[int, int]:
    """Size in bytes and time of modification in nanoseconds."""
    try:
        status = os.stat(f"{root}/{path}")  # noqa: PTH116  # making a Path takes longer than looking at the file
    except OSError as error:
        raise _unreadable(root / path, error) from None
    if not stat.S_ISREG(status.st_mode):  # to open a pipe might take for ever
        raise UserError(f"{root / path} is no file, but a pipe, a device or a folder; remove it")
    return status.st_size, status.st_mtime_ns


def _stamp_or_none(root: Path, path: str) -> tuple[int, int] | None:
    try:
        return _stamp(root, path)
    except UserError:
        return None


def _unreadable(place: Path, error: OSError) -> UserError:
    return UserError(f"{place} cannot be read ({error.strerror}); copy it again")


def check_file(root: Path, path: str) -> None:
    """Look at the kind and the first bytes of a file.

    Raises:
        UserError: it cannot be read, or is no image.
    """
    image = file_of(root, path)
    if isinstance(image, PackedImage):
        check_head(image, image.read(HEAD))
        return
    _stamp(root, path)
    try:
        with image.open("rb") as file:
            check_head(image, file.read(HEAD))
    except OSError as error:
        raise _unreadable(image, error) from None


def check_head(path: Path | PackedImage, head: bytes) -> None:
    """Look at the first `HEAD` bytes of a file.

    Raises:
        UserError: they are not those of an image.
    """
    if not head.startswith(_HEADS):
        what = "an HTML page" if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") else "no image"
        raise UserError(f"{path} is {what if head else 'empty'}, whatever its name says; copy it again")


def _shallow(dataset: Dataset) -> Manifest:
    """Fingerprint an unlabelled set by the lines `path, size`, without reading its images."""
    manifest, pack = glance(dataset), pack_at(dataset.root)
    sizes = pack.sizes_of(dataset.train) if pack else manifest.stamps[::2]
    lines = hashlib.sha256()
    for image, size in zip(dataset.train, sizes, strict=True):
        lines.update(f"{image.path}\0{size}\n".encode(errors="surrogateescape"))
    return replace(manifest, digest=lines.hexdigest())


def _memory(root: Path, cache: Path | None) -> Path:
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:20]
    return (user_cache("manifests") if cache is None else cache) / f"{place}.json"


def _recall(memory: Path) -> dict[str, Entry]:
    try:
        stored = json.loads(memory.read_bytes())
        return {path: (int(size), int(changed), str(content)) for path, (size, changed, content) in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(memory: Path, entries: dict[str, Entry]) -> None:
    """Replace the memory as a whole; where that fails the old one stays, which only costs time."""
    with contextlib.suppress(OSError), replacing(memory) as draft:
        draft.write_text(json.dumps(entries))
