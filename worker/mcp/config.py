"""The MCP servers that a deployment mounts: the JSON file that `LANEWISE_MCP_FILE` names, checked when a worker starts.

The format is the one that other programs have for their MCP servers, with a few keys of ours; see `docs/tools.md`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from shared.errors import ConfigurationError

SETTING = "LANEWISE_MCP_FILE"
SEPARATOR = "__"  # between the names of server and tool
EVERY_AGENT = "*"
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what every model takes, and what can be granted
MAX_SERVERS = 50
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Short, for 64 characters is what a tool's name may have; without two underscores in a row, which end it.
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$", max_length=32)]
_TRANSPORTS = {"stdio": "command", "http": "url", "streamable-http": "url"}


class McpServer(BaseModel):
    """One MCP server, and who gets its tools.

    Attributes:
        command: of a server that speaks over its standard streams; started anew in each sandbox that calls it.
        url: of a server that speaks streamable HTTP.
        env: further environment variables of the process; `${NAME}` is the value of a variable of the sandbox.
        headers: of each request; `${NAME}` likewise.
        agents: names of the agents that get its tools; `*`: all.
        permission: as of a `Tool`, for all of its tools.
        tools: those that are mounted, by their names at the server; None: all.
        time_limit_s: of one call, seconds.
        connect_limit_s: for starting it, connecting to it and listing its tools, seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["stdio", "http", "streamable-http"] | None = None
    command: str | None = Field(None, min_length=1)
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str | None = None
    headers: dict[str, str] = {}
    agents: tuple[str, ...] = ()
    permission: Literal["open", "granted"] = "granted"
    tools: tuple[str, ...] | None = None
    time_limit_s: float = Field(60, gt=0, le=3600)
    connect_limit_s: float = Field(20, gt=0, le=300)

    @model_validator(mode="after")
    def _one_transport(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either `command` or `url`")
        if self.type is not None and getattr(self, _TRANSPORTS[self.type]) is None:
            raise ValueError(f"a server of type {self.type!r} needs `{_TRANSPORTS[self.type]}`")
        if self.url is not None and (self.args or self.env):
            raise ValueError("`args` and `env` are for a server with a `command`")
        if self.command is not None and self.headers:
            raise ValueError("`headers` are for a server with a `url`")
        if self.url is not None and not (urlsplit(self.url).scheme in {"http", "https"} and urlsplit(self.url).netloc):
            raise ValueError("`url` must begin with http:// or https:// and name a host")
        return self

    def serves(self, agent: str) -> bool:
        """Tells whether an agent gets the tools."""
        return EVERY_AGENT in self.agents or agent in self.agents

    def secrets(self) -> Iterator[tuple[str, str]]:
        """Yields key and text of whatever may refer to the environment."""
        for key in ("env", "headers"):
            for name, text in getattr(self, key).items():
                yield f"{key}.{name}", text
        for number, text in enumerate(self.args):
            yield f"args.{number}", text
        if self.url is not None:
            yield "url", self.url


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mcpServers: dict[_Name, McpServer] = Field(max_length=MAX_SERVERS)  # noqa: N815 - its name in the format


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """Returns the text with each `${NAME}` replaced.

    Raises:
        KeyError: the environment has no such variable.
    """
    return _REFERENCE.sub(lambda found: environ[found[1]], text)


def load_servers(path: str | None, agents: Iterable[str]) -> tuple[Mapping[str, McpServer], list[str]]:
    """Returns the servers by name, none if there is no file; and notes.

    Args:
        path: of the file.
        agents: the names of this worker's agents. A server for another one is noted, not refused: the file may be that
            of a fleet whose workers have different agents.

    Raises:
        ConfigurationError: with file, key and cure.
    """
    if not path:
        return MappingProxyType({}), []
    try:
        servers = _File.model_validate_json(Path(path).read_bytes()).mcpServers
    except OSError as error:
        raise _wrong(path, "", f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _wrong(path, ".".join(map(str, first["loc"])), first["msg"]) from None
    for name, server in servers.items():
        _check_references(path, f"mcpServers.{name}", server)
    if servers and find_spec("mcp") is None:
        raise _wrong(path, "", "its servers need a library that is not installed: install lanewise[mcp]")
    known = [*sorted(agents), EVERY_AGENT]
    unknown = [(name, agent) for name, server in servers.items() for agent in server.agents if agent not in known]
    return MappingProxyType(servers), [_note(path, name, agent, known) for name, agent in unknown]


def _note(path: str, name: str, agent: str, known: list[str]) -> str:
    near = difflib.get_close_matches(agent, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return _wrong(path, f"mcpServers.{name}.agents", f"no agent of this worker is called {agent!r}{hint}").message


def _check_references(path: str, place: str, server: McpServer) -> None:
    for key, text in server.secrets():
        for variable in _REFERENCE.findall(text):
            if variable not in os.environ:
                cure = f"set {variable} for the workers and name it in LANEWISE_SANDBOX_ENV"
                raise _wrong(path, f"{place}.{key}", f"sandboxes have no variable {variable}: {cure}")


def _wrong(path: str, key: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{SETTING}: {path}: {key}{': ' if key else ''}{problem}")
