"""Classifying drawn objects, and the shipped weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from runs import history, run
from safetensors.torch import load_file

from methods import classify, supervised
from methods.blocks.backbones import build
from methods.blocks.heads import ReID
from methods.classify import SHIPPED, UNSEEN, Classify, accuracy, nearest_mean, start
from methods.weights import __main__ as training
from reproduce import weights
from reproduce.data.domains import Domain
from reproduce.data.objects import Objects
from reproduce.evaluation import Evaluate
from reproduce.running.runner import Site, Store
from reproduce.scales import SCALES, STEMS, at_scale
from reproduce.session.setting import Setting
from reproduce.stage import closure, full_spec, rewrite

GOLDEN = [1.386185548223047, 1.38413552677279, 1.3457745263298644]
"""Losses of three epochs of one iteration in float64."""

FOUR = Objects(kinds=4, images=8, held_out=5, side=24)


def tiny(**changes: Any) -> Classify:
    return replace(Classify(FOUR, backbone="narrow", input=(24, 24), batch=32, epochs=2), **changes)


def weights_of(stage: Classify, setting: Setting, root: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = run(stage, setting, root).checkpoints["last"]
    return weights


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(precision="float64", epochs=3)
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


def test_two_builds_have_equal_bits(setting: Setting, tmp_path: Path) -> None:
    first, second = (weights_of(tiny(), setting, tmp_path / name) for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = weights_of(tiny(seed=2), setting, tmp_path / "one")
    assert not torch.equal(first["backbone.layer4.0.conv1.weight"], other["backbone.layer4.0.conv1.weight"])


@pytest.mark.parametrize(("epoch", "later"), [(1, 0.01), (2, 0.0), (3, 0.01)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    killed_equals_uncut(setting.resolve(tiny(batch=16, epochs=4)), setting.paths(), epoch, later)


def test_loss_falls_and_accuracy_rises(setting: Setting, tmp_path: Path) -> None:
    """Most held-out pictures are classified correctly; guessing gives 12.5 %."""
    stage = tiny(domain=replace(FOUR, kinds=8, images=40, held_out=10), batch=32, epochs=8)
    facts = run(stage, setting, tmp_path).facts
    assert facts["classes"] == 8
    assert facts["accuracy"] > 60
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses[-1] < 0.6 * losses[0]
    net = stage.embedder(run(stage, setting, tmp_path), "last")
    assert facts["accuracy"] == accuracy_slowly(net, stage, tmp_path)


def accuracy_slowly(net: Any, stage: Classify, root: Path) -> float:
    """Compute the accuracy on the held-out files, one image at a time."""
    import numpy as np
    import PIL.Image

    from reproduce.data.transforms import normalise

    data = stage.domain.open(SimpleNamespace(get=Store(root).load))
    right = 0
    for image in data.gallery:
        pixels = torch.from_numpy(np.array(PIL.Image.open(data.root / image.path))).permute(2, 0, 1)[None]
        with torch.inference_mode():
            right += int(net.classifier(net(normalise(pixels))).argmax()) == image.pid - 1
    return 100 * right / len(data.gallery)


def test_accuracy_counts_every_image_once() -> None:
    """Images of the last, incomplete batch count as well."""

    class Tell(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = torch.nn.Linear(2, 2, bias=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))[:, :2]

    net: Any = Tell()
    net.classifier.weight.data = torch.eye(2)
    first = torch.arange(300) % 3 > 0  # which of two channels is the brighter one
    pixels = torch.zeros(300, 3, 4, 4, dtype=torch.uint8)
    pixels[first, 0], pixels[~first, 1] = 255, 255
    batches = SimpleNamespace(batches=lambda asked: (pixels[list(batch)] for batch in asked))
    images: Any = type("Some", (SimpleNamespace,), {"__len__": lambda _: 300})(**vars(batches))
    assert accuracy(net, images, (~first).long()) == 100
    assert accuracy(net, images, torch.zeros(300, dtype=torch.long)) == pytest.approx(200 / 3)


def test_network_has_no_neck(setting: Setting, tmp_path: Path) -> None:
    net = tiny().embedder(run(tiny(epochs=1), setting, tmp_path), "last")
    assert isinstance(net, ReID)
    assert isinstance(net.neck, torch.nn.Identity)
    assert net.backbone(torch.zeros(1, 3, 24, 24)).shape == (1, 128, 3, 3), "the last layer has stride 2"


def test_other_trainings_start_from_its_backbone(setting: Setting, tmp_path: Path) -> None:
    """Full-size nets do this at scale medium."""
    first = tiny(epochs=1)
    train = supervised.Train(
        Domain("market"), weights=first, backbone="narrow", input=(32, 16), P=6, epochs=1, eval_every=1, lr=0.0
    )
    left, taken = weights_of(first, setting, tmp_path), run(train, setting, tmp_path).checkpoints["last"]
    assert torch.equal(left["backbone.conv1.weight"], taken["backbone.conv1.weight"])
    assert first.key in {stage.key for stage in closure([setting.resolve(Evaluate(train, Domain("market")))])}


# -- what is shipped ---------------------------------------------------------------------------------------------------


def note(net: str) -> dict[str, Any]:
    path: Any = start(net)[0]  # type: ignore[index]
    content: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return content


def shipped(net: str) -> Any:
    """Build a backbone with its shipped weights."""
    recipe = Classify()
    file: Any = start(net)
    return build(net, seed=1, last_stride=recipe.last_stride, stem_relu=recipe.stem_relu, weights=file[0])


def test_only_narrow_nets_have_shipped_weights() -> None:
    assert set(SHIPPED) == set(STEMS.values())
    for net in STEMS:
        assert start(net) == Classify(backbone=net)


@pytest.mark.parametrize("net", SHIPPED)
def test_shipped_files_have_the_listed_digests(net: str) -> None:
    path, sha256 = start(net)  # type: ignore[misc]
    assert path == Path(classify.__file__).parent / "weights" / f"{net}-objects.safetensors"
    assert weights.sha256(path) == sha256 == SHIPPED[net]


@pytest.mark.parametrize("net", SHIPPED)
def test_shipped_weights_fit_their_net_alone(net: str) -> None:
    path: Any = start(net)[0]  # type: ignore[index]
    tensors, loaded = load_file(path), shipped(net).state_dict()
    assert tensors.keys() == {name for name in loaded if "num_batches" not in name}
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert torch.isfinite(tensor).all()
    other = next(name for name in SHIPPED if name != net)
    with pytest.raises(Exception, match=f"does not hold the weights of {other}"):
        build(other, seed=1, weights=path)


@pytest.mark.parametrize("asked", [None, "scratch"])
def test_trainings_at_smaller_scales_start_from_shipped_weights(
    asked: str | None, tiny_domain: Path, tmp_path: Path
) -> None:
    """Check from the setting to the network, which keeps its initial weights at a rate of 0."""
    setting = Setting("smoke", {"market": tiny_domain}, weights=asked)
    left = run(supervised.Train(Domain("market"), lr=0.0), setting, tmp_path).checkpoints["last"]
    path: Any = start("narrow")[0]  # type: ignore[index]
    same = [torch.equal(left[f"backbone.{name}"], tensor) for name, tensor in load_file(path).items() if "conv" in name]
    assert all(same) if asked is None else not any(same)


@pytest.mark.parametrize("net", SHIPPED)
def test_shipped_weights_separate_unseen_kinds(net: str) -> None:
    assert not set(UNSEEN) & set(range(Objects().kinds))
    assert nearest_mean(shipped(net)) > 80
    assert nearest_mean(build(net, seed=1, last_stride=2)) < 40, "an untrained net cannot"


@pytest.mark.parametrize("net", SHIPPED)
def test_shipped_weights_match_their_note(net: str) -> None:
    """Other rounding may change the class of two pictures in two hundred."""
    content = note(net)
    assert content["sha256"] == SHIPPED[net]
    assert nearest_mean(shipped(net)) == pytest.approx(content["nearest_mean"], abs=1.0)
    assert content["accuracy"] > 90, "of a hundred kinds"


@pytest.mark.parametrize(("backbone", "net"), STEMS.items())
def test_shipped_weights_match_the_current_recipe(backbone: str, net: str) -> None:
    """If a field or a version has changed, retrain them: `python -m methods.weights`."""
    train = rewrite(Classify(backbone=backbone), by_role=at_scale(SCALES["small"]))
    assert note(net)["stages"] == [full_spec(stage) for stage in closure([train])]


# -- python -m methods.weights -----------------------------------------------------------------------------------------


def test_written_weights_equal_the_trained_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tiny(epochs=1)
    path = training.write(train, tmp_path, Site(tmp_path / "store"))
    assert path == tmp_path / "narrow-objects.safetensors"
    kept, store = load_file(path), Store(tmp_path / "store")
    left = store.load(train)
    assert all(torch.equal(tensor, left.checkpoints["last"][f"backbone.{name}"]) for name, tensor in kept.items())
    content = json.loads(path.with_suffix(".json").read_text())
    assert content.keys() == {"sha256", "accuracy", "nearest_mean", "stages", "provenance"}
    assert content["sha256"] == weights.sha256(path)
    assert content["accuracy"] == left.facts["accuracy"]
    assert content["nearest_mean"] == nearest_mean(build("narrow", seed=9, last_stride=2, weights=path))
    assert content["stages"] == [full_spec(stage) for stage in (FOUR, train)]
    assert content["provenance"] == msgspec.to_builtins(store.described(train).provenance)
    assert "narrow: epoch 1 of 1, loss" in capsys.readouterr().out

    setting = Setting("small", weights=str(tmp_path))
    case: Any = setting.resolve(Evaluate(supervised.Train(Domain("market")), on=Domain("duke")))
    assert setting.files[case.train.weights] == path, "--weights finds it there"


def test_command_trains_the_weights_of_scale_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Classify, Path]] = []
    monkeypatch.setattr(training, "write", lambda train, folder, site: asked.append((train, folder)))
    monkeypatch.setattr(sys, "argv", ["methods.weights", str(tmp_path / "new")])
    training.main()
    trains = [replace(Classify(Objects(side=48)), backbone=net, input=(48, 48)) for net in STEMS.values()]
    assert asked == [(train, tmp_path / "new") for train in trains]
    assert (tmp_path / "new").is_dir()
