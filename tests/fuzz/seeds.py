"""Writes the seeds of every corpus: ``python -m fuzz.seeds``. Files named ``found-...`` stay as they are.

Seeds are recordings of real clients, examples from RFCs, real providers' tokens, the project's own examples, and what
a reader of the parsers would try first.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import ssl
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import hpack
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from grpc_reflection.v1alpha.reflection_pb2 import ExtensionRequest, ServerReflectionRequest
from tokens.proof.test_certificate import RFC_8705
from transport.http2.client import ClientHalf, data, framed
from transport.wire import check_request

from authz_service._pb.external_auth_pb2 import CheckRequest
from authz_service.tokens.proof.nonce import Nonces
from authz_service.transport.http2 import frames
from authz_service.transport.http2.grpc_framing import RESPONSE, Status, trailers
from fuzz import target
from fuzz.issuers import (
    AUDIENCE,
    ISSUERS,
    MAIN,
    NONCE_KEY,
    NOW,
    OTHER,
    SIGNERS,
    claims,
    dpop_claims,
    dpop_header,
    dpop_proof,
    published,
    tokens,
    unsigned,
)
from support.signing import Signer, base64url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TESTS = Path(__file__).parent.parent
RECORDED = sorted((TESTS / "vectors" / "http2").glob("*.bin"))
PROVIDERS = json.loads((TESTS / "vectors" / "providers.json").read_text())
KEY_SETS = sorted((TESTS / "keys" / "vectors").glob("rfc*.json"))
SIGNATURES = json.loads((TESTS / "keys" / "vectors" / "signatures.json").read_text())
MAX_RECORDED = 4096  # octets of a recording that make a seed
Seeds = dict[str, bytes]


def _frames(octets: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, stream and payload of each frame of a recording."""
    at = len(frames.PREFACE)
    while at < len(octets):
        high, low, kind, flags, stream = frames.HEADER.unpack_from(octets, at)
        start, at = at + frames.HEADER_BYTES, at + frames.HEADER_BYTES + (high << 16 | low)
        yield kind, flags, stream, octets[start:at]


def _beginning(parts: Iterable[bytes]) -> bytes:
    """The first parts, as many as fit into a seed."""
    made = b""
    for part in parts:
        if len(made) + len(part) > MAX_RECORDED:
            break
        made += part
    return made


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def path() -> Seeds:
    return {
        name: text.encode("latin-1")
        for name, text in {
            "root": "/",
            "plain": "/v1/appointments/7",
            "folder": "/v1/appointments/",
            "query": "/a?b=/../%2e%2e/%00//;\\ #",
            "escapes": "/caf%C3%A9/%F0%9F%98%80/a%20b/100%25",
            "punctuation": "/~user/-_.!$&'()*+,=:@",
            "parameters": "/a/b;c=1;d",
            "dots": "/..a/a../.a/...",
            "encoded-slash": "/a%2Fb%5cc",
            "encoded-slashes": "/npm/%40scope%2fname/a%2Fb%2Fc/",
            "encoded-slash-dots": "/npm/@scope%2f..%2f%2e/a%2f",
            "encoded-dots": "/public/%2e%2e;/admin",
            "double-encoding": "/a%25%32%65%252F",
            "overlong": "/%C0%AE%C0%AE/%E0%80%AF/%ED%A0%80",
            "dot-segments": "/a/./b/../..;x/c",
            "empty-segments": "//a//b",
            "controls": "/a%00%0d%0a\t\x7f%C2%85",
            "raw": "/caf\xe9 \\ #",
            "absolute": "http://a/b",
        }.items()
    }


def service_request() -> Seeds:
    """Clients' requests, and what a reader of the wire format would try."""
    extension: Any = ExtensionRequest(containing_type="envoy.service.auth.v3.CheckRequest", extension_number=1)
    reflected: dict[str, dict[str, Any]] = {
        "list": {"list_services": "*"},
        "service": {"host": "authz", "file_containing_symbol": "envoy.service.auth.v3.Authorization"},
        "file": {"file_by_filename": "google/protobuf/struct.proto"},
        "numbers": {"all_extension_numbers_of_type": "google.protobuf.Struct"},
        "extension": {"file_containing_extension": extension},
        "unknown": {"file_containing_symbol": "a.B"},
        "nothing": {},
    }
    return {name: ServerReflectionRequest(**members).SerializeToString() for name, members in reflected.items()} | {
        "liveness": b"\x0a\x08liveness",
        "repeated": b"\x0a\x01a\x0a\x01b",
        "unknown-fields": b"\x0d1234\x09" + b"12345678" + b"\x98\x06\x80\x80\x01\x0a\x01a",
        "not-utf8": b"\x0a\x01\xff",
        "cut": b"\x0a\x05liv",
        "group": b"\x13\x14",
        "long-number": b"\x10" + b"\xff" * 9 + b"\x01",
        "too-long": b"\x0a\x80\x40" + b"a" * (1 << 12),
    }


def health_response() -> Seeds:
    """Responses, and what may be around them."""
    settings = frames.settings({frames.SETTINGS_MAX_CONCURRENT_STREAMS: 1})
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, RESPONSE)
    success = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, trailers(Status.OK))
    refused = RESPONSE + trailers(Status.UNIMPLEMENTED)
    huffman = hpack.Encoder().encode([(b":status", b"200"), (b"content-type", b"application/grpc"), (b"a", b"b" * 9)])

    def message(status: bytes) -> bytes:
        return data(1, framed(status), 0)

    return {
        name: b"\x09" + octets
        for name, octets in {
            "serving": settings + head + message(b"\x08\x01") + success,
            "not-serving": settings + head + message(b"\x08\x02") + success,
            "unknown": settings + head + message(b"\x08\x09") + success,
            "huffman": settings + frames.frame(frames.HEADERS, 4, 1, huffman) + message(b"\x08\x01") + success,
            "unimplemented": settings + frames.frame(frames.HEADERS, 5, 1, refused),
            "continued": settings
            + frames.frame(frames.HEADERS, 0, 1, RESPONSE[:2])
            + frames.frame(frames.CONTINUATION, 4, 1, RESPONSE[2:]),
            "draining": settings + frames.goaway(frames.MAX_STREAM_ID, frames.ErrorCode.NO_ERROR) + head,
            "refused": settings + frames.goaway(0, frames.ErrorCode.ENHANCE_YOUR_CALM),
            "reset": settings + frames.rst_stream(1, frames.ErrorCode.CANCEL),
            "http1": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            "tls": b"\x15\x03\x03\x00\x02\x02\x46",
        }.items()
    }


