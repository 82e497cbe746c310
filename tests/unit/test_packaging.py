"""Compose file, Dockerfile and Procfile against the code that they start; there is no container engine in the tests."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from lanewise.redis_acl import USERS, acl_lines
from shared.settings import COMMAND_NAMES, PREFIX, Settings

ROOT = Path(__file__).parents[2]
OURS = ("migrate", "api", "worker", "flower")
WORKER = [
    "celery",
    "-A",
    "worker",
    "worker",
    "-P",
    "threads",
    "-c",
    "8",
    "-l",
    "WARNING",
    "--without-mingle",
    "--without-gossip",
]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return composed


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def test_every_variable_is_a_setting(services: dict[str, Any]) -> None:
    known = {PREFIX + name for name in COMMAND_NAMES} | {PREFIX + name.upper() for name in Settings.model_fields}
    for name in OURS:
        ours = {variable for variable in services[name]["environment"] if variable.startswith(PREFIX)}
        assert ours <= known
        required = {PREFIX + key.upper() for key, field in Settings.model_fields.items() if field.is_required()}
        assert required <= ours


def test_only_migrate_holds_the_owners_password(services: dict[str, Any]) -> None:
    holders = {name for name, service in services.items() if "POSTGRES_PASSWORD" in str(service["environment"])}
    assert holders == {"postgres", "migrate"}


def test_secrets_come_from_the_environment_and_are_missed_when_unset() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"(?<!\$)\$\{(\w*(?:PASSWORD|SECRET)\w*)", text))
    assert used == set(re.findall(r"(?<!\$)\$\{(\w*(?:PASSWORD|SECRET)\w*):\?", text))
    assert len(used) == 8
    for name in used:
        assert re.search(rf"^#.*\b{name}\b", text, re.MULTILINE), f"the header does not say that {name} is needed"


def test_a_worker_has_time_to_drain(services: dict[str, Any]) -> None:
    drain_s = float(services["worker"]["environment"]["LANEWISE_DRAIN_S"])
    for name in ("api", "worker"):
        assert seconds(services[name]["stop_grace_period"]) >= drain_s + 10


def test_redis_refuses_instead_of_evicting_keeps_a_log_and_shows_no_password(services: dict[str, Any]) -> None:
    command = services["redis"]["command"][-1]
    for setting in ("maxmemory-policy noeviction", "appendonly yes"):
        assert setting in command
    assert "${" not in command  # Compose would put the passwords into the arguments


def test_redis_has_the_users_that_the_embedded_one_has(services: dict[str, Any]) -> None:
    version = tuple(map(int, re.findall(r"\d+", services["redis"]["image"])))
    passwords = {user: f">$$REDIS_{user.upper()}_PASSWORD" for user in USERS}
    lines = services["redis"]["command"][-1].replace("\\\n", "").splitlines()
    assert [line for line in lines if line.startswith("user ")] == acl_lines("default", passwords, version)


def test_each_process_has_the_password_of_its_own_user_only(services: dict[str, Any]) -> None:
    given = {
        name: set(re.findall(r"REDIS_\w+_PASSWORD", str(service["environment"]))) for name, service in services.items()
    }
    api, worker, broker = (f"REDIS_{user.upper()}_PASSWORD" for user in USERS)
    assert given == {
        "postgres": set(), "migrate": {broker}, "flower": {broker}, "api": {api, broker}, "worker": {worker, broker},
        "redis": {api, worker, broker},
    }  # fmt: skip
    for name in ("api", "worker"):
        assert f"redis://{name}:" in services[name]["environment"]["LANEWISE_REDIS_URL"]


def test_everything_has_a_health_check_but_what_ends(services: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "HEALTHCHECK" in dockerfile
    for name in ("postgres", "redis", "worker", "flower"):
        assert services[name]["healthcheck"]["test"]
    assert services["migrate"]["healthcheck"] == {"disable": True}


def test_flower_is_published_on_loopback_only_with_a_password(services: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in services["flower"]["ports"])
    assert services["flower"]["environment"]["FLOWER_READ_ONLY"] == "true"
    assert "FLOWER_BASIC_AUTH" in services["flower"]["environment"]


def test_two_apis_and_workers_that_scale(services: dict[str, Any]) -> None:
    assert services["api"]["deploy"]["replicas"] == 2
    assert "8000-8001" in services["api"]["ports"][0]
    assert "container_name" not in services["worker"]
    assert "ports" not in services["worker"]


def test_the_same_commands_everywhere(services: dict[str, Any]) -> None:
    procfile = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert services["worker"]["command"] == shlex.split(procfile["worker"]) == WORKER
    assert services["migrate"]["command"] == shlex.split(procfile["release"])
    (image,) = re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert yaml.safe_load(image) == shlex.split(procfile["web"].replace("${PORT:-8000}", "8000"))


def test_the_image_runs_as_nobody_special_and_from_pinned_versions() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert dockerfile.rindex("\nUSER lanewise\n") < dockerfile.rindex("\nCMD ")
    assert "--constraint constraints.txt" in dockerfile
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        assert all(f"!{name}" in ignored and (ROOT / name).exists() for name in source.split())
