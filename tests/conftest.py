"""What several tests need: a tiny domain on disk, a place to run stages in, and the folder of real data."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import settings

from reproduce.artifacts import Training
from reproduce.running.engine import Engine, Job
from reproduce.running.runner import Site
from reproduce.session.setting import Setting
from reproduce.stage import Stage

collect_ignore = ["importable"]
"""Packages for tests; a suite among them would write its results into the checkout's `build`."""

torch.set_num_threads(1)
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def tiny_domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Market-1501's layout with 6 training and 4 test identities, 2 cameras, PNG images of 32 x 16 pixels."""
    root = tmp_path_factory.mktemp("tiny")
    rows, columns = np.mgrid[0:32, 0:16]
    for split, pids in {
        "bounding_box_train": range(1, 7),
        "query": range(11, 15),
        "bounding_box_test": range(11, 15),
    }.items():
        (root / split).mkdir()
        for pid in pids:
            for camera in (1, 2):
                for frame in range(1 if split == "query" else 3):
                    channels = [
                        (pid * 37 + rows * (channel + 1) + columns * pid + 11 * camera + 5 * frame) % 256
                        for channel in range(3)
                    ]
                    name = f"{pid:04}_c{camera}s1_{frame:06}_{0 if split == 'query' else 1:02}.png"
                    PIL.Image.fromarray(np.stack(channels, 2).astype(np.uint8)).save(root / split / name)
    return root


@pytest.fixture
def setting(tiny_domain: Path) -> Setting:
    """The tiny domain as source and as target."""
    return Setting("paper", {"market": tiny_domain, "duke": tiny_domain}, weights="scratch")


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory where there is any, gone with the test: for what is large or has very many names."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def real_data() -> Path:
    """The folder of small real data sets and golden values."""
    folder = os.environ.get("REPRODUCE_TEST_DATA")
    if not folder:
        pytest.skip("REPRODUCE_TEST_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Makes engines on one store, and closes them."""
    made: list[Engine] = []

    def make(jobs: int = 1, on_change: Callable[[Job], None] = lambda job: None, **site: object) -> Engine:
        made.append(
            Engine(Site(tmp_path / "store", **site), jobs=jobs, logs=tmp_path / "logs", on_change=on_change)  # type: ignore[arg-type]
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def killed_equals_uncut(tmp_path: Path, engine: Callable[..., Engine]) -> Callable[..., None]:
    """Checks that a training which was killed and goes on ends with the bits, history and facts of an uncut one."""

    def check(stage: Stage[Training], folders: Mapping[str, Path], epoch: int, later: float) -> None:
        """Kill it `later` seconds after the first that it logs of that epoch, or after its start if that is 0.

        It saves its state after every epoch, so a run killed in the second or a later one has to go on from there.
        """
        killed = False

        def killer(job: Job) -> None:
            nonlocal killed
            if job.stage is stage and job.status == "running" and job.progress.get("step", 0) >= epoch and not killed:
                killed = True
                time.sleep(later)
                os.kill(first._children[0].process.pid, 9)

        first = engine(on_change=killer, save_every=0, folders=folders)
        first.submit([stage])
        assert first.wait(stage).status == "failed"
        second = engine(save_every=0, folders=folders)
        uncut = Engine(Site(tmp_path / "uncut", folders=folders), logs=tmp_path / "uncut-logs")
        for pool in (second, uncut):
            pool.submit([stage])
            assert pool.wait(stage).status == "done"
        uncut.close()
        assert epoch < 2 or second.store.described(stage).provenance.resumed
        left, right = second.store.load(stage), uncut.store.load(stage)
        assert left.checkpoints.keys() == right.checkpoints.keys()
        for moment, weights in left.checkpoints.items():
            assert weights.keys() == right.checkpoints[moment].keys()
            assert all(torch.equal(weights[name], right.checkpoints[moment][name]) for name in weights)
        assert left.facts == right.facts
        assert second.store.history(stage) == uncut.store.history(stage)

    return check
