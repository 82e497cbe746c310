"""The one validated settings object, read from `LANEWISE_*` environment variables.

A name that is not a setting stops the start with its nearest match, so that a typing error is never a silent default.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import cached_property, lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import ConfigurationError
from shared.signing import derive_key

PREFIX = "LANEWISE_"
COMMAND_NAMES = frozenset(
    {"URL", "TOKEN", "OWNER_DATABASE_URL", "UP_REDIS_URL", "UP_DATABASE_URL"}
)  # read by commands, not by the fleet
_POSTGRES_URL = re.compile(r"postgres(ql)?(\+psycopg2)?://\S+")
_HTTP_URL = re.compile(r"https?://[^\s/@]+(/\S*)?")
_REDIS_URL = re.compile(r"rediss?://[^\s/]*(/\d*)?(\?\S*)?")

Csv = Annotated[tuple[str, ...], NoDecode]
SecretCsv = Annotated[tuple[SecretStr, ...], NoDecode]


class Settings(BaseSettings):
    """Every setting of api and worker. Durations are seconds, sizes bytes unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: SecretStr = Field(description="Postgres, as the service role (api and runner)")
    run_database_url: SecretStr | None = Field(None, description="Postgres, as the role of the sandboxes")
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="slots and events")
    broker_url: SecretStr | None = Field(None, description="Celery's broker; default: REDIS_URL's next database number")
    secret_key: SecretCsv = Field(description="newest first; the first signs, all verify; 32 characters or more")
    jwt_secret: SecretCsv = Field((), description="HS256 keys for bearer tokens; default: derived from SECRET_KEY")
    jwt_jwks_file: Path | None = Field(None, description="a JWK set: RS256, ES256 and EdDSA tokens instead of HS256")
    jwt_audience: str = "lanewise"
    jwt_issuer: str = "lanewise"
    allowed_origins: Csv = Field((), description="origins of browser pages that may open a WebSocket")
    deployment: str = Field("default", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="names all keys in Redis")
    agents: Csv = Field((), description="package.module or package.module:Class, besides the installed entry points")
    mcp_file: Path | None = Field(None, description="JSON: the MCP servers whose tools are mounted, see tools.md")
    queues: Csv = Field(("default",), description="the queues that a worker serves")
    user_concurrent_runs: int = Field(3, ge=1, le=10_000)
    user_queued_runs: int = Field(10_000, ge=1)
    user_submissions_per_s: int = Field(200, ge=1, le=100_000)
    user_submission_burst: int = Field(3000, ge=1, le=1_000_000, description="submissions at once, above that rate")
    user_documents_mb: int = Field(1024, ge=1, description="of documents that a user may have, in MiB")
    lease_s: float = Field(15, ge=1, le=300)
    sweep_s: float = Field(2, ge=0.1, le=60, description="between two ticks of the leader")
    drain_s: float = Field(30, ge=0, le=3600)
    cancel_grace_s: float = Field(5, ge=0.1, le=300)
    run_time_limit_s: float = Field(
        3600, gt=0, le=7 * 86_400, description="the most that an agent or a call may ask for"
    )
    retention_days: float = Field(30, gt=0)
    audit_retention_days: float = Field(365, gt=0, le=36_500)
    audit_keys: SecretCsv = Field((), description="retired SECRET_KEYs: they verify the audit trail and nothing else")
    sandbox_env: Csv = Field((), description="names of environment variables that are passed into sandboxes")
    sandbox_readable: Csv = Field((), description="paths that sandboxes may read, besides programs and code")
    sandbox_closed: Csv = Field((), description="paths that sandboxes may not read, even below others that they may")
    sandbox_writable: Csv = Field((), description="paths that sandboxes may write to, besides their own folder")
    model: str | None = Field(None, description="the language model that agents may use, as its endpoint knows it")
    model_url: str | None = Field(None, description="an OpenAI-compatible endpoint, up to /v1; unset: OpenAI's own")
    model_timeout_s: float = Field(120, gt=0, le=3600, description="for one answer of the model")
    model_silence_s: float = Field(30, gt=0, le=3600, description="without a sign of the model")
    fetch_networks: Csv = Field((), description="inside networks that `fetch` may reach all the same, see security.md")
    fetch_ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65_535)], ...], NoDecode] = Field(
        (80, 443), min_length=1, description="the ports that `fetch` may ask"
    )
    trusted_proxies: Csv = Field((), description="addresses whose X-Forwarded-… is believed; unset: loopback")
    gateway_sockets: int = Field(15_000, ge=1, le=1_000_000, description="WebSockets and SSE streams of an api process")
    address_sockets: int | None = Field(None, ge=1, description="those of one client address; unset: not limited")
    sandbox_memory_mb: int = Field(1024, ge=64)
    metrics_port: int | None = Field(None, ge=0, le=65_535, description="a worker's /metrics on loopback; unset: none")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @field_validator(
        "secret_key",
        "jwt_secret",
        "audit_keys",
        "allowed_origins",
        "agents",
        "queues",
        "sandbox_env",
        "sandbox_readable",
        "sandbox_closed",
        "sandbox_writable",
        "fetch_networks",
        "fetch_ports",
        "trusted_proxies",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("secret_key", "jwt_secret", "audit_keys")
    @classmethod
    def _long_enough(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < 32 for secret in value):  # noqa: PLR2004 - 256 bits as the weakest hex
            raise ValueError("each key needs 32 characters or more")
        return value

    @field_validator("database_url", "run_database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _POSTGRES_URL.fullmatch(value.get_secret_value()):
            raise ValueError("must be a postgresql:// URL")
        return value

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _REDIS_URL.fullmatch(value.get_secret_value()):
            raise ValueError("must be a redis:// or rediss:// URL with a database number as its path")
        return value

    @field_validator("model_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value and not _HTTP_URL.fullmatch(value):
            raise ValueError("must be an http:// or https:// URL without a user")
        return value

    @field_validator("trusted_proxies", "fetch_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ip_network(address, strict=False)
        return value

    @model_validator(mode="after")
    def _has_secret(self) -> Self:
        if not self.secret_key:
            raise ValueError("LANEWISE_SECRET_KEY is empty: nothing but `lanewise up` starts without a secret")
        return self

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The signing secrets in the clear, newest first."""
        return tuple(secret.get_secret_value() for secret in self.secret_key)

    @cached_property
    def audit_secrets(self) -> tuple[str, ...]:
        """The secrets that the audit trail is verified with, in the clear, newest first."""
        return (*self.secrets, *(secret.get_secret_value() for secret in self.audit_keys))

    @cached_property
    def jwt_keys(self) -> tuple[str, ...]:
        """The HS256 keys in the clear, newest first."""
        return jwt_keys(self.secrets, tuple(secret.get_secret_value() for secret in self.jwt_secret))

    @property
    def effective_broker_url(self) -> str:
        """The broker's URL, in the clear."""
        if self.broker_url is not None:
            return self.broker_url.get_secret_value()
        return next_redis_database(self.redis_url.get_secret_value())


def jwt_keys(secrets: tuple[str, ...], jwt_secrets: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Returns the HS256 keys: those given, else one derived from each signing secret."""
    return jwt_secrets or tuple(derive_key(secret, "jwt").hex() for secret in secrets)


def next_redis_database(url: str) -> str:
    """Returns the same Redis server with the database number one higher."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{int(parts.path.lstrip('/') or 0) + 1}"))


def check_names(environ: dict[str, str]) -> None:
    """Refuses an unknown `LANEWISE_*` variable.

    Raises:
        ConfigurationError: naming it and the nearest setting.
    """
    known = [name.upper() for name in Settings.model_fields] + sorted(COMMAND_NAMES)
    for variable in sorted(environ):
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
            raise ConfigurationError(f"unknown setting {variable}{hint}")


def load_settings(environ: dict[str, str] | None = None, **values: Any) -> Settings:
    """Reads and checks the settings.

    Args:
        environ: default: the process's environment (only its names are checked here).
        values: settings given in code, stronger than the environment (tests).

    Raises:
        ConfigurationError: naming each unknown, missing or malformed setting; a secret's value is never in it.
    """
    check_names(dict(os.environ) if environ is None else environ)
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = [
            f"{PREFIX}{'.'.join(map(str, item['loc'][:1])).upper()}: {item['msg']}" if item["loc"] else item["msg"]
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigurationError("; ".join(problems)) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Returns the process's settings, read once."""
    return load_settings()
