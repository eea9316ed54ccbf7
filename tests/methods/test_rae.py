from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import history, run

from methods import cyclegan, jvtc, mmcl, rae
from methods.blocks.dropout import address
from methods.blocks.rae import to_range
from methods.guests import Labeller
from reproduce.clustering import DBSCAN, MostClusters, Rho
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment
from reproduce.dataset import Sightings
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate
from reproduce.neighbours import jaccard_graph
from reproduce.session.setting import Setting

GOLDEN = {
    "source": [2.64332408358604, 2.7452702833839613],
    "baseline": [4.47145938627375, 3.839717001155196],
    "mmcl": [8.35277772214599, 9.443388659646049],
    "jvtc": [2.029893385538477, 3.9923016365510158],
    "full": [
        *(4.47145938627375, 0.7871341209915548, 176.40638390320683, 0.7214521630690303, 4.215801711578061),
        *(4.0003063566236055, 0.7863760676626123, 166.152089134863, 0.7213330118992685, 4.018377633089638),
    ],
}
"""Losses of two epochs in float64."""

SHORT: dict[str, Any] = {"P": 2, "K": 4, "input": (32, 16), "iterations": 1, "augment": Augment(pad=2), "hidden": 8}

MARKET, DUKE = Domain("market"), Domain("duke")


def source(**changes: Any) -> rae.Source:
    stage = rae.Source(
        MARKET, backbone="narrow", weights=None, epochs=2, warm=1, milestones=(2,), eval_every=1, **SHORT
    )
    return replace(stage, **changes)


def tiny(**changes: Any) -> rae.Adapt:
    widths: dict[str, Any] = {"decoder_widths": (16, 8), "feature_widths": (8, 8, 8), "pixel_widths": (8, 8, 8), "d": 8}
    cluster = DBSCAN(Rho(0.1), 2)
    stage = rae.Adapt(source(), MARKET, DUKE, cluster, epochs=2, milestones=(2,), eval_every=1, **widths, **SHORT)
    return replace(stage, **changes)


def translated(**changes: Any) -> rae.Adapt:
    """The rows with PT^: source images in the target's style, and all training images in the source's."""
    gan = cyclegan.CycleGAN(MARKET, DUKE, input=(32, 16), width=4, blocks=1, widths=(4, 4, 4), epochs=1)
    there = cyclegan.Translated(gan, MARKET)
    back = (cyclegan.Translated(gan, there, back=True), cyclegan.Translated(gan, DUKE, back=True))
    return tiny(source=there, pixel=False, restyled=back, **changes)


LABELLERS: dict[str, Labeller] = {
    "mmcl": mmcl.MultiLabel(epochs=2, single=0.5, neck=True),
    "jvtc": jvtc.LocalGlobal(
        DBSCAN(Rho(0.02), 1), clock=jvtc.Clock(1, "joined"), epochs=2, every=1, joint=1.0, k1=5, k2=2
    ),
}


def hosting(name: str, **changes: Any) -> rae.Adapt:
    """With the loss of another method on target images; the second of two epochs has predicted labels."""
    return tiny(guest=LABELLERS[name], iterations=2, **changes)


