from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from demo_sources import Mirror, Visited
from demo_stages import Descent, Number, Shared, Tree, Twice, Walk
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from reproduce import neighbours
from reproduce.artifacts import Artifact, Folder, Scores
from reproduce.data import sampling
from reproduce.data.domains import Real
from reproduce.data.manifests import digest
from reproduce.data.reading import read
from reproduce.data.sampling import numpy_generator
from reproduce.errors import Diverged, UserError
from reproduce.running.engine import Engine, Job
from reproduce.running.runner import LARGE, Site, StageEnv, Store, build
from reproduce.stage import Env, Stage


def quiet(_: Any) -> None:
    pass


def run(stage: Any, root: Path, **site: Any) -> Any:
    for needed in getattr(stage, "before", ()):
        run(needed, root)
    build(stage, Site(root, **site), quiet)
    return Store(root).load(stage)


def test_an_artifact_comes_back_as_it_was(tmp_path: Path) -> None:
    stage = Number(5.0, (Number(2.0),))
    scores = run(stage, tmp_path / "store")
    assert (scores.mAP, scores.queries, scores.unmatched) == (7.0, 2, 1)
    assert scores.ap[0] == 0.07
    assert scores.ap[1] != scores.ap[1]
    store = Store(tmp_path / "store")
    described = store.described(stage)
    assert described.spec["value"] == 5.0
    assert described.spec["before"] == [{"stage": "demo_stages.Number", "key": Number(2.0).key}]
    assert described.provenance.versions["python"]
    assert (described.provenance.device, described.provenance.resumed) == ("cpu", False)
    assert described.provenance.neighbours == "torch"
    assert store.history(stage) == [{"step": 1, "loss": 7.0}]
    assert not list(store.root.glob(".drafts/*"))
    assert not list(store.root.glob(".scratch/*"))


@dataclass(frozen=True)
class Backend(Stage[Folder]):
    """What looks for neighbours while it runs."""

    def run(self, env: Env) -> Folder:
        return Folder(env.folder, {"backend": neighbours._forced.get("backend")})


@pytest.mark.parametrize(("backend", "expected"), [("torch", None), ("faiss", "faiss")])
def test_stages_search_by_the_backend_of_the_run(backend: Any, expected: str | None, tmp_path: Path) -> None:
    build(Backend(), Site(tmp_path, neighbours=backend), lambda _: None)
    assert Store(tmp_path).load(Backend()).facts == {"backend": expected}
    assert Store(tmp_path).described(Backend()).provenance.neighbours == backend
    assert "backend" not in neighbours._forced


def test_a_tree_of_files_is_an_artifact(tmp_path: Path) -> None:
    folder = run(Tree("abc"), tmp_path / "store")
    assert (folder.path / "deep" / "file.txt").read_text() == "abc"
    assert folder.facts == {"letters": 3}


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    run(Tree(), tmp_path / "store")
    store = Store(tmp_path / "store")
    before = (store.folder(Tree()) / "artifact.json").stat()
    run(Tree(), tmp_path / "store")
    assert (store.folder(Tree()) / "artifact.json").stat() == before


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_a_damaged_file_is_named_and_the_mend_works(tmp_path: Path, damage: str) -> None:
    run(Number(), tmp_path / "store")
    store = Store(tmp_path / "store")
    victim = store.folder(Number()) / "queries.safetensors"
    match damage:
        case "changed":
            content = bytearray(victim.read_bytes())
            content[-1] ^= 1
            victim.write_bytes(content)
        case "truncated":
            victim.write_bytes(victim.read_bytes()[:-4])
        case _:
            victim.unlink()
    with pytest.raises(UserError, match=f"{victim}.*delete {store.folder(Number())}"):
        store.load(Number())
    shutil.rmtree(store.folder(Number()))
    assert run(Number(), tmp_path / "store").mAP == 1.0


