from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from demo_stages import After, Counted, Descent, Number
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from runs import tiny, trainings

from reproduce.data.domains import Domain, Real
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate
from reproduce.running import specs
from reproduce.running.runner import Site, Store, build
from reproduce.session.setting import Setting
from reproduce.stage import Env, Stage, closure


@dataclass(frozen=True)
class Inner:
    """A value inside a stage."""

    content: Any


@dataclass(frozen=True)
class Holding(Stage[Any]):
    """A stage with any field."""

    content: Any = None
    before: tuple[Stage[Any], ...] = ()

    def run(self, env: Env) -> Any:
        raise NotImplementedError


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.text(), st.floats(allow_nan=False).filter(math.isfinite)
)
contents = st.recursive(leaves, lambda inner: st.one_of(st.lists(inner).map(tuple), inner.map(Inner)), max_leaves=8)


def described(store: Store, *stages: Stage[Any], same: bool = True) -> specs.Spec:
    return specs.spec(stages, specs.missing(stages), store, Site(store.root), same=same)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@given(contents, contents)
def test_stages_survive_being_written(tmp_path_factory: pytest.TempPathFactory, left: Any, right: Any) -> None:
    folder = tmp_path_factory.mktemp("spec")
    store, bottom = Store(folder / "store"), Holding(left)
    stage = Holding((right, bottom), (bottom, Holding(right, (bottom,))))
    specs.write(described(store, stage), folder / "spec.json")
    read = specs.read(folder / "spec.json")
    assert specs.stages(read)[stage.key] == stage
    assert read == described(store, stage)


def test_every_training_survives_being_written(store: Store) -> None:
    setting = Setting("smoke", weights="scratch")
    for kind in trainings():
        stage = setting.resolve(Evaluate(tiny(kind), Domain("duke")))
        assert specs.stages(described(store, stage))[stage.key] == stage


def test_this_node_is_what_its_own_description_says(store: Store) -> None:
    assert specs.check(described(store, After(Descent()))) is None


def test_another_node_is_named_with_what_differs(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node17")
    spec = described(store, Number())
    changed = {
        "node17 has python .* and this run 2.7": {"versions": {"python": "2.7"}},
        "node17 has torch .* and this run 1.0": {"versions": {**spec.versions, "torch": "1.0"}},
        "on node17 is not the store of this run": {"store_id": "other"},
        "on node17 is not that of this run": {"source": "edited"},
        "node17 has no /nowhere/market": {"site": structs.replace(spec.site, folders={"0": "/nowhere/market"})},
        "node17 has no /nowhere/net": {"site": structs.replace(spec.site, weights={"0": "/nowhere/net"})},
    }
    for message, fields in changed.items():
        with pytest.raises(UserError, match=message):
            specs.check(structs.replace(spec, **fields))
    with pytest.raises(UserError, match=r"node17 cannot read .* that all nodes share"):
        specs.read(tmp_path / "absent.json")


def test_a_container_may_have_other_versions(store: Store) -> None:
    assert described(store, Number(), same=False).versions == {}


def test_a_stage_of_another_key_is_refused(store: Store) -> None:
    spec = described(store, Number(1.0))
    spec.stages[Number(1.0).key]["fields"]["value"] = 2.0
    with pytest.raises(UserError, match="another key"):
        specs.stages(spec)
    spec.stages[Number(1.0).key]["class"] = "pathlib:Path"
    with pytest.raises(UserError, match="is no stage"):
        specs.stages(spec)
    spec.stages[Number(1.0).key]["class"] = "nowhere:Stage"
    with pytest.raises(UserError, match="cannot import nowhere"):
        specs.stages(spec)


def test_an_edited_module_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "edited_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = specs.source_digest(["edited_package"])
    assert specs.source_digest(["edited_package"]) == before
    (package / "part.py").write_text("a = 2\n")
    assert specs.source_digest(["edited_package"]) != before
    with pytest.raises(UserError, match="no Python package absent_package"):
        specs.source_digest(["absent_package"])


def test_what_a_job_continues_from_must_be_there(store: Store) -> None:
    stage = Number(2.0, (Number(1.0),))
    spec = described(store, stage)
    assert spec.given == [Number(1.0).key]
    with pytest.raises(UserError, match=f"has no demo_stages.Number {Number(1.0).key}"):
        specs.check_given(spec, specs.stages(spec), store, patience=0)
    build(Number(1.0), Site(store.root), lambda _: None)
    specs.check_given(spec, specs.stages(spec), store, patience=0)
    assert specs.there(store, Number(1.0))
    assert not specs.there(store, stage)


def test_a_store_has_one_id(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process creates the folder between the look and the rename."""
    rename: Callable[[Path, Path], Path] = Path.replace
    rivals: list[str] = []

    def slower(draft: Path, target: Path) -> Path:
        if not rivals:
            rivals.append("on its way")
            rivals[0] = specs.store_id(store.root)
        return rename(draft, target)

    monkeypatch.setattr(Path, "replace", slower)
    assert specs.store_id(store.root) == rivals[0]
    assert len(rivals[0]) == 16
    assert [path.name for path in store.root.glob(".jobs*")] == [".jobs"]


def test_the_own_path_names_no_installation() -> None:
    assert not any(entry.startswith(sys.prefix) for entry in specs._own_path())
    assert str(Path(__file__).parents[2] / "importable") in specs._own_path()


def test_only_needed_data_are_described(store: Store) -> None:
    stage = Counted(Real("market", "d1" * 16))
    site = Site(store.root, folders={"d1" * 16: Path("/data/market"), "d2" * 16: Path("/data/duke")})
    spec = specs.spec([stage], [], store, site, same=True)
    assert spec.site.folders == {"d1" * 16: "/data/market"}
    assert spec.site.at(store.root).folders == {"d1" * 16: Path("/data/market")}


def test_a_site_comes_back_from_its_description(store: Store, tmp_path: Path) -> None:
    site = Site(store.root, "cuda:0", 3, save_every=7.0, neighbours="faiss", ranks=2)
    specs.write(specs.spec([Number(1.0)], [], store, site, same=True), tmp_path / "job.json")
    assert specs.read(tmp_path / "job.json").site.at(store.root) == site


def test_closure_of_a_description_is_in_order(store: Store) -> None:
    stage = After(Descent())
    assert list(described(store, stage).stages) == [each.key for each in closure([stage])]
