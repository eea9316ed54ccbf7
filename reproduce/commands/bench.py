"""Implement `reproduce bench`: measure kernels and a training step beside dense references and bare matrix products.

Each measurement runs in a fresh process; imports, data generation and one small run are not timed. Contenders take
turns, so that other load on the machine affects all of them, and the median of several rounds is reported. Compiled
code is loaded on the clock.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reproduce.commands import bench_train
from reproduce.commands.bench_train import device
from reproduce.errors import UserError
from reproduce.running.provenance import machine, settle_arithmetic

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    Array: TypeAlias = NDArray[Any]

Size: TypeAlias = tuple[int, ...]
Work: TypeAlias = Callable[[], Any]

EPS, MIN_SAMPLES, K1, K2 = 0.6, 4, 30, 6
RERANK_K1 = 20
SIZES = {"evaluate": ((2,), "336x1973"), "rerank": ((2,), "336x1973"), "train": ((1, 2), "32 or 16x256")}
"""How many numbers a size has, and an example; others have one."""
FEW = 300
"""Images of the small run before timing."""


def bench(
    what: str,
    sizes: Sequence[Size],
    *,
    columns: int = 2048,
    repeats: int = 3,
    threads: int | None = None,
    dense: int = 6000,
    out: Path = Path("build/bench"),
) -> dict[str, Any]:
    """Measure all contenders for one task on several sizes, print a table, and write `<what>.json` and `<what>.png`.

    Args:
        what: "neighbours", "evaluate", "rerank" or "train".
        sizes: (N,) images; (Q, G) queries and gallery for "evaluate" and "rerank"; (B,) batch size or
            (B, height of images in pixels) for "train".
        columns: Dimension of the embeddings.
        repeats: Rounds.
        threads: Threads per measurement; all cores if None.
        dense: Largest number of images for dense references.
        out: Folder for the results.

    Returns:
        The content of the JSON file: the machine, a record for each contender and size, the growth of each contender
        (the exponent of processor time from the smallest to the largest size), and the difference of the kernels from
        the reference for each size up to `dense`.

    Raises:
        UserError: The name is unknown, or a size is invalid for it.
    """
    if what not in CONTENDERS:
        raise UserError(f"nothing to measure is called {what!r}; choose {', '.join(CONTENDERS)}")
    numbers, example = SIZES.get(what, ((1,), "2000"))
    for size in sizes:
        if len(size) not in numbers or min(size) < 2:
            raise UserError(f"{what} takes sizes such as {example}, of 2 or more")
    threads = threads or os.cpu_count() or 1
    rounds: dict[tuple[str, Size], list[dict[str, float]]] = {}
    differences = []
    steps = [step for size in sizes for step in _steps(what, size, repeats, small=sum(size) <= dense)]
    for name, size in _shown(steps):
        measured = _in_a_process(what, name, size, columns, threads)
        if not name:
            differences.append({"size": size, **measured})
        elif measured is not None:
            rounds.setdefault((name, size), []).append(measured)
    records = [
        {
            "contender": name,
            "size": size,
            **{key: statistics.median(measured[key] for measured in several) for key in several[0]},
            "rounds": several,
        }
        for (name, size), several in rounds.items()
    ]
    report = {
        "work": what,
        "machine": _machine(threads),
        "columns": columns,
        "records": records,
        "growth": {} if what == "train" else _growth(records),
        "differences": differences,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{what}.json").write_text(json.dumps(report, indent=1) + "\n")
    _plot(report, out / f"{what}.png")
    _print(report)
    print(out / f"{what}.json", out / f"{what}.png", sep="\n")
    return report


def _steps(what: str, size: Size, repeats: int, *, small: bool) -> list[tuple[str, Size]]:
    """List the measurements of one size: contenders in each round, then "", the check against a reference."""
    contenders = [name for name in CONTENDERS[what] if small or not name.startswith("dense")]
    checks = [""] if small and what in CHECKS else []
    return [(name, size) for name in [*contenders * repeats, *checks]]


def _shown(steps: Sequence[tuple[str, Size]]) -> Iterator[tuple[str, Size]]:
    """Yield measurements, with a progress bar on a terminal that names the present one."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=len(steps))
        for name, size in steps:
            bar.update(task, description=f"{name or 'check against a reference'}, {'x'.join(map(str, size))}")
            yield name, size
            bar.advance(task)