def test_a_stage_gets_only_what_its_fields_name(tmp_path: Path) -> None:
    run(Number(12345.0), tmp_path / "store")
    with pytest.raises(LookupError, match="none of its fields names"):
        run(Number(trouble="stranger"), tmp_path / "store")


def test_nan_names_the_step_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"loss is nan at step 3, iteration 2 of demo_stages\.Number"):
        run(Number(trouble="nan"), tmp_path / "store")
    assert not Store(tmp_path / "store").has(Number(trouble="nan"))
    assert not list((tmp_path / "store").glob(".drafts/*"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_half_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(self: Scores, folder: Path) -> None:
        (folder / "queries.safetensors").write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Scores, "save", full)
    with pytest.raises(UserError, match=r"the disk of .* is full while storing demo_stages\.Number: free some room"):
        run(Number(), tmp_path / "store")
    assert not Store(tmp_path / "store").has(Number())
    assert not list((tmp_path / "store").glob(".drafts/*"))
    monkeypatch.undo()
    assert run(Number(), tmp_path / "store").mAP == 1.0


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    Store(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match=r"format 99 .* give another folder with --store"):
        Store(tmp_path)


def test_a_folder_of_something_else_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty and not a store"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_every_kind_of_artifact_is_known() -> None:
    assert {"Training", "Scores", "Folder"} <= set(Artifact.kinds)


def uncut(stage: Any, tmp_path: Path) -> tuple[Any, list[dict[str, float]]]:
    root = tmp_path / "uncut"
    return run(stage, root), Store(root).history(stage)


def same(left: Any, right: Any) -> bool:
    tensors = left.checkpoints["last"], right.checkpoints["last"]
    return left.facts == right.facts and all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


class Stop(Exception):
    """What stops a training."""


def stopped(stage: Any, root: Path, stop: int) -> None:
    """Build a stage until it logs a step."""

    def stopper(message: Any) -> None:
        if message["event"] == "log" and message["step"] == stop:
            raise Stop

    with pytest.raises(Stop):
        build(stage, Site(root, save_every=0), stopper)


@pytest.mark.parametrize(
    ("stage", "stop"),
    [*((Descent(), stop) for stop in range(1, 6)), *((Walk(), stop) for stop in (1, 2, 4, 5, 9))],
    ids=repr,
)
def test_resumed_equals_uncut(tmp_path: Path, stage: Any, stop: int) -> None:
    """Stopped between any two epochs or steps, a training ends with the same bits and the same history."""
    whole, history = uncut(stage, tmp_path)
    root = tmp_path / "store"
    stopped(stage, root, stop)
    assert bool(list(root.glob(".scratch/*"))) == (stop > 1)
    resumed = run(stage, root, save_every=0)
    assert same(whole, resumed)
    assert Store(root).history(stage) == history
    assert Store(root).described(stage).provenance.resumed == (stop > 1)
    assert not list(root.glob(".scratch/*"))


def test_a_resumed_stage_counts_wall_and_processor_time_of_all_its_runs(tmp_path: Path) -> None:
    """It mostly sleeps, 0.2 s an epoch; the last saved state before the stop is that after three."""
    stage = Shared(pause=0.2)
    stopped(stage, tmp_path, 4)
    run(stage, tmp_path, save_every=0)
    spent = Store(tmp_path).described(stage).provenance
    assert spent.resumed
    assert spent.wall_s >= 6 * stage.pause
    assert 0 < spent.device_s < spent.wall_s / 2


def test_resumed_draws_only_the_passes_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(Walk(steps=400), tmp_path, 398)
    passes = []

    def noted(seed: int, *where: Any) -> Any:
        passes.append(where[-1])
        return numpy_generator(seed, *where)

    monkeypatch.setattr(sampling, "numpy_generator", noted)
    resumed = run(Walk(steps=400), tmp_path)
    assert len(resumed.facts["seen"]) == 400
    assert passes == [99]


def test_two_resumable_loops_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"demo_stages\.Twice starts a second loop, over env\.steps"):
        run(Twice(), tmp_path)


