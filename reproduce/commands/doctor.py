"""Check data sets, weights and devices, and count the cases that can run here."""

from __future__ import annotations

import os
import platform
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

from reproduce import weights
from reproduce.data.catalogue import CATALOGUE, known, published, withdrawn
from reproduce.data.layouts import find
from reproduce.data.manifests import check_file, digest, recheck
from reproduce.data.packs import file_of
from reproduce.data.reading import describe, differences, oddities, read
from reproduce.dataset import Dataset
from reproduce.errors import UserError
from reproduce.papers.cases import Case, Suite
from reproduce.papers.tables import Paper
from reproduce.running.engine import visible_gpus
from reproduce.scales import SCALES, WEIGHTS, at_scale, started
from reproduce.stage import Stage, closure, rewrite
from reproduce.wording import counted

LINES, WIDTH = 40, 100
"""Size of a screen."""

CHUNK = 64
"""Images that a thread decodes at a time."""

SAMPLE = 100
"""Images of each split whose first bytes are checked; a run checks all."""


@dataclass(frozen=True)
class Finding:
    """The state of one data set on this machine."""

    name: str
    status: str
    """"ok", "own" (a folder given by name, not the published set), under the data root "mini" (far smaller than the
    published set) or "other" (not the published set, which is required there), "broken" or "missing"."""
    says: str
    """Description, or what is wrong."""
    folder: Path | None = None
    """Folder of the data set, if it was found."""


def examine(name: str, root: Path | None, given: Path | None, *, deep: bool = False) -> Finding:
    """Find, read and count a data set and check some of its images; with `deep` all, ignoring remembered checks."""
    folder = given
    try:
        if folder is None:
            folder = find(root, name) if root else None
        if folder is None:
            return Finding(name, "missing", known(name).ask)
        whole = read(folder, name)
        _sample(whole)
        if deep:
            _decode(whole)
            if whole.labelled:
                _reread(whole)
    except UserError as error:
        says = str(error).removeprefix(f"{name}: ")
        if folder:  # which has a line of its own
            says = says.replace(f"{folder}/", "").replace(str(folder), "the folder")
        return Finding(name, "broken", says, folder)
    odd = "own" if given else "other"
    counts = published(name)
    if whole.version == "V2":
        return Finding(name, odd, "V2, its faces blurred; the papers print numbers of V1", whole.root)
    gaps = differences(describe(whole), counts) if counts else []
    if counts and gaps and not given:
        if 2 * len(whole.train_pids) < counts.train.ids:
            return Finding(name, "mini", f"{_counted(whole, gaps)}; needs --accept-counts", whole.root)
        return Finding(name, odd, "; ".join(gaps), whole.root)
    return Finding(name, odd if gaps else "ok", "; ".join([_counted(whole, gaps), *oddities(whole)]), whole.root)


