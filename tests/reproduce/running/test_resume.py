from __future__ import annotations

import dataclasses
import gc
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from reproduce.errors import UserError
from reproduce.running.resume import anchors, load_state, save_state


def network(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, classes), nn.BatchNorm1d(classes))


def trained(net: nn.Module, kind: type[torch.optim.Optimizer] = torch.optim.Adam) -> torch.optim.Optimizer:
    """An optimiser of a network after a step."""
    optimizer = kind(net.parameters(), 0.1)  # type: ignore[call-arg]
    net(torch.rand(4, 2)).square().sum().backward()
    optimizer.step()
    return optimizer


def state(seed: int, classes: int = 3) -> SimpleNamespace:
    nets = [network(seed + number, classes) for number in range(2)]
    return SimpleNamespace(
        nets=nets,
        optimizer=trained(nets[0]),
        queue=torch.rand(3),
        labels=np.arange(seed, seed + 3),
        half=torch.rand(2).bfloat16(),
        best={"mAP": 1.5 * seed, "weights": {"a": torch.rand(2)}, 3: None},
        threshold=0.1 * seed,
        shape=(seed, "x"),
        stopped=bool(seed % 2),
        rank=np.float32(seed / 3),
    )


def same(left: Any, right: Any) -> bool:
    """Whether two values have the same types and bits throughout."""
    if type(left) is not type(right):
        return False
    match left:
        case nn.Module() | torch.optim.Optimizer():
            return same(dict(left.state_dict()), dict(right.state_dict()))
        case torch.Tensor():
            alike = left.dtype == right.dtype and left.shape == right.shape
            return alike and left.reshape(-1).view(torch.uint8).equal(right.reshape(-1).view(torch.uint8))
        case np.ndarray() | np.generic():
            return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
        case dict():
            return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
        case list() | tuple():
            return len(left) == len(right) and all(map(same, left, right))
        case float():
            return left.hex() == right.hex()
        case _:
            return bool(left == right)


def returned(tmp_path: Path, saved: SimpleNamespace, other: SimpleNamespace) -> SimpleNamespace:
    """The fresh state `other` with what was saved."""
    save_state(tmp_path / "s", saved, {})
    load_state(tmp_path / "s", other)
    return other


def test_every_attribute_comes_back(tmp_path: Path) -> None:
    saved, other = state(1), state(2)
    assert not any(same(value, getattr(other, name)) for name, value in vars(saved).items())
    save_state(tmp_path / "s", saved, {"done": 5, "history": [{"step": 1, "loss": 0.1}], "spent": 2.5})
    assert load_state(tmp_path / "s", other) == {"done": 5, "history": [{"step": 1, "loss": 0.1}], "spent": 2.5}
    for name, value in vars(saved).items():
        assert same(value, getattr(other, name)), name


def test_attributes_that_came_and_went(tmp_path: Path) -> None:
    other = returned(tmp_path, SimpleNamespace(new=1), SimpleNamespace(old=2))
    assert vars(other) == {"new": 1}


def test_an_optimiser_still_moves_the_parameters_it_was_made_for(tmp_path: Path) -> None:
    other = returned(tmp_path, state(1), state(2))
    before = other.nets[0][0].weight.clone()
    other.optimizer.step()
    assert not torch.equal(before, other.nets[0][0].weight)


def test_a_classifier_of_another_size_comes_back(tmp_path: Path) -> None:
    saved = state(1, classes=7)
    other = returned(tmp_path, saved, state(2, classes=3))
    assert same(saved.nets, other.nets)
    assert other.nets[0](torch.rand(2, 2)).shape == (2, 7)


def test_saving_does_not_alias(tmp_path: Path) -> None:
    saved = SimpleNamespace(queue=torch.zeros(2), labels=np.zeros(2))
    save_state(tmp_path / "s", saved, {})
    saved.queue += 1
    other = SimpleNamespace()
    load_state(tmp_path / "s", other)
    other.queue += 2
    other.labels += 2
    load_state(tmp_path / "s", other)
    assert [*other.queue, *other.labels] == [0, 0, 0, 0]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
