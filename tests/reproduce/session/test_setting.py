from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import declared
import pytest
import trees

from methods import classify, cyclegan, msplr, rae, supervised
from methods.classify import SHIPPED
from reproduce import weights
from reproduce.clustering import DBSCAN, Tuned
from reproduce.data.domains import Domain, Real
from reproduce.data.objects import Objects
from reproduce.data.reading import describe, read
from reproduce.data.standins import StandIn
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate
from reproduce.papers.cases import World
from reproduce.papers.records import Identity
from reproduce.papers.verdicts import reasons_against
from reproduce.session.setting import Blocked, Setting, data_root
from reproduce.stage import closure

CASE = Evaluate(supervised.Train(Domain("market")), on=Domain("duke"))


def test_stand_ins_by_default() -> None:
    setting = Setting("smoke", world_seed=3)
    stage = setting.resolve(CASE)
    assert isinstance(stage, Evaluate)
    assert isinstance(stage.on, StandIn)
    assert (stage.on.domain, stage.on.seed) == ("duke", 3)
    identity = setting.identity([stage])
    assert identity.data["market"] | {"size": None, "dials": None} == {
        "kind": "stand-in",
        "world": StandIn.version,
        "seed": 3,
        "size": None,
        "dials": None,
    }
    assert identity.weights == f"drawn objects {SHIPPED['narrow'][:12]}"
    assert (identity.scale, identity.selection) == ("smoke", "last")


def test_a_precision_that_was_asked_for_is_that_of_every_training() -> None:
    adapt = msplr.Adapt(supervised.Train(Domain("market"), precision="float64"), Domain("duke"), DBSCAN(Tuned(0.4)))
    case = Evaluate(adapt, on=Domain("duke"))
    found = {}
    for asked in (None, "float32", "mixed"):
        setting = Setting("smoke", precision=asked)
        stage: Any = setting.resolve(case)
        identity = setting.identity([stage])
        found[asked] = (stage.train.precision, stage.train.init.precision, identity.precision)
        assert ("mixed precision" in reasons_against(identity)) is (asked == "mixed")
    assert found == {
        None: ("float32", "float64", "float64"),
        "float32": ("float32", "float32", ""),
        "mixed": ("mixed", "mixed", "mixed"),
    }


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
    assert setting.identity([stage]).data["market"]["kind"] == "folder"
    counts = describe(read(tiny_domain, "market"))
    declared.holding(monkeypatch, market=counts)
    again = Setting("smoke", {"market": tiny_domain, "duke": tiny_domain})
    assert again.identity([again.resolve(CASE)]).data["market"]["kind"] == "real"
    assert again.identity([again.resolve(CASE)]).data["duke"]["kind"] == "folder"


def test_drawn_and_real_data_are_never_mixed(tiny_domain: Path) -> None:
    with pytest.raises(
        Blocked, match="no folder of duke was given: DukeMTMC-reID was withdrawn by its makers"
    ) as blocked:
        Setting("smoke", {"market": tiny_domain}).resolve(CASE)
    assert blocked.value.want == "data"


