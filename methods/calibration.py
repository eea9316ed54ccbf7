"""`python -m methods.calibration`: how hard the stand-in world is, and how much of that each of its causes is.

Nothing here adapts to a target. Networks are trained with labels on one drawn domain and tested on it (supervised) and
on others (direct transfer), at scale `small`, with the world as it is and with one dial after the other at 0. What came
out stands in docs/calibration.md.
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
"""By domain that is trained on, the domains that are tested on: the tasks that the papers print."""

PAIR = ("market", "duke")
"""The domains between which causes are measured, in both directions."""

NETS = {"plain": "resnet50", "IBN": "resnet50_ibn_a"}


class Run(NamedTuple):
    """A network, trained and tested."""

    net: str
    world: int
    seed: int
    source: str
    target: str
    off: str = ""


def stage(run: Run, setting: Setting) -> Stage[Scores]:
    """MSPLR's baseline, tested on the target."""
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
    """Every task in the world as it is."""
    tasks = [(source, target) for source, targets in TESTED.items() for target in targets]
    return [Run(*run, *task) for run in itertools.product(nets, worlds, seeds) for task in tasks]


def causes(nets: Iterable[str], worlds: Iterable[int], seeds: Iterable[int]) -> list[Run]:
    """Both directions between the pair, and training on each, without each cause."""
    tasks = list(itertools.product(PAIR, PAIR))
    each = itertools.product(nets, worlds, seeds, tasks, CAUSES)
    return [Run(net, world, seed, *task, off) for net, world, seed, task, off in each]


def measure(runs: Iterable[Run], setting: Setting, *, out: Path, jobs: int) -> Iterator[tuple[Run, float, float]]:
    """Each run with its mAP and rank-1 (percent), in the order given; what is in the store is not run again.

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
            yield run, scores.mAP, scores.rank1
    finally:
        engine.close()


Measured = Mapping[Run, tuple[float, float]]
"""Runs with mAP and rank-1 in percent."""


def write(measured: Measured, path: Path, *, weights: str) -> None:
    """Keep every number, with the version of the world and what an identity says of the weights."""
    runs = [{**run._asdict(), "mAP": mAP, "rank1": rank1} for run, (mAP, rank1) in measured.items()]
    lines = ",\n".join(f"  {json.dumps(run)}" for run in runs)
    path.write_text(f'{{"world": {WORLD_VERSION}, "weights": {json.dumps(weights)}, "runs": [\n{lines}\n]}}\n')


def read(path: Path) -> Measured:
    """What `write` kept."""
    runs = json.loads(path.read_text())["runs"]
    return {Run(**run): (mAP, rank1) for run in runs for mAP, rank1 in [(run.pop("mAP"), run.pop("rank1"))]}


def tables(measured: Measured) -> Iterator[str]:
    """Markdown: mAP of every task by net and world, mean and standard deviation over training seeds; then `shares`."""
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
    """Markdown: what direct transfer and supervised training gain without each cause, and the difference.

    Gains are means over both directions and over both domains, paired by world and training seed; the interval is
    Student's over these pairs, so it speaks for these worlds.
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
    """Mean of tasks by world and training seed, where all of them were measured."""
    found: dict[tuple[int, int], list[float]] = {}
    for run, (value, _) in measured.items():
        if run.net == net and run.off == off and (run.source, run.target) in of:
            found.setdefault((run.world, run.seed), []).append(value)
    return {place: sum(values) / len(values) for place, values in found.items() if len(values) == len(of)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep every number in a file, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m methods.calibration", description="how hard the stand-in world is")
    parser.add_argument("--worlds", default="1,2", help="seeds of the world (default 1,2)")
    parser.add_argument("--seeds", default="1,2,3", help="training seeds (default 1,2,3)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="default both")
    parser.add_argument("--no-causes", action="store_true", help="leave out the runs with a dial at 0")
    parser.add_argument("--weights", help="scratch, or a folder of weights (default: those that are shipped)")
    parser.add_argument("--jobs", type=int, default=1, help="stages at once (default 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("build"), help="folder of its own for store, logs, calibration.json"
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
    measured: dict[Run, tuple[float, float]] = {}
    for run, mAP, rank1 in measure(runs, setting, out=options.out, jobs=options.jobs):
        measured[run] = (mAP, rank1)
        print(f"{len(measured)} of {len(runs)}: {run.net}, world {run.world}, seed {run.seed}", end=" ")
        print(f"{run.source} to {run.target}{f' without {run.off}' * bool(run.off)}: mAP {mAP:.1f}", flush=True)
        write(measured, options.out / "calibration.json", weights=weights)
    print("\n" + "\n".join(tables(measured)))


if __name__ == "__main__":
    main()
