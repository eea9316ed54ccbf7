from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce import stage
from reproduce.stage import Stage, added, closure, full_spec, parents, rewrite, role, spec, type_name


@dataclass(frozen=True)
class Part:
    size: int = role("size", 8)
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True)
class First(Stage[Any]):
    rate: float = 0.1
    part: Part = Part()
    seed: int = 1


@dataclass(frozen=True)
class Second(Stage[Any]):
    inits: tuple[First, ...] = (First(),)
    epochs: int = role("epochs", 90)


@dataclass(frozen=True)
class Listing(Stage[Any]):
    values: Any = None


@dataclass
class Loose:
    value: int = 1


def test_keys_are_pinned() -> None:
    """Stores outlive versions of this code, so equal values must keep their keys."""
    assert Listing(values=(1, 2.5, "x", None, True)).key == Listing(values=(1, 2.5, "x", None, True)).key
    described = spec(Part())
    assert described == {"type": f"{__name__}.Part", "size": 8, "names": ["a", "b"]}


def test_key_depends_on_every_field_the_version_and_upstream_stages() -> None:
    class Newer(First):
        version: ClassVar[int] = 2

    keys = {
        First().key,
        First(rate=0.2).key,
        First(part=Part(size=9)).key,
        First(seed=2).key,
        Newer().key,
        Second().key,
        Second(inits=(First(), First(seed=2))).key,
        Second(inits=(First(seed=2), First())).key,
    }
    assert len(keys) == 8


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.text())
def test_equal_values_have_equal_keys_in_any_process(rate: float, size: int, name: str) -> None:
    stage = First(rate, Part(size, (name,)))
    assert stage.key == First(rate, Part(size, (name,))).key == pickle.loads(pickle.dumps(stage)).key
    assert stage.key == dataclasses.replace(stage).key


@pytest.mark.parametrize("value", [[1], {"a": 1}, Loose(), object(), (1, [2])])
def test_invalid_field_raises_with_its_name(value: object) -> None:
    with pytest.raises(TypeError, match=r"Listing.values|must be a frozen dataclass"):
        _ = Listing(value).key


def test_nan_raises() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _ = First(float("nan")).key


def test_parents_and_closure() -> None:
    shared = First()
    left, right = Second((shared, First(seed=2))), Second((shared,), epochs=3)
    last = Listing((left, Listing((right,))))
    assert [stage.key for stage in parents(left)] == [shared.key, First(seed=2).key]
    order = [stage.key for stage in closure([last, left])]
    assert len(order) == len(set(order)) == 6
    assert order.index(shared.key) < order.index(left.key) < order.index(last.key)
    assert order.index(right.key) < order.index(last.key)


def test_rewrite_changes_exactly_roles_and_leaves() -> None:
    before = Listing((Second((First(), First(seed=2))), "text"))
    seen: list[tuple[str, type]] = []

    def by_role(name: str, value: Any, owner: Any) -> Any:
        seen.append((name, type(owner)))
        return {"size": 4, "epochs": 2}[name]

    after = rewrite(
        before, lambda value: dataclasses.replace(value, seed=7) if isinstance(value, First) else value, by_role
    )
    assert after == Listing((Second((First(part=Part(4), seed=7), First(part=Part(4), seed=7)), 2), "text"))
    assert sorted(set(seen), key=str) == sorted({("size", Part), ("epochs", Second)}, key=str)
    assert rewrite(before) == before


def test_moved_class_keeps_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage and a nested value in another module and under another name keep their keys by their old names."""
    here, described, old = First().key, spec(Part()), f"{__name__}."
    monkeypatch.setattr(stage, "_NAMED", {})  # as if the classes at the old place were gone

    @dataclass(frozen=True)
    class Piece:
        type_name: ClassVar[str] = f"{old}Part"
        size: int = role("size", 8)
        names: tuple[str, ...] = ("a", "b")

    @dataclass(frozen=True)
    class Moved(Stage[Any]):
        type_name: ClassVar[str] = f"{old}First"
        rate: float = 0.1
        part: Any = Piece()
        seed: int = 1

    assert Moved().key == here
    assert Moved().name == First().name == "test_stage.First"
    assert spec(Piece()) == described
    assert type_name(type("Child", (Moved,), {})).endswith("Child"), "a subclass is a class of its own"


def test_duplicate_type_name_raises() -> None:
    type_name(First)

    class Copy(First):
        type_name: ClassVar[str] = f"{__name__}.First"

    with pytest.raises(TypeError, match=r"Copy and .*First are both called .*First"):
        _ = Copy().key


@dataclass(frozen=True)
class Grown(Stage[Any]):
    """Like `Old`, with added fields."""

    type_name: ClassVar[str] = f"{__name__}.Old"

    rate: float = 0.1
    view: str = added("")
    queue: int = added(0, 4, role="queue")
    part: Any = added(None)


@dataclass(frozen=True)
class Old(Stage[Any]):
    rate: float = 0.1


def test_added_field_keeps_old_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Old(0.2).key
    monkeypatch.setattr(stage, "_NAMED", {})
    assert Grown(0.2, queue=0).key == before
    assert len({before, Grown(0.2).key, Grown(0.2, "x", 0).key, Grown(0.2, "", 0, Part()).key}) == 4
    assert "view" not in full_spec(Grown()), "what is stored is what the key was made of"
    assert rewrite(Grown(), by_role=lambda role, value, _: 7 if role == "queue" else value).queue == 7
