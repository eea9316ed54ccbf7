from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import made
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import ZEN, identity, provenance
from made import result as record
from msgspec.structs import replace
from scipy import stats

from reproduce.commands.cli import main
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.papers.baselines import compare, describe
from reproduce.papers.records import Beside, Elsewhere, Result
from reproduce.running.provenance import Host, _processor, arithmetic

OTHER = replace(ZEN, instructions=["avx2"])


def found(result: Result, recorded: list[Result], **options: Any) -> Beside:
    beside = compare(result, recorded, **options)
    assert beside is not None
    return beside


def test_the_seeds_that_both_have_are_compared_on_the_same_processor() -> None:
    beside = found(record(51.0, seeds=2), [record(50.0, 51.0, 52.0)])
    assert (beside.metrics["mAP"].old, beside.metrics["mAP"].new) == (51.0, 51.0)
    assert (beside.recorded_seeds, beside.seeds, beside.same_machine) == ([2], [2], True)
    assert not beside.outside


def test_seeds_are_compared_as_sets_on_another_processor() -> None:
    beside = found(record(51.0, seeds=2, on=OTHER), [record(50.0, 51.0, 55.0)])
    assert beside.metrics["mAP"].old == 52.0
    assert (beside.recorded_seeds, beside.seeds, beside.same_machine) == ([1, 2, 3], [2], False)


def test_the_band_is_the_median_of_the_table_s_row_variances() -> None:
    rows = [record(50.0, 51.0, 52.0), record(30.0, 40.0, 50.0, row="b"), record(20.0, 22.0, 24.0, row="c")]
    elsewhere = record(0.0, 90.0, row="d", identity=identity(scale="medium"))
    band = found(record(53.0), [*rows, elsewhere]).metrics["mAP"].band
    variance = statistics.median([1.0, 100.0, 4.0]) * 2 / stats.chi2.ppf(0.5, 2)
    assert band == pytest.approx(stats.t.ppf(0.995, 6) * math.sqrt(variance * 2))


@settings(max_examples=20)
@given(st.integers(3, 5), st.integers(4, 9), st.floats(0.1, 3.0), st.integers(0, 2**32 - 1))
def test_the_typical_variance_is_unbiased_in_the_median(seeds: int, rows: int, sd: float, seed: int) -> None:
    """With many rows of equal true variance, the corrected median is near it."""
    import numpy as np

    draws = np.random.default_rng(seed).normal(50, sd, (rows * 50, seeds))
    several = [record(*values.tolist(), row=str(n)) for n, values in enumerate(draws)]
    band = found(record(50.0, row="0"), several).metrics["mAP"].band
    freedom = len(several) * (seeds - 1)
    assert band / (stats.t.ppf(0.995, freedom) * math.sqrt(2)) == pytest.approx(sd, rel=0.25)


def test_a_collapsed_seed_widens_no_band() -> None:
    sound = record(50.0, 51.0, 52.0)
    collapsing = record(50.0, 51.0, 52.0, 1.0, collapsed={"4": "1 of 9 clusters left"})
    one, other = (found(record(52.0), [old]).metrics["mAP"].band for old in (sound, collapsing))
    assert one == other


@pytest.mark.parametrize(
    ("old", "why"),
    [
        (record(40.0, 50.0, 60.0), "unstable, its recorded seeds spread by 10.0 mAP"),
        (record(50.0, 50.1, 3.0, collapsed={"3": "x"}), "unstable, 1 of its 3 recorded seeds collapsed"),
    ],
)
def test_an_unstable_row_is_told_and_judged_by_nothing(old: Result, why: str) -> None:
    for options in ({}, {"must_hold": True}):
        beside = found(record(0.0), [old, *(record(50.0, 51.0, 52.0, row=row) for row in "bcd")], **options)
        assert beside.unjudged == why
        assert (beside.outside, beside.drift) == (True, False)
        assert describe(beside).endswith(f"not judged: {why}")


def test_a_seed_that_collapses_again_is_equal_to_itself() -> None:
    old = record(18.3, 23.6, 22.4, collapsed={"1": "x", "2": "x"})
    beside = found(record(18.3, collapsed={"1": "x"}), [old])
    assert beside.metrics["mAP"].old == beside.metrics["mAP"].new == 18.3
    assert (beside.recorded_seeds, beside.seeds) == ([1], [1])
    beside = found(record(50.0), [old])
    assert beside.metrics["mAP"].old == 22.4, "where it did not collapse, it is held against those that did not"


