"""The `reproduce` command: plans, stages, results, drawn data, housekeeping."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

from reproduce.data import catalogue
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.papers.tables import read_all
from reproduce.scales import SCALES, stand_in_size
from reproduce.session.display import counted

STORE = Path("build/store")
RECORDED = Path("reports/results")
SUITES = Path("suites")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; user errors end it with one line and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    others = {entry.name: entry for entry in entry_points(group="reproduce.commands")}
    try:
        if arguments and arguments[0] in others:
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
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("doctor", help="what is here and what is missing: data, weights, devices")
    command.add_argument("--data-root", metavar="DIR", help="where the data sets lie (default: REID_DATA)")
    command.add_argument("--domain", action="append", default=[], metavar="NAME=DIR", help="where one of them lies")
    command.add_argument("--weights", type=Path, metavar="DIR", help="folder of published weights")
    command.add_argument(
        "--deep", action="store_true", help="read all images again: some may have changed under their size and time"
    )
    command.add_argument("--suites", type=Path, default=SUITES, help=f"the papers' tables (default {SUITES})")
    command.set_defaults(run=doctor)

    command = commands.add_parser(
        "plan", help="list the distinct stages of cases: `reproduce plan -k m2d --scale small`"
    )
    command.set_defaults(run=plan)

    command = commands.add_parser("stage", help="show one finished stage: spec, provenance, last values")
    command.add_argument("key", help="the stage's key, or the first characters of it")
    command.add_argument("--store", type=Path, default=STORE)
    command.set_defaults(run=stage)

    command = commands.add_parser("show", help="print results beside what the papers print")
    command.add_argument("folder", type=Path, nargs="?", default=RECORDED, help=f"of results (default {RECORDED})")
    command.set_defaults(run=show)

    command.add_argument("--claims", action="store_true", help="instead, what the papers conclude, in our own words")
    command.add_argument("--suites", type=Path, default=SUITES, help=f"the papers' tables (default {SUITES})")

    command = commands.add_parser("tables", help="what the papers print, every number")
    form = command.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", action="store_true", help="a line for each number")
    form.add_argument("--markdown", action="store_true", help="tables as the papers draw them")
    command.add_argument("--suites", type=Path, default=SUITES, help=f"the papers' tables (default {SUITES})")
    command.set_defaults(run=tables)

    command = commands.add_parser("audit", help="what cannot all be true in what the papers print")
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--suites", type=Path, default=SUITES, help=f"the papers' tables (default {SUITES})")
    command.set_defaults(run=audit)

    command = commands.add_parser("results", help="keep the results of a run under reports/results")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", action="store_true", help="write them there")
    what.add_argument("--migrate", action="store_true", help="update records that earlier versions wrote")
    command.add_argument(
        "--data-root", metavar="DIR", help="for --migrate, where the data sets lie (default: REID_DATA)"
    )
    command.add_argument(
        "--domain", action="append", default=[], metavar="NAME=DIR", help="for --migrate, where one of them lies"
    )
    command.add_argument(
        "--elsewhere", action="store_true", help="add their numbers to records made on another processor"
    )
    command.add_argument("--out", type=Path, default=Path("build"), help="the run's --out (default build)")
    command.add_argument("--into", type=Path, default=RECORDED, help=f"where records lie (default {RECORDED})")
    command.set_defaults(run=record)

    command = commands.add_parser("gc", help="list what the store can do without; --delete removes it")
    command.add_argument("--store", type=Path, default=STORE)
    command.add_argument(
        "--keep", type=Path, nargs="*", default=[Path("build/results"), RECORDED], help="results whose stages stay"
    )
    command.add_argument("--delete", action="store_true")
    command.set_defaults(run=gc)

    command = commands.add_parser("bench", help="measure kernels and training steps beside bare matrix products")
    command.add_argument("what", choices=["neighbours", "evaluate", "rerank", "train"])
    command.add_argument(
        "--sizes", nargs="+", required=True, metavar="N", help="images; queries x gallery, as 336x1973; batch for train"
    )
    command.add_argument("--columns", type=int, default=2048, help="of the embeddings (default 2048)")
    command.add_argument("--repeats", type=int, default=3, help="rounds, of which the median counts (default 3)")
    command.add_argument("--threads", type=int, help="of a measurement (default: all cores)")
    command.add_argument("--dense", type=int, default=6000, help="most images for dense references (default 6000)")
    command.add_argument("--out", type=Path, default=Path("build/bench"))
    command.set_defaults(run=bench)

    data = commands.add_parser("data", help="draw stand-ins, look at them, count what a folder holds, take in weights")
    verbs = data.add_subparsers(required=True, metavar="VERB")
    drawn = catalogue.drawn()

    verb = verbs.add_parser("make", help="draw a domain into a folder")
    verb.add_argument("domain", choices=drawn)
    verb.add_argument("folder", type=Path)
    verb.add_argument("--scale", choices=list(SCALES), default="small")
    verb.add_argument("--world-seed", type=int, default=1)
    verb.set_defaults(run=make)

    verb = verbs.add_parser("sheet", help="draw contact sheets: each domain, each dial, objects")
    verb.add_argument("folder", type=Path, nargs="?", default=Path("build/sheets"))
    verb.add_argument("--world-seed", type=int, default=1)
    verb.set_defaults(run=sheet)

    verb = verbs.add_parser("info", help="count identities, images and cameras of a folder")
    verb.add_argument("domain")
    verb.add_argument("folder", type=Path)
    verb.add_argument(
        "--variant", default="", help="such as train+val or train (msmt17), labelled or detected (cuhk03)"
    )
    verb.set_defaults(run=info)

    verb = verbs.add_parser("weights", help="take in a published file of ResNet-50 weights; nothing in it is run")
    verb.add_argument(
        "file", type=Path, help="a .pth of torchvision, IBN-Net, OpenUnReID, fast-reid, MoCo, LUPerson, ..."
    )
    verb.add_argument("--as", dest="name", required=True, metavar="NAME", help="what methods call it, such as luperson")
    verb.add_argument("--net", metavar="PREFIX", help="which one, where the file holds several nets")
    verb.add_argument("--into", type=Path, metavar="DIR", help="folder of weights (default: where runs look)")
    verb.set_defaults(run=take_weights)
    return parser


def doctor(options: argparse.Namespace) -> int:
    """Print what is here; 1 where something of it is broken."""
    from reproduce.commands.doctor import page
    from reproduce.session.setting import data_root, given_folders

    if options.weights and not options.weights.is_dir():
        raise UserError(f"--weights {options.weights} is no folder: give a folder of weights files")
    papers = read_all(options.suites).values()
    folders = data_root(options.data_root), given_folders(options.domain)
    text, sound = page(papers, *folders, options.weights, deep=options.deep)
    print(text, end="")
    return 0 if sound else 1


def plan(options: argparse.Namespace) -> int:
    """Collect cases with pytest and list their stages."""
    import pytest

    return int(pytest.main(["suites", "--plan", "-q", "--no-header", *options.rest]))


def stage(options: argparse.Namespace) -> None:
    """Print what the store knows of one stage."""
    found = sorted(options.store.glob(f"*/{options.key}*/artifact.json"))
    if len(found) != 1:
        many = ", ".join(path.parent.name for path in found[:5])
        problem = (
            f"{len(found)} stages begin with {options.key}: {many}" if found else f"no stage begins with {options.key}"
        )
        raise UserError(f"{problem} in {options.store}; `reproduce plan` lists keys, --store names another store")
    record = json.loads(found[0].read_text())
    print(f"{record['stage']} {record['key']}\n{found[0].parent}\n")
    for title in ("spec", "provenance"):
        print(f"{title}:")
        for name, value in record[title].items():
            print(f"  {name:16} {json.dumps(value)}")
        print()
    for entry in json.loads((found[0].parent / "history.json").read_text())[-3:]:
        print("  ".join(f"{name} {value:.4g}" for name, value in entry.items()))


def show(options: argparse.Namespace) -> None:
    """Print the results of a folder as a table, or the papers' claims."""
    from reproduce.papers.export import claims_page
    from reproduce.session.display import summary
    from reproduce.session.planning import collected

    if options.claims:
        print(claims_page(read_all(options.suites).values(), collected(options.suites)), end="")
        return

    found = records.read(options.folder)
    if not found:
        raise UserError(f"{options.folder} holds no results: run `pytest suites/` first, or name another folder")
    print(summary(found, shutil.get_terminal_size().columns, colour=sys.stdout.isatty()), end="")


