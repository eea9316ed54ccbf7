from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from reproduce.running.processes import described, ended, this_process

NAMED = "from reproduce.running.processes import this_process; print(this_process(), flush=True); input()"


def test_a_process_ends_when_it_ends_and_not_when_it_stops() -> None:
    process = subprocess.Popen([sys.executable, "-c", NAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    name = process.stdout.readline().strip()
    assert ended(name) is False
    process.send_signal(signal.SIGSTOP)
    assert ended(name) is False
    process.kill()
    process.wait()
    assert ended(name) is True


def test_another_process_of_the_same_number_is_told_apart() -> None:
    host, machine, pid, _, job = this_process().split("@")
    assert ended(this_process()) is False
    assert ended("@".join((host, machine, pid, "1", job))) is True


@pytest.mark.parametrize("name", ["", "x", "elsewhere@0@1@2@", "a@b@c@d@e@f"])
def test_what_cannot_be_known_is_not_guessed(name: str) -> None:
    assert ended(name) is None


def test_names_are_parts_of_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12/../3@4\n")
    monkeypatch.setattr("socket.gethostname", lambda: "a/b@c" * 99)
    name = this_process()
    assert "/" not in name
    assert name.count("@") == 4
    assert len(os.fsencode(name)) < 200
    assert described(name).endswith("(job 12-..-3-4-)")