def header_blocks() -> Seeds:
    def block(octets: bytes) -> bytes:
        return len(octets).to_bytes(2, "big") + octets

    def blocks(*parts: bytes) -> bytes:
        return b"".join(map(block, parts))

    recorded = {
        f"recorded-{file.stem}": _beginning(
            block(payload) for kind, _, _, payload in _frames(file.read_bytes()) if kind == frames.HEADERS
        )
        for file in RECORDED
    }
    rfc = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ]
    huffman = ["828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf"]
    return recorded | {
        "rfc7541-c3": blocks(*map(bytes.fromhex, rfc)),
        "rfc7541-c4": blocks(*map(bytes.fromhex, huffman)),
        "again": blocks(bytes.fromhex(rfc[0]), b"", bytes.fromhex(rfc[1]), b""),
        "resized": blocks(b"\x20\x3f\xe1\x1f\x82\x86\x84", b"\x20", b"\x3f\x01\x40\x01a\x01b\xbe"),
        "broken": blocks(bytes.fromhex(rfc[0]), b"\xff\xff\xff\xff\x7f"),
        "static": blocks(b"\x83\x86\x04\x02/a\x0f\x10\x10application/grpc", b"\x83\x86\x84\x5f\x10application/grpc"),
        "huffman-broken": blocks(b"\x82\x00\x01a\x81\x00"),
        "no-path": blocks(b"\x83\x86"),
        "end": blocks(b"\x00\x01a\x05b"),
    }


def _frame_sequences() -> Iterator[tuple[str, bytes]]:
    call = ClientHalf().request(b"m")
    head, body = ClientHalf().headers(1), data(1, framed(b"message"))
    window = frames.SETTINGS_INITIAL_WINDOW_SIZE
    yield "call", call
    yield "trailers", head + data(1, framed(b"m"), 0) + frames.frame(frames.HEADERS, 5, 1, b"\x00\x01a\x01b")
    yield "small-window", frames.settings({window: 3}) + head + body + frames.window_update(1, 100)
    yield "no-window", frames.settings({window: 0}) + head + body + frames.settings({window: 1 << 20})
    yield (
        "continuation",
        (
            frames.frame(frames.HEADERS, 0, 1, ClientHalf().block()[:5])
            + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, ClientHalf().block()[5:])
            + body
        ),
    )
    yield "padded", head + frames.frame(frames.DATA, 9, 1, b"\x03" + framed(b"m") + b"\0\0\0")
    yield "priority", frames.frame(frames.PRIORITY, 0, 3, b"\0\0\0\x01\x10") + call
    yield "prioritized", frames.frame(frames.HEADERS, 36, 1, b"\0\0\0\x03\x10" + ClientHalf().block()) + body
    yield "ping", frames.frame(frames.PING, 0, 0, b"12345678") * 3 + call
    yield "reset", head + frames.rst_stream(1, frames.ErrorCode.CANCEL) + body
    yield "goaway", call + frames.goaway(0, frames.ErrorCode.NO_ERROR)
    yield "unknown", frames.frame(200, 255, 7, b"?") + call
    yield "too-long", b"\0\x40\x01" + call
    yield "even-stream", frames.frame(frames.HEADERS, 5, 2, ClientHalf().block())
    yield "no-grpc", frames.frame(frames.HEADERS, 5, 1, b"\x82\x86\x84")
    yield "cut", head + data(1, framed(b"message")[:7])
    yield "compressed", head + data(1, framed(b"message", 1))
    yield "several", head + data(1, framed(b"a") + framed(b"b"), 0) + data(1, framed(b"c")[:3], 0)
    yield "split", head + data(1, framed(b"message")[:7], 0) + data(1, framed(b"message")[7:])
    yield "long-message", head + data(1, framed(b"x" * 2000))


def frames_() -> Seeds:
    recorded = {
        f"recorded-{file.stem}": b"\x20" + _beginning(frames.frame(*each) for each in _frames(file.read_bytes()))
        for file in RECORDED
    }
    ways = {"": 0x08, "-kept": 0x11, "-ticking": 0x0A, "-draining": 0x1C, "-streamed": 0x48, "-streamed-kept": 0x59}
    made = dict(_frame_sequences())
    chosen = {f"{name}{way}": bytes((ways[way],)) + made[name] for name in made for way in ("", "-kept")}
    others = {
        f"{name}{way}": bytes((ways[way],)) + made[name]
        for name in ("call", "cut", "several")
        for way in list(ways)[2:]
    }
    return recorded | chosen | others


def call_head() -> Seeds:
    lines = {
        "spaces": (0x00, "tracestate:  a=b "),
        "tab": (0x03, "tracestate: \ta=b\nx-a: "),
        "upper": (0x01, "Upper: c\nx y: z"),
        "connection": (0x04, "connection: close\nte: gzip"),
        "first": (0x04, "x-a: b"),
        "trailers": (0x08, "x-a: b"),
        "status-in-trailers": (0x08, ":status: 200"),
        "continued": (0x10, "x-a: b\nx-c: d"),
        "length": (0x02, "content-length: 9\ngrpc-timeout: x"),
        "compressed": (0x00, "grpc-encoding: gzip\ncontent-type: text/plain"),
        "method": (0x00, ":method: GET"),
        "unknown": (0x00, ":unknown: x"),
        "controls": (0x00, "x-a: \x00\r\x7f\nx-b: \xff"),
        "long": (0x03, "tracestate: " + "a" * 1500),
        "path": (0x00, ":path: /"),
    }
    return {name: bytes((way,)) + text.encode("latin-1") for name, (way, text) in lines.items()}