@pytest.mark.parametrize(
    ("takes", "size", "saves"),
    [(0.0, 0, 9), (0.5, LARGE, 9), (5.0, 0, 2), (60.0, 0, 1), (0.0, 3 * LARGE, 3), (5.0, 10 * LARGE, 1)],
)
def test_saving_takes_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: float, size: int, saves: int
) -> None:
    """800 steps of an eighth of a second: a state is saved every ten seconds, a slow or large one more seldom."""
    now, saved = 0.0, []

    def save(*_: Any) -> int:
        nonlocal now
        saved.append(now)
        now += takes
        return size

    monkeypatch.setattr("reproduce.running.resume.save_next", save)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    (tmp_path / "draft").mkdir()
    env = StageEnv(Walk(), Store(tmp_path / "store"), Site(tmp_path), tmp_path / "draft", quiet)
    for _ in env.steps(800, SimpleNamespace()):
        now += 0.125
    assert len(saved) == saves
    assert saved[0] == 10


@pytest.mark.parametrize(
    ("stage", "message"),
    [*((Descent(), message) for message in (1, 3, 4, 7, 9)), *((Walk(), message) for message in (5, 9, 12))],
    ids=repr,
)
def test_killed_equals_uncut(tmp_path: Path, engine: Callable[..., Engine], stage: Any, message: int) -> None:
    """SIGKILL at several moments: the job fails alone, and the next run ends with the same bits."""
    whole, history = uncut(stage, tmp_path)
    heard: list[dict[str, Any]] = []

    def killer(job: Job) -> None:
        heard.append(dict(job.progress))
        if len(heard) == message and job.status == "running":
            os.kill(first._children[0].process.pid, 9)

    first = engine(on_change=killer, save_every=0)
    first.submit([stage])
    job = first.wait(stage)
    if job.status == "failed":
        assert "SIGKILL" in job.error
        second = engine(save_every=0)
        second.submit([stage])
        job = second.wait(stage)
    assert job.status == "done"
    assert same(whole, first.store.load(stage))
    assert first.store.history(stage) == history


@pytest.mark.parametrize("name", ["state.safetensors", "state-000000003-0123456789abcdef.safetensors"])
def test_a_broken_state_is_named(tmp_path: Path, name: str) -> None:
    root = tmp_path / "store"
    path = Store(root).scratch(Descent()) / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x08\x00\x00")
    with pytest.raises(UserError, match=f"{path} is not a readable training state .* delete it"):
        run(Descent(), root)


def saved(root: Path) -> list[Path]:
    return sorted(Store(root).scratch(Descent()).iterdir())


@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=40)
def test_a_changed_byte_of_a_saved_state_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, where: float, flip: int
) -> None:
    """The state before it serves, which is said, and the bits are those of an uncut run."""
    root = tmp_path_factory.mktemp("flipped")
    stopped(Descent(), root, 5)
    before, last = saved(root)
    content = bytearray(last.read_bytes())
    content[int(where * len(content))] ^= flip
    last.write_bytes(content)
    told: list[str] = []
    build(Descent(), Site(root), lambda message: told.append(message.get("told", "")))
    assert f"{last} is damaged (its checksum does not match): the state before it is used" in told
    assert same(uncut(Descent(), root.parent / root.name)[0], Store(root).load(Descent()))
    assert before.name.startswith("state-000000003-")


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_the_state_before_a_damaged_one_serves(tmp_path: Path, damage: str) -> None:
    stopped(Descent(), tmp_path / "store", 5)
    last = saved(tmp_path / "store")[-1]
    match damage:
        case "missing":  # as after a kill between two renames
            last.unlink()
        case _:
            last.write_bytes(last.read_bytes()[: -7 if damage == "truncated" else 0])
    assert same(uncut(Descent(), tmp_path)[0], run(Descent(), tmp_path / "store"))


