"""The `reproduce` command: plans, stages, results, drawn data, housekeeping."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.commands.bench_train import NET, RESNET50
from reproduce.data import catalogue
from reproduce.dataset import Unlabelled
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.papers.installed import RECORDED, check_packages, suites_folder
from reproduce.papers.tables import read_all
from reproduce.scales import SCALES, stand_in_size
from reproduce.wording import counted

if TYPE_CHECKING:
    from reproduce.running.runner import Store

STORE = Path("build/store")

OWN = Path("build/results")
"""Folder of the results of a run."""


BENCH = {
    "neighbours": ["1000", "2000"],
    "evaluate": ["168x986", "336x1973"],
    "rerank": ["168x986", "336x1973"],
    "train": ["32"],
}
"""Kernels to measure, each with its usual sizes, which take minutes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; user errors end it with one line and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    others = {entry.name: entry for entry in entry_points(group="reproduce.commands")}
    try:
        if arguments and arguments[0] in others:
            check_packages()
            return int(others[arguments[0]].load()(arguments[1:]) or 0)
        options, rest = _parser(list(others)).parse_known_args(arguments)
        if rest and options.run is not plan:
            _parser(list(others)).error(f"unknown arguments: {' '.join(rest)}")
        options.rest = rest
        return int(options.run(options) or 0)
    except UserError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2


