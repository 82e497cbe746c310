"""`fetch` against real servers on loopback, opened for exactly that address. Only the world's names are faked."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import zlib
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts import DictStore, RecordingBridge, UnboundDatabase
from tests.services import a_context
from tests.web import WAIT_S, Say, certificate, page, redirect, serving
from worker.authoring import ToolError
from worker.tools.fetch import FetchTool
from worker.tools.web.door import NETWORKS, PORTS, Door, Reach, RefusedError, look_up
from worker.tools.web.page import MAX_BYTES, MAX_REDIRECTS, Page, fetch, parse
from worker.toolsystem import UserContextToolFactory

HERE = "127.0.0.1"
INSIDE = "127.0.0.2"  # another address of this machine, for which nothing is opened
PUBLIC = "93.184.216.34"


class Names:
    """A resolver with answers of the test's own; it answers each question with the next one, in the end the last."""

    def __init__(self, **answers: list[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): found for name, found in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        found = self._answers.get(host)
        if found is None:
            return await look_up(host)
        return found.pop(0) if len(found) > 1 else found[0]


def get(url: str, *ports: int, names: Names | None = None, opened: str = HERE) -> Page:
    reach = Reach((ip_network(opened),), frozenset(ports))
    return asyncio.run(fetch(url, Door(reach, names or look_up)))


class Lines(httpcore.AsyncNetworkBackend):
    """A network in which nobody answers, and which remembers who was called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def connect_tcp(self, host: str, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        self.called.append(host)
        raise httpcore.ConnectError("nobody")


def called(host: str, *addresses: str, reach: Reach | None = None) -> list[str]:
    """The addresses that are connected to for a host that has these."""
    lines = Lines()

    async def resolve(_: str) -> Sequence[str]:
        return addresses

    with pytest.raises((RefusedError, httpcore.ConnectError)) as caught:
        asyncio.run(Door(reach or Reach(), resolve, lines).connect_tcp(host, 443))
    assert bool(lines.called) != isinstance(caught.value, RefusedError)
    return lines.called


# What is fetched


def test_a_page_of_html_becomes_what_a_reader_sees() -> None:
    html = b"<html><head><title>A page</title></head><body><h1>One</h1><script>no()</script><p>two &amp; three</p>"
    with serving(page(html, "text/html; charset=utf-8")) as web:
        found = get(f"http://{HERE}:{web.port}/a?b=c#d", web.port)
    assert found == Page(
        f"http://{HERE}:{web.port}/a?b=c#d", 200, "text/html; charset=utf-8", "A page", "One\n\ntwo & three", False
    )
    head = web.heads[0].split("\r\n")
    assert head[0] == "GET /a?b=c HTTP/1.1"
    assert f"Host: {HERE}:{web.port}" in head
    assert not [line for line in head if line.lower().startswith(("cookie", "authorization", "proxy"))]


@pytest.mark.parametrize("kind", ["text/plain", "TEXT/CSV; header=present", "application/json", "application/ld+json"])
def test_other_text_comes_as_it_is_and_so_does_that_of_an_error(kind: str) -> None:
    with serving(page(b'{"a": "\xc3\xa4"}', kind, status="404 Not Found")) as web:
        found = get(f"http://{HERE}:{web.port}/", web.port)
    assert (found.status, found.text, found.is_cut) == (404, '{"a": "ä"}', False)


@pytest.mark.parametrize("kind", ["application/pdf", "image/png", "application/octet-stream", ""])
def test_what_is_no_text_is_not_read(kind: str) -> None:
    with serving(page(b"x" * 10, kind)) as web, pytest.raises(ToolError, match=f"no text: {kind or 'of no'}"):
        get(f"http://{HERE}:{web.port}/", web.port)


def test_what_only_claims_to_be_text_is_refused() -> None:
    with serving(page(bytes(range(256)) * 8)) as web, pytest.raises(ToolError, match="binary, not text"):
        get(f"http://{HERE}:{web.port}/", web.port)


def test_an_address_of_ipv6_is_asked_for_in_brackets() -> None:
    try:
        with serving(address="::1") as web:
            found = get(f"http://[::1]:{web.port}/", web.port, opened="::1")
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    assert found.text == "hello"
    assert f"Host: [::1]:{web.port}\r\n" in web.heads[0]


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as proxy, serving() as web:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{HERE}:{proxy.port}")
        assert get(f"http://{HERE}:{web.port}/", web.port).text == "hello"
        assert proxy.connections == 0


# What is refused by the form of the URL


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.com/", "gopher://127.0.0.1:70/", "javascript:1", "data:text/plain,x",
        "//example.com/", "/etc/passwd", "example.com", "http:example.com", "http:///example.com", "http://", "",
        "http://user@example.com/", "http://user:word@example.com/", "http://:word@example.com/",
        "http://example.com@127.0.0.1/", "http://example.com\\@127.0.0.1/", "http://127.0.0.1:80\\@example.com/",
        "http://1.1.1.1 &@127.0.0.1# @1.1.1.1/", "http://a@b@127.0.0.1/", "http://exa\tmple.com/",
        "http://example.com\r\nHost: x/", "http://0177.0.0.1/", "http://256.1.1.1/", "http://[::1/", "http://[v1.a]/",
        "http://\uff11\uff12\uff17.0.0.1/", "http://\u2460\u2461\u2466.0.0.1/", "http://example.com:x/", "http://\ud800/",
        "http://example.com/\ud800",
    ],
)  # fmt: skip
def test_a_url_of_another_form_is_refused(url: str) -> None:
    names = Names()
    with pytest.raises(RefusedError):
        get(url, 80, names=names)
    assert names.asked == []


@given(st.text(max_size=60), st.booleans())
def test_whatever_is_no_url_is_refused_and_nothing_else_is_raised(text: str, is_absolute: bool) -> None:  # noqa: FBT001
    try:
        url = parse(f"http://{text}" if is_absolute else text, parse("https://example.com/a"))
    except RefusedError:
        return
    assert url.scheme in {"http", "https"}
    assert url.host
    assert not url.userinfo


@pytest.mark.parametrize("port", ["-1", "22", "6379", "8080", "99999"])
def test_other_ports_are_refused_before_a_name_is_asked_for(port: str) -> None:
    names = Names()
    with pytest.raises(RefusedError, match="is not fetched from, only 80, 443"):
        get(f"http://example.com:{port}/", 80, 443, names=names)
    assert names.asked == []


# What is refused by the address


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2", "127.1.2.3", "2130706434", "0x7f000002", "0x7f.2", "0177.0.2", "127.2", "127.0.2", "0", "0.0.0.0",  # noqa: S104 - as a URL has it
        "localhost.", "127\u30020\u30020\u30022", "[::1]", "[::]", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]",
        "[::127.0.0.2]",
        "[64:ff9b::127.0.0.2]", "[64:ff9b:1::7f00:2]", "[2002:7f00:2::]", "[2001:0:7f00:2::]", "[fe80::1%lo]",
        "[fe80::1%25lo]", "[::1%25lo]", "[fd00:ec2::254]", "[ff02::1]", "[fec0::1]", "[100::1]", "[2001:db8::1]",
        "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "203.0.113.1", "192.88.99.1",
    ],
)  # fmt: skip
def test_an_inside_address_is_refused_however_it_is_written(host: str) -> None:
    with serving(address=INSIDE) as web, pytest.raises(RefusedError, match="has no address that may be fetched from"):
        get(f"http://{host}:{web.port}/", web.port)
    assert web.connections == 0


def test_the_system_would_take_the_odd_spellings_for_the_server() -> None:
    """So that the test above proves something: without the check these reach it."""
    with serving(address=INSIDE) as web:
        for host in ("2130706434", "0x7f.2", "127.2"):
            assert get(f"http://{host}:{web.port}/", web.port, opened="127.0.0.2/32").text == "hello"


@pytest.mark.parametrize("others", [[INSIDE], [PUBLIC, INSIDE], [INSIDE, PUBLIC], ["::ffff:127.0.0.2"], ["no"], []])
def test_a_name_with_one_inside_address_is_refused(others: list[str]) -> None:
    with serving(address=INSIDE) as web, pytest.raises(RefusedError):
        get(f"http://wiki.test:{web.port}/", web.port, names=Names(wiki_test=[others]))
    assert web.connections == 0


def test_nobody_learns_which_names_there_are_inside() -> None:
    said = set()
    for answer in ([INSIDE], []):
        with pytest.raises(RefusedError) as caught:
            get("http://wiki.test/", 80, names=Names(wiki_test=[answer]))
        said.add(caught.value.message)
    assert len(said) == 1


def test_a_connection_goes_to_the_address_that_was_checked_and_the_name_is_asked_for_once() -> None:
    names = Names(rebinding_test=[[HERE], [INSIDE]])
    with serving() as web, serving(address=INSIDE, port=web.port) as inside:
        assert get(f"http://rebinding.test:{web.port}/", web.port, names=names).text == "hello"
        assert names.asked == ["rebinding.test"]
        assert f"Host: rebinding.test:{web.port}" in web.heads[0]
        with pytest.raises(RefusedError):
            get(f"http://rebinding.test:{web.port}/", web.port, names=names)
    assert inside.connections == 0


def test_the_next_address_is_taken_if_one_does_not_answer() -> None:
    assert called("a.test", PUBLIC, "2606:4700::1111") == [PUBLIC, "2606:4700::1111"]
    with serving() as web:
        names = Names(a_test=[["127.0.0.9", HERE]])  # nobody listens at the first one
        assert get(f"http://a.test:{web.port}/", web.port, names=names, opened="127.0.0.0/8").text == "hello"
        with pytest.raises(ToolError, match="cannot be fetched"):
            get(f"http://127.0.0.9:{web.port}/", web.port, opened="127.0.0.0/8")


SPECIAL = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:20::/28",
    "2001:db8::/32", "2002::/16",
    "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
]  # fmt: skip
ADDRESSES = st.one_of(
    st.ip_addresses(), *(st.ip_addresses(network=network) for network in SPECIAL), st.sampled_from([ip_address(PUBLIC)])
)


def known_inside(address: IPv4Address | IPv6Address) -> bool:
    """What Python itself says of an address, and of the one that it stands for."""
    inner: list[IPv4Address | None] = []
    if isinstance(address, IPv6Address):
        embedded = (
            int(address) & 0xFFFFFFFF if address in ip_network("64:ff9b::/96") or int(address) >> 32 == 0 else None
        )
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        inner += [IPv4Address(embedded)] if embedded is not None else []
    return any(not one.is_global or one.is_multicast for one in (address, *filter(None, inner)))


@given(st.lists(ADDRESSES, max_size=4), st.one_of(st.none(), st.sampled_from(SPECIAL)))
def test_only_global_or_permitted_addresses_are_ever_connected_to(
    addresses: list[IPv4Address | IPv6Address], permitted: str | None
) -> None:
    networks = (ip_network(permitted),) if permitted else ()
    found = called("a.test", *map(str, addresses), reach=Reach(networks))
    assert found in ([], [str(address) for address in addresses])
    assert [
        text for text in found if known_inside(ip_address(text)) and not any(ip_address(text) in n for n in networks)
    ] == []


@pytest.mark.parametrize("network", SPECIAL)
def test_no_special_network_is_reached(network: str) -> None:
    net = ip_network(network)
    for address in (net[0], net[-1], net[net.num_addresses // 2]):
        assert called("a.test", str(address)) == []
        assert called("a.test", str(address), reach=Reach((net,))) == [str(address)]


# Redirects


def test_a_redirect_is_followed_relative_ones_too() -> None:
    with serving(redirect("b?c=1"), redirect("//a.test:{}/d"), page()) as web:
        web.answers[1] = redirect(f"//a.test:{web.port}/d", "308 Permanent Redirect")
        found = get(f"http://{HERE}:{web.port}/a/", web.port, names=Names(a_test=[[HERE]]))
    assert (found.url, found.text) == (f"http://a.test:{web.port}/d", "hello")
    assert [head.split()[1] for head in web.heads] == ["/a/", "/a/b?c=1", "/d"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_redirect_may_be_written_without_percent_signs(encoding: str) -> None:
    with serving(redirect("/café").decode().encode(encoding), page()) as web:
        get(f"http://{HERE}:{web.port}/", web.port)
    assert [head.split()[1] for head in web.heads] == ["/", "/caf%C3%A9"]


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/", "//127.2:{port}/", "http://[::ffff:7f00:2]:{port}/", "http://user@127.0.0.2:{port}/",
        "http://rebinding.test:{port}/", "file:///etc/passwd", "http://127.0.0.1:22/", "http://[/",
    ],
)  # fmt: skip
def test_a_redirect_to_what_is_refused_is_refused(target: str) -> None:
    names = Names(rebinding_test=[[HERE], [INSIDE]])
    with serving() as web, serving(address=INSIDE, port=web.port) as inside:
        web.answers[:] = [redirect(target.format(port=web.port))]
        with pytest.raises(RefusedError):
            get(f"http://rebinding.test:{web.port}/", web.port, names=names)
    assert (web.connections, inside.connections) == (1, 0)


def test_redirects_come_to_an_end() -> None:
    with serving(redirect("/")) as web, pytest.raises(ToolError, match=f"more than {MAX_REDIRECTS} redirects"):
        get(f"http://{HERE}:{web.port}/", web.port)
    assert web.connections == MAX_REDIRECTS + 1


# TLS


def trust(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> Any:
    tls, trusted = certificate(folder, *names)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    return tls


def test_the_certificate_is_that_of_the_name_though_an_address_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(tls=trust(monkeypatch, tmp_path, "a.test")) as web:
        names = Names(a_test=[[HERE]], b_test=[[HERE]])
        assert get(f"https://a.test:{web.port}/", web.port, names=names).text == "hello"
        for host in ("b.test", HERE):
            with pytest.raises(ToolError, match="CERTIFICATE_VERIFY_FAILED"):
                get(f"https://{host}:{web.port}/", web.port, names=names)
    assert len(web.heads) == 1


def test_a_redirect_to_another_name_of_the_same_address_is_verified_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(tls=trust(monkeypatch, tmp_path, "a.test")) as web:
        web.answers[:] = [redirect(f"https://b.test:{web.port}/")]
        with pytest.raises(ToolError, match="CERTIFICATE_VERIFY_FAILED"):
            get(f"https://a.test:{web.port}/", web.port, names=Names(a_test=[[HERE]], b_test=[[HERE]]))


def test_an_issuer_that_nobody_knows_is_not_trusted(tmp_path: Path) -> None:
    tls, _ = certificate(tmp_path, "a.test")
    with serving(tls=tls) as web, pytest.raises(ToolError, match="CERTIFICATE_VERIFY_FAILED"):
        get(f"https://a.test:{web.port}/", web.port, names=Names(a_test=[[HERE]]))
    assert web.heads == []


# Limits


def forever(first: bytes, part: bytes, every_s: float = 0) -> Say:
    """An answer without an end."""

    def say(connection: socket.socket) -> None:
        connection.sendall(first)
        pause = threading.Event()
        while not pause.wait(every_s):
            connection.sendall(part)

    return say


DRIP_S = 0.05
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize("more", [b"\r\n", b"Content-Length: 99999999999\r\n\r\n"])
def test_a_body_without_end_is_cut_and_let_go(more: bytes) -> None:
    with serving(forever(PLAIN + more, b"x" + b"\xc3\xa4" * 32_767)) as web:
        found = get(f"http://{HERE}:{web.port}/", web.port)
        assert web.gone.wait(WAIT_S)
    assert found.is_cut
    assert MAX_BYTES - 4 <= len(found.text.encode()) <= MAX_BYTES
    assert set(found.text) == {"ä", "x"}  # cut within a character, and still read as UTF-8


def test_a_small_packed_body_that_becomes_a_large_one_is_cut() -> None:
    packed = gzip.compress(b"a" * (64 * MAX_BYTES))
    assert len(packed) < MAX_BYTES / 8
    with serving(page(packed, "text/plain", "Content-Encoding: gzip")) as web:
        found = get(f"http://{HERE}:{web.port}/", web.port)
    assert (found.text, found.is_cut) == ("a" * MAX_BYTES, True)


def test_a_packed_body_that_unpacks_to_nothing_is_let_go_too() -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    begun = packer.flush(zlib.Z_FULL_FLUSH)
    head = PLAIN + b"Content-Encoding: gzip\r\n\r\n" + begun
    with serving(forever(head, b"\x00\x00\x00\xff\xff" * 10_000)) as web:
        found = get(f"http://{HERE}:{web.port}/", web.port)
        assert web.gone.wait(WAIT_S)
    assert (found.text, found.is_cut) == ("", True)


def test_a_packed_page_is_unpacked_and_a_broken_one_is_an_error() -> None:
    packed = gzip.compress(b"hello " * 1000)
    with serving(
        page(packed, "text/plain", "Content-Encoding: GZIP"),
        page(b"not packed", "text/plain", "Content-Encoding: gzip"),
        page(packed, "text/plain", "Content-Encoding: gzip, gzip"),
        page(packed, "text/plain", "Content-Encoding: br"),
    ) as web:
        url = f"http://{HERE}:{web.port}/"
        assert get(url, web.port).text == "hello " * 1000
        for message in ("broken", "packed as 'gzip, gzip'", "packed as 'br'"):
            with pytest.raises(ToolError, match=message):
                get(url, web.port)


@pytest.mark.parametrize(
    ("first", "part"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Long: " + b"x" * 8000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 65_536),
        (b"H" * 65_536, b"H" * 65_536),
        (PLAIN + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 65_536),
        (PLAIN + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Long: " + b"x" * 8000 + b"\r\n"),
    ],
    ids=["many headers", "a long header", "a long first line", "a long chunk head", "many trailers"],
)
def test_giant_headers_are_let_go(first: bytes, part: bytes) -> None:
    with serving(forever(first, part)) as web:
        with pytest.raises(ToolError, match="cannot be fetched"):
            get(f"http://{HERE}:{web.port}/", web.port)
        assert web.gone.wait(WAIT_S)


@pytest.mark.parametrize(
    "answer", [b"", b"\r\n", b"SSH-2.0-x\r\n", b"-ERR unknown command\r\n", PLAIN + b"\r\n\r\n"[:1]]
)
def test_what_does_not_speak_http_is_an_error(answer: bytes) -> None:
    with serving(answer) as web, pytest.raises(ToolError, match="cannot be fetched"):
        get(f"http://{HERE}:{web.port}/", web.port)


def test_a_charset_that_is_none_does_not_take_minutes() -> None:
    with serving(page(b"a" * 1_000_000 + b"-" + b"zb" * 500_000, "text/plain; charset=punycode")) as web:
        assert get(f"http://{HERE}:{web.port}/", web.port).text.startswith("aaa")


# The tool


class Hasty(FetchTool):
    """Has less patience."""

    time_limit_s = 0.5


class Home:
    """A run with the tool, for a user with or without the grant."""

    def __init__(self, *granted: str, tool: type[FetchTool] = FetchTool) -> None:
        self.bridge = RecordingBridge()
        self.factory = UserContextToolFactory(UnboundDatabase(), DictStore(), granted)
        self.tools = self.factory.create_user_tool_system(a_context(), (tool,), lambda _: self.bridge, "agent-1")

    def fetch(self, url: str, **more: Any) -> Any:
        try:
            return asyncio.run(self.tools.dispatch_tool("fetch", {"url": url, **more}))
        finally:
            self.factory.close()


def open_for(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv(NETWORKS, f"192.168.7.0/24, {HERE}")
    monkeypatch.setenv(PORTS, f"80,{port}")


def test_the_tool_gives_json_within_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as web:
        open_for(monkeypatch, web.port)
        url = f"http://{HERE}:{web.port}/"
        assert Home("fetch").fetch(url, max_characters=4).value == {
            "url": url, "status": 200, "content_type": "text/plain", "title": "", "text": "hell", "truncated": True,
        }  # fmt: skip
        assert not Home("fetch").fetch(url, max_characters=5).value["truncated"]


def test_without_the_grant_it_is_denied_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as web:
        open_for(monkeypatch, web.port)
        home = Home("another")
        assert home.fetch(f"http://{HERE}:{web.port}/").error["type"] == "not_granted"
    assert home.bridge.kinds == ["tool_denied"]
    assert home.bridge.data("tool_denied")[0]["tool"] == "fetch"
    assert web.connections == 0


def test_without_settings_nothing_inside_is_reached() -> None:
    with serving() as web:
        for url in (f"http://{HERE}:{web.port}/", f"http://{HERE}/", "http://localhost/"):
            assert Home("fetch").fetch(url).error["type"] == "refused"
    assert web.connections == 0


def silent(connection: socket.socket) -> None:
    """An answer that never begins."""
    if not connection.recv(1):
        raise ConnectionResetError


@pytest.mark.parametrize(
    "answer",
    [
        forever(PLAIN + b"\r\n", b"x", DRIP_S),
        forever(PLAIN, b"X-A: b\r\n", DRIP_S),
        forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", DRIP_S),
        silent,
    ],
    ids=["body", "headers", "interim answers", "silence"],
)
def test_who_only_drips_is_let_go_after_the_whole_time(monkeypatch: pytest.MonkeyPatch, answer: Say) -> None:
    with serving(answer) as web:
        open_for(monkeypatch, web.port)
        result = Home("fetch", tool=Hasty).fetch(f"http://{HERE}:{web.port}/")
        assert result.error["type"] == "timed_out"
        assert Hasty.time_limit_s <= result.duration_s < WAIT_S
        assert web.gone.wait(WAIT_S)


def test_names_that_nobody_answers_for_do_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, given_up = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Iterable[Any]:
        if not let_go.wait(WAIT_S):
            given_up.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        assert Home("fetch", tool=Hasty).fetch("http://slow.test/").error["type"] == "timed_out"
        assert not given_up.is_set()
    finally:
        let_go.set()
