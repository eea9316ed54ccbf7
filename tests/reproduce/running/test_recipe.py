"""The digest of a recipe: what changes it, what does not, and that records tell it of themselves."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from methods import mmt, msplr, sptd, supervised
from reproduce import scales
from reproduce.clustering import DBSCAN, KMeans
from reproduce.commands.cli import main
from reproduce.data.domains import Domain
from reproduce.data.manifests import former_digest
from reproduce.data.reading import read
from reproduce.evaluation import Evaluate, Rerank
from reproduce.papers import results
from reproduce.running.recipe import digest, digest_of_record
from reproduce.session.setting import Setting
from reproduce.stage import Stage, added, closure, full_spec

SMALL = Setting("small", weights="scratch")


def row(seed: int = 1, **changes: Any) -> Evaluate:
    train = supervised.Train(Domain("market"), seed=seed, **changes)
    return Evaluate(msplr.Adapt(train, Domain("duke"), DBSCAN(0.4), seed=seed), on=Domain("duke"))


def recipe(stage: Stage[Any], setting: Setting = SMALL) -> str:
    return str(setting.identity([setting.resolve(stage)])["recipe"])


def test_seeds_and_data_are_no_part_of_a_recipe() -> None:
    assert recipe(row()) == recipe(row(seed=3)) == recipe(row(), Setting("small", world_seed=2, weights="scratch"))


def test_every_field_and_version_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        recipe(stage)
        for stage in (
            row(),
            row(P=8),
            replace(row(), rerank=Rerank()),
            replace(row(), at="step 2"),
            replace(row(), flip=True),
        )
    }
    assert len(found) == 5
    before = recipe(row())
    monkeypatch.setattr(supervised.Train, "version", 99)
    assert recipe(row()) != before


def test_what_a_scale_does_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is not enough: old results stand for what the scale did then."""
    stage = row()
    before = SMALL.identity([SMALL.resolve(stage)])
    small = scales.SCALES["small"]
    monkeypatch.setitem(scales.SCALES, "small", dataclasses.replace(small, shorten=small.shorten / 2))
    after = SMALL.identity([SMALL.resolve(stage)])
    assert before["recipe"] != after["recipe"]
    assert results.setting_of({"identity": before}) == results.setting_of({"identity": after})


@dataclass(frozen=True)
class Before(Stage[Any]):
    type_name: ClassVar[str] = "x.Grows"
    rate: float = 0.1


def test_a_field_that_was_added_changes_nothing_at_the_value_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    old = digest([Before()])
    monkeypatch.setattr("reproduce.stage._NAMED", {})

    @dataclass(frozen=True)
    class Grown(Stage[Any]):
        type_name: ClassVar[str] = "x.Grows"
        rate: float = 0.1
        view: str = added("")

    assert digest([Grown()]) == old != digest([Grown(view="x")])


def record(stage: Stage[Any]) -> dict[str, Any]:
    """A result as far as its recipe goes."""
    stages = [{"key": each.key, "spec": full_spec(each)} for each in closure([stage])]
    return {"stages": json.loads(json.dumps(stages))}


@pytest.mark.parametrize(
    "stage",
    [
        row(),
        Evaluate(supervised.Train(Domain("duke")), on=Domain("duke"), rerank=Rerank()),
        Evaluate(
            mmt.Adapt(
                tuple(sptd.Pretrain(Domain("market"), Domain("duke"), seed=seed) for seed in (3, 4)),
                Domain("duke"),
                KMeans(k=50),
                seed=2,
            ),
            on=Domain("duke"),
            at="best on target",
        ),
    ],
)
def test_a_record_tells_its_recipe(stage: Stage[Any]) -> None:
    resolved = SMALL.resolve(stage)
    assert digest_of_record(record(resolved)) == SMALL.identity([resolved])["recipe"]


def test_records_of_earlier_versions_are_carried_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resolved = SMALL.resolve(row())
    identity = SMALL.identity([resolved])
    case = {"paper": "p", "table": "1", "row": "a", "label": "A", "column": "m2d", "task": "m2d"}
    told = {"format": 1, "case": case, "verdict": "not comparable", "measured": {"1": {"mAP": 1.0}}, **record(resolved)}
    old = results.write({**told, "identity": results.setting_of({"identity": identity})}, tmp_path)
    assert main(["results", "--migrate", "--into", str(tmp_path)]) == 0
    (kept,) = results.read(tmp_path)
    assert kept["identity"] == identity
    assert not old.exists()
    assert "1 record carried over" in capsys.readouterr().out
    assert main(["results", "--migrate", "--into", str(tmp_path)]) == 0
    assert "0 records carried over" in capsys.readouterr().out
    broken = {**told, "identity": results.setting_of({"identity": identity}), "stages": told["stages"][1:]}
    results.write(broken, tmp_path / "broken")
    assert main(["results", "--migrate", "--into", str(tmp_path / "broken")]) == 2
    assert "that it does not keep" in capsys.readouterr().err


def test_a_result_takes_the_place_of_one_by_an_older_recipe(tmp_path: Path) -> None:
    case = {"paper": "p", "table": "1", "row": "a", "label": "A", "column": "m2d", "task": "m2d"}
    told = {"format": 1, "case": case, "verdict": "not comparable", "measured": {"1": {"mAP": 1.0}}}
    identity = {"scale": "small", "data": {}}
    for changes in ({}, {"recipe": "a"}, {"recipe": "b"}):
        results.write({**told, "identity": {**identity, **changes}}, tmp_path)
    other = results.write({**told, "identity": {**identity, "recipe": "b", "subset": 3}}, tmp_path)
    assert sorted(found["identity"].get("recipe") for found in results.read(tmp_path)) == ["b", "b"]
    assert other.exists(), "another setting is another result"


def test_records_on_real_data_are_carried_over_with_the_data(tmp_path: Path, tiny_domain: Path) -> None:
    """The fingerprint of a data set has changed its meaning; whoever has the data can have it translated."""
    setting = Setting("small", {"market": tiny_domain}, weights="scratch")
    resolved = setting.resolve(Evaluate(supervised.Train(Domain("market")), on=Domain("market")))
    identity = setting.identity([resolved])
    now = identity["data"]["market"]["digest"]
    before = former_digest(read(tiny_domain, "market"))
    assert before != now
    case = {"paper": "p", "table": "1", "row": "a", "label": "A", "column": "m2m", "task": "m2m"}
    told = {"format": 1, "case": case, "verdict": "not comparable", "measured": {"1": {"mAP": 1.0}}, **record(resolved)}
    old = json.loads(json.dumps(results.setting_of({"identity": identity})).replace(now, before))
    results.write({**told, "identity": old}, tmp_path)
    words = ["results", "--migrate", "--into", str(tmp_path), "--domain", f"market={tiny_domain}"]
    assert main(words) == 0
    (kept,) = results.read(tmp_path)
    assert kept["identity"] == identity
