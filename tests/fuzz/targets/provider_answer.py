"""What a provider sends over HTTP/1.1 is an answer within its bounds, or a failure in our own words.

The first octet determines how the rest is sent (see ``_Way``).

* Reading ends in an answer, in a failure whose text quotes nothing of what was sent, or in waiting for more. It takes
  two steps for each octet at most, packed or not.
* The pieces in which the octets arrive make no difference, but to which of several faults is found first.
* The content is no larger than allowed, and http.client reads the same status and content, once they are unpacked.
* A connection is used again only if no octet is left over.
* The same octets as a proxy's response to CONNECT open a tunnel, with no content and what follows noticed, or fail too.
* Headers about time yield a time: that of the next request, and the freshness lifetime.
"""

from __future__ import annotations

import functools
import http.client
import io
import math
import zlib
from typing import TYPE_CHECKING

from authz_service.config.model import Keys
from authz_service.keys.http_source import lifetime_of
from authz_service.providers.errors import FOREIGN_ERRORS, fetch_failed
from authz_service.providers.exchange import Exchange, HttpRequest, parse_retry_after
from fuzz.issuers import NOW
from fuzz.secrets import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.providers.exchange import HttpResponse

OUTCOMES = {"content", "status", "failure", "incomplete"}
MAX_BYTES = 4096
_MAX_CONTENT = 2000
_GET = HttpRequest("GET", "/jwks", {"Host": "idp.example"}, b"", _MAX_CONTENT, {http.client.OK})
_CONNECT = HttpRequest("CONNECT", "idp.example:443", {"Host": "idp.example:443"}, b"", 0, ())
_MAX_STEPS = 100  # in addition to two for each byte, which may arrive separately: read and decompress
_PIECES = (1, 2, 7, 50, 1000)


class _Way:
    """How the octets are sent."""

    def __init__(self, octet: int) -> None:
        self.ends = bool(octet & 1)  # with the end of the connection behind them
        self.piece = _PIECES[(octet >> 1) % len(_PIECES)]


def run(data: bytes) -> str:
    way, octets = _Way(data[0] if data else 0), data[1:]
    pieces = [octets[at : at + way.piece] for at in range(0, len(octets), way.piece)]
    exchange, failure = _read(pieces, ends=way.ends)
    whole, other_failure = _read([octets], ends=way.ends)
    _require_tunnel(octets, ends=way.ends)
    assert bool(failure) == bool(other_failure)
    if failure:
        parts = octets.decode("latin-1").split()
        assert not [part for part in parts if is_secret(part, octets) and part in failure]
        return "failure"
    response = exchange.response
    if response is None:
        assert whole.response is None
        return "incomplete"
    assert whole.response is not None
    assert (response.status, response.body) == (whole.response.status, whole.response.body)
    assert len(response.body) <= _MAX_CONTENT
    _require_times(response)
    if response.status != http.client.OK:
        assert response.body == b""
        return "status"
    if octets.startswith(b"HTTP/1.1 200"):
        _require_same(response, octets, is_all=whole.connection_is_reusable)
    return "content"


def _require_tunnel(octets: bytes, *, ends: bool) -> None:
    exchange, failure = _read([octets], ends=ends, request=_CONNECT)
    if failure:
        assert not [part for part in octets.decode("latin-1").split() if is_secret(part, octets) and part in failure]
    elif exchange.response is not None:
        assert exchange.response.body == b""
        assert exchange.has_unread_data or octets.endswith(b"\n")


def _read(pieces: list[bytes], *, ends: bool, request: HttpRequest = _GET) -> tuple[Exchange, str]:
    """What comes of it, and why it fails where it does."""
    exchange = Exchange(request)
    exchange.encode_request()
    left = 2 * sum(map(len, pieces)) + _MAX_STEPS
    try:
        for piece in (*filter(None, pieces), *([b""] if ends else [])):
            exchange.feed(piece)
            while exchange.advance():
                left -= 1
                assert left
            if exchange.response is not None:
                break
    except FOREIGN_ERRORS as error:
        return exchange, str(fetch_failed(error, "https://idp.example/jwks"))
    return exchange, ""


def _require_times(response: HttpResponse) -> None:
    headers = response.headers
    settings = _settings()
    assert 0 <= parse_retry_after(headers.get("retry-after"), float(NOW)) < math.inf
    lifetime = lifetime_of(headers.combined("cache-control"), headers.get("age"), settings)
    assert settings.min_refresh_interval <= lifetime <= settings.max_refresh_interval


@functools.cache
def _settings() -> Keys:
    return Keys()


class _Socket(io.BytesIO):
    """What http.client reads from."""

    def makefile(self, _mode: str) -> io.BytesIO:
        return self

    def close(self) -> None:
        """Stay open: there may be octets left."""


def _require_same(response: HttpResponse, octets: bytes, *, is_all: bool) -> None:
    wire = _Socket(octets)
    other = http.client.HTTPResponse(wire)  # type: ignore[arg-type] # it needs no more of a socket
    other.begin()
    content = other.read()
    assert other.status == response.status
    assert _unpacked(content, response.headers.combined("content-encoding")) == response.body
    assert not is_all or wire.read() == b""


def _unpacked(content: bytes, codings: str) -> bytes:
    names = [each.strip().lower() for each in codings.split(",")]
    compressions = [each for each in names if each in {"gzip", "x-gzip", "deflate"}]
    if not content or not compressions:
        return content
    (compression,) = compressions
    return b"".join(_inflated(content, compression))


def _inflated(content: bytes, coding: str) -> Iterator[bytes]:
    raw = coding == "deflate" and content[0] & 15 != zlib.DEFLATED
    yield zlib.decompress(content, -zlib.MAX_WBITS if raw else zlib.MAX_WBITS + 32)
