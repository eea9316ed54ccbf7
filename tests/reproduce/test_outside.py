"""The outside package `tests/importable/toy_reid` works without changes to this project."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import run, source
from toy_reid.guest import Remember
from toy_reid.images import Darker
from toy_reid.method import TwoBranches

from methods import msplr
from methods.classify import SHIPPED
from reproduce.clustering import KMeans
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.session.setting import Setting

ROOT = Path(__file__).parents[2]


def tiny(**changes: Any) -> TwoBranches:
    """Make the toy method on the tiny domain."""
    images = Darker(Domain("market"))
    stage = TwoBranches(
        replace(source(), domain=images, backbone="narrow"),
        images,
        Domain("duke"),
        Remember(groups=3),
        P=4,
        width=16,
        epochs=4,
        iterations=3,
        augment=Augment(pad=2),
        input=(32, 16),
    )
    return replace(stage, **changes)


@pytest.mark.parametrize(("epoch", "later"), [(2, 0.0), (3, 0.05)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    """Its state has two optimisers in a dict, a memory, the guest's memory and labels, and dropout."""
    killed_equals_uncut(setting.resolve(tiny()), setting.paths(), epoch, later)


def test_other_trainings_continue_it_and_start_from_its_backbone(setting: Setting, tmp_path: Path) -> None:
    toy = tiny(epochs=1)
    adapted = msplr.Adapt(
        toy,
        Domain("duke"),
        KMeans(k=4),
        steps=1,
        frozen=1,
        epochs=1,
        warmup=0,
        P=4,
        input=(32, 16),
        augment=Augment(pad=2),
    )
    left = run(toy, setting, tmp_path).checkpoints["last"]
    after = run(adapted, setting, tmp_path).checkpoints["last"]
    assert {f"body.{name}" for name in after} == {name for name in left if name.startswith("body.")}
    assert not torch.equal(after["neck.weight"], left["body.neck.weight"])
    resolved = setting.resolve(replace(source(), weights=toy, backbone="narrow"))
    assert setting.identity([resolved]).weights == "scratch, those of method.TwoBranches"
    with pytest.raises(UserError, match="has no view 'other'; it has own"):
        toy.at_moment(run(toy, setting, tmp_path), "last", "other")


def test_its_suite_runs_like_ours(tmp_path: Path) -> None:
    """Its cases are collected, run on drawn domains, and distinguished by their data."""
    info = tmp_path / "site" / "toy_reid-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-reid\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[reproduce.suites]\ntoy = toy_reid.suites\n")
    (tmp_path / "suites").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    places = [tmp_path / "site", ROOT / "tests" / "importable", ROOT, os.environ.get("PYTHONPATH", "")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "REID_DATA"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "suites/", "-k", "toy", "--scale", "smoke", "--gpus", "0", "-p", "no:xdist"],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout, "four rows, three points, a claim in two worlds"
    out = tmp_path / "build"
    by_cell = {(it.case.row, it.case.point and it.case.point.value): it for it in records.read(out / "results")}
    again, own, shared, direct = (by_cell[row, None] for row in ("again", "own", "shared", "direct"))
    for result in (again, own, shared):
        assert {name: entry["kind"] for name, entry in result.identity.data.items()} == {
            "duke": "stand-in",
            "images.Darker": "made",
            "market": "stand-in",
        }
        assert "images made by images.Darker" in result.reasons
    assert own.measured["1"]["mAP"] != shared.measured["1"]["mAP"]
    assert again.identity.weights == f"drawn objects {SHIPPED['narrow'][:12]}, those of method.TwoBranches"
    assert "From nothing, since there is no paper." in shared.deviations
    assert "a row that the paper quotes, run here for reference" in direct.reasons
    points = {value: by_cell["shared", value] for value in (0.5, 0.9, 0.99)}
    assert points[0.9].measured == shared.measured, "the value of the row is the row, and runs once"
    assert points[0.5].measured != points[0.99].measured
    assert {claim.claim.id for claim in records.read_claims(out / "claims")} == {"better-than-direct"}
    page = (out / "report" / "toy.html").read_text()
    assert "Own branch" in page
    assert "share that a class mean keeps (the grid is ours)" in page
    assert page.count("by kept; : ") == 0
    assert "mAP by kept" in page