def check_request_() -> Seeds:
    recorded: Seeds = {}
    for file in RECORDED:
        messages = [payload for kind, _, _, payload in _frames(file.read_bytes()) if kind == frames.DATA and payload]
        recorded |= {f"recorded-{file.stem}": messages[0][5:]}
    good, signed = tokens(), SIGNERS["ed"].sign
    made = {
        "reader": check_request(path="/orders/7", token=good["reader"]),
        "reader-rs": check_request(path="/items/7?s3cret=of+the+query+string", token=good["reader-rs"]),
        "admin": check_request("DELETE", "/admin/users/7", token=good["admin"]),
        "admin-by-reader": check_request("DELETE", "/admin/users/7", token=good["reader"]),
        "admin-encoded": check_request(path="/public/%2e%2e;/admin", token=good["reader"]),
        "tenant": check_request(path="/tenants/acme/bills", token=good["tenant"]),
        "other-tenant": check_request(path="/tenants/other/bills", token=good["tenant"]),
        "bank": check_request(host="my.bank.example:443", path="/", token=good["tenant"]),
        "v2": check_request(path="/orders/7", headers={"x-api-version": "2"}, token=good["reader-es"]),
        "public": check_request(path="/public/a.css", headers={"x-auth-subject": "root", "x_auth_subject": "root"}),
        "anonymous": check_request(path="/news/7"),
        "beta": check_request(path="/beta/7", token=good["reader"]),
        "no-rule": check_request(path="/"),
        "no-token": check_request(path="/orders/7"),
        "basic": check_request(path="/orders/7", headers={"authorization": "Basic dXNlcjpzZWNyZXQtb2YtdXNlcg=="}),
        "spaces": check_request(path="/orders/7", headers={"authorization": f" bearer  {good['reader']} "}),
        "controls": check_request(path="/orders/7", headers={"authorization": "Bearer a\tb"}),
        "two-tokens": check_request(path="/orders/7", headers={"authorization": f"Bearer a, Bearer {good['reader']}"}),
        "stranger": check_request(path="/orders/7", token=SIGNERS["stranger"].sign(claims())),
        "forged": check_request(path="/orders/7", token=SIGNERS["stranger"].sign(claims(), {"kid": "ed"})),
        "no-jwt": check_request(path="/orders/7", token="opaque"),
        "expired": check_request(path="/orders/7", token=signed(claims(exp=NOW - 600))),
        "unknown-issuer": check_request(path="/orders/7", token=signed(claims("https://evil.example/"))),
        "no-request": b"\xff\xff",
        "empty": b"",
    }
    lines = {f"lines-{name}": text.encode("latin-1") for name, text in _REQUESTS.items()}
    return recorded | made | lines | {"raw-headers": _raw(good["admin"]), "policy": _by_policy(good["reader"])}


_REQUESTS = {
    "slashed": "GET /a%2Fb:pack",
    "slashed-admin": "GET /admin%2fusers:pack",
    "reader": "GET /orders/7\nauthorization: Bearer $reader\nx-auth-subject: root\nx_auth_tenant: acme",
    "reader-other": "GET /items/7?a=b\nauthorization: bearer $reader-other\nx-request-id: 7",
    "admin": "DELETE /admin/users/7\n+authorization: Bearer $admin\n+:path: /admin/users/7",
    "tenant": "HEAD /tenants/acme/bills\nhost: api.example:443\nauthorization: Bearer $tenant",
    "bank": "GET /\nhost: my.BANK.example:443\nauthorization: Bearer $tenant",
    "v2": "GET /orders/7\nx-api-version: 2\nauthorization: Bearer $reader-es",
    "v2-spaced": "GET /orders/7\n+x-api-version: \t2 \nauthorization: Bearer $reader",
    "v2-twice": "GET /orders/7\nx-api-version: 2\n+x-api-version: 1\nauthorization: Bearer $reader",
    "v2-disguised": "GET /orders/7\nx_api_version: 2\nauthorization: Bearer $reader",
    "public": "GET /public/a.css\nauthorization: Bearer $reader, Bearer $admin",
    "preflight": "OPTIONS /orders/7\norigin: https://a.example\naccess-control-request-method: PUT",
    "policy": "GET /admin/7\n@authz_policy: internal\nauthorization: Bearer $admin",
    "no-policy": "GET /admin/7\n@authz_policy: unknown\nauthorization: Bearer $admin",
    "cut": "GET /orders/7\nauthorization: Bearer $readerA",
    "elsewhere": "GET /elsewhere/7\nx-jwt: $reader\nauthorization: Bearer $admin",
    "elsewhere-twice": "GET /elsewhere/7\nx-jwt: $reader\n+x-jwt: $admin",
    "elsewhere-disguised": "GET /elsewhere/7\nx-jwt: $reader\nx_jwt: $admin",
    "grpc": "POST /admin/Get\ncontent-type: application/grpc+proto\nauthorization: Bearer $reader",
    "metadata": "OPTIONS /.well-known/oauth-protected-resource/orders?a=b\nhost: API.example.:443",
    "metadata-encoded": "GET /.well-known/%6fauth-protected-resource\nhost: bank.example",
    "metadata-stranger": "GET /.well-known/oauth-protected-resource/orders\nhost: evil.example",
    "metadata-no-host": "HEAD /.well-known/oauth-protected-resource/orders\nhost: api.example@evil",
    "metadata-posted": "POST /.well-known/oauth-protected-resource\nhost: bank.example\nauthorization: Bearer $reader",
    "lower": "get /orders/%37;a=b\nAuthorization: Bearer $reader",
}


def _raw(token: str) -> bytes:
    """As Envoy sends it with ``encode_raw_headers``."""
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.host = "GET", "api.example"
    for name, value in {":path": "/admin/7", "authorization": f"Bearer {token}", "x-auth-subject": "root"}.items():
        http.header_map.headers.add(key=name, raw_value=value.encode())
    return request.SerializeToString()


def _by_policy(token: str) -> bytes:
    request = CheckRequest.FromString(check_request(path="/anything", token=token))
    request.attributes.context_extensions["authz_policy"] = "internal"
    return request.SerializeToString()


def token() -> Seeds:
    raw = {f"good-{name}": text for name, text in tokens().items()} | {
        "none": unsigned('{"alg":"none"}', json.dumps(claims())),
        "hs256": unsigned('{"alg":"HS256","kid":"rs"}', json.dumps(claims())),
        "unsigned": unsigned('{"alg":"EdDSA","kid":"ed"}', json.dumps(claims())),
        "stranger": SIGNERS["stranger"].sign(claims()),
        "jwe": "eyJhbGciOiJkaXIifQ.a.b.c.d",
        "opaque": "c0ffee",
        "dots": "..",
    }
    signed: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        f"signed-by-{name}": (name, {}, claims(ISSUERS.get(name, MAIN))) for name in SIGNERS
    }
    for place, provider in enumerate(PROVIDERS):
        members = provider["claims"] | {"iss": MAIN, "aud": AUDIENCE, "exp": NOW + 600}
        signed[f"provider-{place:02}"] = ("ed", {"typ": provider["header"].get("typ", "JWT")}, members)
    signed |= {
        "iss-of-the-other": ("ed", {}, claims(OTHER)),
        "alg-of-another": ("ed", {"alg": "ES256"}, claims()),
        "alg-ed25519": ("ed", {"alg": "Ed25519"}, claims()),
        "alg-ed448": ("ed", {"alg": "Ed448"}, claims()),
        "alg-ed25519-of-another": ("es", {"alg": "Ed25519"}, claims()),
        "typ-jose": ("ed", {"typ": "application/jose"}, claims()),
        "crit": ("ed", {"crit": ["exp"]}, claims()),
        "jwk": ("stranger", {"kid": "ed", "jwk": SIGNERS["stranger"].jwk()}, claims()),
        "times": ("ed", {"typ": None}, claims(exp=NOW + 0.5, nbf=NOW - 1e3, iat=-1)),
        "not-yet": ("ed", {}, claims(nbf=NOW + 600)),
        "expired": ("ed", {}, claims(exp=NOW - 600)),
        "unknown-issuer": ("ed", {}, claims("https://evil.example/")),
        "no-exp": ("ed", {}, claims(exp=None)),
        "wrong-types": ("ed", {}, claims(sub=7, aud=[None], scope={"a": 1})),
        "logout": ("ed", {"typ": "logout+jwt"}, claims(events={})),
        "nonce": ("ed", {}, claims(nonce="n")),
        "nested": ("es", {}, claims(x=[[[{"a": [1, 2.5, None, True, "\u20ac"]}]]])),
    }
    lines = {name: _signed(*parts) for name, parts in signed.items()}
    twice = b'ed\n{"alg":"EdDSA","kid":"ed"}\n' + _json(claims())[:-1] + b',"sub":"root"}'
    return {name: text.encode() for name, text in raw.items()} | lines | {"twice": twice}


