"""Published weights: every layout of the field is converted, and nothing but tensors is unpickled."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from methods.blocks.backbones import build
from reproduce import weights
from reproduce.commands.cli import main
from reproduce.errors import UserError
from reproduce.weights import convert, fitting, folders, named_tensors, sha256

State = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def plain() -> State:
    return {key: value.contiguous() for key, value in build("resnet50", seed=3).state_dict().items()}


@pytest.fixture(scope="module")
def ibn() -> State:
    return {key: value.contiguous() for key, value in build("resnet50_ibn_a", seed=3).state_dict().items()}


def under(prefix: str, state: State) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def numbered(prefix: str, state: State, *, relu: bool) -> dict[str, Any]:
    """Rename like nn.Sequential(conv1, bn1, [relu,] maxpool, layer1, layer2, layer3, layer4)."""
    first = 4 if relu else 3
    places = {"conv1": 0, "bn1": 1} | {f"layer{number}": first + number - 1 for number in range(1, 5)}
    parts = {key: key.partition(".") for key in state}
    return {f"{prefix}{places[parts[key][0]]}.{parts[key][2]}": value for key, value in state.items()}


HEAD = {"classifier.weight": torch.zeros(5, 2048), "feat_bn.weight": torch.ones(2048)}
FC = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}

LAYOUTS: dict[str, tuple[Callable[[State], Any], str, bool | None]] = {
    "torchvision, IBN-Net": (lambda state: {**state, **FC}, "", None),
    "fast-reid": (
        lambda state: {
            "model": {**under("backbone.", state), **under("heads.", HEAD), "pixel_mean": torch.zeros(1, 3, 1, 1)},
            "optimizer": {"state": {0: {"step": 3, "momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
            "iteration": 9,
        },
        "model/backbone.",
        None,
    ),
    "OpenUnReID": (
        lambda state: {"state_dict": {**under("module.backbone.", state), **under("module.", HEAD)}, "epoch": 3},
        "state_dict/module.backbone.",
        None,
    ),
    "Bag of Tricks": (lambda state: {**under("base.", state), **HEAD}, "base.", None),
    "MMT, SpCL": (
        lambda state: {"state_dict": {**numbered("module.base.", state, relu=False), **under("module.", HEAD)}},
        "state_dict/module.base.",
        False,
    ),
    "a sequence with its ReLU": (lambda state: numbered("0.", state, relu=True), "0.", True),
    "MoCo, LUPerson": (
        lambda state: {
            "state_dict": {
                **under("module.encoder_q.", state),
                **under("module.encoder_k.", {key: value + 1 for key, value in state.items()}),
                "module.encoder_q.fc.0.weight": torch.zeros(2048, 2048),
                "module.queue": torch.zeros(128, 10),
            },
            "arch": "resnet50",
        },
        "state_dict/module.encoder_q.",
        None,
    ),
}


@pytest.mark.parametrize(
    ("layout", "backbone"),
    [*((layout, "resnet50") for layout in LAYOUTS), ("fast-reid", "resnet50_ibn_a"), ("MMT, SpCL", "resnet50_ibn_a")],
)
def test_converts_every_published_layout(in_memory: Path, plain: State, ibn: State, layout: str, backbone: str) -> None:
    state = plain if backbone == "resnet50" else ibn
    wrap, prefix, stem_relu = LAYOUTS[layout]
    torch.save(wrap(state), in_memory / "published.pth")
    made = convert(in_memory / "published.pth", "ours", in_memory / "weights")
    assert (made.backbone, made.prefix, made.stem_relu) == (backbone, prefix, stem_relu)
    assert made.path == in_memory / "weights" / f"{backbone}-ours.safetensors"
    kept = load_file(made.path)
    assert kept.keys() == {key for key in state if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, state[key]) for key, value in kept.items())
    told = json.loads(made.path.with_suffix(".json").read_text())
    assert told["sha256"] == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert told["source_sha256"] == hashlib.sha256((in_memory / "published.pth").read_bytes()).hexdigest()
    assert (told["source"], told["prefix"], told["path"]) == ("published.pth", prefix, made.path.name)
    assert weights.source_sha256(made.path, told["sha256"]) == told["source_sha256"]
    assert sorted(path.suffix for path in made.path.parent.iterdir()) == [".json", ".safetensors"]


def test_several_nets_need_a_choice(in_memory: Path, plain: State) -> None:
    path = in_memory / "mmt.pth"
    mean = {key: value + 1 for key, value in plain.items()}
    torch.save({"state_dict": {**under("net.backbone.", plain), **under("mean_net.backbone.", mean)}}, path)
    both = "'state_dict/mean_net.backbone.', 'state_dict/net.backbone.'"
    with pytest.raises(UserError, match=f"holds several nets, {both}: choose one with --net"):
        convert(path, "mmt", in_memory)
    with pytest.raises(UserError, match=f"--net x: .* holds {both}"):
        convert(path, "mmt", in_memory, net="x")
    made = convert(path, "mmt", in_memory, net="state_dict/mean_net.backbone.")
    net = build("resnet50", seed=8, weights=made.path).state_dict()
    assert all(torch.equal(net[key], value) for key, value in mean.items() if "num_batches" not in key)


def test_net_of_another_shape_raises(in_memory: Path, plain: State) -> None:
    path = in_memory / "other.pth"
    narrow = build("narrow", seed=1).state_dict()
    torch.save(under("base.", narrow), path)
    with pytest.raises(
        UserError, match=r"does not hold a resnet50 at 'base.' \(\d+ missing, such as layer1.1.bn1.bias"
    ):
        convert(path, "x", in_memory)
    torch.save({**plain, "conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(UserError, match=r"\(1 of another shape, such as conv1.weight\)"):
        convert(path, "x", in_memory)
    torch.save({**plain, "layer3.6.conv1.weight": torch.zeros(256, 1024, 1, 1)}, path)
    with pytest.raises(UserError, match=r"\(1 unknown, such as layer3.6.conv1.weight\)"):
        convert(path, "x", in_memory)
    torch.save({"head.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"other.pth holds no ResNet-50"):
        convert(path, "x", in_memory)
    assert not list(in_memory.glob("*.safetensors"))


def test_invalid_names_raise_and_files_are_not_overwritten(in_memory: Path, plain: State) -> None:
    path = in_memory / "a.safetensors"
    save_file(dict(plain), path)
    for name in ("scratch", "../x", "a-b", "A", ""):
        with pytest.raises(UserError, match=f"--as {name}: give a name of small letters"):
            convert(path, name, in_memory)
    first = convert(path, "taken", in_memory / "weights")
    assert convert(path, "taken", in_memory / "weights") == first
    save_file({**plain, "bn1.bias": plain["bn1.bias"] + 1}, path)
    with pytest.raises(UserError, match=r"resnet50-taken.safetensors is there already, with other weights"):
        convert(path, "taken", in_memory / "weights")


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


HOSTILE: dict[str, Callable[[Path, Any], object]] = {
    "torch.save": lambda path, code: torch.save({"conv1.weight": torch.zeros(1), "x": code}, path),
    "torch.save before 1.6": lambda path, code: torch.save({"x": code}, path, _use_new_zipfile_serialization=False),
    **{
        f"pickle {protocol}": lambda path, code, protocol=protocol: path.write_bytes(
            pickle.dumps({"x": code}, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("kind", list(HOSTILE))
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_code_in_a_file_is_never_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    forced: bool,
    suffix: str,
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, ran = tmp_path / f"weights{suffix}", tmp_path / "ran"
    HOSTILE[kind](path, Code(ran))
    assert main(["data", "weights", str(path), "--as", "x", "--into", str(tmp_path / "into")]) == 2
    assert f"weights{suffix} is " in capsys.readouterr().err
    for load in (named_tensors, lambda path: build("narrow", seed=1, weights=path)):
        with pytest.raises(UserError, match=f"weights{suffix} is (refused|not a readable file of weights)"):
            load(path)
    assert not ran.exists()
    assert not (tmp_path / "into").exists()
    if kind != "torch.save" or suffix == ".safetensors":
        return
    with path.open("rb"):  # the file is dangerous indeed
        torch.load(path, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [(argparse.Namespace(lr=1), "argparse.Namespace"), (Path("x"), "pathlib"), (len, "len")],
)
def test_objects_other_than_tensors_raise(tmp_path: Path, value: object, named: str) -> None:
    torch.save({"state_dict": {}, "args": value}, tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=rf"a\.pth is refused: beside tensors it asks to run {named}.* was run; ask its ma"
    ):
        named_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"PK\3\4 cut short"])
def test_web_page_or_truncated_file_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth is not a readable file of weights .*: fetch it again"):
        named_tensors(tmp_path / "a.pth")


# -- where they lie ----------------------------------------------------------------------------------------------------


def test_imagenet_files_are_found_by_their_published_names(tmp_path: Path) -> None:
    names = [
        "resnet50-11ad3fa6.pth",
        "resnet50-luperson.safetensors",
        "resnet50_ibn_a-d9d0bb7b.pth",
        "resnet50-mine.pth",
    ]
    for name in [*names, "resnet101-63fe2227.pth", "resnet50-0676ba61.pth.part"]:
        (tmp_path / name).touch()

    def found(name: str, backbone: str) -> list[str]:
        return [path.name for path in fitting(name, backbone, [tmp_path / "none", tmp_path])]

    assert found("imagenet", "resnet50") == [], "torchvision's later weights must not be taken"
    assert found("imagenet", "resnet50_ibn_a") == ["resnet50_ibn_a-d9d0bb7b.pth"]
    assert found("luperson", "resnet50") == ["resnet50-luperson.safetensors"]
    (tmp_path / "resnet50.safetensors").touch()
    assert found("imagenet", "resnet50") == ["resnet50.safetensors"]
    (tmp_path / "resnet50.pth").touch()
    assert found("imagenet", "resnet50") == ["resnet50.pth", "resnet50.safetensors"]
    (tmp_path / "resnet50-19c8e357.pth").touch()
    assert found("imagenet", "resnet50") == ["resnet50-19c8e357.pth"]
    (tmp_path / "resnet50-0676ba61.pth").touch()
    assert found("imagenet", "resnet50") == ["resnet50-0676ba61.pth"]


def test_first_folder_with_weights_is_used(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "resnet50.pth").touch()
    assert fitting("imagenet", "resnet50", [tmp_path / "b", tmp_path / "a"]) == [tmp_path / "b" / "resnet50.pth"]


def test_torch_cache_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    assert folders()[1] == Path(torch.hub.get_dir()) / "checkpoints" == tmp_path / "torch" / "hub" / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    assert folders()[1] == Path(torch.hub.get_dir()) / "checkpoints"
    assert folders()[0] == tmp_path / "reproduce" / "weights"


def test_published_name_contains_the_start_of_the_hash(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    good, bad = tmp_path / f"resnet50-{digest[:8]}.pth", tmp_path / "resnet50-0676ba61.pth"
    for path in (good, bad):
        path.write_bytes(b"weights")
    assert sha256(good) == digest
    with pytest.raises(UserError, match=f"0676ba61.pth is damaged .* begins with {digest[:8]}; fetch it again"):
        sha256(bad)
    with pytest.raises(UserError, match=r"absent.pth cannot be read \(No such file"):
        sha256(tmp_path / "absent.pth")


def test_command_reports_the_converted_weights(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plain: State
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_memory))
    torch.save({"state_dict": numbered("module.base.", plain, relu=False)}, in_memory / "spcl.pth.tar")
    assert main(["data", "weights", str(in_memory / "spcl.pth.tar"), "--as", "spcl"]) == 0
    output = capsys.readouterr().out
    path = in_memory / "reproduce" / "weights" / "resnet50-spcl.safetensors"
    assert str(path) in output
    assert hashlib.sha256(path.read_bytes()).hexdigest() in output
    assert "source   spcl.pth.tar, sha256 " in output
    assert "from state_dict/module.base.; 53 other tensors left out" in output
    assert "stem_relu=False repeats that" in output
    assert "note     not known as the published spcl weights" in output
    assert fitting("spcl", "resnet50", weights.folders()) == [path]


def laughs(depth: int) -> dict[str, Any]:
    """A mapping that holds one other ten times, which holds another ten times, and so on."""
    inner: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(depth):
        inner = dict.fromkeys("abcdefghij", inner)
    return inner


def in_itself(key: str) -> dict[str, Any]:
    state: dict[str, Any] = {"x": torch.zeros(1)}
    state[key] = state
    return state


@pytest.mark.parametrize("state", [laughs(12), laughs(90), in_itself("a"), in_itself("")], ids=[*"1234"])
def test_mappings_without_end_are_refused_in_bounded_time(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "a.pth")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"a\.pth is refused: its mappings hold themselves, or more than 100,000 parts"):
        weights.named_tensors(tmp_path / "a.pth")
    assert time.monotonic() - began < 60


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    """A gigabyte of zeros takes a megabyte in a file."""
    torch.save({"x": torch.zeros(1 << 20)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as plain, zipfile.ZipFile(tmp_path / "b.pth", "w") as packed:
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "b.pth").stat().st_size < 1 << 16
    assert weights.named_tensors(tmp_path / "a.pth").keys() == {"x"}
    with pytest.raises(UserError, match=r"b\.pth is refused: its records are compressed or overlap"):
        weights.named_tensors(tmp_path / "b.pth")


@pytest.mark.parametrize("read", [weights.sha256, weights.named_tensors])
def test_a_pipe_is_no_file_of_weights(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth is no file, but a pipe"):
        read(tmp_path / "a.pth")


@given(
    content=st.binary(max_size=300),
    where=st.floats(0, 1, exclude_max=True),
    suffix=st.sampled_from([".pth", ".safetensors"]),
)
@settings(max_examples=100)
def test_any_bytes_are_read_or_refused(content: bytes, where: float, suffix: str) -> None:
    """Random bytes, and a good file with some of its bytes replaced by them."""
    good = io.BytesIO()
    torch.save({"a": {"b": torch.arange(3)}}, good)
    whole = good.getvalue() if suffix == ".pth" else save({"a": torch.arange(3)})
    at = int(where * len(whole))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        for text in (content, whole[:at] + content + whole[at + len(content) :]):
            path.write_bytes(text)
            with contextlib.suppress(UserError):
                weights.named_tensors(path)
