from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import history, run, source, tiny, trainings
from torch import nn

from methods import msplr
from methods.blocks.backbones import build as backbone
from methods.blocks.heads import Output, ReID, in_precision
from methods.blocks.norm import group_batch_norm
from methods.blocks.precision import dtype_of
from reproduce.clustering import DBSCAN, Rho
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate, Trained
from reproduce.session.setting import Setting

TRAININGS = {tiny(kind).name: tiny(kind) for kind in trainings()}


SHORT: dict[str, Any] = {"P": 2, "K": 2, "input": (32, 16), "augment": Augment(pad=2), "epochs": 1}


def net(precision: str, group: int | None = None) -> ReID:
    made = ReID(backbone("narrow_ibn_a", last_stride=1, stem_relu=True, seed=1, weights=None), 5, seed=1)
    return in_precision(group_batch_norm(made, group), precision)


def images(count: int = 8, width: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, 2 * width, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", trainings(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_training_has_a_precision(kind: type[Trained]) -> None:
    field = next(field for field in fields(kind) if field.name == "precision")  # type: ignore[arg-type]
    assert (field.default, field.metadata) == ("float32", {"role": "precision"})


def test_mixed_precision_runs_only_the_backbone_in_bfloat16() -> None:
    mixed = net("mixed")
    seen = set()
    for layer in mixed.backbone.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *call: seen.add(call[-1].dtype))
    given = mixed.train()(images())
    assert seen == {torch.bfloat16}
    assert isinstance(given, Output)
    assert {part.dtype for part in given} == {torch.float32}
    assert {tensor.dtype for tensor in mixed.state_dict().values()} == {torch.float32, torch.int64}
    assert mixed.eval()(images()).dtype == torch.float32


@pytest.mark.parametrize("width", [4, 8, 16])
def test_mixed_maps_of_narrow_images_are_those_of_float32(width: int) -> None:
    """Some processors' bfloat16 convolutions return what an earlier tensor left, where maps get one column wide."""
    given, mixed = (backbone("narrow", last_stride=2, seed=1).train() for _ in range(2))
    want = given(images(32, width)).detach()
    for size in range(6, 20):
        torch.full((2**size,), torch.nan)
    with torch.autocast("cpu", torch.bfloat16):
        got = mixed(images(32, width)).detach().float()
    assert float((got - want).norm() / want.norm()) < 0.1


@pytest.mark.parametrize("group", [None, 4])
def test_gradients_are_close_to_float64(group: int | None) -> None:
    gradients = {}
    for precision in ("float64", "float32", "mixed"):
        given = net(precision, group).train()
        logits = given(images().to(dtype_of(precision))).logits
        torch.nn.functional.cross_entropy(logits, torch.arange(8) % 5).backward()
        gradients[precision] = torch.cat(
            [weight.grad.double().flatten() for weight in given.parameters() if weight.grad is not None]
        )
        running = given.neck.running_mean
        assert running is not None
        assert running.dtype == dtype_of(precision)

    def error(precision: str) -> float:
        return float((gradients[precision] - gradients["float64"]).norm() / gradients["float64"].norm())

    assert error("float32") < 1e-4 < error("mixed") < 0.1


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_follow_the_precision_field(name: str, setting: Setting, tmp_path: Path) -> None:
    """Mixed losses differ from float32, are close to it without clustering, and evaluation is mixed as well."""
    plain, mixed = TRAININGS[name], replace(TRAININGS[name], precision="mixed")  # type: ignore[type-var]
    assert plain.key != mixed.key
    losses = [
        history(stage, setting, tmp_path)[-1]["loss"] for stage in (plain, mixed) if run(stage, setting, tmp_path)
    ]
    assert losses[0] != losses[1]
    if plain.steady:
        assert losses[1] == pytest.approx(losses[0], rel=0.05)
    restored: Any = mixed.embedder(run(mixed, setting, tmp_path), "last")
    assert restored.mixed
    assert run(Evaluate(mixed, Domain("duke")), setting, tmp_path).mAP > 0


def test_mixed_adaptation_starts_from_any_source(setting: Setting, tmp_path: Path) -> None:
    stage = msplr.Adapt(
        source(), Domain("duke"), DBSCAN(Rho()), steps=1, frozen=1, precision="mixed", select=False, **SHORT
    )
    assert stage.init.precision != stage.precision
    assert set(run(stage, setting, tmp_path).checkpoints) >= {"last"}


@pytest.mark.parametrize("name", [name for name, stage in TRAININGS.items() if stage.steady])
def test_killed_equals_uncut(name: str, setting: Setting, killed_equals_uncut: Callable[..., None]) -> None:
    stage = replace(TRAININGS[name], precision="mixed", epochs=3)  # type: ignore[call-overload]
    killed_equals_uncut(setting.resolve(stage), setting.paths(), 2, 0.0)


def test_unknown_precision_raises(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown precision 'float16': choose one of float32, mixed, float64"):
        run(source(precision="float16"), setting, tmp_path)
