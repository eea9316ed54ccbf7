"""The data sets that the papers use: one declaration each, and whatever knows a set by name asks here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reproduce.data import places
from reproduce.data.places import Statistics
from reproduce.errors import UserError


@dataclass(frozen=True)
class Counts:
    """How many identities, images and cameras a split has, junk apart; an unlabelled one has no known identities."""

    ids: int
    images: int
    cameras: int


@dataclass(frozen=True)
class Description:
    """What a dataset holds.

    Attributes:
        train, query, gallery: counts of each split; those of the gallery include distractors.
        distractors: gallery images of identities that no query has.
        junk: gallery images that every ranking leaves out.
    """

    train: Counts
    query: Counts
    gallery: Counts
    distractors: int
    junk: int


@dataclass(frozen=True, kw_only=True)
class Known:
    """A data set that commands, suites and readers know by name."""

    name: str
    """In commands and suites."""
    title: str
    """In papers."""
    letter: str = ""
    """In tasks such as m2d; empty where no task has it."""
    folders: tuple[str, ...]
    """Names of its folder; case and punctuation do not matter. `a/b` is b inside any folder of that set."""
    ask: str
    """How to get it, in a line."""
    variants: Mapping[str, Description | None] = field(default_factory=lambda: {"": None})
    """What it holds in each way in which it is used, the usual way first; None where no two copies are the same."""
    withdrawn: bool = False
    """Whether its makers have withdrawn it: whoever asks today gets none, and nothing here fetches one."""
    grammar: str = ""
    """The spelling of image names that this set alone may have (`reproduce.data.layouts`)."""
    drawn_ids: tuple[int, int, int] = (0, 0, 0)
    """Identities of its stand-in before any scale: in train, in test, and in the gallery alone."""
    place: Statistics | None = None
    """What makes its stand-in; None where none is drawn."""


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
            drawn_ids=(751, 750, 400),  # nobody counted the people behind its 0000
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
            drawn_ids=(2400, 0, 0),  # of 200,000: they make about 48,000 images, and a drawn one has 50,000 at most
            place=places.LUPERSON,
        ),
    )
}


def known(name: str) -> Known:
    """The declaration of a data set.

    Raises:
        UserError: nobody declared it.
    """
    if name not in CATALOGUE:
        raise UserError(f"{name!r} is no data set that is known by name; known are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def variants(name: str) -> tuple[str, ...]:
    """The ways in which a data set is used, the usual one first; ("",) where there is one way."""
    return tuple(CATALOGUE[name].variants) if name in CATALOGUE else ("",)


def usual(name: str, variant: str) -> str:
    """A variant of a data set, the usual one for "".

    Raises:
        UserError: it has no such variant.
    """
    ways = variants(name)
    if variant not in ("", *ways):
        has = ", ".join(filter(None, ways)) or "none"
        raise UserError(f"{name} has no variant {variant!r}; it has {has}")
    return variant or ways[0]


def published(name: str, variant: str = "") -> Description | None:
    """What a data set holds as published; None where nobody can tell."""
    return known(name).variants[usual(name, variant)] if name in CATALOGUE else None


def letters() -> dict[str, str]:
    """The names of data sets by their letters in tasks."""
    return {each.letter: each.name for each in CATALOGUE.values() if each.letter}


def withdrawn() -> dict[str, str]:
    """The titles of data sets that their makers have withdrawn, by name."""
    return {each.name: each.title for each in CATALOGUE.values() if each.withdrawn}


def drawn() -> list[str]:
    """The names of data sets that have a stand-in, sorted."""
    return sorted(each.name for each in CATALOGUE.values() if each.place)


def statistics(name: str) -> Statistics:
    """What makes the stand-in of a data set.

    Raises:
        UserError: none is drawn.
    """
    place = CATALOGUE[name].place if name in CATALOGUE else None
    if place is None:
        raise UserError(f"no stand-in can be drawn for {name!r}, only for {', '.join(drawn())}; bring real data for it")
    return place