def published(folder: Path, content: bytes, backbone: str = "resnet50") -> Path:
    """A file with the name that torchvision and IBN-Net would give to some content."""
    path = folder / f"{backbone}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    return path


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The content b"weights" is what torchvision published."""
    digests = {**weights.PUBLISHED["imagenet"], "resnet50": (hashlib.sha256(b"weights").hexdigest(),)}
    monkeypatch.setattr(weights, "PUBLISHED", {"imagenet": digests})


@pytest.mark.usefixtures("known")
def test_weights(tmp_path: Path) -> None:
    setting = Setting("paper", weights=str(tmp_path))
    published(tmp_path, b"other", "resnet50_ibn_a")
    with pytest.raises(
        Blocked, match=r"there are no imagenet weights of resnet50 in .*: put resnet50-.*\.pth"
    ) as blocked:
        setting.resolve(CASE)
    assert blocked.value.want == "weights"
    scratch = Setting("paper", weights="scratch").resolve(CASE)
    assert isinstance(scratch, Evaluate)
    assert scratch.train.weights is None  # type: ignore[attr-defined]
    path = published(tmp_path, b"weights")
    found = setting.resolve(CASE)
    assert isinstance(found, Evaluate)
    sha256 = found.train.weights  # type: ignore[attr-defined]
    assert setting.files == {sha256: path.resolve()}
    assert setting.identity([found]).weights == sha256
    path.unlink()
    for suffix in (".safetensors", ".pth"):
        (tmp_path / f"resnet50{suffix}").write_bytes(b"more")
    with pytest.raises(Blocked, match="2 files might be the imagenet weights"):
        setting.resolve(CASE)


UNPUBLISHED = "weights that are not the published file"


@pytest.mark.usefixtures("known")
def test_only_the_published_file_is_comparable_whatever_its_name(tmp_path: Path) -> None:
    def told(content: bytes, name: str = "resnet50.pth") -> tuple[Identity, bool]:
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / name).write_bytes(content)
        setting = Setting("paper", weights=str(tmp_path))
        identity = setting.identity([setting.resolve(CASE)])
        return identity, any(UNPUBLISHED in reason for reason in reasons_against(identity))

    identity, refused = told(b"weights")
    assert not refused
    assert not identity.unpublished_weights
    identity, refused = told(b"other weights")
    assert refused
    assert identity.unpublished_weights == identity.weights == hashlib.sha256(b"other weights").hexdigest()
    assert told(b"weights", "resnet50.safetensors")[1] is False
    assert told(b"other weights", "resnet50.safetensors")[1] is True
    scratch = Setting("paper", weights="scratch")
    assert not scratch.identity([scratch.resolve(CASE)]).unpublished_weights


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("note", "refused"),
    [
        ({"sha256": b"converted", "source_sha256": b"weights"}, False),
        ({"sha256": b"converted", "source_sha256": b"other"}, True),
        ({"sha256": b"an earlier one", "source_sha256": b"weights"}, True),
        ({"source_sha256": b"weights"}, True),
        ({}, True),
        (None, True),
    ],
)
def test_converted_weights_are_those_of_their_source(
    tmp_path: Path, note: dict[str, bytes] | None, refused: bool
) -> None:
    path = tmp_path / "resnet50-imagenet.safetensors"
    path.write_bytes(b"converted")
    if note is not None:
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in note.items()}
        path.with_suffix(".json").write_text(json.dumps(digests))
    setting = Setting("paper", weights=str(tmp_path))
    reasons = reasons_against(setting.identity([setting.resolve(CASE)]))
    assert any(UNPUBLISHED in reason for reason in reasons) is refused


@pytest.mark.usefixtures("known")
def test_weights_are_found_where_they_usually_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    with pytest.raises(Blocked, match=r"reproduce/weights or .*torch/hub/checkpoints: put resnet50"):
        Setting("paper").resolve(CASE)
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    path = published(cache, b"weights")
    setting = Setting("paper")
    setting.resolve(CASE)
    assert list(setting.files.values()) == [path.resolve()]


def test_other_weights_than_imagenet_have_their_name_in_the_files(tmp_path: Path) -> None:
    case = Evaluate(supervised.Train(Domain("market"), weights="luperson"), on=Domain("market"))
    with pytest.raises(
        Blocked, match=r"no luperson weights of resnet50 in .*: put resnet50-luperson.safetensors there"
    ):
        Setting("paper", weights=str(tmp_path)).resolve(case)
    (tmp_path / "resnet50-luperson.safetensors").write_bytes(b"x")
    (tmp_path / "resnet50.safetensors").write_bytes(b"y")
    setting = Setting("paper", weights=str(tmp_path))
    setting.resolve(case)
    assert [path.name for path in setting.files.values()] == ["resnet50-luperson.safetensors"]
    sha256 = hashlib.sha256(b"x").hexdigest()
    reasons = reasons_against(setting.identity([setting.resolve(case)]))
    assert f"{UNPUBLISHED} (sha256 {sha256[:12]})" in reasons, "nobody has written down which file is LUPerson's"


# -- what stands in for ImageNet's weights -----------------------------------------------------------------------------

IBN = Evaluate(supervised.Train(Domain("market"), backbone="resnet50_ibn_a"), on=Domain("duke"))


def start_of(setting: Setting, case: Evaluate = CASE) -> Any:
    """The weights of the case's training, as they are resolved."""
    stage: Any = setting.resolve(case)
    return stage.train.weights


