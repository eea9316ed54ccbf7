from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from methods import supervised
from reproduce.data.domains import PUBLISHED, Domain, Real, describe, read
from reproduce.data.standins import StandIn
from reproduce.evaluation import Evaluate
from reproduce.setting import Blocked, Setting

CASE = Evaluate(supervised.Train(Domain("market")), on=Domain("duke"))


def test_stand_ins_by_default() -> None:
    setting = Setting("smoke", world_seed=3)
    stage = setting.resolve(CASE)
    assert isinstance(stage, Evaluate)
    assert isinstance(stage.on, StandIn)
    assert (stage.on.domain, stage.on.seed) == ("duke", 3)
    identity = setting.identity([stage])
    assert identity["data"]["market"] | {"size": None, "dials": None} == {
        "kind": "stand-in",
        "world": StandIn.version,
        "seed": 3,
        "size": None,
        "dials": None,
    }
    assert (identity["weights"], identity["scale"], identity["selection"]) == ("scratch", "smoke", "last")


def test_the_key_does_not_depend_on_where_a_folder_is(tiny_domain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_domain, copy)
    folders = [{"market": folder, "duke": folder} for folder in (tiny_domain, copy)]
    keys = {Setting("smoke", folder).resolve(CASE).key for folder in folders}
    assert len(keys) == 1
    (copy / "query" / "0011_c1s1_000000_00.png").write_bytes((copy / "query" / "0012_c1s1_000000_00.png").read_bytes())
    assert Setting("smoke", folders[1]).resolve(CASE).key not in keys


def test_a_folder_is_real_only_with_the_published_counts(tiny_domain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("smoke", {"market": tiny_domain, "duke": tiny_domain}, subset=2)
    stage = setting.resolve(CASE)
    assert isinstance(stage, Evaluate)
    assert isinstance(stage.on, Real)
    assert stage.on.subset == 2
    assert setting.identity([stage])["data"]["market"]["kind"] == "folder"
    published = {**PUBLISHED, "market": describe(read(tiny_domain, "market"))}
    monkeypatch.setattr("reproduce.setting.PUBLISHED", published)
    again = Setting("smoke", {"market": tiny_domain, "duke": tiny_domain})
    assert again.identity([again.resolve(CASE)])["data"]["market"]["kind"] == "real"
    assert again.identity([again.resolve(CASE)])["data"]["duke"]["kind"] == "folder"


def test_drawn_and_real_data_are_never_mixed(tiny_domain: Path) -> None:
    with pytest.raises(Blocked, match="add --domain duke=DIR") as blocked:
        Setting("smoke", {"market": tiny_domain}).resolve(CASE)
    assert blocked.value.want == "data"


def test_weights(tmp_path: Path) -> None:
    with pytest.raises(Blocked, match=r"give --weights DIR, or --weights scratch") as blocked:
        Setting("paper").resolve(CASE)
    assert blocked.value.want == "weights"
    scratch = Setting("paper", weights="scratch").resolve(CASE)
    assert isinstance(scratch, Evaluate)
    assert scratch.train.weights is None  # type: ignore[attr-defined]
    (tmp_path / "resnet50_ibn_a-d9d0bb7b.pth").write_bytes(b"other")
    with pytest.raises(Blocked, match="holds no file named resnet50-"):
        Setting("paper", weights=str(tmp_path)).resolve(CASE)
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"weights")
    setting = Setting("paper", weights=str(tmp_path))
    found = setting.resolve(CASE)
    assert isinstance(found, Evaluate)
    sha256 = found.train.weights  # type: ignore[attr-defined]
    assert setting.weight_files()[sha256] == (tmp_path / "resnet50-0676ba61.pth").resolve()
    assert setting.identity([found])["weights"] == sha256
    (tmp_path / "resnet50.safetensors").write_bytes(b"more")
    with pytest.raises(Blocked, match="holds 2 files"):
        setting.resolve(CASE)


def test_scales_differ_in_their_keys_and_seeds_do_not_move_the_identity() -> None:
    keys = {
        Setting(scale, weights="scratch").resolve(CASE).key for scale in ("smoke", "small", "medium", "trial", "paper")
    }
    assert len(keys) == 5
    setting = Setting("smoke")
    seeds = [setting.resolve(replace(CASE, train=replace(CASE.train, seed=seed))) for seed in (1, 2)]
    assert setting.identity(seeds[:1]) == setting.identity(seeds[1:])
