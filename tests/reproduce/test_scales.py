from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from methods import sptd, supervised
from reproduce.data.catalogue import CATALOGUE
from reproduce.data.domains import Domain
from reproduce.data.standins import StandIn
from reproduce.data.world import Size
from reproduce.errors import UserError
from reproduce.scales import MOST_TEST_IDS, SCALES, Released, at_scale, stand_in_size, started
from reproduce.session.setting import Setting
from reproduce.stage import Stage, rewrite, role


def scaled(name: str) -> supervised.Train:
    stage: supervised.Train = rewrite(
        supervised.Train(Domain("market"), backbone="resnet50_ibn_a"), by_role=at_scale(SCALES[name])
    )
    return stage


def test_paper_changes_nothing() -> None:
    assert scaled("paper") == supervised.Train(Domain("market"), backbone="resnet50_ibn_a")


def test_small() -> None:
    stage = scaled("small")
    assert (stage.backbone, stage.input, stage.augment.pad) == ("narrow_ibn_a", (64, 32), 2)
    assert (stage.epochs, stage.milestones, stage.warmup, stage.eval_every) == (40, (13, 23), 3, 10)
    assert (stage.P, stage.K) == (16, 4)


def test_smoke_and_trial_are_short() -> None:
    assert scaled("smoke").epochs == scaled("trial").epochs == 2
    assert scaled("trial") == dataclasses.replace(scaled("paper"), epochs=2)
    assert scaled("smoke").P == 4


def test_medium_keeps_the_backbone_and_halves_the_image() -> None:
    stage = scaled("medium")
    assert (stage.backbone, stage.input, stage.augment.pad) == ("resnet50_ibn_a", (128, 64), 5)


@pytest.mark.parametrize("name", SCALES)
def test_initial_weights_are_left_to_the_setting(name: str) -> None:
    assert scaled(name).weights == "imagenet"


@pytest.mark.parametrize(
    ("scale", "rounds", "iterations"), [("smoke", 2, 7), ("small", 10, 86), ("medium", 10, 200), ("trial", 2, 400)]
)
def test_rounds_stay_and_iterations_follow_the_data(scale: str, rounds: int, iterations: int) -> None:
    by_role = at_scale(SCALES[scale])
    assert by_role("rounds", 10, None) == rounds
    assert by_role("iterations", 400, None) == iterations
    assert by_role("iterations", 1, None) == 1


@pytest.mark.parametrize("scale", ["small", "medium"])
@pytest.mark.parametrize(("epochs", "iterations"), [(80, 100), (40, 400), (120, 200)])
def test_iterations_keep_the_printed_passes_over_the_data(scale: str, epochs: int, iterations: int) -> None:
    by_role, ids = at_scale(SCALES[scale]), SCALES[scale].ids
    actual = by_role("epochs", epochs, None) * by_role("iterations", iterations, None)
    assert actual == pytest.approx(epochs * iterations / ids, rel=0.05), "of as many fewer images"


