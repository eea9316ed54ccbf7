from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest
from demo_stages import After, Arithmetic, Descent, Number

from reproduce.errors import UserError
from reproduce.running.engine import STOPPING, Engine, Job, Lease, Stopped, lease_folder, lease_gpus, visible_gpus
from reproduce.running.processes import described
from reproduce.running.runner import Site
from reproduce.stage import Stage, parents


def test_what_a_stage_needs_runs_before_it_and_once(engine: Callable[..., Engine]) -> None:
    starts: list[str] = []
    pool = engine(
        jobs=2,
        on_change=lambda job: starts.append(job.stage.key) if job.status == "running" and not job.progress else None,
    )
    shared = Number(1.0)
    left, right = Number(2.0, (shared,)), Number(3.0, (shared,))
    pool.submit([Number(4.0, (left, right))])
    assert pool.wait(Number(4.0, (left, right))).status == "done"
    assert pool.store.load(Number(4.0, (left, right))).mAP == 4 + 2 + 1 + 3 + 1
    assert starts.count(shared.key) == 1
    assert starts[0] == shared.key


def test_what_only_a_stored_stage_needed_is_not_built(engine: Callable[..., Engine]) -> None:
    import shutil

    first = engine()
    top = Number(2.0, (Number(1.0),))
    first.submit([top])
    first.wait(top)
    shutil.rmtree(first.store.folder(Number(1.0)))
    second = engine()
    second.submit([top])
    assert [job.status for job in second.jobs.values()] == ["cached"]


def test_a_thousand_stages_do_not_look_at_each_other(
    engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    def counted(stage: Stage[object]) -> Iterator[Stage[object]]:
        nonlocal looked
        looked += 1
        return parents(stage)

    pool = engine(jobs=2)
    monkeypatch.setattr("reproduce.running.engine.parents", counted)
    monkeypatch.setattr(Engine, "_start", lambda pool, job, slot: SimpleNamespace(job=job, slot=slot))
    ends = [Number(1000.0 + i, (Number(float(i)),)) for i in range(500)]
    pool.submit(ends)
    for _ in range(500):
        pool._start_ready()
        for child in [*pool._children]:
            pool._children.remove(child)
            pool._end(child.job, "done")
    assert {job.status for job in pool.jobs.values()} == {"done"}
    assert looked <= 2 * len(pool.jobs)


def test_a_stage_submitted_after_its_upstream_failed_fails(engine: Callable[..., Engine]) -> None:
    pool = engine()
    bug = Number(trouble="bug")
    pool.submit([bug])
    pool.wait(bug)
    later = Number(3.0, (Number(2.0, (bug,)), Number(4.0)))
    pool.submit([later])
    assert "a bug" in pool.wait(later).error


def test_longest_first(engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Number, "work", property(lambda self: self.value))
    started: list[float] = []
    pool = engine(
        on_change=lambda job: started.append(job.stage.value) if job.status == "running" and not job.progress else None
    )  # type: ignore[attr-defined]
    stages = [Number(3.0), Number(10.0), Number(5.0), Number(2.0, (Number(4.0),))]
    pool.submit(stages)
    for stage in stages:
        pool.wait(stage)
    assert (
        started == [10.0, 4.0, 5.0, 3.0, 2.0]
        or started == [10.0, 4.0, 5.0, 2.0, 3.0]
        or started == [10.0, 5.0, 4.0, 3.0, 2.0]
    )


def test_a_failure_stays_with_its_own_stages(engine: Callable[..., Engine]) -> None:
    pool = engine(jobs=2)
    bug, user, killed, fine = Number(trouble="bug"), Number(trouble="user"), Number(trouble="killed"), Number(9.0)
    below = Number(2.0, (fine, bug))
    pool.submit([bug, user, killed, below, fine])
    found = {stage.key: pool.wait(stage) for stage in (bug, user, killed, below, fine)}
    assert found[fine.key].status == "done"
    assert found[bug.key].error == "ValueError: a bug"
    assert "Traceback" in found[bug.key].tail
    assert found[user.key].error == "mend the thing"
    assert "was killed by SIGKILL" in found[killed.key].error
    assert "run the same command again" in found[killed.key].error
    assert found[below.key].status == "failed"
    assert "which it needs: ValueError: a bug" in found[below.key].error
    assert not list(pool.store.root.glob(".drafts/*")) or found[killed.key].status == "failed"


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_jobs_and_order_do_not_change_numbers(engine: Callable[..., Engine], jobs: int, reverse: bool) -> None:
    stages = [Number(float(value), (Number(0.5),)) for value in range(4)]
    pool = engine(jobs=jobs)
    pool.submit(stages[::-1] if reverse else stages)
    for stage in stages:
        pool.wait(stage)
    assert [pool.store.load(stage).mAP for stage in stages] == [0.5, 1.5, 2.5, 3.5]


def test_two_engines_on_one_store_build_a_stage_once(engine: Callable[..., Engine]) -> None:
    stage = Number(3.0, sleep=0.5)
    first, second = engine(), engine()
    first.submit([stage])
    second.submit([stage])
    first._start_ready()
    second._start_ready()
    assert first.wait(stage).status == second.wait(stage).status == "done"
    log = first.log_of(stage).read_text()
    assert first.store.load(stage).mAP == 3.0
    assert "Traceback" not in log
    built = [job for job in (first.jobs[stage.key], second.jobs[stage.key]) if "loss" in job.progress]
    assert len(built) == 1


def test_close_ends_every_child(engine: Callable[..., Engine]) -> None:
    pool = engine(jobs=2)
    stages = [Number(1.0, sleep=60), Number(2.0, sleep=60)]
    pool.submit(stages)
    pool._start_ready()
    pids = [child.process.pid for child in pool._children]
    time.sleep(0.5)
    pool.close()
    assert all(not alive(pid) for pid in pids)
    assert not list(pool.store.root.glob(".drafts/*"))


@pytest.mark.parametrize("victim", ["child", "fork server"])
def test_close_ends_in_bounded_time_if_a_process_was_stopped(engine: Callable[..., Engine], victim: str) -> None:
    pool = engine()
    pool.submit([Number(1.0, sleep=60)])
    pool._start_ready()
    child = pool._children[0].process.pid
    stopped = child if victim == "child" else forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    time.sleep(0.5)
    os.kill(stopped, signal.SIGSTOP)
    try:
        began = time.monotonic()
        pool.close()
        assert time.monotonic() - began < 30
        assert not alive(child)
    finally:
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGCONT)  # type: ignore[attr-defined]