@pytest.mark.parametrize("scale", ["smoke", "small"])
@pytest.mark.parametrize(("case", "net"), [(CASE, "narrow"), (IBN, "narrow_ibn_a")])
def test_narrow_nets_start_from_the_shipped_weights(scale: str, case: Evaluate, net: str) -> None:
    setting = Setting(scale)
    assert start_of(setting, case) == SHIPPED[net]
    assert {sha256: path.name for sha256, path in setting.files.items()} == {SHIPPED[net]: f"{net}-objects.safetensors"}
    assert weights.sha256(setting.files[SHIPPED[net]]) == SHIPPED[net]
    identity = setting.identity([setting.resolve(case)])
    assert identity.weights == f"drawn objects {SHIPPED[net][:12]}"
    assert "drawn-object weights" in reasons_against(identity)
    assert not identity.unpublished_weights
    assert "objects" not in identity.data, "nothing is drawn for them"


def test_both_nets_of_a_case_are_told() -> None:
    setting = Setting("small")
    identity = setting.identity([setting.resolve(case) for case in (CASE, IBN)], cells=2)
    assert identity.weights == ", ".join(f"drawn objects {sha256[:12]}" for sha256 in sorted(SHIPPED.values()))


@pytest.mark.parametrize(("case", "net"), [(CASE, "resnet50"), (IBN, "resnet50_ibn_a")])
def test_whole_nets_are_trained_on_objects_first(case: Evaluate, net: str) -> None:
    setting = Setting("medium")
    train = start_of(setting, case)
    assert train == classify.Classify(Objects(side=96), backbone=net, input=(96, 96))
    assert not setting.files
    assert train in closure([setting.resolve(case)])
    identity = setting.identity([setting.resolve(case)])
    assert identity.weights == "drawn objects by classify.Classify"
    assert "drawn-object weights" in reasons_against(identity)
    assert "objects" not in identity.data, "the weights tell of them"
    assert "trained from scratch" not in reasons_against(identity)


def test_what_a_net_starts_from_is_trained_once_for_all_seeds() -> None:
    setting = Setting("medium")
    seeds = [replace(CASE, train=replace(CASE.train, seed=seed)) for seed in (1, 2)]
    assert len({start_of(setting, case).key for case in seeds}) == 1


@pytest.mark.parametrize("asked", [None, "float32", "mixed"])
def test_what_a_net_starts_from_has_the_precision_that_was_asked_for(asked: str | None) -> None:
    assert start_of(Setting("medium", precision=asked)).precision == (asked or "float32")


@pytest.mark.parametrize("scale", ["smoke", "small", "medium"])
def test_scratch_is_scratch_at_every_scale(scale: str) -> None:
    setting = Setting(scale, weights="scratch")
    assert start_of(setting) is None
    identity = setting.identity([setting.resolve(CASE)])
    assert identity.weights == "scratch"
    assert "trained from scratch" in reasons_against(identity)
    assert not {"objects"} & set(identity.data)
    assert not setting.files


def test_weights_that_nothing_stands_in_for_are_blocked(tmp_path: Path) -> None:
    case = replace(CASE, train=replace(CASE.train, weights="luperson"))
    (tmp_path / "narrow-objects.safetensors").write_bytes(b"of drawn objects")
    for given in (None, str(tmp_path)):
        with pytest.raises(Blocked, match="nothing stands in for the luperson weights at scale small") as blocked:
            Setting("small", weights=given).resolve(case)
        assert blocked.value.want == "weights"
    assert start_of(Setting("small", weights="scratch"), case) is None


def test_weights_trained_elsewhere_are_other_weights(tmp_path: Path) -> None:
    setting = Setting("small", weights=str(tmp_path))
    with pytest.raises(
        Blocked, match=r"narrow-objects\.safetensors is not there: `python -m methods\.weights "
    ) as blocked:
        setting.resolve(CASE)
    assert blocked.value.want == "weights"
    path = tmp_path / "narrow-objects.safetensors"
    path.write_bytes(b"trained on another processor")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert start_of(setting) == sha256
    assert setting.files == {sha256: path.resolve()}
    identity = setting.identity([setting.resolve(CASE)])
    assert identity.weights == f"drawn objects {sha256[:12]}"
    assert "drawn-object weights" in reasons_against(identity)
    shipped = Setting("small")
    assert shipped.identity([shipped.resolve(CASE)]).weights not in ("", identity.weights)


