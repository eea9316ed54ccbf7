"""Stages that several processes compute together: started, ended and resumed as one."""

from __future__ import annotations

import os
import re
import signal
import time
import types
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest
from demo_stages import Descent, Shared
from msgspec import structs

from reproduce.errors import UserError
from reproduce.running.engine import Engine, Job, Stopped, lease_gpus
from reproduce.running.provenance import arithmetic
from reproduce.running.runner import Site

RANKS = 3
TOTAL = sum(RANKS * epoch + 0 + 1 + 2 for epoch in range(6))


@pytest.fixture
def shared(tmp_path: Path) -> Callable[..., Engine]:
    """Make engines whose stages have three processes each."""

    def make(on_change: Callable[[Job], None] = lambda job: None, **options: object) -> Engine:
        site = Site(tmp_path / "store", save_every=0, ranks=RANKS)
        return Engine(site, logs=tmp_path / "logs", on_change=on_change, **options)  # type: ignore[arg-type]

    return make


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_stage_of_several_processes(shared: Callable[..., Engine]) -> None:
    pool = shared()
    stage = Shared()
    pool.submit([stage])
    pool._start_ready()
    pids = [process.pid for process in pool._children[0].processes]
    assert len(pids) == RANKS
    assert pool.wait(stage).status == "done", pool.jobs[stage.key].error
    training = pool.store.load(stage)
    assert float(training.checkpoints["last"]["total"]) == TOTAL
    assert training.facts == {"ranks": RANKS}
    provenance = pool.store.described(stage).provenance
    assert provenance.ranks == RANKS
    assert arithmetic(provenance) == f"{arithmetic(structs.replace(provenance, ranks=1))}, 3 devices together"
    assert len(pool.store.history(stage)) == 6
    pool.submit([Descent()])
    assert pool.wait(Descent()).status == "done"
    assert pool.store.described(Descent()).provenance.ranks == 1, "it cannot be divided"
    assert not any(map(alive, pids))
    pool.close()


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("user", "^rank 1 found no images: copy them again$"),
        ("other", "^ValueError: rank 1 is confused"),
        ("killed", "one of its 3 processes was killed by SIGKILL"),
    ],
)
def test_a_rank_that_fails_fails_the_stage(shared: Callable[..., Engine], trouble: str, message: str) -> None:
    pool = shared()
    stage = Shared(trouble=trouble)
    pool.submit([stage])
    pool._start_ready()
    pids = [process.pid for process in pool._children[0].processes]
    job = pool.wait(stage)
    assert job.status == "failed"
    assert re.search(message, job.error), job.error
    pool._listen(0)
    assert not any(map(alive, pids)), "the others wait for nobody"
    good = Shared()
    pool.submit([good])
    assert pool.wait(good).status == "done"
    pool.close()


