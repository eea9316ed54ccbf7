"""Implement `reproduce report`, and `finish`, which a run calls at its end."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reports.files import check_shows
from reports.words import slug
from reproduce.errors import UserError
from reproduce.papers.installed import suites_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reproduce.papers.cases import Coverage
    from reproduce.papers.records import ClaimRecord, FigureRecord, Result
    from reproduce.papers.tables import Paper


OWN = Path("build", "results")
"""Folder of the results of a run."""


def finish(
    results: Sequence[Result],
    suites: Path,
    out: Path,
    claims: Sequence[ClaimRecord] = (),
    figures: Sequence[FigureRecord] = (),
) -> Path:
    """Render the records of a run that has just ended.

    Args:
        results: Results of rows.
        suites: Folder of the papers' TOML files.
        out: Folder for the pages.
        claims: Results of the papers' claims.
        figures: Records of the papers' figures.

    Returns:
        Path of the first HTML page.
    """
    from reports.render import render
    from reproduce.papers.reported import NOBODY, read_all

    papers, problem = readable(suites)
    reported = NOBODY
    try:
        reported = read_all(suites, papers)
    except UserError as error:
        problem = "; ".join(filter(None, (problem, str(error))))
    return render(
        results,
        papers,
        out,
        claims=claims,
        figures=figures,
        problem=problem,
        covered=_covered(suites),
        reported=reported,
        of=[out / "results"],
    )[0]


def readable(suites: Path) -> tuple[dict[str, Paper], str]:
    """Read the papers of a folder and of other packages; return them and the errors of damaged files as one text."""
    from reproduce.papers.tables import paths, read

    papers: dict[str, Paper] = {}
    problems = []
    for path in paths(suites):
        try:
            paper = read(path)
            papers.setdefault(paper.id, paper)
        except UserError as error:
            problems.append(str(error))
    return papers, "; ".join(problems)


def _results(folder: Path) -> list[Result]:
    """Read the results of a folder; return none if a run kept only figures, in the folder beside it."""
    from reproduce.papers.records import read

    return [] if not folder.exists() and _beside(folder, "figures") else read(folder)


def _claims(folder: Path) -> list[ClaimRecord]:
    """Read the claims of a folder of results: a run keeps them beside it, recorded ones lie in it."""
    from reproduce.papers.records import read_claims

    return [claim for place in (folder, *_beside(folder, "claims")) for claim in read_claims(place)]


def _figures(folder: Path) -> list[FigureRecord]:
    """Read the figures of a folder of results, which lie where its claims do."""
    from reproduce.papers.records import read_figures

    return [figure for place in (folder, *_beside(folder, "figures")) for figure in read_figures(place)]


def _beside(folder: Path, name: str) -> list[Path]:
    """Return the folder of this name beside a run's results, if there is one."""
    beside = folder.parent / name
    return [beside] if folder.name == "results" and beside.is_dir() else []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `reproduce report`."""
    parser.add_argument(
        "results", nargs="*", type=Path, metavar="RESULTS_DIR", help="folders of results (default: build/results)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the pages (default: build for build/results, else build/reports/NAME)",
    )
    parser.add_argument(
        "--suites",
        type=Path,
        default=suites_folder(),
        metavar="DIR",
        help="folder of the papers' tables (default: suites, or the installed ones)",
    )
    parser.add_argument("--title", default="reproduce", help="heading of the page (default: reproduce)")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="also update the table between the markers of this file"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="instead, list what moved between two folders of results",
    )


def run(options: argparse.Namespace) -> int:
    """Render the results that the options name and print the paths of the pages.

    Raises:
        UserError: a named file or folder cannot be read.
    """
    from reports.readme import printed_counts, readme_table, update_readme
    from reports.render import render
    from reproduce.papers.reported import read_all as read_reported
    from reproduce.papers.tables import read_all

    papers = read_all(options.suites)
    if options.compare:
        return _compare(options, papers)
    folders = options.results or [OWN]
    out = options.out or _out(folders)
    check_shows(out / "report", folders)
    results = [result for folder in folders for result in _results(folder)]
    claims = [claim for folder in folders for claim in _claims(folder)]
    figures = [figure for folder in folders for figure in _figures(folder)]
    pages = render(
        results,
        papers,
        out,
        claims=claims,
        figures=figures,
        problem="",
        covered=_covered(options.suites),
        reported=read_reported(options.suites, papers),
        title=options.title,
        of=folders,
    )
    for path in pages:
        print(path)
    if options.readme is not None:
        changed = update_readme(options.readme, readme_table(results, papers, claims), printed_counts(papers))
        print(f"{options.readme} {'renewed' if changed else 'is up to date'}")
    return 0


def _out(folders: Sequence[Path]) -> Path:
    """Return where a report of folders of results lies: with the run's, if they are those of build, else apart."""
    if [folder.resolve() for folder in folders] == [OWN.resolve()]:
        return OWN.parent
    whole = [folder.resolve() for folder in folders]
    names = [folder.parent.name if folder.name == OWN.name else folder.name for folder in whole]
    return OWN.parent / "reports" / slug("-".join(names))


def _covered(suites: Path) -> Coverage | None:
    """Tell what the cases of all suites cover; None if these cannot be collected, such as tables without tests."""
    from reproduce.papers.cases import coverage
    from reproduce.session.planning import collected

    try:
        return coverage(collected(suites))
    except UserError:
        return None


def _compare(options: argparse.Namespace, papers: Mapping[str, Paper]) -> int:
    from reports.compare import compare, text, write_page
    from reproduce.papers.records import read

    if options.results or options.readme:
        raise UserError("--compare OLD NEW compares two folders and does nothing else: leave the others out")
    old, new = options.compare
    comparison = compare(read(old), read(new), papers)
    print(text(comparison), end="")
    print(write_page(comparison, options.out or OWN.parent, (str(old), str(new))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `reproduce report [RESULTS_DIR ...]` or `--compare OLD NEW` and return the exit code."""
    parser = argparse.ArgumentParser(prog="reproduce report", description="Compare measured with printed numbers.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except UserError as error:
        print(f"reproduce report: {error}", file=sys.stderr)
        return 2
