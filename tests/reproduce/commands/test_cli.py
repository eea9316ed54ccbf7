from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import made
import PIL.Image
import pytest
import trees
from demo_stages import After, Descent, Number

from reproduce.commands.cli import main
from reproduce.data import sheets
from reproduce.data.catalogue import drawn
from reproduce.data.world import CAUSES
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.running import slurm, specs
from reproduce.running.engine import Engine
from reproduce.running.runner import Site, Store, build


def test_the_package_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "reproduce", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: reproduce ")


def test_make_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "make", "market", str(tmp_path / "m"), "--scale", "smoke"]) == 0
    assert main(["data", "info", "market", str(tmp_path / "m")]) == 0
    output = capsys.readouterr().out
    assert "13 ids" in output
    assert "published: 751 ids, 12936 images, 6 cameras" in output
    assert main(["data", "make", "market", str(tmp_path / "m")]) == 2
    assert "is not empty: name another folder" in capsys.readouterr().err


def test_make_and_info_of_the_other_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, expected in (
        ("cuhk03", "24 images, 2 cameras   published: 700 ids, 1400 images, 2 cameras"),
        ("luperson", "train    0 ids, 938 images, 0 cameras\n"),
    ):
        assert main(["data", "make", name, str(tmp_path / name), "--scale", "smoke"]) == 0
        assert main(["data", "info", name, str(tmp_path / name)]) == 0
        assert expected in capsys.readouterr().out


def test_a_sheet_for_each_domain_and_each_dial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, int]] = []

    def page(kind: str) -> Callable[..., PIL.Image.Image]:
        def draw(name: str, *, seed: int) -> PIL.Image.Image:
            asked.append((kind, name, seed))
            return PIL.Image.new("RGB", (2, 2))

        return draw

    for kind in ("contact_sheet", "dial_sheet"):
        monkeypatch.setattr(sheets, kind, page(kind))
    monkeypatch.setattr(sheets, "object_sheet", lambda: PIL.Image.new("RGB", (3, 3)))
    assert main(["data", "sheet", str(tmp_path), "--world-seed", "2"]) == 0
    of_domains = [("contact_sheet", domain, 2) for domain in drawn()]
    assert asked == [*of_domains, *(("dial_sheet", cause, 2) for cause in CAUSES)]
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted([*drawn(), *CAUSES, "objects"])
    assert "time" not in CAUSES, "which no picture shows"
    told = capsys.readouterr().out
    assert str(tmp_path / "occlusion.png") in told
    assert str(tmp_path / "objects.png") in told
    with PIL.Image.open(tmp_path / "objects.png") as sheet:
        assert sheet.size == (3, 3)


def test_info_of_a_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.plant_msmt17(tmp_path / "MSMT17_V1", keep=5)
    assert main(["data", "info", "msmt17", str(tmp_path)]) == 0
    whole = capsys.readouterr().out
    assert f"msmt17 V1 train+val {tmp_path / 'MSMT17_V1'}" in whole
    assert "10 images, 5 cameras   published: 1041 ids, 32621 images, 15 cameras" in whole
    assert main(["data", "info", "msmt17", str(tmp_path), "--variant", "train"]) == 0
    assert "5 images, 5 cameras   published: 1041 ids, 30248 images" in capsys.readouterr().out
    assert main(["data", "info", "market", str(tmp_path), "--variant", "train"]) == 2
    assert "market has no variant 'train'" in capsys.readouterr().err