class Bench:
    """A training in memory, before its first step, with one batch of random images of each domain."""

    def __init__(self, stage: rae.Adapt | None = None) -> None:
        self.stage = stage or tiny(precision="float64")
        encoder = source(precision="float64").network(4)
        net = self.stage.network(encoder, clusters=3).double().train()
        self.state = SimpleNamespace(net=net, optimizers=self.stage.optimizers(net))
        address(net, 1, 0, 0)
        draw = torch.Generator().manual_seed(1)
        self.source, self.target = (
            rae.Batch(torch.randn(8, 3, 32, 16, generator=draw).double(), torch.arange(8) // 4) for _ in range(2)
        )

    def moved(self, step: Callable[..., Any]) -> set[str]:
        """Take a step, and name the parts whose parameters moved."""
        before = {name: weight.detach().clone() for name, weight in self.state.net.named_parameters()}
        step(self.state, self.source, self.target)
        after = dict(self.state.net.named_parameters())
        moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
        return {name.partition(".layers")[0].split(".")[0 if not name.startswith("encoder") else 1] for name in moved}


def test_each_step_moves_its_own_parts() -> None:
    bench = Bench()
    assert bench.moved(bench.stage.transfer_features) == {"backbone", "classifier", "clusters", "of_maps"}
    assert bench.moved(bench.stage.transfer_pixels) == {"backbone", "restyle", "of_images"}
    assert bench.moved(bench.stage.train_fusion) == {"fusion", "fused", "fused_clusters"}
    plain = Bench(tiny(feature=False, pixel=False, fuse=False, precision="float64"))
    assert plain.moved(plain.stage.transfer_features) == {"backbone", "classifier", "clusters"}


def test_fusion_leaves_the_statistics_of_encoder_and_decoder() -> None:
    bench = Bench()
    before = {name: value.clone() for name, value in bench.state.net.named_buffers() if "running" in name}
    bench.stage.train_fusion(bench.state, bench.source, bench.target)
    moved = {
        name for name, value in bench.state.net.named_buffers() if name in before and not value.equal(before[name])
    }
    assert moved
    assert all(name.startswith(("fused.", "fused_clusters.")) for name in moved)
    assert bench.state.net.encoder.backbone.training
    assert bench.state.net.restyle.training


def test_encoder_lowers_the_accuracy_of_the_discriminator_on_the_target() -> None:
    """Train the discriminator alone until it knows the domains, then let the encoder alone step against it."""
    bench = Bench()
    net, optimizers = bench.state.net, bench.state.optimizers
    bench.target = bench.target._replace(images=bench.target.images + 0.5)
    optimizers["encoder"].param_groups[0]["lr"] = 0.0
    for group in optimizers["of maps"].param_groups:
        group["lr"] = 0.01
    for _ in range(30):
        logged = bench.stage.transfer_features(bench.state, bench.source, bench.target)
    assert float(logged["feature_accuracy"]) == 100

    def right() -> float:
        return float((net.of_maps(net.encoder.maps(bench.target.images)) <= 0).double().mean())

    optimizers["of maps"].param_groups[0]["lr"] = 0.0
    optimizers["encoder"].param_groups[0]["lr"] = 0.01
    before = right()
    for _ in range(20):
        bench.stage.transfer_features(bench.state, bench.source, bench.target)
    assert before == 1
    assert right() < 0.5


def test_the_judge_of_images_learns_source_images_and_their_reconstructions() -> None:
    """The target's are judged for the decoder alone."""
    bench = Bench()
    net, images = bench.state.net, [bench.source.images, bench.target.images]
    address(net, 1, 0, 0)
    decoded = [net.restyle(net.encoder.maps(each)).detach() for each in images]
    judged: list[torch.Tensor] = []
    net.of_images.register_forward_hook(lambda *call: judged.append(call[1][0].detach()))
    bench.stage.transfer_pixels(bench.state, bench.source, bench.target)
    expected = [*decoded, to_range(images[0], bench.stage.pixels), decoded[0]]
    assert len(judged) == 4
    for one, other in zip(judged, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_decoder_lowers_the_accuracy_of_the_judge_of_images() -> None:
    """Train the judge alone until it knows source images, then let encoder and decoder step against it."""
    bench = Bench(tiny(precision="float64", lambda_pix=1000.0))
    net, optimizers = bench.state.net, bench.state.optimizers

    def rates(decoder: float, judge: float) -> None:
        for name, lr in (("pixels", decoder), ("of images", judge)):
            for group in optimizers[name].param_groups:
                group["lr"] = lr

    def logits() -> list[float]:
        with torch.no_grad():
            made = (net.restyle(net.encoder.maps(batch.images)) for batch in (bench.source, bench.target))
            return [float(net.of_images(each).mean()) for each in made]

    rates(0.0, 0.01)
    for _ in range(30):
        logged = bench.stage.transfer_pixels(bench.state, bench.source, bench.target)
    assert float(logged["pixel_accuracy"]) == 100
    before = logits()
    assert before[0] < 0
    rates(1e-3, 0.0)
    for _ in range(20):
        bench.stage.transfer_pixels(bench.state, bench.source, bench.target)
    assert all(after > max(0.0, earlier) for earlier, after in zip(before, logits(), strict=True))


@pytest.mark.parametrize(
    ("name", "step", "part"),
    [
        ("lambda_tri", "transfer_features", "encoder.backbone"),
        ("lambda_tri", "train_fusion", "fusion"),
        ("lambda_feat", "transfer_features", "encoder.backbone"),
        ("lambda_pix", "transfer_pixels", "restyle"),
        ("lambda_pix", "transfer_pixels", "encoder.backbone"),
    ],
)
def test_a_step_depends_on_the_weights_of_figure_6(name: str, step: str, part: str) -> None:
    ends = []
    for value in (0.5, 0.5, 2.0):
        bench = Bench(tiny(precision="float64", **{name: value}))
        getattr(bench.stage, step)(bench.state, bench.source, bench.target)
        ends.append(
            torch.cat([weight.detach().flatten() for weight in bench.state.net.get_submodule(part).parameters()])
        )
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2], rtol=0, atol=1e-7)


