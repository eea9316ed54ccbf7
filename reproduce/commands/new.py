"""Write the package of a new paper: tables, recipes and a method that runs as it is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from reproduce.errors import UserError


def paper(name: str, folder: Path) -> list[Path]:
    """Write a package for a paper.

    Args:
        name: the paper's id, which also names the package `<name>_reid`.
        folder: an empty or new folder.

    Returns:
        The files written.

    Raises:
        UserError: the name is no Python name in lower case, or the folder is not empty.
    """
    if not name.isidentifier() or name != name.lower():
        raise UserError(f"{name!r} cannot name a Python package: give lower-case letters, digits and underscores")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name another with --into")
    package = folder / f"{name}_reid"
    suites = package / "suites"
    templates = {
        folder / "pyproject.toml": "pyproject.toml",
        package / "method.py": "method.py",
        suites / f"{name}.toml": "paper.toml",
        suites / f"test_{name}.py": "suite.py",
    }
    suites.mkdir(parents=True)
    for path, template in templates.items():
        text = files("reproduce.commands").joinpath("template", f"{template}.txt").read_text()
        path.write_text(Template(text).substitute(name=name))
    for path in (package, suites):
        (path / "__init__.py").touch()
    return list(templates)
