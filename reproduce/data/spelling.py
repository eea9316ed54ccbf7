"""Names of drawn images: folders, name grammars, numbers and lists of the real data sets.

`reproduce.data.layouts` reads them. Most sets have a folder per split; MSMT17 has one per identity, and lists; LUPerson
has one per video, by country and city, as its makers' packing script expects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

PLACES = {
    "train": "bounding_box_train",
    "val": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}
DAY_PARTS = [f"{day}{part}" for day in ("0113", "0114", "0302", "0303") for part in ("morning", "noon", "afternoon")]
FRAME_GROUP = 50
"""Frames per time step of MSMT17: its names reach 1,946 within a part of a day, which here is an hour."""

PERSONX_CAMERAS = (3, 4, 8, 10, 11, 12)
VIDEOS, CITIES = 4, 2
"""Videos of a city and cities of a country, in LUPerson."""


class Caption(NamedTuple):
    """Information in the name of one image."""

    split: str  # "train", "val", "query" or "gallery"
    pid: int
    camera: int  # from 0
    sequence: int  # from 1
    frame: int
    box: int  # number of the box in its frame
    number: int  # of the person's images, from 0
    total: int  # of the set's images so far
    odd: bool  # a rare spelling: .jpg.jpg in Market-1501, _ex in MSMT17


def _market(of: Caption) -> str:
    who, box, ending = "-1" if of.pid == -1 else f"{of.pid:04d}", 0 if of.split == "query" else of.box, ".jpg" * of.odd
    return f"{PLACES[of.split]}/{who}_c{of.camera + 1}s{of.sequence}_{of.frame:06d}_{box:02d}{ending}.jpg"


def _duke(of: Caption) -> str:
    return f"{PLACES[of.split]}/{of.pid:04d}_c{of.camera + 1}_f{of.frame:07d}.jpg"


def _msmt17(of: Caption) -> str:
    when = f"{DAY_PARTS[of.sequence - 1]}_{of.frame // FRAME_GROUP:04d}"
    file = f"{of.pid:04d}_{of.number:03d}_{of.camera + 1:02d}_{when}_{of.box}{'_ex' * of.odd}.jpg"
    return f"{'train' if of.split in ('train', 'val') else 'test'}/{of.pid:04d}/{file}"


def _cuhk03(of: Caption) -> str:
    return f"labeled/{PLACES[of.split]}/{of.pid:04d}_c{of.camera + 1}_{of.total + 1}.png"


def _personx(of: Caption) -> str:
    return f"{PLACES[of.split]}/{of.pid:04d}_c{PERSONX_CAMERAS[of.camera]}_f{of.frame:06d}_{of.box}.jpg"


def _luperson(of: Caption) -> str:
    city, video = divmod(of.camera, VIDEOS)
    country, city = divmod(city, CITIES)
    return f"country_{country:02d}/city_{city:02d}/video_{video:04d}/{of.frame:06d}_{of.box}.jpg"


SPELL: Mapping[str, Callable[[Caption], str]] = {
    "market": _market,
    "duke": _duke,
    "msmt17": _msmt17,
    "cuhk03": _cuhk03,
    "personx": _personx,
    "luperson": _luperson,
}
"""Functions from a caption to a path, by grammar. `world.plan` increases the frame number if a path is taken."""


def lists(grammar: str, images: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Make the lists that accompany the images, by file name: MSMT17's, with lines of "PPPP/name label".

    Args:
        grammar: the domain's.
        images: path and split of each image.
    """
    if grammar != "msmt17":
        return {}
    lines: dict[str, list[str]] = {split: [] for split in PLACES}
    for path, split in images:
        inside = path.partition("/")[2]
        lines[split].append(f"{inside} {int(inside.partition('/')[0])}\n")
    return {f"list_{split}.txt": "".join(listed) for split, listed in lines.items()}
