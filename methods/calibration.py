"""`python -m methods.calibration`: measure how hard the stand-in world is, and how much each cause contributes.

Nothing here adapts to a target. Networks are trained with labels on one drawn domain and tested on it (supervised) and
on others (direct transfer), at scale `small`, in the unchanged world and with each dial in turn at 0. Results are in
docs/calibration.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from methods.supervised import Train
from reproduce.artifacts import Scores
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment
from reproduce.data.world import CAUSES, WORLD_VERSION
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate
from reproduce.papers.cases import World
from reproduce.running.engine import Engine
from reproduce.running.runner import Site
from reproduce.session.setting import Blocked, Setting
from reproduce.stage import Stage

TESTED = {
    "market": ("market", "duke", "msmt17"),
    "duke": ("duke", "market", "msmt17"),
    "msmt17": ("msmt17",),
    "cuhk03": ("cuhk03",),
    "personx": ("personx", "market"),
}
"""Test domains of each training domain: the tasks that the papers print."""

PAIR = ("market", "duke")
"""The domains that causes are measured on, in both directions."""

NETS = {"plain": "resnet50", "IBN": "resnet50_ibn_a"}


class Run(NamedTuple):
    """One training and one test."""

    net: str
    """A key of `NETS`."""
    world: int
    """Seed of the drawn world."""
    seed: int
    """Training seed."""
    source: str
    target: str
    off: str = ""
    """The dial at 0; empty for none."""


class Result(NamedTuple):
    """The scores of a run."""

    mAP: float
    """Percent."""
    rank1: float
    """Percent."""


def stage(run: Run, setting: Setting) -> Stage[Scores]:
    """Return the evaluation of MSPLR's baseline on the run's target."""
    train = Train(
        Domain(run.source),
        seed=run.seed,
        backbone=NETS[run.net],
        epochs=90,
        centre_weight=0.005,
        augment=Augment(erase=None),
        eval_every=90,
    )
    return setting.resolve(Evaluate(train, on=Domain(run.target)), World(run.world, run.off))


def difficulty(nets: Iterable[str], worlds: Iterable[int], seeds: Iterable[int]) -> list[Run]:
    """List every task in the unchanged world."""
    tasks = [(source, target) for source, targets in TESTED.items() for target in targets]
    return [Run(*run, *task) for run in itertools.product(nets, worlds, seeds) for task in tasks]


def causes(nets: Iterable[str], worlds: Iterable[int], seeds: Iterable[int]) -> list[Run]:
    """List both directions of the pair and supervised training on each, with each cause off."""
    tasks = list(itertools.product(PAIR, PAIR))
    product = itertools.product(nets, worlds, seeds, tasks, CAUSES)
    return [Run(net, world, seed, *task, off) for net, world, seed, task, off in product]


def measure(runs: Iterable[Run], setting: Setting, *, out: Path, jobs: int) -> Iterator[tuple[Run, Result]]:
    """Yield each run with its result, in the order given; stages in the store are not run again.

    Raises:
        UserError: a stage failed.
    """
    stages = {run: stage(run, setting) for run in runs}
    engine = Engine(Site(out / "store", weights=setting.files), jobs=jobs, logs=out / "logs")
    try:
        engine.submit(stages.values())
        for run, final in stages.items():
            if (job := engine.wait(final)).status == "failed":
                raise UserError(f"{run}: {job.error}")
            scores = engine.store.load(final)
            yield run, Result(scores.mAP, scores.rank1)
    finally:
        engine.close()


Measured = Mapping[Run, Result]


def write(measured: Measured, path: Path, *, weights: str) -> None:
    """Write every number, with the version of the world and the identity's entry for the weights."""
    runs = [{**run._asdict(), **result._asdict()} for run, result in measured.items()]
    lines = ",\n".join(f"  {json.dumps(run)}" for run in runs)
    path.write_text(f'{{"world": {WORLD_VERSION}, "weights": {json.dumps(weights)}, "runs": [\n{lines}\n]}}\n')


def read(path: Path) -> Measured:
    """Read the file of `write`."""
    runs = json.loads(path.read_text())["runs"]
    results = [Result(run.pop("mAP"), run.pop("rank1")) for run in runs]
    return {Run(**run): result for run, result in zip(runs, results, strict=True)}


