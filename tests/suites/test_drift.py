"""A mistake in a loss, planted, is noticed by what was recorded, on whatever processor this is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_wrong_sign_in_the_triplet_loss_drifts(in_memory: Path) -> None:
    for name in ("reproduce", "methods", "reports", "suites"):
        shutil.copytree(ROOT / name, in_memory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", in_memory)
    losses = in_memory / "methods" / "blocks" / "losses.py"
    right, wrong = "excess = pairs.positive - pairs.negative", "excess = pairs.negative - pairs.positive"
    text = losses.read_text()
    assert text.count(right) == 1
    losses.write_text(text.replace(right, wrong))

    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "REID_DATA"))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "suites/",
        "-k",
        "msplr and table1 and d2d-supervised",
        "--scale",
        "small",
    ]
    done = subprocess.run(
        [*command, "--gpus", "0", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=in_memory,
        env={**environ, "PYTHONPATH": str(in_memory), "REID_DATA": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "drifted: mAP was" in done.stdout, done.stdout
