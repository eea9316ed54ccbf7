from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import methods

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "numpy", "scipy", "sklearn", "pandas", "matplotlib"}
LIGHT = [
    *(f"methods.{module.name}" for module in pkgutil.iter_modules(methods.__path__) if not module.ispkg),
    "reproduce.session.plugin",
    "reproduce.commands.cli",
    "reproduce.evaluation",
    "reproduce.data.domains",
    "reproduce.data.objects",
    "reproduce.data.transforms",
    "reproduce.data.sampling",
    "reports.cli",
]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", LIGHT)
def test_what_collection_imports_is_light(module: str) -> None:
    done = python("-c", f"import sys, {module}; print(sorted({HEAVY} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_collecting_the_suites_imports_no_torch_and_finds_nothing_but_cases(tmp_path: Path) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text(f"import sys\ndef pytest_sessionfinish():\n    print('HEAVY', sorted({HEAVY} & set(sys.modules)))\n")
    code = f"import sys, pytest; sys.path.insert(0, {str(tmp_path)!r}); sys.exit(pytest.main(sys.argv[1:]))"
    done = python("-c", code, "suites/", "--collect-only", "-q", "-s", "-p", "spy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HEAVY []" in done.stdout
    items = [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert len(items) > 500
    assert all(item.startswith("test[") for item in items), "a recipe's name begins with 'test'"


def test_a_typo_in_k_is_red() -> None:
    assert python("-m", "pytest", "suites/", "-k", "no_such_case", "-q").returncode == 5


def test_supervised_rows_stand_beside_both_directions() -> None:
    done = python("-m", "pytest", "suites/test_msplr.py", "--collect-only", "-q", "-k", "table1 and (m2d or d2d)")
    assert {"test[table1-d2d-supervised]", "test[table1-m2d-direct]"} <= {
        line.partition("::")[2] for line in done.stdout.split()
    }


def test_rows_that_build_on_each_other_share_their_stages(tmp_path: Path) -> None:
    """One source, one raw training that +DA and +PL read, one with selection, one with normalisation; seven scores."""
    options = ["-k", "m2d and not claim", "--plan", "--scale", "small", "--store", str(tmp_path / "store")]
    done = python("-m", "pytest", "suites/test_msplr.py", *options)
    assert done.returncode == 0, done.stdout
    words = [line.split() for line in done.stdout.splitlines() if " case" in line and ("to run" in line)]
    names = [line[line.index("run") + 4] for line in words]
    assert names.count("standins.StandIn") == 2
    assert names.count("supervised.Train") == 1
    assert names.count("msplr.Adapt") == 4
    assert names.count("evaluation.Evaluate") == 7
    raw = next(" ".join(line) for line in words if line[-2:] == ["DBSCAN", "raw"])
    assert " 2 cases " in raw


def test_gpus_that_cannot_share_a_training_are_refused_by_name(tmp_path: Path) -> None:
    options = ["-k", "sptd and table1 and m2d", "--plan", "--scale", "medium", "--store", str(tmp_path / "store")]
    done = python("-m", "pytest", "suites", *options, "--gpus-per-stage", "3")
    assert done.returncode == 4, done.stdout
    assert "--gpus-per-stage 3: classify.Classify normalises 128 images together" in done.stderr + done.stdout
    assert "which 3 GPUs do not divide; give another number, or 1" in done.stderr + done.stdout
    assert python("-m", "pytest", "suites", *options, "--gpus-per-stage", "2").returncode == 0


def test_the_plan_of_one_task_names_each_shared_stage_once(tmp_path: Path) -> None:
    """SPTD on m2d: the baseline and the full method are in three tables and in figures, and start MMT's networks."""

    def planned(chosen: str) -> list[tuple[str, str]]:
        options = [
            "-k",
            chosen,
            "--plan",
            "--scale",
            "small",
            "--store",
            str(tmp_path / "store"),
            "--out",
            str(tmp_path),
        ]
        done = python("-m", "pytest", "suites/test_sptd.py", *options)
        assert done.returncode == 0, done.stdout
        lines = [line.split(maxsplit=6) for line in done.stdout.splitlines() if " to run  " in line]
        return [(line[0], line[6]) for line in lines]

    rows = [label.split()[0] for _, label in planned("m2d and not claim")]
    assert Counter(rows) == {
        "standins.StandIn": 2,
        "sptd.Pretrain": 9,
        "mmt.Adapt": 3,
        "evaluation.Evaluate": 10,
        "figures.ActivationMaps": 1,
        "figures.Projection": 1,
        "figures.RankLists": 1,
    }, "nine pre-trainings, two of them with a second seed for MMT, are evaluated by seven rows; MMT by three"
    everything = planned("m2d")
    for part in zip(*everything, strict=True):
        assert len(set(part)) == len(everything), "neither key nor label comes twice, whatever the world"
    assert len(everything) > len(rows)


def test_the_sweeps_of_daam_share_one_source_training(tmp_path: Path) -> None:
    """DAAM on m2d: the full method, which is a point of figure 6, eight more M and five p start from one network."""
    options = ["-k", "m2d and (figure5 or figure6)", "--plan", "--scale", "small", "--store", str(tmp_path / "store")]
    done = python("-m", "pytest", "suites/test_daam.py", *options)
    assert done.returncode == 0, done.stdout
    lines = [line.split(maxsplit=6) for line in done.stdout.splitlines() if " to run  " in line]
    assert Counter(line[6].split()[0] for line in lines) == {
        "standins.StandIn": 2,
        "daam.Pretrain": 1,
        "daam.Adapt": 14,
        "evaluation.Evaluate": 14,
    }
    assert len({line[0] for line in lines}) == len({line[6] for line in lines}) == len(lines)
    assert [line[4] for line in lines if line[6].startswith("daam.Pretrain")] == ["14"], "needed by all points"
