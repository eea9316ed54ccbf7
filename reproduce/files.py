"""Locate this package's files in the user's cache, and write files atomically."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import platformdirs


def user_cache(part: str) -> Path:
    """Return a folder of this package in the user's cache folder, `$XDG_CACHE_HOME` or the system's default."""
    return platformdirs.user_cache_path("reproduce") / part


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically: a reader sees the old file or the new one, even if the writer crashes.

    A missing folder is created. An error inside leaves the old file and no draft.

    Args:
        path: Path of the file.

    Yields:
        The draft to write, beside it; its name is hidden, unique to this writer, and has no known suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
