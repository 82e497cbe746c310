"""`fetch`: one page of the web as text, within limits of time, size and redirects."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import httpcore
import httpx

from worker.authoring import ToolError
from worker.tools.passages.html import read_html
from worker.tools.passages.text import DocumentError, Text, decode
from worker.tools.web.door import CONNECT_S, Door, RefusedError

MAX_REDIRECTS = 5
MAX_BYTES = 2 * 1024 * 1024  # of a body, as it comes and unpacked; that of headers is httpcore's, 100 KiB
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_TEXTS = frozenset({"application/json", "application/xml", "application/javascript", "application/x-ndjson", *_HTML})
_TORN = re.compile(rb"[\xc0-\xff][\x80-\xbf]{0,3}\Z")  # what may be half a character of UTF-8
_ASKED: list[tuple[bytes | str, bytes | str]] = [
    ("User-Agent", "lanewise"),
    ("Accept", "text/html, text/*;q=0.9, application/json;q=0.9, application/xml;q=0.8"),
    ("Accept-Encoding", "gzip"),  # what the standard library can unpack up to a limit
    ("Connection", "close"),  # the next request is checked anew
]


@dataclass(frozen=True)
class Page:
    """What was found.

    Args:
        url: after redirects.
        text: of HTML what a reader sees, of anything else all of it.
        is_cut: whether the text is not all there is.
    """

    url: str
    status: int
    content_type: str
    title: str
    text: str
    is_cut: bool


async def fetch(text: str, door: Door) -> Page:
    """Returns the page at a URL. Takes as long as it takes: the caller sets the limit.

    Raises:
        RefusedError: the URL, or one that it leads to, may not be fetched.
        ToolError: no text came; the message says why.
    """
    url = parse(text)
    # No proxy, no cookie, no password from a file, no redirect that was not parsed and checked like the first URL.
    tls = httpx.create_ssl_context()
    try:
        async with httpcore.AsyncConnectionPool(tls, network_backend=door) as pool:
            for _ in range(MAX_REDIRECTS + 1):
                target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
                asked = [(b"Host", url.netloc), *_ASKED]
                limits = {"timeout": {"connect": CONNECT_S}}
                async with pool.stream("GET", target, headers=asked, extensions=limits) as response:
                    headers = _headers(response)
                    if response.status not in _REDIRECTS or "location" not in headers:
                        return await _page(url, response, headers)
                url = parse(_location(response), url)
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise ToolError(f"{url} cannot be fetched: {str(error)[:200] or type(error).__name__}") from None
    raise ToolError(f"{text} leads to more than {MAX_REDIRECTS} redirects")


def parse(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """Returns a URL that may be asked for, by its form; whether its host may, the door finds out.

    Args:
        base: what a relative one is relative to.

    Raises:
        RefusedError: it may not.
    """
    try:
        url = httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise RefusedError(f"the URL cannot be read: {str(error)[:200]}") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise RefusedError("only URLs that begin with http:// or https:// and name a host are fetched")
    if url.userinfo:
        raise RefusedError("a URL with a user or a password is not fetched")
    return url


async def _page(url: httpx.URL, response: httpcore.Response, headers: Mapping[str, str]) -> Page:
    content_type = headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if not kind.startswith("text/") and kind not in _TEXTS and not kind.endswith(("+json", "+xml")):
        raise ToolError(f"{url} answers {response.status} with what is no text: {kind[:100] or 'of no content type'}")
    body, is_cut = await _body(response, headers.get("content-encoding", "").strip().lower())
    try:  # in a thread, for a large page takes a second
        found = await asyncio.to_thread(_text, body, content_type, is_html=kind in _HTML)
    except DocumentError as error:
        raise ToolError(f"{url} {error}") from None
    title = next((heading.title for heading in found.headings if heading.level == 0), "")
    return Page(str(url), response.status, content_type[:200], title, found.content, is_cut)


async def _body(response: httpcore.Response, encoding: str) -> tuple[bytes, bool]:
    """Returns at most `MAX_BYTES` of the body, unpacked, and whether there is more of it."""
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        raise ToolError(f"the page is packed as {encoding[:40]!r}, which was not asked for")
    body = bytearray()
    async for part in response.aiter_stream():
        body += part
        if len(body) > MAX_BYTES:
            break
    content, is_cut = bytes(body[:MAX_BYTES]), len(body) > MAX_BYTES
    if encoding.endswith("gzip"):
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            content = unpacker.decompress(content, MAX_BYTES)
        except zlib.error as error:
            raise ToolError(f"the page is packed as gzip, and broken: {error}") from None
        is_cut = is_cut or not unpacker.eof or bool(unpacker.unused_data)
    return (_TORN.sub(b"", content) if is_cut else content), is_cut


def _text(body: bytes, content_type: str, *, is_html: bool) -> Text:
    return read_html(body, content_type) if is_html else Text(decode(body, content_type)[0])


def _location(response: httpcore.Response) -> str:
    """Returns where a redirect leads: the first address of it, which servers write as UTF-8, if not in ASCII."""
    value = next(value for name, value in response.headers if name.lower() == b"location")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _headers(response: httpcore.Response) -> dict[str, str]:
    """Returns the headers by lower-case name; of those that came twice, both values."""
    headers: dict[str, str] = {}
    for name, value in response.headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