def test_stage_shows_what_the_store_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(Number(3.0), Site(tmp_path), lambda _: None)
    assert main(["stage", Number(3.0).key[:6], "--store", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert Number(3.0).key in output
    assert "value            3.0" in output
    assert main(["stage", "ffff", "--store", str(tmp_path)]) == 2
    assert "no stage begins with ffff" in capsys.readouterr().err


def test_gc_keeps_what_results_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, results = tmp_path / "store", tmp_path / "results"
    for value in (1.0, 2.0):
        build(Number(value), Site(root), lambda _: None)
    store = Store(root)
    (store.scratch(Number(7.0))).mkdir(parents=True)
    records.write(made.result(stages=[made.stage(Number(1.0).key)]), results)
    command = ["gc", "--store", str(root), "--keep", str(results)]
    assert main(command) == 0
    assert capsys.readouterr().out.endswith(f"; next: reproduce gc --store {root} --keep {results} --delete\n")
    assert store.has(Number(2.0))
    with store.lock(Number(7.0)):
        assert main(command) == 0
        assert f"in use      {store.scratch(Number(7.0))}" in capsys.readouterr().out
        assert main([*command, "--delete"]) == 2
        assert f"a run is building stage {Number(7.0).key}" in capsys.readouterr().err
    assert store.has(Number(2.0))
    assert main([*command, "--delete"]) == 0
    assert (store.has(Number(1.0)), store.has(Number(2.0)), store.scratch(Number(7.0)).exists()) == (True, False, False)


def test_gc_keeps_what_jobs_in_a_queue_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether Slurm says that they are queued, or a run has noted that it left them."""
    store, site = Store(tmp_path / "store"), Site(tmp_path / "store")
    training, done = Descent(), Number(1.0)
    (store.scratch(training)).mkdir(parents=True)
    job = store.root / specs.FOLDER / "training" / "abcd.json"
    described = specs.spec([After(training)], [], store, site, same=True)
    job.parent.mkdir()
    specs.write(described, job)
    delete = ["gc", "--store", str(store.root), "--keep", "--delete"]

    def kept() -> bool:
        build(done, site, lambda _: None)
        assert main(delete) == 0
        assert not store.has(done)
        says = "1 job in a queue, or not collected from it yet: what they build and need stays\n"
        assert (capsys.readouterr().out.partition("unused")[0] == says) == store.scratch(training).exists()
        return store.scratch(training).exists()

    def answers(*states: slurm.State) -> None:
        monkeypatch.setattr(slurm, "ask", lambda: {state.id: state for state in states})

    noted = job.with_suffix(".left")
    noted.write_text("4711")
    assert kept()
    noted.unlink()
    pending = slurm.State("4711", "training", "PENDING", "Resources", "", "", job.with_suffix(".sh"))
    answers(pending)
    assert kept()
    answers(replace(pending, script=tmp_path / "other.sh"), replace(pending, id="7", state="CANCELLED"))
    assert not kept()


def test_gc_deletes_nothing_while_a_run_uses_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "store"
    needed = Number(1.0)
    build(needed, Site(root), lambda _: None)
    delete = ["gc", "--store", str(root), "--keep", "--delete"]
    run = Engine(Site(root), logs=tmp_path / "logs")
    assert main(delete) == 2
    assert f"is used by process {os.getpid()} on " in capsys.readouterr().err
    assert Store(root).has(needed)
    run.close()
    assert main(delete) == 0
    assert not Store(root).has(needed)


def test_gc_refuses_where_it_cannot_tell_whether_a_run_lives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "store"
    build(Number(1.0), Site(root), lambda _: None)
    delete = ["gc", "--store", str(root), "--keep", "--delete"]
    note = root / ".users" / "run@elsewhere@01234567@17@99@4711@abcd"
    note.parent.mkdir(exist_ok=True)
    note.touch()
    assert main(delete) == 2
    told = capsys.readouterr().err
    assert "is used by process 17 on elsewhere (job 4711), for run" in told
    assert f"if that has ended, delete {note}" in told
    assert Store(root).has(Number(1.0))
    note.unlink()
    dead = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, check=True).stdout.strip()
    note = note.with_name(f"run@{dead}@abcd")
    note.touch()
    assert main(delete) == 0
    assert not note.exists(), "a killed run's note is cleaned up"


NAMED = "from reproduce.running.processes import this_process; print(this_process())"


def test_no_run_starts_while_gc_deletes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.used("gc"), pytest.raises(UserError, match="for gc: wait for its end"):
        Engine(Site(store.root), logs=tmp_path / "logs")
    with store.used("run"), store.used("run"):
        pass
    assert not list(store.root.glob(".users/*"))


def test_gc_needs_a_store_and_results_to_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gc", "--store", "typo", "--delete"]) == 2
    assert "typo is no store" in capsys.readouterr().err
    assert not Path("typo").exists()
    root = Path("elsewhere/store")
    for value in (1.0, 2.0):
        build(Number(value), Site(root), lambda _: None)
    command = ["gc", "--store", str(root), "--delete"]
    assert main([*command, "--keep", "typo"]) == 2
    assert "--keep typo: there is no such folder" in capsys.readouterr().err
    assert main(command) == 2
    assert "no results lie beside elsewhere/store" in capsys.readouterr().err
    records.write(made.result(stages=[made.stage(Number(1.0).key)]), Path("elsewhere/results"))
    records.write(made.result(row="b", stages=[made.stage(Number(2.0).key)]), Path("build/results"))
    assert main(command) == 0
    assert (Store(root).has(Number(1.0)), Store(root).has(Number(2.0))) == (True, True), "of a run with --store"
    shutil.rmtree("build")
    assert main(command) == 0
    assert (Store(root).has(Number(1.0)), Store(root).has(Number(2.0))) == (True, False)


def test_gc_keeps_what_a_run_of_figures_alone_made(tmp_path: Path) -> None:
    root, out = tmp_path / "store", tmp_path / "build"
    for value in (1.0, 2.0):
        build(Number(value), Site(root), lambda _: None)
    shown = records.Shown(paper="p", id="6", task="m2d", where="", shows="", rows=[])
    stages = [made.stage(Number(1.0).key)]
    figure = records.FigureRecord(
        figure=shown, identity=made.identity(), seed=1, verdict="drawn", drawing={}, stages=stages
    )
    records.write_figure(figure, None, out / "figures")
    assert main(["gc", "--store", str(root), "--keep", str(out / "results"), "--delete"]) == 0
    assert (Store(root).has(Number(1.0)), Store(root).has(Number(2.0))) == (True, False)


def test_record_copies_measured_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "build" / "results"
    good = made.result(1.0)
    records.write(good, folder)
    records.write(made.result(row="b", verdict="error"), folder)
    into = tmp_path / "recorded"
    assert main(["results", "--record", "--out", str(tmp_path / "build"), "--into", str(into)]) == 0
    assert records.read(into) == [good]
    assert "1 result, 0 claims and 0 figures recorded, 1 without numbers left out" in capsys.readouterr().out
    assert main(["results", "--record", "--out", str(tmp_path), "--into", str(into)]) == 2
    assert main(["show", str(tmp_path / "nothing")]) == 2


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["data"], ["show", "--no-such-option"]])
def test_unknown_words_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: reproduce" in capsys.readouterr().err
