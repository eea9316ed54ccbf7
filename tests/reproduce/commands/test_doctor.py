"""The doctor's page: what is here, what is wrong, what to do next; on one screen."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trees

from reproduce import weights
from reproduce.commands.cli import main
from reproduce.commands.doctor import LINES, WIDTH, examine
from reproduce.data.catalogue import CATALOGUE, letters
from reproduce.data.manifests import digest
from reproduce.data.reading import read
from reproduce.errors import UserError
from reproduce.papers.cases import Suite
from reproduce.papers.tables import read_all
from reproduce.session import planning

SUITES = Path(__file__).parents[3] / "suites"

Doctor = Callable[..., tuple[int, str]]

collected = functools.cache(planning.collected)
"""The cases of the suites, collected once for all tests."""


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs `reproduce doctor` on a machine without caches, and checks that what it prints fits a screen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(planning, "collected", collected)
    for name in ("TORCH_HOME", "REID_DATA"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> tuple[int, str]:
        code = main(["doctor", "--suites", str(SUITES), *map(str, arguments)])
        output = capsys.readouterr().out
        assert len(output.splitlines()) <= LINES
        assert max(map(len, output.splitlines())) <= WIDTH, output
        return code, output

    return run


def line(output: str, start: str) -> str:
    """The line that begins so, spaces aside."""
    (found,) = (text for text in output.splitlines() if text.strip().startswith(start))
    return " ".join(found.split())


def following(output: str) -> str:
    """The next step, in one line."""
    return " ".join(output[output.index("next:") :].split())


def test_an_empty_machine(doctor: Doctor) -> None:
    code, output = doctor()
    assert code == 0
    assert line(output, "Data") == "Data no --data-root, no REID_DATA"
    for name in CATALOGUE:
        assert f"  {name:10}missing  " in output
    assert "withdrawn by its makers: nobody can ask for it" in line(output, "duke ")
    assert "put" not in output.split("next:")[1]
    assert re.fullmatch(
        r'next: pytest suites/ -k "\w+ and table\w+-\w+" --scale small \(\d stages, minutes, on drawn stand-ins, .*\)',
        following(output),
    )
    assert "resnet50-0676ba61.pth of torchvision; blocked(weights) at scale paper" in output
    assert "resnet50_ibn_a-d9d0bb7b.pth of IBN-Net" in output
    assert "Python 3." in line(output, "Machine")
    assert "torch " in line(output, "Machine")
    assert line(output, "together ").split()[2:5] == ["0", "0", "market"]


def test_rows_are_counted_by_what_their_tasks_need(doctor: Doctor) -> None:
    _, output = doctor()
    papers = read_all(SUITES)
    rows = [case for paper in papers.values() for case in Suite(paper).rows()]
    tasks = [case.task.name for case in rows]
    assert line(output, "together ").startswith(f"together {len(tasks)} 0 0 market ")
    needs = {name: sum(letter in (task[0], task[2]) for task in tasks) for letter, name in letters().items()}
    assert f"duke {needs['duke']}" in line(output, "together ")
    assert f"personx {needs['personx']}" in line(output, "together ")
    pretrained = sum(case.row.pretrained == "luperson" for case in rows)
    assert line(output, "UP-ReID ").endswith(f"luperson {pretrained}")
    assert output.partition("together")[2].partition("luperson")[2].startswith(f" {pretrained}\n")
    kept = sum("d" not in (task[0], task[2]) for task in tasks)
    assert f'DukeMTMC-reID was withdrawn: -m "not withdrawn" leaves {kept} cases, 0 with data' in output
    for paper in papers.values():
        assert line(output, f"{paper.name} ")
    readme = " ".join((SUITES.parent / "README.md").read_text().split())
    said = f"Of the {len(tasks)} cases of rows that the five papers ran or may have run, {len(tasks) - kept} need it"
    assert said in readme
    assert f"leaves the other {kept}," in readme


def test_market_only(doctor: Doctor, in_memory: Path) -> None:
    folder = trees.plant(in_memory / "market1501" / "Market-1501-v15.09.15", trees.market())
    code, output = doctor("--data-root", in_memory)
    assert code == 0
    assert line(output, "market ") == "market ok the published counts: trains on 751 ids, 12,936 images"
    assert str(folder) in output
    assert line(output, "looked for").startswith("looked for DukeMTMC-reID, MSMT17_V1, cuhk03-np, PersonX, LUPerson")
    assert "market" not in line(output, "together ")
    small = '-k "upreid and table1b-m2m" --scale small (6 stages, minutes)'
    assert following(output) == f"next: pytest suites/ --data-root {in_memory} {small}"
    assert line(output, "MSPLR ").split()[1:4] == ["24", "1", "0"], "its weights are missing"
    assert line(output, "SPTD ").split()[2] == "0"
    assert line(output, "UP-ReID ").split()[2] == "4", "INSUP in tables 1b and 2; all others pre-train on LUPerson"


def test_content_that_changed_under_its_size_and_time(doctor: Doctor, tiny_domain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_domain, tmp_path / "market")
    options = ("--domain", f"market={folder}")
    for path in folder.rglob("*.png"):
        os.utime(path, (1.6e9, 1.6e9))
    digest(read(folder, "market"))
    names = ("0011_c1s1_000000_00.png", "0012_c1s1_000000_00.png")
    for path in (folder / "query" / name for name in names):
        stat, content = path.stat(), path.read_bytes()
        path.write_bytes(content[:-1] + b"\0")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert doctor(*options)[0] == 0
    code, output = doctor("--deep", *options)
    assert code == 1
    assert line(output, "market ").startswith(f"market broken query/{names[0]} and 1 more changed under the same size")
    assert "copy the set again, and run with another --store" in " ".join(output.split())
    assert doctor("--deep", *options)[0] == 0, "what lies there now is remembered"
    (folder / "query" / names[0]).write_text("<html>Please sign in</html>")
    assert "is an HTML page" in doctor("--deep", *options)[1]


def test_a_broken_duke(doctor: Doctor, in_memory: Path) -> None:
    trees.plant(in_memory / "dukemtmc-reid" / "DukeMTMC-reID", trees.duke())
    query = in_memory / "dukemtmc-reid" / "DukeMTMC-reID" / "query"
    victim = sorted(query.iterdir())[0]
    victim.unlink()
    code, output = doctor("--data-root", in_memory)
    assert code == 0
    assert line(output, "duke ") == "duke other query images 2,227, not 2,228 (1 fewer)"
    assert line(output, "next:") == "next: fix duke as described above, then run this again"
    assert line(output, "together ").split()[4] == "market"

    victim.write_text("<html>This data set is no longer available.</html>")
    code, output = doctor("--data-root", in_memory)
    assert code == 1
    assert line(output, "duke ").startswith("duke broken ")
    assert f"query/{victim.name} is an HTML page, whatever its name says; copy it again" in " ".join(output.split())
    assert line(output, "next:") == "next: fix duke as described above, then run this again"

    shutil.rmtree(query)
    code, output = doctor("--data-root", in_memory)
    assert code == 1
    assert "duke broken the folder has no images (.jpg, .png, .bmp) in query; copy what is missing" in " ".join(
        output.split()
    )


def test_v2_in_the_place_of_v1(doctor: Doctor, tmp_path: Path) -> None:
    folder = trees.plant_msmt17(tmp_path / "msmt17" / "MSMT17_V2", ("mask_train_v2", "mask_test_v2"), keep=20)
    _, output = doctor("--data-root", tmp_path)
    assert line(output, "msmt17 ") == "msmt17 other V2, its faces blurred; the papers print numbers of V1"
    assert line(output, "next:") == "next: fix msmt17 as described above, then run this again"
    _, output = doctor("--domain", f"msmt17={folder}")
    assert line(output, "msmt17 ").startswith("msmt17 own V2")
    assert "mend" not in line(output, "next:")


def test_a_mini_set_is_found_as_such(doctor: Doctor, tiny_domain: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_domain, tmp_path / "data" / "market")
    code, output = doctor("--data-root", tmp_path / "data")
    assert code == 0
    assert line(output, "market ").startswith("market mini not the published counts: trains on 6 ids, 36 images; needs")
    assert "--data-root" in following(output)
    assert '--accept-counts -k "upreid and table1b-m2m" --scale small' in following(output).replace("\\ ", "")


def test_a_folder_of_ones_own_is_taken_as_it_is(doctor: Doctor, tiny_domain: Path) -> None:
    code, output = doctor("--domain", f"market={tiny_domain}", "--domain", f"personx={tiny_domain}")
    assert code == 0
    assert line(output, "market ") == "market own not the published counts: trains on 6 ids, 36 images"
    runs = '-k "upreid and table1b-m2m" --scale small (6 stages, minutes)'
    assert re.fullmatch(rf"next: pytest suites/ --domain market=\S+ {re.escape(runs)}", following(output))
    assert line(output, "UP-ReID ").split()[2] > "0"


def test_weights_are_shown_with_their_hash(
    doctor: Doctor, tiny_domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    digests = {"resnet50": (digest,), "resnet50_ibn_a": ("d9d0bb7b",)}
    monkeypatch.setattr(weights, "PUBLISHED", {"imagenet": digests})
    (tmp_path / f"resnet50-{digest[:8]}.pth").write_bytes(b"weights")
    (tmp_path / "resnet50_ibn_a-d9d0bb7b.pth").write_bytes(b"half of the weights")
    (tmp_path / "resnet50-luperson.safetensors").touch()
    _, output = doctor("--weights", tmp_path)
    assert f"imagenet  ok       resnet50-{digest[:8]}.pth, SHA-256 {digest[:12]}" in output
    assert "imagenet  broken   resnet50_ibn_a-d9d0bb7b.pth is damaged" in output
    assert "converted ok       resnet50-luperson" in output
    (tmp_path / f"resnet50-{digest[:8]}.pth").rename(tmp_path / "resnet50.pth")
    _, output = doctor("--weights", tmp_path, "--domain", f"market={tiny_domain}")
    assert "imagenet  ok       resnet50.pth" in output
    assert line(output, "SPTD ").split()[1:4] == ["34", "0", "0"]
    assert line(output, "DAAM ").split()[2:4] == ["1", "1"]
    (tmp_path / "resnet50.pth").write_bytes(b"from elsewhere")
    assert "imagenet  other    resnet50.pth, SHA-256" in doctor("--weights", tmp_path)[1]
    assert main(["doctor", "--weights", str(tmp_path / "none")]) == 2


def test_everything_wrong_at_once_still_fits(doctor: Doctor, tmp_path: Path) -> None:
    root = tmp_path / ("a-long-name-of-a-folder-" * 6)
    for folder in ("market1501", "DukeMTMC-reID", "PersonX"):
        trees.plant(root / folder / "query", ["IMG_0001.jpg", "IMG_0002.jpg"])
    trees.plant(root / "msmt17" / "MSMT17_V1", ["train/0000/x.jpg"])
    trees.plant(root / "cuhk03", ["detected/query/0001_c1_1.png"])
    (root / "LUPerson").mkdir()
    code, output = doctor("--data-root", root)
    assert code == 1
    assert output.count(" broken ") == 6


def test_every_domain_says_how_to_ask_for_it() -> None:
    for name, known in CATALOGUE.items():
        assert examine(name, None, None).status == "missing"
        assert "http" not in known.ask


def test_a_truncated_image_passes_but_for_deep(doctor: Doctor, tiny_domain: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_domain, tmp_path / "set")
    for path in sorted((root / "query").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:-40])
    code, _ = doctor("--domain", f"market={root}")
    assert code == 0
    code, output = doctor("--domain", f"market={root}", "--deep")
    assert code == 1
    assert "0011_c1s1_000000_00.png is not a readable image" in line(output, "market ")
    assert examine("market", None, root, deep=True).says.endswith("replace or remove it (1 more like this)")


def test_a_pipe_named_as_an_image_is_named(doctor: Doctor, tiny_domain: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_domain, tmp_path / "set")
    path = sorted((root / "query").iterdir())[0]
    path.unlink()
    os.mkfifo(path)
    for deep in (False, True):
        assert f"query/{path.name} is no file, but a pipe" in examine("market", None, root, deep=deep).says
    with pytest.raises(UserError, match=f"{path} is no file, but a pipe"):
        digest(read(root, "market"))
    people = trees.plant(tmp_path / "luperson", ["a/1.jpg"])
    os.mkfifo(people / "a" / "2.jpg")
    assert "a/2.jpg is no file, but a pipe" in examine("luperson", None, people).says


def test_what_limits_training_is_said(tiny_domain: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_domain, tmp_path / "set")
    for path in root.rglob("*_c2s1_*"):
        path.unlink()
    for path in (root / "bounding_box_train").glob("000[3-6]*"):
        path.unlink()
    says = examine("market", None, root).says
    for odd in (
        "there are 2 identities to train on",
        "all images of training are of one camera",
        "all images of the test are of one camera",
        "no query has a match of another camera in the gallery",
    ):
        assert odd in says
    whole = examine("market", None, tiny_domain).says
    assert "camera" not in whole
    assert "identities to train on" not in whole
    gallery = root / "bounding_box_test"
    min(gallery.glob("0011*")).rename(gallery / "0011_c2s1_000000_01.png")
    assert "3 of 4 queries lack a match of another camera in the gallery" in examine("market", None, root).says
