"""A language model's endpoint for tests: real HTTP on loopback, the OpenAI chat protocol, answers as scripted."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures" / "model"
NAME = "tiny-model"
KEY = "canary-model-key-8f3b1c77"
PATIENCE_S = 10.0


class Exchange:
    """One request, and the way to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self._handler = handler
        self.body = body
        self.headers = handler.headers
        self._begun = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What the model was told."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """Answers at once."""
        self._handler.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        for name, value in headers.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def begin(self) -> None:
        """Begins a stream."""
        self._begun = True
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def send(self, raw: bytes) -> None:
        """Sends a part of the stream as it is."""
        if not self._begun:
            self.begin()
        self._handler.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self._handler.wfile.flush()

    def say(self, *pieces: Any) -> None:
        """Sends pieces of the protocol; text is a delta of content."""
        for piece in pieces:
            self.send(event(delta(content=piece) if isinstance(piece, str) else piece))

    def end(self) -> None:
        """Ends the stream in order."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Breaks the connection."""
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def wait_until_closed(self, timeout_s: float = PATIENCE_S) -> float:
        """Waits until the client closes the connection and returns when that was."""
        ready, _, _ = select.select([self._handler.connection], [], [], timeout_s)
        assert ready, "the client keeps the connection"
        assert self._handler.connection.recv(1, socket.MSG_PEEK) == b""
        return time.monotonic()


Script = Callable[[Exchange], None]


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1760000000, "model": NAME,
        "choices": [{"index": 0, "delta": fields, "finish_reason": finish}],
    }  # fmt: skip


def usage(prompt: Any, completion: Any) -> dict[str, Any]:
    counted = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1760000000, "model": NAME, "choices": [],
            "usage": counted}  # fmt: skip


def call(name: str, arguments: Any, *, index: int | None = 0, call_id: str | None = "call_a") -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def says(*pieces: Any, finish: str | None = "stop", counted: tuple[Any, Any] | None = (10, 5)) -> Script:
    """Streams text and other pieces."""

    def script(exchange: Exchange) -> None:
        exchange.say(*pieces)
        if finish is not None:
            exchange.say(delta(finish))
        if counted is not None:
            exchange.say(usage(*counted))
        exchange.send(b"data: [DONE]\n\n")
        exchange.end()

    return script


def calls(*tool_calls: dict[str, Any], counted: tuple[Any, Any] | None = (10, 5)) -> Script:
    """Calls tools, each in one piece."""
    numbered = [{**item, "index": number} if item["index"] == 0 else item for number, item in enumerate(tool_calls)]
    return says(*(delta(tool_calls=[item]) for item in numbered), finish="tool_calls", counted=counted)


def plays(name: str) -> Script:
    """Sends a recorded stream, event by event."""

    def script(exchange: Exchange) -> None:
        for part in (FIXTURES / name).read_bytes().replace(b"\r\n", b"\n").split(b"\n\n"):
            if part.strip():
                exchange.send(part + b"\n\n")
        exchange.end()

    return script


def fails(status: int, name: str | None = None, **headers: str) -> Script:
    """Answers with a status and a recorded body."""
    body = (FIXTURES / name).read_bytes() if name else b'{"error": {"message": "no"}}'
    return lambda exchange: exchange.answer(status, body, **headers)


@dataclass
class ModelServer:
    """What is scripted, and what came in. The last answer is given again and again."""

    url: str = ""
    scripts: list[Script] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def will(self, *scripts: Script) -> None:
        """Sets the answers."""
        self.scripts[:] = scripts
        self.requests.clear()
        self.at.clear()

    def play(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.requests.append(body)
        self.keys.append(handler.headers.get("Authorization"))
        self.at.append(time.monotonic())
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        try:
            script(Exchange(handler, body))
        except OSError:  # the client has gone: what it thinks of that is the test's question
            handler.close_connection = True
        except BaseException as error:  # noqa: BLE001 - raised where the test ends
            self.failures.append(error)
            handler.close_connection = True

    def told(self, request: int = -1, role: str = "tool") -> list[Any]:
        """The contents of the messages of one role in a request."""
        return [message["content"] for message in self.requests[request]["messages"] if message["role"] == role]


@contextmanager
def serving() -> Iterator[ModelServer]:
    """Runs an endpoint on a free port; what its scripts asserted in vain is raised at the end."""
    model = ModelServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            if self.path == "/v1/chat/completions":
                model.play(self)
            else:
                self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    for failure in model.failures:
        raise failure


def environment(model: ModelServer, **further: str) -> dict[str, str]:
    """What a worker has in its environment to use it."""
    return {"LANEWISE_MODEL": NAME, "LANEWISE_MODEL_URL": model.url, "OPENAI_API_KEY": KEY} | further
