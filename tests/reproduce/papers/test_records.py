from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import made
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce.errors import UserError
from reproduce.papers import records

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
    case = records.Cell(paper="p", table="1", column="m2d", task="m2d", row="r", label="}{][")
    result = made.result(case=case, stages=[made.stage(history=history)])
    path = records.write(result, tmp_path_factory.mktemp("results"))
    assert json.loads(path.read_text()) == msgspec.to_builtins(result)
    assert records.read_one(path) == result
    flat = {"step": 1, "loss": 2.5}
    lines = records.write(made.result(stages=[made.stage(history=[flat, flat])]), path.parent).read_text().splitlines()
    assert sum('{ "loss": 2.5, "step": 1 }' in line for line in lines) == 2


def test_a_result_is_found_again_by_cell_and_identity(tmp_path: Path) -> None:
    for scale in ("paper", "paper", "trial"):
        records.write(made.result(identity=made.identity(scale=scale)), tmp_path)
    assert [result.identity.scale for result in records.read(tmp_path)] == ["paper", "trial"]
    assert records.path_of(made.result(), tmp_path) == records.path_of(made.result(50.0), tmp_path)


def test_columns_of_one_task_keep_a_record_each(tmp_path: Path) -> None:
    """Columns that are methods have one task, one setting and different recipes."""
    case = made.result().case
    for column, recipe in (("bot", "a"), ("mgn", "b"), ("bot", "c")):
        identity = msgspec.structs.replace(made.result().identity, recipe=recipe)
        records.write(made.result(50.0, case=msgspec.structs.replace(case, column=column), identity=identity), tmp_path)
    assert {(it.case.column, it.identity.recipe) for it in records.read(tmp_path)} == {("bot", "c"), ("mgn", "b")}


def test_points_of_a_sweep_are_cells_of_their_own(tmp_path: Path) -> None:
    cells = [made.result().case]
    for value in (0.4, 0.8):
        point = records.Point(figure="5", parameter="p", value=value)
        cells.append(msgspec.structs.replace(cells[0], point=point))
    for cell in cells:
        records.write(made.result(50.0, case=cell), tmp_path)
    assert len({cell.place for cell in cells}) == 3
    assert sorted(str(result.case.point and result.case.point.value) for result in records.read(tmp_path)) == [
        "0.4",
        "0.8",
        "None",
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 7}', '"text"'])
def test_a_broken_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is not a (readable )?result"):
        records.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measured": {"1": {"mAP": "50"}}}, r"Expected .*float.* - at `\$\.measured\[\.\.\.\]\[\.\.\.\]`"),
        ({"case": {"paper": "p"}}, r"missing required field `table` - at `\$\.case`"),
        ({"identity": None}, r"Expected `object`, got `null` - at `\$\.identity`"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"elsewhere": True}, r"Expected `array`, got `bool` - at `\$\.elsewhere`"),
    ],
)
def test_what_is_wrong_in_a_record_is_named_with_its_place(tmp_path: Path, change: Any, message: str) -> None:
    document = json.loads(records.write(made.result(50.0), tmp_path / "good").read_text()) | change
    (tmp_path / "x.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"x\.json is not a result that this version can show: .*{message}"):
        records.read_one(tmp_path / "x.json")


def test_collapsed_seeds_are_read_as_they_were_written_once(tmp_path: Path) -> None:
    document = json.loads(records.write(made.result(50.0, 3.0), tmp_path).read_text())
    side = {"on": ["x"], "measured": {}, "collapsed": ["seed 1: b"], "commit": None}
    document |= {"collapsed": ["seed 2: one cluster: all"], "elsewhere": [side]}
    result = records.parse(document)
    assert isinstance(result, records.Result)
    assert result.collapsed == {"2": "one cluster: all"}
    assert result.elsewhere[0].collapsed == {"1": "b"}


@pytest.mark.parametrize("bad", ["../../../x", "a/b", "", ".", "..", "a\n", "A", "\x00"])
@pytest.mark.parametrize(
    "place", ["case.paper", "case.table", "case.row", "case.column", "case.task", "identity.scale", "point.parameter"]
)
def test_a_record_names_no_other_folder(tmp_path: Path, place: str, bad: str) -> None:
    point = {"figure": "5", "parameter": "p", "value": 1.0}
    document = msgspec.to_builtins(made.result())
    document["case"]["point"] = point
    records.parse(document)
    outer, inner = place.split(".")
    (point if outer == "point" else document[outer])[inner] = bad
    if (place, bad) in {("case.task", ""), ("point.parameter", "A")}:
        records.parse(document)
        return
    with pytest.raises(ValueError, match="Expected `str` matching regex"):
        records.parse(document)


@given(data=st.data())
@settings(max_examples=100)
def test_any_change_of_a_record_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """One value of a good record is replaced, or some bytes of its file are cut out."""
    document = msgspec.to_builtins(made.result(stages=[made.stage("0123")]))
    inner = document
    while True:
        at = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if not isinstance(inner[at], (dict, list)) or not inner[at] or data.draw(st.booleans()):
            inner[at] = data.draw(JSON)
            break
        inner = inner[at]
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    path = tmp_path_factory.mktemp("records") / "a.json"
    for content in (text, text[:start] + text[end:]):
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            record = records.read_one(path)
            assert records.path_of(record, path.parent).parent == path.parent
