"""The package as `pip install` leaves it, without a checkout, used from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the project's wheel installs."""
    copy, wheels = tmp_path_factory.mktemp("copy") / "tree", tmp_path_factory.mktemp("wheels")
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=copy, check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("environment") / "site"
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def at(folder: Path, site: Path, *command: str) -> tuple[int, str]:
    """Run a module of the installation, with output, in a folder."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "REPRODUCE"))}
    environ |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": "", "REID_DATA": ""}
    words = [sys.executable, "-m", *command]
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_installed_suites_run_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    before = files(site)
    subprocess.run(["git", "init", "-q", site.parent], check=True)
    case = "suites/test_msplr.py::test[table1-d2d-supervised]"
    code, output = at(tmp_path, site, "pytest", case, "--scale", "smoke")
    assert code == 0, output
    assert "1 passed" in output
    (path,) = (tmp_path / "build" / "results").iterdir()
    result = json.loads(path.read_text())
    assert result["command"].startswith(f"pytest '{case}'")
    provenance = result["stages"][-1]["provenance"]
    assert provenance["commit"] is None, "the repository around it is another project's"
    assert "files" in provenance["versions"]["reproduce-reid"]
    code, output = at(tmp_path, site, "pytest", case, "--scale", "smoke", "--update-baselines")
    assert code == 4, output
    assert "name your own --baselines DIR" in output
    assert at(tmp_path, site, "pytest", case, "--scale", "smoke", "--update-baselines", "--baselines", "own")[0] == 0
    assert list((tmp_path / "own").glob("*.json"))
    assert files(site) == before, "nothing is written to the installation"
    assert (tmp_path / "build" / "report" / "index.html").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("pytest", "--pyargs", "suites", "--collect-only", "-q", "-k", "msplr and table3"),
        ("pytest", "suites/", "--plan", "-k", "msplr and table3 and m2d"),
        ("reproduce", "show"),
        ("reproduce", "tables", "--csv"),
        ("reproduce", "audit"),
    ],
    ids=" ".join,
)
def test_commands_find_installed_tables_and_results(site: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    code, output = at(tmp_path, site, *command)
    assert code == 0, output
    assert "msplr" in output.lower()


def test_a_folder_that_hides_a_package_is_named(site: Path, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "__init__.py").touch()
    case = ("suites/", "-k", "msplr and table1 and d2d", "--plan", "--import-mode=importlib")
    code, output = at(tmp_path, site, "pytest", *case)
    assert code == 4, output
    assert f"{tmp_path / 'reports'} hides the package 'reports' of this installation ({site / 'reports'})" in output
    code, output = at(tmp_path, site, "reproduce", "report")
    assert code == 2, output
    assert "rename it, start from another folder" in output
    assert "Traceback" not in output