# Data


def embeddings(n: int, columns: int, seed: int = 1, noise: float = 1.1) -> tuple[Array, Array, Array]:
    """Draw clustered embeddings (n, columns) of unit length, with identities and cameras (n,).

    Identities have about 17 images, log-normally distributed, and come in groups of six that look alike; each of six
    cameras adds a shift; negative values are set to 0, as by a ReLU.
    """
    import numpy as np

    from reproduce.data.sampling import numpy_generator

    draw = numpy_generator(seed, "bench", n, columns)
    identities = max(1, n // 17)
    share = draw.lognormal(0, 0.6, identities)
    pids = draw.choice(identities, n, p=share / share.sum())
    cameras = draw.integers(0, 6, n)
    alike = draw.standard_normal((identities // 6 + 1, columns), np.float32)
    people = draw.standard_normal((identities, columns), np.float32)
    people += np.float32(0.75) * alike[draw.integers(0, len(alike), identities)]
    shift = np.float32(0.45) * draw.standard_normal((6, columns), np.float32)
    rows = np.empty((n, columns), np.float32)
    for start in range(0, n, 1024):
        part = slice(start, min(start + 1024, n))
        rows[part] = people[pids[part]] + shift[cameras[part]]
        rows[part] += np.float32(noise) * draw.standard_normal(rows[part].shape, np.float32)
    np.maximum(rows, 0, out=rows)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, pids, cameras


def gallery(size: Size, columns: int, noise: float = 3.0) -> tuple[Array, ...]:
    """Draw queries and gallery with identities and cameras; a fifth of the gallery is junk, a seventh distractors."""
    import numpy as np

    from reproduce.data.sampling import numpy_generator

    queries, images = size
    rows, pids, cameras = embeddings(queries + images, columns, noise=noise)
    kind = numpy_generator(1, "bench", "kind").random(pids.max() + 1)
    pids = np.where(kind[pids] < 1 / 7, 0, pids + 1)
    pids[queries:] = np.where(numpy_generator(1, "bench", "junk").random(images) < 1 / 5, -1, pids[queries:])
    return rows[:queries], rows[queries:], pids[:queries], pids[queries:], cameras[:queries], cameras[queries:]


# Contenders: each prepares its data and returns what is measured


def _kernel(**choice: Any) -> Callable[[Size, int], Work | None]:
    """Compute Jaccard distances and clusters with default choices, including their detection, or with forced ones."""

    def prepare(size: Size, columns: int) -> Work | None:
        from reproduce import neighbours
        from reproduce.clustering import DBSCAN

        if not _able(**choice):
            return None
        rows = _on_device(embeddings(size[0], columns)[0])

        def work(rows: Tensor = rows) -> Any:
            with neighbours.using(**choice):
                return DBSCAN(EPS, MIN_SAMPLES).labels(neighbours.jaccard_graph(rows, K1, K2))

        _warm(lambda: work(rows[:FEW]), **choice)
        return work

    return prepare


def _search(**choice: Any) -> Callable[[Size, int], Work | None]:
    """Compute only neighbour lists."""

    def prepare(size: Size, columns: int) -> Work | None:
        from reproduce import neighbours

        if not _able(**choice):
            return None
        rows = _on_device(embeddings(size[0], columns)[0])

        def work(rows: Tensor = rows) -> Any:
            with neighbours.using(**choice):
                return neighbours.nearest(rows, K1)

        work(rows[:FEW])
        return work

    return prepare


def _after(compiled: bool) -> Callable[[Size, int], Work | None]:
    """Compute Jaccard distances and clusters from given neighbour lists."""

    def prepare(size: Size, columns: int) -> Work | None:
        from reproduce import neighbours
        from reproduce.clustering import DBSCAN

        if not _able(compiled=compiled):
            return None
        rows = _on_device(embeddings(size[0], columns)[0])
        ranks = neighbours.nearest(rows, K1)

        def work(rows: Tensor = rows, ranks: Array = ranks) -> Any:
            with neighbours.using(compiled=compiled):
                return DBSCAN(EPS, MIN_SAMPLES).labels(neighbours.jaccard_graph(rows, K1, K2, ranks=ranks))

        few = neighbours.nearest(rows[:FEW], K1)
        _warm(lambda: work(rows[:FEW], few), compiled=compiled)
        return work

    return prepare


def _dense_neighbours(size: Size, columns: int) -> Work:
    import torch
    from sklearn.cluster import DBSCAN

    rows = embeddings(size[0], columns)[0]
    torch.mm(torch.ones(9, 9), torch.ones(9, 9))

    def work() -> Any:
        close = torch.from_numpy(rows) @ torch.from_numpy(rows).T
        ranks = close.argsort(dim=1, descending=True)[:, :K1].numpy()
        distances = dense_jaccard(rows, ranks)
        return DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed").fit_predict(distances)

    return work


def _product(low: bool) -> Callable[[Size, int], Work | None]:
    """Compute only all inner products of the embeddings, a block at a time."""

    def prepare(size: Size, columns: int) -> Work | None:
        import torch

        if not _able(bfloat16=low):
            return None
        rows = _on_device(embeddings(sum(size), columns)[0])
        left, right = (rows, rows) if len(size) == 1 else (rows[: size[0]], rows[size[0] :])
        if low:
            left, right = left.bfloat16(), right.bfloat16()
        out = left.new_empty(min(1024, len(left)), min(2048, len(right)))

        def work() -> None:
            for row in range(0, len(left), 1024):
                part = left[row : row + 1024]
                for column in range(0, len(right), 2048):
                    other = right[column : column + 2048]
                    torch.mm(part, other.T, out=out[: len(part), : len(other)])

        torch.mm(left[:9], right[:9].T)
        return work

    return prepare


def _all_pairs(low: bool) -> Callable[[Size, int], Work | None]:
    """Run `_product` on queries and gallery together."""
    return lambda size, columns: _product(low)((sum(size),), columns)


def _product_and_topk(size: Size, columns: int) -> Work:
    """Compute all inner products, a strip at a time, and the nearest of each row."""
    rows = _on_device(embeddings(size[0], columns)[0])

    def work() -> None:
        for start in range(0, len(rows), 1024):
            (rows[start : start + 1024] @ rows.T).topk(K1)

    (rows[:FEW] @ rows[:FEW].T).topk(9)
    return work


def _evaluate_given(size: Size, columns: int) -> Work:
    from reproduce.evaluation import evaluate_ranking

    query, images, *labels = gallery(size, columns)
    distances = _distances(query, images)
    evaluate_ranking(distances[:FEW], labels[0][:FEW], labels[1], labels[2][:FEW], labels[3])
    return lambda: evaluate_ranking(distances, *labels)


def _evaluate_embeddings(size: Size, columns: int) -> Work:
    from reproduce.evaluation import evaluate_embeddings

    rows, others, *labels = gallery(size, columns)
    query, images = _on_device(rows), _on_device(others)
    evaluate_embeddings(query[:9], images, labels[0][:9], labels[1], labels[2][:9], labels[3])
    return lambda: evaluate_embeddings(query, images, *labels)


def _dense_evaluate(size: Size, columns: int) -> Work:
    query, images, *labels = gallery(size, columns)
    distances = _distances(query, images)
    return lambda: dense_scores(distances, *labels)


def _rerank(**choice: Any) -> Callable[[Size, int], Work | None]:
    def prepare(size: Size, columns: int) -> Work | None:
        from reproduce import neighbours

        if not _able(**choice):
            return None
        query, images = map(_on_device, gallery(size, columns)[:2])

        def work(query: Tensor = query, images: Tensor = images) -> int:
            with neighbours.using(**choice):
                return sum(len(block) for block in neighbours.rerank(query, images))

        _warm(lambda: work(query[:FEW], images[:FEW]), **choice)
        return work

    return prepare


def _dense_rerank(size: Size, columns: int) -> Work:
    query, images = gallery(size, columns)[:2]
    return lambda: dense_rerank(query, images)


CONTENDERS: dict[str, dict[str, Callable[[Size, int], Work | None]]] = {
    "neighbours": {
        "kernel, as shipped": _kernel(),
        "kernel, bfloat16, compiled": _kernel(bfloat16=True, compiled=True),
        "kernel, bfloat16": _kernel(bfloat16=True, compiled=False),
        "kernel, float32, compiled": _kernel(bfloat16=False, compiled=True),
        "kernel, float32": _kernel(bfloat16=False, compiled=False),
        "kernel, faiss": _kernel(backend="faiss"),
        "k-NN, as shipped": _search(),
        "k-NN, faiss": _search(backend="faiss"),
        "kernel after k-NN, compiled": _after(True),
        "kernel after k-NN": _after(False),
        "dense reference": _dense_neighbours,
        "product, bfloat16": _product(True),
        "product, float32": _product(False),
        "product and top-k": _product_and_topk,
    },
    "evaluate": {
        "kernel, distances given": _evaluate_given,
        "kernel, from embeddings": _evaluate_embeddings,
        "dense reference, distances given": _dense_evaluate,
        "product, float32": _product(False),
    },
    "rerank": {
        "kernel, as shipped": _rerank(),
        "kernel, bfloat16, compiled": _rerank(bfloat16=True, compiled=True),
        "kernel, bfloat16": _rerank(bfloat16=True, compiled=False),
        "kernel, float32, compiled": _rerank(bfloat16=False, compiled=True),
        "kernel, float32": _rerank(bfloat16=False, compiled=False),
        "dense reference": _dense_rerank,
        "product, bfloat16": _all_pairs(True),
        "product, float32": _all_pairs(False),
    },
    "train": bench_train.CONTENDERS,
}
"""By work and name; those that begin with "dense" hold whole matrices."""


# Dense references, in single precision


def dense_jaccard(rows: Array, ranks: Array) -> Array:
    """The Jaccard distances (N, N) of `reproduce.neighbours.jaccard_graph`, variant "spcl", from lists (N, k1)."""
    import numpy as np

    codes = _dense_codes(2 * (1 - rows @ rows.T), ranks, K1)
    distances = np.empty((len(rows), len(rows)), np.float32)
    for i, code in enumerate(codes):
        at = np.flatnonzero(code)
        shared = np.minimum(codes[:, at], code[at]).sum(1)
        distances[i] = np.maximum(1 - shared / (2 - shared), 0)
    return distances


def dense_rerank(query: Array, images: Array, lambda_: float = 0.3) -> Array:
    """The re-ranked distances (Q, G) of `reproduce.neighbours.rerank`, of embeddings of unit length."""
    import numpy as np

    rows, queries = np.concatenate([query, images]), len(query)
    distances = np.maximum(2 * (1 - rows @ rows.T), 0)
    np.fill_diagonal(distances, -1)
    ranks = np.argsort(distances, axis=1)[:, : RERANK_K1 + 1]
    np.fill_diagonal(distances, 0)
    distances /= distances.max(1, keepdims=True)
    codes = _dense_codes(distances, ranks, RERANK_K1)
    found: Array = distances[:queries, queries:] * np.float32(lambda_)
    for i, code in enumerate(codes[:queries]):
        at = np.flatnonzero(code)
        shared = np.minimum(codes[queries:, at], code[at]).sum(1)
        found[i] += np.float32(1 - lambda_) * (1 - shared / (2 - shared))
    return found


def _dense_codes(distances: Array, ranks: Array, k1: int) -> Array:
    import numpy as np

    def reciprocal(k: int) -> Array:
        named = np.zeros(distances.shape, bool)
        np.put_along_axis(named, ranks[:, :k], True, axis=1)
        return named & named.T

    full, half = reciprocal(ranks.shape[1]), reciprocal(round(k1 / 2) + 1)
    shared = full.astype(np.float32) @ half.T.astype(np.float32)
    accepted = full & (shared > 2 / 3 * half.sum(1))
    members = full | (accepted.astype(np.float32) @ half.astype(np.float32) > 0)
    codes = np.where(members, np.exp(-distances), np.float32(0))
    codes /= codes.sum(1, keepdims=True)
    averaged = codes[ranks[:, 0]]
    for at in range(1, K2):
        averaged += codes[ranks[:, at]]
    averaged /= K2
    return averaged


def dense_scores(distances: Array, query_pids: Array, gallery_pids: Array, query_cams: Array, cams: Array) -> float:
    """MAP in percent from a full sort."""
    import numpy as np

    order = np.argsort(distances, axis=1, kind="stable")
    matches = gallery_pids[order] == query_pids[:, None]
    kept = (gallery_pids[order] != -1) & ~(matches & (cams[order] == query_cams[:, None]))
    precisions = []
    for match, keep in zip(matches, kept, strict=True):
        ranks = 1 + np.flatnonzero(match[keep])
        if len(ranks):
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return 100 * float(np.mean(precisions))


def _check_neighbours(size: Size, columns: int) -> dict[str, Any]:
    import numpy as np
    from sklearn import cluster

    from reproduce.clustering import DBSCAN
    from reproduce.neighbours import jaccard_graph, nearest, using

    rows = embeddings(size[0], columns)[0]
    ranks = nearest(rows, K1)
    expected = dense_jaccard(rows, ranks)
    labels = cluster.DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed").fit_predict(expected)
    found: dict[str, Any] = {}
    for compiled in (False, True):
        if _able(compiled=compiled):
            with using(compiled=compiled):
                graph = jaccard_graph(rows, K1, K2, ranks=ranks)
            name = ", compiled" if compiled else ""
            found["largest difference" + name] = _difference(graph, expected)
            found["labels that differ" + name] = int(np.sum(DBSCAN(EPS, MIN_SAMPLES).labels(graph) != labels))
    return found


def _difference(graph: sparse.csr_array, expected: Array) -> float:
    """The largest difference between a graph, absent pairs being 1, and a matrix."""
    import numpy as np

    largest = 0.0
    for i, row in enumerate(expected):
        found = np.ones_like(row)
        part = slice(graph.indptr[i], graph.indptr[i + 1])
        found[graph.indices[part]] = graph.data[part]
        largest = max(largest, float(np.abs(found - row).max()))
    return largest


def _check_evaluate(size: Size, columns: int) -> dict[str, Any]:
    from reproduce.evaluation import evaluate_embeddings, evaluate_ranking

    query, images, *labels = gallery(size, columns)
    expected = dense_scores(_distances(query, images), *labels)
    return {
        "mAP": expected,
        "difference, distances given": abs(evaluate_ranking(_distances(query, images), *labels).mAP - expected),
        "difference, from embeddings": abs(evaluate_embeddings(query, images, *labels).mAP - expected),
    }


def _check_rerank(size: Size, columns: int) -> dict[str, Any]:
    import numpy as np

    from reproduce.neighbours import rerank, using

    query, images = gallery(size, columns)[:2]
    expected = dense_rerank(query, images)
    found = {}
    for compiled in (False, True):
        if _able(compiled=compiled):
            with using(bfloat16=False, compiled=compiled):
                off = np.abs(np.concatenate(list(rerank(query, images))) - expected)
            name = ", compiled" if compiled else ""
            found["largest difference" + name] = float(off.max())
            found["share above 1e-5" + name] = float((off > 1e-5).mean())
    return found


CHECKS = {
    "neighbours": _check_neighbours,
    "evaluate": _check_evaluate,
    "rerank": _check_rerank,
    "train": bench_train.check,
}


def _distances(query: Array, images: Array) -> Array:
    import torch

    return (1 - torch.from_numpy(query) @ torch.from_numpy(images).T).numpy()


# Measuring


def _warm(few: Work, *, compiled: bool = False, **others: Any) -> None:
    """Run the small run, except with compiled code, whose loading is a part of what it costs."""
    if not compiled:
        few()


def _in_a_process(what: str, name: str, size: Size, columns: int, threads: int) -> Any:
    """Run this module as a program and take what it prints last; None where the machine lacks what it needs."""
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    request = json.dumps([what, name, size, columns])
    done = subprocess.run(
        [sys.executable, "-m", "reproduce.commands.bench", request],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{what}, {name or 'check'}, {size} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(work: Work) -> dict[str, float]:
    """Processor and wall seconds, and the memory that the work took at most beyond what was there before it."""
    import torch

    on_gpu = device() == "cuda"
    before = _memory(reset=True)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        torch.cuda.synchronize()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    cost = {"processor_s": time.process_time() - processor, "wall_s": time.perf_counter() - wall}
    cost["memory_gib"] = (_memory() - before) / 2**30
    if on_gpu:
        cost["gpu_memory_gib"] = (torch.cuda.max_memory_allocated() - held) / 2**30
    return cost


def _memory(*, reset: bool = False) -> int:
    """The most main memory that this process held, in bytes; since the last reset, where the system can do that."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmRSS:" if reset else "VmHWM:")[1].split()[0])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _on_device(rows: Array) -> Tensor:
    import torch

    return torch.from_numpy(rows).to(device())


def _able(*, bfloat16: bool = False, compiled: bool = False, backend: str = "torch") -> bool:
    """Whether this machine multiplies bfloat16 fast, and has a compiler and faiss, where they are asked for."""
    import importlib.util

    from reproduce import neighbours

    if bfloat16 and (device() != "cpu" or not neighbours.bfloat16_is_fast()):
        return False
    wanted = {"numba": compiled, "faiss": backend == "faiss"}
    return all(importlib.util.find_spec(module) for module, asked in wanted.items() if asked)


def _machine(threads: int) -> dict[str, Any]:
    import torch

    from reproduce.neighbours import bfloat16_is_fast

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    host = machine()["host"]
    return {
        "processor": host.cpu,
        "family": host.family,
        "instructions": host.instructions,
        "held_back": host.held_back,
        "bfloat16_is_fast": bfloat16_is_fast(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": gpu,
        "net": os.environ.get(bench_train.NET, bench_train.RESNET50),
        "versions": machine()["versions"],
        "commit": machine()["commit"],
        "date": datetime.now(UTC).date().isoformat(),
    }


def _growth(records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """For each contender the exponent of its time between its smallest and its largest size."""
    growth = {}
    by_name: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        by_name.setdefault(record["contender"], []).append((sum(record["size"]), _seconds(record)))
    for name, points in by_name.items():
        (small, quick), (large, slow) = min(points), max(points)
        if small < large:
            growth[name] = math.log(slow / quick) / math.log(large / small)
    return growth


def _seconds(record: dict[str, Any]) -> float:
    """Processor time, or wall time where a GPU does the work."""
    return float(record["wall_s" if "gpu_memory_gib" in record else "processor_s"])


def _print(found: dict[str, Any]) -> None:
    width = max(len(record["contender"]) for record in found["records"])
    print(f"{'':{width}}  {'size':>13}  processor s    wall s  memory GiB")
    for record in sorted(found["records"], key=lambda record: record["size"]):
        size = "x".join(map(str, record["size"]))
        cost = f"{record['processor_s']:11.3f}  {record['wall_s']:8.3f}  {record['memory_gib']:10.3f}"
        print(f"{record['contender']:{width}}  {size:>13}  {cost}")
    for name, exponent in found["growth"].items():
        print(f"{name:{width}}  grows as N^{exponent:.2f}")
    for difference in found["differences"]:
        print(", ".join(f"{name} {value}" for name, value in difference.items()))


def _plot(found: dict[str, Any], path: Path) -> None:
    """Time and memory over size, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (time_axes, memory_axes) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name in dict.fromkeys(record["contender"] for record in found["records"]):
        records = sorted((r for r in found["records"] if r["contender"] == name), key=lambda r: sum(r["size"]))
        sizes = [sum(record["size"]) for record in records]
        style = "--" if name.startswith("product") else ":" if name.startswith("dense") else "-"
        time_axes.plot(sizes, [_seconds(record) for record in records], style, marker="o", label=name)
        memory = [record.get("gpu_memory_gib", 0) + record["memory_gib"] for record in records]
        memory_axes.plot(sizes, [max(value, 1e-3) for value in memory], style, marker="o")
    for axes, title in ((time_axes, "seconds"), (memory_axes, "GiB beyond the data")):
        axes.set(xscale="log", yscale="log", xlabel="images", title=title)
        axes.grid(alpha=0.3, which="both")
    time_axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _main(request: str) -> None:
    what, name, size, columns = json.loads(request)
    settle_arithmetic()
    if not name:
        print(json.dumps(CHECKS[what](tuple(size), columns)))
        return
    work = CONTENDERS[what][name](tuple(size), columns)
    print(json.dumps(work and _measure(work)))


if __name__ == "__main__":
    _main(sys.argv[1])