def test_damage_to_both_states_is_an_error(tmp_path: Path) -> None:
    stopped(Descent(), tmp_path, 5)
    for path in saved(tmp_path):
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=f"{saved(tmp_path)[-1]} is not a readable .* delete it"):
        run(Descent(), tmp_path)


def test_a_state_of_an_earlier_version_goes_on_without_a_word(tmp_path: Path) -> None:
    """Earlier versions kept one state, under one name, without a checksum or the version of torch."""
    stopped(Descent(), tmp_path, 5)
    before, last = saved(tmp_path)
    before.unlink()
    tensors = load_file(last)
    label = json.loads(tensors["label"].numpy().tobytes())
    del label["torch"], label["progress"]["device"]
    tensors["label"] = torch.frombuffer(bytearray(json.dumps(label).encode()), dtype=torch.uint8)
    save_file(tensors, last.with_name("state.safetensors"))
    last.unlink()
    last.with_name("state.new").write_bytes(b"half")
    told: list[str] = []
    build(Descent(), Site(tmp_path, save_every=0), lambda message: told.append(message.get("told", "")))
    assert not any(told)
    assert Store(tmp_path).described(Descent()).provenance.resumed
    assert same(uncut(Descent(), tmp_path)[0], Store(tmp_path).load(Descent()))
    assert not Store(tmp_path).scratch(Descent()).exists()


def test_a_state_of_another_torch_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.1.0+old")
    stopped(Descent(), tmp_path, 5)
    monkeypatch.undo()
    with pytest.raises(
        UserError, match=r"was saved by torch 2\.1\.0\+old, and torch .* install that version, or delete"
    ):
        run(Descent(), tmp_path)


def test_a_state_of_another_version_of_a_stage_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(Descent(), tmp_path, 5)
    monkeypatch.setattr(Descent, "version", 2)
    changed = Descent()
    run(changed, tmp_path)
    assert not Store(tmp_path).described(changed).provenance.resumed


# -- several builders of one stage, and what killed ones left ----------------------------------------------------------


