"""`fetch` in a real sandbox: the settings reach it, and so does the grant, and nothing else opens it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.outcomes import Completed
from tests.sandboxes import Attempt, a_zygote
from tests.web import Web, serving
from worker.zygote_client import ZygoteClient

HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def zygote(web: Web) -> Iterator[ZygoteClient]:
    """Sandboxes that may fetch from the server."""
    ports = str(web.port)
    with a_zygote("tests.agents_tools", LANEWISE_FETCH_NETWORKS=HERE, LANEWISE_FETCH_PORTS=ports) as running:
        yield running


def surf(
    zygote: ZygoteClient, web: Web, host: str = HERE, granted: tuple[str, ...] = ("fetch",)
) -> tuple[Attempt, object]:
    attempt = Attempt(zygote, "surfer", {"url": f"http://{host}:{web.port}/"}, granted=granted)
    outcome = attempt.outcome()
    assert isinstance(outcome, Completed), outcome
    return attempt, outcome.output


def test_a_page_comes_from_where_the_settings_allow_it_and_from_nowhere_else(zygote: ZygoteClient, web: Web) -> None:
    _, output = surf(zygote, web)
    assert isinstance(output, dict)
    assert (output["status"], output["text"]) == (200, "hello")
    attempt, output = surf(zygote, web, "127.0.0.2")
    assert isinstance(output, dict)
    assert output["type"] == "refused"
    assert "tool_failed" in attempt.kinds


def test_without_the_grant_it_is_denied(zygote: ZygoteClient, web: Web) -> None:
    before = web.connections
    attempt, output = surf(zygote, web, granted=("search",))
    assert isinstance(output, dict)
    assert output["type"] == "not_granted"
    assert [kind for kind in attempt.kinds if kind.startswith("tool_")] == ["tool_denied"]
    assert web.connections == before