def test_updates_shrink_with_the_number_of_people() -> None:
    by_role = at_scale(SCALES["small"])
    assert by_role("updates", 7_000, None) == 500
    assert by_role("updates", (1_400, 2_800, 5), None) == (100, 200, 1)
    assert by_role("updates of epochs", 2_100, None) == 50
    assert [at_scale(SCALES["paper"])(role, 123, None) for role in ("updates", "updates of epochs")] == [123, 123]


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A pre-training with fields of the rarer roles."""

    batch: int = role("images", 64)
    queue: int = role("queue", 65_536)
    widths: tuple[int, ...] = role("width", (2048, 512, 128, 3))
    lr: float = role("lr", 0.03)
    decoder_lr: float = role("rate", 2e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_rates_from_scratch_stay(scale: str) -> None:
    stage = rewrite(Contrast(), by_role=at_scale(SCALES[scale]))
    assert stage.decoder_lr == 2e-4
    assert stage.lr == 0.03 * SCALES[scale].faster


@dataclasses.dataclass(frozen=True)
class Patient:
    """A recipe of many small steps."""

    epochs: int = role("slow epochs", 260)
    milestones: tuple[int, ...] = role("slow milestones", (61, 121, 181, 241))
    lr: float = role("slow lr", 3e-5)


@pytest.mark.parametrize(
    ("scale", "epochs", "milestones", "lr"),
    [
        ("smoke", 2, (61, 121, 181, 241), 3e-4),
        ("small", 26, (7, 13, 19, 25), 3e-2),
        ("medium", 130, (31, 61, 91, 121), 3e-5),
        ("paper", 260, (61, 121, 181, 241), 3e-5),
    ],
)
def test_slow_recipes_take_fewer_and_larger_steps(
    scale: str, epochs: int, milestones: tuple[int, ...], lr: float
) -> None:
    stage = rewrite(Patient(), by_role=at_scale(SCALES[scale]))
    assert (stage.epochs, stage.milestones) == (epochs, milestones)
    assert stage.lr == pytest.approx(lr)


def test_slow_recipes_have_the_other_factors_too() -> None:
    scale = dataclasses.replace(TWO_RATES, slow_faster=5.0)
    assert rewrite(Patient(lr=1.0), by_role=at_scale(scale)).lr == 15.0
    assert rewrite(Patient(lr=1.0), by_role=at_scale(scale, scratch=True)).lr == 35.0


@dataclasses.dataclass(frozen=True)
class Averaged:
    """A training with a mean net, its epochs counted in iterations."""

    epochs: int = role("epochs", 40)
    iterations: int = role("iterations", 400)
    alpha: float = role("momentum", 0.999)


@dataclasses.dataclass(frozen=True)
class Passes:
    """One whose epochs are passes over the data."""

    epochs: int = role("epochs", 30)
    alpha: float = role("momentum", 0.999)


@pytest.mark.parametrize("scale", SCALES)
def test_mean_net_averages_over_the_printed_fraction_of_a_training(scale: str) -> None:
    by_role = at_scale(SCALES[scale])
    shown, passes = rewrite(Averaged(), by_role=by_role), rewrite(Passes(), by_role=by_role)
    if SCALES[scale].published:
        assert (shown.alpha, passes.alpha) == (0.999, 0.999), "trials cut the paper's recipe and change nothing else"
        return
    updates = shown.epochs * shown.iterations
    assert updates * (1 - shown.alpha) == pytest.approx(min(updates, 40 * 400 * (1 - 0.999))), (
        "in smoke it is the student"
    )
    assert passes.epochs / SCALES[scale].ids * (1 - passes.alpha) == pytest.approx(30 * (1 - 0.999))


@pytest.mark.parametrize("alpha", [0.0, 0.9])
def test_momentum_is_never_negative(alpha: float) -> None:
    assert rewrite(Averaged(alpha=alpha), by_role=at_scale(SCALES["small"])).alpha == 0


TWO_RATES = dataclasses.replace(SCALES["small"], faster=3.0, from_nothing=7.0)
START = supervised.Train(Domain("duke"), weights=None)


@dataclasses.dataclass(frozen=True)
class Guest:
    """A stage with a learning rate and without weights of its own."""

    lr: float = role("lr", 1.0)


@pytest.mark.parametrize(
    ("owner", "with_weights"),
    [
        (supervised.Train(Domain("market"), weights="imagenet", lr=1.0), 3.0),
        (supervised.Train(Domain("market"), weights=START, lr=1.0), 3.0),
        (supervised.Train(Domain("market"), weights=None, lr=1.0), 7.0),
        (Guest(), 3.0),
    ],
    ids=["named weights", "a training", "none", "no such field"],
)
def test_learning_rates_depend_on_initial_weights(owner: Any, with_weights: float) -> None:
    """A stage without the field continues a training that starts from the run's weights."""
    assert rewrite(owner, by_role=at_scale(TWO_RATES)).lr == with_weights
    assert rewrite(owner, by_role=at_scale(TWO_RATES, scratch=True)).lr == 7.0