def _signed(name: str, header: dict[str, Any], payload: dict[str, Any]) -> bytes:
    members = {"alg": SIGNERS[name].algorithm, "kid": SIGNERS[name].kid, "typ": "at+jwt"} | header
    kept = {member: value for member, value in members.items() if value is not None}
    return b"\n".join((name.encode(), _json(kept), _json(payload)))


def dpop() -> Seeds:
    nonce = Nonces(NONCE_KEY, 300).issue(NOW)
    signed: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        **{f"signed-by-{name}": (name, dpop_header(name), dpop_claims()) for name in SIGNERS},
        "of-another": ("es", dpop_header("ed", alg="ES256"), dpop_claims()),
        "alg-ed25519": ("ed", dpop_header("ed", alg="Ed25519"), dpop_claims()),
        "alg-of-another": ("es", dpop_header("es", alg="RS256"), dpop_claims()),
        "hs256": ("es", dpop_header("es", alg="HS256", jwk={"kty": "oct", "k": "c2VjcmV0"}), dpop_claims()),
        "none": ("es", dpop_header("es", alg="none"), dpop_claims()),
        "private": ("es", dpop_header("es", jwk=dpop_header("es")["jwk"] | {"d": "AQAB"}), dpop_claims()),
        "usage": ("es", dpop_header("es", jwk=SIGNERS["es"].jwk(key_ops=["verify"], alg="ES256")), dpop_claims()),
        "encryption": ("es", dpop_header("es", jwk=SIGNERS["es"].jwk(use="enc")), dpop_claims()),
        "media-type": ("es", dpop_header("es", typ="application/DPoP+jwt"), dpop_claims()),
        "typ-jwt": ("es", dpop_header("es", typ="JWT"), dpop_claims()),
        "crit": ("es", dpop_header("es", crit=["exp"]), dpop_claims()),
        "no-jwk": ("es", dpop_header("es", jwk=None, kid="es"), dpop_claims()),
        "nonce": ("es", dpop_header("es"), dpop_claims(nonce=nonce)),
        "nonce-expired": ("es", dpop_header("es"), dpop_claims(nonce=Nonces(NONCE_KEY, 300).issue(NOW - 301))),
        "nonce-number": ("es", dpop_header("es"), dpop_claims(nonce=7)),
        "post": ("es", dpop_header("es"), dpop_claims(htm="POST")),
        "spelling": ("es", dpop_header("es"), dpop_claims(htu="HTTPS://API%2Eexample:443/orders/%7E1?x#y")),
        "port": ("es", dpop_header("es"), dpop_claims(htu="https://api.example:8443/orders/~1")),
        "user": ("es", dpop_header("es"), dpop_claims(htu="https://api.example@thief.example/orders/~1")),
        "dots": ("es", dpop_header("es"), dpop_claims(htu="https://api.example/x/../orders/~1")),
        "relative": ("es", dpop_header("es"), dpop_claims(htu="/orders/~1")),
        "old": ("es", dpop_header("es"), dpop_claims(iat=NOW - 61)),
        "early": ("es", dpop_header("es"), dpop_claims(iat=NOW + 6)),
        "times": ("es", dpop_header("es"), dpop_claims(iat=NOW - 59.5, exp=NOW + 1, nbf=NOW)),
        "iat-true": ("es", dpop_header("es"), dpop_claims(iat=True)),
        "no-jti": ("es", dpop_header("es"), dpop_claims(jti=None)),
        "no-ath": ("es", dpop_header("es"), dpop_claims(ath=None)),
        "nested": ("es", dpop_header("es", x=[[{}]]), dpop_claims(x=[[[{"a": [1, None, "\u20ac"]}]]])),
    }
    lines = {name: b"\n".join((key.encode(), _json(head), _json(body))) for name, (key, head, body) in signed.items()}
    proof = dpop_proof()
    raw = {
        "good": proof,
        "two": f"{proof},{proof}",
        "unsigned": f"{proof.rpartition('.')[0]}.",
        "two-parts": proof.rpartition(".")[0],
        "dots-only": "..",
        "stranger": SIGNERS["stranger"].sign_json(_json(dpop_header("stranger")), _json(dpop_claims())),
    }
    twice = lines["signed-by-es"][:-1] + b',"htu":"https://thief.example/"}'
    return lines | {name: text.encode() for name, text in raw.items()} | {"twice": twice}


def _octets(encoded: str) -> bytes:
    return base64.urlsafe_b64decode(encoded + "==")


def _key_with_short_x() -> dict[str, Any]:
    """A key on P-256 whose x is written without its leading zero octet."""
    numbers = iter(range(1, 10_000))
    while True:
        jwk = Signer("ES256", key=ec.derive_private_key(next(numbers), ec.SECP256R1())).jwk()
        if (octets := _octets(jwk["x"])).startswith(b"\0"):
            return jwk | {"x": base64url(octets[1:])}


