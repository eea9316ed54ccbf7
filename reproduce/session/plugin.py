"""Connect pytest to a campaign: the plugin's options and hooks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reproduce.data.catalogue import withdrawn
from reproduce.errors import UserError
from reproduce.papers.cases import AnyCase
from reproduce.papers.installed import SUITES, outside, suites_folder
from reproduce.running.provenance import ROOT
from reproduce.scales import SCALES
from reproduce.session.campaign import STAGE_ERROR, Campaign, case_of

STATE = pytest.StashKey[Campaign]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reproduce", "reproducing published tables (suites/)")
    group.addoption(
        "--scale",
        choices=list(SCALES),
        help="size of the run (default: paper with real data; else small on a GPU, smoke without one)",
    )
    group.addoption(
        "--seeds", default="1", metavar="1,2,3", help="training seeds; a case waits for all of them (default 1)"
    )
    group.addoption(
        "--gpus", type=int, metavar="N", help="lease N of the visible GPUs; 0 for the CPU (default: all visible)"
    )
    group.addoption(
        "--gpus-per-stage",
        type=int,
        default=1,
        metavar="G",
        help="GPUs of this machine that share each training; affects speed, not the experiment (default 1)",
    )
    group.addoption(
        "--jobs",
        type=int,
        metavar="J",
        help="stages run in parallel on each GPU (default 1) or on the CPU (default: its cores)",
    )
    group.addoption(
        "--neighbours",
        choices=("torch", "faiss"),
        default="torch",
        help="library that searches nearest neighbours; affects speed, not the lists (default torch)",
    )
    group.addoption(
        "--data-root", metavar="DIR", help="folder of the real data sets (default: REID_DATA; see `reproduce doctor`)"
    )
    group.addoption(
        "--domain",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="use DIR as the data set market, duke, ...; its counts are reported, not enforced",
    )
    group.addoption(
        "--accept-counts",
        action="store_true",
        help="allow data sets under --data-root whose counts differ from the published ones",
    )
    group.addoption("--stand-ins", action="store_true", help="use drawn stand-in data (the default without real data)")
    group.addoption("--world-seed", type=int, default=1, metavar="S", help="seed of the stand-in world (default 1)")
    group.addoption("--subset", type=int, metavar="N", help="keep N identities of real data, the same every time")
    group.addoption(
        "--weights",
        metavar="DIR|scratch",
        help="folder of weights, or scratch for none (default: published ones in usual places; ours at small scales)",
    )
    group.addoption(
        "--precision",
        choices=("float32", "mixed"),
        help="precision of all trainings; mixed runs backbones in bfloat16, unlike the papers (default: the recipe's)",
    )
    group.addoption(
        "--pretrain",
        action="store_true",
        help="at scale paper, train MoCo's and UP-ReID's weights on LUPerson, for weeks, instead of reading files",
    )
    group.addoption(
        "--rounds",
        type=int,
        metavar="N",
        help="at most N rounds of labelling and training in every row (default: as each recipe says)",
    )
    group.addoption(
        "--pictures",
        action="store_true",
        help="show photographs of people in figures (drawn images are always shown)",
    )
    group.addoption(
        "--store",
        default=os.environ.get("REPRODUCE_STORE"),
        metavar="DIR",
        help="folder of finished stages (default: the variable REPRODUCE_STORE, else OUT/store)",
    )
    group.addoption("--out", default="build", metavar="DIR", help="folder for results, logs and report (default build)")
    group.addoption(
        "--baselines",
        metavar="DIR",
        help="recorded results that must hold on this machine (default: reports/results beside the suites; "
        "there, rows that learn from pseudo labels may differ on another processor)",
    )
    group.addoption(
        "--update-baselines", action="store_true", help="replace recorded results by this run's and list what moved"
    )
    group.addoption(
        "--grace",
        type=float,
        default=25.0,
        metavar="S",
        help="seconds in which SIGTERM, SIGHUP and SIGUSR2 let trainings save their state and stop (default 25)",
    )
    group.addoption(
        "--slurm",
        action="store_true",
        help="hand stages to Slurm (docs/cluster.md)",
    )
    group.addoption(
        "--sbatch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of sbatch, as it is, such as partition=gpu or gres=gpu:1",
    )
    group.addoption("--prologue", metavar="FILE", help="shell commands that each job runs first, such as module load")
    group.addoption(
        "--slurm-python", metavar="CMD", help="command that jobs run in place of this Python, such as a container's"
    )
    group.addoption("--max-jobs", type=int, metavar="N", help="jobs in Slurm's queue at once (default 50)")
    group.addoption(
        "--detach", action="store_true", help="submit all jobs and exit; the same command without it collects them"
    )
    group.addoption(
        "--plan", action="store_true", help="list the distinct stages of the selected cases without running them"
    )
    group.addoption(
        "--budget",
        metavar="200h",
        help="with --plan: the stages that fit, in the order that decides most printed numbers an hour",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Find the suites and turn xdist's -n N into --jobs N, before collection.

    Where the working directory has no suites, those of the installation are run, and leave nothing there. The suites
    of other packages are added. Workers of xdist would queue long cases behind each other.
    """
    if suites_folder() == ROOT / SUITES and not config.option.pyargs:
        config.args = [_installed(argument) for argument in config.args]
    if any(Path(argument).is_relative_to(ROOT / SUITES) for argument in config.args):
        sys.dont_write_bytecode = True
    paths = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    if any(path.name == SUITES for path in paths):
        with _usage():
            config.args += [str(folder) for folder in outside()]
    workers = config.getoption("numprocesses", None)
    if workers is None or not any(SUITES in (path.name, path.parent.name) for path in paths):
        return
    if config.option.jobs is None and isinstance(workers, int):
        config.option.jobs = workers
    config.option.numprocesses, config.option.dist, config.option.tx = None, "no", []


