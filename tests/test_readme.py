"""What README tells to type works."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINES = re.findall(r"^    ((?:pytest|reproduce|python) .*)$", README, re.M)
COMMANDS = [line.split("   ")[0].strip() for line in LINES]
NOT_HERE = r"\bDIR\b|\bFILE\b|\bWORK\b|\bKEY\b|--gpus|\||methods\.calibration"
"""Commands that need the reader's own data, files or GPUs, or run for hours."""

PLACEHOLDERS = {"METHOD": "MMT", "NAME": "mine", "...": "", "[": "", "]": ""}
"""What is typed in place of words that stand for the reader's own."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables and recorded results, in which one case was run."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("suites", "reports/results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    code, output = typed('pytest suites/ -k "msplr and table1 and d2d-supervised" --scale smoke', folder)
    assert code == 0, output
    shutil.copytree(folder / "build" / "report", folder / "after-the-run")
    return folder


def typed(command: str, folder: Path) -> tuple[int, str]:
    words = shlex.split(command)
    module = [sys.executable, "-m", *words] if words[0] != "python" else [sys.executable, *words[1:]]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "REPRODUCE"))}
    environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT), environ.get("PYTHONPATH", "")]), "REID_DATA": ""}
    done = subprocess.run(module, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    exec(compile(code, "README.md", "exec"), {})
    output = capsys.readouterr().out
    assert re.search(r"^mAP \d\d\.\d %, rank-1 \d\d\.\d %$", output, re.M)
    assert "clusters of 20 people" in output


@pytest.mark.parametrize("command", [command for command in COMMANDS if not re.search(NOT_HERE, command)])
def test_a_command_runs(command: str, checkout: Path) -> None:
    """Cases are planned, not run."""
    if command.startswith("pytest") and "--plan" not in command:
        command += " --plan"
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    code, output = typed(command, checkout)
    assert code == 0, output
    assert "Traceback" not in output


def test_the_pages_of_a_run_are_those_of_the_report_of_its_results(checkout: Path) -> None:
    code, output = typed("reproduce report build/results --out again", checkout)
    assert code == 0, output
    first, again = (
        {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.*") if path.name != ".pages"}
        for folder in (checkout / "after-the-run", checkout / "again" / "report")
    )
    assert len(first) > 5
    assert first == again


def test_api_pages_are_of_modules_with_a_docstring() -> None:
    names = re.findall(r"[\w.]+", (ROOT / "Makefile").read_text().partition("PUBLIC := ")[2].partition("\n\n")[0])
    assert len(names) > 10
    for name in names:
        assert ast.get_docstring(ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text())), name


def test_most_commands_are_tried() -> None:
    tried = [command for command in COMMANDS if not re.search(NOT_HERE, command)]
    assert len(tried) >= 15, tried
