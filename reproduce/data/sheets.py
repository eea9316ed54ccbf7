"""Contact sheets: one page per drawn domain, per dial, for drawn objects, and for folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from reproduce.data.catalogue import drawn, statistics
from reproduce.data.world import CAUSES, Dials, Person, Walk, look, shoot, stage, station

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import PIL.Image

    from reproduce.data.drawing import Look
    from reproduce.data.world import Shots, Station

    Array = npt.NDArray[Any]

LEVELS = (0.0, 0.5, 1.0, 2.0)
MOST_CAMERAS = 15
GAP = 2


def contact_sheet(
    name: str, *, seed: int = 1, dials: Dials | None = None, height: int = 128, people: int = 8
) -> PIL.Image.Image:
    """Show a domain on one page: a row per person and a column per camera; then a row per dial, at 0, 0.5, 1 and 2.

    A dial's row shows the first person twice at each level; only that dial differs from the first two pictures. At most
    15 cameras are shown.
    """
    import numpy as np

    dials, count = dials or Dials(), min(statistics(name).cameras, MOST_CAMERAS)
    seen = _sightings(name, seed, people, np.arange(count))

    def strip(images: slice, at: Dials) -> list[Array]:
        return list(_pictures(name, seen, images, at, height))

    page = [(f"person {k + 1}", strip(slice(k * count, (k + 1) * count), dials)) for k in range(people)]
    for cause in CAUSES:
        levels = [replace(dials, **{cause: level}) for level in LEVELS]
        page.append((f"{cause}\n0, 0.5, 1, 2", [image for at in levels for image in strip(slice(0, 2), at)]))
    return _page(page, height)


def dial_sheet(
    cause: str, *, seed: int = 1, height: int = 128, people: int = 2, sightings: int = 24, domains: Sequence[str] = ()
) -> PIL.Image.Image:
    """Show a dial's effect on one page: a row per person of every domain, three pictures at each of 0, 0.5, 1 and 2.

    Many disturbances are rare, so of 24 sightings it shows the one that the dial changes most, one that it changes more
    than three quarters of them, and one more than half of them.
    """
    import numpy as np

    levels = [replace(Dials(), **{cause: level}) for level in LEVELS]
    page = []
    for name in domains or drawn():
        cameras = np.arange(sightings) % statistics(name).cameras
        seen = _sightings(name, seed, people, cameras)
        for k in range(people):
            mine = np.arange(k * sightings, (k + 1) * sightings)
            off, most = (_pictures(name, seen, mine, at, 32) for at in (levels[0], levels[-1]))
            moved = np.argsort(-np.abs(most.astype(float) - off).mean((1, 2, 3)), kind="stable")
            shown = mine[moved[[0, sightings // 4, sightings // 2]]]
            strips = [_pictures(name, seen, shown, at, height) for at in levels]
            page.append((f"{name} {k + 1}", [image for strip in strips for image in strip]))
    return _page(page, height, [f"{cause} {level:g}" for level in LEVELS])


def object_sheet(*, seed: int = 1, side: int = 96, kinds: int = 16, count: int = 14) -> PIL.Image.Image:
    """Show drawn objects on one page, a row per kind."""
    from reproduce.data.objects import pictures

    page = [(f"kind {kind + 1}", list(pictures(kind, count, side, seed=seed))) for kind in range(kinds)]
    return _page(page, side, width=side)


def folder_sheet(folders: Sequence[Path], *, height: int = 128, count: int = 14) -> PIL.Image.Image:
    """Show training images of folders on one page, a row per folder, with images of one name below each other.

    Args:
        folders: data sets in any known layout, such as a domain and its translations; the first decides what is shown,
            at even steps.
        height: of a picture, in pixels.
        count: most images per row.

    Raises:
        UserError: a folder is no data set, or lacks an image of the first.
    """
    from reproduce.data.images import decode
    from reproduce.data.reading import read

    sets = [read(folder, folder.name) for folder in folders]
    shown = sets[0].train[:: max(1, len(sets[0].train) // count)][:count]
    page = []
    for number, own in enumerate(sets):
        strip = [decode(own.root / image.path, (height, height // 2)).transpose(1, 2, 0) for image in shown]
        page.append((f"folder {number + 1}", strip))
    return _page(page, height)


class _Seen(NamedTuple):
    """People seen by cameras."""

    shots: Shots
    """One row per image."""
    looks: Look
    """One row per person."""
    stations: Station
    """One row per camera."""


def _sightings(name: str, seed: int, people: int, cameras: Array) -> _Seen:
    """Let the same cameras see every person, in the same order."""
    import numpy as np

    from reproduce.data.drawing import join

    domain = statistics(name)
    role = "test" if domain.labelled else "train"
    crowd = [Person(name, role, number) for number in range(people)]
    away, progress = ((cameras * 0.62 + 0.5) % 1.0 < domain.away) * 1.0, (cameras * 0.37 + 0.2) % 1.0
    way = Walk(cameras, cameras, cameras, away, progress)
    shots = join([shoot(person, seed, way, row) for row, person in enumerate(crowd)])
    stations = [station(name, camera, seed) for camera in range(cameras.max() + 1)]
    return _Seen(shots, join([look(person, seed) for person in crowd], np.stack), join(stations, np.stack))


def _pictures(name: str, seen: _Seen, images: slice | Array, dials: Dials, height: int) -> Array:
    from reproduce.data.drawing import render, rows

    pixels: Array = render(
        stage(name, rows(seen.shots, images), seen.looks, seen.stations, dials), height, height // 2
    ).numpy()
    return pixels


def _page(
    strips: Sequence[tuple[str, Sequence[Array]]], height: int, heads: Sequence[str] = (), *, width: int | None = None
) -> PIL.Image.Image:
    """Stack labelled strips of pictures under headings of equal width."""
    import PIL.Image
    import PIL.ImageDraw

    margin, wide, top = 84, (width or height // 2) + GAP, 20 if heads else 0
    columns = max(len(images) for _, images in strips)
    sheet = PIL.Image.new("RGB", (margin + columns * wide, top + len(strips) * (height + GAP)), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        pen.text((margin + column * wide * columns // len(heads), 4), head, fill="black")
    for row, (label, images) in enumerate(strips):
        pen.text((4, top + row * (height + GAP) + 4), label, fill="black")
        for column, image in enumerate(images):
            sheet.paste(PIL.Image.fromarray(image), (margin + column * wide, top + row * (height + GAP)))
    return sheet
