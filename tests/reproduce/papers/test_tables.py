from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import SWEEP

from reproduce.data.domains import Domain
from reproduce.errors import UserError
from reproduce.papers.tables import BAND_WHY, Column, Task, read

SUITES = Path(__file__).parents[3] / "suites"

GOOD = """
paper = "p"
title = "T"
authors = "A"
venue = "V"
[[table]]
id = "1"
caption = "C"
where = "section 2"
checked = "twice"
columns = [{ id = "m2d", label = "M to D" }]
metrics = ["mAP", "rank1"]
[[table.row]]
id = "a"
label = "Row A"
executed = "yes"
m2d = [1.0, "-"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "p.toml"
    path.write_text(text)
    return path


def test_a_table_is_read_as_printed(tmp_path: Path) -> None:
    table = read(write(tmp_path, GOOD)).tables["1"]
    assert table.rows[0].printed == {"m2d": {"mAP": 1.0, "rank1": None}}
    assert table.columns == (Column("m2d", "M to D", "m2d", ("mAP", "rank1")),)


def test_a_band_is_the_rows_or_the_tables_or_the_usual_one_and_has_a_reason(tmp_path: Path) -> None:
    def bands(text: str) -> list[tuple[float, str]]:
        return [(row.band, row.band_why) for row in read(write(tmp_path, text)).tables["1"].rows]

    other = '[[table.row]]\nid = "b"\nlabel = "B"\nexecuted = "yes"\nm2d = [1.0, 2.0]\n'
    assert bands(GOOD) == [(2.0, BAND_WHY[2.0])]
    of_table = GOOD.replace('checked = "twice"', 'checked = "twice"\nband = 1.5\nband_why = "ten reruns"')
    of_row = of_table.replace('executed = "yes"', 'executed = "yes"\nband = 0.7\nband_why = "measured"')
    assert bands(of_row + other) == [(0.7, "measured"), (1.5, "ten reruns")]
    with pytest.raises(UserError, match="row a: band_why is missing"):
        read(write(tmp_path, GOOD.replace('executed = "yes"', 'executed = "yes"\nband = 1.5')))


def test_a_claim_about_what_nobody_measures_is_refused(tmp_path: Path) -> None:
    claim = (
        '[[claim]]\nid = "c"\nwhere = "section 2"\nsays = "A is quicker."\nkind = "order"\n'
        'left = "1/a/m2d"\nright = "1/a/m2d"\nmetrics = ["seconds"]\n'
    )
    with pytest.raises(UserError, match=r"claim c: unknown metric 'seconds'; claims compare mAP, .*, separation"):
        read(write(tmp_path, GOOD + claim))
    assert read(write(tmp_path, GOOD + claim.replace("seconds", "separation"))).claims[0].metrics == ("separation",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('m2d = [1.0, "-"]', "m2d = [1.0]", "table 1, row a, m2d: 1 cells for 2 metrics"),
        ('m2d = [1.0, "-"]', "m2d = [1.0, 100.1]", "rank1 must be a number between 0 and 100"),
        ('m2d = [1.0, "-"]', "m2d = [-1, 3]", "mAP must be a number"),
        ('m2d = [1.0, "-"]', "m2d = [true, 3]", "mAP must be a number"),
        ('m2d = [1.0, "-"]', "m2d = [nan, 3]", "mAP must be a number"),
        ('m2d = [1.0, "-"]', "", "table 1, row a: m2d is missing"),
        ('executed = "yes"', 'executed = "maybe"', "executed must be one of yes, no, unsure"),
        ('label = "Row A"', "label = 3", "label must be of type str"),
        ('label = "Row A"', 'label = "Row A"\nlable = "x"', "unknown entry 'lable'"),
        ('id = "m2d", label', 'id = "m2dd", label', "'m2dd' is no task"),
        ('["mAP", "rank1"]', '["mAP", "rank2"]', "unknown metric 'rank2'"),
        ('venue = "V"', "", "venue is missing"),
        ('id = "a"', 'id = "a"\nruns = { d2m = "m2m" }', "runs names the column 'd2m'"),
        ('paper = "p"', 'paper = "p', "cannot be read as TOML"),
        ('metrics = ["mAP", "rank1"]', 'metrics = ["mAP", "rank1"]\nticks = 3', "ticks must be of type list"),
        ('id = "a"', 'id = "a"\ngain = ["b", "a"]', "gain names the row 'b'"),
        ('id = "a"', 'id = "a"\nticks = ["CC"]', "ticks 'CC', which is no tick column"),
        ('id = "a"', 'id = "a"\nsource = { m2d = "mars" }', "m2d must be one of market"),
        ('id = "a"', 'id = "a"\npretrained = "mars"', "pretrained must be one of , market"),
        ('id = "a"', 'id = "A b"', "must be lower-case letters"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=r"p\.toml") as error:
        read(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("metric", "cell", "message"),
    [
        ("train_ids", "-3", "train_ids must be a count"),
        ("query_images", "1.5", "query_images must be a count"),
        ("portion", "100.5", "portion must be a number between 0 and 100"),
        ("rank1_gain", "101", "rank1_gain must be a number between -100 and 100"),
        ("mAP_gain", '"x"', "mAP_gain must be a number"),
    ],
)
def test_every_kind_of_number_has_its_range(tmp_path: Path, metric: str, cell: str, message: str) -> None:
    text = GOOD.replace('"rank1"]', f'"{metric}"]').replace('[1.0, "-"]', f"[1.0, {cell}]")
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, text))


def test_claims_name_cells_that_exist(tmp_path: Path) -> None:
    claim = (
        '[[claim]]\nid = "c"\nwhere = "s"\nsays = "x"\nkind = "value"\nleft = "1/{row}/m2d"\nstated = {{ mAP = 1.0 }}\n'
    )
    assert read(write(tmp_path, GOOD + claim.format(row="a"))).claims[0].metrics == ("mAP",)
    with pytest.raises(UserError, match=r"p\.toml, claim c: there is no cell '1/b/m2d'"):
        read(write(tmp_path, GOOD + claim.format(row="b")))


def test_claims_about_a_sweep_name_points_that_exist(tmp_path: Path) -> None:
    claim = '[[claim]]\nid = "c"\nwhere = "s"\nsays = "x"\nkind = "sweep"\nmetrics = ["{}"]\n'
    claim += 'left = "figure 5/p=2/m2d"\nright = "figure 5/p={}/m2d"\nstated = {{ p = 2.0 }}\n'
    (found,) = read(write(tmp_path, GOOD + SWEEP + claim.format("mAP", "0.5"))).claims
    assert (found.table, found.right) == ("figure 5", ("figure 5/p=0.5/m2d",))
    with pytest.raises(UserError, match=r"claim c: there is no point 'figure 5/p=3/m2d'; name one as figure 6/"):
        read(write(tmp_path, GOOD + SWEEP + claim.format("mAP", "3")))
    with pytest.raises(UserError, match="unknown metric 'p'; claims compare"):
        read(write(tmp_path, GOOD + SWEEP + claim.format("p", "0.5")))


def test_duplicates_are_refused(tmp_path: Path) -> None:
    row = GOOD[GOOD.index("[[table.row]]") :]
    with pytest.raises(UserError, match="table 1: duplicate row 'a'"):
        read(write(tmp_path, GOOD + row))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 200) | st.text(max_size=3), lambda leaf: st.lists(leaf, max_size=3)
    )
)
def test_no_value_of_a_cell_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    def toml(value: Any) -> str:
        if value is None:
            return "{}"
        if isinstance(value, list):
            return f"[{', '.join(map(toml, value))}]"
        return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, int) else '"-"'

    folder = tmp_path_factory.mktemp("toml")
    try:
        table = read(write(folder, GOOD.replace('m2d = [1.0, "-"]', f"m2d = {toml(value)}"))).tables["1"]
    except UserError:
        return
    assert all(cell is None or 0 <= cell <= 100 for cell in table.rows[0].printed["m2d"].values())


def test_tasks_name_their_domains() -> None:
    assert (Task("m2d").source.name, Task("m2d").target.name) == ("market", "duke")
    assert Task("t2t").source == Task("t2t").target
    assert Task("u2m").unsupervised
    with pytest.raises(UserError, match="u2m has no source"):
        _ = Task("u2m").source
    assert Task("u2m").target == Domain("market")


CURVES = """
[[figure]]
id = "4"
kind = "convergence"
where = "section 3"
shows = "Curves."
rows = ["table 1: a"]
task = ["m2d"]
grid = [10, 20]
grid_from = "ours"
metrics = ["mAP", "rank1"]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"table 1: a"', '"table 1: b"', "figure 4: there is no row 'table 1: b'"),
        ('"table 1: a"', '"table 1: a/d2m"', "figure 4: there is no row 'table 1: a/d2m'"),
        ('"table 1: a"', '"table 2: a"', "figure 4: there is no row 'table 2: a'"),
        ("[10, 20]", "[10]", "grid must be two or more different numbers"),
        ('"ours"', '"mine"', "grid_from must be one of text, ours"),
        ('grid_from = "ours"', "", "grid_from is missing"),
        ("grid = [10, 20]", "", "grid and grid_from belong together"),
        ('"convergence"', '"picture"', 'to a figure of kind "convergence"'),
        ('["mAP", "rank1"]', '["mAP", "rank2"]', "figure 4: unknown metric 'rank2'; runs measure"),
    ],
)
def test_rows_and_grids_of_figures(tmp_path: Path, old: str, new: str, message: str) -> None:
    (figure,) = read(write(tmp_path, GOOD + CURVES)).figures
    assert (figure.places, figure.grid, figure.grid_from) == ((("1", "a", ""),), (10, 20), "ours")
    assert figure.metrics == ("mAP", "rank1")
    (usual,) = read(write(tmp_path, GOOD + CURVES.replace('metrics = ["mAP", "rank1"]', ""))).figures
    assert usual.metrics == ("mAP",)
    (tmp_path / "p.toml").unlink()
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, GOOD + CURVES.replace(old, new)))


