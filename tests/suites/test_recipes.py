"""What the rows of suites run at paper scale."""

from __future__ import annotations

import runpy
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reproduce.clustering import DBSCAN, MostClusters, Rho, TopP, Tuned
from reproduce.data.domains import Domain
from reproduce.data.transforms import LUPERSON
from reproduce.papers.cases import ClaimCase
from reproduce.papers.tables import Task
from reproduce.papers.verdicts import unlike_starts, void
from reproduce.session.setting import SCRATCH, Blocked, Setting

ROOT = Path(__file__).parents[2]
MSPLR = runpy.run_path(str(ROOT / "suites" / "test_msplr.py"))
UPREID = runpy.run_path(str(ROOT / "suites" / "test_upreid.py"))
DAAM = runpy.run_path(str(ROOT / "suites" / "test_daam.py"))
RAE = runpy.run_path(str(ROOT / "suites" / "test_rae.py"))
TASK = Task("m2d")


@pytest.mark.parametrize("row", ["da", "pl", "selection", "ours"])
def test_the_printed_eps_is_of_normalised_features_alone(row: str) -> None:
    train = MSPLR["TABLES"]["3"][row](TASK, 1).train
    assert train.by_camera == (row == "ours")
    assert train.cluster == DBSCAN(Tuned(0.35 if row == "ours" else Rho(of=12936)))
    assert Setting("small").resolve(train).cluster == DBSCAN(MostClusters()), "one rule for all rows, elsewhere"


PARTS = {
    "hard": (False, False, False),
    "lsr": (False, False, False),
    "soft": (False, False, False),
    "dsh_dsp": (False, True, False),
    "dsh_daam": (True, False, False),
    "dsh_dsp_ia": (True, True, True),
    "ours": (True, True, False),
}
"""Attention, specific branch and second attention of the rows of DAAM's table 4."""


@pytest.mark.parametrize("row", PARTS)
def test_the_rows_of_daam_differ_in_parts_and_labels_alone(row: str) -> None:
    ours, train = DAAM["TABLES"]["4"]["ours"](TASK, 1).train, DAAM["TABLES"]["4"][row](TASK, 1).train
    assert (train.init.attention, train.specific, train.individual) == PARTS[row]
    assert train.loss.detail == {"hard": "hard labels", "lsr": "LSR 0.1"}.get(row, "soft labels")
    same = {"init": ours.init, "specific": True, "individual": False, "loss": ours.loss}
    assert replace(train, **same) == ours
    assert replace(train.init, attention=True) == ours.init
    assert train.cluster == DBSCAN(Tuned(TopP(1.6e-3, of=16522), MostClusters(min_samples=4)), 4)


def test_daam_s_ends_have_no_attention_and_no_target() -> None:
    init = DAAM["ours"](TASK, 1).train.init
    rows = {name: DAAM["TABLES"]["4"][name](TASK, 1) for name in ("supervised", "direct")}
    assert rows["direct"].train == replace(init, attention=False)
    assert rows["supervised"].train == replace(init, attention=False, source=TASK.target)
    assert {row.on for row in rows.values()} == {TASK.target}
    assert init.source == TASK.source


@pytest.mark.parametrize("suite", [DAAM, RAE])
@pytest.mark.parametrize("target", ["duke", "msmt17"])
def test_a_share_of_pairs_that_no_paper_gives_holds_for_the_published_data(suite: dict[str, Any], target: str) -> None:
    """Off them it puts nearly all drawn images of MSMT17 into one cluster."""
    rule = {"daam": TopP, "rae": Rho}[suite["PAPER"].id](1.6e-3, of=suite["IMAGES"][target])
    train = suite["adapted"](Task("m2d" if target == "duke" else "m2t"), 1)
    searched = {"daam": MostClusters(min_samples=4), "rae": MostClusters()}[suite["PAPER"].id]
    assert train.cluster == DBSCAN(Tuned(rule, searched))
    assert Setting("small", weights=SCRATCH).resolve(train).cluster == DBSCAN(searched)


