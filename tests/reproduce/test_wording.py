from __future__ import annotations

from reproduce.wording import counted, listing


def test_nouns_follow_their_number() -> None:
    assert [counted(number, "case") for number in (0, 1, 2, 1020)] == ["0 cases", "1 case", "2 cases", "1,020 cases"]


def test_lists_read_as_in_a_sentence() -> None:
    names = ["a", "b", "c"]
    assert [listing(names[:number]) for number in range(4)] == ["", "a", "a and b", "a, b and c"]
