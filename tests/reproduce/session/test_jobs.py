"""Runs whose stages are Slurm's jobs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from slurm_box import Box, said, until

ROOT = Path(__file__).parents[3]
TABLE = ("suites/", "-k", "msplr and table1", "--scale", "smoke")

SUITE = """
from pathlib import Path
import pytest
from demo_stages import After, Descent
from reproduce.papers.cases import Suite
from reproduce.papers.tables import read

def slow(task, seed):
    return After(Descent(epochs=500, pause=0.2))

@pytest.mark.parametrize("case", Suite(read(Path(__file__).with_name("demo.toml")), {"1": {"slow": slow}}).cases())
def test_rows(case, judge):
    judge(case)
"""

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
columns = [{ id = "m2d", label = "Market to Duke" }]
metrics = ["mAP"]
row = [{ id = "slow", label = "Slow", executed = "yes", m2d = [10.0] }]
"""


def environ(**others: str) -> dict[str, str]:
    importable = os.pathsep.join([str(ROOT / "tests" / "importable"), os.environ.get("PYTHONPATH", "")])
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return {**own, "PYTHONPATH": importable, "COLUMNS": "120", "CUDA_VISIBLE_DEVICES": "", "REID_DATA": "", **others}


def started(*arguments: str, folder: Path = ROOT, **others: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.Popen(
        words, cwd=folder, env=environ(**others), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(*arguments: str, folder: Path = ROOT, **others: str) -> tuple[int, str]:
    process = started(*arguments, folder=folder, **others)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "demo.toml").write_text(TOML)
    (tmp_path / "suites" / "test_demo.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    return tmp_path


def measured(out: Path) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text())["measured"] for path in (out / "results").glob("*.json")}


@pytest.mark.slurm
def test_a_table_has_the_bits_of_a_local_run_even_if_the_run_is_killed(box: Box, tmp_path: Path) -> None:
    code, output = run(*TABLE, "--out", str(tmp_path / "local"))
    assert code == 0, output
    store = tmp_path / "cluster" / "store"
    killed = started(*TABLE, "--slurm", "--out", str(tmp_path / "cluster"))
    until(lambda: len(list(store.glob(".jobs/*/*.jsonl"))) == 2, 90)
    killed.kill()
    killed.communicate()
    code, output = run(*TABLE, "--slurm", "--out", str(tmp_path / "cluster"))
    assert code == 0, output
    assert output.count("(queued before, job ") >= 1, output
    assert len(measured(tmp_path / "local")) == 6
    assert measured(tmp_path / "cluster") == measured(tmp_path / "local")
    assert len(list(store.glob(".jobs/*/*.jsonl"))) == 4, "each training is one job, started once"
    box.clear()


@pytest.mark.slurm
@pytest.mark.parametrize("answer", ["c", "l"])
def test_an_interrupted_run_asks_once_what_becomes_of_its_jobs(box: Box, demo: Path, answer: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(demo)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it starts in the background ignore it
        words = [sys.executable, "-m", "pytest", "suites/", "--slurm", "-p", "no:cacheprovider"]
        os.execvpe(words[0], words, environ())
    output = ""

    def heard(text: str) -> bool:
        nonlocal output
        while select.select([terminal], [], [], 0)[0]:
            try:
                output += os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # it has ended
                break
        return text in output

    until(lambda: heard("queued"), 60)
    time.sleep(1)
    os.kill(pid, signal.SIGINT)
    until(lambda: heard("[l]eave or [c]ancel?"), 20)
    os.write(terminal, f"{answer}\n".encode())
    until(lambda: heard("the same command goes on"), 20)
    os.waitpid(pid, 0)
    assert ("1 job cancelled" if answer == "c" else "1 job left to run") in output
    queue = said("squeue", "--me", "--noheader", "--states=PENDING,RUNNING")
    assert bool(queue) == (answer == "l"), queue
    box.clear()


def test_scripts_are_printed_without_slurm(demo: Path) -> None:
    (demo / "prologue.sh").write_text("module load cuda\n")
    options = ("--sbatch", "gres=gpu:1", "--sbatch", "account=my lab", "--prologue", "prologue.sh")
    code, output = run("suites/", "--plan", "--slurm", *options, folder=demo, PATH="/usr/bin:/bin")
    assert code == 0, output
    assert "at scale small" in output, "as on a GPU"
    (command,) = re.findall("^# sbatch .*", output, re.MULTILINE)
    assert "--gres=gpu:1 '--account=my lab' " in command
    assert re.search(r"^module load cuda\nexec .* -m reproduce.running.job ", output, re.MULTILINE)
    assert not list((demo / "build" / "store" / ".jobs").glob("*/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slurm"], "--slurm needs sbatch, which is not on the path"),
        (["--slurm", "--gpus", "1"], "--gpus is for this machine"),
        (["--slurm", "--jobs", "2"], "--jobs is for this machine"),
        (["--slurm", "--max-jobs", "0"], "--max-jobs 0: give at least 1"),
        (["--slurm", "--plan", "--gpus-per-stage", "2"], "give --sbatch gres=gpu:2"),
        (["--slurm", "--plan", "--detach"], "give one of them"),
        (["--slurm", "--plan", "--sbatch", "output=x"], "--sbatch output=x"),
        (["--slurm", "--plan", "--prologue", "absent"], "--prologue absent cannot be read"),
        (["--slurm", "--plan", "--slurm-python", "a 'b"], "--slurm-python a 'b: No closing quotation"),
        (["--sbatch", "qos=long"], "--sbatch is for jobs of Slurm: add --slurm"),
        (["--budget", "2h"], "--budget is for a plan: add --plan"),
        (["--plan", "--budget", "long"], "--budget long: give hours"),
        (["--detach"], "--detach is for jobs of Slurm: add --slurm"),
    ],
)
def test_contradicting_options_are_usage_errors(demo: Path, arguments: list[str], message: str) -> None:
    python = shutil.which(sys.executable)
    assert python
    code, output = run("suites/", *arguments, folder=demo, PATH="/nowhere")
    assert code == 4
    assert message in output
