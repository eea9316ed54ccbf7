"""A Slurm with two nodes on this machine, for tests: its own configuration, free ports, loopback only."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

CONFIGURATION = """
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobRequeue=1
ReturnToService=2
KillWait=5
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES PriorityTier=5 DefMemPerCPU=10
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=10 DefMemPerCPU=10
PartitionName=high Nodes=ALL PriorityTier=10 DefMemPerCPU=10
"""


class Box:
    """Daemons that were started here, and only these; `stop` ends them."""

    def __init__(self) -> None:
        os.environ["PATH"] += os.pathsep + "/usr/sbin"
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-box-"))
        self.folder.chmod(0o755)  # munged asks for that
        for name in ("state", "spool.n1", "spool.n2"):
            (self.folder / name).mkdir()
        self.configuration = self.folder / "slurm.conf"
        ports = dict(zip(("controller", "n1", "n2"), free_ports(3), strict=True))
        host, user = socket.gethostname(), getpass.getuser()
        self.configuration.write_text(CONFIGURATION.format(folder=self.folder, host=host, user=user, **ports))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        os.environ["SLURM_CONF"] = str(self.configuration)
        files = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "seed"}
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        start("munged", f"--key-file={key}", "--num-threads=2", *options)
        start("slurmctld")
        for node in ("n1", "n2"):
            self.start_node(node)
        until(lambda: said("sinfo", "--noheader", "--Format=StateLong:|,Nodes:|", "--partition=main") == "idle|2|", 20)

    def start_node(self, node: str) -> None:
        start("slurmd", "-N", node)

    def lose_node(self, node: str, number: str) -> None:
        """Kill a node's daemon and all processes of a job there, so that nobody tells the controller."""
        os.kill(self._pid(f"slurmd.{node}.pid"), signal.SIGKILL)
        for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
            with contextlib.suppress(OSError):
                if f"slurmstepd: [{number}." in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
        for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
            with contextlib.suppress(OSError):
                if f"SLURM_JOB_ID={number}\0" in Path(f"/proc/{pid}/environ").read_text(errors="replace"):
                    os.kill(pid, signal.SIGKILL)

    def clear(self) -> None:
        """Cancel every job, and wait for their end."""
        said("scancel", "--me")
        until(lambda: said("squeue", "--noheader") == "", 40)

    def _pid(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def stop(self) -> None:
        with contextlib.suppress(AssertionError):
            self.clear()
        for name in ("slurmd.n1.pid", "slurmd.n2.pid", "slurmctld.pid", "munged.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(self._pid(name), signal.SIGTERM)
        del os.environ["SLURM_CONF"]
        time.sleep(1)
        shutil.rmtree(self.folder, ignore_errors=True)


def absent() -> list[str]:
    """Which of Slurm's programs this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start(*words: str) -> None:
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def said(*words: str) -> str:
    """What a command printed."""
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=30).stdout.strip()


def until(true: Callable[[], object], seconds: float) -> None:
    """Wait until something is true, for so long at most."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)