def test_a_stopped_fork_server_starts_stages(engine: Callable[..., Engine]) -> None:
    pool = engine()
    pool.submit([Number(1.0), Number(2.0)])
    pool.wait(Number(1.0))
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    assert pool.wait(Number(2.0)).status == "done"


@pytest.mark.parametrize("number", STOPPING)
def test_a_training_stops_at_its_next_epoch_and_goes_on(engine: Callable[..., Engine], number: signal.Signals) -> None:
    stage = Descent(epochs=8, pause=0.2)

    def stop(job: Job) -> None:
        if job.progress.get("done") == 2:
            first.stop(number)

    first = engine(on_change=stop)
    first.submit([stage, After(stage)])
    with pytest.raises(Stopped, match=f"{number.name} ended this run: the same command goes on"):
        first.wait(After(stage))
    assert "stopped after epoch" in first.log_of(stage).read_text()
    first.close()
    second = engine()
    second.submit([After(stage)])
    assert second.wait(After(stage)).status == "done"
    assert second.store.described(stage).provenance.resumed
    assert [entry["step"] for entry in second.store.history(stage)] == list(range(1, 9))
    assert first.jobs[stage.key].progress["restored"] == 0
    assert second.jobs[stage.key].progress["restored"] >= 2, "so that the time left counts the epochs of this run"