TENSORS = st.builds(
    lambda shape, dtype, seed: (100 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
    st.integers(0, 99),
)
ARRAYS = TENSORS.filter(lambda tensor: tensor.dtype != torch.bfloat16).map(lambda tensor: tensor.numpy())
SCALARS = st.builds(
    lambda kind, value: kind(value), st.sampled_from([np.float64, np.float32, np.int8]), st.integers(0, 9)
)
THINGS = st.sampled_from(["module", "optimiser", "head"])
KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        lists = st.lists(inner, max_size=3)
        return lists | lists.map(tuple) | st.dictionaries(KEYS, inner, max_size=3)

    return st.recursive(leaves, around, max_leaves=8)


@dataclasses.dataclass(frozen=True)
class Thing:
    """What stands for a module or optimiser in a drawn state."""

    kind: str


def made(value: Any, seed: int) -> Any:
    """A drawn value with modules and optimisers in it, the same ones for each seed."""
    match value:
        case Thing(kind="module"):
            return network(seed)
        case Thing(kind="optimiser"):
            return trained(network(seed))
        case Thing(kind="head"):
            return network(seed, classes=2 + seed)
        case dict():
            return {key: made(item, seed + number) for number, (key, item) in enumerate(value.items())}
        case list() | tuple():
            return type(value)(made(item, seed + number) for number, item in enumerate(value))
        case torch.Tensor() | np.ndarray() if seed % 2:  # laid out otherwise
            return value.T.copy() if isinstance(value, np.ndarray) else value.mT.clone() if value.dim() == 2 else value
        case _:
            return value


@settings(deadline=None, max_examples=60)
@given(
    values=st.dictionaries(st.text("ab", min_size=1), nested(PLAIN | TENSORS | ARRAYS | SCALARS | THINGS.map(Thing)))
)
def test_nested_states_round_trip(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    saved, other = (SimpleNamespace(**made(values, seed)) for seed in (1, 8))
    things = anchors(other)
    returned(tmp_path_factory.mktemp("s"), saved, other)
    assert same(vars(saved), vars(other))
    for at, anchor in things.items():
        assert anchors(other)[at].thing() is anchor.thing() is not None


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(3, 4).T,
        torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.rand(6, 4)[::2, 1:],
        torch.rand(3, 1).expand(3, 4),
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.tensor([math.nan, -0.0, math.inf]),
        torch.tensor([1 + 2j]),
    ],
    ids=["turned", "channels last", "a part", "expanded", "scalar", "empty", "not finite", "complex"],
)
def test_tensors_keep_bits_and_the_order_of_their_memory(tmp_path: Path, tensor: torch.Tensor) -> None:
    other = returned(tmp_path, SimpleNamespace(queue=tensor), SimpleNamespace())
    assert same(tensor.resolve_conj(), other.queue)
    order = np.argsort([-step for step in tensor.stride()], kind="stable")
    assert other.queue.permute(order.tolist()).is_contiguous()


@pytest.mark.parametrize(
    "array",
    [np.array(3.5), np.arange(6).reshape(2, 3).T, np.arange(6)[::-1], np.zeros((0, 2)), np.array([True, False])],
    ids=repr,
)
def test_arrays_keep_shape_and_order(tmp_path: Path, array: Any) -> None:
    other = returned(tmp_path, SimpleNamespace(labels=array), SimpleNamespace())
    assert same(array, other.labels)
    assert other.labels.flags.f_contiguous == array.flags.f_contiguous or array.strides[0] < 0
    other.labels[...] = 0


def test_what_is_shared_stays_shared(tmp_path: Path) -> None:
    def shared(seed: int) -> SimpleNamespace:
        net, queue, notes = network(seed), torch.rand(3), {"seed": seed}
        optimizer = trained(net)
        return SimpleNamespace(
            a=optimizer, b={"again": optimizer}, nets=[net, net], queues=(queue, [queue]), notes=[notes, notes]
        )

    other = returned(tmp_path, shared(1), shared(2))
    assert other.a is other.b["again"]
    assert other.nets[0] is other.nets[1]
    assert other.queues[0] is other.queues[1][0]
    assert other.notes[0] is other.notes[1]
    assert other.notes[0] == {"seed": 1}


def test_a_list_in_itself(tmp_path: Path) -> None:
    ring: list[Any] = [1]
    ring.append((ring,))
    other = returned(tmp_path, SimpleNamespace(ring=ring), SimpleNamespace())
    assert other.ring[1][0] is other.ring


def test_nets_that_change_places_keep_their_optimisers(tmp_path: Path) -> None:
    """Restored by place, each network's weights would go to the other one's optimiser."""

    def start(seed: int) -> SimpleNamespace:
        nets = [network(seed), network(seed + 1)]
        return SimpleNamespace(nets=nets, optimizers={"first": trained(nets[0]), "second": trained(nets[1])}, best=None)

    saved, other = start(1), start(5)
    fresh, first = anchors(saved), other.nets[0]
    saved.nets.reverse()
    saved.best = saved.nets[0]
    save_state(tmp_path / "s", saved, {}, fresh)
    load_state(tmp_path / "s", other)
    assert same(saved.nets, other.nets)
    assert other.nets[1] is first
    assert other.best is other.nets[0]
    assert other.optimizers["first"].param_groups[0]["params"][0] is first[0].weight


