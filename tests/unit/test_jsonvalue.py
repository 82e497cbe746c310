from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidError, TooLargeError
from shared.jsonvalue import MAX_NESTING, check_json, clean_json, freeze, thaw

any_text = st.text(st.characters())  # with U+0000 and lone surrogates
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(any_text, children, max_size=4),
    max_leaves=10,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def storable(value: Any) -> bool:
    text = json.dumps(value)
    return "\\u0000" not in text.replace("\\\\", "") and not has_surrogate(value)


def has_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


@given(values)
def test_thaw_undoes_freeze(value: Any) -> None:
    assert thaw(freeze(value, "x")) == value


@given(values)
def test_frozen_values_hold_nothing_that_can_change(value: Any) -> None:
    def check(item: Any) -> None:
        assert not isinstance(item, list | dict | set)
        for child in item.values() if hasattr(item, "values") else item if isinstance(item, tuple) else ():
            check(child)

    check(freeze(value, "x"))


@given(values)
def test_check_json_takes_exactly_what_postgres_can_store(value: Any) -> None:
    if storable(value):
        assert check_json(value, "input", 10_000_000) is value
    else:
        with pytest.raises(InvalidError) as caught:
            check_json(value, "input", 10_000_000)
        assert caught.value.errors[0]["field"] == "input"


@given(values)
def test_cleaned_values_can_be_stored(value: Any) -> None:
    assert storable(clean_json(value))


@given(values.filter(storable))
def test_cleaning_changes_nothing_that_is_clean(value: Any) -> None:
    assert clean_json(value) == value


def test_cleaning_replaces_only_the_bad_characters() -> None:
    assert clean_json({"a\0": ["x\ud800y", "😀"]}) == {"a\ufffd": ["x\ufffdy", "😀"]}


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "a\\u0000b"])
def test_the_text_backslash_u0000_is_not_the_character(text: str) -> None:
    assert check_json({"a": text}, "input", 100) == {"a": text}


@pytest.mark.parametrize("value", ["\0", ["\0"], {"a": "\0"}, {"\0": 1}, {"a": [{"b": "x\0"}]}, ["\\u0000", "\0"]])
def test_nul_is_refused_wherever_it_hides(value: Any) -> None:
    with pytest.raises(InvalidError, match=r"U\+0000"):
        check_json(value, "input", 1000)


def test_size_is_counted_in_bytes_of_compact_utf8() -> None:
    value = {"ä": ["€", 1]}
    size = len('{"ä":["€",1]}'.encode())
    assert check_json(value, "input", size) is value
    with pytest.raises(TooLargeError, match=f"input has {size} bytes; the limit is {size - 1}"):
        check_json(value, "input", size - 1)


@pytest.mark.parametrize("value", ["\ud800", ["a", {"b": "x\udfff"}], {"\ud800": 1}])
def test_a_lone_surrogate_is_no_text(value: Any) -> None:
    with pytest.raises(InvalidError, match="input contains a lone surrogate") as caught:
        check_json(value, "input", 1000)
    assert caught.value.errors == [{"field": "input", "message": "contains a lone surrogate, which is not text"}]


@pytest.mark.parametrize("value", [{1: "a"}, {"a": b"bytes"}, [{1}], object()])
def test_what_json_cannot_carry_is_invalid(value: Any) -> None:
    with pytest.raises(InvalidError, match="input"):
        check_json(value, "input", 1000)


def test_nesting_is_limited() -> None:
    assert check_json(nested(MAX_NESTING), "input", 1000)
    for depth in (MAX_NESTING + 1, 100_000):
        with pytest.raises(InvalidError, match="nested deeper than 20"):
            check_json(nested(depth), "input", 1_000_000)
    objects: Any = 1
    for _ in range(MAX_NESTING):
        objects = {"a": objects}
    assert check_json(objects, "input", 1000)
    for wrapped in ({"a": objects}, [objects]):
        with pytest.raises(InvalidError, match="nested deeper than 20"):
            check_json(wrapped, "input", 1000)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"a": [float("nan")]}])
def test_numbers_must_be_finite(value: Any) -> None:
    with pytest.raises(InvalidError, match="finite"):
        check_json(value, "input", 1000)


@pytest.mark.parametrize("value", [{1: "a"}, {None: 1}, {"a": b"bytes"}, {"a": {1}}, object()])
def test_other_types_are_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="field"):
        freeze(value, "field")


def test_an_error_names_the_path() -> None:
    with pytest.raises(TypeError, match=r"^input\.a\[1\]\.b holds a object"):
        freeze({"a": [1, {"b": object()}]}, "input")


def test_a_long_key_above_many_values_is_not_copied_for_each() -> None:
    """One of a megabyte above half a million values took seconds, and whoever may submit could send it."""

    def cpu_s(value: Any) -> float:
        began = time.process_time()
        check_json(value, "input", 1_000_000)
        return time.process_time() - began

    key, values = "k" * 500_000, [0] * 100_000
    ratios = [cpu_s({key: values}) / cpu_s({"short": values, "": key}) for _ in range(3)]
    assert min(ratios) < 5, ratios  # with copies it was 17


def test_what_json_cannot_carry_is_named_with_its_place() -> None:
    with pytest.raises(InvalidError, match=r"^input\.a\[1\] holds a set, which JSON cannot carry$"):
        check_json({"a": [0, {1}]}, "input", 10_000)


def test_an_error_names_the_place_and_no_more_of_its_keys_than_is_readable() -> None:
    with pytest.raises(InvalidError, match=r"^input\.a\[1\]\.k{64} is not a finite number$"):
        check_json({"a": [0, {"k" * 1000: float("nan")}]}, "input", 10_000)
