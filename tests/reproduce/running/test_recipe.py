"""The digest of a recipe: what changes it, what does not, and that records tell it of themselves."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import made
import pytest
from msgspec import structs

from methods import mmt, msplr, sptd, supervised
from reproduce import scales
from reproduce.clustering import DBSCAN, KMeans
from reproduce.commands.cli import main
from reproduce.data.domains import Domain
from reproduce.data.manifests import former_digest
from reproduce.data.reading import read
from reproduce.evaluation import Evaluate, Rerank
from reproduce.papers import records
from reproduce.papers.records import StageEntry
from reproduce.running.recipe import digest, digest_of_record
from reproduce.session.setting import Setting
from reproduce.stage import Stage, added, closure, full_spec

SMALL = Setting("small", weights="scratch")


def row(seed: int = 1, **changes: Any) -> Evaluate:
    train = supervised.Train(Domain("market"), seed=seed, **changes)
    return Evaluate(msplr.Adapt(train, Domain("duke"), DBSCAN(0.4), seed=seed), on=Domain("duke"))


def recipe(stage: Stage[Any], setting: Setting = SMALL) -> str:
    return setting.identity([setting.resolve(stage)]).recipe


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
    assert before.recipe != after.recipe
    assert before.setting == after.setting


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


def stages_of(stage: Stage[Any]) -> list[StageEntry]:
    """What a record keeps of a stage and all upstream."""
    return [made.stage(each.key, spec=json.loads(json.dumps(full_spec(each)))) for each in closure([stage])]


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
    assert digest_of_record({each.key: each.spec for each in stages_of(resolved)}) == SMALL.identity([resolved]).recipe


def test_records_of_earlier_versions_are_carried_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resolved = SMALL.resolve(row())
    identity = SMALL.identity([resolved])
    older = structs.replace(identity, recipe="")
    old = records.write(made.result(1.0, identity=older, stages=stages_of(resolved)), tmp_path)
    assert main(["results", "--migrate", "--into", str(tmp_path)]) == 0
    (kept,) = records.read(tmp_path)
    assert kept.identity == identity
    assert not old.exists()
    assert "1 record carried over" in capsys.readouterr().out
    assert main(["results", "--migrate", "--into", str(tmp_path)]) == 0
    assert "0 records carried over" in capsys.readouterr().out
    records.write(made.result(1.0, identity=older, stages=stages_of(resolved)[1:]), tmp_path / "broken")
    assert main(["results", "--migrate", "--into", str(tmp_path / "broken")]) == 2
    assert "that it does not keep" in capsys.readouterr().err


def test_a_result_takes_the_place_of_one_by_an_older_recipe(tmp_path: Path) -> None:
    for recipe in ("", "a", "b"):
        records.write(made.result(1.0, identity=made.identity(recipe=recipe)), tmp_path)
    other = records.write(made.result(1.0, identity=made.identity(recipe="b", subset=3)), tmp_path)
    assert [result.identity.recipe for result in records.read(tmp_path)] == ["b", "b"]
    assert other.exists(), "another setting is another result"


def test_records_on_real_data_are_carried_over_with_the_data(tmp_path: Path, tiny_domain: Path) -> None:
    """The fingerprint of a data set has changed its meaning; whoever has the data can have it translated."""
    setting = Setting("small", {"market": tiny_domain}, weights="scratch")
    resolved = setting.resolve(Evaluate(supervised.Train(Domain("market")), on=Domain("market")))
    identity = setting.identity([resolved])
    now = identity.data["market"]["digest"]
    before = former_digest(read(tiny_domain, "market"))
    assert before != now
    data = {"market": {**identity.data["market"], "digest": before}}
    older = structs.replace(identity, data=data, recipe="")
    records.write(made.result(1.0, identity=older, stages=stages_of(resolved)), tmp_path)
    words = ["results", "--migrate", "--into", str(tmp_path), "--domain", f"market={tiny_domain}"]
    assert main(words) == 0
    (kept,) = records.read(tmp_path)
    assert kept.identity == identity