@pytest.mark.parametrize("scratch", [False, True])
def test_learning_rates_of_full_backbones_stay(scratch: bool) -> None:
    for name in ("medium", "trial", "paper"):
        assert rewrite(Guest(), by_role=at_scale(SCALES[name], scratch=scratch)).lr == 1.0


def test_scratch_setting_uses_the_rates_for_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "small", TWO_RATES)
    train = supervised.Train(Domain("market"), lr=1.0)
    case = sptd.Pretrain(Domain("market"), Domain("duke"), weights=train, lr=1.0)
    for asked, factor in ((None, 3.0), ("scratch", 7.0)):
        stage: Any = Setting("small", weights=asked).resolve(case)
        assert (stage.lr, stage.weights.lr) == (factor, factor)


@pytest.mark.parametrize(("scale", "channels"), [("small", (16, 64)), ("smoke", (16, 64)), ("medium", (64, 256))])
def test_networks_on_pixels_shrink_like_the_images(scale: str, channels: tuple[int, ...]) -> None:
    by_role = at_scale(SCALES[scale])
    assert by_role("channels", (64, 256), None) == channels
    assert by_role("channels", 64, None) == channels[0]


@pytest.mark.parametrize(
    ("scale", "widths"), [("small", (128, 32, 32, 3)), ("smoke", (128, 32, 32, 3)), ("medium", (2048, 512, 128, 3))]
)
def test_heads_are_narrow_with_the_narrow_net(scale: str, widths: tuple[int, ...]) -> None:
    assert rewrite(Contrast(), by_role=at_scale(SCALES[scale])).widths == widths
    assert [at_scale(SCALES[scale])("width", width, None) for width in (2048, 512, 128, 3)] == list(widths)


@pytest.mark.parametrize("batch", [1, 48, 64, 800])
@pytest.mark.parametrize("scale", SCALES)
def test_queue_keeps_its_share_of_luperson_in_whole_batches(scale: str, batch: int) -> None:
    stage = rewrite(Contrast(batch=batch), by_role=at_scale(SCALES[scale]))
    if SCALES[scale].ids == 1:
        assert stage.queue == 65_536
        return
    assert stage.queue % stage.batch == 0
    people = stand_in_size("luperson", SCALES[scale]).train_ids
    assert stage.queue == stage.batch or abs(stage.queue / people - 65_536 / 200_000) <= stage.batch / people


def test_queue_without_a_batch() -> None:
    @dataclasses.dataclass(frozen=True)
    class Memory:
        queue: int = role("queue", 65_536)

    assert rewrite(Memory(), by_role=at_scale(SCALES["small"])).queue == 786


def test_mean_nets_beside_a_queue_average_over_their_share_of_luperson() -> None:
    @dataclasses.dataclass(frozen=True)
    class Memory:
        epochs: int = role("epochs", 200)
        queue: int = role("queue", 65_536)
        m: float = role("momentum", 0.999)

    assert rewrite(Memory(), by_role=at_scale(SCALES["small"])).m == pytest.approx(
        1 - 0.001 * 200 / 67 * 200_000 / 2400
    )
    assert rewrite(Memory(), by_role=at_scale(SCALES["paper"])).m == 0.999


@pytest.mark.parametrize("scale", SCALES)
def test_released_weights_are_a_name_or_their_training(scale: str) -> None:
    training = supervised.Train(Domain("luperson"), seed=3, weights=None)
    stage = supervised.Train(Domain("market"), weights=Released("luperson", training, epochs=7))
    if SCALES[scale].published:
        assert started(stage, SCALES[scale]) == dataclasses.replace(stage, weights="luperson")
        assert started(stage, SCALES[scale], pretrain=True) == dataclasses.replace(stage, weights=training)
        return
    shorter = dataclasses.replace(training, epochs=7)
    assert started(stage, SCALES[scale]) == dataclasses.replace(stage, weights=shorter)
    assert started(stage, SCALES[scale], pretrain=True) == dataclasses.replace(stage, weights=shorter)


