"""Fingerprints of datasets: which files, with which content, wherever they lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from reproduce.stage import UserError

if TYPE_CHECKING:
    from reproduce.data.domains import Dataset

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


def digest(dataset: Dataset, *, cache: Path | None = None, threads: int = 4) -> str:
    """Fingerprint the files of a dataset: SHA-256 over the sorted lines `path, size, SHA-256 of the content`.

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
    if not dataset.labelled:
        return _shallow(dataset)
    paths = sorted({image.path for split in (dataset.train, dataset.query, dataset.gallery) for image in split})
    root = dataset.root.resolve()
    place = hashlib.sha256(os.fsencode(root)).hexdigest()[:20]
    memory = (user_cache("manifests") if cache is None else cache) / f"{place}.json"
    known = _recall(memory)

    def entry(path: str) -> Entry:
        try:
            stat = (root / path).stat()
            stamp = stat.st_size, stat.st_mtime_ns
            if (old := known.get(path)) and old[:2] == stamp:
                return old
            with (root / path).open("rb") as file:
                check_head(root / path, file.read(HEAD))
                file.seek(0)
                return *stamp, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{root / path} cannot be read ({error.strerror}); copy it again") from None

    settled = time.time_ns() - _SETTLED
    with ThreadPoolExecutor(threads) as pool:
        chunks = (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))
        made = chain.from_iterable(pool.map(lambda chunk: [entry(path) for path in chunk], chunks))
        entries = dict(zip(paths, made, strict=True))
    fresh = {path: new for path, new in entries.items() if new != known.get(path) and new[1] < settled}
    if fresh:
        _remember(memory, {**_recall(memory), **fresh})
    lines = "".join(f"{path}\0{size}\0{content}\n" for path, (size, _, content) in entries.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def check_head(path: Path, head: bytes) -> None:
    """Look at the first `HEAD` bytes of a file.

    Raises:
        UserError: they are not those of an image.
    """
    if not head.startswith(_HEADS):
        what = "an HTML page" if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") else "no image"
        raise UserError(f"{path} is {what if head else 'empty'}, whatever its name says; copy it again")


def user_cache(part: str) -> Path:
    """A folder of ours in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reproduce" / part


def _shallow(dataset: Dataset) -> str:
    """SHA-256 over the lines `path, size` of an unlabelled set, without reading its images."""
    lines = hashlib.sha256()
    for image in dataset.train:
        try:
            size = (dataset.root / image.path).stat().st_size
        except OSError as error:
            raise UserError(f"{dataset.root / image.path} cannot be read ({error.strerror}); copy it again") from None
        lines.update(f"{image.path}\0{size}\n".encode(errors="surrogateescape"))
    return lines.hexdigest()


def _recall(memory: Path) -> dict[str, Entry]:
    try:
        stored = json.loads(memory.read_bytes())
        return {path: (int(size), int(changed), str(content)) for path, (size, changed, content) in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(memory: Path, entries: dict[str, Entry]) -> None:
    """Replace the memory as a whole; where that fails the old one stays, which only costs time."""
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=memory.parent) as place:
            whole = Path(place) / memory.name
            whole.write_text(json.dumps(entries))
            whole.replace(memory)
