"""An MCP server of the official library: `python honest.py [stdio | PORT]`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("honest")
remembered: list[str] = []


@server.tool()
def echo(text: str) -> str:
    """Returns the text."""
    return text


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two whole numbers."""
    return a + b


@server.tool()
def whoami(context: Context) -> dict[str, Any]:
    """Says what this process is and sees."""
    request = context.request_context.request
    headers = dict(request.headers) if request is not None else {}
    return {
        "pid": os.getpid(), "parent": os.getppid(), "cwd": str(Path.cwd()), "env": dict(os.environ), "headers": headers,
        "args": sys.argv[1:],
    }  # fmt: skip


@server.tool()
def remember(text: str) -> list[str]:
    """Keeps a text and returns all that were kept."""
    remembered.append(text)
    return remembered


@server.tool()
async def sleep(seconds: float) -> str:
    """Waits."""
    await asyncio.sleep(seconds)
    return "slept"


@server.tool()
def huge(size: int) -> str:
    """Returns so many characters."""
    return "x" * size


@server.tool()
def fail(words: str) -> str:
    """Fails."""
    raise ToolError(words)


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool()
def spawn() -> int:
    """Starts a process that outlives its parent if it can; returns its pid."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True).pid


@server.tool()
def grow() -> str:
    """Adds a tool that was not listed, and takes one away."""
    server.add_tool(lambda: "new", name="grown", description="Was not there.")
    server.remove_tool("add")
    return "grown"


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].isdigit():
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
