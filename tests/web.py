"""A web server that says exactly what a test wants, byte by byte, over plain TCP or TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

WAIT_S = 20.0  # so long only if something hangs

Say = Callable[[socket.socket], None]


@dataclass
class Web:
    """The server, and what it was asked.

    Args:
        heads: of the requests, in order.
        gone: set once a client has closed its connection in the middle of an answer.
    """

    port: int
    answers: list[bytes | Say]
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    gone: threading.Event = field(default_factory=threading.Event)

    def serve(self, connection: socket.socket) -> None:
        """Answers one request, the last answer again and again."""
        self.connections += 1
        with suppress(OSError), connection:
            connection.settimeout(WAIT_S)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := connection.recv(65_536)):
                    return
                head += part
            self.heads.append(head.decode())
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            try:
                answer(connection) if callable(answer) else connection.sendall(answer)
            except OSError:
                self.gone.set()


def page(body: bytes = b"hello", kind: str = "text/plain", *headers: str, status: str = "200 OK") -> bytes:
    """Returns an answer with a body."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, *([f"Content-Type: {kind}"] if kind else []), "", ""]).encode() + body


def redirect(url: str, status: str = "302 Found") -> bytes:
    """Returns an answer that leads elsewhere."""
    return f"HTTP/1.1 {status}\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()


@contextmanager
def serving(
    *answers: bytes | Say, address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Web]:
    """Runs a server; each connection gets one answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as listener:
        web = Web(listener.getsockname()[1], list(answers or [page()]))
        threads: list[threading.Thread] = []

        def welcome(connection: socket.socket) -> None:
            with suppress(OSError):  # a client that does not trust us hangs up in the handshake
                web.serve(tls.wrap_socket(connection, server_side=True) if tls else connection)
            connection.close()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=welcome, args=(connection,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield web
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(WAIT_S)
                assert not thread.is_alive()


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Returns a server's TLS with a certificate for some hosts, and the file that makes a client trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "trusted.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return context, trusted


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