def test_a_point_of_a_sweep_at_the_row_s_value_is_the_row() -> None:
    sweeps = DAAM["SUITE"].sweeps
    ours = DAAM["ours"](TASK, 1)
    assert sweeps["6"]["M"](TASK, 1, 4) == ours
    swept = sweeps["5"]["p"](TASK, 1, 1.6e-3).train
    assert swept == replace(ours.train, cluster=DBSCAN(ours.train.cluster.eps.printed)), "the row on published data"
    searched = MostClusters(min_samples=4)
    assert sweeps["6"]["M"](TASK, 1, 18).train.cluster == DBSCAN(Tuned(TopP(1.6e-3, of=16522), searched), 18)
    assert sweeps["5"]["p"](TASK, 1, 6.4e-3).train.cluster == DBSCAN(TopP(6.4e-3, of=16522), 4)


def test_daam_has_the_printed_schedule_at_paper_scale_and_a_tenth_at_small() -> None:
    train = DAAM["ours"](TASK, 1).train
    assert (train.steps, train.epochs, train.input) == (6, 260, (384, 128))
    assert (train.init.batch, train.source_batch + train.target_batch) == (32, 32)
    small = Setting("small", weights=SCRATCH).resolve(train)
    assert (small.steps, small.epochs, small.milestones, small.input) == (6, 26, (7, 13, 19, 25), (96, 32))
    assert (small.base_lr, small.lr) == pytest.approx((0.03, 0.15))


@pytest.mark.parametrize("task", ["c2c", "m2m", "x2x", "t2t"])
def test_upreid_trains_supervised_methods_as_published(task: str) -> None:
    table = {"c": "1a", "m": "1b", "x": "1c", "t": "1d"}[task[0]]
    recipes = UPREID["TABLES"][table]["insup"]
    rows = bdb, bot, mgn = [recipes[column](Task(task), 1) for column in ("bdb", "bot", "mgn")]
    assert {row.train.domain for row in rows} == {row.on for row in rows} == {Task(task).target}
    assert [(row.metric, row.at) for row in rows] == [("euclidean", "last"), ("cosine", "last"), ("cosine", "last")]
    trainings = [row.train for row in rows]
    assert {train.name: (train.input, train.P, train.K, train.epochs) for train in trainings} == {
        "bdb.Train": ((384, 128), 32, 4, 400),
        "supervised.Train": ((256, 128), 16, 4, 120),
        "mgn.Train": ((384, 128), 4, 16, 60),
    }
    assert {train.weights for train in trainings} == {"imagenet"}
    assert (bot.train.milestones, bot.train.centre_weight, bot.train.smoothed_over) == ((40, 90), 0.0, "rest")
    assert bot.train.augment.erase == mgn.train.augment.erase
    assert (bot.train.augment.pad, mgn.train.augment.pad, bdb.train.augment.pad) == (10, 10, 0)


def test_upreid_s_spcl_has_a_source_where_the_task_has_one() -> None:
    recipe = UPREID["TABLES"]["2"]["insup"]
    alone, both = (recipe(Task(name), 2) for name in ("u2m", "x2m"))
    assert (alone.train.source, both.train.source) == (None, Domain("personx"))
    assert replace(both.train, source=None) == alone.train
    assert alone.at == both.at == "best on target"
    train = both.train
    assert (train.epochs, train.iterations, train.P, train.K, train.bn_group) == (50, 400, 16, 4, 16)
    assert train.cluster == Setting("small").resolve(train).cluster == DBSCAN(0.6, 4)
    small = Setting("small", weights=SCRATCH).resolve(train)
    assert (small.epochs, small.iterations, small.step, small.eval_every) == (17, 86, 7, 10)


@pytest.mark.parametrize("seed", [1, 2])
def test_upreid_s_rows_of_a_table_differ_in_their_start_alone(seed: int) -> None:
    for table, task in (("1a", "c2c"), ("1d", "t2t"), ("2", "x2m")):
        rows = UPREID["TABLES"][table]
        for column in ("bdb", "bot", "mgn") if table != "2" else ("",):
            insup, *others = [
                (rows[row][column] if column else rows[row])(Task(task), seed) for row in ("insup", "moco", "upreid")
            ]
            for other in others:
                assert other.train.augment == replace(insup.train.augment, pixels=LUPERSON)
                same = replace(other.train, weights="imagenet", augment=insup.train.augment)
                assert replace(other, train=same) == insup
            assert [row.train.weights.name for row in others] == ["luperson", "upreid"]
            assert {row.train.weights.training.seed for row in others} == {seed}


UPREID_STARTS = {
    "moco": (0, False, False),
    "moco_cc": (0, True, True),
    "moco_icc": (8, False, True),
    "upreid": (8, True, True),
    "upreid_nohm": (8, True, False),
    "upreid_m4": (4, True, True),
    "upreid_m12": (12, True, True),
}
"""Patches, consistency and hard mining of the pre-trainings of tables 4 to 6."""