def test_a_row_that_always_collapsed_is_compared() -> None:
    texts = dict.fromkeys("123", "x")
    old = record(5.0, 5.1, 5.2, collapsed=texts)
    assert not found(record(5.0, 5.1, 5.2, collapsed=texts), [old]).outside
    assert found(record(50.0, 51.0, 52.0), [old]).drift


def test_what_fails_on_another_processor() -> None:
    old = record(50.0, 50.5, 51.0)
    fallen = record(30.0, on=OTHER)
    assert found(record(30.0), [old]).drift, "the same processor"
    beside = found(fallen, [old])
    assert (beside.outside, beside.drift) == (True, False)
    assert "pseudo labels" in beside.unjudged
    assert found(fallen, [old], must_hold=True).drift, "asked for by --baselines"
    steady = replace(fallen, steady=True)
    assert "only one other processor" in found(steady, [old]).unjudged
    third = replace(OTHER, instructions=[])
    twice = replace(old, elsewhere=[Elsewhere(on=[arithmetic_of(third)], measured=old.measured)])
    assert found(steady, [twice]).drift, "its spread over two processors is known"
    assert not found(record(50.0, on=OTHER, steady=True), [twice]).outside
    assert "pseudo labels" in found(fallen, [twice]).unjudged


def arithmetic_of(host: Host) -> str:
    return arithmetic(provenance(host=host))


def test_a_row_measured_on_two_processors_has_a_band_of_its_own() -> None:
    side = Elsewhere(on=[arithmetic_of(OTHER)], measured=record(50.5, 51.5, 52.5).measured)
    old = record(50.0, 51.0, 52.0, elsewhere=[side])
    wide = record(10.0, 40.0, 70.0, row="b")
    beside = found(record(53.0, on=OTHER), [old, wide])
    assert beside.same_machine
    assert beside.metrics["mAP"].old == 50.5, "its own processor's record, the seed in common"
    spread = statistics.variance([50.0, 51.0, 52.0, 50.5, 51.5, 52.5])
    assert beside.metrics["mAP"].band == pytest.approx(stats.t.ppf(0.995, 5) * math.sqrt(2 * spread))


def test_without_any_spread_the_row_s_band_counts_and_without_that_nothing_does() -> None:
    assert found(record(53.0), [record(50.0)]).drift
    assert not found(record(51.9), [record(50.0)]).outside
    beside = found(record(90.0, band=None), [record(50.0)])
    assert not beside.drift
    assert "too few seeds" in beside.unjudged


def test_another_cell_or_setting_has_no_record() -> None:
    assert compare(record(50.0, row="b"), [record(50.0)]) is None
    assert compare(record(50.0, identity=identity(scale="smoke")), [record(50.0)]) is None
    assert compare(record(), [record(50.0)]) is None


def test_drift_names_its_mend() -> None:
    assert describe(found(record(30.0), [record(50.0, 51.0, 52.0)])) == (
        "drifted: mAP was 50.0 and is 30.0 (band 16.9), rank1 was 60.0 and is 40.0 (band 16.9); "
        "recorded by commit c0ffee; if intended, pass --update-baselines"
    )


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_bf16
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


