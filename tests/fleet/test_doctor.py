"""`lanewise doctor` as an operator types it, beside a fleet at work."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lanewise.running import FILE
from tests.fleet.fleet import Fleet


def doctor(*options: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lanewise.cli", "doctor", *options]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LANEWISE_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env={**environ, **env}
    )


@pytest.fixture
def forgetful(fleet: Fleet) -> Iterator[None]:
    fleet.admin_redis().config_set("maxmemory-policy", "allkeys-lru")
    yield
    fleet.admin_redis().config_set("maxmemory-policy", "noeviction")


def test_a_fleet_at_work_is_well(fleet: Fleet, user: str) -> None:
    run = fleet.submit(user, "hold")
    fleet.event(user, run["id"], "agent_started")
    # What the caller's own environment says is of another fleet.
    done = doctor("--data-dir", str(fleet.data_dir), "--json", LANEWISE_LEASE_S="200")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found = {item["check"]: item for item in map(json.loads, done.stdout.splitlines())}
    assert found["slots"]["status"] == found["leader"]["status"] == "ok"
    assert "lease 3 s" in found["settings"]["detail"]
    fleet.http(user).post(f"/v1/runs/{run['id']}/cancel")


@pytest.mark.usefixtures("forgetful")
def test_a_fault_is_told_with_its_cure_and_exit_code_1(fleet: Fleet) -> None:
    done = doctor("--data-dir", str(fleet.data_dir))
    assert (done.returncode, done.stderr) == (1, "")
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert [line.split()[1] for line in failed] == ["redis", "broker"]
    assert "set maxmemory-policy noeviction" in done.stdout


def test_a_slot_that_stays_is_told(fleet: Fleet, user: str) -> None:
    key = fleet.services.keys.slots(user)
    fleet.services.redis.zadd(key, {"gone:1": time.time() + 60})
    try:
        done = doctor("--data-dir", str(fleet.data_dir), "--json")
    finally:
        fleet.services.redis.delete(key)
    failed = [item for item in map(json.loads, done.stdout.splitlines()) if item["status"] == "failed"]
    assert [(item["check"], item["detail"]) for item in failed] == [("slots", "1 held by no live run: gone:1")]
    assert done.returncode == 1


def test_from_the_environment_as_a_worker_has_it(fleet: Fleet) -> None:
    settings = json.loads((fleet.data_dir / FILE).read_text())
    done = doctor(**settings)
    assert done.returncode == 0, done.stdout
    secrets = [value for name, value in settings.items() if "KEY" in name or "URL" in name]
    assert not [secret for secret in secrets if secret in done.stdout]


def test_the_settings_of_a_running_fleet_are_its_owners(fleet: Fleet) -> None:
    assert stat.S_IMODE((fleet.data_dir / FILE).stat().st_mode) == 0o600


def test_where_nothing_runs_it_says_so(tmp_path: Path) -> None:
    done = doctor(cwd=tmp_path)
    assert done.returncode == 2
    assert "no `lanewise up` runs in .lanewise" in done.stderr
