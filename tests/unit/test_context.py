from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.context import (
    MAX_DEPTH,
    MAX_ID_LENGTH,
    MAX_NESTED_BYTES,
    PLACEHOLDERS,
    RESERVED_ENDINGS,
    UserExecutionContext,
    check_user_id,
    validate_user_context,
)
from shared.errors import InvalidContextError

ID_FIELDS = ("user_id", "thread_id", "run_id", "request_id", "correlation_id", "operation_name")
OPTIONAL_FIELDS = ("websocket_client_id", "parent_request_id")

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=10,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_ID_LENGTH).filter(
    lambda text: text.isprintable() and text == text.strip() and text.lower() not in PLACEHOLDERS
)
user_ids = ids.filter(lambda text: not text.endswith(RESERVED_ENDINGS))


def make(**changes: Any) -> UserExecutionContext:
    return UserExecutionContext(**({"user_id": "alice", "thread_id": "t-1", "run_id": "r-1"} | changes))


def refused_field(**changes: Any) -> str:
    with pytest.raises(InvalidContextError) as caught:
        make(**changes)
    return caught.value.errors[0]["field"]


def test_fields_cannot_be_assigned_or_deleted() -> None:
    context = make()
    for field in fields(context):
        with pytest.raises(FrozenInstanceError):
            setattr(context, field.name, "other")
        with pytest.raises(FrozenInstanceError):
            delattr(context, field.name)


def test_nested_data_is_read_only_at_every_depth() -> None:
    context = make(agent_context={"a": {"b": [1, {"c": 2}]}})
    nested: Any = context.agent_context
    for target, key in ((nested, "a"), (nested["a"], "b"), (nested["a"]["b"], 0), (nested["a"]["b"][1], "c")):
        with pytest.raises(TypeError):
            target[key] = "changed"
    assert not hasattr(nested["a"]["b"], "append")


def test_the_caller_keeps_no_way_in() -> None:
    inner: dict[str, Any] = {"list": [1]}
    given_data = {"inner": inner}
    context = make(agent_context=given_data, audit_metadata=given_data)
    inner["list"].append(2)
    given_data["more"] = {}
    for nested in (context.agent_context, context.audit_metadata):
        assert nested == {"inner": {"list": (1,)}}


def test_what_to_dict_returns_is_the_callers_alone() -> None:
    context = make(agent_context={"inner": {"list": [1]}})
    context.to_dict()["agent_context"]["inner"]["list"].append(2)
    assert context.to_dict()["agent_context"] == {"inner": {"list": [1]}}


def test_a_child_shares_nothing_that_can_change_with_parent_sibling_or_caller() -> None:
    parent = make(agent_context={"a": {"list": [1]}}, audit_metadata={"who": {"ip": "x"}})
    added: dict[str, Any] = {"b": {"list": [1]}}
    child, sibling = (parent.create_child_context("step", added, added) for _ in range(2))
    added["b"]["list"].append(2)
    assert parent.agent_context == {"a": {"list": (1,)}}
    assert child.agent_context == sibling.agent_context == {"a": {"list": (1,)}, "b": {"list": (1,)}}
    assert child.audit_metadata == {"who": {"ip": "x"}, "b": {"list": (1,)}}
    # No mapping object is the same one: even a tampered parent changes no child.
    assert child.agent_context["a"] is not parent.agent_context["a"]
    assert child.agent_context["b"] is not sibling.agent_context["b"]


def test_a_child_belongs_to_the_same_run_and_has_a_request_of_its_own() -> None:
    parent = make(websocket_client_id="c-1", created_at=datetime(2020, 1, 1, tzinfo=UTC))
    child = parent.create_child_context("tool:data")
    for name in ("user_id", "thread_id", "run_id", "correlation_id", "websocket_client_id"):
        assert getattr(child, name) == getattr(parent, name)
    assert child.get_correlation_id() == parent.get_correlation_id() == parent.correlation_id
    assert (child.operation_name, child.depth, child.parent_request_id) == ("tool:data", 1, parent.request_id)
    assert child.request_id != parent.request_id
    assert child.created_at > parent.created_at


def test_depth_is_limited() -> None:
    context = make()
    for _ in range(MAX_DEPTH):
        context = context.create_child_context("deeper")
    with pytest.raises(InvalidContextError, match="depth"):
        context.create_child_context("too deep")


