"""MCP servers that are not as they should be, without a library: `python odd.py KIND [URL]`."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from typing import Any

OBJECT: dict[str, Any] = {"type": "object"}
DEEP: dict[str, Any] = functools.reduce(lambda inner, _: {"not": inner}, range(30), OBJECT)
STRANGE_TOOLS: list[dict[str, Any]] = [
    {"name": "good", "description": "first", "inputSchema": OBJECT},
    {"name": "good", "description": "second", "inputSchema": OBJECT},
    {"name": "with.dot", "inputSchema": OBJECT},
    {"name": "x" * 64, "inputSchema": OBJECT},
    {"name": "unsound", "inputSchema": {"type": "object", "properties": {"a": {"type": "nonsense"}}}},
    {"name": "wide", "inputSchema": {"type": "object", "description": "x" * 100_000}},
    {"name": "deep", "inputSchema": {"type": "object", "not": DEEP}},
    {
        "name": "elsewhere",
        "description": "d" * 10_000,
        "inputSchema": {"type": "object", "properties": {"a": {"$ref": f"{sys.argv[-1]}/schema"}}},
    },
]


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def initialize(request: dict[str, Any]) -> None:
    version = request["params"]["protocolVersion"]
    info = {"name": "odd", "version": "1"}
    say(
        {"id": request["id"], "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}}
    )


def serve(tools: list[dict[str, Any]], before: str = "", pages: int = 1) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(before)
        match request.get("method"):
            case "initialize":
                initialize(request)
            case "tools/list":
                page = int((request.get("params") or {}).get("cursor") or 0)
                cursor = {"nextCursor": str(page + 1)} if page + 1 < pages else {}
                numbered = [{**tool, "name": f"{tool['name']}{page or ''}"} for tool in tools]
                say({"id": request["id"], "result": {"tools": numbered, **cursor}})
            case "tools/call" if request["params"]["name"] == "nonsense":
                say({"id": request["id"], "result": {"content": "no list"}})
            case "tools/call":
                say({"id": request["id"], "result": {"content": [{"type": "text", "text": "ok"}]}})
            case _ if "id" in request:
                say({"id": request["id"], "error": {"code": -32601, "message": "Method not found"}})


def main(kind: str) -> None:
    match kind:
        case "exits":
            sys.exit(1)
        case "silent":
            sys.stdin.read()
        case "babbles":  # without end, and nothing of it is the protocol
            while True:
                sys.stdout.write("junk " * 100 + "\n")
                sys.stdout.flush()
                time.sleep(0.01)
        case "dirty":
            serve([{"name": "good", "inputSchema": OBJECT}, {"name": "nonsense", "inputSchema": OBJECT}],
                  before="a line of a log\n{}\n\x00\xff\n")  # fmt: skip
        case "strange":
            serve(STRANGE_TOOLS)
        case "endless":
            serve([{"name": f"t{number}_", "inputSchema": OBJECT} for number in range(50)], pages=10**6)
        case "stubborn":  # neither the end of its input nor a signal ends it, and it has a child that is the same
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, __file__, "deaf"], start_new_session=True)
            serve([{"name": f"child_{child.pid}", "inputSchema": OBJECT}])
            time.sleep(600)
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