def test_a_killed_rank_is_named_though_its_end_is_known_after_the_others_errors(
    shared: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(self: Engine, child: Any) -> None:
        """Hear of the ends of ranks some time after the first error."""
        if child.errors:
            heard.append(time.monotonic())
        if heard and time.monotonic() > heard[0] + 0.3:
            hear(self, child)

    heard: list[float] = []
    hear = Engine._hear_helpers
    monkeypatch.setattr(Engine, "_hear_helpers", late)
    pool = shared()
    stage = Shared(trouble="killed")
    pool.submit([stage])
    job = pool.wait(stage)
    assert job.status == "failed"
    assert "one of its 3 processes was killed by SIGKILL" in job.error
    pool.close()


def test_a_stage_that_ends_while_the_loss_of_a_rank_is_awaited_has_not_failed(
    shared: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_await_loss", lambda self, child: connection.wait([child.messages], 60))
    seen: list[str] = []
    pool = shared(lambda job: seen.append(job.status))
    stage = Shared(trouble="late")
    pool.submit([stage])
    job = pool.wait(stage)
    assert (job.status, job.error) == ("done", "")
    assert "failed" not in seen
    pool.close()


@pytest.mark.parametrize("victim", [0, 2])
def test_killed_ranks_go_on_from_the_saved_state(shared: Callable[..., Engine], victim: int) -> None:
    def kill(job: Job) -> None:
        if job.progress.get("done") == 3 and not killed:
            killed.append(first._children[0].processes[victim].pid)
            os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    stage = Shared(pause=0.2)
    first = shared(kill)
    first.submit([stage])
    job = first.wait(stage)
    assert job.status == "failed"
    assert "was killed by SIGKILL" in job.error
    first.close()
    second = shared()
    second.submit([stage])
    assert second.wait(stage).status == "done"
    assert float(second.store.load(stage).checkpoints["last"]["total"]) == TOTAL
    assert second.store.described(stage).provenance.resumed
    assert [entry["step"] for entry in second.store.history(stage)] == list(range(1, 7))
    second.close()


def test_they_stop_at_an_epoch_and_go_on_alone(shared: Callable[..., Engine], tmp_path: Path) -> None:
    def stop(job: Job) -> None:
        if job.progress.get("done") == 2:
            first.stop(signal.SIGTERM)

    stage = Shared(pause=0.2)
    first = shared(stop)
    first.submit([stage])
    with pytest.raises(Stopped, match="SIGTERM ended this run: the same command goes on"):
        first.wait(stage)
    first.close()
    alone = Engine(Site(tmp_path / "store"), logs=tmp_path / "logs")
    alone.submit([stage])
    assert alone.wait(stage).status == "done"
    done = next(entry["total"] for entry in alone.store.history(stage) if entry["step"] == 2)
    assert done == RANKS * 1 + 2 * 3
    alone.close()


def test_closing_ends_all_ranks(shared: Callable[..., Engine]) -> None:
    pool = shared()
    pool.submit([Shared(pause=60)])
    pool._start_ready()
    pids = [process.pid for process in pool._children[0].processes]
    time.sleep(0.5)
    pool.close()
    assert not any(map(alive, pids))


def test_who_finds_the_stage_built_ends_its_ranks(shared: Callable[..., Engine]) -> None:
    """Another run was faster, so rank 0 computes nothing and the others wait for it."""
    stage = Shared(pause=0.2)
    first, second = shared(), shared()
    for pool in (first, second):
        pool.submit([stage])
        pool._start_ready()
    pids = [process.pid for process in second._children[0].processes]
    assert first.wait(stage).status == second.wait(stage).status == "done"
    assert not any(map(alive, pids))
    for pool in (first, second):
        pool.close()


def test_leases_of_whole_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    with pytest.raises(UserError, match=r"--gpus 5 is no multiple of --gpus-per-stage 2"):
        lease_gpus(5, tmp_path, ranks=2)
    with pytest.raises(UserError, match=r"--gpus 0 is no multiple of --gpus-per-stage 2"):
        lease_gpus(0, tmp_path, ranks=2)
    with pytest.raises(UserError, match=r"--gpus-per-stage 6 needs as many GPUs; visible are 5 \(4, 5, 6, 7, 8\)"):
        lease_gpus(None, tmp_path, ranks=6)
    four = lease_gpus(None, tmp_path, ranks=2)
    assert [lease.gpu for lease in four] == ["4", "5", "6", "7"]
    with pytest.raises(UserError, match="1 of 5 devices are free"):
        lease_gpus(None, tmp_path, ranks=2)
    last = lease_gpus(1, tmp_path)
    assert [lease.gpu for lease in last] == ["8"], "none was kept"
    for lease in (*four, *last):
        lease.release()


def test_devices_of_a_batch_system_are_dealt_to_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has set CUDA_VISIBLE_DEVICES, and there is nothing to lease."""
    site = Site(tmp_path / "store", ranks=2, device="cuda:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(UserError, match="--gpus-per-stage 2, but 1 GPUs are visible: ask for more"):
        Engine(site, logs=tmp_path / "logs")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    pool = Engine(site, logs=tmp_path / "logs")
    sites: list[Site] = []
    monkeypatch.setattr("reproduce.running.engine._fork_server", lambda: types.SimpleNamespace(Process=Recorded(sites)))
    pool._start(Job(Shared()), ())
    assert [(each.rank, each.gpu, each.device) for each in sites] == [(0, "3", "cuda:0"), (1, "5", "cuda:0")]
    pool.close()


class Recorded:
    """Stands in for the class of processes, and keeps the sites that these were given."""

    def __init__(self, sites: list[Site]) -> None:
        self._sites = sites

    def __call__(self, *, args: tuple[object, ...], **_: object) -> types.SimpleNamespace:
        self._sites.append(args[1])  # type: ignore[arg-type]
        return types.SimpleNamespace(start=lambda: None)


def test_slots_are_groups_of_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    leases = lease_gpus(4, tmp_path / "leases", ranks=2)
    pool = Engine(Site(tmp_path / "store", ranks=2), leases=leases, logs=tmp_path / "logs")
    assert [[lease.gpu for lease in slot] for slot in pool._slots] == [["0", "1"], ["2", "3"]]
    pool.close()