def tables(measured: Measured) -> Iterator[str]:
    """Yield Markdown: mean and standard deviation of mAP over training seeds, by task, net and world; then `shares`."""
    import numpy as np

    nets = sorted({run.net for run in measured})
    worlds = sorted({run.world for run in measured})
    heads = [f"{net}, world {world}" for net in nets for world in worlds]
    yield from (f"| task | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|")
    tasks = dict.fromkeys((run.source, run.target) for run in measured if not run.off)
    for task in sorted(tasks, key=lambda task: task[0] != task[1]):
        cells = []
        for net, world in itertools.product(nets, worlds):
            values = [value for (at, _), value in _mAP(measured, net, "", [task]).items() if at == world]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "")
        name = f"supervised, {task[0]}" if task[0] == task[1] else f"{task[0]} to {task[1]}"
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    yield from shares(measured)


def shares(measured: Measured) -> Iterator[str]:
    """Yield Markdown: the gain of direct transfer and of supervised training without each cause, and the difference.

    Gains are means over both directions or both domains, paired by world and training seed; the interval is Student's
    over these pairs, so it holds for these worlds only.
    """
    import numpy as np
    from scipy import stats

    yield "| net | without | direct transfer gains | supervised gains | difference, 95 % interval | 2 or more |"
    yield "|---" * 6 + "|"
    own, across = [(name, name) for name in PAIR], [PAIR, PAIR[::-1]]
    for net, off in itertools.product(sorted({run.net for run in measured}), CAUSES):
        with_, without = ([_mAP(measured, net, dial, of) for of in (across, own)] for dial in ("", off))
        places = sorted(set.intersection(*map(set, (*with_, *without))))
        if len(places) < 2:
            continue
        direct, labelled = (np.array([b[at] - a[at] for at in places]) for a, b in zip(with_, without, strict=True))
        more = direct - labelled
        half = stats.t.ppf(0.975, len(more) - 1) * stats.sem(more)
        interval = f"{more.mean():.1f}, {more.mean() - half:.1f} to {more.mean() + half:.1f}"
        enough = "yes" if more.mean() >= 2 and more.mean() > half else "no"
        yield f"| {net} | {off} | {direct.mean():.1f} | {labelled.mean():.1f} | {interval} | {enough} |"


def _mAP(measured: Measured, net: str, off: str, of: Sequence[tuple[str, str]]) -> dict[tuple[int, int], float]:
    """Average mAP over tasks, by world and training seed, where all tasks were measured."""
    by_seed: dict[tuple[int, int], list[float]] = {}
    for run, result in measured.items():
        if run.net == net and run.off == off and (run.source, run.target) in of:
            by_seed.setdefault((run.world, run.seed), []).append(result.mAP)
    return {place: sum(values) / len(values) for place, values in by_seed.items() if len(values) == len(of)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep every number in a file, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m methods.calibration", description="measure how hard the stand-in world is"
    )
    parser.add_argument("--worlds", default="1,2", help="world seeds (default 1,2)")
    parser.add_argument("--seeds", default="1,2,3", help="training seeds (default 1,2,3)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="default both")
    parser.add_argument("--no-causes", action="store_true", help="skip the runs with a dial at 0")
    parser.add_argument("--weights", help="scratch, or a folder of weights (default: the shipped ones)")
    parser.add_argument("--jobs", type=int, default=1, help="stages to run at once (default 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("build"), help="folder for store, logs and calibration.json (default build)"
    )
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (UserError, Blocked) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _run(options: argparse.Namespace) -> None:
    worlds, seeds = (list(map(int, given.split(","))) for given in (options.worlds, options.seeds))
    runs = difficulty(options.nets, worlds, seeds)
    runs += [] if options.no_causes else causes(options.nets, worlds, seeds)
    setting = Setting("small", weights=options.weights)
    weights = setting.identity([stage(runs[0], setting)]).weights
    measured: dict[Run, Result] = {}
    for run, result in measure(runs, setting, out=options.out, jobs=options.jobs):
        measured[run] = result
        print(f"{len(measured)} of {len(runs)}: {run.net}, world {run.world}, seed {run.seed}", end=" ")
        print(f"{run.source} to {run.target}{f' without {run.off}' * bool(run.off)}: mAP {result.mAP:.1f}", flush=True)
        write(measured, options.out / "calibration.json", weights=weights)
    print("\n" + "\n".join(tables(measured)))


if __name__ == "__main__":
    main()
