"""An honest MCP server over standard streams, without a library, so that it starts at once: `python plain.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


INHERITED = [str(number) for number in range(1024) if is_open(number)]  # a program has no /proc of its own here
WRITING = threading.Lock()
TEXT: dict[str, Any] = {"type": "string"}
WHOLE: dict[str, Any] = {"type": "integer"}
Tool = Callable[..., Any]
TOOLS: dict[str, tuple[Tool, dict[str, Any]]] = {}
remembered: list[str] = []


def tool(**properties: dict[str, Any]) -> Callable[[Tool], Tool]:
    """Lists a function as a tool with these parameters, all of them required."""

    def add(function: Tool) -> Tool:
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        TOOLS[function.__name__] = function, schema
        return function

    return add


@tool(text=TEXT)
def echo(text: str) -> str:
    """Returns the text."""
    return text


@tool(a=WHOLE, b=WHOLE)
def add(a: int, b: int) -> int:
    """Adds two whole numbers."""
    return a + b


@tool()
def whoami() -> dict[str, Any]:
    """Says what this process is and sees."""
    return {"pid": os.getpid(), "cwd": os.getcwd(), "env": dict(os.environ), "descriptors": INHERITED}  # noqa: PTH109


@tool(text=TEXT)
def remember(text: str) -> list[str]:
    """Keeps a text and returns all that were kept."""
    remembered.append(text)
    return remembered


@tool(seconds={"type": "number"})
def sleep(seconds: float) -> str:
    """Waits."""
    time.sleep(seconds)
    return "slept"


@tool(size=WHOLE)
def huge(size: int) -> str:
    """Returns so many characters."""
    return "x" * size


@tool(words=TEXT)
def fail(words: str) -> str:
    """Fails."""
    raise ValueError(words)


@tool()
def die() -> None:
    """Ends the server."""
    os._exit(3)


@tool()
def spawn() -> int:
    """Starts a process that outlives its parent if it can; returns its pid."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid  # noqa: S607


@tool()
def grow() -> str:
    """Adds a tool that was not listed, and takes one away."""
    tool()(grown)
    del TOOLS["add"]
    return "grown"


def grown() -> str:
    """Was not there."""
    return "new"


def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if name not in TOOLS:
        return {"content": [{"type": "text", "text": f"Unknown tool: {name}"}], "isError": True}
    try:
        value = TOOLS[name][0](**arguments)
    except ValueError as error:
        return {"content": [{"type": "text", "text": str(error)}], "isError": True}
    text = value if isinstance(value, str) else json.dumps(value)
    structured = value if isinstance(value, dict) else {"result": value}
    return {"content": [{"type": "text", "text": text}], "structuredContent": structured}


def answer(request: dict[str, Any]) -> None:
    """Answers one request; one that is only a notification needs no answer."""
    given = request.get("params") or {}
    result: dict[str, Any]
    match request["method"]:
        case "initialize":
            info = {"name": "plain", "version": "1"}
            result = {"protocolVersion": given["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            listed = [
                {"name": name, "description": function.__doc__, "inputSchema": schema}
                for name, (function, schema) in TOOLS.items()
            ]
            result = {"tools": listed}
        case "tools/call":
            result = called(given["name"], given.get("arguments") or {})
        case _:
            say({"id": request["id"], "error": {"code": -32601, "message": "Method not found"}})
            return
    say({"id": request["id"], "result": result})


def say(message: dict[str, Any]) -> None:
    with WRITING:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    for line in sys.stdin:
        told = json.loads(line)
        if "id" in told:  # each in a thread of its own: calls at once are answered at once
            threading.Thread(target=answer, args=(told,), daemon=True).start()
