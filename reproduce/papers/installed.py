"""Find the suites: in the working directory, in this installation, and in other packages."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from reproduce.errors import UserError
from reproduce.running.provenance import ROOT

SUITES = "suites"
"""Name of the folder of the papers' tables and of the recipes that produce them."""

RECORDED = Path("reports", "results")
"""Folder of recorded results, beside the suites."""


def suites_folder() -> Path:
    """Return `suites` under the working directory if it holds papers, else the installed one."""
    here = Path(SUITES)
    return here if any(here.glob("*.toml")) else ROOT / SUITES


def outside() -> list[Path]:
    """List the suite folders of other installed packages, from entry points of the group `reproduce.suites`.

    Raises:
        UserError: An entry point names no package.
    """
    folders = []
    for entry in entry_points(group="reproduce.suites"):
        spec = find_spec(entry.value)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"the entry point {entry.name} of reproduce.suites names {entry.value!r}, no package")
        folders.append(Path(spec.submodule_search_locations[0]))
    return folders


def check_packages() -> None:
    """Check that the packages methods and reports are those of this installation; suites are found by their path.

    A folder of results called `reports` in the working directory hides what an editable installation maps, though it is
    no package; with the installation's root on the path the package is found before it.

    Raises:
        UserError: A package of the same name hides one of them.
    """
    for name in ("methods", "reports"):
        spec = find_spec(name)
        if spec and spec.origin is None and str(ROOT) not in sys.path:
            sys.path.append(str(ROOT))
            spec = find_spec(name)
        places = [Path(place).resolve() for place in spec.submodule_search_locations or ()] if spec else []
        if places[:1] != [ROOT / name]:
            found = f"{places[0]} hides" if places else "nothing can be imported as"
            raise UserError(
                f"{found} the package {name!r} of this installation ({ROOT / name}): "
                "rename it, start from another folder, or install into a virtual environment of its own"
            )
