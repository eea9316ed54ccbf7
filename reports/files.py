"""Write pages atomically, and remove those of an earlier report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from reproduce.files import replacing

WRITTEN = ".pages"
"""File in a report's folder that lists the pages written there."""


def write(path: Path, text: str) -> None:
    """Write a file atomically, creating its folder if missing."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def write_all(folder: Path, pages: Mapping[str, str]) -> None:
    """Write the pages of a report, and remove pages that only an earlier report wrote.

    Args:
        folder: Folder for the pages; other files in it stay.
        pages: Contents by relative path, such as "cases/one.html".
    """
    written = folder / WRITTEN
    before = written.read_text(encoding="utf-8").splitlines() if written.is_file() else []
    ours = {name for name in before if re.fullmatch(r"(cases/)?[a-z0-9-]+\.html", name)}
    write(written, "".join(f"{name}\n" for name in sorted(ours | set(pages))))
    for name, text in pages.items():
        write(folder / name, text)
    for name in sorted(ours - set(pages)):
        (folder / name).unlink(missing_ok=True)
    write(written, "".join(f"{name}\n" for name in sorted(pages)))