@pytest.mark.parametrize("row", UPREID_STARTS)
def test_upreid_s_pretrainings_differ_in_their_losses_alone(row: str) -> None:
    ours, own = UPREID["STARTS"]["upreid"](2).training, UPREID["STARTS"][row](2).training
    patches, consistent, mirrored = UPREID_STARTS[row]
    if row == "moco":
        shared = {field.name for field in fields(own)} & {field.name for field in fields(ours)}
        assert {name for name in shared if getattr(own, name) != getattr(ours, name)} == set()
        assert (own.K, own.m) == (ours.N, ours.m)
        return
    assert (own.M if own.lambda_p else 0, own.consistent, own.mirrored) == (patches, consistent, mirrored)
    assert (own.lambda_g, own.lambda_p) == ((0.8, 0.2) if patches else (1, 0))
    losses = {name: getattr(ours, name) for name in ("M", "consistent", "mirrored", "lambda_g", "lambda_p")}
    assert replace(own, **losses) == ours


def test_upreid_s_rows_share_pretrainings_at_small_and_wait_for_weights_at_paper(tmp_path: Path) -> None:
    rows = [UPREID["TABLES"][table]["upreid"] for table in ("3", "4", "5", "6")]
    small = Setting("small")
    assert len({small.resolve(row(Task("c2c"), 1)).key for row in rows}) == 1
    trained = small.resolve(rows[0](Task("c2c"), 1)).train
    assert (trained.weights.name, trained.weights.epochs, trained.weights.domain.size.train_ids) == (
        "upreid.Pretrain",
        20,
        2400,
    )
    for row, name in (("moco", "luperson"), ("upreid", "upreid")):
        paper = Setting("paper", {"cuhk03": tmp_path}, weights=str(tmp_path))
        paper.located[Domain("cuhk03")] = SimpleNamespace(real=Domain("cuhk03"))  # type: ignore[assignment]
        with pytest.raises(Blocked, match=f"there are no {name} weights of resnet50"):
            paper.resolve(UPREID["TABLES"]["4"][row](Task("c2c"), 1))


def test_upreid_s_rows_pretrain_at_paper_if_asked_to(tmp_path: Path) -> None:
    paper = Setting("paper", {"cuhk03": tmp_path, "luperson": tmp_path}, pretrain=True)
    for name in ("cuhk03", "luperson"):
        paper.located[Domain(name)] = SimpleNamespace(real=Domain(name))  # type: ignore[assignment]
    trained = paper.resolve(UPREID["TABLES"]["4"]["upreid"](Task("c2c"), 1)).train
    assert (trained.weights.name, trained.weights.epochs, trained.weights.N) == ("upreid.Pretrain", 200, 65_536)


def test_every_executed_row_of_upreid_has_a_recipe() -> None:
    cases = [*UPREID["SUITE"].rows(), *UPREID["SUITE"].shown()]
    assert [case.id for case in cases if not case.recipe] == []
    assert len(cases) == 36 + 6 + 2 + 4 + 2 + 3 + 9 + 4


def test_drawn_images_that_a_translator_made_support_no_claim_by_doing_worse() -> None:
    small = Setting("small")
    cells = {cell for claim in RAE["SUITE"].claims() if not claim.world for cell in claim.cells}
    said = {cell.row.id: void(small.identity([small.resolve(cell.recipe(cell.task, 1))])) for cell in cells}
    translated = {"pre-pt", "ft+pre-pt", "ft+pre-pt+f"}
    assert {row for row, why in said.items() if why} == translated < said.keys()
    assert {said[row] for row in translated} == {"learns from images made by cyclegan.Translated of drawn ones"}


def test_upreid_s_claims_against_imagenet_depend_on_what_was_drawn() -> None:
    small = Setting("small")

    def unlike(claim: ClaimCase) -> str:
        return unlike_starts(small.identity([small.resolve(cell.recipe(cell.task, 1))]) for cell in claim.cells)  # type: ignore[misc]

    claims = [claim for claim in UPREID["SUITE"].claims() if not claim.world]
    assert len(claims) > 20
    for claim in claims:
        assert bool(unlike(claim)) == any("/insup" in cell for cell in (claim.claim.left, *claim.claim.right))
