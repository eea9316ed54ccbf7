from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce import results
from reproduce.stage import UserError

REAL: dict[str, Any] = {
    "scale": "paper",
    "data": {"market": {"kind": "real", "digest": "a"}},
    "weights": "abc",
    "selection": "last",
    "bn_group": None,
    "subset": None,
}


def measured(*values: float) -> list[dict[str, float]]:
    return [{"mAP": value, "rank1": value} for value in values]


@pytest.mark.parametrize(
    ("verdict", "reasons", "passes"),
    [
        ("reproduced", [], True),
        ("not comparable", ["stand-in data"], True),
        ("below", [], False),
        ("error", ["stand-in data"], False),
        ("collapsed", [], False),
        ("collapsed", ["stand-in data"], True),
    ],
)
def test_what_passes(verdict: str, reasons: list[str], passes: bool) -> None:
    assert results.passes({"verdict": verdict, "reasons": reasons}) is passes


def test_a_row_that_collapsed_in_its_paper_may() -> None:
    assert results.passes({"verdict": "collapsed", "reasons": [], "collapses": True})
    assert not results.passes({"verdict": "below", "reasons": [], "collapses": True})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300)
@given(history=st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4))
def test_a_result_is_written_with_a_line_for_each_logged_step(
    history: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = {"paper": "p{", "table": "1", "task": "m2d", "row": "}r"}
    result = {"format": 1, "case": case, "identity": {"scale": "small"}, "stages": [{"history": history}]}
    path = results.write(result, tmp_path_factory.mktemp("results"))
    assert json.loads(path.read_text()) == result
    flat = {"step": 1, "loss": 2.5}
    lines = results.write({**result, "stages": [{"history": [flat, flat]}]}, path.parent).read_text().splitlines()
    assert sum('{ "loss": 2.5, "step": 1 }' in line for line in lines) == 2


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((50.0,), "consistent"),
        ((51.0,), "consistent"),
        ((51.1,), "above"),
        ((48.9,), "below"),
        ((49.5, 50.5, 51.5), "reproduced"),
        ((49.5, 50.5), "consistent"),
        ((40.0, 50.0, 60.0), "reproduced"),
        ((60.0, 60.0, 60.0), "above"),
    ],
)
def test_verdicts(values: tuple[float, ...], verdict: str) -> None:
    assert results.judge({"mAP": 50.0, "rank1": 50.0}, measured(*values), 1.0) == verdict


def test_below_in_one_metric_is_below() -> None:
    assert results.judge({"mAP": 40.0, "rank1": 60.0}, measured(50.0), 1.0) == "below"


def test_what_is_not_printed_is_not_judged() -> None:
    assert results.judge({"mAP": None, "rank1": 50.0}, measured(50.0), 1.0) == "consistent"


def test_only_the_published_setting_is_comparable() -> None:
    assert results.reasons_against(REAL) == []
    for change, reason in [
        ({"data": {"market": {"kind": "stand-in"}}}, "stand-in data"),
        ({"data": {"market": {"kind": "folder"}}}, "not checked"),
        (
            {"data": {**REAL["data"], "rae.Transfer": {"kind": "made", "by": "rae.Transfer"}}},
            "images made by rae.Transfer",
        ),
        ({"data": {**REAL["data"], "hall": {"kind": "outside", "by": "lab.Hall"}}}, "a data set of lab.Hall"),
        ({"data": {**REAL["data"], "hall": {"kind": "filmed"}}}, "data of another kind (filmed)"),
        ({"data": {}}, "no data that its stages name"),
        ({"scale": "trial"}, "scale trial"),
        ({"weights": "scratch"}, "from scratch"),
        ({"subset": 10}, "subset of 10"),
    ]:
        (found,) = results.reasons_against({**REAL, **change})
        assert reason in found


def result(**identity: Any) -> results.Result:
    case = {"paper": "p", "table": "1", "row": "a", "label": "A", "column": "m2d", "task": "m2d"}
    return {"format": 1, "case": case, "identity": {**REAL, **identity}, "measured": {}, "verdict": "consistent"}


def test_a_result_is_found_again_by_cell_and_identity(tmp_path: Path) -> None:
    for scale in ("paper", "paper", "trial"):
        results.write(result(scale=scale), tmp_path)
    assert [found["identity"]["scale"] for found in results.read(tmp_path)] == ["paper", "trial"]
    assert results.file_name(result()) == results.file_name(result())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 7}', '"text"'])
def test_a_broken_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is not a (readable )?result"):
        results.read(tmp_path)