def _sample(whole: Dataset) -> None:
    for split in (whole.train, whole.query, whole.gallery):
        for at in range(0, len(split), max(1, len(split) // SAMPLE)):
            check_file(whole.root, split[at].path)


def _decode(whole: Dataset) -> None:
    """Decode every image, with a progress bar on a terminal.

    Raises:
        UserError: Some cannot be decoded, such as truncated ones; the message names the first.
    """
    from rich.console import Console
    from rich.progress import track

    from reproduce.data.images import opened

    def fault(path: str) -> str:
        try:
            check_file(whole.root, path)
            opened(file_of(whole.root, path))
        except UserError as error:
            return str(error)
        return ""

    paths = list(dict.fromkeys(image.path for split in (whole.train, whole.query, whole.gallery) for image in split))
    console = Console(stderr=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        chunks = (paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK))
        done = pool.map(lambda chunk: [fault(path) for path in chunk], chunks)
        several = track(
            chain.from_iterable(done), whole.name, len(paths), console=console, disable=not console.is_terminal
        )
        faults = [text for text in several if text]
    if faults:
        raise UserError(faults[0] + (f" ({len(faults) - 1:,} more like this)" if len(faults) > 1 else ""))


def _reread(whole: Dataset) -> None:
    if liars := recheck(whole.root):
        others = f" and {len(liars) - 1:,} more" if len(liars) > 1 else ""
        raise UserError(
            f"{whole.root / liars[0]}{others} changed under the same size and time: "
            "copy the set again, and run with another --store"
        )
    digest(whole)


def _counted(whole: Dataset, gaps: Sequence[str]) -> str:
    train = describe(whole).train
    if not whole.labelled:
        return f"{train.images:,} images; no two copies are the same, so none is checked"
    edition = ", ".join(filter(None, (whole.version, whole.variant)))
    counts = "not the published counts" if gaps else "the published counts"
    return f"{counts}{f' of {edition}' if edition else ''}: trains on {train.ids:,} ids, {train.images:,} images"


def page(
    papers: Iterable[Paper],
    collected: Iterable[object],
    root: Path | None,
    given: Mapping[str, Path],
    weight_folder: Path | None,
    *,
    deep: bool = False,
) -> tuple[str, bool]:
    """Return the doctor's page, at most `LINES` lines of `WIDTH` columns, and whether nothing is broken.

    Args:
        papers: Papers whose cases are counted.
        collected: Cases of their suites, which say what has a recipe.
        root: Folder of the data sets.
        given: Folders of single data sets, by name.
        weight_folder: Folder of published weights; None for the usual ones.
        deep: As in `examine`.
    """
    rows = {paper.name: list(_with_recipes(paper, collected)) for paper in papers}
    findings = [examine(name, root, given.get(name), deep=deep) for name in CATALOGUE]
    here = {finding.name for finding in findings if finding.status in ("ok", "own", "mini")}
    places = [weight_folder] if weight_folder else weights.folders()
    counts = _rows(rows, here, places)
    following = _next(findings, list(chain.from_iterable(rows.values())), here, root, given)
    lines = [*_data(findings, root), *_weights(places), _machine(), *counts, *following]
    return "\n".join(line.rstrip() for line in lines) + "\n", all(finding.status != "broken" for finding in findings)


def _with_recipes(paper: Paper, collected: Iterable[object]) -> Iterator[Case]:
    """Yield every row that a paper ran or may have run, on each of its tasks, with its recipe if it has one."""
    known = {case.cell.place: case for case in collected if isinstance(case, Case) and not case.figure}
    yield from (known.get(case.cell.place, case) for case in Suite(paper).rows())


def _at_scale(case: Case, scale: str) -> tuple[Stage[Any], set[tuple[str, str]]]:
    """Return the stage of a case at a scale, before data are known, and the weights that it starts from.

    Weights are named by what they are called in recipes, such as "imagenet", and by their backbone.
    """
    assert case.recipe
    wanted: set[tuple[str, str]] = set()
    by_scale = at_scale(SCALES[scale])

    def by_role(role: str, value: Any, owner: Any) -> Any:
        if role == WEIGHTS and isinstance(value, str):
            wanted.add((value, by_scale("backbone", owner.backbone, owner)))
        return by_scale(role, value, owner)

    return rewrite(started(case.recipe(case.task, 1), SCALES[scale]), by_role=by_role), wanted


def _can_run(case: Case, here: set[str], places: Sequence[Path]) -> bool:
    """Return whether data, a recipe and published weights are here, so that it runs at scale `paper`."""
    if not case.recipe or not case.names <= here:
        return False
    return all(len(weights.fitting(*wanted, places)) == 1 for wanted in _at_scale(case, "paper")[1])


def _data(findings: Sequence[Finding], root: Path | None) -> Iterator[str]:
    yield f"Data     in {_short(root)}" if root else "Data     no --data-root, no REID_DATA"
    for finding in findings:
        says = textwrap.wrap(finding.says, WIDTH - 21, max_lines=2, placeholder=" ...")
        yield f"  {finding.name:10}{finding.status:9}{says[0]}"
        yield from (f"{'':21}{line}" for line in says[1:])
        if finding.folder:
            yield f"{'':21}{_short(finding.folder)}"
    if root and any(finding.status == "missing" for finding in findings):
        names = ", ".join(known(finding.name).folders[0] for finding in findings if finding.status == "missing")
        yield f"  looked for {names} etc."


def _weights(places: Sequence[Path]) -> Iterator[str]:
    yield f"Weights  in {_short(places[0])}"
    yield from (f"     and in {_short(place)}" for place in places[1:])
    makers = {"resnet50": "torchvision", "resnet50_ibn_a": "IBN-Net"}
    for backbone, maker in makers.items():
        mark = weights.marks("imagenet", backbone)[0]
        files = weights.fitting("imagenet", backbone, places)
        status, says = "missing", f"{backbone}-{mark}.pth of {maker}; blocked(weights) at scale paper"
        if files:
            try:
                sha256 = weights.sha256(files[0])
                is_theirs = weights.is_published("imagenet", backbone, weights.source_sha256(files[0], sha256))
                status, unlike = ("ok", "") if is_theirs else ("other", f", not {maker}'s: nothing will be comparable")
                says = f"{files[0].name}, SHA-256 {sha256[:12]}{unlike}"
            except UserError as error:
                status, says = "broken", str(error).replace(f"{files[0].parent}/", "")
        yield _cut(f"  {'imagenet':10}{status:9}{says}")
    others = sorted(path.stem for place in places for path in place.glob("resnet50*-*.safetensors"))
    if others:
        yield _cut(f"  converted {'ok':9}{', '.join(others)}")


def _machine() -> str:
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision", "numpy"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    gpus = visible_gpus()
    return f"Machine  {', '.join(versions)}; {len(gpus) or 'no'} GPU{'s' * (len(gpus) != 1)} visible"


def _rows(rows: Mapping[str, Sequence[Case]], here: set[str], places: Sequence[Path]) -> Iterator[str]:
    heads = f"{'Cases':11}{'all':>4}{'with data':>11}{'can run here':>14}"
    yield f"{heads}  blocked(data) for want of"
    everything = list(chain.from_iterable(rows.values()))
    can_run = {case for case in everything if _can_run(case, here, places)}
    for paper, own in (*rows.items(), ("together", everything)):
        ready = sum(case.names <= here for case in own)
        wanted = Counter(chain.from_iterable(case.names - here for case in own))
        missing = ", ".join(f"{name} {wanted[name]}" for name in CATALOGUE if wanted[name])
        counts = f"  {paper:9}{len(own):4}{ready:11}{len(can_run & {*own}):14}  "
        yield from textwrap.wrap(missing, WIDTH, initial_indent=counts, subsequent_indent=" " * len(counts)) or [counts]
    yield "  can run here: data, a recipe and published weights are here, for scale paper"
    remain = [case for case in everything if not case.task.withdrawn]
    names = " and ".join(withdrawn().values())
    ready = sum(case.names <= here for case in remain)
    yield f'  {names} was withdrawn: -m "not withdrawn" leaves {len(remain)} cases, {ready} with data'


def _next(
    findings: Sequence[Finding], rows: Sequence[Case], here: set[str], root: Path | None, given: Mapping[str, Path]
) -> Iterator[str]:
    if wrong := next((finding.name for finding in findings if finding.status in ("broken", "other")), None):
        yield f"next:    fix {wrong} as described above, then run this again"
        return
    runnable = [case for case in rows if case.recipe]
    ready = [case for case in runnable if case.names <= here]
    first = _smallest(ready or runnable)
    if not first:
        yield "next:    pytest suites/ --collect-only -q     (lists the cases; none of these has a recipe)"
        return
    words, stages, names = first
    mini = {finding.name for finding in findings if finding.status == "mini"}

    def options(shown: Callable[[Path], object]) -> str:
        several = [f"--data-root {shown(root)} "] if root and ready else []
        several += ["--accept-counts "] if names & mini and ready else []
        several += [f"--domain {name}={shown(folder)} " for name, folder in given.items() if ready and name in names]
        return f"next:    pytest suites/ {''.join(several)}"

    selection = f'-k "{words}" --scale small'
    lines = [options(str) + selection, options(lambda _: "DIR") + selection]
    yield from next(
        ([line] for line in lines if len(line) <= WIDTH), [options(lambda _: "DIR") + "\\", " " * 9 + selection]
    )
    yield f"         ({stages}, minutes{'' if ready else ', on drawn stand-ins, without any data'})"


def _smallest(rows: Iterable[Case]) -> tuple[str, str, set[str]] | None:
    """Return selection (`-k`), number of stages and data sets of the table and task with least work at scale `small`.

    Those with two rows or more, which can be compared, come first; None if there are no rows.
    """
    together: dict[tuple[str, str, str], list[Case]] = {}
    for case in rows:
        together.setdefault((case.paper, case.table, case.task.name), []).append(case)
    stages = {place: closure(_at_scale(case, "small")[0] for case in cases) for place, cases in together.items()}
    places = sorted(together, key=lambda at: (len(together[at]) < 2, sum(stage.work for stage in stages[at]), at))
    if not places:
        return None
    paper, table, task = places[0]
    names = set().union(*(case.names for case in together[places[0]]))
    return f"{paper} and table{table}-{task}", counted(len(stages[places[0]]), "stage"), names


def _short(path: Path) -> str:
    """Shorten a path: ~ for the home folder, and a long one without its beginning."""
    home = str(Path.home())
    text = f"~{str(path)[len(home) :]}" if path.is_relative_to(home) and home != "/" else str(path)
    return text if len(text) <= WIDTH - 21 else f"...{text[24 - WIDTH :]}"


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 4]} ..."
