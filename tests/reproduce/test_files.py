"""Files that are written whole or not at all, and the user's cache folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.files import replacing, user_cache


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