def test_decoder_learns_to_reconstruct() -> None:
    bench = Bench()
    net = bench.state.net
    first = bench.stage.transfer_pixels(bench.state, bench.source, bench.target)["reconstruction"]
    for _ in range(40):
        last = bench.stage.transfer_pixels(bench.state, bench.source, bench.target)["reconstruction"]
    assert last < first
    assert net.restyle(net.encoder.maps(bench.source.images)).shape == bench.source.images.shape


def test_printed_rates_take_sgd_everywhere() -> None:
    made = tiny(rates=rae.PRINTED).optimizers(tiny(rates=rae.PRINTED).network(source().network(4)))
    assert {type(optimizer) for optimizer in made.values()} == {torch.optim.SGD}
    groups = [group for optimizer in made.values() for group in optimizer.param_groups if group["params"]]
    assert {(group["lr"], group["momentum"], group["weight_decay"]) for group in groups} == {
        (0.05, 0.9, 5e-5),
        (0.5, 0.9, 5e-5),
    }
    stable = tiny().optimizers(tiny().network(source().network(4)))
    adam = {name for name, optimizer in stable.items() if isinstance(optimizer, torch.optim.Adam)}
    assert adam == {"of maps", "pixels", "of images", "fusion"}


@pytest.mark.parametrize("domain", [0, 1])
def test_translations_are_augmented_like_their_images(domain: int) -> None:
    stage, draw = translated(), torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (8, 3, 32, 16), generator=draw, dtype=torch.uint8) for _ in range(2)]
    batch = stage.batch(domain, 0, 0, [*images, *images], torch.arange(8))
    assert batch.restyled is not None
    assert torch.equal(batch.restyled, batch.images)
    other = stage.batch(domain, 0, 1, [*images, *images], torch.arange(8))
    assert not torch.equal(other.images, batch.images), "each step draws anew"


@pytest.mark.parametrize("name", ["source", "baseline", "full", "mmcl", "jvtc"])
def test_golden(setting: Setting, tmp_path: Path, name: str) -> None:
    init = source(precision="float64")
    off = {"feature": False, "pixel": False, "fuse": False}
    stages = {
        "source": init,
        "baseline": tiny(init=init, precision="float64", **off),
        "full": tiny(init=init, precision="float64"),
        **{guest: hosting(guest, init=init, precision="float64", **off) for guest in LABELLERS},
    }
    run(stages[name], setting, tmp_path)
    names = ("loss", "feature_gan", "reconstruction", "pixel_gan", "fusion")
    values = [entry[each] for entry in history(stages[name], setting, tmp_path) for each in names if each in entry]
    assert values == pytest.approx(GOLDEN[name], rel=1e-6), "numbers changed: raise version or undo"


