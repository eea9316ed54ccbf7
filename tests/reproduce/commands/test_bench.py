"""The benchmark measures what it says, on sizes that take no time, and its references agree with the kernels."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reproduce import neighbours
from reproduce.commands import bench, bench_train, cli
from reproduce.errors import UserError

SMALL = {"neighbours": (400,), "evaluate": (40, 300), "rerank": (40, 300)}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process instead of fresh ones."""

    def measure(what: str, name: str, size: bench.Size, columns: int, threads: int) -> Any:
        if not name:
            return bench.CHECKS[what](size, columns)
        work = bench.CONTENDERS[what][name](size, columns)
        return work and bench._measure(work)

    monkeypatch.setattr(bench, "_in_a_process", measure)


def test_embeddings_are_clustered_and_the_same_each_time() -> None:
    rows, pids, cameras = bench.embeddings(700, 64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert (rows >= 0).all()
    assert len(np.unique(pids)) > 30
    assert set(cameras) == set(range(6))
    same = pids[:, None] == pids
    close = rows @ rows.T
    assert close[same].mean() > close[~same].mean() + 0.05
    np.testing.assert_array_equal(bench.embeddings(700, 64)[0], rows)


@pytest.mark.parametrize("what", SMALL)
@pytest.mark.usefixtures("here")
def test_kernels_agree_with_dense_references(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = SMALL[what]
    larger = tuple(2 * part for part in size)
    found = bench.bench(what, [size, larger], columns=64, repeats=1, dense=sum(size), out=tmp_path)
    assert json.loads((tmp_path / f"{what}.json").read_text())["work"] == what
    assert (tmp_path / f"{what}.png").stat().st_size > 10_000
    names = {(record["contender"], tuple(record["size"])) for record in found["records"]}
    assert ("product, float32", larger) in names
    assert what == "evaluate" or ("kernel, as shipped", larger) in names
    assert {size for name, size in names if name.startswith("dense")} == {size}
    assert set(found["growth"]) == {name for name, at in names if at == larger}
    (difference,) = found["differences"]
    for name, value in difference.items():
        if "difference" in name or "differ" in name or "share" in name:
            assert value <= 1e-5, name
    assert "processor s" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is asked nothing")
@pytest.mark.parametrize(("what", "size"), [("neighbours", (2100,)), ("rerank", (100, 2000))])
def test_a_user_pays_for_the_question_about_bfloat16(what: str, size: bench.Size) -> None:
    neighbours.bfloat16_is_fast.cache_clear()
    work = bench.CONTENDERS[what]["kernel, as shipped"](size, 64)
    assert work is not None
    assert neighbours.bfloat16_is_fast.cache_info().misses == 0
    work()
    assert neighbours.bfloat16_is_fast.cache_info().misses == 1


def test_faiss_is_measured_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert bench.CONTENDERS["neighbours"]["k-NN, faiss"]((40,), 8) is None
    assert bench.CONTENDERS["neighbours"]["kernel, faiss"]((40,), 8) is None
    monkeypatch.delitem(sys.modules, "faiss")
    pytest.importorskip("faiss", reason="faiss is not installed")
    for name in ("k-NN", "kernel"):
        theirs = bench.CONTENDERS["neighbours"][f"{name}, faiss"]((400,), 64)
        ours = bench.CONTENDERS["neighbours"][f"{name}, as shipped"]((400,), 64)
        assert theirs is not None
        assert ours is not None
        np.testing.assert_array_equal(theirs(), ours())


def test_a_forced_kernel_leaves_the_choice_as_it_was() -> None:
    work = bench.CONTENDERS["neighbours"]["kernel, float32"]((40,), 8)
    assert work is not None
    with neighbours.using(bfloat16=True):
        work()
        assert neighbours._forced == {"bfloat16": True}
    assert neighbours._forced == {}


@pytest.mark.usefixtures("here")
def test_a_training_step_is_compared_with_one_on_constant_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_train, "STEPS", 1)
    monkeypatch.setenv(bench_train.NET, "methods.blocks.backbones:Narrow")
    found = bench.bench("train", [(2, 32)], repeats=1, out=tmp_path)
    ways = {name for name, how in bench_train.WAYS.items() if torch.cuda.is_available() or not how.get("gpu")}
    others = set(bench.CONTENDERS["train"]) - set(bench_train.WAYS)
    assert {record["contender"] for record in found["records"]} == ways | others
    assert all(record["wall_s"] > 0 for record in found["records"])
    [differences] = found["differences"]
    assert differences["largest difference of three losses, constant tensors"] == 0
    assert differences["largest difference of three losses, constant tensors in the default layout"] < 1e-3


def test_unknown_net_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bench_train.NET, "torchvision.models:resnet51")
    with pytest.raises(UserError, match="resnet51"):
        bench_train.Setup.of((2,)).net()


def test_a_benchmark_does_not_compute_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def work() -> None:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))

    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setitem(bench.CONTENDERS, "train", {"seen": lambda size, columns: work})
    monkeypatch.setattr(bench, "_measure", lambda work: work())
    bench._main('["train", "seen", [2], 8]')
    assert seen == [(False, False)]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks cannot be reset here")
def test_memory_is_what_the_work_took() -> None:
    kept = []
    cost = bench._measure(lambda: kept.append(np.ones(1 << 25)))
    assert 0.24 < cost["memory_gib"] < 0.35
    assert cost["processor_s"] > 0


def test_a_fresh_process_measures(tmp_path: Path) -> None:
    assert cli.main(["bench", "evaluate", "--sizes", "5x50", "--columns", "8", "--repeats", "1", "--threads", "1",
                     "--dense", "0", "--out", str(tmp_path)]) == 0  # fmt: skip
    found = json.loads((tmp_path / "evaluate.json").read_text())
    assert found["machine"]["threads"] == 1
    assert found["differences"] == []


def test_usual_sizes_fit_their_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[bench.Size]]] = []
    monkeypatch.setattr(bench, "bench", lambda what, sizes, **_: asked.append((what, sizes)))
    assert cli.main(["bench"]) == 0
    assert [cli.main(["bench", what]) for what in bench.CONTENDERS] == [0] * len(bench.CONTENDERS)
    assert [what for what, _ in asked] == ["neighbours", *bench.CONTENDERS]
    assert all(len(size) == 1 + (what in ("evaluate", "rerank")) for what, sizes in asked for size in sizes)


def test_every_measurement_is_a_step_of_the_progress_bar() -> None:
    steps = bench._steps("rerank", (10, 50), 2, small=True)
    names = list(bench.CONTENDERS["rerank"])
    assert [name for name, _ in bench._shown(steps)] == [*names, *names, ""]
    larger = [name for name, _ in bench._steps("rerank", (10, 50), 1, small=False)]
    assert larger == [name for name in names if not name.startswith("dense")]


def test_what_cannot_be_measured_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="called 'speed'; choose neighbours, evaluate, rerank, train"):
        bench.bench("speed", [(5,)])
    with pytest.raises(UserError, match="evaluate takes sizes such as 336x1973"):
        bench.bench("evaluate", [(5,)])
    assert cli.main(["bench", "rerank", "--sizes", "many"]) == 2
    assert "give whole numbers, such as 2000 or 336x1973" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"evaluate, kernel, .* failed"):
        bench._in_a_process("evaluate", "kernel, distances given", (1, 2), -1, 1)