def test_the_provenance_tells_processors_and_what_holds_them_back_apart(tmp_path: Path) -> None:
    def text(cpuinfo: str, environ: dict[str, str], torch: str = "2.15.0", device: str = "cpu") -> str:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        host = _processor(tmp_path / "cpuinfo", environ)
        return arithmetic(provenance(host=host, device=device, versions={"torch": torch}))

    assert text(CPUINFO, {}) == (
        "AMD EPYC, AuthenticAMD family 25 model 17, sse4_2 avx avx2 fma avx512f avx512_bf16, torch 2.15.0"
    )
    assert "0x41 model 0xd40, asimd bf16" in text(ARM, {})
    told = [
        text(CPUINFO, {}),
        text(ARM, {}),
        text(CPUINFO, {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
        text(CPUINFO, {}, torch="2.16.0"),
        text(CPUINFO, {}, device="NVIDIA H200"),
        arithmetic(provenance(host=Host(cpu="AMD EPYC"))),
        arithmetic(provenance(host=Host(), versions={})),
        arithmetic(provenance(neighbours="faiss")),
    ]
    assert len(set(told)) == len(told), told
    assert text(CPUINFO, {}, device="NVIDIA H200") == text(ARM, {}, device="NVIDIA H200") == "NVIDIA H200, torch 2.15.0"
    assert _processor(tmp_path / "absent", {}).instructions == []


def test_a_second_processor_is_added_to_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, run = tmp_path / "kept", tmp_path / "run"
    path = records.record(record(50.0, 51.0), kept)
    records.write(record(50.5, 51.5, on=OTHER), run / "results")
    words = ["results", "--record", "--elsewhere", "--out", str(run), "--into", str(kept)]
    assert main(words) == main(words) == 0, "a second time replaces the first"
    (side,) = json.loads(path.read_text())["elsewhere"]
    assert side["measured"]["2"]["mAP"] == 51.5
    assert side["on"] == [arithmetic_of(OTHER)]
    assert json.loads(path.read_text())["measured"] == record(50.0, 51.0).measured
    assert records.read(kept)[0].elsewhere[0].measured["2"]["mAP"] == 51.5
    assert "1 record measured on this processor too" in capsys.readouterr().out
    with pytest.raises(UserError, match="was recorded on this processor"):
        records.record_elsewhere(record(50.0), kept)
    with pytest.raises(UserError, match=r"there is no .* to add to"):
        records.record_elsewhere(record(50.0, row="new", on=OTHER), kept)
    assert records.record(record(50.0, 51.0), kept) == path
    assert json.loads(path.read_text())["elsewhere"] == [side], "the same numbers keep their companions"
    again = records.record(record(60.0, 61.0), kept)
    assert json.loads(again.read_text())["elsewhere"] == [], "new numbers, no old companions"


def test_another_recipe_is_told_and_fails_where_records_must_hold() -> None:
    old = record(50.0, 50.5, 51.0)
    for recipes in (("a", "b"), ("", "b")):
        before, now = (
            replace(each, identity=identity(recipe=name))
            for each, name in zip((old, record(90.0)), recipes, strict=True)
        )
        beside = found(now, [before])
        assert (beside.outside, beside.drift) == (False, False)
        assert describe(beside).endswith("not judged: recorded for an older recipe")
        strict = found(now, [before], must_hold=True)
        assert strict.drift
        assert describe(strict).startswith("drifted: recorded for an older recipe; mAP was 50.0 and is 90.0")
        current = replace(now, measured=record(51.0).measured)
        assert found(now, [before, current]).metrics["mAP"].old == 51.0, "one of its own recipe comes first"


def test_the_order_of_dials_is_no_difference_between_rows() -> None:
    """Records come from JSON, whose keys are sorted; results of a run do not."""
    worlds = [
        {"kind": "stand-in", "world": 1, "seed": 1, "dials": dials} for dials in ({"a": 1, "b": 1}, {"b": 1, "a": 1})
    ]
    here, there = (identity(data={"duke": world}) for world in worlds)
    other = record(50.0, 51.0, 52.0, row="b", identity=there)
    beside = found(record(53.0, identity=here), [record(50.0, identity=there), other])
    assert beside.metrics["mAP"].band > 2.0, "the table's spread, not the row's own band"


def ten_rounds(*mAP: float, seed: int = 1, key: str = "train", **changes: Any) -> Result:
    """A result by a training of ten rounds (or so many), whose history tells its mAP after each."""
    history = [{"step": 10 * n + 10, "mAP": value, "rank1": value + 10, "lr": 1.0} for n, value in enumerate(mAP)]
    stages = [
        made.stage(key, seed=seed, history=history),
        made.stage("evaluate", seed=None, spec={"train": {"stage": "toy.Adapt", "key": key}}),
    ]
    return record(mAP[-1], seeds=seed, stages=stages, **changes)


def test_fewer_rounds_are_compared_with_the_record_after_as_many() -> None:
    old = ten_rounds(20.0, 30.0, 40.0, 50.0, key="ten")
    cut = ten_rounds(20.0, 30.0, key="two", identity=identity(rounds=2))
    beside = found(cut, [old])
    assert (beside.metrics["mAP"].old, beside.metrics["mAP"].new) == (30.0, 30.0)
    assert beside.metrics["rank1"].old == 40.0
    fallen = ten_rounds(20.0, 10.0, key="two", identity=identity(rounds=2))
    assert found(fallen, [old]).drift
    assert compare(ten_rounds(20.0, 30.0), [cut]) is None, "all rounds are not held against a few"


def test_rows_that_fewer_rounds_leave_alone_are_compared_as_they_are() -> None:
    same = ten_rounds(80.0, 90.0, identity=identity(rounds=2))
    assert found(same, [ten_rounds(80.0, 90.0)]).metrics["mAP"].old == 90.0, "the very same training"
    first = replace(ten_rounds(20.0, 30.0, key="two"), identity=identity(rounds=2, selection="step 1"))
    old = replace(
        ten_rounds(20.0, 30.0, 40.0, key="ten"), identity=identity(selection="step 1"), measured={"1": {"mAP": 20.0}}
    )
    assert found(first, [old]).metrics["mAP"].old == 20.0, "a moment that both have"