def _parser(others: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reproduce",
        description="Does this paper reproduce? Cases are run with pytest: `pytest suites/ -k m2d --scale small`.",
        epilog=f"more commands: {', '.join(others)}" if others else None,
    )
    parser.add_argument("--version", action="version", version=f"reproduce-reid {version('reproduce-reid')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    suites = suites_folder()
    recorded = suites.parent / RECORDED
    in_suites, in_results, in_store = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    in_suites.add_argument(
        "--suites", type=Path, default=suites, help=f"folder of the papers' tables (default {suites})"
    )
    in_results.add_argument("--results", type=Path, default=recorded, help=f"folder of results (default {recorded})")
    in_store.add_argument("--store", type=Path, default=STORE, help=f"folder of finished stages (default {STORE})")

    command = commands.add_parser(
        "doctor", help="check data, weights and devices, and say what is missing", parents=[in_suites]
    )
    command.add_argument("--data-root", metavar="DIR", help="folder of the data sets (default: REID_DATA)")
    command.add_argument("--domain", action="append", default=[], metavar="NAME=DIR", help="folder of one data set")
    command.add_argument("--weights", type=Path, metavar="DIR", help="folder of published weights")
    command.add_argument(
        "--deep",
        action="store_true",
        help="decode all images, and read them again to find changes that keep size and time",
    )
    command.set_defaults(run=doctor)

    command = commands.add_parser(
        "plan",
        help="list the distinct stages of cases: `reproduce plan -k m2d --scale small`",
        usage="reproduce plan [-h] [PYTEST_OPTION ...]",
        description="List the distinct stages of cases and how long they took in earlier runs.",
        epilog="Options are those of `pytest suites/`, such as -k, --scale, --seeds and --data-root.",
    )
    command.set_defaults(run=plan)

    command = commands.add_parser(
        "stage", help="show one finished stage: spec, provenance, last values", parents=[in_store]
    )
    command.add_argument("key", help="the stage's key, or its first characters")
    command.set_defaults(run=stage)

    command = commands.add_parser(
        "show", help="print measured beside printed results, or all that is known of a table", parents=[in_suites]
    )
    command.add_argument(
        "what",
        nargs="*",
        metavar="DIR | PAPER [TABLE]",
        help=f"folder of results (default {recorded}), or a paper and a table of it, such as msplr 3",
    )
    command.add_argument(
        "--results",
        type=Path,
        action="append",
        metavar="DIR",
        help=f"for a paper, a folder of results; may be repeated (default {recorded} and {OWN}, if it exists)",
    )
    command.add_argument("--claims", action="store_true", help="instead, print the papers' claims, in our own words")
    command.set_defaults(run=show)

    command = commands.add_parser("tables", help="print every number that the papers print", parents=[in_suites])
    form = command.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", action="store_true", help="one line per number")
    form.add_argument("--markdown", action="store_true", help="tables as the papers draw them")
    command.set_defaults(run=tables)

    command = commands.add_parser("audit", help="find contradictions in printed numbers", parents=[in_suites])
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--ids", action="store_true", help="print the entries that keep the findings' ids, by paper")
    command.set_defaults(run=audit)

    command = commands.add_parser(
        "evidence", help="print all that is known of a method", parents=[in_suites, in_results]
    )
    command.add_argument("method", help="name of the method, as tables print it, such as MMT")
    command.set_defaults(run=evidence)

    command = commands.add_parser(
        "export", help="print all printed, reported and measured numbers", parents=[in_suites, in_results]
    )
    command.add_argument("--format", choices=["json", "csv"], default="json", help="format (default json)")
    command.add_argument("--schema", action="store_true", help="instead, print the JSON Schema of the JSON")
    command.set_defaults(run=export)

    command = commands.add_parser("results", help="record the results of a run under reports/results")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", action="store_true", help="record the run's results")
    what.add_argument("--migrate", action="store_true", help="convert records written by earlier versions")
    command.add_argument(
        "--data-root", metavar="DIR", help="for --migrate, folder of the data sets (default: REID_DATA)"
    )
    command.add_argument(
        "--domain", action="append", default=[], metavar="NAME=DIR", help="for --migrate, folder of one data set"
    )
    command.add_argument(
        "--elsewhere", action="store_true", help="add the numbers to records made on another processor"
    )
    command.add_argument("--out", type=Path, default=Path("build"), help="the run's --out (default build)")
    command.add_argument("--into", type=Path, default=RECORDED, help=f"folder of the records (default {RECORDED})")
    command.set_defaults(run=record)

    command = commands.add_parser(
        "gc", help="list what can be removed from the store; --delete removes it", parents=[in_store]
    )
    command.add_argument(
        "--keep",
        type=Path,
        nargs="*",
        metavar="DIR",
        help=f"folders of results whose stages stay; without any, none (default: beside STORE, {OWN}, {RECORDED})",
    )
    command.add_argument("--delete", action="store_true", help="delete what is listed")
    command.set_defaults(run=gc)

    command = commands.add_parser("bench", help="measure kernels and training steps beside bare matrix products")
    command.add_argument(
        "what", choices=list(BENCH), nargs="?", default="neighbours", help="kernel to measure (default neighbours)"
    )
    usual = "; ".join(f"{what}: {' '.join(sizes)}" for what, sizes in BENCH.items())
    command.add_argument(
        "--sizes",
        nargs="+",
        metavar="N",
        help="number of images; queries x gallery, as 336x1973; for train the batch size, or 16x256 with the height of"
        f" images (default {usual})",
    )
    command.add_argument(
        "--net", metavar="MODULE:NAME", help=f"net to train, a function or class without arguments (default {RESNET50})"
    )
    command.add_argument("--columns", type=int, default=2048, help="dimension of the embeddings (default 2048)")
    command.add_argument("--repeats", type=int, default=3, help="rounds; their median is reported (default 3)")
    command.add_argument("--threads", type=int, help="threads per measurement (default: all cores)")
    command.add_argument(
        "--dense", type=int, default=6000, help="largest number of images for dense references (default 6000)"
    )
    command.add_argument(
        "--out", type=Path, default=Path("build/bench"), help="folder for the measurements (default build/bench)"
    )
    command.set_defaults(run=bench)

    new = commands.add_parser("new", help="write a package for a paper or method of your own")
    kinds = new.add_subparsers(required=True, metavar="KIND")
    kind = kinds.add_parser("paper", help="its tables, a method and the recipe of each row; runs as it is")
    kind.add_argument("name", help="id of the paper, a lower-case Python name, such as mine")
    kind.add_argument("--into", type=Path, metavar="DIR", help="an empty or new folder (default: NAME)")
    kind.set_defaults(run=new_paper)

    data = commands.add_parser("data", help="draw stand-ins and contact sheets, count or pack folders, convert weights")
    verbs = data.add_subparsers(required=True, metavar="VERB")
    drawn = catalogue.drawn()

    verb = verbs.add_parser("make", help="draw a domain into a folder")
    verb.add_argument("domain", choices=drawn, help="domain to draw")
    verb.add_argument("folder", type=Path, help="an empty or new folder")
    verb.add_argument("--scale", choices=list(SCALES), default="small", help="scale that sets the size (default small)")
    verb.add_argument("--world-seed", type=int, default=1, help="seed of the stand-in world (default 1)")
    verb.set_defaults(run=make)

    verb = verbs.add_parser("sheet", help="draw contact sheets: each domain, each dial, objects")
    verb.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("build/sheets"),
        help="folder for the sheets (default build/sheets)",
    )
    verb.add_argument("--world-seed", type=int, default=1, help="seed of the stand-in world (default 1)")
    verb.add_argument(
        "--of",
        type=Path,
        action="append",
        metavar="DIR",
        help="instead, show training images of this folder; repeated: images of the same names below each other",
    )
    verb.set_defaults(run=sheet)

    verb = verbs.add_parser("info", help="count identities, images and cameras of a folder")
    verb.add_argument("domain", help="data set that the folder holds, such as market")
    verb.add_argument("folder", type=Path, help="the data set's folder")
    verb.add_argument(
        "--variant",
        default="",
        help="variant of the data set: train+val or train (msmt17), labelled or detected (cuhk03), ...",
    )
    verb.set_defaults(run=info)

    verb = verbs.add_parser("pack", help="pack a folder of images without labels, such as LUPerson, into tar shards")
    verb.add_argument("folder", type=Path, help="folder of images, at any depth")
    verb.add_argument("into", type=Path, help="empty folder for the pack, or that of a killed packing, which goes on")
    verb.add_argument(
        "--shard-size", type=int, default=1024, metavar="MIB", help="images per shard, in MiB (default 1024)"
    )
    verb.set_defaults(run=pack)

    verb = verbs.add_parser("weights", help="convert a published file of ResNet-50 weights; no code in it is run")
    verb.add_argument(
        "file", type=Path, help="a .pth of torchvision, IBN-Net, OpenUnReID, fast-reid, MoCo, LUPerson, ..."
    )
    verb.add_argument("--as", dest="name", required=True, metavar="NAME", help="name for recipes, such as luperson")
    verb.add_argument("--net", metavar="PREFIX", help="prefix of the net to convert, if the file holds several")
    verb.add_argument("--into", type=Path, metavar="DIR", help="folder for the weights (default: the one runs read)")
    verb.set_defaults(run=take_weights)
    return parser


