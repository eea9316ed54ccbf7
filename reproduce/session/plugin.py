"""The pytest plugin: options, and where pytest's session meets a campaign."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reproduce.data.catalogue import withdrawn
from reproduce.errors import UserError
from reproduce.papers.cases import AnyCase
from reproduce.papers.tables import outside
from reproduce.scales import SCALES
from reproduce.session.campaign import STAGE_ERROR, SUITES, Campaign, case_of

STATE = pytest.StashKey[Campaign]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reproduce", "reproducing published tables (suites/)")
    group.addoption(
        "--scale", choices=list(SCALES), help="paper with real data; else small on a GPU and smoke without one"
    )
    group.addoption(
        "--seeds", default="1", metavar="1,2,3", help="training seeds; a row waits for all of them (default 1)"
    )
    group.addoption(
        "--gpus", type=int, metavar="N", help="lease N of the visible GPUs; 0 for the CPU (default: all visible)"
    )
    group.addoption(
        "--jobs",
        type=int,
        metavar="J",
        help="stages at once on each GPU (default 1) or on the CPU (default: its cores)",
    )
    group.addoption(
        "--neighbours",
        choices=("torch", "faiss"),
        default="torch",
        help="what looks for nearest neighbours; the same lists, at another speed (default torch)",
    )
    group.addoption(
        "--data-root", metavar="DIR", help="where the real data sets lie; REID_DATA says the same (`reproduce doctor`)"
    )
    group.addoption(
        "--domain",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a folder that stands for market, duke, ...; its counts are not checked, only said",
    )
    group.addoption(
        "--accept-counts",
        action="store_true",
        help="go on where what --data-root holds has other counts than the published set",
    )
    group.addoption("--stand-ins", action="store_true", help="drawn stand-in data: the default without real data")
    group.addoption("--world-seed", type=int, default=1, metavar="S", help="seed of the stand-in world (default 1)")
    group.addoption("--subset", type=int, metavar="N", help="keep N identities of real data, always the same")
    group.addoption(
        "--weights",
        metavar="DIR|scratch",
        help="folder of weights (default: published ones where they usually lie, at small scales ours), or scratch",
    )
    group.addoption(
        "--precision",
        choices=("float32", "mixed"),
        help="of all trainings; mixed runs backbones in bfloat16 and is not the papers' recipe (default: the recipe's)",
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
        help="show photographs of people in figures; drawn images are always shown",
    )
    group.addoption(
        "--store", default=os.environ.get("REPRODUCE_STORE"), metavar="DIR", help="finished stages (default OUT/store)"
    )
    group.addoption("--out", default="build", metavar="DIR", help="results, logs and report (default build)")
    group.addoption(
        "--baselines",
        metavar="DIR",
        help="recorded results that must hold on this machine (default: reports/results beside the suites, "
        "where rows that learn from pseudo labels may differ on another processor)",
    )
    group.addoption(
        "--update-baselines", action="store_true", help="record this run's results in their place, and say what moved"
    )
    group.addoption(
        "--plan", action="store_true", help="list the distinct stages of the selected cases, and run nothing"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before anything is collected: other packages' suites join ours, and with suites xdist's -n N means --jobs N.

    Its workers would queue long cases behind each other.
    """
    asked = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    if any(path.name == SUITES for path in asked):
        with _usage():
            config.args += [str(folder) for folder in outside()]
    workers = config.getoption("numprocesses", None)
    if workers is None or not any(SUITES in (path.name, path.parent.name) for path in asked):
        return
    if config.option.jobs is None and isinstance(workers, int):
        config.option.jobs = workers
    config.option.numprocesses, config.option.dist, config.option.tx = None, "no", []


def pytest_configure(config: pytest.Config) -> None:
    names = " or ".join(withdrawn().values())
    config.addinivalue_line("markers", f'withdrawn: needs {names}, which its makers withdrew; -m "not withdrawn"')
    config.stash[STATE] = Campaign(config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Show what is wrong in a table as one line, without the way there."""
    report = yield
    if report.failed and report.call and report.call.excinfo and isinstance(report.call.excinfo.value, UserError):
        report.longrepr = str(report.call.excinfo.value)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember how every case is called, before any is deselected."""
    config.stash[STATE].collected(items)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    with _usage():
        session.config.stash[STATE].begin(session.items)


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Say how many cases need data that nobody can get any more, where cases are listed or these left out."""
    names = " or ".join(withdrawn().values())
    cases = [item for item in items if case_of(item)]
    count = sum(item.get_closest_marker("withdrawn") is not None for item in cases)
    if count and config.option.collectonly:
        rest = f'-m "not withdrawn" leaves {len(cases) - count} cases'
        return [f"{count} of {len(cases)} cases need {names}, which its makers withdrew: {rest}"]
    if not count and "withdrawn" in config.option.markexpr:
        return [f"{len(cases)} cases remain without {names}, which its makers withdrew"]
    return []


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Stop before the tests under --plan."""
    return True if session.config.option.plan else None


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[[AnyCase], None]:
    """Wait for a case's stages, record its result, and fail where the verdict says so."""

    def judged(case: AnyCase) -> None:
        request.config.stash[STATE].judge(case, request.node.user_properties)

    return judged


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Tell stages that ended with an error from numbers that are not what they should be."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED and session.config.stash[STATE].errors:
        session.exitstatus = STAGE_ERROR


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    config.stash[STATE].summarise(terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    if state := config.stash.get(STATE, None):
        state.close()


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