def test_what_does_not_stop_within_the_grace_is_killed(tmp_path: Path) -> None:
    pool = Engine(Site(tmp_path / "store"), logs=tmp_path / "logs", grace=0.3)
    stage = Number(1.0, sleep=60)
    pool.submit([stage])
    pool._start_ready()
    pool.stop(signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(Stopped, match=r"1 stages did not reach an epoch within --grace 0\.3"):
        pool.wait(stage)
    pool.close()
    assert time.monotonic() - began < 30
    assert not list(Path(tmp_path / "store").glob("*/*/artifact.json"))


def test_signals_to_every_process_stop_trainings_and_not_the_fork_server(engine: Callable[..., Engine]) -> None:
    """As Slurm sends them; a child that got one alone goes on by itself."""
    pool = engine()
    stage = Descent(epochs=8, pause=0.2)
    pool.submit([stage])
    pool._start_ready()
    time.sleep(0.5)
    for number in STOPPING:
        os.kill(forkserver._forkserver._forkserver_pid, number)  # type: ignore[attr-defined]
    os.kill(pool._children[0].process.pid, signal.SIGTERM)
    assert pool.wait(stage).status == "done"
    assert pool.store.described(stage).provenance.resumed


def test_who_waits_for_another_run_says_so_and_counts_its_own_time(engine: Callable[..., Engine]) -> None:
    stage = Number(3.0, sleep=2.0)
    told: list[str] = []
    first, second = engine(), engine(on_change=lambda job: told.append(job.told))
    first.submit([stage])
    second.submit([stage])
    first._start_ready()
    time.sleep(0.5)
    builder = described(processes_of(first, stage))
    second._start_ready()
    assert second.wait(stage).status == "done"
    assert [text for text in told if text] == [f"waits for {builder}, which is building it"]
    assert second.jobs[stage.key].seconds < 1
    assert first.wait(stage).status == "done"


def test_control_characters_of_a_log_are_shown_as_such(engine: Callable[..., Engine]) -> None:
    pool = engine()
    stage = Number(trouble="bug")
    pool.log_of(stage).write_bytes(b"\x00\x1b[31m<b>\xff\n")
    pool.submit([stage])
    assert pool.wait(stage).tail.startswith("\ufffd\ufffd[31m<b>\ufffd\n")


def test_a_limit_on_memory_is_named(tmp_path: Path) -> None:
    script = LIMITED.format(importable=str(Path(__file__).parents[2] / "importable"), folder=str(tmp_path))
    for limit in (800, 1500, 3000):
        limited = ["prlimit", f"--as={limit << 20}", sys.executable, "-c", script]
        done = subprocess.run(limited, capture_output=True, text=True, timeout=100)
        assert f"this shell limits memory to {limit} MiB (ulimit -v)" in done.stdout, done.stderr


LIMITED = """
import sys
sys.path.insert(0, {importable!r})
from pathlib import Path
from demo_stages import Number
from reproduce.running.engine import Engine
from reproduce.running.runner import Site

if __name__ == "__main__":
    pool = Engine(Site(Path({folder!r}) / "store"), logs=Path({folder!r}))
    pool.submit([Number(1.0)])
    print(pool.wait(Number(1.0)).error)
    pool.close()
"""


def test_temporary_folders_of_killed_runs_are_deleted_by_the_next(tmp_path: Path) -> None:
    temporary = Path(tempfile.mkdtemp())  # short, as the path of a socket must be
    script = RUN.format(importable=str(Path(__file__).parents[2] / "importable"), folder=str(tmp_path))
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "7", "TMPDIR": str(temporary)}
    for _ in range(2):
        command = [sys.executable, "-c", script]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ)
        assert run.stdout
        assert any(line.startswith("child") for line in run.stdout)
        assert len(list(temporary.glob("reproduce-*/*"))) == 1
        assert not list(temporary.glob("pymp-*"))
        run.kill()
        run.wait()
        lease = wait_for_lease(tmp_path)
        assert lease
        lease.release()
    shutil.rmtree(temporary)


def test_a_lease_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert lease_folder().stat().st_mode & 0o777 == 0o700
    lease_folder().chmod(0o777)
    with pytest.raises(UserError, match=f"{tmp_path}/.* is not a folder of this user alone"):
        lease_folder()
    shutil.rmtree(tmp_path / f"reproduce-leases-{os.getuid()}")
    (tmp_path / f"reproduce-leases-{os.getuid()}").symlink_to("/")
    with pytest.raises(UserError, match="is not a folder of this user alone"):
        lease_folder()
    if os.getuid() == 0:
        (tmp_path / "reproduce-leases-0").unlink()
        (tmp_path / "reproduce-leases-0").mkdir(mode=0o700)
        os.chown(tmp_path / "reproduce-leases-0", 12345, 12345)
        with pytest.raises(UserError, match="is not a folder of this user alone"):
            lease_folder()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no folder for temporary files can be used .*: set TMPDIR"):
        lease_folder()