def doctor(options: argparse.Namespace) -> int:
    """Print the doctor's page; return 1 if something is broken."""
    from reproduce.commands.doctor import page
    from reproduce.session.planning import collected
    from reproduce.session.setting import data_root, given_folders

    if options.weights and not options.weights.is_dir():
        raise UserError(f"--weights {options.weights} is no folder: give a folder of weights files")
    papers, cases = read_all(options.suites).values(), collected(options.suites)
    folders = data_root(options.data_root), given_folders(options.domain)
    text, sound = page(papers, cases, *folders, options.weights, deep=options.deep)
    print(text, end="")
    return 0 if sound else 1


def plan(options: argparse.Namespace) -> int:
    """Collect cases with pytest and list their stages."""
    import pytest

    quiet = ["-q", "--no-header", "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # this package is imported
    return int(pytest.main(["suites", "--plan", *quiet, *options.rest]))


def stage(options: argparse.Namespace) -> None:
    """Print spec, provenance and last values of one finished stage."""
    matches = sorted(options.store.glob(f"*/{options.key}*/artifact.json"))
    if len(matches) != 1:
        several = ", ".join(path.parent.name for path in matches[:5])
        problem = (
            f"{len(matches)} stages begin with {options.key}: {several}"
            if matches
            else f"no stage begins with {options.key}"
        )
        raise UserError(f"{problem} in {options.store}; `reproduce plan` lists keys, --store names another store")
    record = json.loads(matches[0].read_text())
    print(f"{record['stage']} {record['key']}\n{matches[0].parent}\n")
    for title in ("spec", "provenance"):
        print(f"{title}:")
        for name, value in record[title].items():
            print(f"  {name:16} {json.dumps(value)}")
        print()
    for entry in json.loads((matches[0].parent / "history.json").read_text())[-3:]:
        print("  ".join(f"{name} {value:.4g}" for name, value in entry.items()))


def show(options: argparse.Namespace) -> None:
    """Print the results of a folder or all that is known of a table, or the papers' claims."""
    from reproduce.papers.export import claims_page
    from reproduce.session.display import summary
    from reproduce.session.planning import collected

    if options.claims:
        print(claims_page(read_all(options.suites).values(), collected(options.suites)), end="")
        return

    if options.what and not (len(options.what) == 1 and Path(*options.what).is_dir()):
        _show_tables(options)
        return
    if options.results:
        raise UserError("--results goes with a paper: name the folder alone, as in `reproduce show DIR`")
    folder = Path(*options.what) if options.what else suites_folder().parent / RECORDED
    results = records.read(folder)
    if not results:
        raise UserError(f"{folder} holds no results: run `pytest suites/` first, or name another folder")
    print(summary(results, shutil.get_terminal_size().columns, colour=sys.stdout.isatty()), end="")


def _show_tables(options: argparse.Namespace) -> None:
    from reproduce.commands.show import find_tables, page
    from reproduce.papers.reported import read_all as read_reported
    from reproduce.session.planning import collected

    if len(options.what) > 2:
        raise UserError("show takes a folder of results, or a paper and its table: `reproduce show msplr 3`")
    papers = read_all(options.suites)
    paper, several = find_tables(papers, *options.what)
    usual = [folder for folder in (options.suites.parent / RECORDED, OWN) if folder.is_dir()]
    results = {
        records.path_of(result, Path()): result
        for folder in options.results or usual
        for result in records.read(folder)
    }
    reported = read_reported(options.suites, papers)
    size = shutil.get_terminal_size().columns
    cases = collected(options.suites)
    pages = [page(paper, each, reported, results.values(), cases, size, colour=sys.stdout.isatty()) for each in several]
    print("\n".join(pages), end="")


def tables(options: argparse.Namespace) -> None:
    """Print every number of the papers' tables."""
    from reproduce.papers.export import as_csv, as_markdown
    from reproduce.papers.reported import read_all as read_reported

    papers = read_all(options.suites)
    reported = read_reported(options.suites, papers)
    print(as_csv(papers) if options.csv else as_markdown(papers.values(), reported), end="")


def audit(options: argparse.Namespace) -> None:
    """Print the contradictions between the papers' numbers."""
    from reproduce.papers.audit import as_json, entries
    from reproduce.papers.audit import audit as audited
    from reproduce.papers.export import audit_page

    papers = read_all(options.suites)
    found = audited(papers)
    if options.ids:
        print("\n".join(f"# {paper.id}.toml\n\n{entries(found, paper)}" for paper in papers.values()), end="")
    else:
        print(json.dumps(as_json(found), indent=1) if options.json else audit_page(found, papers.values()), end="")


def evidence(options: argparse.Namespace) -> None:
    """Print all that is known of a method."""
    from reproduce.papers.evidence import evidence_page
    from reproduce.papers.reported import read_all as read_reported

    papers = read_all(options.suites)
    reported = read_reported(options.suites, papers)
    results, claims = _recorded(options.results)
    print(evidence_page(options.method, papers, reported, results, claims), end="")


def export(options: argparse.Namespace) -> None:
    """Print all printed, reported and measured numbers, or the schema of the JSON."""
    from reproduce.papers.exchange import SCHEMA, as_csv, as_json
    from reproduce.papers.reported import read_all as read_reported

    if options.schema:
        print(json.dumps(SCHEMA, indent=1))
        return
    papers = read_all(options.suites)
    everything = papers, read_reported(options.suites, papers).reports, _recorded(options.results)[0]
    print(as_csv(*everything) if options.format == "csv" else json.dumps(as_json(*everything), indent=1))


def _recorded(folder: Path) -> tuple[list[records.Result], list[records.ClaimRecord]]:
    """Read the results and claims of a folder, which may be missing."""
    return (records.read(folder), list(records.read_claims(folder))) if folder.is_dir() else ([], [])


def record(options: argparse.Namespace) -> None:
    """Copy a run's results to the recorded ones: numbers, never pictures."""
    if options.migrate:
        moved = list(records.migrate(options.into, _digests(options)))
        for old, new in moved:
            print(f"{old} -> {new.name}")
        print(f"{counted(len(moved), 'record')} carried over; next: git add {options.into}")
        return
    folder = options.out / "results"
    results = records.read(folder) if folder.is_dir() else []
    kept = [result for result in results if result.measured]
    drawings = records.read_figures(options.out / "figures")
    if not kept and not drawings:
        raise UserError(f"{folder} holds no measured results: run `pytest suites/` first, or give --out")
    if options.elsewhere:
        for result in kept:
            print(records.record_elsewhere(result, options.into))
        print(f"{counted(len(kept), 'record')} measured on this processor too; next: git add {options.into}")
        return
    drawn = records.record_figures(drawings, options.into)
    for result in kept:
        print(records.record(result, options.into))
    tried = records.read_claims(options.out / "claims")
    for claim in tried:
        print(records.write(claim, options.into / "claims"))
    for path in drawn:
        print(path)
    failed = len(results) - len(kept)
    print(
        f"{counted(len(kept), 'result')}, {counted(len(tried), 'claim')} and {counted(len(drawn), 'figure')} recorded"
        f"{f', {failed} without numbers left out' if failed else ''};",
        f"next: git add {options.into}",
    )


def _digests(options: argparse.Namespace) -> dict[str, str]:
    """Map the digests that earlier versions computed for the given data sets to the present ones."""
    from reproduce.data.layouts import find
    from reproduce.data.manifests import digest, former_digest
    from reproduce.data.reading import read
    from reproduce.session.setting import data_root, given_folders

    root, given = data_root(options.data_root), given_folders(options.domain)
    folders = {name: given.get(name) or (find(root, name) if root else None) for name in catalogue.CATALOGUE}
    sets = [
        read(folder, name, variant=variant)
        for name, folder in folders.items()
        if folder
        for variant in catalogue.variants(name)
    ]
    return {former_digest(dataset): digest(dataset) for dataset in sets}


def gc(options: argparse.Namespace) -> None:
    """List or delete drafts and states of dead runs, and artifacts that no kept result or queued job names."""
    from reproduce.running.runner import Store

    if not (options.store / "store.json").exists():
        raise UserError(f"{options.store} is no store: name one with --store")
    store = Store(options.store)
    beside = (store.root.parent / "results", OWN, RECORDED)
    usual = list({folder.resolve(): folder for folder in beside if _has_records(folder)}.values())
    if options.keep is None and not usual:
        raise UserError(f"no results lie beside {store.root}: name folders with --keep DIR, or keep none by --keep")
    for folder in options.keep or ():
        if not _has_records(folder):
            raise UserError(f"--keep {folder}: there is no such folder of results")
    with store.used("gc") if options.delete else contextlib.nullcontext():
        _collect(store, usual if options.keep is None else options.keep, delete=options.delete)
    if options.delete:
        print(" deleted")
        return
    words = ["reproduce gc", f"--store {shlex.quote(str(options.store))}"]
    words += [" ".join(["--keep", *map(shlex.quote, map(str, options.keep))])] if options.keep is not None else []
    print(f"; next: {' '.join(words)} --delete")


def _collect(store: Store, keep: Sequence[Path], *, delete: bool) -> None:
    from reproduce.running.cluster import queued

    jobs = queued(store.root)
    awaited = {key for job in jobs for key in job.stages}
    kept = awaited | {
        stage.key
        for folder in keep
        for record in (
            *(records.read(folder) if folder.is_dir() else ()),
            *records.read_figures(folder),
            *records.read_figures(folder.parent / "figures"),
        )
        for stage in record.stages
    }
    artifacts = [path.parent for path in sorted(store.root.glob("*/*/artifact.json")) if path.parent.name not in kept]
    unfinished = sorted([*store.root.glob(".drafts/*"), *store.root.glob(".scratch/*")])
    leftovers = [path for path in unfinished if path.name.partition("@")[0] not in awaited]
    building = {path.stem for path in store.root.glob(".locks/*.lock") if _held(store, path.stem)}
    if building and delete:  # by a run of a version that leaves no note
        raise UserError(f"a run is building stage {min(building)} in {store.root}: wait for its end")
    if jobs:
        print(f"{counted(len(jobs), 'job')} in a queue, or not collected from it yet: what they build and need stays")
    size = 0
    for folder in [*leftovers, *artifacts]:
        size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        what = "unfinished" if folder in leftovers else "unused"
        print(f"{'in use' if folder.name.partition('@')[0] in building else what:10}  {folder}")
        if delete:
            shutil.rmtree(folder)
    print(f"{len(leftovers) + len(artifacts)} folders, {size / 2**20:.1f} MiB", end="")


def _has_records(folder: Path) -> bool:
    return folder.is_dir() or (folder.name == "results" and (folder.parent / "figures").is_dir())


def _held(store: Store, key: str) -> bool:
    with store.lock_key(key) as free:
        return not free


def bench(options: argparse.Namespace) -> None:
    """Run a benchmark and print its measurements."""
    from reproduce.commands.bench import bench as measure

    if options.net:
        os.environ[NET] = options.net
    try:
        sizes = [tuple(map(int, size.split("x"))) for size in options.sizes or BENCH[options.what]]
    except ValueError:
        raise UserError(f"--sizes {' '.join(options.sizes)}: give whole numbers, such as 2000 or 336x1973") from None
    measure(
        options.what,
        sizes,
        columns=options.columns,
        repeats=options.repeats,
        threads=options.threads,
        dense=options.dense,
        out=options.out,
    )


def new_paper(options: argparse.Namespace) -> None:
    """Write the package of a new paper and say how to run it."""
    from reproduce.commands.new import paper

    folder = options.into or Path(options.name)
    for path in paper(options.name, folder):
        print(path)
    print(f"next: pip install -e {folder} && pytest {folder}/{options.name}_reid/suites --scale smoke")


def make(options: argparse.Namespace) -> None:
    """Draw a domain in the layout of the data set that it imitates."""
    from reproduce.data.world import Dials, draw

    if options.folder.exists() and any(options.folder.iterdir()):
        raise UserError(f"{options.folder} is not empty: name another folder")
    size = stand_in_size(options.domain, SCALES[options.scale])
    pixels = draw(options.folder, options.domain, seed=options.world_seed, size=size, dials=Dials(), progress=_dots)
    print(f"\ndrew {options.domain} into {options.folder} (pixels {pixels[:12]})")
    print(f"next: reproduce data info {options.domain} {options.folder}")


def pack(options: argparse.Namespace) -> None:
    """Pack a folder of images without labels."""
    from reproduce.data.packing import pack as write
    from reproduce.data.packs import pack_at
    from reproduce.data.reading import read

    if options.shard_size < 1:
        raise UserError(f"--shard-size {options.shard_size}: give at least 1 MiB")
    if options.into.resolve().is_relative_to(options.folder.resolve()):
        raise UserError(f"{options.into} lies in {options.folder}: name a folder outside it")
    if pack_at(options.folder):
        raise UserError(f"{options.folder} is a pack already: give the folder of images")
    whole = read(options.folder, "luperson")
    assert isinstance(whole.train, Unlabelled)
    contents = write(whole.train, whole.root, options.into, shard_bytes=options.shard_size << 20, progress=_dots)
    print(f"\npacked {contents.images:,} images of {options.folder} into {counted(len(contents.shards), 'shard')}")
    print(f"next: pytest suites/ --domain luperson={options.into}")


def sheet(options: argparse.Namespace) -> None:
    """Draw contact sheets."""
    from reproduce.data.sheets import contact_sheet, dial_sheet, folder_sheet, object_sheet
    from reproduce.data.world import CAUSES

    options.folder.mkdir(parents=True, exist_ok=True)
    if options.of:
        folder_sheet(options.of).save(options.folder / "folders.png")
        print(options.folder / "folders.png")
        return
    pages = {"objects": object_sheet}
    pages |= {domain: partial(contact_sheet, domain, seed=options.world_seed) for domain in catalogue.drawn()}
    pages |= {cause: partial(dial_sheet, cause, seed=options.world_seed) for cause in CAUSES}
    for name, page in pages.items():
        path = options.folder / f"{name}.png"
        page().save(path)
        print(path)


def info(options: argparse.Namespace) -> None:
    """Count identities, images and cameras of a folder, beside the published counts."""
    from reproduce.data.domains import Domain
    from reproduce.data.reading import describe, read

    domain = Domain(options.domain, options.variant)
    whole = read(options.folder, domain.name, variant=domain.variant)
    described = describe(whole)
    published = catalogue.published(domain.name, domain.variant)
    print(" ".join(filter(None, (domain.name, whole.version, domain.variant, str(whole.root)))))
    for split in ("train", "query", "gallery"):
        counts = getattr(described, split)
        beside = f"   published: {_counts(getattr(published, split))}" if published else ""
        print(f"{split:8} {_counts(counts)}{beside}")
    print(f"distractors {described.distractors}, junk {described.junk}")


def take_weights(options: argparse.Namespace) -> None:
    """Convert a published file of weights and print what it holds."""
    from reproduce import weights

    converted = weights.convert(options.file, options.name, options.into or weights.folders()[0], net=options.net)
    print(converted.path)
    print(f"sha256   {converted.sha256}")
    print(f"source   {converted.source}, sha256 {converted.source_sha256}")
    origin = converted.prefix or "the top"
    print(f"holds    a {converted.backbone}, from {origin}; {converted.left_out} other tensors left out")
    if not weights.is_published(options.name, converted.backbone, converted.source_sha256):
        print(f"note     not known as the published {options.name} weights: results will not be comparable")
    if converted.stem_relu is False:
        print("note     its own code runs the stem without a ReLU: stem_relu=False repeats that")
    print(f"next:    --weights {converted.path.parent}" if options.into else "next:    runs find it by themselves")


def _counts(counts: object) -> str:
    return ", ".join(f"{value} {name}" for name, value in vars(counts).items())


def _dots(done: int, count: int) -> None:
    print(f"\r{done}/{count} images", end="", flush=True)
