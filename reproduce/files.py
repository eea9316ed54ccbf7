"""Where files of ours lie in the user's cache, and how a file is written whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import platformdirs


def user_cache(part: str) -> Path:
    """Name a folder of ours in the user's cache folder: `$XDG_CACHE_HOME` or what the system uses for it."""
    return platformdirs.user_cache_path("reproduce") / part


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: a reader sees the old one or the new one, also after a crash of the writer.

    The folder is made where it is missing. An error inside leaves the old file and no draft.

    Args:
        path: where the file goes.

    Yields:
        The draft to write, beside it; its name is hidden, unlike that of any other writer, and ends in no known suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