@contextlib.contextmanager
def no_locks() -> Iterator[None]:
    """Let every lock succeed at once, as on a file system that ignores them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("filelock._unix.lock_fd_nonblocking", lambda _: True)
        patch.setattr("filelock._unix.unlock_fd", lambda _: None)
        yield


@pytest.mark.parametrize("first", ["this", "the other"])
def test_two_builders_without_locks_publish_one_artifact(tmp_path: Path, first: str) -> None:
    """A builder that was stopped and thought dead goes on after another has published, or the other way around."""
    root, expected = tmp_path / "store", uncut(Descent(), tmp_path)
    other = os.fork

    def rival() -> None:
        pid = other()
        if not pid:
            with contextlib.suppress(BaseException):
                build(Descent(), Site(root, save_every=0), quiet)
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0

    def meanwhile(message: Any) -> None:
        if message["event"] == "log" and message["step"] == (3 if first == "the other" else 6):
            rival()

    with no_locks():
        build(Descent(), Site(root, save_every=0), meanwhile)
    assert same(expected[0], Store(root).load(Descent()))
    assert Store(root).history(Descent()) == expected[1]
    assert not list(root.glob(".drafts/*"))
    assert not list(root.glob(".scratch/*"))


def test_a_file_system_without_locks_gets_marker_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> bool:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("filelock._unix.lock_fd_nonblocking", missing)
    with pytest.warns(UserWarning, match="flock not supported"):
        assert same(uncut(Descent(), tmp_path)[0], Store(tmp_path / "uncut").load(Descent()))


def test_drafts_of_dead_builders_are_deleted_by_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    script = "from reproduce.running.processes import this_process; print(this_process())"
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    left, kept = (store.root / ".drafts" / f"0123456789@{name}" for name in (dead, "elsewhere@0@1@2@"))
    for folder in (left, kept):
        folder.mkdir(parents=True)
    run(Number(), tmp_path)
    assert list(store.root.glob(".drafts/*")) == [kept]


@pytest.mark.parametrize(("number", "says"), [(errno.ESTALE, "lost a file"), (errno.EDQUOT, "is full")])
def test_errors_while_publishing_are_told_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def fails(self: Path, target: Path) -> Path:
        if self.parent.name == ".drafts":
            raise OSError(number, os.strerror(number))
        return rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(UserError, match=f"{says} .*while storing demo_stages.Descent"):
        run(Descent(), tmp_path, save_every=0)
    monkeypatch.undo()
    assert saved(tmp_path)
    assert same(uncut(Descent(), tmp_path)[0], run(Descent(), tmp_path))
    assert Store(tmp_path).described(Descent()).provenance.resumed


# -- damaged and unusual stores ----------------------------------------------------------------------------------------

JUNK = ["", "{", "[]", "null", '{"format": 1}', "\xff"]


@pytest.mark.parametrize("content", JUNK, ids=repr)
def test_damaged_metadata_is_named(tmp_path: Path, content: str) -> None:
    run(Number(), tmp_path)
    store = Store(tmp_path)
    for name, reader in (
        ("artifact.json", store.load),
        ("artifact.json", store.described),
        ("history.json", store.history),
    ):
        path = store.folder(Number()) / name
        whole = path.read_bytes()
        path.write_bytes(content.encode("latin-1"))
        if (name, content) != ("history.json", "[]"):
            with pytest.raises(UserError, match=f"{path} is damaged .* delete {path.parent} and run again"):
                reader(Number())  # type: ignore[operator]
        path.write_bytes(whole)


def test_an_artifact_of_an_unknown_kind_is_damaged(tmp_path: Path) -> None:
    run(Number(), tmp_path)
    path = Store(tmp_path).folder(Number()) / "artifact.json"
    described = json.loads(path.read_text())
    del described["checksum"]  # as earlier versions wrote it
    for change in ({"kind": "Banana"}, {"kind": "Training", "files": {}}, {"files": {"..": "x"}}):
        path.write_text(json.dumps(described | change))
        with pytest.raises(UserError, match="is damaged"):
            Store(tmp_path).load(Number())


def test_a_wrong_byte_of_a_description_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    run(Number(), tmp_path)
    store = Store(tmp_path)
    path, described = store.folder(Number()) / "artifact.json", store.described(Number())
    whole, noticed = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert store.described(Number()) == described
        except UserError:
            noticed += 1
    assert noticed > len(whole) / 2, "white space is most of the rest"
    path.write_bytes(whole)
    assert store.load(Number()).mAP == 1.0


def test_a_file_added_to_an_artifact_is_noticed(tmp_path: Path) -> None:
    path = run(Tree(), tmp_path).path / "deep" / "0099_c1s1_000001_00.jpg"
    path.with_name(".DS_Store").touch()
    Store(tmp_path).load(Tree())
    path.touch()
    with pytest.raises(UserError, match=f"{path} is damaged .the stage did not write it.: delete {path.parents[2]}"):
        Store(tmp_path).load(Tree())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "x"}', "\xff"], ids=repr)
def test_a_damaged_label_of_a_store_is_named(tmp_path: Path, content: str) -> None:
    Store(tmp_path)
    label = tmp_path / "store.json"
    label.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=f"{label} is damaged"):
        Store(tmp_path)


def test_a_store_whose_creation_was_killed_is_created_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".store.json.0123abcd").touch()
    assert run(Number(), tmp_path).mAP == 1.0


@pytest.mark.parametrize("call", ["exists", "is_dir", "iterdir", "mkdir", "replace"])
def test_two_processes_create_a_store_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The other is faster, at any moment between two system calls of this one."""
    own = getattr(Path, call)

    def faster(path: Path, *arguments: Any, **named: Any) -> Any:
        before = () if call == "iterdir" else own(path, *arguments, **named)
        monkeypatch.undo()
        Store(tmp_path)
        (tmp_path / ".locks").mkdir()
        return own(path) if call == "iterdir" else before

    monkeypatch.setattr(Path, call, faster)
    Store(tmp_path)
    assert (tmp_path / ".locks").exists()
    assert (tmp_path / "store.json").exists()