def test_unknown_role_raises_with_class_and_field() -> None:
    @dataclasses.dataclass(frozen=True)
    class Guest:
        size: int = role("size", 8)

    @dataclasses.dataclass(frozen=True)
    class Method(Stage[None]):
        guest: Guest = Guest()

    with pytest.raises(
        UserError, match=r"Guest\.size has the unknown role 'size': choose one of backbone, batch, .*queue"
    ):
        Setting("paper").resolve(Method())


def test_the_method_itself_is_not_scaled() -> None:
    """Losses, sampling and regularisation belong to the method; no scale changes them."""
    free = {field.name for field in dataclasses.fields(supervised.Train) if "role" not in field.metadata} - {"augment"}
    for name in SCALES:
        assert all(getattr(scaled(name), field) == getattr(scaled("paper"), field) for field in free)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("domain", CATALOGUE)
def test_drawn_domains_have_enough_people_for_a_batch(domain: str, scale: str) -> None:
    size = stand_in_size(domain, SCALES[scale])
    assert size.train_ids >= scaled(scale).P
    assert size.height == 2 * size.width == scaled(scale).input[0]


def test_published_size() -> None:
    assert stand_in_size("duke", SCALES["paper"]) == Size(702, 702, 408, 256, 128)
    assert stand_in_size("msmt17", SCALES["paper"]) == Size(1041, 3060, 0, 256, 128)
    for name, known in CATALOGUE.items():
        for published in filter(None, known.variants.values()):
            if name not in ("market", "duke"):  # whose galleries have people whom nobody searches for
                assert known.drawn_ids == (published.train.ids, published.query.ids, 0)


def test_galleries_have_similar_sizes_at_a_scale() -> None:
    assert stand_in_size("msmt17", SCALES["small"]) == Size(75, 4 * 54, 0, 64, 32)
    assert stand_in_size("market", SCALES["small"]) == Size(54, 4 * 54, 4 * 29, 64, 32)
    assert stand_in_size("luperson", SCALES["small"]) == Size(2400, 0, 0, 64, 32), "it is not shrunk"
    assert stand_in_size("luperson", SCALES["smoke"]) == Size(40, 0, 0, 64, 32)
    tested = [stand_in_size(domain, SCALES["small"]).test_ids for domain in CATALOGUE]
    assert max(tested) <= 4 * -(-MOST_TEST_IDS // SCALES["small"].ids)


@pytest.mark.parametrize("domain", CATALOGUE)
@pytest.mark.parametrize("scale", SCALES)
def test_larger_test_adds_no_training_people(domain: str, scale: str) -> None:
    once = stand_in_size(domain, dataclasses.replace(SCALES[scale], tested=1))
    often = stand_in_size(domain, dataclasses.replace(SCALES[scale], tested=3))
    assert often == dataclasses.replace(once, test_ids=3 * once.test_ids, distractor_ids=3 * once.distractor_ids)


@pytest.mark.parametrize("domain", CATALOGUE)
def test_every_published_set_has_a_stand_in(domain: str) -> None:
    stage = Setting("smoke", weights="scratch").resolve(supervised.Train(Domain(domain)))
    assert stage.domain == StandIn(domain, stand_in_size(domain, SCALES["smoke"]))  # type: ignore[attr-defined]


def test_training_of_the_weights_is_kept_at_every_scale() -> None:
    start = supervised.Train(Domain("duke"), seed=3)
    for name in SCALES:
        stage: supervised.Train = rewrite(
            supervised.Train(Domain("market"), weights=start), by_role=at_scale(SCALES[name])
        )
        assert isinstance(stage.weights, supervised.Train)
        assert stage.weights.epochs == stage.epochs, "and is at that scale itself"