def test_an_optimiser_made_anew_comes_back_into_the_one_at_the_start(tmp_path: Path) -> None:
    saved, other = state(1), state(2)
    fresh, kept = anchors(saved), other.optimizer
    saved.optimizer = trained(saved.nets[0])
    save_state(tmp_path / "s", saved, {}, fresh)
    load_state(tmp_path / "s", other)
    assert other.optimizer is kept
    assert same(saved.optimizer, kept)


def test_a_buffer_that_no_checkpoint_has_comes_back(tmp_path: Path) -> None:
    def memory(seed: int) -> SimpleNamespace:
        head = nn.Linear(2, 2)
        head.register_buffer("queue", torch.full((2 + seed,), float(seed)), persistent=False)
        return SimpleNamespace(head=head)

    assert returned(tmp_path, memory(1), memory(2)).head.queue.tolist() == [1, 1, 1]


class Point(NamedTuple):
    x: int


@dataclasses.dataclass
class Record:
    x: int


class Extra(nn.Module):
    """A module with more state than tensors."""

    def get_extra_state(self) -> Any:
        return {"seen": {1}}


def shadow() -> Any:
    queue = torch.rand(4)
    return {"queue": queue, "start": queue[:2]}


def view() -> Any:
    labels = np.arange(4)
    return [labels, labels.reshape(2, 2)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: Point(1), r"state\.x\[\"y\"\]\[2\] is a Point, .*: keep a plain tuple"),
        (lambda: Record(1), r"is a Record, .* keep a dict of its fields"),
        (lambda: {1, 2}, r"is a set, .* keep a sorted list"),
        (lambda: frozenset([1]), r"is a frozenset, .* keep a sorted list"),
        (lambda: OrderedDict(a=1), r"is a OrderedDict, .* keep a plain dict"),
        (lambda: defaultdict(list), r"is a defaultdict, .* keep a plain dict"),
        (lambda: Counter("ab"), r"is a Counter, .* keep a plain dict"),
        (lambda: b"ab", r"is a bytes, .* keep the numbers"),
        (lambda: Path("a"), r"is a PosixPath, "),
        (lambda: (number for number in ()), r"is a generator, "),
        (lambda: iter([1]), r"is a list_iterator, "),
        (lambda: torch.Generator(), r"is a Generator, .* make one for each step"),
        (lambda: np.random.default_rng(1), r"is a Generator, .* make one for each step"),
        (lambda: SimpleNamespace(a=1), r"is a SimpleNamespace, "),
        (lambda: torch.float32, r"is a dtype, "),
        (lambda: nn.Parameter(torch.zeros(2)), r"is a Parameter, .* parameter of a module"),
        (lambda: torch.zeros(2, requires_grad=True), r"requires a gradient: detach it, or make it part of a module"),
        (lambda: torch.eye(2).to_sparse(), r"is a torch\.sparse_coo tensor of torch\.float32, .* convert it"),
        (lambda: torch.zeros(2, dtype=torch.complex128), r"tensor of torch\.complex128, .* convert it"),
        (lambda: np.array(["a"]), r"is of NumPy's dtype\('<U1'\), which cannot be saved: convert it"),
        (lambda: np.str_("a"), r"is a str_, .* keep a plain str|is of NumPy's dtype\('<U1'\)"),
        (lambda: np.array([None]), r"is of NumPy's dtype\('O'\)"),
        (lambda: np.ma.masked_array([1]), r"is a MaskedArray, .* keep a plain tensor or array"),
        (lambda: {(1, 2): 3}, r"state\.x\[\"y\"\]\[2\] has the key \(1, 2\)"),
        (
            lambda: shadow(),
            r"state\.x.*\[\"start\"\] and state\.x.*\[\"queue\"\] share memory|queue.*start.* share memory",
        ),
        (lambda: view(), r"\[2\]\[[01]\] and state\.x\[\"y\"\]\[2\]\[[01]\] share memory, .*: copy one of them"),
        (lambda: Extra(), r"state\.x\[\"y\"\]\[2\]\.state_dict\(\)\[\"_extra_state\"\]\[\"seen\"\] is a set"),
    ],
)
def test_what_would_not_come_back_is_refused_by_name(tmp_path: Path, value: Callable[[], Any], message: str) -> None:
    refused = SimpleNamespace(fine=1, x={"y": [0, 1, value()]})
    with pytest.raises(TypeError, match=message) as told:
        save_state(tmp_path / "s", refused, {})
    assert 'state.x["y"][2]' in str(told.value)
    with pytest.raises(TypeError, match=message):
        anchors(refused)
    assert not list(tmp_path.iterdir())


