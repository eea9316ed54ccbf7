from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import declared
import numpy as np
import PIL.Image
import pytest
from demo_sources import Corridor, Mirror, Mix, Pooled, Stray
from demo_stages import Untrained
from runs import run

from methods import msplr, supervised
from reproduce.clustering import DBSCAN, Tuned
from reproduce.data.domains import Domain, Real
from reproduce.data.manifests import digest
from reproduce.data.reading import describe, read
from reproduce.data.sources import sources
from reproduce.data.standins import StandIn
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate
from reproduce.figures import Network, RankLists
from reproduce.papers.cases import World
from reproduce.papers.verdicts import reasons_against
from reproduce.running.runner import Store
from reproduce.session.setting import Blocked, Setting
from reproduce.stage import closure

BOTH = (Domain("market"), Domain("duke"))


@dataclass(frozen=True)
class Holder:
    inside: Any


@pytest.fixture
def on_folders(tiny_domain: Path, tmp_path: Path) -> Setting:
    other = shutil.copytree(tiny_domain, tmp_path / "other")
    (other / "bounding_box_train" / "0001_c1s1_000000_01.png").unlink()
    return Setting("smoke", {"market": tiny_domain, "duke": other})


@pytest.mark.parametrize("domains", [BOTH, (BOTH,), Holder(BOTH), (Holder((Holder(BOTH[0]),)), BOTH[1])])
def test_domains_at_any_depth_have_separate_entries(domains: Any, on_folders: Setting) -> None:
    for setting, kind in ((Setting("smoke"), "stand-in"), (on_folders, "folder")):
        stage = setting.resolve(Pooled(domains))
        data = setting.identity([stage]).data
        assert {name: entry["kind"] for name, entry in data.items()} == {"market": kind, "duke": kind}
        assert len(sources([stage])) == 2