@pytest.mark.parametrize("id", ["../../../x", "a/b", "", "A", "a b", "a\\n"])
def test_a_papers_id_is_a_part_of_file_names(tmp_path: Path, id: str) -> None:
    (tmp_path / "demo.toml").write_text(f'paper = "{id}"\ntitle = "T"\nauthors = "A"\nvenue = "V"\ntable = []\n')
    with pytest.raises(UserError, match=r"demo\.toml: paper '.*' must be lower-case letters, digits, -, \+ and \."):
        read(tmp_path / "demo.toml")


@given(
    content=st.binary(max_size=100),
    where=st.floats(0, 1, exclude_max=True),
    paper=st.sampled_from(["sptd", "msplr", "rae"]),
)
@settings(max_examples=60)
def test_any_change_of_a_table_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, where: float, paper: str
) -> None:
    whole = (SUITES / f"{paper}.toml").read_bytes()
    at = int(where * len(whole))
    path = tmp_path_factory.mktemp("tables") / "a.toml"
    for text in (content, whole[:at] + content + whole[at + len(content) :]):
        path.write_bytes(text)
        with contextlib.suppress(UserError):
            read(path)


def test_control_characters_in_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text('paper = "p"\ntitle = "a\\u001bb"\nauthors = "A"\nvenue = "V"\ntable = []\n')
    with pytest.raises(UserError, match="title holds control characters"):
        read(tmp_path / "demo.toml")