def key_set() -> Seeds:
    short = _key_with_short_x()
    own = json.loads(published(MAIN))["keys"]
    made: dict[str, Any] = {
        "published": own,
        "in-part": [own[0], {"kty": "oct", "k": "c2VjcmV0LW9mLXRoZS1jbGllbnQ"}, own[1] | {"use": "enc"}],
        "private": json.loads((TESTS / "fuzz" / "keys.json").read_text())[2:4],
        "key-ops": [own[2] | {"key_ops": ["verify"], "x5c": ["MIIB"], "x5t": "abc"}, own[2] | {"key_ops": ["sign"]}],
        "alg": [own[0] | {"alg": "PS512"}, own[1] | {"alg": "RS256"}, own[2] | {"alg": "HS256"}],
        "small": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}],
        "types": [7, None, [], {}, {"kty": 7}, {"kty": "EC", "crv": []}, {"kty": "RSA", "n": 7, "e": "AQAB"}],
        "rfc-signatures": [vector["jwk"] for vector in SIGNATURES],
        "none": [],
        "many": [own[2]] * 9,
        "null-members": [own[0] | dict.fromkeys(("use", "key_ops", "alg", "x5c", "d")), None],
        "empty-members": [own[0] | {"use": "", "key_ops": [], "alg": "", "x5c": []}],
        "coordinates": [short, short | {"x": base64url(bytes(2) + _octets(short["x"]))}],
        "edwards": [own[2] | {"alg": "Ed25519"}, own[2] | {"alg": "Ed448"}],
        "ml-dsa": [Signer("ML-DSA-44", key=mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32))).jwk()],
        "ml-dsa-private": [{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "priv": "A" * 43}, own[2]],
        "jwt-svid": [own[0] | {"use": "jwt-svid"}],
    }
    published_ones = {file.stem.replace("_", "-"): file.read_bytes() for file in KEY_SETS}
    return {name: _json({"keys": keys}) for name, keys in made.items()} | published_ones | {"no-set": b'{"keys": 7}'}


def pem() -> Seeds:
    keys = {name: signer.key for name, signer in SIGNERS.items()}
    form = PublicFormat.SubjectPublicKeyInfo
    public = {name: key.public_key().public_bytes(Encoding.PEM, form) for name, key in keys.items()}
    subject, at = x509.Name([]), datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(subject, subject, keys["ed"].public_key(), 1, at, at)
    certificate = builder.sign(keys["ed"], None).public_bytes(Encoding.PEM)
    secret = keys["ed"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        **public,
        "all": b"".join(public.values()),
        "pkcs1": keys["rs"].public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "certificate": b"# issued by our own CA\r\n" + certificate + public["es"],
        "private": public["ed"] + secret,
        "in-part": public["ed"] + b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
        "cut": public["rs"][:-20],
        "many": public["ed"] * 9,
        "no-pem": b"{}",
    }


def client_certificate() -> Seeds:
    """As Envoy 1.40 sends them, and what a client may put before that."""
    encoded = quote(RFC_8705, safe="-")
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(RFC_8705)).hexdigest()
    real = f'By=spiffe://server;Hash={digest};Cert="{encoded}";Subject="CN=mtls";URI='
    made = {
        "peer": f"0{encoded}",
        "peer-plain": f"0{RFC_8705}",
        "peer-two": f"0{encoded}{encoded}",
        "peer-cut": f"0{encoded[:-40]}",
        "none": "0",
        "own": f"1{real}",
        "cert-only": f'1Cert="{encoded}"',
        "hash-only": f"1Hash={digest.upper()}",
        "second": f'2{real},By=spiffe://sidecar;Hash={"0" * 64};Subject="";URI=spiffe://gateway;DNS=a;DNS=b',
        "beyond": f"2{real}",
        "no-hash": "1By=spiffe://server;URI=",
        "disagree": f'1Hash={"0" * 64};Cert="{encoded}"',
        "twice": f"1Hash={digest};hash={digest}",
        "open-quote": f'1Hash={digest};Subject=",{real}',
        "open-escape": f'1Hash={digest};Subject="\\,{real}',
        "quoted-commas": f'1Subject="a,b;Hash=c\\",Hash=d", {real}',
        "escapes": r'1Hash=aa;Subject="CN=a\,b\;c=d\+e \ \C3\BC\0A\\"',
        "spaces": f"1 {real} ,\t{real} ",
        "empty": f"1,{real},",
    }
    return {name: text.encode() for name, text in made.items()}


def introspection_answer() -> Seeds:
    made: dict[str, tuple[int, Any]] = {
        "rfc7662": (0, {"active": True, "client_id": "l238j323ds-23ij4", "username": "jdoe", "scope": "read dolphin",
                        "sub": "Z5O3upPC88QrAjx00dis", "aud": AUDIENCE, "iss": MAIN, "exp": NOW + 60, "iat": NOW}),
        "active": (0, {"active": True} | claims()),
        "active-jwt": (1, {"active": True} | claims()),
        "of-another": (1, {"active": True} | claims(sub="bob")),
        "of-another-issuer": (0, {"active": True} | claims(OTHER)),
        "inactive": (0, {"active": False}),
        "active-in-words": (0, {"active": "true"} | claims()),
        "no-exp": (0, {"active": True} | claims(exp=None)),
        "expired": (0, {"active": True} | claims(exp=NOW - 600)),
        "expired-jwt": (1, {"active": True, "exp": NOW - 600}),
        "id-token": (0, {"active": True, "nonce": "n"} | claims()),
        "token-type": (0, {"active": True, "token_type": "Bearer", "typ": "Bearer"} | claims()),
        "refresh": (0, {"active": True, "token_type": "refresh_token"} | claims()),
        "wrong-types": (0, {"active": True} | claims(sub=7)),
        "list": (0, [{"active": True}]),
    }  # fmt: skip
    for place, provider in enumerate(PROVIDERS[:6]):
        members = provider["claims"] | {"active": True, "iss": MAIN, "exp": NOW + 600}
        made[f"provider-{place:02}"] = (0, members)
    return {name: bytes((first,)) + _json(members) for name, (first, members) in made.items()} | {
        "twice": b'\0{"active": false, "active": true}'
    }


def provider_answer() -> Seeds:
    ok, body = "HTTP/1.1 200 OK\r\n", '{"keys": []}'
    sized = f"{ok}Content-Length: {len(body)}\r\n"
    text = {
        "sized": f"{sized}Content-Type: application/json\r\nCache-Control: public, max-age=60\r\nAge: 5\r\n\r\n{body}",
        "chunked": f"{ok}Transfer-Encoding: chunked\r\n\r\n5;a=b\r\n{body[:5]}\r\n7\r\n{body[5:]}\r\n0\r\na: b\r\n\r\n",
        "early-hints": f"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{sized}\r\n{body}",
        "until-the-end": f"{ok}\r\n{body}",
        "old": f"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: {len(body)}\r\n\r\n{body}",
        "not-modified": 'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
        "busy": "HTTP/1.1 503 Busy\r\nRetry-After: Thu, 01 Jan 2099 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
        "seconds": "HTTP/1.1 429 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n",
        "both-lengths": f"{ok}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
        "too-long": f"{ok}Content-Length: 2001\r\n\r\n",
        "more-behind": f"{sized}\r\n{body}HTTP/1.1 200 OK\r\n\r\n",
        "tunnel": "HTTP/1.1 200 Connection established\r\n\r\n",
        "tunnel-refused": "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        "no-http": "SSH-2.0-OpenSSH\r\n",
        "folded": f"{ok}A: b\r\n c\r\n\r\n",
        "cut": sized,
    }
    packed = {
        "gzip": b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(body.encode(), mtime=0),
        "deflate": b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(body.encode()),
        "bomb": b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b" " * 100_000, mtime=0),
    }
    octets = {name: each.encode() for name, each in text.items()}
    octets |= {name: ok.encode() + each for name, each in packed.items()}
    return {name: b"\x03" + each for name, each in octets.items()} | {"waits": b"\x02" + octets["cut"]}


