from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.commands.cli import main
from reproduce.commands.new import paper
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.papers.tables import paths, read_all

ROOT = Path(__file__).parents[3]


def at(folder: Path, places: list[Path], *words: str) -> tuple[int, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "REPRODUCE"))}
    environ |= {"PYTHONPATH": os.pathsep.join(map(str, places)), "CUDA_VISIBLE_DEVICES": "", "REID_DATA": ""}
    command = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_new_paper_runs_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "paper", "mine", "--into", str(tmp_path / "mine")]) == 0
    assert f"next: pip install -e {tmp_path / 'mine'} && pytest" in capsys.readouterr().out
    words = ["mine/mine_reid/suites", "--scale", "smoke", "-k", "not claim"]
    code, output = at(tmp_path, [ROOT, tmp_path / "mine"], *words)
    assert code == 0, output
    assert "2 passed" in output
    assert "mine 1 Ours, m2d" in output
    commands = [record.command for record in records.read(tmp_path / "build" / "results")]
    assert all(command.startswith("pytest 'mine/mine_reid/suites/test_mine.py::test[") for command in commands)
    following = (tmp_path / "build" / "report" / "index.html").read_text()
    assert "pytest mine/mine_reid/suites/test_mine.py --scale small" in following, "where the file is"


def test_a_copy_of_an_installed_paper_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed in one folder, and its source lies in another."""
    paper("mine", tmp_path / "source")
    site = shutil.copytree(tmp_path / "source", tmp_path / "site")
    (site / "mine_reid-0.1.dist-info").mkdir()
    (site / "mine_reid-0.1.dist-info" / "entry_points.txt").write_text("[reproduce.suites]\nmine = mine_reid.suites\n")
    monkeypatch.syspath_prepend(site)
    suites = tmp_path / "source" / "mine_reid" / "suites"
    assert paths(suites) == [suites / "mine.toml"]
    assert read_all(suites).keys() == {"mine"}
    assert read_all(ROOT / "suites").keys() >= {"mine", "sptd"}
    (site / "mine_reid" / "suites" / "other.toml").write_text((suites / "mine.toml").read_text())
    with pytest.raises(UserError, match="describes the paper 'mine', and so does another file"):
        read_all(suites)


@pytest.mark.parametrize("name", ["Mine", "my paper", "2fast", "../x"])
def test_a_name_that_no_package_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a Python package"):
        paper(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="is not an empty folder: name another with --into"):
        paper("mine", tmp_path)