def test_constructors_say_where_it_came_from() -> None:
    by_rest = UserExecutionContext.from_request("alice", "t", "r", correlation_id="c")
    by_socket = UserExecutionContext.from_websocket_request("alice", "t", "r", connection_id="conn", correlation_id="d")
    assert (by_rest.websocket_client_id, by_rest.correlation_id) == (None, "c")
    assert (by_socket.websocket_client_id, by_socket.correlation_id) == ("conn", "d")
    for made in (by_rest, by_socket):
        assert (made.user_id, made.thread_id, made.run_id, made.operation_name) == ("alice", "t", "r", "run")
        assert (made.depth, made.parent_request_id, made.agent_context, made.audit_metadata) == (0, None, {}, {})


def test_each_field_is_named_by_who_gives_it() -> None:
    """Ids are texts all of them: by their order, a user could become a thread."""
    with pytest.raises(TypeError):
        UserExecutionContext("alice", "t", "r")  # type: ignore[call-arg]


def test_the_limits_are_those_that_are_documented() -> None:
    assert (MAX_ID_LENGTH, MAX_DEPTH, MAX_NESTED_BYTES) == (128, 16, 16_384)


@pytest.mark.parametrize("name", ["agent_context", "audit_metadata"])
def test_json_may_be_as_large_as_its_limit(name: str) -> None:
    fits = {"x": "y" * (MAX_NESTED_BYTES - len('{"x": ""}'))}
    assert make(**{name: fits})
    assert refused_field(**{name: {"x": fits["x"] + "y"}}) == name


@pytest.mark.parametrize("name", ID_FIELDS + OPTIONAL_FIELDS)
@pytest.mark.parametrize(
    "placeholder",
    ["", "none", "null", "nil", "undefined", "default", "system", "anonymous", "unknown", "placeholder", "n/a", "*"],
)
def test_every_placeholder_is_refused_in_every_id(name: str, placeholder: str) -> None:
    assert refused_field(**{name: placeholder, "depth": int(name == "parent_request_id")}) == name
    assert refused_field(**{name: f" {placeholder.upper()} ", "depth": int(name == "parent_request_id")}) == name


@pytest.mark.parametrize("name", ID_FIELDS + OPTIONAL_FIELDS)
@pytest.mark.parametrize("value", ["x" * (MAX_ID_LENGTH + 1), 7, b"alice", ["alice"], "a\0b", "a\nb", " a", "a\u200b"])
def test_bad_ids_are_refused_by_name(name: str, value: object) -> None:
    assert refused_field(**{name: value, "depth": int(name == "parent_request_id")}) == name


@pytest.mark.parametrize("name", ID_FIELDS)
def test_required_ids_may_not_be_none(name: str) -> None:
    assert refused_field(**{name: None}) == name


def test_the_longest_id_is_accepted() -> None:
    assert make(user_id="x" * MAX_ID_LENGTH).user_id


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("depth", {"depth": -1}),
        ("depth", {"depth": True}),
        ("depth", {"depth": 1.0}),
        ("depth", {"depth": MAX_DEPTH + 1, "parent_request_id": "p"}),
        ("parent_request_id", {"depth": 1}),
        ("parent_request_id", {"parent_request_id": "p"}),
        ("created_at", {"created_at": datetime(2020, 1, 1)}),  # noqa: DTZ001 - what must be refused
        ("created_at", {"created_at": "2020-01-01T00:00:00Z"}),
        ("agent_context", {"agent_context": [1]}),
        ("agent_context", {"agent_context": None}),
        ("agent_context", {"agent_context": {1: "x"}}),
        ("agent_context", {"agent_context": {"x": object()}}),
        ("agent_context", {"agent_context": {"x": ["\ud800"]}}),
        ("audit_metadata", {"audit_metadata": {"\udfff": 1}}),
        ("agent_context", {"agent_context": {"x": float("nan")}}),
        ("agent_context", {"agent_context": {"x": "y" * MAX_NESTED_BYTES}}),
        ("audit_metadata", {"audit_metadata": {"x": {1, 2}}}),
        ("audit_metadata", {"audit_metadata": {"x": "y" * MAX_NESTED_BYTES}}),
    ],
)
def test_bad_values_are_refused_by_name(field: str, changes: dict[str, Any]) -> None:
    assert refused_field(**changes) == field


