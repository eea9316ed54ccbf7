"""`reproduce report`, and what a run calls at its end."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reproduce.papers.records import ClaimRecord, FigureRecord, Result
    from reproduce.papers.tables import Paper


def finish(
    results: Sequence[Result],
    suites: Path,
    out: Path,
    claims: Sequence[ClaimRecord] = (),
    figures: Sequence[FigureRecord] = (),
) -> Path:
    """Render what a run that has just ended kept.

    Args:
        results: of rows.
        suites: the folder of the papers' TOML files.
        out: where the pages go.
        claims: what came of the papers' claims.
        figures: what the papers' figures show.

    Returns:
        The first HTML page.
    """
    from reports.render import render

    papers, problem = readable(suites)
    return render(results, papers, out, claims=claims, figures=figures, problem=problem)[0]


def readable(suites: Path) -> tuple[dict[str, Paper], str]:
    """The papers of a folder and of other packages that can be read, and what is wrong with the others: a damaged file
    spoils no report.
    """
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
    """The results of a folder; none where a run kept nothing but figures, beside it."""
    from reproduce.papers.records import read

    return [] if not folder.exists() and _beside(folder, "figures") else read(folder)


def _claims(folder: Path) -> list[ClaimRecord]:
    """The claims of a folder of results; a run keeps them beside it, the recorded ones lie in it."""
    from reproduce.papers.records import read_claims

    return [claim for place in (folder, *_beside(folder, "claims")) for claim in read_claims(place)]


def _figures(folder: Path) -> list[FigureRecord]:
    """The figures of a folder of results, found as its claims are."""
    from reproduce.papers.records import read_figures

    return [figure for place in (folder, *_beside(folder, "figures")) for figure in read_figures(place)]


def _beside(folder: Path, name: str) -> list[Path]:
    """The folder of this name that a run keeps beside that of its results, where there is one."""
    beside = folder.parent / name
    return [beside] if folder.name == "results" and beside.is_dir() else []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `reproduce report`."""
    parser.add_argument(
        "results", nargs="*", type=Path, metavar="RESULTS_DIR", help="folders of results (default: build/results)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build"), metavar="DIR", help="where the pages go (default: build)"
    )
    parser.add_argument(
        "--suites", type=Path, default=Path("suites"), metavar="DIR", help="the papers' tables (default: suites)"
    )
    parser.add_argument("--title", default="reproduce", help="heading of the page")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="also renew the table between the markers of this file"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="instead, say what moved between two folders of results",
    )


def run(options: argparse.Namespace) -> int:
    """Render what the options name and say where it went.

    Raises:
        UserError: something that was named cannot be read.
    """
    from reports.readme import readme_table, update_readme
    from reports.render import render
    from reproduce.papers.tables import read_all

    papers = read_all(options.suites)
    if options.compare:
        return _compare(options, papers)
    folders = options.results or [Path("build/results")]
    results = [result for folder in folders for result in _results(folder)]
    claims = [claim for folder in folders for claim in _claims(folder)]
    figures = [figure for folder in folders for figure in _figures(folder)]
    made = render(results, papers, options.out, claims=claims, figures=figures, problem="", title=options.title)
    for path in made:
        print(path)
    if options.readme is not None:
        changed = update_readme(options.readme, readme_table(results, papers))
        print(f"{options.readme} {'renewed' if changed else 'is up to date'}")
    return 0


def _compare(options: argparse.Namespace, papers: Mapping[str, Paper]) -> int:
    from reports.compare import compare, text, write_page
    from reproduce.papers.records import read

    if options.results or options.readme:
        raise UserError("--compare OLD NEW compares two folders and does nothing else: leave the others out")
    old, new = options.compare
    found = compare(read(old), read(new), papers)
    print(text(found), end="")
    print(write_page(found, options.out, (str(old), str(new))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`reproduce report [RESULTS_DIR ...]` or `--compare OLD NEW`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="reproduce report", description="Set measured numbers beside the printed ones."
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except UserError as error:
        print(f"reproduce report: {error}", file=sys.stderr)
        return 2
