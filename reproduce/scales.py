"""Shrink experiments: the role of a field and the scale determine the field's value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

from reproduce.data.catalogue import known, statistics
from reproduce.data.world import Size
from reproduce.errors import UserError
from reproduce.stage import rewrite

STEMS = {"resnet50": "narrow", "resnet50_ibn_a": "narrow_ibn_a"}
"""The narrow net that replaces a backbone."""

VERSION = 2
"""Version of the rules that shrink experiments. Since 2 a shortened epoch that is counted in iterations has more of
them, and mean nets average over the same fraction of a training as printed."""

TEST_EVERY = 10
"""Smallest number of epochs between two tests of a shortened training, unless fewer are printed: a test costs as much
as an epoch or two."""

LUPERSON_IDS = 200_000
"""People in the published LUPerson."""

NARROWER = 16
"""Divisor of widths: ResNet-50 ends in 2,048 channels, the narrow net in 128."""

NARROWEST = 32
"""Smallest width of the narrow net's heads."""

MOST_TEST_IDS = 750
"""A scale with fewer identities than published takes its share of at most this many test identities, so that galleries
have similar sizes; MSMT17's 3,060 and PersonX's 856 (36 gallery images each) would make larger ones."""


@dataclass(frozen=True)
class Scale:
    """One way to shrink an experiment."""

    does: str
    """Its purpose, in one line."""
    shorten: float = 1.0
    """Factor on epochs, milestones and evaluation periods."""
    longest: int | None = None
    """Most epochs and rounds (of labelling and training), after `shorten`; None for no limit."""
    shrink: int = 1
    """Divisor of the input size and everything counted in pixels."""
    faster: float = 1.0
    """Factor on learning rates of a net that starts from weights."""
    from_nothing: float = 1.0
    """Factor on learning rates of a net that starts from scratch."""
    slow_shorten: float = 1.0
    """Factor on epochs and milestones of a slow recipe, besides `shorten`."""
    slow_faster: float = 1.0
    """Factor on its learning rates, besides `faster` or `from_nothing`."""
    narrow: bool = False
    """Whether the narrow net replaces the backbone; widths of heads and projections are then divided by 16, but not
    below 32."""
    batch: int | None = None
    """Most identities per batch, and four times as many images where images have no identities; None for no limit."""
    published: bool = False
    """Whether published weights are used."""
    ids: int = 1
    """A drawn domain has one in this many of the published identities."""
    tested: int = 1
    """A drawn domain has this many times as many identities to test on."""
    unlabelled: int = 1
    """A drawn set without labels has one in this many of its people, who are already few beside the published ones."""


@dataclass(frozen=True)
class Released:
    """Initial weights that others released, and the training that makes their stand-in."""

    name: str
    """Name of the file where published weights are used, such as "luperson"."""
    training: Any
    """Training that makes them, of the same seed as the training that starts from them."""
    epochs: int
    """Length of that training at scales without published weights, before they cut it; the recipe's may be days."""


def started(stage: Any, scale: Scale, *, pretrain: bool = False) -> Any:
    """Replace all `Released` weights in a stage by their names or by their trainings.

    Args:
        stage: changed in a copy.
        scale: where published weights are used, names are, and trainings elsewhere.
        pretrain: whether to train anyway, for as long as the recipe says.
    """

    def leaf(value: Any) -> Any:
        if not isinstance(value, Released):
            return value
        if not scale.published:
            return replace(value.training, epochs=value.epochs)
        return value.training if pretrain else value.name

    return rewrite(stage, leaf)


FASTER = 10.0
"""Factor on learning rates of a narrow net that starts from weights (docs/calibration.md).

From scratch it is 10 as well, by coincidence: each was determined separately."""