@pytest.mark.parametrize("value", [[1], None, "x", 7])
def test_what_is_no_mapping_is_refused_as_such(value: object) -> None:
    with pytest.raises(InvalidContextError, match="agent_context must be a mapping, not"):
        make(agent_context=value)


@pytest.mark.parametrize("name", [field.name for field in fields(UserExecutionContext)])
def test_tampering_is_caught_by_the_next_layer(name: str) -> None:
    context = make(agent_context={"a": 1})
    assert validate_user_context(context) is context
    object.__setattr__(context, name, {"user_id": "bob"} if name in ("agent_context", "audit_metadata") else 17)
    with pytest.raises(InvalidContextError) as caught:
        validate_user_context(context)
    assert caught.value.errors[0]["field"] == name


@pytest.mark.parametrize("value", [None, "alice", {"user_id": "alice"}, object()])
def test_only_a_context_is_a_context(value: object) -> None:
    with pytest.raises(InvalidContextError, match="context must be a UserExecutionContext"):
        validate_user_context(value)


@given(user_id=user_ids, agent_context=json_objects, audit_metadata=json_objects, child=st.booleans())
def test_json_round_trip(
    user_id: str, agent_context: dict[str, Any], audit_metadata: dict[str, Any], *, child: bool
) -> None:
    context = make(user_id=user_id, agent_context=agent_context, audit_metadata=audit_metadata)
    if child:
        context = context.create_child_context("step", {"more": [agent_context]})
    text = json.dumps(context.to_dict())
    assert UserExecutionContext.from_dict(json.loads(text)) == context
    assert json.loads(text)["audit_metadata"] == audit_metadata


def test_a_time_in_another_zone_survives_the_round_trip() -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    assert UserExecutionContext.from_dict(make(created_at=moment).to_dict()).created_at - moment == timedelta(0)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("v", {"v": 2}),
        ("v", {"v": None}),
        ("extra", {"extra": 1}),
        ("created_at", {"created_at": "yesterday"}),
        ("created_at", {"created_at": 5}),
        ("user_id", {"user_id": "system"}),
        ("user_id", {"user_id": "alice/limits"}),
        ("agent_context", {"agent_context": {"a": ["\0"]}}),
        ("audit_metadata", {"audit_metadata": {"a\0": 1}}),
    ],
)
def test_from_dict_refuses_by_name(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidContextError) as caught:
        UserExecutionContext.from_dict(make().to_dict() | change)
    assert caught.value.errors[0]["field"] == field


@pytest.mark.parametrize("name", [field.name for field in fields(UserExecutionContext)])
def test_from_dict_misses_every_field(name: str) -> None:
    data = make().to_dict()
    del data[name]
    with pytest.raises(InvalidContextError) as caught:
        UserExecutionContext.from_dict(data)
    assert caught.value.errors[0]["field"] == name


@given(json_values)
def test_from_dict_refuses_any_other_json(value: Any) -> None:
    with pytest.raises(InvalidContextError):
        UserExecutionContext.from_dict(value)


@given(user_ids)
def test_a_user_id_is_kept_as_it_is(user_id: str) -> None:
    assert check_user_id(user_id) == user_id


@pytest.mark.parametrize("ending", ["limits", "grants", "revoke", "deletion"])
def test_no_user_is_called_like_a_call_about_a_user(ending: str) -> None:
    with pytest.raises(InvalidContextError, match=f"'/{ending}', which is reserved") as caught:
        check_user_id(f"mallory/{ending}")
    reason = f"ends in '/{ending}', which is reserved"
    assert caught.value.errors == [{"field": "user_id", "message": reason}]
    assert check_user_id(f"{ending}/{ending}s")


@pytest.mark.parametrize("user_id", [None, 7, "", "System", " alice", "x" * (MAX_ID_LENGTH + 1), "a\nb"])
def test_what_cannot_own_anything_is_no_user_id(user_id: Any) -> None:
    with pytest.raises(InvalidContextError) as caught:
        check_user_id(user_id)
    assert caught.value.errors[0]["field"] == "user_id"