def test_weights_of_whole_nets_come_from_a_folder_too(tmp_path: Path) -> None:
    """The command trains narrow nets alone, so it is not what helps here."""
    setting = Setting("medium", weights=str(tmp_path))
    with pytest.raises(Blocked, match=r"resnet50-objects\.safetensors is not there: without --weights a run trains"):
        setting.resolve(CASE)
    (tmp_path / "resnet50-objects.safetensors").write_bytes(b"x")
    assert start_of(setting) == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_a_damaged_shipped_file_is_refused(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(classify.__file__).with_name("weights") / "narrow-objects.safetensors"
    content = shipped.read_bytes()
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / shipped.name
    path.write_bytes(content[:1000] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(classify, "__file__", str(tmp_path / "classify.py"))
    with pytest.raises(UserError) as refused:
        Setting("smoke").resolve(CASE)
    assert str(refused.value) == f"{path} is damaged: install the package that brings it again"
    path.unlink()
    with pytest.raises(UserError, match=r"narrow-objects\.safetensors cannot be read"):
        Setting("smoke").resolve(CASE)


def test_a_package_may_bring_what_else_a_net_starts_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training on a domain, say, which is then drawn, shrunk and in the precision that was asked for."""
    start = supervised.Train(Domain("luperson"), weights=None, backbone="resnet50", lr=1e-3)
    entry = SimpleNamespace(name="luperson", load=lambda: lambda backbone: start)
    monkeypatch.setattr("reproduce.session.setting.entry_points", lambda group, name: [entry] * (name == entry.name))
    case = replace(CASE, train=replace(CASE.train, weights="luperson"))
    setting = Setting("small", precision="mixed")
    found = start_of(setting, case)
    assert found == setting.resolve(start)
    assert isinstance(found.domain, StandIn)
    assert (found.backbone, found.precision, found.epochs) == ("narrow", "mixed", 40)
    assert setting.identity([setting.resolve(case)]).weights == "those of supervised.Train"


# -- under a data root -------------------------------------------------------------------------------------------------

ON_MSMT17 = Evaluate(supervised.Train(Domain("msmt17")), on=Domain("msmt17", "train"))


def test_a_data_root_holds_the_published_sets_or_says_what_differs(tiny_domain: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_domain, tmp_path / "market1501" / "Market-1501-v15.09.15")
    supervised_row = replace(CASE, on=Domain("market"))
    with pytest.raises(UserError, match=r"market: .* train images 36, not 12,936 \(12,900 fewer\); .*--accept-counts"):
        Setting("smoke", root=tmp_path).resolve(supervised_row)
    setting = Setting("smoke", root=tmp_path, accept_counts=True)
    identity = setting.identity([setting.resolve(supervised_row)])
    assert (identity.data["market"]["kind"], identity.data["market"]["folder"]) == (
        "folder",
        "Market-1501-v15.09.15",
    )
    assert setting.paths() == {identity.data["market"]["digest"]: tmp_path / "market1501" / "Market-1501-v15.09.15"}


def test_a_set_without_published_counts_is_found_under_the_root_as_a_folder(tiny_domain: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_domain, tmp_path / "mini")
    located = Setting("smoke", root=tmp_path).locate(Domain("mini"))
    assert (located.kind, located.folder) == ("folder", tmp_path / "mini")


def test_what_a_data_root_lacks_is_blocked_and_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(Blocked, match=r"does not hold market: add --domain market=DIR, or see `reproduce doctor`"):
        Setting("smoke", root=tmp_path).resolve(CASE)
    withdrawn = replace(CASE, train=supervised.Train(Domain("duke")))
    with pytest.raises(Blocked, match='DukeMTMC-reID was withdrawn by its makers; -m "not withdrawn"') as blocked:
        Setting("smoke", root=tmp_path).resolve(withdrawn)
    assert blocked.value.want == "data"


def test_a_folder_given_by_name_goes_before_the_root_and_is_not_checked(tiny_domain: Path, tmp_path: Path) -> None:
    trees.plant_msmt17(tmp_path / "MSMT17_V1", keep=20)
    setting = Setting("smoke", {"market": tiny_domain}, root=tmp_path)
    assert setting.locate(Domain("market")).folder == tiny_domain
    with pytest.raises(UserError, match=r"msmt17: .*MSMT17_V1 is not the published set: train ids 20, not 1,041"):
        setting.locate(Domain("msmt17"))


def test_v2_where_v1_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trees.plant_msmt17(tmp_path / "msmt17" / "MSMT17_V2", ("mask_train_v2", "mask_test_v2"), keep=20)
    counts = describe(read(folder, "msmt17"))
    declared.holding(monkeypatch, msmt17=counts)
    with pytest.raises(UserError, match=r"is MSMT17_V2, whose faces are blurred, .* --domain msmt17=.*MSMT17_V2"):
        Setting("smoke", root=tmp_path, accept_counts=True).locate(Domain("msmt17"))
    given = Setting("smoke", {"msmt17": folder}).locate(Domain("msmt17"))
    assert (given.kind, given.version) == ("folder", "V2"), "V2 has V1's counts, and is not what the papers used"


def test_the_ways_to_train_on_msmt17_have_keys_of_their_own(tmp_path: Path) -> None:
    trees.plant_msmt17(tmp_path, keep=20)
    setting = Setting("smoke", {"msmt17": tmp_path})
    stage = setting.resolve(ON_MSMT17)
    assert isinstance(stage, Evaluate)
    trained, tested = stage.train.domain, stage.on  # type: ignore[attr-defined]
    assert (trained.variant, tested.variant) == ("train+val", "train")
    assert trained.digest != tested.digest
    assert replace(stage, on=replace(tested, variant="train+val")).key != stage.key
    assert len(setting.paths()) == 2
    whole = Evaluate(supervised.Train(Domain("msmt17")), on=Domain("msmt17"))
    entry = setting.identity([setting.resolve(whole)]).data["msmt17"]
    assert (entry["variant"], entry["version"]) == ("train+val", "V1")


def test_stand_ins_are_drawn_for_the_usual_variant_only() -> None:
    with pytest.raises(Blocked, match="no stand-in is drawn for the train variant of msmt17"):
        Setting("smoke").resolve(replace(CASE, on=Domain("msmt17", "train")))


def test_an_html_page_saved_as_an_image_stops_before_anything_runs(tiny_domain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_domain, copy)
    next((copy / "query").iterdir()).write_text("<html>Please sign in</html>")
    with pytest.raises(UserError, match=r"copy/query/.*\.png is an HTML page, whatever its name says"):
        Setting("smoke", {"market": copy}).locate(Domain("market"))


def test_the_root_comes_from_the_option_or_the_environment(tmp_path: Path) -> None:
    assert data_root(None, {}) is None
    assert data_root(None, {"REID_DATA": ""}) is None
    assert data_root(None, {"REID_DATA": str(tmp_path)}) == tmp_path
    assert data_root(str(tmp_path), {"REID_DATA": "elsewhere"}) == tmp_path
    with pytest.raises(UserError, match="REID_DATA nowhere is no folder"):
        data_root(None, {"REID_DATA": "nowhere"})
    with pytest.raises(UserError, match="--data-root nowhere is no folder"):
        data_root("nowhere", {})


def test_scales_differ_in_their_keys_and_seeds_do_not_move_the_identity() -> None:
    keys = {
        Setting(scale, weights="scratch").resolve(CASE).key for scale in ("smoke", "small", "medium", "trial", "paper")
    }
    assert len(keys) == 5
    setting = Setting("smoke")
    seeds = [setting.resolve(replace(CASE, train=replace(CASE.train, seed=seed))) for seed in (1, 2)]
    assert setting.identity(seeds[:1]) == setting.identity(seeds[1:])


def test_an_eps_tuned_for_a_target_holds_on_the_published_data_alone(
    tiny_domain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = supervised.Train(Domain("market"), weights=None)
    stage = msplr.Adapt(source, Domain("duke"), DBSCAN(Tuned(0.42)))

    def eps(setting: Setting) -> object:
        resolved = setting.resolve(stage)
        assert isinstance(resolved, msplr.Adapt)
        assert isinstance(resolved.cluster, DBSCAN)
        return resolved.cluster.eps

    rule = Tuned(0.42).elsewhere
    folders = {"market": tiny_domain, "duke": tiny_domain}
    assert eps(Setting("small")) == rule
    assert eps(Setting("paper")) == rule
    assert eps(Setting("paper", folders)) == rule
    counts = describe(read(tiny_domain, "market"))
    declared.holding(monkeypatch, market=counts)
    assert eps(Setting("paper", folders)) == rule, "only one of the two is the published set"
    declared.holding(monkeypatch, duke=counts)
    assert eps(Setting("paper", folders)) == 0.42
    assert eps(Setting("trial", folders)) == 0.42
    assert eps(Setting("small", folders)) == rule
    assert eps(Setting("paper", folders, subset=2)) == rule


def test_an_eps_tuned_for_a_target_holds_beside_translated_source_images(
    tiny_domain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images that are clustered decide: as published, they have the published eps, and translated ones have not."""
    market, duke = Domain("market"), Domain("duke")
    gan = cyclegan.CycleGAN(duke, market)
    made = {domain: cyclegan.Translated(gan, domain) for domain in (market, duke)}
    counts = describe(read(tiny_domain, "market"))
    declared.holding(monkeypatch, market=counts, duke=counts)
    published = Setting("paper", {"market": tiny_domain, "duke": tiny_domain}, weights="scratch")

    def eps(setting: Setting, source: Any, target: Any) -> object:
        resolved: Any = setting.resolve(rae.Adapt(rae.Source(market), source, target, DBSCAN(Tuned(0.42)), fuse=False))
        return resolved.cluster.eps

    rule = Tuned(0.42).elsewhere
    assert eps(published, market, duke) == eps(published, made[market], duke) == 0.42
    assert eps(published, market, made[duke]) == eps(published, made[market], made[duke]) == rule
    assert eps(Setting("paper", weights="scratch"), made[market], duke) == rule, "drawn"


def test_a_changed_world_is_another_stand_in(tiny_domain: Path) -> None:
    setting = Setting("smoke", world_seed=3)
    plain, second, neutral = (setting.resolve(CASE, world) for world in (None, World(seed=2), World(off="camera")))
    data = [setting.identity([stage]).data["duke"] for stage in (plain, second, neutral)]
    assert [entry["seed"] for entry in data] == [3, 2, 3]
    assert [entry["dials"]["camera"] for entry in data] == [1, 1, 0]
    assert [entry["dials"]["pose"] for entry in data] == [1, 1, 1]
    assert len({plain.key, second.key, neutral.key}) == 3
    with pytest.raises(Blocked, match="needs stand-in data, and these data are real") as caught:
        Setting("smoke", {"market": tiny_domain, "duke": tiny_domain}).resolve(CASE, World(seed=2))
    assert caught.value.want == "world"


def test_fewer_rounds_change_the_training_and_the_identity_but_not_the_recipe() -> None:
    source = supervised.Train(Domain("market"))
    row = Evaluate(msplr.Adapt(source, Domain("duke"), DBSCAN(Tuned(0.4))), on=Domain("duke"))
    setting, whole = Setting("small", rounds=3), Setting("small")
    cut: Any = setting.resolve(row)
    assert cut.train.steps == 3
    assert cut.train.init == whole.resolve(row).train.init  # type: ignore[attr-defined]
    told, usual = setting.identity([cut]), whole.identity([whole.resolve(row)])
    assert (told.rounds, usual.rounds) == (3, 0)
    assert told.recipe == usual.recipe, "what is done in a round is the same"
    assert told.digest != usual.digest
    assert "at most 3 rounds of labelling and training" in reasons_against(told)
    assert Setting("smoke", rounds=5).resolve(row).train.steps == 2, "never more than a scale has"  # type: ignore[attr-defined]
