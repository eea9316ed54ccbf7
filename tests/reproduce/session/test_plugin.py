from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made import SWEEP
from msgspec import structs

from reproduce.commands.cli import main
from reproduce.papers import records
from reproduce.session.display import clock

TOML = """
paper = "demo"
title = "A demonstration"
authors = "Nobody"
venue = "nowhere"
[[table]]
id = "1"
caption = "Numbers."
where = "section 1"
checked = "by hand"
columns = [{ id = "m2d", label = "Market to Duke" }, { id = "d2m", label = "Duke to Market" }]
metrics = ["mAP", "rank1"]
row = [
    { id = "plain", label = "Plain", executed = "yes", m2d = [10.0, 20.0], d2m = [11.0, "-"] },
    { id = "broken", label = "Broken", executed = "yes", m2d = [10.0, 20.0], d2m = ["-", "-"] },
    { id = "later", label = "Later", executed = "yes", m2d = [10.0, 20.0], d2m = ["-", "-"] },
    { id = "quoted", label = "Quoted", executed = "no", m2d = [10.0, 20.0], d2m = ["-", "-"] },
]
"""

SUITE = """
from pathlib import Path
import pytest
from demo_stages import Number
from reproduce.papers.cases import Suite
from reproduce.papers.tables import read

PAPER = read(Path(__file__).with_name("demo.toml"))

def plain(task, seed):
    return Number(10.0 * seed + (task.name == "d2m"), (Number(0.5),), seed=seed)

def broken(task, seed):
    return Number(1.0, trouble="bug")

@pytest.mark.parametrize("case", Suite(PAPER, {"1": {"plain": plain, "broken": broken}}).cases())
def test_rows(case, judge):
    judge(case)

def slow(task, seed):
    return Number(99.0, sleep=60)

@pytest.mark.parametrize("case", [
    pytest.param(*param.values, id="slow", marks=param.marks)
    for param in Suite(PAPER, {"1": {"later": slow}}).cases() if param.values[0].recipe
])
def test_slow(case, judge):
    judge(case)
"""


