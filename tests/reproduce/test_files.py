"""Files that are written whole or not at all, and the user's cache folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest

from reproduce.errors import UserError
from reproduce.files import check_writable, printable, replacing, user_cache


def test_replacing_makes_the_folder_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    for text in ("old", "new"):
        with replacing(path) as draft:
            draft.write_text(text)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_error_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as draft:
            draft.write_text("ne")
            raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_draft(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with replacing(path) as one, replacing(path) as other:
        assert one != other
        for draft in (one, other):
            draft.write_text("half")
            assert draft.name.startswith(".")
            assert draft.suffix != path.suffix
        assert not path.exists()
        assert list(tmp_path.glob("*.json")) == []


def test_file_has_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "file") as draft:
        draft.touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path; from reproduce.files import replacing\n"
        f"with replacing(Path({str(path)!r})) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@pytest.mark.skipif(sys.platform != "linux", reason="the place on Linux")
@pytest.mark.parametrize("xdg", [None, "", "cache"])
def test_user_cache_is_where_it_always_was(xdg: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg and str(tmp_path / xdg))
    before = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reproduce" / "manifests"
    assert user_cache("manifests") == before


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x", "a" * 300, "folder/" + "a" * 300])
def test_a_folder_that_cannot_be_written_is_named_with_its_option(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--out {tmp_path / place} cannot be written .*: give another folder"):
        check_writable(tmp_path / place, "--out")


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep", "--out")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "deep"]


CHECK = """
import sys
from pathlib import Path
from reproduce.errors import UserError
from reproduce.files import check_writable
from reproduce.running.runner import Store
for check in (lambda folder: check_writable(folder, "--out"), Store):
    try:
        check(Path(sys.argv[1]))
    except UserError as error:
        print(error)
"""


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_of_another_owner_is_named(below: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", CHECK]
        done = subprocess.run([*nobody, os.path.join(folder, below)], capture_output=True, text=True)  # noqa: PTH118
        if "Permission denied" in done.stderr:
            pytest.skip("another user cannot read this checkout")
    assert "cannot be written (Permission denied): give another folder" in done.stdout, done.stderr
    assert "cannot be used as a store (Permission denied)" in done.stdout


@pytest.mark.parametrize(("options", "why"), [("size=64k", "No space left on device"), ("ro", "Read-only file system")])
def test_a_full_or_read_only_disk_is_named_and_a_store_is_created_once_there_is_room(
    tmp_path: Path, options: str, why: str
) -> None:
    script = f"""
        mount -t tmpfs -o {options} tmpfs {tmp_path} || exit 77
        head -c 70000 /dev/zero > {tmp_path}/fill
        {sys.executable} -c '{CHECK}' {tmp_path}/store
        rm -f {tmp_path}/fill
        {sys.executable} -c '{CHECK}' {tmp_path}/store
    """
    done = subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespace can be made here")
    told = [f"--out {tmp_path}/store cannot be written ({why})", f"{tmp_path}/store cannot be used as a store ({why})"]
    assert [done.stdout.count(text) for text in told] == 2 * [1 if "size" in options else 2], done.stdout


def test_printable_text_is_what_xml_and_utf_8_can_hold() -> None:
    text = "".join(map(chr, range(0x300))) + "\ud800\udcff\ufffe\uffff\U0001f600"
    shown = printable(text)
    assert len(shown) == len(text)
    assert "\t\n" in shown
    assert shown.endswith("\U0001f600")
    ElementTree.fromstring(f"<a>{escape(shown)}</a>")
    assert printable("Größe 3\n") == "Größe 3\n"
