"""Every message of a Check call gets an explicit decision, and no request gets around the rules.

The input is the message. Where it begins with a letter, the message is made of a request in lines: a method and a
target, then ``name: value`` for each header, ``+name: value`` for a raw one, ``@name: value`` for what the route adds.
``$NAME`` is the good token of that name.

* Whatever the bytes, the answer is an explicit CheckResponse, and never ``internal_error``.
* A cached token leads to the same decision as a new one.
* No request is allowed by a token that no issuer signed; nor, as any upstream might read the path, under ``/admin``
  without a token for that; nor, as any upstream might read the headers, as another version of an API than its rule's.
* No identity header from the client reaches the upstream, nor one that a CGI server takes for it.
* Metadata of a resource is answered for its host and path alone, always the same, and challenges name no other.
* ``explain`` ends in the same reason.
* Each decision is one line in the log. Neither the line, nor the answer, nor the output of ``explain`` holds a
  token's signature or the query string.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from google.protobuf.message import DecodeError
from transport.wire import Answer, read

from authz_service._pb.external_auth_pb2 import CheckRequest
from authz_service.transport.ext_authz.codec import decode_request
from fuzz.issuers import MAIN, OTHER, signing_inputs, tokens
from fuzz.secrets import is_secret
from fuzz.sidecar import IDENTITY, RESOURCES, logged, sidecar
from support import path_readers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service._pb.attribute_context_pb2 import AttributeContext

OUTCOMES = {
    *("ok", "public", "anonymous", "no_rule", "missing_token", "malformed_request", "malformed_token", "bad_signature"),
    *("unknown_key", "unknown_issuer", "expired", "ambiguous_path", "insufficient_scope", "claim_mismatch"),
    "resource_metadata",
}
MAX_BYTES = 4096
_METADATA_PATH = "/.well-known/oauth-protected-resource"
_PORT = re.compile(r"\.?(:[0-9]{0,5})?\Z")
_FAULTS = {"internal_error", "deadline_exceeded", "keys_unavailable"}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2: other names reach no upstream


def run(data: bytes) -> str:
    return _run(_message(data) if data[:1].isalpha() else data)


def _message(text: bytes) -> bytes:
    request = CheckRequest()
    http = request.attributes.request.http
    for name in sorted(tokens(), key=len, reverse=True):  # some begin as another one
        text = text.replace(b"$" + name.encode(), tokens()[name].encode())
    first, *lines = text.split(b"\n")
    method, _, target = first.decode("latin-1").partition(" ")
    http.method, http.path, http.host = method, target, "api.example"
    for line in lines:
        octets, _, raw = line.partition(b": ")
        name, value = octets.decode("latin-1"), raw.decode("latin-1")
        if name == "host":
            http.host = value
        elif name.startswith("+"):
            http.header_map.headers.add(key=name[1:], raw_value=raw)
        elif name.startswith("@"):
            request.attributes.context_extensions[name[1:]] = value
        else:
            http.headers[name] = value
    return request.SerializeToString()


def _run(data: bytes) -> str:
    service = sidecar()
    service.clear_caches()
    with logged() as lines:
        octets = service.answer(data), service.answer(data)
    answer, again = map(read, octets)
    assert _without_id(answer) == _without_id(again)
    assert answer.reason not in _FAULTS
    assert [json.loads(line)["event"] for line in lines.getvalue().splitlines()] == ["decision", "decision"]
    try:
        request = CheckRequest.FromString(data)
    except DecodeError:
        assert answer.reason == "malformed_request"
        return answer.reason
    explanation = service.explain(decode_request(data))
    assert json.loads(explanation)["reason"] == answer.reason
    http = request.attributes.request.http
    for secret in _secrets(http, data):
        assert secret.encode() not in octets[0]
        assert secret not in lines.getvalue() + explanation
    _require_configured_resources(answer, data)
    if answer.allowed:
        _require_identity_of_ours(answer, http)
        sent = {name for signed, name in signing_inputs().items() if signed.encode() in data}
        _require_right(answer, sent, request)
    return answer.reason


def _require_configured_resources(answer: Answer, data: bytes) -> None:
    attributes = decode_request(data)
    host = _PORT.sub("", attributes.host.lower())
    resource = RESOURCES.get(host)
    path = _METADATA_PATH + urlsplit(resource or "").path
    if answer.reason == "resource_metadata":
        assert resource is not None
        assert unquote(attributes.path.partition("?")[0]) == path
        assert answer.document is not None
        assert (answer.document["resource"], answer.document["authorization_servers"]) == (resource, [MAIN, OTHER])
    elif resource is not None and attributes.path == path and attributes.method in {"GET", "HEAD", "OPTIONS"}:
        assert answer.reason == "malformed_request"
    for url in re.findall('resource_metadata="([^"]*)"', answer.headers.get("www-authenticate", "")):
        assert answer.http_status in {401, 403}
        assert url == f"https://{host}{path}"


def _without_id(answer: Answer) -> tuple[object, ...]:
    metadata = {name: value for name, value in answer.metadata.items() if name != "decision_id"}
    return answer.allowed, answer.http_status, answer.headers, answer.removed, answer.problem, metadata


def _secrets(http: AttributeContext.HttpRequest, data: bytes) -> Iterator[str]:
    """Signatures and query strings that occur nowhere else in the request."""
    credentials = [value for name, value in _headers(http) if name in {"authorization", "x-jwt"}]
    signatures = [part for value in credentials for part in re.split(r"[ .]", value)[1:]]
    for secret in (*signatures, http.path.partition("?")[2]):
        if is_secret(secret, data):
            yield secret


def _headers(http: AttributeContext.HttpRequest) -> Iterator[tuple[str, str]]:
    for name, value in http.headers.items():
        yield name.lower(), value
    for each in http.header_map.headers:
        yield each.key.lower(), each.value or each.raw_value.decode("latin-1")


def _require_identity_of_ours(answer: Answer, http: AttributeContext.HttpRequest) -> None:
    for name in IDENTITY:
        assert (name in answer.headers) != (name in answer.removed)
    variables = {_cgi(name) for name in IDENTITY}
    for name, _ in _headers(http):
        if _TOKEN.fullmatch(name) and _cgi(name) in variables:
            assert name in answer.removed or name in answer.headers


def _cgi(name: str) -> str:
    """The variable that holds the header in a CGI program (RFC 3875 section 4.1.18)."""
    return re.sub("[^A-Z0-9]", "_", name.upper())


def _require_right(answer: Answer, sent: set[str], request: CheckRequest) -> None:
    """An issuer signed the token that allows the request, and for such a request."""
    if answer.reason == "ok":
        assert sent
        assert answer.headers["x-auth-subject"] in {"alice", "bob", "root"}
    if request.attributes.context_extensions.get("authz_policy") or answer.metadata["mode"] == "shadow":
        return
    http = request.attributes.request.http
    path = _forwarded(http).partition("?")[0]
    first = {reader(path)[0] for reader in path_readers.READERS.values()}
    if "admin" in first:
        assert answer.reason == "ok"
        assert "admin" in sent
    if "orders" in first and "2" in _versions(http):
        assert answer.metadata["rule"] == "orders-v2"


def _versions(http: AttributeContext.HttpRequest) -> set[str]:
    """Every value of x-api-version that an upstream might read, by HTTP/1.1 or as a CGI variable."""
    values = (value for name, value in _headers(http) if _TOKEN.fullmatch(name) and _cgi(name) == "X_API_VERSION")
    return {part.strip(" \t") for value in values for part in value.split(",")}


def _forwarded(http: AttributeContext.HttpRequest) -> str:
    """The path that Envoy forwards."""
    raw = [each.raw_value for each in http.header_map.headers if each.key == ":path" and each.raw_value]
    return raw[0].decode("latin-1") if raw else http.path
