"""`reproduce report`, and what a run calls at its end."""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reproduce.papers.tables import Paper


def finish(
    results: Path | Sequence[Mapping[str, Any]],
    papers: Path | Mapping[str, Mapping[str, Any]],
    out: Path,
    claims: Sequence[Mapping[str, Any]] = (),
    figures: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Render the results of a run that has just ended.

    Args:
        results: the results themselves, or a folder of result files.
        papers: what the papers print by id, as `read_papers` gives it, or the folder of their TOML files.
        out: where the pages go.
        claims: what came of the papers' claims.
        figures: what the papers' figures show.

    Returns:
        The first HTML page.

    Raises:
        UserError: a file cannot be read.
    """
    from reports.render import render
    from reproduce.papers.results import read

    found = read(results) if isinstance(results, Path) else results
    described = read_papers(papers) if isinstance(papers, Path) else papers
    checked = _checked(papers) if isinstance(papers, Path) else None
    return render(found, described, out, claims=claims, figures=figures, checked=checked)[0]


def _checked(suites: Path) -> Mapping[str, Paper] | UserError:
    """The papers for the audit; a file that it cannot read spoils no report."""
    from reproduce.papers.tables import read_all

    try:
        return read_all(suites)
    except UserError as error:
        return error


def _results(folder: Path) -> list[dict[str, Any]]:
    """The results of a folder; none where a run kept nothing but figures, beside it."""
    from reproduce.papers.results import read

    return [] if not folder.exists() and _beside(folder, "figures") else read(folder)


def _claims(folder: Path) -> list[dict[str, Any]]:
    """The claims of a folder of results; a run keeps them beside it, the recorded ones lie in it."""
    from reproduce.papers.results import read_claims

    return [claim for place in (folder, *_beside(folder, "claims")) for claim in read_claims(place)]


def _figures(folder: Path) -> list[dict[str, Any]]:
    """The figures of a folder of results, found as its claims are."""
    from reproduce.papers.results import read_figures

    return [figure for place in (folder, *_beside(folder, "figures")) for figure in read_figures(place)]


def _beside(folder: Path, name: str) -> list[Path]:
    """The folder of this name that a run keeps beside that of its results, where there is one."""
    beside = folder.parent / name
    return [beside] if folder.name == "results" and beside.is_dir() else []


def read_papers(suites: Path) -> dict[str, dict[str, Any]]:
    """What the papers print: `<suites>/*.toml` by paper in the order of the file names, then those of other packages.

    Raises:
        UserError: the folder is missing, or a file is not TOML, or two describe one paper.
    """
    from reproduce.papers.tables import paths

    if not suites.is_dir():
        raise UserError(f"there is no folder {suites} with the papers' tables: name it with --suites")
    papers: dict[str, dict[str, Any]] = {}
    for path in paths(suites):
        try:
            described = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not readable TOML: {error}") from None
        name = described.get("paper")
        if not isinstance(name, str):
            raise UserError(f'{path} does not say which paper it describes: add paper = "{path.stem}"')
        if name in papers:
            raise UserError(f"{path} describes the paper {name}, and so does another file: keep one")
        papers[name] = described
    return papers


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

    papers = read_papers(options.suites)
    if options.compare:
        return _compare(options, papers)
    folders = options.results or [Path("build/results")]
    results = [result for folder in folders for result in _results(folder)]
    claims = [claim for folder in folders for claim in _claims(folder)]
    figures = [figure for folder in folders for figure in _figures(folder)]
    checked = _checked(options.suites)
    made = render(results, papers, options.out, claims=claims, figures=figures, checked=checked, title=options.title)
    for path in made:
        print(path)
    if options.readme is not None:
        changed = update_readme(options.readme, readme_table(results, papers))
        print(f"{options.readme} {'renewed' if changed else 'is up to date'}")
    return 0


def _compare(options: argparse.Namespace, papers: Mapping[str, Mapping[str, Any]]) -> int:
    from reports.compare import compare, text, write_page
    from reproduce.papers.results import read

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