def requirements() -> Seeds:
    owner = {"any_of": [{"claims": {"roles": {"contains": "admin"}}}, {"claims": {"account": {"equals_path": "id"}}}]}
    workload = {"issuers": ["workloads"], "claims": {"k\\.io.n": "x"}}
    both = {"any_of": [{"issuers": ["people"], "scopes": ["read"]}, workload]}
    tenants = {"claims": {"tenants": {"contains_header": "x-tenant"}}}
    values: dict[str, Any] = {
        "owner": {"require": owner, "claims": {"account": 7}, "captures": {"id": "7"}},
        "admin": {"require": owner, "claims": {"roles": "admin"}, "other": {"any_of": owner["any_of"][::-1]}},
        "stranger": {"require": owner, "claims": {"roles": ["x"], "account": [7]}, "captures": {"id": "7"}},
        "person": {"require": both, "scopes": ["admin"], "scope_implies": {"admin": ["write"], "write": ["read"]}},
        "workload": {"require": both, "issuer": 1, "claims": {"k.io": {"n": "x"}}},
        "tenant": {"require": tenants, "claims": {"tenants": ["a", "b"]}, "headers": [["x-tenant", " b\t"]]},
        "two-tenants": {"require": tenants, "claims": {"tenants": ["a"]}, "headers": [["x-tenant", "a"]] * 2},
        "disguised": {
            "require": tenants,
            "claims": {"tenants": ["a"]},
            "headers": [["x-tenant", "a"], ["x_tenant", "b"]],
        },
        "audiences": {
            "require": {"any_of": [{"audiences": ["b"]}, {"clients": ["c"]}]},
            "audiences": ["b"],
            "client": "c",
        },
        "groups": {
            "require": {"claims": {"g": {"contains_any": ["ops", 1]}, "a": {"contains_all": ["x", "y"]}}},
            "claims": {"g": ["dev", 1], "a": ["y", "x"]},
            "other": {"claims": {"g": {"present": True}, "a": {"contains": "x"}}},
        },
        "affixes": {
            "require": {"claims": {"e": {"suffix": "@x"}, "s": {"prefix": "ns:"}, "n": {"in": [1, "1", True]}}},
            "claims": {"e": "a@x", "s": ["ns:a"], "n": 1.0},
        },
        "forbidden": {
            "require": {"scopes": {"any": ["a:{id}"], "none": ["x"]}, "acr_values": ["mfa"]},
            "scopes": ["a:7"],
            "claims": {"acr": "mfa"},
            "captures": {"id": "7"},
        },
        "paths": {
            "require": {"claims": {"t": {"contains_path": "id"}, "o": {"equals_header": "h"}, "z": {"absent": True}}},
            "claims": {"t": [7, "8"], "o": "v", "z": None},
            "captures": {"id": "8"},
            "headers": [["h", "v"]],
        },
        "bound": {
            "require": {"proof": "any", "any_of": [{"proof": "mtls", "clients": ["b"]}, {"proof": "dpop"}]},
            "claims": {"cnf": {"jkt": "A" * 43}},
            "other": {"proof": "any"},
        },
        "unbound": {"require": {"proof": "mtls"}, "claims": {"cnf": {"jkt": "A" * 43}}, "other": {"proof": "mtls"}},
        "no-rule": {"require": {"any_of": [{}]}},
    }
    return {name: _json(value) for name, value in values.items()}


def snapshot() -> Seeds:
    own = json.loads(published(MAIN))["keys"]
    made: dict[str, Any] = {
        "good": {"issuer": MAIN, "at": float(NOW), "keys": own},
        "of-another": {"issuer": OTHER, "at": float(NOW), "keys": own},
        "no-time": {"issuer": MAIN, "at": True, "keys": own},
        "large-time": {"issuer": MAIN, "at": 10**39, "keys": own[2:]},
        "no-keys": {"issuer": MAIN, "at": 0, "keys": []},
        "list": [],
    }
    return {name: _json(document) for name, document in made.items()} | {"cut": _json(made["good"])[:-2]}


def configuration() -> Seeds:
    root = TESTS.parent
    shipped = {f"example-{file.parent.name}": file.read_bytes() for file in root.glob("examples/*/config.yaml")}
    tested = {
        f"test-{file.stem}".replace("_", "-"): file.read_bytes()
        for file in (TESTS / "config" / "examples").glob("*.yaml")
    }
    rules = "issuers: [{issuer: https://a.example, audiences: [b]}]\nrules:\n"
    made = {
        "small": f"{rules}- {{name: all}}\n",
        "language": f"{rules}"
        "- name: a\n"
        "  match: {hosts: ['*.a.example'], methods: [GET], paths: ['/v1/{id}/**'], headers: {x-a: b}}\n"
        "  require:\n"
        "    scopes: {any: [a, 'b:{id}'], none: [c]}\n"
        "    claims: {a.b: {in: [1, x, true]}, 'c\\.d': {equals_path: id}, e: {absent: true}}\n"
        "    max_auth_age: 5m\n"
        "    acr_values: ['urn:x']\n"
        "- {name: b, policy: p, access: optional, mode: shadow}\n"
        "cors_preflight: allow\n",
        "bound": "issuers: [{issuer: https://a.example, audiences: [b], confirmation: ignore}, "
        "{issuer: https://c.example, audiences: [d]}]\n"
        "rules:\n"
        "- {name: a, match: {paths: [/a]}, require: {proof: dpop}}\n"
        "- {name: b, require: {any_of: [{proof: mtls}, {proof: any}]}, credential: {header: x-token}}\n"
        "dpop: {nonce: required, nonce_key_file: secret, max_age: 30s, algorithms: [ES256], origins: ['https://a']}\n"
        "mtls: {certificate: xfcc, xfcc_hops: 2}\n"
        "server: {workers: 2}\n",
        "never-proven": "issuers: [{issuer: https://a.example, audiences: [b], confirmation: ignore}]\n"
        "rules:\n"
        "- {name: a, match: {paths: [/a]}, require: {proof: dpop}, credential: {header: x-token}}\n"
        "- {name: b, require: {any_of: [{proof: any}, {clients: [c]}]}}\n"
        "dpop: {nonce: off, nonce_key_file: secret, max_age: 6m, origins: ['http://a']}\n",
        "files": f"{rules}- {{name: all}}\n"
        "server:\n"
        "  tls: {certificate_file: tls.crt, key_file: tls.key, client_ca_file: ca.crt}\n"
        "  grpc_address: unix:a.sock\n",
        "anchors": "issuers:\n- &j {issuer: https://a.example, audiences: [b]}\nrules: [{<<: *j, name: a}]\n",
        "scalars": f"{rules}- {{name: 0x1, mode: ~, access: yes, policy: 2026-01-01, match: 1_0, require: 1e3}}\n",
        "tags": f"{rules}- !!python/object:os.system {{name: !!str a}}\n",
        "alias-bomb": "a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n",
        "deep": "[" * 40,
        "twice": f"{rules}- {{name: a, name: b}}\nrules: []\n",
        "two-documents": "a: 1\n---\nb: 2\n",
        "block-scalar": f"{rules}- name: >-\n    a\n",
        "no-utf8": "a: \xff",
        "empty": "",
    }
    return shipped | tested | {name: text.encode("latin-1") for name, text in made.items()}