def tables(options: argparse.Namespace) -> None:
    """Print every printed number."""
    from reproduce.papers.export import as_csv, as_markdown

    papers = read_all(options.suites)
    print(as_csv(papers) if options.csv else as_markdown(papers.values()), end="")


def audit(options: argparse.Namespace) -> None:
    """Print what the papers' numbers contradict."""
    from reproduce.papers.audit import as_json
    from reproduce.papers.audit import audit as findings_of
    from reproduce.papers.export import audit_page

    papers = read_all(options.suites)
    findings = findings_of(papers)
    print(json.dumps(as_json(findings), indent=1) if options.json else audit_page(findings, papers.values()), end="")


def record(options: argparse.Namespace) -> None:
    """Copy a run's results to where they are committed: numbers, never pictures."""
    if options.migrate:
        moved = list(records.migrate(options.into, _digests(options)))
        for old, new in moved:
            print(f"{old} -> {new.name}")
        print(f"{counted(len(moved), 'record')} carried over; next: git add {options.into}")
        return
    folder = options.out / "results"
    found = records.read(folder) if folder.is_dir() else []
    kept = [result for result in found if result.measured]
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
    failed = len(found) - len(kept)
    print(
        f"{counted(len(kept), 'result')}, {counted(len(tried), 'claim')} and {counted(len(drawn), 'figure')} recorded"
        f"{f', {failed} without numbers left out' if failed else ''};",
        f"next: git add {options.into}",
    )


