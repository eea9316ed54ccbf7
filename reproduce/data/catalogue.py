"""Catalogue of the papers' data sets: one declaration per set, for all code that knows sets by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reproduce.data import places
from reproduce.data.places import Statistics
from reproduce.errors import UserError


@dataclass(frozen=True)
class Counts:
    """Numbers of identities, images and cameras of a split, without junk."""

    ids: int
    """0 for an unlabelled split."""
    images: int
    cameras: int
    """0 for an unlabelled split."""


@dataclass(frozen=True)
class Description:
    """Counts of a data set's images."""

    train: Counts
    """Counts of the training split."""
    query: Counts
    """Counts of the query split."""
    gallery: Counts
    """Counts of the gallery, distractors included."""
    distractors: int
    """Gallery images of identities that no query has."""
    junk: int
    """Gallery images that every ranking ignores."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A data set that commands, suites and readers know by name."""

    name: str
    """Name in commands and suites."""
    title: str
    """Name in papers."""
    letter: str = ""
    """Letter in tasks such as m2d; empty if no task has it."""
    folders: tuple[str, ...]
    """Names of its folder; case and punctuation do not matter. `a/b` is b inside any folder of that set."""
    ask: str
    """How to get it, in one line."""
    variants: Mapping[str, Description | None] = field(default_factory=lambda: {"": None})
    """Content of each variant, the usual one first; None if no two copies are equal."""
    withdrawn: bool = False
    """Whether its makers have withdrawn it: nobody can get it any more, and nothing here fetches it."""
    grammar: str = ""
    """Grammar of image names that only this set may have (`reproduce.data.layouts`)."""
    drawn_ids: tuple[int, int, int] = (0, 0, 0)
    """Identities of its stand-in before scaling: in train, in test, and in the gallery alone."""
    place: Statistics | None = None
    """Parameters of its stand-in; None if none is drawn."""


_MSMT17 = Counts(3060, 11659, 15), Counts(3060, 82161, 15), 0, 0

CATALOGUE: dict[str, Known] = {
    known.name: known
    for known in (
        Known(
            name="market",
            title="Market-1501",
            letter="m",
            folders=("Market-1501-v15.09.15", "Market-1501", "market"),
            ask="ask its authors (Zheng et al., ICCV 2015) through their project page",
            variants={
                "": Description(Counts(751, 12936, 6), Counts(750, 3368, 6), Counts(751, 15913, 6), 2798, 3819)
            },  # some papers count the gallery with its junk (19,732)
            drawn_ids=(751, 750, 400),  # the people under its identity 0000 were never counted
            place=places.MARKET,
        ),
        Known(
            name="duke",
            title="DukeMTMC-reID",
            letter="d",
            folders=("DukeMTMC-reID", "DukeMTMC", "duke"),
            ask="withdrawn by its makers: nobody can ask for it any more",
            variants={"": Description(Counts(702, 16522, 8), Counts(702, 2228, 8), Counts(1110, 17661, 8), 3463, 0)},
            withdrawn=True,
            drawn_ids=(702, 702, 408),
            place=places.DUKE,
        ),
        Known(
            name="msmt17",
            title="MSMT17",
            letter="t",
            folders=("MSMT17_V1", "MSMT17_V2", "MSMT17"),
            ask="send its authors (Wei et al., CVPR 2018) their release agreement, signed",
            variants={
                "train+val": Description(Counts(1041, 32621, 15), *_MSMT17),
                "train": Description(Counts(1041, 30248, 15), *_MSMT17),
            },
            grammar="MSMT17 (re-packed)",
            drawn_ids=(1041, 3060, 0),
            place=places.MSMT17,
        ),
        Known(
            name="cuhk03",
            title="CUHK03",
            letter="c",
            folders=("cuhk03-np", "cuhk03"),
            ask="request form of its authors (Li et al., CVPR 2014); new split by Zhong et al.",
            variants={
                "labelled": Description(Counts(767, 7368, 2), Counts(700, 1400, 2), Counts(700, 5328, 2), 0, 0),
                "detected": Description(Counts(767, 7365, 2), Counts(700, 1400, 2), Counts(700, 5332, 2), 0, 0),
            },
            grammar="CUHK03-NP",
            drawn_ids=(767, 700, 0),
            place=places.CUHK03,
        ),
        Known(
            name="personx",
            title="PersonX",
            letter="x",
            folders=("PersonX", "personx/subset1"),
            ask="ask its authors (Sun and Zheng, CVPR 2019) through their project page",
            variants={"": Description(Counts(410, 9840, 6), Counts(856, 5136, 6), Counts(856, 30816, 6), 0, 0)},
            grammar="PersonX",
            drawn_ids=(410, 856, 0),
            place=places.PERSONX,
        ),
        Known(
            name="luperson",
            title="LUPerson",
            folders=("LUPerson", "LUP"),
            ask="rebuilt from its authors' list of videos (Fu et al., CVPR 2021)",
            drawn_ids=(2400, 0, 0),  # of 200,000; they have about 48,000 images, and a drawn set at most 50,000
            place=places.LUPERSON,
        ),
    )
}


def known(name: str) -> Known:
    """Look up the declaration of a data set.

    Raises:
        UserError: the name is unknown.
    """
    if name not in CATALOGUE:
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def variants(name: str) -> tuple[str, ...]:
    """List the variants of a data set, the usual one first; ("",) if there is only one."""
    return tuple(CATALOGUE[name].variants) if name in CATALOGUE else ("",)


def usual(name: str, variant: str) -> str:
    """Resolve the variant of a data set; "" means the usual one.

    Raises:
        UserError: the variant is unknown.
    """
    ways = variants(name)
    if variant not in ("", *ways):
        has = ", ".join(filter(None, ways)) or "none"
        raise UserError(f"{name} has no variant {variant!r}; it has {has}")
    return variant or ways[0]


def published(name: str, variant: str = "") -> Description | None:
    """Return the published content of a data set; None if unknown."""
    return known(name).variants[usual(name, variant)] if name in CATALOGUE else None


def letters() -> dict[str, str]:
    """Map letters in tasks to names of data sets."""
    return {entry.letter: entry.name for entry in CATALOGUE.values() if entry.letter}


def withdrawn() -> dict[str, str]:
    """Map names of withdrawn data sets to their titles."""
    return {entry.name: entry.title for entry in CATALOGUE.values() if entry.withdrawn}


def drawn() -> list[str]:
    """List the names of data sets with a stand-in, sorted."""
    return sorted(entry.name for entry in CATALOGUE.values() if entry.place)


def statistics(name: str) -> Statistics:
    """Return the parameters of a data set's stand-in.

    Raises:
        UserError: there is no stand-in.
    """
    place = CATALOGUE[name].place if name in CATALOGUE else None
    if place is None:
        raise UserError(f"no stand-in can be drawn for {name!r}, only for {', '.join(drawn())}; use real data for it")
    return place