def cases() -> Seeds:
    made: dict[str, list[dict[str, Any]]] = {
        "passes": [
            {
                "name": "a reader reads",
                "request": {"method": "GET", "url": "https://api.example/orders/7"},
                "token": {"issuer": "main", "scope": "read"},
                "expect": {"decision": "allow", "rule": "orders", "upstream": {"x-auth-scopes": "read"}},
            },
            {
                "name": "no token",
                "request": {"url": "https://api.example/orders/7"},
                "expect": {"decision": "deny", "status": 401, "reason": "missing_token"},
            },
        ],
        "fails": [
            {
                "name": "raw",
                "request": {"url": "https://api.example/admin", "headers": {"x-a": "b"}, "policy": "internal"},
                "token": tokens()["admin"],
                "expect": {"decision": "allow", "challenge": None, "mode": "shadow"},
            }
        ],
        "strange": [
            {
                "name": "times",
                "request": {"method": "get", "url": "http://[::1]:80?x"},
                "token": {"issuer": "other", "exp": "-5m", "iat": None, "nbf": [], "header": {"kid": None}, "sub": 7},
                "expect": {"status": 400},
            },
            {
                "name": "stranger",
                "request": {"url": "https://a/items/7"},
                "token": {"issuer": "main", "signed_by": "stranger"},
                "expect": {"reason": "bad_signature"},
            },
        ],
        "proofs": [
            {
                "name": proof,
                "request": {"method": "POST", "url": "https://api.example/orders/7?x", "headers": headers},
                "token": {"issuer": "main", "scope": "read", "cnf": cnf},
                "proof": proof,
                "expect": {"reason": "ok"},
            }
            for proof, headers, cnf in (
                ("dpop", {}, {}),
                ("mtls", {"x-forwarded-client-cert": "Hash=00"}, {"jkt": "A" * 43}),
                ("stolen", {"dpop": "a.b.c"}, None),
                ("none", {}, {"x5t#S256": "A" * 43}),
            )
        ],
        "unprovable": [
            {"name": "a", "request": {"url": "https://a/"}, "proof": "dpop", "expect": {"status": 401}},
            {"name": "b", "request": {"url": "https://a/"}, "token": "x", "proof": "mtls", "expect": {"status": 401}},
        ],
        "rejected": [{"name": "a", "request": {"url": "/"}, "token": {"issuer": "x"}, "expect": {"rule": "x"}}],
    }
    texts = {name: _json({"cases": read}) for name, read in made.items()}
    plain = b"cases:\n- name: a\n  request: {url: 'https://a/public/x'}\n  expect: {decision: allow, reason: public}\n"
    return texts | {"yaml": plain, "none": b"cases: []\n"}


def revocations() -> Seeds:
    made = {
        "each": "revocations:\n"
        "- {jti: a}\n"
        "- {issuer: main, subject: u, issued_before: 2026-01-31T12:00:00Z}\n"
        f"- {{issuer: '{OTHER}', session: s, kid: k, client: c}}\n"
        "- {issued_before: 1769860800}\n",
        "same": "revocations: [{jti: a}, {jti: a, issued_before: '2026-01-31 13:00:00.5+01:00'}, {subject: a}]\n",
        "none": "revocations: []\n",
        "empty-entry": "revocations: [{}]\n",
        "null": "revocations: [{jti: }, ~]\n",
        "unknown": "revocations: [{issuer: mian}, {sub: a}, {subject: 7}]\n",
        "times": "revocations: [{issued_before: .inf}, {issued_before: 2026}, {issued_before: 2026-02-31T12:00:00Z}]\n",
        "cut": "revocations:\n- {jti: a}\n- {jti:",
        "aliases": "revocations: [&a {jti: a}, *a, {<<: *a, kid: k}]\n",
        "empty": "",
    }
    return {name: text.encode() for name, text in made.items()}


def poll_response() -> Seeds:
    text = "eyJ0eXAiOiJzZWNldmVudCtqd3QifQ.e30.c2ln"
    made: dict[str, Any] = {
        "rfc8936": {"sets": {"4d3559ec67504aaba65d40b0363faad8": "eyJhbGciOiJub25lIn0.e30.",
                             "3d0c3cf797584bd193bd0fb1bd4e7d30": "eyJhbGciOiJub25lIn0.e30."}},
        "none": {"sets": {}},
        "keycloak": {"sets": {"8a6f3d9e-3f0d-4b0e-9d0f-6b1f4f0c2a11": text}, "moreAvailable": False},
        "more": {"sets": {"1": text}, "moreAvailable": True},
        "more-in-words": {"sets": {"1": text}, "moreAvailable": "true"},
        "too-many": {"sets": {str(number): "a.b.c" for number in range(60)}},
        "no-sets": {"moreAvailable": False},
        "list": {"sets": [text]},
        "wrong-types": {"sets": {"1": 7, "2": None, "3": [text], "4": {"jti": text}, "": "", "\u00e9\u0000": "é"}},
        "deep": {"sets": {"1": [[[[[[[[]]]]]]]]}},
        "array": [],
    }  # fmt: skip
    return {name: _json(value) for name, value in made.items()} | {
        "duplicate": b'{"sets":{"1":"a"},"sets":{}}',
        "duplicate-jti": b'{"sets":{"1":"a","1":"b"}}',
        "surrogate": b'{"sets":{"\\ud800":"a"}}',
        "not-utf8": b'{"sets":{"\xff":"a"}}',
        "mark": b'\xef\xbb\xbf{"sets":{"1":"a"}}',
        "half": b'{"sets":{"1":"a',
        "values": b'{"sets":{},"a":[' + b"1," * 3900 + b"1]}",
        "brackets": b'{"sets":{"1":"' + b"," * 4100 + b'"}}',
        "too-large": b'{"sets":{"1":1e999}}',
        "digits": b'{"sets":{"1":' + b"1" * 50 + b"}}",
        "nan": b'{"sets":{"1":NaN}}',
    }