def test_warm_up_is_the_beginning_of_the_source_training(setting: Setting, tmp_path: Path) -> None:
    whole = run(source(epochs=3, warm=2, milestones=(3,)), setting, tmp_path)
    begun = run(source(epochs=2, warm=2, milestones=(3,)), setting, tmp_path)
    assert set(whole.checkpoints) == {"last", "warm-up"}
    for name, weight in begun.checkpoints["last"].items():
        assert torch.equal(whole.checkpoints["warm-up"][name], weight)
    assert not torch.equal(
        whole.checkpoints["last"]["classifier.weight"], begun.checkpoints["last"]["classifier.weight"]
    )


def test_fusion_changes_no_other_part(setting: Setting, tmp_path: Path) -> None:
    """FT + PT + F holds the encoder of FT + PT, bit by bit, so the two rows are views of one training."""
    fused, unfused = (run(tiny(fuse=fuse), setting, tmp_path).checkpoints["last"] for fuse in (True, False))
    assert set(unfused) < set(fused)
    assert all(torch.equal(weight, fused[name]) for name, weight in unfused.items())
    plain = run(Evaluate(tiny(), DUKE), setting, tmp_path)
    other = run(Evaluate(tiny(), DUKE, view="fused"), setting, tmp_path)
    assert not np.array_equal(plain.by_query["separation"], other.by_query["separation"])


def test_fused_view_follows_algorithm_2(setting: Setting, tmp_path: Path) -> None:
    stage = tiny()
    training = run(stage, setting, tmp_path)
    view, encoder = stage.at_moment(training, "last", "fused"), stage.at_moment(training, "last")
    assert not view.training
    images = torch.randn(3, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (stage.pixels.mean, stage.pixels.std))
    with torch.no_grad():
        features = encoder.maps(images)
        restyled = encoder.maps(((view.net.restyle(features) + 1) / 2 - mean) / std)
        torch.testing.assert_close(view(images), view.net.fusion(features, restyled))


def test_history_has_losses_labels_and_accuracies(setting: Setting, tmp_path: Path) -> None:
    run(tiny(), setting, tmp_path)
    for entry in history(tiny(), setting, tmp_path):
        assert entry.keys() >= {"found", "clusters", "portion", "purity", "eps", "loss", "feature_gan", "fusion", "mAP"}
        assert entry.keys() >= {"reconstruction", "pixel_gan", "feature_accuracy", "pixel_accuracy"}
        assert 0 <= entry["feature_accuracy"] <= 100
    first, second = history(tiny(), setting, tmp_path)
    assert first["eps"] == second["eps"], "eps is fixed at the first epoch"
    assert (first["lr"], second["lr"]) == pytest.approx((0.02, 0.002))


@pytest.mark.parametrize("guest", LABELLERS)
def test_a_guest_s_batches_go_on_from_epoch_to_epoch(guest: str) -> None:
    """An epoch may be shorter than a pass, and JVTC needs the memories of all images."""
    stage = replace(hosting(guest), iterations=3, epochs=4)
    epochs = [list(stage.target_batches(np.arange(25), epoch)) for epoch in range(4)]
    assert [len(epoch) for epoch in epochs] == [3] * 4
    batches = [batch for epoch in epochs for batch in epoch]
    size = stage.P * stage.K // stage.shown
    assert {len(batch) for batch in batches} == {size}
    for start in range(0, 12, 25 // size):
        shown = np.concatenate(batches[start : start + 25 // size])
        assert len(np.unique(shown)) == len(shown), "each image at most once in a pass"


def test_guess_clusters_jaccard_distances() -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)))
    guessed = tiny().guess(embeddings, None)
    graph = jaccard_graph(embeddings, 20, 6, variant="udap")
    np.testing.assert_array_equal(guessed.kept, DBSCAN(Rho(0.1), 2).labels(graph))
    assert guessed.eps == pytest.approx(Rho(0.1).eps(graph))
    np.testing.assert_array_equal(tiny().guess(embeddings, guessed.eps).kept, guessed.kept)
    searched = tiny(cluster=DBSCAN(MostClusters(), 2))
    assert searched.guess(embeddings, 0.9).eps == searched.guess(embeddings, None).eps < 0.9, "at every epoch"