def _digests(options: argparse.Namespace) -> dict[str, str]:
    """The fingerprints of the data sets that were given, as earlier versions told them and as this one does."""
    from reproduce.data.layouts import find
    from reproduce.data.manifests import digest, former_digest
    from reproduce.data.reading import read
    from reproduce.session.setting import data_root, given_folders

    root, given = data_root(options.data_root), given_folders(options.domain)
    found = {name: given.get(name) or (find(root, name) if root else None) for name in catalogue.CATALOGUE}
    sets = [
        read(folder, name, variant=variant)
        for name, folder in found.items()
        if folder
        for variant in catalogue.variants(name)
    ]
    return {former_digest(each): digest(each) for each in sets}


def gc(options: argparse.Namespace) -> None:
    """List, or delete, drafts and states of dead runs, and artifacts that no kept result names."""
    from reproduce.running.runner import Store

    store = Store(options.store)
    kept = {
        stage.key
        for folder in options.keep
        for record in (
            *(records.read(folder) if folder.is_dir() else ()),
            *records.read_figures(folder),
            *records.read_figures(folder.parent / "figures"),
        )
        for stage in record.stages
    }
    artifacts = [path.parent for path in sorted(store.root.glob("*/*/artifact.json")) if path.parent.name not in kept]
    leftovers = sorted([*store.root.glob(".drafts/*"), *store.root.glob(".scratch/*")])
    size = 0
    for folder in [*leftovers, *artifacts]:
        size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with store.lock_key(folder.name) as free:
            what = "unfinished" if folder in leftovers else "unused"
            if not free:
                print(f"in use      {folder}")
            else:
                print(f"{what:10}  {folder}")
                if options.delete:
                    shutil.rmtree(folder)
    print(f"{len(leftovers) + len(artifacts)} folders, {size / 2**20:.1f} MiB", end="")
    print(" deleted" if options.delete else "; next: reproduce gc --delete")


def bench(options: argparse.Namespace) -> None:
    """Measure and print."""
    from reproduce.commands.bench import bench as measure

    try:
        sizes = [tuple(map(int, size.split("x"))) for size in options.sizes]
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


def make(options: argparse.Namespace) -> None:
    """Draw a domain in the layout of the data set that it stands for."""
    from reproduce.data.world import Dials, draw

    if options.folder.exists() and any(options.folder.iterdir()):
        raise UserError(f"{options.folder} is not empty: name another folder")
    size = stand_in_size(options.domain, SCALES[options.scale])
    pixels = draw(options.folder, options.domain, seed=options.world_seed, size=size, dials=Dials(), progress=_dots)
    print(f"\ndrew {options.domain} into {options.folder} (pixels {pixels[:12]})")
    print(f"next: reproduce data info {options.domain} {options.folder}")


def sheet(options: argparse.Namespace) -> None:
    """Draw contact sheets."""
    from reproduce.data.sheets import contact_sheet, dial_sheet, object_sheet
    from reproduce.data.world import CAUSES

    options.folder.mkdir(parents=True, exist_ok=True)
    pages = {"objects": object_sheet}
    pages |= {domain: partial(contact_sheet, domain, seed=options.world_seed) for domain in catalogue.drawn()}
    pages |= {cause: partial(dial_sheet, cause, seed=options.world_seed) for cause in CAUSES}
    for name, page in pages.items():
        path = options.folder / f"{name}.png"
        page().save(path)
        print(path)


def info(options: argparse.Namespace) -> None:
    """Count what a folder holds, beside the published counts."""
    from reproduce.data.domains import Domain
    from reproduce.data.reading import describe, read

    domain = Domain(options.domain, options.variant)
    whole = read(options.folder, domain.name, variant=domain.variant)
    found = describe(whole)
    published = catalogue.published(domain.name, domain.variant)
    print(" ".join(filter(None, (domain.name, whole.version, domain.variant, str(whole.root)))))
    for split in ("train", "query", "gallery"):
        counts = getattr(found, split)
        beside = f"   published: {_counts(getattr(published, split))}" if published else ""
        print(f"{split:8} {_counts(counts)}{beside}")
    print(f"distractors {found.distractors}, junk {found.junk}")


def take_weights(options: argparse.Namespace) -> None:
    """Convert a published file, and say what became of it."""
    from reproduce import weights

    made = weights.convert(options.file, options.name, options.into or weights.folders()[0], net=options.net)
    print(made.path)
    print(f"sha256   {made.sha256}")
    print(f"source   {made.source}, sha256 {made.source_sha256}")
    print(f"holds    a {made.backbone}, from {made.prefix or 'the top'}; {made.left_out} other tensors left out")
    if not weights.is_published(options.name, made.backbone, made.source_sha256):
        print(f"note     not known as the published {options.name} weights: results will not be comparable")
    if made.stem_relu is False:
        print("note     its own code runs the stem without a ReLU: stem_relu=False repeats that")
    print(f"next:    --weights {made.path.parent}" if options.into else "next:    runs find it by themselves")


def _counts(counts: object) -> str:
    return ", ".join(f"{value} {name}" for name, value in vars(counts).items())


def _dots(done: int, count: int) -> None:
    print(f"\r{done}/{count} images", end="", flush=True)