def event_file() -> Seeds:
    header = _json({"version": 1, "issuer": MAIN, "id": "0123"}) + b"\n"
    line = b'{"subject":"u1","issued_before":1800000000.5,"type":"session-revoked"}\n'
    made = {
        "lines": line + line.replace(b"u1", b"u2") + line.replace(b"000.5", b"001"),
        "session": b'{"session":"s","issuer":"https://idp.example/t1","issued_before":1,"type":"account-purged"}\n',
        "each-part": b'{"issuer":"a","subject":"b","client":"c","session":"d","jti":"e","kid":"f","issued_before":0}\n',
        "other-type": line.replace(b"session-revoked", b"a-later-one"),
        "escapes": line.replace(b"u1", b"\\u00e9\\ud83d\\ude00\\n\\u0000"),
        "incomplete": line + line[:30],
        "without-end": line[:-1],
        "crashed": line[:30] + b"\n" + line,
        "joined": line[:-1] + line,
        "no-parts": b'{"issued_before":1,"type":"session-revoked"}\n{"client":"c","issued_before":1}\n',
        "unknown-part": b'{"subject":"u","device":"d","issued_before":1}\n',
        "times": b"".join(line.replace(b"1800000000.5", time) for time in (b"1e308", b"-1", b"NaN", b"true", b"1e999")),
        "twice": b'{"subject":"a","subject":"b","issued_before":1}\n',
        "surrogate": line.replace(b"u1", b"\\ud800"),
        "deep": b'{"subject":"a","issued_before":1,"type":' + b"[" * 31 + b"]" * 31 + b"}\n",
        "blank": b"\n\r\n" + line,
        "empty": b"",
    }
    headers = {
        "of-another": header.replace(MAIN.encode(), OTHER.encode()) + line,
        "later-version": header.replace(b": 1", b": 2") + line,
        "half-a-header": header[:-1],
        "no-header": line,
        "nothing": b"",
        "keys": _json({"issuer": MAIN, "at": float(NOW), "keys": []}),
    }
    return {name: header + lines for name, lines in made.items()} | headers


def security_event() -> Seeds:
    caep, risc = (f"https://schemas.openid.net/secevent/{name}/event-type/" for name in ("caep", "risc"))
    ssf = "https://schemas.openid.net/secevent/ssf/event-type/"
    user, session = {"format": "iss_sub", "iss": MAIN, "sub": "u1"}, {"format": "opaque", "id": "s1"}
    own = {"iss": MAIN, "aud": "https://receiver.example", "iat": NOW, "jti": "j1", "sub_id": user}
    revoked = {f"{caep}session-revoked": {"event_timestamp": NOW - 60, "initiating_entity": "admin"}}
    made: dict[str, Any] = {
        "session": {"sub_id": {"format": "complex", "user": user, "session": session}},
        "keycloak": {"sub_id": {"user": {"format": "email", "email": "u@a.example"}, "session": session}},
        "all-sessions": {"sub_id": {"user": user, "session": {"format": "opaque", "id": "ALL"}}},
        "tenant": {"sub_id": {"format": "complex", "user": user, "tenant": {"format": "opaque", "id": "t"}}},
        "aliases": {"sub_id": {"format": "aliases", "identifiers": [user, session, {"format": "did", "url": "x"}]}},
        "disabled": {"events": {f"{risc}account-disabled": {"reason": "hijacking"}}},
        "several": {"events": {f"{risc}account-purged": {}, f"{risc}sessions-revoked": {}, "urn:x": None}},
        "draft": {"sub_id": None, "events": {f"{caep}session-revoked": {"subject": {"user": user}}}},
        "verification": {"sub_id": session, "events": {f"{ssf}verification": {"state": "x"}}},
        "stopped": {"sub_id": session, "events": {f"{ssf}stream-updated": {"status": "paused"}}},
        "stopped-nested": {"events": {f"{ssf}stream-updated": {"status": {"status": "disabled"}}}},
        "audiences": {"aud": ["x", "https://receiver.example"]},
        "another-audience": {"aud": "x"},
        "another-issuer": {"iss": OTHER},
        "stranger": {"iss": "https://evil.example/"},
        "email": {"sub_id": {"format": "email", "email": "u@a.example"}},
        "of-another": {"sub_id": user | {"iss": OTHER}},
        "no-events": {"events": {}},
        "many-events": {"events": {str(number): {} for number in range(17)}},
        "milliseconds": {"events": {f"{caep}session-revoked": {"event_timestamp": NOW * 1000}}},
        "future": {"iat": NOW + 60},
        "no-jti": {"jti": ""},
    }
    typ = b"secevent+jwt\n"
    seeds = {
        name: typ + _json({member: value for member, value in (own | {"events": revoked} | each).items() if value})
        for name, each in made.items()
    }
    plain = _json(own | {"events": revoked})
    return seeds | {"full-type": b"application/secevent+JWT\n" + plain, "access-token": b"at+jwt\n" + plain,
                    "duplicate": typ + plain[:-1] + b',"iss":"x"}', "cut": typ + plain[:-5]}  # fmt: skip


SEEDS = {
    "path": path,
    "header_blocks": header_blocks,
    "health_response": health_response,
    "service_request": service_request,
    "frames": frames_,
    "call_head": call_head,
    "check_request": check_request_,
    "token": token,
    "dpop": dpop,
    "key_set": key_set,
    "pem": pem,
    "client_certificate": client_certificate,
    "introspection_answer": introspection_answer,
    "provider_answer": provider_answer,
    "poll_response": poll_response,
    "requirements": requirements,
    "snapshot": snapshot,
    "event_file": event_file,
    "security_event": security_event,
    "configuration": configuration,
    "cases": cases,
    "revocations": revocations,
}


def main() -> None:
    """Replace the seeds of every target."""
    for name, made in SEEDS.items():
        folder = target.corpus(name)
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            if not file.name.startswith("found-"):
                file.unlink()
        for seed, octets in made().items():
            (folder / seed).write_bytes(octets)


if __name__ == "__main__":
    main()
