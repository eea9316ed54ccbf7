"""How an experiment shrinks: the role of a field and the scale give the field's value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reproduce.data.world import Size

STEMS = {"resnet50": "narrow", "resnet50_ibn_a": "narrow_ibn_a"}
"""The narrow net that stands for a backbone."""

PUBLISHED_IDS = {
    "market": (751, 750, 400),
    "duke": (702, 702, 408),
    "msmt17": (1041, 3060, 0),
    "cuhk03": (767, 700, 0),
    "personx": (410, 856, 0),
    "luperson": (2400, 0, 0),
}
"""Identities in train, in test, and in the gallery alone (Market-1501 does not count the people behind its 0000).

LUPerson has some 200,000; 2,400 of them make about 48,000 images, and a drawn one has 50,000 at most.
"""

MOST_TEST_IDS = 750
"""Where a scale has fewer identities than were published, it is a share of at most so many in test: all galleries are
then of like size, which MSMT17's 3,060 and PersonX's 856 test identities (36 gallery images each) would not be."""


@dataclass(frozen=True)
class Scale:
    """One way to shrink an experiment.

    Attributes:
        does: what it is for, in one line.
        shorten: epochs, milestones and evaluation periods are multiplied by this.
        longest: and epochs and rounds (of labelling and training) are then cut to this many.
        shrink: the input, and everything counted in pixels, is divided by this.
        faster: learning rates are multiplied by this; a narrow net from scratch needs larger ones.
        narrow: whether the narrow net stands for the backbone.
        batch: at most this many identities in a batch; of images without identities four times as many.
        published: whether published weights are used.
        ids: a drawn domain has one in this many of the published identities, and an epoch that is counted in iterations
            as many fewer of them.
    """

    does: str
    shorten: float = 1.0
    longest: int | None = None
    shrink: int = 1
    faster: float = 1.0
    narrow: bool = False
    batch: int | None = None
    published: bool = False
    ids: int = 1


SCALES = {
    "smoke": Scale("wiring: seconds a stage", longest=2, shrink=4, faster=10.0, narrow=True, batch=4, ids=60),
    "small": Scale("claims: the narrow net on 64x32 images", shorten=1 / 3, shrink=4, faster=10.0, narrow=True, ids=14),
    "medium": Scale("claims: ResNet-50 from scratch on 128x64 images, on a GPU", shorten=1 / 2, shrink=2, ids=4),
    "trial": Scale("the paper's recipe cut to 2 epochs", longest=2, published=True),
    "paper": Scale("as printed", published=True),
}

WEIGHTS = "weights"
PRECISION = "precision"
"""The roles that are not a matter of scale alone: see `reproduce.setting`."""


def at_scale(scale: Scale) -> Callable[[str, Any, Any], Any]:
    """The `by_role` argument of `reproduce.stage.rewrite` for a scale."""

    def cut(value: int) -> int:
        return value if scale.longest is None else min(value, scale.longest)

    def shortened(value: int) -> int:
        return cut(max(1, round(value * scale.shorten)))

    rules: dict[str, Callable[[Any], Any]] = {
        "epochs": shortened,
        "rounds": cut,
        "iterations": lambda value: max(1, round(value / scale.ids)),
        "period": lambda value: max(1, round(value * scale.shorten)),
        "milestones": lambda value: (
            tuple(round(epoch * scale.shorten) for epoch in value)
            if isinstance(value, tuple)
            else round(value * scale.shorten)
        ),
        "lr": lambda value: value * scale.faster,
        "input": lambda value: (value[0] // scale.shrink, value[1] // scale.shrink),
        "pixels": lambda value: round(value / scale.shrink),
        "backbone": lambda value: STEMS[value] if scale.narrow else value,
        "images": lambda value: value if scale.batch is None else min(value, 4 * scale.batch),
        "batch": lambda value: value if scale.batch is None else min(value, scale.batch),
        WEIGHTS: lambda value: value if scale.published else None,
        PRECISION: lambda value: value,
    }

    def by_role(role: str, value: Any, _: Any) -> Any:
        return rules[role](value)

    return by_role


def stand_in_size(domain: str, scale: Scale) -> Size:
    """How large a drawn domain is at a scale: the published proportions, fewer identities, smaller images."""
    train, test, extra = PUBLISHED_IDS[domain]
    if scale.ids > 1:
        test = min(test, MOST_TEST_IDS)
    train, test, extra = (-(-count // scale.ids) for count in (train, test, extra))
    return Size(train, test, extra, 256 // scale.shrink, 128 // scale.shrink)
