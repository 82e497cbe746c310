"""`lanewise limits` and `lanewise grants`, against a real api process."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lanewise.cli import main
from lanewise.client import Client
from lanewise.process import wait_until
from shared.ids import new_id
from tests.integration.api.conftest import Fleet

Invoke = Callable[..., Result]


@pytest.fixture
def lanewise(fleet: Fleet) -> Invoke:
    token = fleet.server.token(f"admin-{new_id()}", scopes=("admin",))

    def invoke(*arguments: str, token: str = token) -> Result:
        environment = {"LANEWISE_URL": fleet.server.url, "LANEWISE_TOKEN": token}
        return CliRunner().invoke(main, arguments, env=environment, prog_name="lanewise")

    return invoke


def lines(result: Result) -> list[Any]:
    assert result.exit_code == 0, result.output
    return [json.loads(text) for text in result.stdout.splitlines()]


def tools(result: Result) -> list[str]:
    return [item["tool"] for item in lines(result)]


def test_grants_are_added_taken_away_and_shown(lanewise: Invoke, user: str) -> None:
    assert lanewise("grants", user).stdout == "no grants\n"
    assert tools(lanewise("grants", user, "--grant", "fetch", "--grant", "search", "--json")) == ["fetch", "search"]
    assert tools(lanewise("grants", user, "--revoke", "fetch", "--grant", "mail", "--for", "60", "--json")) == [
        "mail", "search",
    ]  # fmt: skip
    mail, search = lines(lanewise("grants", user, "--json"))
    assert search["expires_at"] is None
    assert 0 < (datetime.fromisoformat(mail["expires_at"]) - datetime.now(UTC)).total_seconds() <= 60
    shown = lanewise("grants", user).stdout
    assert "search" in shown
    assert mail["expires_at"] in shown


def test_a_grant_that_ends_meanwhile_is_in_nobodys_way(
    lanewise: Invoke, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tools(lanewise("grants", user, "--grant", "brief", "--for", "1", "--json")) == ["brief"]
    read = Client.grants

    def read_and_be_slow(client: Client, user_id: str) -> list[Any]:
        items = read(client, user_id)
        end = datetime.fromisoformat(items[0]["expires_at"])
        assert wait_until(lambda: datetime.now(UTC) > end, 5)
        return items

    with monkeypatch.context() as patch:
        patch.setattr(Client, "grants", read_and_be_slow)
        assert tools(lanewise("grants", user, "--grant", "search", "--json")) == ["search"]


def test_a_grant_that_is_about_to_end_is_not_sent_back(lanewise: Invoke, user: str) -> None:
    """The clock of the api may be a little ahead."""
    assert tools(lanewise("grants", user, "--grant", "brief", "--for", "4", "--json")) == ["brief"]
    assert tools(lanewise("grants", user, "--grant", "long", "--for", "60", "--json")) == ["long"]
    assert tools(lanewise("grants", user, "--grant", "search", "--json")) == ["long", "search"]


def test_limits_are_shown_changed_and_reset(lanewise: Invoke, user: str) -> None:
    assert lanewise("limits", user).stdout.count("(as all users)") == 2
    (limits,) = lines(lanewise("limits", user, "--concurrent", "9", "--json"))
    assert (limits["concurrent_runs"], limits["queued_runs"]) == (9, None)
    (limits,) = lines(lanewise("limits", user, "--queued", "7", "--json"))
    assert (limits["concurrent_runs"], limits["queued_runs"]) == (9, 7)  # what is not named stays
    (limits,) = lines(lanewise("limits", user, "--reset", "--queued", "8", "--json"))
    assert (limits["concurrent_runs"], limits["queued_runs"]) == (None, 8)
    assert "8" in lanewise("limits", user).stdout


def test_what_is_wrong_is_said_in_a_line(lanewise: Invoke, fleet: Fleet, user: str) -> None:
    refused = lanewise("grants", user, token=fleet.server.token(user))
    assert (refused.exit_code, refused.stderr) == (3, "lanewise: the token lacks the scope 'admin'\n")
    bad = lanewise("grants", user, "--grant", "a b")
    assert bad.exit_code == 3
    assert bad.stderr.startswith("lanewise: tools.0.tool: String should match pattern")
    assert lanewise("grants", user, "--for", "5").exit_code == 2
    assert lanewise("limits", user, "--concurrent", "0").exit_code == 2
    assert lanewise("limits", "none").exit_code == 3
