from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.logs import REMOVED, redact

ROOT = Path(__file__).parents[2]
CANARY = "canary5d1f0c"
USER = "alice.the.user@example.org"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


def run(code: str) -> str:
    """Returns what a fresh interpreter wrote to stderr; nothing may go to stdout."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == ""
    return result.stderr


@pytest.mark.parametrize(
    "event",
    [
        {"password": CANARY},
        {"secret_key": CANARY},
        {"LANEWISE_SECRET_KEY": [CANARY]},
        {"api_key": CANARY},
        {"Authorization": f"Basic {CANARY}"},
        {"set_cookie": CANARY},
        {"ticket": CANARY},
        {"error": f"cannot reach redis://:{CANARY}@127.0.0.1:6379/0"},
        {"error": f"postgresql+psycopg2://user:{CANARY}@db/x and redis://u:{CANARY}@r/0"},
        {"event": f"GET / with Bearer {CANARY}"},
        {"event": f"bad token {JWT}"},
        {"headers": {"authorization": CANARY, "inner": [{"cookie": CANARY}]}},
        {"args": ["redis://:" + CANARY + "@h/0", ("x", f"bearer {CANARY}")]},
        {"error": ValueError(f"redis://:{CANARY}@h/0")},
        {"exception": f"Traceback\n  redis.from_url('redis://:{CANARY}@h/0')\nValueError: {JWT}"},
    ],
)
def test_secrets_are_removed_by_name_and_by_form(event: dict[str, Any]) -> None:
    text = json.dumps(redact(None, "info", dict(event)))
    assert CANARY not in text
    assert JWT not in text
    assert REMOVED in text


@pytest.mark.parametrize(
    "event", [{"user_id": USER}, {"context": {"user_id": USER}}, {"runs": [{"user_id": USER}]}, {"user_id": [USER]}]
)
def test_user_ids_are_shortened_at_any_depth(event: dict[str, Any]) -> None:
    text = json.dumps(redact(None, "info", event))
    assert USER not in text
    assert "ali" in text


def test_what_is_no_secret_stays() -> None:
    event = {"event": "http://127.0.0.1:8000/v1/runs answered", "status": 200, "run_id": "r", "none": None, "f": [1.5]}
    assert redact(None, "info", dict(event)) == event


def test_configure_writes_json_lines_with_everything_redacted() -> None:
    lines = [
        json.loads(line)
        for line in run(f"""
import logging, structlog
from shared.logs import configure
before = structlog.get_logger("made.before")
configure("INFO", "worker")
structlog.contextvars.bind_contextvars(run_id="r-1", correlation_id="c-1")
before.info("claimed", user_id={USER!r}, token={CANARY!r})
structlog.get_logger("x").debug("not shown")
logging.getLogger("some.library").warning("lost %s", "redis://:{CANARY}@h/0")
logging.getLogger("celery").info("not shown")
try:
    raise ValueError("Bearer {CANARY}")
except ValueError:
    structlog.get_logger("x").exception("it broke", detail={{"password": {CANARY!r}}}, thing=object)
""").splitlines()
    ]
    assert [line["event"] for line in lines] == ["claimed", f"lost redis://{REMOVED}@h/0", "it broke"]
    for line in lines:
        assert (line["process"], line["run_id"], line["correlation_id"]) == ("worker", "r-1", "c-1")
        assert line["timestamp"].endswith("Z")
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert "ValueError" in lines[2]["exception"]
    assert CANARY not in json.dumps(lines)
    assert USER not in json.dumps(lines)


def test_importing_shared_does_nothing_but_define() -> None:
    """No thread, no socket, no handler, no settings read: what a process does, it does when it is told to."""
    code = """
import logging, os, pkgutil, importlib, socket, sys, threading
os.environ["LANEWISE_NONSENSE"] = "1"
def refuse(*args, **kwargs): raise AssertionError("a socket was opened at import")
socket.socket.connect = refuse
import shared
for module in pkgutil.walk_packages(shared.__path__, "shared."):
    if not module.name.startswith("shared.migrations."):
        importlib.import_module(module.name)
import structlog
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert logging.getLogger().handlers == [], logging.getLogger().handlers
assert not structlog.is_configured()
from shared.settings import get_settings
assert get_settings.cache_info().currsize == 0
"""
    assert run(code) == ""