def test_weights_that_go_on_changing_are_refused(tmp_path: Path) -> None:
    net = network(1)
    kept = SimpleNamespace(net=net, best=dict(net.state_dict()))
    with pytest.raises(
        TypeError, match=r"state\.best\[.*state\.net\.state_dict.* share memory|state\.net.*state\.best"
    ):
        save_state(tmp_path / "s", kept, {})
    kept.best = {name: tensor.clone() for name, tensor in kept.best.items()}
    save_state(tmp_path / "s", kept, {})


def test_parameters_that_modules_share_are_theirs(tmp_path: Path) -> None:
    def tied(seed: int) -> SimpleNamespace:
        one, two = network(seed), network(seed + 1)
        two[0].weight = one[0].weight
        return SimpleNamespace(one=one, two=two)

    other = returned(tmp_path, tied(1), tied(3))
    assert same(other.one, tied(1).one)
    assert other.one[0].weight is other.two[0].weight


def add_group(state: SimpleNamespace) -> None:
    state.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


def widen(state: SimpleNamespace) -> None:
    state.nets[0].append(nn.Linear(3, 3))


def other_kind(state: SimpleNamespace) -> None:
    state.optimizer = trained(state.nets[0], torch.optim.SGD)


def two_for_one(state: SimpleNamespace) -> None:
    state.before, state.optimizer = state.optimizer, trained(state.nets[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.nets.append(network(1)),
            r"state\.nets\[2\] is a Sequential, .* put one there from the start",
        ),
        (
            lambda state: state.best.update(net=network(1)),
            r'state\.best\["net"\] is a Sequential, and when the training',
        ),
        (add_group, r"state\.optimizer is a Adam of other parts"),
        (widen, r"state\.nets\[0\] is a Sequential of other parts"),
        (lambda state: state.nets[1].double(), r"state\.nets\[1\] is a Sequential of other parts"),
        (other_kind, r"state\.optimizer is a SGD of other parts"),
        (
            two_for_one,
            r"state\.before is a Adam of which a resumed run has one, at state\.optimizer, and the state holds",
        ),
    ],
)
def test_what_a_resumed_run_could_not_restore_into_is_refused(
    tmp_path: Path, change: Callable[[SimpleNamespace], None], message: str
) -> None:
    saved = state(1)
    fresh = anchors(saved)
    change(saved)
    with pytest.raises(TypeError, match=message):
        save_state(tmp_path / "s", saved, {}, fresh)


def test_what_was_replaced_is_let_go() -> None:
    saved = state(1)
    fresh = anchors(saved)
    saved.optimizer = trained(saved.nets[0])
    gc.collect()
    assert fresh["state.optimizer"].thing() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.nets.pop(),
            r"state\.nets\[1\] was saved as torch\..*Sequential, .* starts with none there: ",
        ),
        (
            other_kind,
            r"state\.optimizer was saved as torch\..*Adam, and the training starts with torch\..*SGD there: del",
        ),
        (
            widen,
            r"state\.nets\[0\] was saved as .*Sequential there, of other parts: delete it to start this stage again",
        ),
        (add_group, r"state\.optimizer was saved as .*, of other parts: delete"),
        (lambda state: setattr(state, "optimizer", None), r"state\.optimizer was saved as .* starts with none there"),
    ],
)
def test_a_state_of_another_shape_is_left_alone(
    tmp_path: Path, change: Callable[[SimpleNamespace], None], message: str
) -> None:
    save_state(tmp_path / "s", state(1), {})
    other = state(2)
    change(other)
    expected = deepcopy(other)
    with pytest.raises(UserError, match=message):
        load_state(tmp_path / "s", other)
    assert same(vars(other), vars(expected))


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda:0 is here")
def test_a_device_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = SimpleNamespace(net=network(1), queue=torch.zeros(2))
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda:0"))
    save_state(tmp_path / "s", saved, {})
    monkeypatch.undo()
    other, untouched = (SimpleNamespace(net=network(2), queue=torch.ones(2)) for _ in range(2))
    with pytest.raises(UserError, match=r"cannot be put back .*: run where it was saved, or delete it"):
        load_state(tmp_path / "s", other)
    assert same(vars(other), vars(untouched))


def test_a_state_of_another_format_is_named(tmp_path: Path) -> None:
    save_file({"queue": torch.zeros(2)}, tmp_path / "s", metadata={"label": "{}"})
    with pytest.raises(
        UserError, match=r"is of format 1 and this version reads format 2: delete it to start this stage"
    ):
        load_state(tmp_path / "s", SimpleNamespace())