def test_unchecked_folder_in_a_tuple_is_not_published(tiny_domain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = describe(read(tiny_domain, "market"))
    declared.holding(monkeypatch, market=counts)
    setting = Setting("paper", dict.fromkeys(("market", "duke"), tiny_domain), weights="scratch")

    def resolved(*domains: Domain) -> Any:
        return setting.resolve(msplr.Adapt(Pooled(domains), Domain("market"), DBSCAN(Tuned(0.42))))  # type: ignore[arg-type]

    assert resolved(BOTH[0]).cluster.eps == 0.42
    mixed = resolved(*BOTH)
    assert mixed.cluster.eps == Tuned(0.42).elsewhere
    assert "a folder that was not checked" in reasons_against(setting.identity([mixed]))[0]


def test_sources_with_equal_names_have_separate_entries(on_folders: Setting) -> None:
    stage = on_folders.resolve(Pooled((Mix(BOTH[:1]), *BOTH)))
    data = on_folders.identity([stage]).data
    assert sorted((name.partition(" ")[0], entry["kind"]) for name, entry in data.items()) == [
        ("duke", "folder"),
        ("market", "folder"),
        ("market", "outside"),
    ]
    other_way = on_folders.resolve(Pooled((*BOTH, Mix(BOTH[:1]))))
    settings = [on_folders.identity([each]).setting for each in (stage, other_way)]
    assert json.dumps(settings[0]) == json.dumps(settings[1]), "in whatever order they are named"


def test_variants_have_separate_entries() -> None:
    whole, part = (Real("msmt17", "d", variant=variant) for variant in ("train+val", "train"))
    assert (whole.label, part.label) == ("msmt17", "msmt17 train")
    data = Setting("smoke").identity([Pooled((whole, part))]).data
    assert {name: entry["variant"] for name, entry in data.items()} == {"msmt17": "train+val", "msmt17 train": "train"}
    assert {entry["kind"] for entry in data.values()} == {"folder"}, "nobody has checked them"


def test_made_images_keep_their_labels(on_folders: Setting, tiny_domain: Path, tmp_path: Path) -> None:
    mirror = Mirror(Domain("market"))
    stage, store = Pooled((mirror, Domain("market"))), Store(tmp_path / "store")
    assert run(stage, on_folders, store.root).mAP == 72
    original, mirrored = (
        read(root, "market")
        for root in (tiny_domain, store.load(on_folders.resolve(mirror)).path)  # type: ignore[attr-defined]
    )
    assert mirrored.train == original.train, "names, identities and cameras"
    left, right = (np.asarray(PIL.Image.open(data.root / data.train[0].path)) for data in (original, mirrored))
    assert np.array_equal(left[:, ::-1], right)
    seen = store.described(on_folders.resolve(stage)).provenance.data
    assert seen == {"demo_sources.Mirror": digest(mirrored), "market": digest(original)}


def test_identity_names_the_stage_and_sources_of_made_images(on_folders: Setting) -> None:
    stages = [on_folders.resolve(Pooled((Mirror(Domain("market"), seed),), seed)) for seed in (1, 2)]
    identity = on_folders.identity(stages)
    assert identity.data.keys() == {"demo_sources.Mirror", "market"}
    assert identity.data["demo_sources.Mirror"] == {"kind": "made", "by": "demo_sources.Mirror", "version": 1}
    assert identity == on_folders.identity(stages[:1]), "training seeds are no part of it"
    assert "images made by demo_sources.Mirror" in reasons_against(identity)


def test_outside_set_is_identified_by_its_fields() -> None:
    setting = Setting("smoke")
    entries = [setting.identity([Pooled((Corridor(year),))]).data for year in (2025, 2026)]
    assert entries[1] == {"corridor 2026": {"year": 2026, "kind": "outside", "by": "demo_sources.Corridor"}}
    assert entries[0] != entries[1]
    assert "a data set of demo_sources.Corridor" in reasons_against(setting.identity([Pooled((Corridor(),))]))


def test_identity_contains_no_keys() -> None:
    setting = Setting("smoke")
    mixed = setting.resolve(Pooled((Mix(BOTH),)))
    [entry] = [entry for entry in setting.identity([mixed]).data.values() if entry["kind"] == "outside"]
    assert entry == {"kind": "outside", "by": "demo_sources.Mix"}
    assert not any(stage.key in str(setting.identity([mixed])) for stage in closure([mixed]))


def test_only_checked_sets_are_real() -> None:
    @dataclass(frozen=True)
    class Boast(Corridor):
        def describe(self) -> dict[str, Any]:
            return {"kind": "real"}

    @dataclass(frozen=True)
    class Silent(Corridor):
        def describe(self) -> dict[str, Any]:
            return {}

    setting = Setting("paper", weights="scratch")
    with pytest.raises(
        UserError, match=r"corridor 2026 describes itself as real, which was not checked: give another kind"
    ):
        setting.resolve(Pooled((Boast(),)))
    assert "data of another kind (outside)" in reasons_against(setting.identity([Pooled((Silent(),))]))


def test_stage_opens_only_sources_in_its_fields(tmp_path: Path) -> None:
    with pytest.raises(
        LookupError, match=r"demo_sources.Stray opened Corridor\(year=2026\), which is no source that its"
    ):
        run(Stray(), Setting("smoke"), tmp_path / "store")


def test_source_may_read_other_sources(on_folders: Setting, tmp_path: Path) -> None:
    stage = Pooled((Mix(BOTH),))
    assert run(stage, on_folders, tmp_path / "store").mAP == 71
    seen = Store(tmp_path / "store").described(on_folders.resolve(stage)).provenance.data
    assert seen.keys() == {"market", "duke", "market (2)"}


def test_drawn_sources_show_nobody() -> None:
    setting = Setting("smoke")
    market, mirror = (setting.resolve(Pooled((value,))).domains[0] for value in (BOTH[0], Mirror(BOTH[0])))  # type: ignore[attr-defined]
    assert isinstance(market, StandIn)
    assert market.drawn
    assert mirror.drawn
    for source in (Corridor(), Mirror(Corridor()), Mirror((market, Corridor())), Mirror(None), Real("market", "d")):
        assert not source.drawn
    network = Network(Untrained(), "last")
    assert RankLists((network,), mirror).shows_nobody
    assert not RankLists((network,), Corridor()).shows_nobody


def test_claims_about_drawn_worlds_are_blocked_on_photographs() -> None:
    with pytest.raises(Blocked, match="needs stand-in data") as blocked:
        Setting("smoke").resolve(Pooled((Domain("market"), Corridor())), World(seed=2))
    assert blocked.value.want == "world"


def test_network_trains_on_made_images(on_folders: Setting, tmp_path: Path) -> None:
    train = supervised.Train(Mirror(Domain("market")), epochs=1)
    assert run(Evaluate(train, on=train.domain), on_folders, tmp_path / "store").queries == 8
    assert replace(train, domain=Domain("market")).key != train.key