TIMED = """
from demo_stages import Timed
TIMED = Timed()

"""


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    folder = tmp_path / "suites"
    folder.mkdir()
    (folder / "demo.toml").write_text(TOML)
    (folder / "test_demo.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    return folder


def command(suites: Path, *arguments: str) -> tuple[list[str], dict[str, object]]:
    importable = os.pathsep.join([str(Path(__file__).parents[2] / "importable"), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": importable, "COLUMNS": "120", "CUDA_VISIBLE_DEVICES": "", "REID_DATA": ""}
    for name in [name for name in environ if name.startswith("PYTEST") or name == "PYTHONUNBUFFERED"]:
        del environ[name]
    return [sys.executable, "-m", "pytest", "suites/", *arguments], {"cwd": suites.parent, "env": environ, "text": True}


def run(suites: Path, *arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    words, where = command(suites, *arguments)
    where["env"] = {**where["env"], **(environ or {})}  # type: ignore[dict-item]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **where)  # type: ignore[call-overload]
    return done.returncode, done.stdout


def test_a_run_measures_judges_and_writes(suites: Path) -> None:
    code, output = run(suites, "-k", "table1 and not broken", "--seeds", "1,3")
    assert code == 0, output
    assert "2 passed, 1 skipped" in output
    assert "the method of 'Later' is not implemented yet" not in output
    assert "20.5 ±14.1" in output
    files = sorted((suites.parent / "build" / "results").glob("*.json"))
    assert [path.name.rsplit("-", 1)[0] for path in files] == [
        "demo-table1-d2m-plain-smoke",
        "demo-table1-m2d-plain-smoke",
    ]
    result = json.loads(files[1].read_text())
    assert result["printed"] == {"mAP": 10.0, "rank1": 20.0}
    assert {seed: numbers["mAP"] for seed, numbers in result["measured"].items()} == {"1": 10.5, "3": 30.5}
    assert result["verdict"] == "not comparable"
    assert "scale smoke" in result["reasons"]
    assert result["command"].startswith(
        "pytest 'suites/test_demo.py::test_rows[table1-m2d-plain]' --scale smoke --seeds 1,3"
    )
    assert {stage["name"] for stage in result["stages"]} == {"demo_stages.Number"}
    again_code, again = run(suites, "-k", "table1 and not broken", "--seeds", "1,3")
    assert again_code == 0
    assert "2 cases: 4 stages, 4 of them in the store" in again, again


def test_a_failed_stage_fails_its_case_alone_with_its_log(suites: Path) -> None:
    code, output = run(suites, "-k", "m2d and table1")
    assert code == 6, "an error has an exit code of its own"
    assert "1 failed, 1 passed, 1 skipped" in output
    assert "ValueError: a bug" in output
    assert "the end of its log" in output
    errors = [json.loads(path.read_text()) for path in (suites.parent / "build" / "results").glob("*broken*.json")]
    assert [error["verdict"] for error in errors] == ["error"]


def comparable(suites: Path, plain: str) -> None:
    """Let every result be comparable with its paper, and the row called plain measure this."""
    (suites / "conftest.py").write_text(
        "from reproduce.papers import verdicts\nverdicts.reasons_against = lambda identity: []\n"
    )
    path = suites / "test_demo.py"
    path.write_text(path.read_text().replace('Number(10.0 * seed + (task.name == "d2m"), (Number(0.5),)', plain))


def test_a_comparable_number_below_its_band_fails_with_both_numbers(suites: Path) -> None:
    comparable(suites, "Number(10.0 + 0.1 * seed")
    code, output = run(suites, "-k", "plain and table1 and m2d", "--seeds", "1,2,3")
    assert code == 1
    assert "below: mAP 10.2 (printed 10.0), R1 10.2 (printed 20.0); band 2.0" in output
    code, output = run(suites, "-k", "plain and table1 and m2d")
    assert code == 1
    message = "inconclusive: mAP 10.1 (printed 10.0), R1 10.1 (printed 20.0); band 2.0; more seeds may decide"
    assert message in output, "one seed alone is below nothing"
    code, output = run(suites, "-k", "plain and table1 and d2m", "--seeds", "1,2,3")
    assert code == 0, output
    assert " reproduced" in output, "its rank-1 is not printed"


def test_the_spread_between_seeds_is_that_of_the_selected_rows(suites: Path) -> None:
    """Whatever the order in which they end, and without a row that fails or collapses."""
    comparable(suites, "Number(9.0 + seed * (0.1 if task.name == 'd2m' else 0.8), sleep=0.5 * (task.name == 'd2m')")
    kept = suites.parent / "build" / "results"
    seeds = ["--seeds", ",".join(map(str, range(1, 7)))]
    verdicts = {}
    for chosen in ("d2m and plain", "plain or broken"):
        run(suites, "-k", f"table1 and ({chosen})", *seeds)
        (path,) = kept.glob("*d2m-plain*.json")
        verdicts[chosen] = (result := json.loads(path.read_text()))["verdict"], result["table_spread"]["mAP"]
    own, both = (0.01 * 3.5) ** 0.5, (0.65 * 3.5 / 2) ** 0.5
    assert verdicts["d2m and plain"] == ("reproduced", {"sd": pytest.approx(own), "freedom": 5})
    assert verdicts["plain or broken"] == ("consistent", {"sd": pytest.approx(both), "freedom": 10})
    (path,) = kept.glob("*m2d-plain*.json")
    assert json.loads(path.read_text())["table_spread"]["mAP"] == verdicts["plain or broken"][1]


def test_a_collapsed_training_is_a_verdict_with_counts(suites: Path) -> None:
    """It cannot fail by a number that it is not comparable with, and fails where it is."""
    path = suites / "test_demo.py"
    path.write_text(
        path.read_text().replace("seed=seed)\n\ndef broken", "seed=seed, trouble='collapsed')\n\ndef broken")
    )
    code, output = run(suites, "-k", "plain and table1 and m2d", "--seeds", "1,2")
    assert code == 0, output
    assert " collapsed" in output
    (file,) = (suites.parent / "build" / "results").glob("*.json")
    result = json.loads(file.read_text())
    assert result["verdict"] == "collapsed"
    assert result["collapsed"] == dict.fromkeys("12", "1 clusters were left at step 1")
    assert result["measured"]["1"]["portion"] == 12.5
    assert "collapsed" not in result["measured"]["1"]
    (page,) = (suites.parent / "build" / "report" / "cases").glob("*.html")
    assert "Collapsed at seed 2: 1 clusters were left" in page.read_text()
    (suites / "conftest.py").write_text(
        "from reproduce.papers import verdicts\nverdicts.reasons_against = lambda identity: []\n"
    )
    code, output = run(suites, "-k", "plain and table1 and m2d")
    assert code == 1
    assert "collapsed: seed 1: 1 clusters were left at step 1" in output


CLAIMS = """
[[figure]]
id = "2"
kind = "convergence"
where = "section 2"
shows = "A curve."
rows = ["table 1: plain"]
task = ["m2d"]

[[claim]]
id = "better"
where = "section 2"
says = "The later one is <b>better</b> by 5."
kind = "gain"
left = "1/later/m2d"
right = "1/plain/m2d"
stated = { mAP = 5.0 }
cause = "camera"

[[claim]]
id = "worse"
where = "section 2"
says = "The plain one is better."
kind = "order"
left = "1/plain/m2d"
right = "1/later/m2d"
metrics = ["mAP", "rank1"]

[[claim]]
id = "untried"
where = "section 2"
says = "It is better than one that was quoted."
kind = "order"
left = "1/plain/m2d"
right = "1/quoted/m2d"
metrics = ["mAP"]
"""

CLAIM_TESTS = """
def later(task, seed):
    return Number(15.0 + 10.0 * seed + 0.1 * seed, trouble=TROUBLE, seed=seed)

BOTH = Suite(PAPER, {"1": {"plain": plain, "later": later}})

@pytest.mark.parametrize("case", BOTH.claims(), ids=lambda case: case.id)
def test_claims(case, judge):
    judge(case)

@pytest.mark.parametrize("case", BOTH.shown(), ids=lambda case: case.id)
def test_figures(case, judge):
    judge(case)
"""


def with_claims(suites: Path, trouble: str = "") -> None:
    toml, tests = suites / "demo.toml", suites / "test_demo.py"
    toml.write_text(toml.read_text() + CLAIMS)
    tests.write_text(tests.read_text() + CLAIM_TESTS.replace("TROUBLE", repr(trouble)))


def claims_of(suites: Path) -> dict[str, dict[str, object]]:
    files = sorted((suites.parent / "build" / "claims").glob("*.json"))
    return {f"{(r := json.loads(path.read_text()))['claim']['id']} {r['world']}".strip(): r for path in files}


def test_claims_are_tried_and_found_supported_or_contradicted(suites: Path) -> None:
    with_claims(suites)
    code, output = run(suites, "-k", "claims", "--scale", "smoke", "--seeds", "1,2,3")
    assert code == 0, output
    assert "5 passed" in output
    found = claims_of(suites)
    assert {name: record["verdict"] for name, record in found.items()} == {
        "better": "supported",
        "better no-camera": "supported",
        "better world2": "supported",
        "worse": "contradicted",
        "worse world2": "contradicted",
    }
    record = found["better"]
    (one,) = record["compared"]  # type: ignore[misc]
    assert one["difference"] == pytest.approx(14.7)
    assert one["by_seed"] == pytest.approx({"1": 14.6, "2": 14.7, "3": 14.8})
    assert one["low"] < 14.7 < one["high"]
    assert one["stated"] == 5.0
    assert record["family"] == "2 claims of table 1 (Holm)"
    assert record["command"] == "pytest 'suites/test_demo.py::test_claims[claim-better]' --scale smoke --seeds 1,2,3"
    assert " ".join(output.split()).count("demo better world2 mAP +5.0") == 1
    code, output = run(suites, "-k", "claims", "--scale", "smoke", "--seeds", "1,2")
    assert code == 0, output
    assert {record["verdict"] for record in claims_of(suites).values()} == {"undecided"}
    assert claims_of(suites)["worse"]["reasons"] == ["2 seeds: nothing is decided below 3"]


BEST = """
[[claim]]
id = "best"
where = "section 2"
says = "It is best at 2."
kind = "sweep"
left = "figure 5/p=2/m2d"
right = ["figure 5/p=0.5/m2d", "figure 5/p=1/m2d"]
stated = { p = 2.0 }
metrics = ["mAP"]
"""

SWEEP_TESTS = """
def at(task, seed, value):
    return Number(20.0 * value + 0.1 * seed, seed=seed)

SWEPT = Suite(PAPER, {"1": {"plain": plain}}, sweeps={"5": {"p": at}})

@pytest.mark.parametrize("case", SWEPT.claims(), ids=lambda case: case.id)
def test_claims(case, judge):
    judge(case)
"""


def test_points_of_a_sweep_are_compared(suites: Path) -> None:
    toml, tests = suites / "demo.toml", suites / "test_demo.py"
    toml.write_text(toml.read_text() + SWEEP.replace("table 1: a", "table 1: plain") + BEST)
    tests.write_text(tests.read_text() + SWEEP_TESTS)
    code, output = run(suites, "-k", "claims and not world2", "--seeds", "1,2,3")
    assert code == 0, output
    record = claims_of(suites)["best"]
    assert record["verdict"] == "supported"
    assert record["family"] == "1 claim of figure 5 (Holm)"
    differences = {one["right"]: one["difference"] for one in record["compared"]}  # type: ignore[attr-defined]
    assert differences == pytest.approx({"figure 5/p=0.5/m2d": 30.0, "figure 5/p=1/m2d": 20.0})
    (page,) = (suites.parent / "build" / "report").glob("demo.html")
    assert "Figure 5, p = 2, m2d" in page.read_text()


def test_a_row_that_collapsed_supports_no_claim_that_another_is_better(suites: Path) -> None:
    """And one that says that it is better itself is contradicted."""
    with_claims(suites)
    path = suites / "test_demo.py"
    path.write_text(
        path.read_text().replace("seed=seed)\n\ndef broken", "seed=seed, trouble='collapsed')\n\ndef broken")
    )
    code, output = run(suites, "-k", "claims and not world2 and not camera", "--seeds", "1,2,3")
    assert code == 0, output
    found = claims_of(suites)
    assert (found["better"]["verdict"], found["worse"]["verdict"]) == ("undecided", "contradicted")
    assert "1/plain/m2d collapsed: that it is lower supports nothing" in found["better"]["reasons"]


def test_a_claims_size_is_told_where_it_can_be_compared(suites: Path) -> None:
    with_claims(suites)
    options = ["-k", "claims and not world2 and not camera", "--seeds", "1,2,3"]
    assert run(suites, *options)[0] == 0
    assert claims_of(suites)["better"]["second"] == []
    comparable(suites, "Number(10.0 * seed")
    code, output = run(suites, *options)
    assert code == 0, output
    found = claims_of(suites)
    assert (found["better"]["verdict"], found["better"]["second"]) == ("supported", ["larger than stated"])
    assert (found["worse"]["verdict"], found["worse"]["second"]) == ("contradicted", [])
    assert "supported, larger than stated" in " ".join(output.split())
    assert "larger than stated" in (suites.parent / "build" / "report" / "demo.html").read_text()
    assert "supported, larger than stated" in (suites.parent / "build" / "report.md").read_text()
    run(suites, *options[:2], "--seeds", "1,2")
    assert claims_of(suites)["better"]["second"] == [], "below three seeds nothing is said"


BASELINE_TESTS = """
from demo_stages import Learned
from reproduce.evaluation import Evaluate

def weak(task, seed):
    return Evaluate(Learned(seed, domain=task.source, blind=BLIND), on=task.target)

def strong(task, seed):
    return Evaluate(Learned(seed, domain=task.source), on=task.target)

def supervised(task, seed):
    return Learned(10 + seed, domain=task.source)

HELD = {"plain": supervised, "later": supervised}

CLAIMS = Suite(PAPER, {"1": {"plain": weak, "later": strong}}, baselines=HELD)

@pytest.mark.parametrize("case", CLAIMS.claims(), ids=lambda case: case.id)
def test_claims(case, judge):
    judge(case)
"""


@pytest.mark.parametrize("blind", [True, False])
def test_a_baseline_that_never_learned_its_source_is_told(suites: Path, blind: bool) -> None:
    (suites / "demo.toml").write_text(TOML + CLAIMS)
    (suites / "test_demo.py").write_text(SUITE + BASELINE_TESTS.replace("BLIND", str(blind)))
    options = ["-k", "claims and not world2 and not camera"]
    code, output = run(suites, *options, "--plan")
    assert output.count("evaluation.OnSource") == 2 + blind, "the distinct rows and the supervised training"
    code, output = run(suites, *options)
    assert code == 0, output
    found = claims_of(suites)
    told = [reason for reason in found["better"]["reasons"] if "source model" in reason]
    assert found["better"]["second"] == ["baseline untrained"] * blind
    assert len(told) == blind
    assert not told or re.fullmatch(
        r"the source model of 'Plain' reaches mAP \d+\.\d on market, supervised training \d+\.\d", told[0]
    )
    assert found["worse"]["second"] == [], "its baseline has learned"


def test_a_claim_about_where_people_are_is_tried_on_drawn_images_alone(suites: Path, tiny_domain: Path) -> None:
    with_claims(suites)
    toml = suites / "demo.toml"
    looks = CLAIMS[CLAIMS.index("[[claim]]") :].split("[[claim]]")[2]
    looks = looks.replace('"worse"', '"looks"').replace('["mAP", "rank1"]', '["on_person"]')
    toml.write_text(toml.read_text() + "[[claim]]" + looks)
    code, output = run(suites, "-k", "claims and (looks or worse) and not world2")
    assert code == 0, output
    found = claims_of(suites)
    assert found["worse"]["compared"], "its neighbours are tried all the same"
    assert found["looks"]["verdict"] == "undecided"
    assert found["looks"]["reasons"] == ["no query here has a value of on_person"]
    real = ["--domain", f"market={tiny_domain}", "--domain", f"duke={tiny_domain}"]
    code, output = run(suites, "-k", "claims and (looks or worse) and not world2", "-rs", *real, "--strict")
    assert code == 0, output
    assert "1 passed, 1 skipped" in output
    assert "needs the positions of people in images, which are known only in stand-in data" in output


def test_a_claim_whose_stage_fails_is_an_error(suites: Path) -> None:
    with_claims(suites, "bug")
    code, output = run(suites, "-k", "claims and not world2 and not camera", "--scale", "smoke")
    assert code == 6
    assert "2 failed" in output
    assert "ValueError: a bug" in output
    assert {record["verdict"] for record in claims_of(suites).values()} == {"error"}


def test_claims_in_changed_worlds_and_figures(suites: Path, tiny_domain: Path) -> None:
    reading(suites)
    with_claims(suites)
    options = ["-k", "claims or figures", "--scale", "smoke"]
    code, output = run(suites, *options, "-v")
    assert code == 0, output
    for name in ("claim-better]", "claim-better-world2]", "claim-better-no-camera]", "figure2-m2d-plain]"):
        assert f"{name} PASSED" in output
    kept = [json.loads(path.read_text()) for path in (suites.parent / "build" / "results").glob("*plain*.json")]
    drawn = [result["identity"]["data"]["market"] for result in kept]
    assert sorted((data["seed"], data["dials"]["camera"]) for data in drawn) == [(1, 0), (1, 1), (2, 1)]
    commands = {result["command"].partition("::")[2].partition("[")[0] for result in kept}
    assert commands == {"test_claims", "test_rows"}
    code, output = run(suites, *options, "--domain", f"market={tiny_domain}", "--domain", f"duke={tiny_domain}", "-rs")
    assert code == 0, output
    assert "3 passed, 3 skipped" in output
    assert "needs stand-in data" in output


def test_a_row_without_a_record_is_named_and_fails_with_baselines_of_ones_own(suites: Path) -> None:
    assert run(suites, "-k", "plain and table1 and m2d", "--update-baselines")[0] == 0
    code, output = run(suites, "-k", "plain and table1")
    assert code == 0, output
    assert "1 case without a record in this setting" in output
    code, output = run(suites, "-k", "plain and table1", "--baselines", "reports/results")
    assert code == 1, output
    assert "reports/results holds no result of this case in this setting" in " ".join(output.split())
    own = ["--baselines", "own/new"]
    assert run(suites, "-k", "plain and table1", *own, "--update-baselines")[0] == 0, "the folder is created"
    assert run(suites, "-k", "plain and table1", *own)[0] == 0


def test_a_drift_from_what_was_recorded_fails_and_can_be_recorded(suites: Path) -> None:
    folder = suites.parent / "reports" / "results"
    options = ["-k", "plain and table1", "--seeds", "1,2,3"]
    code, output = run(suites, *options, "--update-baselines")
    assert code == 0, output
    assert output.count("recorded  demo table 1, Plain") == 2
    assert ": new" in output
    code, output = run(suites, *options)
    assert code == 0, output
    (path,) = folder.glob("*m2d-plain*.json")
    kept = json.loads(path.read_text())
    assert kept["verdict"] == "not comparable"
    for seed, numbers in kept["measured"].items():
        numbers["mAP"] = 520 + int(seed) / 10
    kept["stages"][-1]["provenance"]["commit"] = "0123456789abcdef"
    path.write_text(json.dumps(kept))
    code, output = run(suites, *options)
    assert code == 1, output
    assert "1 failed, 1 passed" in output
    message = " ".join(output.split())
    assert "drifted: mAP was 520.2 and is 20.5 (band" in message
    assert "2 cases recorded: 1 equal, 0 within the band, 1 outside it or not judged" in message
    assert "recorded by commit 0123456789ab; if intended, pass --update-baselines" in message
    (result,) = (suites.parent / "build" / "results").glob("*m2d-plain*.json")
    assert json.loads(result.read_text())["verdict"] == "drifted"
    code, output = run(suites, "-k", "plain and table1", "--seeds", "1,3", "--baselines", "reports/results")
    assert "drifted: mAP was 520.2 and is 20.5" in " ".join(output.split()), "the seeds in common are compared"
    code, output = run(suites, *options, "--update-baselines")
    assert code == 0, output
    assert "recorded  demo table 1, Plain, m2d: mAP 520.2 -> 20.5" in output
    assert "Plain, d2m: as it was" in output
    assert run(suites, *options)[0] == 0
    code, output = run(suites, "-k", "plain and table1", "--seeds", "1", "--scale", "trial", "--weights", "scratch")
    assert code == 0, "another setting has no baseline"


def outside_package(site: Path) -> None:
    """An installed package with a method and a paper of its own."""
    package, info = site / "outside_paper", site / "outside_paper-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text(
        """
from dataclasses import dataclass
from reproduce.artifacts import Scores
from reproduce.stage import Stage

@dataclass(frozen=True)
class Fixed(Stage[Scores]):
    value: float = 1.0
    seed: int = 1

    def run(self, env):
        import numpy as np

        value = self.value
        return Scores(value, value, value, value, value, np.array([value / 100]), np.array([1]), 1, 0, np.array([1]))
"""
    )
    (package / "outside.toml").write_text(TOML.replace('"demo"', '"outside"'))
    (package / "test_outside.py").write_text(
        """
from pathlib import Path
import pytest
from outside_paper.method import Fixed
from reproduce.papers.cases import Suite
from reproduce.papers.tables import read

PAPER = read(Path(__file__).with_name("outside.toml"))

LATER = {"later": lambda task, seed: Fixed(33.0 + seed, seed=seed)}

@pytest.mark.parametrize("case", Suite(PAPER, {"1": LATER}).cases())
def test(case, judge):
    judge(case)
"""
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-paper\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[reproduce.suites]\noutside = outside_paper\n")


def test_an_outside_package_adds_a_method_and_a_paper(suites: Path, tmp_path: Path) -> None:
    outside_package(tmp_path / "site")
    places = [tmp_path / "site", Path(__file__).parents[2] / "importable", os.environ.get("PYTHONPATH", "")]
    environ = {"PYTHONPATH": os.pathsep.join(map(str, places))}
    code, output = run(suites, "-k", "table1 and m2d and (later or plain)", environ=environ)
    assert code == 0, output
    assert "2 passed, 2 skipped" in output
    kept = {
        r["case"]["paper"]: r
        for r in map(json.loads, (p.read_text() for p in (tmp_path / "build").rglob("*m2d*.json")))
    }
    assert kept["outside"]["measured"]["1"]["mAP"] == 34
    assert kept["outside"]["stages"][0]["name"] == "method.Fixed"
    assert kept["outside"]["command"].startswith("pytest 'site/outside_paper/test_outside.py::test[table1-m2d-later]'")
    printed = subprocess.run(
        [sys.executable, "-m", "reproduce", "tables", "--csv", "--suites", "suites"],
        cwd=suites.parent, env={**os.environ, **environ}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "outside" in printed.lower()
    (tmp_path / "site" / "outside_paper-1.0.dist-info" / "entry_points.txt").write_text(
        "[reproduce.suites]\nx = nowhere\n"
    )
    code, output = run(suites, environ=environ)
    assert code == 4
    assert "names 'nowhere', no package" in output


def test_an_outside_package_brings_a_data_set(suites: Path, tiny_domain: Path) -> None:
    """Its images enter a run by themselves and through a stage that makes others of them; nothing here knows it."""
    path = suites / "test_demo.py"
    text = path.read_text().replace("import Number", "import Number, Untrained", 1)
    recipe = "return Evaluate(Untrained(seed, (task.source, Mirror(Corridor(2025)))), on=Corridor())"
    start, end = text.index("    return Number(10.0"), text.index("def broken")
    text = f"{text[:start]}    {recipe}\n\n{text[end:]}"
    imports = "from demo_sources import Corridor, Mirror\nfrom reproduce.evaluation import Evaluate\n"
    path.write_text(imports + text)
    environ = {"CORRIDOR": str(tiny_domain)}
    code, output = run(suites, "-k", "plain and table1 and m2d", "--weights", "scratch", environ=environ)
    assert code == 0, output
    (file,) = (suites.parent / "build" / "results").glob("*.json")
    result = json.loads(file.read_text())
    data = result["identity"]["data"]
    assert {name: entry["kind"] for name, entry in data.items()} == {
        "corridor 2025": "outside",
        "corridor 2026": "outside",
        "demo_sources.Mirror": "made",
        "market": "stand-in",
    }
    assert data["corridor 2026"] == {"kind": "outside", "by": "demo_sources.Corridor", "year": 2026}
    assert result["verdict"] == "not comparable"
    assert result["reasons"][:3] == [
        "a data set of demo_sources.Corridor",
        "images made by demo_sources.Mirror",
        "stand-in data",
    ]
    assert result["measured"]["1"]["queries"] == 8
    seen = result["stages"][-1]["provenance"]["data"]
    assert [(name, len(digest)) for name, digest in seen.items()] == [("corridor 2026", 64)]
    (page,) = (suites.parent / "build" / "report" / "cases").glob("*.html")
    words = " ".join(page.read_text().split())
    for shown in ("made by a stage", "set of another package", "images made by demo_sources.Mirror"):
        assert shown in words


def test_junit_carries_verdicts_and_numbers(suites: Path) -> None:
    with_claims(suites)
    code, output = run(
        suites, "-k", "(plain and table1 and m2d) or claims", "--seeds", "1,2,3", "--junitxml", "junit.xml"
    )
    assert code == 0, output
    text = (suites.parent / "junit.xml").read_text()
    assert '<property name="verdict" value="not comparable"' in text
    assert '<property name="mAP" value="20.5"' in text
    assert '<property name="verdict" value="contradicted"' in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-k", "no_such_case"], 5, "5 deselected"),
        (["--gpus", "1"], 4, "--gpus 1 asks for more devices than are visible"),
        (["--gpus-per-stage", "2"], 4, "--gpus-per-stage 2 needs as many GPUs; visible are 0 (none)"),
        (["--gpus-per-stage", "0"], 4, "--gpus-per-stage 0: give at least 1"),
        (["--domain", "nowhere=x"], 4, "give NAME=DIR, where NAME is one of market, duke"),
        (["--domain", "market"], 4, "give NAME=DIR"),
        (["--domain", "market=suites", "--domain", "market=suites"], 4, "given twice"),
        (["--domain", "market=suites", "--stand-ins"], 4, "one run never mixes them"),
        (["--data-root", "suites", "--stand-ins"], 4, "one run never mixes them"),
        (["--data-root", "nowhere"], 4, "--data-root nowhere is no folder"),
        (["--domain", "market=no_such_folder"], 4, "there is no folder no_such_folder"),
        (["--seeds", "1,1"], 4, "distinct numbers"),
        (["--seeds", "one"], 4, "not a list of numbers"),
        (["--jobs", "0"], 4, "give at least 1"),
        (["--subset", "3"], 4, "give --data-root or --domain"),
        (["--weights", "nowhere"], 4, "no folder"),
        (["--scale", "huge"], 4, "invalid choice"),
        (["--store", "suites"], 4, "not empty and not a store"),
    ],
)
def test_bad_input_is_one_clear_usage_error(suites: Path, arguments: list[str], code: int, message: str) -> None:
    found, output = run(suites, *arguments)
    assert found == code, output
    assert message in output
    assert "Traceback" not in output


def test_collecting_imports_no_torch(suites: Path) -> None:
    (suites / "conftest.py").write_text(
        "import sys\ndef pytest_sessionfinish():\n"
        "    print('HEAVY', sorted({'torch', 'numpy', 'scipy'} & set(sys.modules)))\n"
    )
    code, output = run(suites, "--collect-only", "-q", "-s")
    assert code == 0
    assert "HEAVY []" in output


def test_plan_lists_each_stage_once_and_runs_nothing(suites: Path) -> None:
    code, output = run(suites, "--plan", "-k", "table1 and plain", "--seeds", "1,2")
    assert code == 0
    assert "2 cases at scale smoke: 5 distinct stages" in output
    assert output.count("to run  ") == 5
    assert "to run: 5 stages that no recorded run timed\n" in output
    assert not (suites.parent / "build" / "results").exists()
    assert run(suites, "-k", "table1 and plain and m2d")[0] == 0
    code, output = run(suites, "--plan", "-k", "table1 and plain and m2d", "--seeds", "2", "--store", "elsewhere")
    assert code == 0
    assert "as recorded runs took\n" in output, "earlier runs here tell how long it takes"


def test_the_plan_of_paper_is_projected_from_a_trial(suites: Path) -> None:
    """The suite's training counts its epochs: 90 in the paper, of which the trial runs two."""
    path = suites / "test_demo.py"
    path.write_text(path.read_text().replace("def plain", TIMED + "def plain", 1).replace("Number(0.5),", "TIMED,", 1))
    assert run(suites, "-k", "table1 and plain and m2d", "--scale", "trial")[0] == 0
    code, output = run(suites, "--plan", "-k", "table1 and plain and m2d", "--scale", "paper", "--store", "elsewhere")
    assert code == 0
    (result,) = (suites.parent / "build" / "results").glob("*m2d-plain*.json")
    stages = json.loads(result.read_text())["stages"]
    (took,) = [stage["provenance"]["device_s"] for stage in stages if stage["name"] == "demo_stages.Timed"]
    assert took >= 1
    assert re.search(rf"to run +~{clock(45 * took)} +1 case +demo_stages\.Timed", output), output
    assert "(projected from scale trial for 2 stages)" in output


FIGURE = """
[[figure]]
id = "6"
kind = "picture"
where = "section 3"
shows = "Lists of <i>two</i> rows."
rows = ["table 1: plain", "table 1: later"]
task = ["m2d"]
"""

FIGURE_TESTS = """
from demo_stages import Untrained
from reproduce.evaluation import Evaluate
from reproduce.figures import ActivationMaps, RankLists

def one(task, seed):
    return Evaluate(Untrained(1, looks=LOOKS), on=task.target)

def two(task, seed):
    return Evaluate(Untrained(2), on=task.target, flip=True)

TWO = {"1": {"plain": one, "later": two}}

@pytest.mark.parametrize("case", Suite(PAPER, TWO, draws={"6": DRAW}).pictures(), ids=lambda case: case.id)
def test_figures(case, judge):
    judge(case)
"""


def figure_suite(suites: Path, draw: str, looks: bool = True) -> None:
    (suites / "demo.toml").write_text(TOML + FIGURE)
    text = FIGURE_TESTS.replace("DRAW", draw).replace("LOOKS", str(looks))
    (suites / "test_demo.py").write_text(SUITE + text)


def test_a_figure_alone_is_drawn_recorded_and_shown(suites: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure_suite(suites, "RankLists")
    code, output = run(suites, "--plan", "-k", "figure")
    assert code == 0
    assert "1 figure at scale smoke: 4 distinct stages" in output
    assert "1 figure  figures.RankLists on duke" in output
    code, output = run(suites, "-k", "figure", "--seeds", "2")
    assert code == 0, output
    assert "figure:  demo 6, m2d: drawn" in output
    out = suites.parent / "build"
    assert not (out / "results").exists()
    [figure] = records.read_figures(out / "figures")
    assert (figure.seed, figure.figure.rows, figure.identity.selection) == (
        2,
        ["Plain", "Later"],
        "last",
    )
    assert figure.pictures.count == len(figure.drawing["images"]), "drawn images are always shown"
    assert figure.command == "pytest 'suites/test_demo.py::test_figures[figure6-m2d]' --scale smoke --seeds 2"
    assert "Lists of &lt;i&gt;two" in (out / "report" / "demo.html").read_text()
    recorded = suites.parent / "recorded"
    assert main(["results", "--record", "--out", str(out), "--into", str(recorded)]) == 0
    assert "0 results, 0 claims and 1 figure recorded" in capsys.readouterr().out
    assert [path.suffix for path in (recorded / "figures").iterdir()] == [".json"], "without its pictures"
    assert records.read_figures(recorded) == [structs.replace(figure, pictures=None)]
    plan = ["--plan", "-k", "figure", "--seeds", "2", "--store", "elsewhere", "--out", "new"]
    code, output = run(suites, *plan, "--baselines", str(recorded))
    assert re.search(r"to run +0:\d\d +1 figure +figures.RankLists", output), "recorded figures tell how long it takes"
    stored = next((out / "store").glob("figures.RankLists/*/pictures.safetensors"))
    stored.write_bytes(b"damaged")
    code, output = run(suites, "-k", "figure", "--seeds", "2")
    assert code == 6
    assert "is damaged (its checksum does not match)" in output
    assert not list((out / "figures").glob("*.png")), "nothing is left of what was there before"


def test_figures_are_updated_with_their_rows(suites: Path) -> None:
    figure_suite(suites, "RankLists")
    assert run(suites, "-k", "figure", "--update-baselines")[0] == 0
    (figure,) = records.read_figures(suites.parent / "reports" / "results")
    assert (figure.verdict, figure.pictures) == ("drawn", None)


def test_photographs_are_left_out_unless_asked_for(suites: Path, tiny_domain: Path) -> None:
    figure_suite(suites, "RankLists")
    real = [
        "-k",
        "figure",
        "--domain",
        f"market={tiny_domain}",
        "--domain",
        f"duke={tiny_domain}",
        "--weights",
        "scratch",
    ]
    for asked in ([], ["--pictures"]):
        code, output = run(suites, *real, *asked)
        assert code == 0, output
        [figure] = records.read_figures(suites.parent / "build" / "figures")
        assert (figure.pictures is not None) is bool(asked)
        assert ("--pictures" in figure.command) is bool(asked)
        assert bool(list((suites.parent / "build").rglob("*.png"))) is bool(asked)


def test_a_figure_that_cannot_be_drawn_is_an_error(suites: Path) -> None:
    figure_suite(suites, "ActivationMaps", looks=False)
    code, output = run(suites, "-k", "figure")
    assert code == 6
    assert "the network of demo_stages.Untrained has no `maps`" in output
    [figure] = records.read_figures(suites.parent / "build" / "figures")
    assert (figure.verdict, figure.drawing) == ("error", None)
    assert run(suites, "-k", "figure", "--domain", "market=.")[0] == 0, "a figure without its data is skipped"
    assert run(suites, "-k", "figure", "--domain", "market=.", "--strict")[0] == 1


def test_xdist_workers_become_jobs(suites: Path) -> None:
    code, output = run(suites, "-n", "3", "-k", "m2d and plain and table1")
    assert code == 0, output
    assert "on the CPU, 3 at once" in output
    assert "bringing up nodes" not in output


def reading(suites: Path) -> None:
    """Let the row called plain read its source domain."""
    suite = SUITE.replace("import Number", "import Counted, Number")
    (suites / "test_demo.py").write_text(
        suite.replace('Number(10.0 * seed + (task.name == "d2m"), (Number(0.5),), seed=seed)', "Counted(task.source)")
    )


def test_blocked_cases_are_skipped_and_fail_under_strict(suites: Path, tiny_domain: Path) -> None:
    reading(suites)
    options = ["-k", "plain and table1", "--scale", "smoke", "--domain", f"market={tiny_domain}"]
    code, output = run(suites, *options, "-rs")
    assert code == 0, output
    words = " ".join(output.split())
    assert "blocked(data): no folder of duke was given: DukeMTMC-reID was withdrawn by its makers" in words
    assert f"market is {tiny_domain} (digest " in output
    assert "not the published set: results are not comparable with the paper" in output
    (blocked,) = (suites.parent / "build" / "results").glob("*d2m-plain*.json")
    assert "withdrawn by its makers" in json.loads(blocked.read_text())["reasons"][0]
    (measured,) = (suites.parent / "build" / "results").glob("*m2d-plain*.json")
    assert json.loads(measured.read_text())["measured"]["1"]["mAP"] == 36
    code, output = run(suites, *options, "--strict")
    assert code == 1
    assert "blocked(data)" in output
    code, output = run(suites, *options, "--plan")
    assert code == 0
    assert re.search(r"^  blocked\(data\)  1 case: no folder of duke .* \[demo table1-d2m-plain\]$", output, re.M), (
        output
    )
    code, output = run(suites, "-k", "table1-d2m-plain", *options[2:])
    assert "next:    reproduce doctor --data-root DIR" in output, "nothing was measured, so nothing to record"


def test_a_data_root_must_hold_the_published_set(suites: Path, tiny_domain: Path) -> None:
    reading(suites)
    (suites.parent / "data").mkdir()
    (suites.parent / "data" / "Market-1501").symlink_to(tiny_domain)
    options = ["-k", "m2d and plain and table1", "--scale", "smoke", "--data-root", "data"]
    code, output = run(suites, *options)
    assert code == 4
    assert "train images 36, not 12,936 (12,900 fewer)" in output
    assert "Traceback" not in output
    code, output = run(suites, *options, "--accept-counts")
    assert code == 0, output
    (result,) = (suites.parent / "build" / "results").glob("*.json")
    kept = json.loads(result.read_text())
    assert kept["identity"]["data"]["market"]["kind"] == "folder"
    assert kept["command"].endswith("--data-root DIR --accept-counts")
    code, output = run(suites, "-k", "m2d and plain and table1", "--stand-ins", "--plan", environ={"REID_DATA": "data"})
    assert code == 0, output
    assert "demo_stages.Counted" in output
    assert "data.standins" not in output
    code, output = run(suites, "-k", "m2d and plain and table1", environ={"REID_DATA": "data"})
    assert code == 4
    assert "not the published set" in output


def test_cases_of_withdrawn_data_are_marked_and_counted(suites: Path) -> None:
    text = TOML.replace('id = "d2m"', 'id = "m2m"').replace("d2m =", "m2m =")
    (suites / "demo.toml").write_text(text)
    code, output = run(suites, "--collect-only", "-q")
    assert code == 0, output
    assert (
        '4 of 5 cases need DukeMTMC-reID, which was withdrawn by its makers: -m "not withdrawn" leaves 1 cases'
        in output
    )
    code, output = run(suites, "--collect-only", "-q", "-m", "not withdrawn", "--strict-markers")
    assert code == 0, output
    assert "1 cases do not need DukeMTMC-reID, which was withdrawn by its makers" in output
    assert "[table1-m2m-plain]" in output
    assert "m2d" not in output
    code, output = run(suites, "-k", "m2m and table1", "--plan")
    assert "withdrew" not in output


def test_ctrl_c_ends_every_process_and_keeps_what_is_finished(suites: Path) -> None:
    words, where = command(suites, "-k", "slow", "-x")
    listening = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **where)  # type: ignore[call-overload]
    signal.signal(signal.SIGINT, listening)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("start"):
            break
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    output = process.stdout.read()
    assert process.wait(30) == 2
    assert re.search(r"Exit: stopped: \d of \d stages kept; the same command goes on", output)
    assert "KeyboardInterrupt" not in output
    assert "next:" not in output
    assert "INTERNALERROR" not in output
    deadline = time.monotonic() + 10
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(process.pid)
    assert not list((suites.parent / "build" / "store").glob(".drafts/*"))


TRAINS = """
from demo_stages import After, Descent

def train(task, seed):
    return After(Descent(epochs=40, pause=0.5))

@pytest.mark.parametrize("case", [
    pytest.param(*param.values, id="train", marks=param.marks)
    for param in Suite(PAPER, {"1": {"later": train}}).cases() if param.values[0].recipe
])
def test_train(case, judge):
    judge(case)
"""


def test_a_batch_systems_signal_stops_saves_reports_and_the_next_run_goes_on(suites: Path) -> None:
    """As Slurm sends it, to every process of the run."""
    (suites / "test_demo.py").write_text(SUITE + TRAINS)
    words, where = command(suites, "-k", "train or table1-m2d-plain", "--jobs", "2")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **where)  # type: ignore[call-overload]
    assert process.stdout
    done = 0
    while done < 2:
        done += process.stdout.readline().startswith("done    demo_stages.Number")
    time.sleep(3)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.stdout.read()
    assert process.wait(60) == 2, output
    assert "SIGTERM ended this run: the same command goes on from the saved states" in output
    assert "demo 1 Plain, m2d" in output, "the summary of what was measured"
    assert "report:  build/report/index.html" in output
    assert "INTERNALERROR" not in output
    assert len(list((suites.parent / "build" / "store").glob(".scratch/*/state-*"))) >= 1
    code, output = run(suites, "-k", "train", "--jobs", "1")
    assert code == 0, output
    path = next((suites.parent / "build" / "store").glob("demo_stages.Descent/*/artifact.json"))
    assert json.loads(path.read_text())["provenance"]["resumed"]


@pytest.mark.parametrize("option", ["--out", "--store"])
def test_a_folder_that_cannot_be_written_is_a_usage_error(suites: Path, option: str) -> None:
    code, output = run(suites, "-k", "plain", option, "/proc/x")
    assert code == 4, output
    assert f"ERROR: {option} /proc/x cannot be written (No such file or directory): give another folder" in output


@pytest.mark.parametrize("name", ["artifact.json", "history.json"])
def test_damaged_metadata_is_the_error_of_a_stage(suites: Path, name: str) -> None:
    assert run(suites, "-k", "table1-m2d-plain")[0] == 0
    for path in (suites.parent / "build" / "store").glob(f"*/*/{name}"):
        path.write_text("[")
    code, output = run(suites, "-k", "table1-m2d-plain")
    assert code == 6, output
    assert f"{name} is damaged" in output
    assert "Traceback" not in output


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_broken_table_is_one_line_at_collection(suites: Path) -> None:
    (suites / "demo.toml").write_text(
        TOML.replace("m2d = [10.0, 20.0], d2m = [11.0", "m2d = [10.0, 120.0], d2m = [11.0")
    )
    code, output = run(suites, "--collect-only")
    assert code == 2
    assert "demo.toml, table 1, row plain, m2d: rank1 must be a number between 0 and 100" in output
    assert "Traceback" not in output
    assert "tables.py" not in output


FAISS = """
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
sys.modules["faiss"] = None
if {installed}:
    sys.modules["faiss"] = ModuleType("faiss")
    sys.modules["faiss"].__spec__ = ModuleSpec("faiss", None)
"""


def test_neighbours_by_faiss_are_provenance_and_no_experiment(suites: Path) -> None:
    (suites / "conftest.py").write_text(FAISS.format(installed=True))
    cases = ("-k", "table1 and plain and m2d")
    code, output = run(suites, *cases, "--neighbours", "faiss")
    assert code == 0, output
    assert "neighbours by faiss" in output
    (path,) = (suites.parent / "build" / "results").glob("*plain*.json")
    result = json.loads(path.read_text())
    assert {stage["provenance"]["neighbours"] for stage in result["stages"]} == {"faiss"}
    code, output = run(suites, *cases)
    assert code == 0, output
    assert "1 stage, 1 of them in the store" in output
    assert json.loads(path.read_text())["identity"] == result["identity"]


def test_missing_faiss_is_one_clear_usage_error(suites: Path) -> None:
    (suites / "conftest.py").write_text(FAISS.format(installed=False))
    code, output = run(suites, "--neighbours", "faiss")
    assert code == 4
    assert "ERROR: --neighbours faiss needs faiss: pip install 'reproduce-reid[faiss-cpu]'" in output