RUN = """
import sys
sys.path.insert(0, {importable!r})
from pathlib import Path
from demo_stages import Number
from reproduce.running.engine import Engine, lease_gpus
from reproduce.running.runner import Site

if __name__ == "__main__":
    leases = lease_gpus(1, Path({folder!r}))
    pool = Engine(Site(Path({folder!r}) / "store"), leases=leases, logs=Path({folder!r}))
    stage = Number(1.0, sleep=60)
    pool.submit([stage])
    pool._start_ready()
    print("child", pool._children[0].process.pid, flush=True)
    pool.wait(stage)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_no_process_and_no_lease(tmp_path: Path, how: int) -> None:
    importable = str(Path(__file__).parents[2] / "importable")
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "7"}
    script = RUN.format(importable=importable, folder=str(tmp_path))
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    )
    assert run.stdout
    child = next(int(line.split()[1]) for line in run.stdout if line.startswith("child"))
    assert alive(child)
    assert Lease.take("7", tmp_path) is None
    run.send_signal(how)
    run.wait()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)
    lease = wait_for_lease(tmp_path)
    assert lease
    lease.release()


def processes_of(engine: Engine, stage: Number) -> str:
    """The name of the process that builds a stage."""
    return next(engine.store.root.glob(f".drafts/{stage.key}@*")).name.partition("@")[2]


def wait_for_lease(folder: Path) -> Lease | None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if lease := Lease.take("7", folder):
            return lease
        time.sleep(0.05)
    return None


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("listed", "expected"),
    [("0,1", ["0", "1"]), ("", []), ("-1", []), ("2,-1,3", ["2"]), (" 1 , GPU-abc", ["1", "GPU-abc"])],
)
def test_visible_devices_are_the_callers(listed: str, expected: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": listed}) == expected


class NVML(types.ModuleType):
    """As much of `pynvml` as counts devices, and what was called."""

    class NVMLError(Exception):
        pass

    def __init__(self, count: int = 0, broken: str = "") -> None:
        super().__init__("pynvml")
        self.count, self.broken = count, broken
        self.calls: list[str] = []

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.broken:
            raise self.NVMLError(name)

    def nvmlInit(self) -> None:
        self._called("init")

    def nvmlDeviceGetCount(self) -> int:
        self._called("count")
        return self.count

    def nvmlShutdown(self) -> None:
        self._called("shutdown")


def test_the_driver_is_asked_where_nothing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = NVML(3)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert visible_gpus({}) == ["0", "1", "2"]
    assert nvml.calls == ["init", "count", "shutdown"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}) == ["1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert nvml.calls == ["init", "count", "shutdown"], "a list needs no driver"


@pytest.mark.parametrize(("broken", "expected"), [("init", []), ("count", []), ("shutdown", ["0"])])
def test_a_driver_that_fails_is_no_error(broken: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NVML(1, broken))
    assert visible_gpus({}) == expected


def test_no_driver_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert visible_gpus({}) == []


def test_counting_needs_no_torch() -> None:
    count = "from reproduce.running.engine import visible_gpus; visible_gpus({})"
    script = f"import sys; {count}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(UserError, match=r"--gpus 3 asks for more devices than are visible \(2: 4, 5\)"):
        lease_gpus(3, tmp_path)
    first = lease_gpus(1, tmp_path)
    assert [lease.gpu for lease in first] == ["4"]
    rest = lease_gpus(None, tmp_path)
    assert [lease.gpu for lease in rest] == ["5"]
    with pytest.raises(UserError, match="0 of 2 devices are free"):
        lease_gpus(1, tmp_path)
    for lease in [*first, *rest]:
        lease.release()
    both = lease_gpus(2, tmp_path)
    assert [lease.gpu for lease in both] == ["4", "5"]
    for lease in both:
        lease.release()


def test_no_stage_computes_in_tf32(engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions would by default, and matrix products where the environment asks for it."""
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    pool = engine()
    pool.submit([Arithmetic()])
    assert pool.wait(Arithmetic()).status == "done"
    facts = pool.store.load(Arithmetic()).facts
    assert facts["tf32"] == [False, False]
    assert "tf32" not in facts["precisions"]


def test_no_devices_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert lease_gpus(None, tmp_path) == []
    assert lease_gpus(0, tmp_path) == []


@pytest.mark.skipif(not visible_gpus(), reason="no GPU is visible")
def test_a_job_on_a_lease_runs_on_its_device(tmp_path: Path) -> None:
    pool = Engine(Site(tmp_path / "store"), leases=lease_gpus(1, tmp_path), logs=tmp_path)
    pool.submit([Number()])
    assert pool.wait(Number()).status == "done"
    assert pool.store.described(Number()).provenance.device not in ("cpu", "")
    pool.close()
