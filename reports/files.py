"""Write pages atomically, and remove those of an earlier report of the same results."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from reproduce.errors import UserError
from reproduce.files import replacing

WRITTEN = ".pages"
"""File in a report's folder that lists the results that it shows, and the pages written there."""

OF = "of "
"""Begins a line of it that names a folder of results, from the report's folder."""


def write(path: Path, text: str) -> None:
    """Write a file atomically, creating its folder if missing."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def check_shows(folder: Path, of: Sequence[Path]) -> None:
    """Check that a folder holds no pages of other results than those of these folders.

    Raises:
        UserError: It does.
    """
    _, others = _before(folder)
    if others and others != _named(folder, of):
        names = " and ".join(str((folder / line.removeprefix(OF)).resolve()) for line in others)
        raise UserError(f"{folder} holds the pages of {names}: name another folder with --out, or delete it")


def write_all(folder: Path, pages: Mapping[str, str], of: Sequence[Path] = ()) -> None:
    """Write the pages of a report, and remove pages that only an earlier report of the same results wrote.

    Args:
        folder: Folder for the pages; other files in it stay.
        pages: Contents by relative path, such as "cases/one.html".
        of: Folders of the results that the pages show; empty if unknown.
    """
    written = folder / WRITTEN
    before, others = _before(folder)
    shown = _named(folder, of)
    ours = before if shown == others or not others else set()
    write(written, "".join(f"{line}\n" for line in [*shown, *sorted(ours | set(pages))]))
    for name, text in pages.items():
        write(folder / name, text)
    for name in sorted(ours - set(pages)):
        (folder / name).unlink(missing_ok=True)
    write(written, "".join(f"{line}\n" for line in [*shown, *sorted(pages)]))


def _before(folder: Path) -> tuple[set[str], list[str]]:
    """Return the pages that were written to a folder, and the lines that name the results that they show."""
    written = folder / WRITTEN
    lines = written.read_text(encoding="utf-8").splitlines() if written.is_file() else []
    pages = {name for name in lines if re.fullmatch(r"(cases/)?[a-z0-9-]+\.html|cases/[a-z0-9-]+\.json", name)}
    return pages, [line for line in lines if line.startswith(OF)]


def _named(folder: Path, of: Sequence[Path]) -> list[str]:
    places = sorted(place.resolve() for place in of)
    return [f"{OF}{os.path.relpath(place, folder.resolve())}" for place in places]
