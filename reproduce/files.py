"""Locate this package's files in the user's cache, and write files atomically."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from reproduce.errors import UserError


def user_cache(part: str) -> Path:
    """Return a folder of this package in the user's cache folder, `$XDG_CACHE_HOME` or the system's default."""
    return platformdirs.user_cache_path("reproduce") / part


def check_writable(folder: Path, option: str) -> None:
    """Create a folder if it is missing, and write a file there that has no name.

    Raises:
        UserError: That fails, as on a full disk; the message names the option that gave the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        raise UserError(f"{option} {folder} cannot be written ({error.strerror}): give another folder") from None


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(text: str) -> str:
    """Replace what XML, UTF-8 and terminals cannot take: control characters but tab and newline, halves of pairs."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


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


def as_text(cell: str) -> str:
    """Quote a cell of a CSV file that a spreadsheet would compute as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