SCALES = {
    "smoke": Scale(
        "wiring: seconds a stage",
        longest=2,
        shrink=4,
        faster=FASTER,
        from_nothing=10.0,
        narrow=True,
        batch=4,
        ids=60,
        unlabelled=60,
    ),
    "small": Scale(
        "claims: the narrow net on 64x32 images",
        shorten=1 / 3,
        shrink=4,
        faster=FASTER,
        from_nothing=10.0,
        slow_shorten=0.3,
        slow_faster=100.0,
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
ROUNDS = "rounds"
"""The roles that do not depend on scale alone: see `reproduce.session.setting`."""


def at_scale(scale: Scale, *, scratch: bool = False) -> Callable[[str, Any, Any], Any]:
    """Make the `by_role` argument of `reproduce.stage.rewrite` for a scale.

    `Scale` documents most roles. The others:

    - "iterations" are the batches of an epoch. Their number keeps the printed passes over the data, in fewer epochs
      over fewer images. "updates" are those of a whole training, or milestones among them; "updates of epochs" belong
      to a training whose length is counted in epochs.
    - A "momentum" is the fraction of itself that a mean net keeps at an update. The fraction that it forgets is
      multiplied by printed / actual updates, so that it averages over the same fraction of the training as printed; the
      images of an owner with a queue are LUPerson's.
    - A "queue" of negatives keeps the printed number of entries per person in LUPerson, in whole batches (of its
      owner's field with the role "images") and at least one.
    - "channels" belong to a network on pixels, such as an image translator; they shrink like the sides of its images
      wherever the backbone is narrow.
    - "slow epochs", "slow milestones" and "slow lr" belong to a recipe of many times more and smaller steps than
      others, which is shortened further and takes larger steps in return.
    - A "rate" is the learning rate of a part that starts from scratch at all scales, such as a decoder or
      discriminator, and is not scaled.

    Raises:
        UserError: (the returned function) a field has an unknown role.
    """

    def cut(value: int) -> int:
        return value if scale.longest is None else min(value, scale.longest)

    def shortened(value: int, factor: float = scale.shorten) -> int:
        return cut(max(1, round(value * factor)))

    def milestones(value: Any) -> Any:
        return tuple(map(milestones, value)) if isinstance(value, tuple) else round(value * scale.shorten)

    slow = scale.shorten * scale.slow_shorten

    def slow_milestones(value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(round((epoch - 1) * slow) + 1 for epoch in value)

    def images(value: int) -> int:
        return value if scale.batch is None else min(value, 4 * scale.batch)

    def width(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(width, value))
        return max(value // NARROWER, min(value, NARROWEST)) if scale.narrow else value

    def channels(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(channels, value))
        return value // scale.shrink if scale.narrow else value

    def lr(value: float, owner: Any) -> float:
        nothing = scratch or getattr(owner, WEIGHTS, "") is None
        return value * (scale.from_nothing if nothing else scale.faster)

    def fewer_people() -> float:
        return LUPERSON_IDS * scale.unlabelled / known("luperson").drawn_ids[0]

    def queue(value: int, owner: Any) -> int:
        if scale.ids == 1:
            return value
        sizes = [
            images(getattr(owner, field.name)) for field in fields(owner) if field.metadata.get("role") == "images"
        ]
        batch = max(sizes, default=1)
        return batch * max(1, round(value / fewer_people() / batch))

    def momentum(value: float, owner: Any) -> float:
        if scale.published:
            return value
        roles = {field.metadata.get("role"): field.name for field in fields(owner)}
        counts = {role: getattr(owner, roles[role]) for role in ("rounds", "epochs", "iterations") if role in roles}
        fewer: float = prod(count / rules[role](count) for role, count in counts.items())
        if "iterations" not in counts:
            fewer *= fewer_people() if "queue" in roles else scale.ids
        return max(0.0, 1 - (1 - value) * fewer)

    def counted(factor: float) -> Callable[[Any], Any]:
        def count(value: Any) -> Any:
            return tuple(map(count, value)) if isinstance(value, tuple) else max(1, round(value * factor))

        return count

    rules: dict[str, Callable[[Any], Any]] = {
        "epochs": shortened,
        "slow epochs": lambda value: shortened(value, slow),
        "slow milestones": slow_milestones,
        ROUNDS: cut,
        "iterations": counted(1 / (scale.ids * scale.shorten)),
        "updates": counted(1 / scale.ids),
        "updates of epochs": counted(scale.shorten / scale.ids),
        "period": lambda value: max(round(value * scale.shorten), min(value, TEST_EVERY)),
        "milestones": milestones,
        "input": lambda value: (value[0] // scale.shrink, value[1] // scale.shrink),
        "pixels": lambda value: round(value / scale.shrink),
        "backbone": lambda value: STEMS.get(value, value) if scale.narrow else value,
        "images": images,
        "batch": lambda value: value if scale.batch is None else min(value, scale.batch),
        "width": width,
        "channels": channels,
        "rate": lambda value: value,
        WEIGHTS: lambda value: value,
        PRECISION: lambda value: value,
    }

    of_owner = {
        "queue": queue,
        "lr": lr,
        "slow lr": lambda value, owner: lr(value, owner) * scale.slow_faster,
        "momentum": momentum,
    }

    def by_role(role: str, value: Any, owner: Any) -> Any:
        if role in of_owner:
            return of_owner[role](value, owner)
        if role not in rules:
            name = next(field.name for field in fields(owner) if field.metadata.get("role") == role)
            roles = ", ".join(sorted([*rules, *of_owner]))
            raise UserError(
                f"{type(owner).__qualname__}.{name} has the unknown role {role!r}: choose one of {roles}, "
                "or none for a field that is the same at all scales"
            )
        return rules[role](value)

    return by_role


def stand_in_size(domain: str, scale: Scale) -> Size:
    """Compute the size of a drawn domain at a scale: published proportions, fewer identities, smaller images."""
    statistics(domain)
    train, test, extra = known(domain).drawn_ids
    if scale.ids > 1:
        test = min(test, MOST_TEST_IDS)
    train, test, extra = (-(-count // (scale.ids if test else scale.unlabelled)) for count in (train, test, extra))
    return Size(train, scale.tested * test, scale.tested * extra, 256 // scale.shrink, 128 // scale.shrink)