def test_translated_images_replace_the_source_s(setting: Setting, tmp_path: Path) -> None:
    stage = translated()
    training = run(stage, setting, tmp_path)
    assert run(Evaluate(stage, DUKE), setting, tmp_path).mAP > 0
    assert run(Evaluate(stage, DUKE, view="fused"), setting, tmp_path).mAP > 0
    view = stage.at_moment(training, "last", "fused")
    back = stage.restyled[1].network()  # type: ignore[index]
    gan = run(stage.restyled[1].gan, setting, tmp_path)  # type: ignore[index]
    back.load_state_dict(
        {name[5:]: value for name, value in gan.checkpoints["last"].items() if name.startswith("back.")}
    )
    images = torch.rand(2, 3, 32, 16)
    assert torch.equal(view.net.restyle(images), back(images))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"guest": replace(LABELLERS["jvtc"], cluster=DBSCAN(1.0, 1))},
            r"1 clusters at epoch 2, 0 of 36 images outliers",
        ),
        ({"cluster": DBSCAN(0.0, 7)}, r"0 clusters at epoch 1, 36 of 36 images outliers"),
        ({"rates": replace(rae.STABLE, heads=1e30)}, r"a loss is not finite at epoch \d"),
    ],
)
def test_collapse_is_recorded(setting: Setting, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    stage = tiny(epochs=4, iterations=3, **changes)
    scores = run(Evaluate(stage, DUKE), setting, tmp_path)
    assert re.search(reason, scores.collapsed)
    assert np.isfinite(scores.mAP)


def memories(training: Any) -> dict[str, torch.Tensor]:
    weights = training.checkpoints["last"]
    return {name: value for name, value in weights.items() if name.split(".")[1] in ("slots", "entries")}


@pytest.mark.parametrize("name", LABELLERS)
def test_guest_has_a_memory_for_each_kind_of_features(setting: Setting, tmp_path: Path, name: str) -> None:
    stage = hosting(name)
    training = run(stage, setting, tmp_path)
    pooled, fused = memories(training).values()
    assert pooled.shape == fused.shape == (36, stage.init.network(4).channels)
    assert not torch.equal(pooled, fused)
    weights = training.checkpoints["last"]
    assert not any(part.startswith("clusters.hidden") for part in weights)
    shared = [part for part in ("epoch", "labels") if f"clusters.{part}" in weights]
    assert len(shared) == (2 if name == "jvtc" else 1)
    assert all(torch.equal(weights[f"clusters.{part}"], weights[f"fused_clusters.{part}"]) for part in shared)
    first, second = history(stage, setting, tmp_path)
    assert first["positives"] == 1 <= second["positives"]
    assert first["purity"] == 100 >= second["purity"] > 0
    assert training.facts["health"]["last"]["purity"] == pytest.approx(second["purity"])
    assert ("clusters" in second) == (name == "jvtc")
    plain, fused_view = (run(Evaluate(stage, DUKE, view=view), setting, tmp_path) for view in ("", "fused"))
    assert plain.mAP == pytest.approx(second["mAP"])
    assert not np.array_equal(plain.by_query["separation"], fused_view.by_query["separation"])


@pytest.mark.parametrize("name", LABELLERS)
def test_guest_s_fusion_changes_no_other_part(setting: Setting, tmp_path: Path, name: str) -> None:
    fused, unfused = (run(hosting(name, fuse=fuse), setting, tmp_path).checkpoints["last"] for fuse in (True, False))
    assert set(unfused) < set(fused)
    assert all(torch.equal(weight, fused[name]) for name, weight in unfused.items())


def test_fused_features_take_the_labels_of_pooled_ones() -> None:
    bench = Bench()
    asked: list[torch.Tensor | None] = []

    class Asked(mmcl.MultiLabel):
        def loss(self, head: Any, outputs: Any, indices: Any, positives: Any = None) -> Any:
            asked.append(positives)
            return super().loss(head, outputs, indices, positives)

    stage = replace(bench.stage, guest=Asked())
    sightings = Sightings(*[np.zeros(20, np.int64)] * 3)
    net = bench.state.net
    net.clusters, net.fused_clusters = (Asked().start(net.encoder, sightings, 1) for _ in range(2))
    bench.state.optimizers |= stage.target_optimizers(net)
    positives = torch.ones(8, 20, dtype=torch.bool)
    bench.target = bench.target._replace(labels=torch.arange(8), positives=positives)
    assert bench.moved(stage.transfer_features) == {"backbone", "classifier", "of_maps"}
    assert bench.moved(stage.train_fusion) == {"fusion", "fused"}
    assert [given is positives for given in asked] == [True, True]
    for memory in (net.clusters, net.fused_clusters):
        assert [bool(slot.any()) for slot in memory.slots] == [True] * 8 + [False] * 12


def test_views_of_an_image_are_next_to_each_other() -> None:
    stage = hosting("jvtc")
    pixels = torch.tensor([40, 230], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 16)
    batch = stage.batch(1, 0, 0, [pixels, pixels], torch.tensor([5, 9]))
    assert batch.images.shape == (8, 3, 32, 16)
    assert batch.labels.tolist() == [5, 9]
    means = batch.images.mean((1, 2, 3))
    assert means[:4].max() < means[4:].min()
    assert [len(output.features) for output in stage.outputs(batch.images.flatten(1))] == [2] * 4
    assert stage.batch(0, 0, 0, [pixels, pixels], torch.tensor([5, 9])).images.shape == (2, 3, 32, 16)


def test_batches_hold_all_of_few_clusters(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(P=6, cluster=DBSCAN(Rho(0.3), 2))
    run(stage, setting, tmp_path)
    assert 1 < history(stage, setting, tmp_path)[0]["clusters"] < 6


def test_fusion_needs_one_second_style() -> None:
    for changes in ({"pixel": False}, {"restyled": (MARKET, DUKE)}):
        with pytest.raises(ValueError, match="either pixel or restyled"):
            tiny(**changes)


def test_other_identities_than_the_encoder_s_raise(setting: Setting, tmp_path: Path) -> None:
    folder = tmp_path / "fewer"
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (folder / split).mkdir(parents=True)
        for path in sorted((setting.folders["market"] / split).iterdir()):
            if not path.name.startswith("0001"):
                (folder / split / path.name).write_bytes(path.read_bytes())
    fewer = Setting("paper", {**setting.folders, "cuhk03": folder}, weights="scratch")
    with pytest.raises(UserError, match="trained on 6 identities and the source has 5"):
        run(tiny(source=Domain("cuhk03")), fewer, tmp_path / "store")


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    stage = source(epochs=6, iterations=8, P=6, milestones=(), augment=Augment(flip=0.0, pad=0))
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("epoch", "later"), [(1, 0.02), (2, 0.0), (3, 0.02), (4, 0.0)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    stage = setting.resolve(tiny(epochs=4, milestones=(3,)))
    killed_equals_uncut(stage, setting.paths(), epoch, later)


@pytest.mark.parametrize(
    "stage",
    [source(epochs=4), translated(epochs=4), *(hosting(name, epochs=4) for name in LABELLERS)],
    ids=["source", "translated", *LABELLERS],
)
def test_killed_equals_uncut_in_other_stages(
    setting: Setting, killed_equals_uncut: Callable[..., None], stage: Any
) -> None:
    killed_equals_uncut(setting.resolve(stage), setting.paths(), 3, 0.0)