# -- images that change ------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tiny_domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A domain of one's own, copied long enough ago for its digest to be remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copied = shutil.copytree(tiny_domain, tmp_path / "images")
    for path in copied.rglob("*.png"):
        os.utime(path, (1.6e9, 1.6e9))
    return copied


def on(images: Path, root: Path, **site: Any) -> tuple[Any, Site]:
    domain = Real("market", digest(read(images, "market")))
    return Visited(domain), Site(root, folders={domain.digest: images}, **site)


CHANGES = {
    "content": "printf x >> {path}",
    "content of the same size": "printf x | dd of={path} bs=1 seek=60 conv=notrunc status=none",
    "removal": "rm {path}",
    "replacement by an older file": "cp {other} {path} && touch -d 2001-01-01 {path}",
}


def change(images: Path, kind: str) -> tuple[str, Path]:
    path, other = sorted((images / "query").iterdir())[2:4]
    return CHANGES[kind].format(path=path, other=other), path


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("subset", [None, 2])
def test_images_that_changed_since_their_digest_are_not_used(
    images: Path, tmp_path: Path, kind: str, subset: int | None
) -> None:
    stage, site = on(images, tmp_path / "store")
    stage = replace(stage, domain=replace(stage.domain, subset=subset))
    command, path = change(images, kind)
    subprocess.run(command, shell=True, check=True)
    for _ in range(2):
        with pytest.raises(UserError, match=f"{path} has changed since the run began, .* run the same command again"):
            build(stage, site, quiet)
    assert not Store(site.store).has(stage)
    moved, site = on(images, tmp_path / "store")
    assert moved.key != stage.key
    build(moved, site, quiet)


@pytest.mark.parametrize("kind", CHANGES)
def test_images_that_change_during_a_run_leave_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stage, site = on(images, tmp_path / "store", save_every=0)
    command, path = change(images, kind)
    monkeypatch.setenv("VISIT", command)
    with pytest.raises(UserError, match=f"{path} changed while demo_sources.Visited ran, and nothing of that was kept"):
        build(stage, site, quiet)
    store = Store(site.store)
    assert not store.has(stage)
    assert not store.scratch(stage).exists(), "nor is the state that the changed images went into"


def test_what_goes_wrong_by_a_change_is_told_as_the_change(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, site = on(images, tmp_path / "store")
    command, path = change(images, "content")
    monkeypatch.setenv("VISIT", f"{command}; false")
    with pytest.raises(UserError, match=f"{path} changed while"):
        build(stage, site, quiet)
    monkeypatch.setenv("VISIT", "false")
    with pytest.raises(subprocess.CalledProcessError):
        build(*on(images, tmp_path / "store"), quiet)


def test_copying_images_again_changes_nothing(images: Path, tmp_path: Path) -> None:
    stage, site = on(images, tmp_path / "store")
    for path in images.rglob("*.png"):
        os.utime(path, (1.7e9, 1.7e9))
    build(stage, site, quiet)
    assert Store(site.store).has(stage)


def test_images_that_a_stage_made_may_not_change_either(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, site = on(images, tmp_path / "store")
    mirror = Mirror(original.domain)
    build(mirror, site, quiet)
    made = Store(site.store).load(mirror).path / "query"
    monkeypatch.setenv("VISIT", f"rm {min(made.iterdir())}")
    with pytest.raises(UserError, match=f"{min(made.iterdir())} changed while"):
        build(Visited(mirror), site, quiet)
