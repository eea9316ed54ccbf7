"""What RAE's rows share, and its table of data sets against the published counts."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from loading import suite

from methods import cyclegan
from reproduce.clustering import DBSCAN, MostClusters, Rho, Tuned
from reproduce.data.catalogue import published
from reproduce.evaluation import Evaluate
from reproduce.papers.tables import Task
from reproduce.session.setting import Setting
from reproduce.stage import closure

RAE = suite("rae")
ROWS = RAE.TABLES["4"]
SMALL = Setting("small")


def evaluated(row: str, task: str = "d2m") -> Evaluate:
    stage: Evaluate = SMALL.resolve(ROWS[row](Task(task), 1))
    return stage


@pytest.mark.parametrize(
    ("one", "other", "views"), [("ft_pt", "rae", ("", "fused")), ("ft_pre_pt", "ft_pre_pt_f", ("", "fused"))]
)
def test_fusion_is_a_view_of_one_training(one: str, other: str, views: tuple[str, str]) -> None:
    rows = evaluated(one), evaluated(other)
    assert rows[0].train.key == rows[1].train.key
    assert (rows[0].view, rows[1].view) == views


def test_rows_differ_in_their_ticks() -> None:
    ticks = {
        row: (
            train.feature,
            train.pixel,
            train.fuse,
            train.restyled is not None,
            isinstance(train.source, cyclegan.Translated),
        )
        for row in ROWS
        if row not in ("supervised", "direct")
        for train in [evaluated(row).train]
    }
    assert ticks == {
        "baseline": (False, False, False, False, False),
        "ft": (True, False, False, False, False),
        "ft_again": (True, False, False, False, False),
        "pt": (False, True, False, False, False),
        "ft_pt": (True, True, True, False, False),
        "rae": (True, True, True, False, False),
        "pre_pt": (False, False, False, False, True),
        "ft_pre_pt": (True, False, True, True, True),
        "ft_pre_pt_f": (True, False, True, True, True),
    }


@pytest.mark.parametrize("row", sorted(ROWS))
def test_identities_name_the_images_that_a_row_learns_from(row: str) -> None:
    identity = SMALL.identity([evaluated(row)])
    assert identity.bn_group is None
    made = [name for name, source in identity.data.items() if source["kind"] == "made"]
    assert bool(made) == ("pre" in row)
    assert "drawn objects" in identity.weights


def test_all_rows_of_a_task_start_from_one_source_training() -> None:
    rows = [evaluated(row) for row in ROWS if row != "supervised"]
    sources = {stage.key for stage in closure(rows) if stage.name == "rae.Source"}
    assert sources == {evaluated("direct").train.key, evaluated("supervised", "m2d").train.key}
    trainings = {stage.key for stage in closure(rows) if stage.name == "rae.Adapt"}
    assert len(trainings) == 6


def test_both_directions_share_one_translation() -> None:
    rows = [evaluated("ft_pre_pt_f", task) for task in ("m2d", "d2m")]
    assert len({stage.key for stage in closure(rows) if stage.name == "cyclegan.CycleGAN"}) == 1
    assert len({stage.key for stage in closure(rows) if stage.name == "cyclegan.Translated"}) == 4
    for row in rows:
        there, (again, back) = row.train.source, row.train.restyled
        assert (there.domain.domain, back.domain.domain) == (row.train.init.domain.domain, row.on.domain)
        assert again.domain == there
        assert there.back != back.back == again.back


def test_sweeps_meet_in_the_row_that_they_vary() -> None:
    for parameter, field in (
        ("lambda_tri", "lambda_tri"),
        ("lambda_feat_gan", "lambda_feat"),
        ("lambda_pix_gan", "lambda_pix"),
    ):
        recipe = RAE.SWEEPS["6"][parameter]
        [sweep] = [sweep for sweep in RAE.PAPER.figures[5].sweeps if sweep.parameter == parameter]
        points = {value: SMALL.resolve(recipe(Task("d2m"), 1, value)) for value in sweep.grid}
        assert {value: getattr(point.train, field) for value, point in points.items()} == {
            value: value for value in sweep.grid
        }
        assert sum(point.key == evaluated("rae").key for point in points.values()) == 1


@pytest.mark.parametrize("name", ["market", "duke", "msmt17"])
def test_table_1_prints_the_published_counts(name: str) -> None:
    [row] = [row for row in RAE.PAPER.tables["1"].rows if row.id == name]
    printed, counts = row.printed["counts"], published(name)
    assert counts
    assert (printed["train_ids"], printed["train_images"]) == (counts.train.ids, counts.train.images)
    assert (printed["query_ids"], printed["query_images"]) == (counts.query.ids, counts.query.images)
    assert printed["gallery_images"] == counts.gallery.images + counts.junk


@pytest.mark.parametrize(("row", "part"), [("mmcl_rae", "mmcl"), ("jvtc_rae", "jvtc")])
@pytest.mark.parametrize("task", ["m2d", "d2m", "m2t", "d2t"])
def test_guests_replace_the_clusters_of_the_full_method(row: str, part: str, task: str) -> None:
    rows = RAE.TABLES["3" if "t" in task else "2"]
    stages = {name: SMALL.resolve(rows[name](Task(task), 1)) for name in (row, "rae", part)}
    hosting, full, alone = (stages[name].train for name in (row, "rae", part))
    assert replace(hosting, guest=None).key == full.key
    assert stages[row].view == stages["rae"].view == "fused"
    assert hosting.guest.epochs == hosting.epochs
    assert alone.memory.epochs == alone.epochs
    own = {field.name: getattr(alone.memory, field.name) for field in fields(alone.memory)}
    assert {name for name, value in own.items() if value != getattr(hosting.guest, name)} <= {"epochs", "neck"}
    assert (alone.memory.neck, hosting.guest.neck) == (False, True), "RAE's features are the output of a ReLU"
    assert (stages[part].view, stages[part].distance) == ("", None)


@pytest.mark.parametrize(("task", "images", "factor"), [("m2d", 16522, 1.0), ("d2m", 12936, 1.0), ("d2t", 32621, 0.8)])
def test_jvtc_links_by_its_published_share_on_the_published_data(task: str, images: int, factor: float) -> None:
    guest = RAE.jvtc_losses(Task(task))
    assert guest.cluster == DBSCAN(Tuned(Rho(1.6e-3, of=images, factor=factor), MostClusters(size=4)), 1)
    assert guest.unit == (task == "d2t")
    slots = DBSCAN(Tuned(Rho(4.8e-3, of=images // 12), MostClusters(size=4)), 1)
    assert guest.joint_cluster == (slots if task == "d2t" else None)
    for row in ("jvtc", "jvtc_rae"):
        train = SMALL.resolve(RAE.TABLES["2"][row](Task(task), 1)).train
        memory = train.memory if row == "jvtc" else train.guest
        assert memory.cluster == DBSCAN(MostClusters(size=4), 1)


def test_mmcl_uses_as_many_hardest_negatives_as_published() -> None:
    for row in ("mmcl", "mmcl_rae"):
        train = RAE.TABLES["2"][row](Task("m2d"), 1).train
        memory = train.memory if row == "mmcl" else train.guest
        assert (memory.hardest, memory.hardest_of) == (0.01, 16522)


def test_jvtc_reads_the_time_as_its_target_s_names_tell_it() -> None:
    clocks = {task: RAE.jvtc_losses(Task(task)).clock for task in ("d2m", "m2d", "m2t")}
    assert {task: (clock.bin, clock.sequences) for task, clock in clocks.items()} == {
        "d2m": (100, "joined"),
        "m2d": (100, ""),
        "m2t": (1, "apart"),
    }
