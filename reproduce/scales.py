"""How an experiment shrinks: the role of a field and the scale give the field's value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import prod
from typing import Any

from reproduce.data.catalogue import known, statistics
from reproduce.data.world import Size
from reproduce.errors import UserError

STEMS = {"resnet50": "narrow", "resnet50_ibn_a": "narrow_ibn_a"}
"""The narrow net that stands for a backbone."""

VERSION = 2
"""Of the rules by which scales shrink experiments. Since 2 a shortened epoch that is counted in iterations has more of
them, and mean nets average over as large a part of a training as printed."""

TEST_EVERY = 10
"""A shortened training is not tested more often than every so many epochs, or as often as printed: a test costs as much
as an epoch or two."""

LUPERSON_IDS = 200_000
"""People in the published LUPerson."""

NARROWER = 16
"""ResNet-50 ends in 2,048 channels, the narrow net in 128."""

NARROWEST = 32
"""Heads of the narrow net are not narrowed below this."""

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
        faster: learning rates are multiplied by this where a net starts from weights.
        from_nothing: and by this where it starts from nothing.
        narrow: whether the narrow net stands for the backbone; widths of heads and projections are then divided by 16,
            but not below 32.
        batch: at most this many identities in a batch; of images without identities four times as many.
        published: whether published weights are used.
        ids: a drawn domain has one in this many of the published identities.
        tested: a drawn domain has this many times as many identities to test on.
    """

    does: str
    shorten: float = 1.0
    longest: int | None = None
    shrink: int = 1
    faster: float = 1.0
    from_nothing: float = 1.0
    narrow: bool = False
    batch: int | None = None
    published: bool = False
    ids: int = 1
    tested: int = 1


FASTER = 10.0
"""What rates of a narrow net are multiplied by where it starts from weights (docs/calibration.md).

That it is 10 from nothing as well is a coincidence: each was found by itself."""

SCALES = {
    "smoke": Scale(
        "wiring: seconds a stage", longest=2, shrink=4, faster=FASTER, from_nothing=10.0, narrow=True, batch=4, ids=60
    ),
    "small": Scale(
        "claims: the narrow net on 64x32 images",
        shorten=1 / 3,
        shrink=4,
        faster=FASTER,
        from_nothing=10.0,
        narrow=True,
        ids=14,
        tested=4,
    ),
    "medium": Scale("claims: ResNet-50 on 128x64 images, on a GPU", shorten=1 / 2, shrink=2, ids=4),
    "trial": Scale("the paper's recipe cut to 2 epochs", longest=2, published=True),
    "paper": Scale("as printed", published=True),
}

WEIGHTS = "weights"
PRECISION = "precision"
"""The roles that are not a matter of scale alone: see `reproduce.session.setting`."""


def at_scale(scale: Scale, *, scratch: bool = False) -> Callable[[str, Any, Any], Any]:
    """The `by_role` argument of `reproduce.stage.rewrite` for a scale.

    What most roles do stands at `Scale`. The others:

    - "iterations" are the batches of an epoch. Their number keeps the printed passes over the data, in fewer epochs
      over fewer images. "updates" are those of a whole training, or milestones among them; "updates of epochs" are
      counted in a training whose length is counted in epochs.
    - A "momentum" is what a mean net keeps of itself at an update. What it forgets is multiplied by printed / actual
      updates, so that it averages over as large a part of the training as printed.
    - A "queue" of negatives keeps the printed number of entries per person in LUPerson, in whole batches (of its
      owner's field with the role "images") and at least one.
    - A "rate" is the learning rate of what starts from nothing at all scales, such as a decoder or discriminator, and
      stays as printed.

    Raises:
        UserError: (the returned function) a field has a role that there is not.
    """

    def cut(value: int) -> int:
        return value if scale.longest is None else min(value, scale.longest)

    def shortened(value: int) -> int:
        return cut(max(1, round(value * scale.shorten)))

    def images(value: int) -> int:
        return value if scale.batch is None else min(value, 4 * scale.batch)

    def width(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(width, value))
        return max(value // NARROWER, min(value, NARROWEST)) if scale.narrow else value

    def lr(value: float, owner: Any) -> float:
        nothing = scratch or getattr(owner, WEIGHTS, "") is None
        return value * (scale.from_nothing if nothing else scale.faster)

    def queue(value: int, owner: Any) -> int:
        if scale.ids == 1:
            return value
        sizes = [
            images(getattr(owner, field.name)) for field in fields(owner) if field.metadata.get("role") == "images"
        ]
        batch = max(sizes, default=1)
        people = known("luperson").drawn_ids[0] / scale.ids
        return batch * max(1, round(value * people / LUPERSON_IDS / batch))

    def momentum(value: float, owner: Any) -> float:
        if scale.published:
            return value
        roles = {field.metadata.get("role"): field.name for field in fields(owner)}
        counts = {role: getattr(owner, roles[role]) for role in ("rounds", "epochs", "iterations") if role in roles}
        fewer: float = prod(count / rules[role](count) for role, count in counts.items())
        return max(0.0, 1 - (1 - value) * fewer * (1 if "iterations" in counts else scale.ids))

    def counted(factor: float) -> Callable[[Any], Any]:
        def count(value: Any) -> Any:
            return tuple(map(count, value)) if isinstance(value, tuple) else max(1, round(value * factor))

        return count

    rules: dict[str, Callable[[Any], Any]] = {
        "epochs": shortened,
        "rounds": cut,
        "iterations": counted(1 / (scale.ids * scale.shorten)),
        "updates": counted(1 / scale.ids),
        "updates of epochs": counted(scale.shorten / scale.ids),
        "period": lambda value: max(round(value * scale.shorten), min(value, TEST_EVERY)),
        "milestones": lambda value: (
            tuple(round(epoch * scale.shorten) for epoch in value)
            if isinstance(value, tuple)
            else round(value * scale.shorten)
        ),
        "input": lambda value: (value[0] // scale.shrink, value[1] // scale.shrink),
        "pixels": lambda value: round(value / scale.shrink),
        "backbone": lambda value: STEMS.get(value, value) if scale.narrow else value,
        "images": images,
        "batch": lambda value: value if scale.batch is None else min(value, scale.batch),
        "width": width,
        "rate": lambda value: value,
        WEIGHTS: lambda value: value,
        PRECISION: lambda value: value,
    }

    of_owner = {"queue": queue, "lr": lr, "momentum": momentum}

    def by_role(role: str, value: Any, owner: Any) -> Any:
        if role in of_owner:
            return of_owner[role](value, owner)
        if role not in rules:
            name = next(field.name for field in fields(owner) if field.metadata.get("role") == role)
            known = ", ".join(sorted([*rules, *of_owner]))
            raise UserError(
                f"{type(owner).__qualname__}.{name} has the role {role!r}, and the roles are {known}: "
                "take one of them, or none for a field that is the same at all scales"
            )
        return rules[role](value)

    return by_role


def stand_in_size(domain: str, scale: Scale) -> Size:
    """How large a drawn domain is at a scale: the published proportions, fewer identities, smaller images."""
    statistics(domain)
    train, test, extra = known(domain).drawn_ids
    if scale.ids > 1:
        test = min(test, MOST_TEST_IDS)
    train, test, extra = (-(-count // scale.ids) for count in (train, test, extra))
    return Size(train, scale.tested * test, scale.tested * extra, 256 // scale.shrink, 128 // scale.shrink)
