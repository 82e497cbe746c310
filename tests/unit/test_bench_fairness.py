"""The arithmetic of the benchmark of fairness."""

from __future__ import annotations

from itertools import chain, repeat

import pytest

from benchmarks.fairness import jain, jain_over_time


def test_the_index_is_1_for_equal_shares_and_1_by_n_if_one_has_all() -> None:
    assert jain([5, 5, 5, 5]) == pytest.approx(1)
    assert jain([20, 0, 0, 0]) == pytest.approx(1 / 4)
    assert jain([3, 1]) == pytest.approx(16 / 20)


def test_in_turns_the_index_is_1_all_the_time() -> None:
    in_turns = list(chain.from_iterable(repeat(["a", "b"], 50)))
    assert jain_over_time(in_turns, 2) == pytest.approx([1] * 8)


def test_one_after_the_other_it_grows_with_the_second_ones_share() -> None:
    index = jain_over_time(["a"] * 50 + ["b"] * 50, 2)
    assert index[:4] == pytest.approx([1 / 2] * 4)  # of twenty to fifty runs "b" had none
    assert index[4] == pytest.approx(jain([50, 10]))
    assert index == sorted(index)


def test_who_never_finishes_anything_counts() -> None:
    assert jain_over_time(["a", "b"] * 50, 4) == pytest.approx([1 / 2] * 8)