def pytest_configure(config: pytest.Config) -> None:
    names = " or ".join(withdrawn().values())
    config.addinivalue_line("markers", f'withdrawn: needs {names}, which was withdrawn; -m "not withdrawn" skips it')
    config.stash[STATE] = Campaign(config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Show an error in a table as one line, without a traceback."""
    report = yield
    if report.failed and report.call and report.call.excinfo and isinstance(report.call.excinfo.value, UserError):
        report.longrepr = str(report.call.excinfo.value)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember the test name of every case before any is deselected."""
    config.stash[STATE].collected(items)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    with _usage():
        session.config.stash[STATE].begin(session.items)


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Count the cases that need withdrawn data, if cases are listed or those are deselected."""
    names = " or ".join(withdrawn().values())
    cases = [item for item in items if case_of(item)]
    count = sum(item.get_closest_marker("withdrawn") is not None for item in cases)
    if count and config.option.collectonly:
        rest = f'-m "not withdrawn" leaves {len(cases) - count} cases'
        return [f"{count} of {len(cases)} cases need {names}, which was withdrawn by its makers: {rest}"]
    if not count and "withdrawn" in config.option.markexpr:
        return [f"{len(cases)} cases do not need {names}, which was withdrawn by its makers"]
    return []


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Skip the tests under --plan and --detach."""
    return True if session.config.option.plan or session.config.option.detach else None


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[[AnyCase], None]:
    """Return a function that waits for a case's stages, records its result and fails if the verdict is a failure."""

    def judged(case: AnyCase) -> None:
        request.config.stash[STATE].judge(case, request.node.user_properties)

    return judged


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Set the exit code that distinguishes failed stages from numbers that are off."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED and session.config.stash[STATE].errors:
        session.exitstatus = STAGE_ERROR


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    config.stash[STATE].summarise(terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    if state := config.stash.get(STATE, None):
        state.close()


def _installed(argument: str) -> str:
    """Return an argument of pytest, `suites` or a part of it as the path that it has in the installation."""
    path, *test = argument.split("::")
    return "::".join([str(ROOT / path), *test]) if Path(path).parts[:1] == (SUITES,) else argument


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
