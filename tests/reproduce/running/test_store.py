"""The store under any order of builds, kills, damage, clean-up and rivals; `RELIABILITY_STEPS=1000` tries it longer."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import made
import torch
from demo_stages import Descent
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from reproduce.commands.cli import main
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.running.runner import Site, Store, build

STAGES = [Descent(epochs=4, seed=seed) for seed in (1, 2)]
EXPECTED: dict[str, Any] = {}


def expected(stage: Descent) -> Any:
    """What an undisturbed build of a stage gives."""
    if stage.key not in EXPECTED:
        with tempfile.TemporaryDirectory() as folder:
            build(stage, Site(Path(folder)), lambda _: None)
            EXPECTED[stage.key] = Store(Path(folder)).load(stage)
    return EXPECTED[stage.key]


def in_a_child(stage: Descent, root: Path, *, die_at: int) -> None:
    """Build a stage in a process that is killed when it logs a step, if it ever does."""
    if not (pid := os.fork()):
        with contextlib.suppress(BaseException):
            build(stage, Site(root, save_every=0), lambda message: message.get("step") == die_at and os._exit(9))
        os._exit(0)
    os.waitpid(pid, 0)


class Disturbed(RuleBasedStateMachine):
    """What is loaded is what an undisturbed build gives, or the error names what to delete, and that helps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "store"
        Store(self.root)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def mended(self, work: Any) -> None:
        """Do some work; where an error says what to delete, delete that and do it again."""
        for _ in range(4):
            try:
                work()
            except UserError as error:
                told = str(error)
                assert str(self.root) in told, told
                victim = Path(told.partition("delete ")[2].split(" and run again")[0]) if "delete /" in told else None
                victim = victim or Path(told.split(" is ")[0])
                assert victim.exists(), told
                shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
            else:
                return
        raise AssertionError("mending does not help")

    @rule(stage=st.sampled_from(STAGES))
    def build(self, stage: Descent) -> None:
        def work() -> None:
            build(stage, Site(self.root, save_every=0), lambda _: None)
            loaded, whole = Store(self.root).load(stage), expected(stage)
            assert loaded.facts == whole.facts
            weights = loaded.checkpoints["last"], whole.checkpoints["last"]
            assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
            assert [entry["step"] for entry in Store(self.root).history(stage)] == [1, 2, 3, 4]

        self.mended(work)

    @rule(stage=st.sampled_from(STAGES), die_at=st.integers(1, 5))
    def kill(self, stage: Descent, die_at: int) -> None:
        in_a_child(stage, self.root, die_at=die_at)

    @rule(stage=st.sampled_from(STAGES), moment=st.integers(1, 4), die_at=st.integers(1, 5))
    def rival(self, stage: Descent, moment: int, die_at: int) -> None:
        """Another process builds the stage at the same time, as where a file system ignores locks."""

        def meanwhile(message: Any) -> None:
            if message["event"] == "log" and message["step"] == moment:
                shutil.rmtree(self.root / ".locks", ignore_errors=True)
                in_a_child(stage, self.root, die_at=die_at)

        self.mended(lambda: build(stage, Site(self.root, save_every=0), meanwhile))

    @rule(data=st.data())
    def corrupt(self, data: st.DataObject) -> None:
        files = [path for path in sorted(self.root.rglob("*")) if path.is_file() and path.stat().st_size]
        files = [path for path in files if path.name != "store.json" and ".locks" not in path.parts]
        if files:
            path = files[data.draw(st.integers(0, 99)) % len(files)]
            content = bytearray(path.read_bytes())
            match data.draw(st.sampled_from(["flip", "cut", "remove"])):
                case "flip":
                    content[data.draw(st.integers(0, 1 << 20)) % len(content)] ^= data.draw(st.integers(1, 255))
                    path.write_bytes(content)
                case "remove":
                    path.unlink()
                case _:
                    path.write_bytes(content[: len(content) // 2])

    @rule(keep=st.sampled_from(STAGES))
    def gc(self, keep: Descent) -> None:
        results = self.folder / "results"
        records.write(made.result(stages=[made.stage(keep.key)]), results)
        there = (Store(self.root).folder(keep) / "artifact.json").exists()
        assert main(["gc", "--store", str(self.root), "--keep", str(results), "--delete"]) == 0
        assert (Store(self.root).folder(keep) / "artifact.json").exists() == there
        assert not [*self.root.glob(".drafts/*"), *self.root.glob(".scratch/*")]

    @invariant()
    def no_note_is_left(self) -> None:
        assert not list(self.root.glob(".users/*"))


STEPS = int(os.environ.get("RELIABILITY_STEPS", "10"))
Disturbed.TestCase.settings = settings(max_examples=STEPS, stateful_step_count=10, deadline=None)
TestStore = Disturbed.TestCase
