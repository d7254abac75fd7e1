"""Wire to core and back: CheckRequest to Attributes, Decision to CheckResponse.

Nothing is decided here. Every response carries an explicit ``ok_response`` or ``denied_response`` beside its status,
so that no reader has to infer the decision. Header values are overwritten, never appended to the client's:
``append_action`` is always set, since Envoy's default adds a second value beside it.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from authz_service._pb.external_auth_pb2 import CheckRequest
from authz_service.core.attributes import Attributes
from authz_service.core.claims import Identity, UnverifiedIdentity
from authz_service.core.correlation import NO_CORRELATION, Correlation
from authz_service.core.decision import Allow, Answer, Decision, Deny, decision_label, deny_without_rule
from authz_service.core.errors import Rejected
from authz_service.core.headers import are_plain, combined
from authz_service.core.reasons import DENIALS, Denial, Reason, RpcCode
from authz_service.core.upstream_metadata import NO_METADATA
from authz_service.transport.protobuf_wire import encode_double, encode_number, encode_string

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from authz_service._pb.base_pb2 import HeaderValue
    from authz_service.core.claims import Claims
    from authz_service.core.decision import Mode
    from authz_service.core.upstream_metadata import UpstreamMetadata

# The numbers of the fields that a response is made of.
_STATUS, _DENIED, _OK, _METADATA = 1, 2, 3, 4  # CheckResponse
_CODE: Final = 1  # Status and HttpStatus
_DENIED_STATUS, _HEADERS, _BODY = 1, 2, 3  # DeniedHttpResponse; _HEADERS also OkHttpResponse
_REMOVED_HEADERS, _CLIENT_HEADERS = 5, 6  # OkHttpResponse
_HEADER, _APPEND_ACTION = 1, 3  # HeaderValueOption
_KEY, _VALUE = 1, 2  # HeaderValue, and an entry of a map
_NULL, _NUMBER, _STRING, _BOOL, _STRUCT, _LIST = 1, 2, 3, 4, 5, 6  # Value
_ITEMS: Final = 1  # Struct and ListValue
_OVERWRITE: Final = encode_number(_APPEND_ACTION, 2)  # OVERWRITE_IF_EXISTS_OR_ADD
_APPEND: Final = encode_number(_APPEND_ACTION, 0)  # APPEND_IF_EXISTS_OR_ADD
_NO_STATUS: Final = encode_string(_STATUS, b"")  # OK
_POLICY = "authz_policy"  # the context extension by which a route names its rule
_GRPC = "application/grpc"
# How the content types for which Envoy turns a denial into trailers go on, and one with a parameter (gRPC over HTTP/2,
# section Requests); not application/grpc-web, whose clients get an HTTP response.
_GRPC_CONTINUED = ("application/grpc+", "application/grpc;")
_PROBLEM_TYPE = "urn:authz-service:denial:"
_MAX_EXACT = 2**53
_RETRY_AFTER_OVERLOAD = 1  # seconds
_NO_IDENTITY = Identity("", "", "")
NO_ATTRIBUTES = Attributes("", "", "", {})  # of a request that cannot be read
_MAX_CACHED = 512  # encoded denials, and as many allowances
_MAX_CACHED_LENGTH = 1024  # of one of them, in strings from a request or token; a subject alone may be longer
_MAX_CACHED_METADATA = 1024  # encoded metadata that many responses have in common
_MAX_CACHED_NAMES = 256  # encoded names of headers and of members of the metadata
_MAX_CACHED_LENGTHS = 1024  # what comes before values of different lengths


def _problem(reason: Reason, denial: Denial) -> str:
    """The body of a denial (RFC 9457), made of the closed list of reasons alone."""
    document = {
        "type": _PROBLEM_TYPE + reason,
        "title": HTTPStatus(denial.status).phrase,
        "status": int(denial.status),
        "detail": denial.detail,
    }
    return json.dumps(document)


_PROBLEMS = {reason: _problem(reason, denial) for reason, denial in DENIALS.items()}


def deny_malformed(cause: str) -> Deny:
    """The denial of a request that cannot be read."""
    return deny_without_rule(Reason.MALFORMED_REQUEST, cause)


def deny_overloaded(cause: str) -> Deny:
    """The denial of a request that cannot be served now."""
    return Deny(Reason.DEADLINE_EXCEEDED, cause=cause, retry_after=_RETRY_AFTER_OVERLOAD)


NOT_A_CHECK_REQUEST = deny_malformed("not a CheckRequest, or larger than max_request_bytes")


def decode_request(data: bytes, traceparent: str = "") -> Attributes:
    """Decode a CheckRequest. ``traceparent`` is that of the call.

    The headers may be those of the message, which they keep alive, and whose values are decoded when they are read.

    Raises:
        Rejected: ``malformed_request``, if the bytes are not a CheckRequest.
    """
    try:
        request = CheckRequest.FromString(data)
    except DecodeError:
        raise Rejected(Reason.MALFORMED_REQUEST, "the bytes are not a CheckRequest") from None
    attributes = request.attributes
    http = attributes.request.http
    policy = attributes.context_extensions.get(_POLICY, "")
    raw = http.header_map.headers if http.HasField("header_map") else ()
    path = _raw_path(raw) if raw else ""
    certificate = attributes.source.certificate
    headers: Mapping[str, str] = http.headers
    plain = are_plain(headers)
    if raw or not plain:
        headers = _combined(headers, raw)
        plain = are_plain(headers)
    return Attributes(http.method, http.host, path or http.path, headers, policy, certificate, traceparent, plain)


def _raw_path(raw: Collection[HeaderValue]) -> str:
    """The path with its original bytes, which only raw headers keep: ``path`` has replaced those that are not UTF-8."""
    return next((each.raw_value.decode("latin-1") for each in raw if each.key == ":path" and each.raw_value), "")


def _combined(headers: Mapping[str, str], raw: Collection[HeaderValue]) -> dict[str, str]:
    """Every header, from both fields in which Envoy sends them (``encode_raw_headers`` selects one).

    The values of a repeated name, in whatever case, are combined: two credentials are seen as two.
    """
    return combined([*headers.items(), *((each.key, each.value or _decoded(each.raw_value)) for each in raw)])


def _decoded(raw_value: bytes) -> str:
    """Bytes that are not UTF-8 become U+FFFD, which no credential and no configured value contains."""
    return raw_value.decode("utf-8", "replace")


def encode_response(
    decision: Decision,
    decision_id: str,
    attributes: Attributes = NO_ATTRIBUTES,
    metadata: UpstreamMetadata = NO_METADATA,
    correlation: Correlation = NO_CORRELATION,
) -> bytes:
    """Encode the CheckResponse of a decision about a request. ``decision_id`` ties it to the log."""
    ids = _before_decision_id(len(decision_id)) + decision_id.encode()
    if correlation is not NO_CORRELATION:
        ids += _encode_correlation(correlation)
    return _encode_or_reuse(decision, attributes, metadata) + ids


def _encode_or_reuse(decision: Decision, attributes: Attributes, metadata: UpstreamMetadata) -> bytes:
    """A response without the ids of the request, in which alone the responses of a repeated decision differ."""
    if isinstance(decision, Allow) and decision.cached is not None:
        return decision.cached.attached or decision.cached.attach(_encode(decision, attributes, metadata))
    cached = _cached_response(decision, attributes)
    return _encode(decision, attributes, metadata) if cached is None else cached + _encode_claims(decision, metadata)


def _cached_response(decision: Decision, attributes: Attributes) -> bytes | None:
    """A response without ids and configured metadata; None if it is not cached."""
    if isinstance(decision, Answer) or decision.response_headers or (isinstance(decision, Allow) and decision.headers):
        return None
    identity, scope = _identity_of(decision)
    varying = decision.challenges if isinstance(decision, Deny) else decision.remove
    if sum(map(len, (*identity, scope, *varying))) > _MAX_CACHED_LENGTH:
        return None
    common = decision.reason, decision.rule, decision.mode, identity, scope
    if isinstance(decision, Deny):
        return _cached_denial(*common, decision.challenges, decision.retry_after, is_grpc(attributes))
    return _cached_allowance(*common, decision.remove)


@lru_cache(_MAX_CACHED)
def _cached_denial(
    reason: Reason,
    rule: str,
    mode: Mode,
    identity: Identity,
    scope: str,
    challenges: tuple[str, ...],
    retry_after: int | None,
    to_grpc: bool,  # noqa: FBT001 - all arguments are the key
) -> bytes:
    """A denial. The arguments are all that it depends on."""
    deny = Deny(reason, rule, challenges=challenges, retry_after=retry_after, mode=mode)
    return _encode_deny(deny, to_grpc=to_grpc) + _encode_metadata(deny, identity, scope)


@lru_cache(_MAX_CACHED)
def _cached_allowance(
    reason: Reason, rule: str, mode: Mode, identity: Identity, scope: str, remove: tuple[str, ...]
) -> bytes:
    """As ``_cached_denial``, an allowance without headers for the upstream."""
    allow = Allow(reason, rule, remove=remove, mode=mode)
    return _encode_allow(allow) + _encode_metadata(allow, identity, scope)


def _identity_of(decision: Decision) -> tuple[Identity, str]:
    """Whose token it was, if that was verified, and its scopes if it was valid."""
    if decision.claims is not None:
        return decision.claims.identity, decision.claims.scope
    identity = decision.identity
    return _NO_IDENTITY if identity is None or isinstance(identity, UnverifiedIdentity) else identity, ""


def _encode(decision: Decision, attributes: Attributes, metadata: UpstreamMetadata) -> bytes:
    if isinstance(decision, Allow):
        response = _encode_allow(decision)
    elif isinstance(decision, Deny):
        response = _encode_deny(decision, to_grpc=is_grpc(attributes))
    else:
        response = _encode_answer(decision)
    if decision.claims is None:
        return response + _encode_metadata(decision, *_identity_of(decision))
    response += _encode_metadata(decision, decision.claims, decision.claims.scope)
    return response + _encode_claims(decision, metadata)


def _encode_allow(allow: Allow) -> bytes:
    headers: list[bytes] = []
    for name, value in allow.headers:  # as by _encode_header, without a call for each
        octets = value.encode()
        headers += (_before_value(_HEADERS, name, len(octets), _OVERWRITE), octets, _OVERWRITE)
    headers += [encode_string(_REMOVED_HEADERS, name.encode()) for name in allow.remove]
    if allow.response_headers:
        headers.append(_encode_headers(_CLIENT_HEADERS, allow.response_headers))
    return _NO_STATUS + encode_string(_OK, b"".join(headers))


def _encode_answer(answer: Answer) -> bytes:
    """An answer. Envoy sends a ``denied_response`` as it is, whatever its status."""
    return _encode_denied(RpcCode.PERMISSION_DENIED, HTTPStatus.OK, answer.headers, answer.body)


def _encode_deny(deny: Deny, *, to_grpc: bool) -> bytes:
    """A denial. For a gRPC call, Envoy sends the body as ``grpc-message`` and keeps our ``grpc-status``.

    Without that header it would derive the status from the HTTP status, and 400 would become INTERNAL.
    """
    denial = DENIALS[deny.reason]
    headers = [("content-type", "text/plain" if to_grpc else "application/problem+json"), ("cache-control", "no-store")]
    if to_grpc:
        headers.append(("grpc-status", str(denial.rpc_code)))
    headers += [("www-authenticate", challenge) for challenge in deny.challenges]
    headers += deny.response_headers
    if deny.retry_after is not None:
        headers.append(("retry-after", str(deny.retry_after)))
    return _encode_denied(denial.rpc_code, denial.status, headers, denial.detail if to_grpc else _PROBLEMS[deny.reason])


def _encode_denied(code: int, status: int, headers: Iterable[tuple[str, str]], body: str) -> bytes:
    denied = encode_string(_DENIED_STATUS, encode_number(_CODE, status)) + encode_string(_BODY, body.encode())
    return encode_string(_STATUS, encode_number(_CODE, code)) + encode_string(
        _DENIED, denied + _encode_headers(_HEADERS, headers)
    )


def _encode_headers(field: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers that overwrite those of other origins. Of a repeated name, the first one does."""
    octets = b""
    seen: set[str] = set()
    for name, value in headers:
        octets += _encode_header(field, name, value, _APPEND if name in seen else _OVERWRITE)
        seen.add(name)
    return octets


def _encode_header(field: int, name: str, value: str, action: bytes = _OVERWRITE) -> bytes:
    octets = value.encode()
    return _before_value(field, name, len(octets), action) + octets + action


@lru_cache(_MAX_CACHED_LENGTHS)
def _before_value(field: int, name: str, length: int, action: bytes) -> bytes:
    """A header up to its value, which has this many octets. Names and lengths are few, and values many."""
    header = _encode_key(name) + encode_string(_VALUE, bytes(length))
    encoded = encode_string(field, encode_string(_HEADER, header) + action)
    return encoded[: len(encoded) - length - len(action)]


@lru_cache(_MAX_CACHED_NAMES)
def _encode_key(name: str) -> bytes:
    return encode_string(_KEY, name.encode())


def is_grpc(attributes: Attributes) -> bool:
    """Whether the request is a gRPC call."""
    content_type = attributes.headers.get("content-type", "")
    return content_type == _GRPC or content_type.startswith(_GRPC_CONTINUED)


def _encode_metadata(decision: Decision, identity: Identity | Claims, scope: str) -> bytes:
    """Dynamic metadata for Envoy's access log, rate limits and other filters. Every response has the same members.

    Nothing unverified is among them: a filter could trust it. The members are in several occurrences of one message
    field, which a reader of protobuf merges, so the bytes that many responses have in common can be reused.
    """
    encode_common = (
        _encode_common if len(identity.client_id) + len(scope) <= _MAX_CACHED_LENGTH else _encode_common.__wrapped__
    )
    label = decision_label(decision)
    common = encode_common(
        label, decision.reason, decision.rule, decision.mode, identity.issuer, identity.client_id, scope
    )
    subject = identity.subject.encode()
    return common + _before_subject(len(subject)) + subject


@lru_cache(_MAX_CACHED_LENGTHS)
def _before_subject(length: int) -> bytes:
    encoded = encode_string(_METADATA, _encode_member("subject", encode_string(_STRING, bytes(length))))
    return encoded[: len(encoded) - length]


@lru_cache(_MAX_CACHED_METADATA)
def _encode_common(decision: str, reason: str, rule: str, mode: str, issuer: str, client_id: str, scope: str) -> bytes:
    """The metadata that many responses have in common: subjects are many, clients and their scopes few."""
    members = {"decision": decision, "reason": str(reason), "rule": rule, "mode": mode}
    scopes = scope.split(" ") if scope else []
    return _encode_struct(members | {"issuer": issuer, "client_id": client_id, "scopes": scopes})


def _encode_claims(decision: Decision, metadata: UpstreamMetadata) -> bytes:
    """The configured metadata of a token."""
    if not metadata or decision.claims is None:
        return b""
    return _encode_struct(metadata.for_token(decision.claims))


def _encode_struct(members: Mapping[str, Any]) -> bytes:
    return encode_string(_METADATA, _encode_members(members))


def _encode_correlation(correlation: Correlation) -> bytes:
    """The ids of a request, which are dynamic metadata as well."""
    request_id, trace_id, span_id, _ = correlation
    first, second, third = _before_correlation(len(request_id), len(trace_id), len(span_id))
    octets = first + request_id.encode()
    return octets + second + trace_id.encode() + third + span_id.encode() if trace_id else octets


@cache
def _before_decision_id(length: int) -> bytes:
    return _before_ids(decision_id=length)[0]


@cache
def _before_correlation(*lengths: int) -> list[bytes]:
    """For ids of these lengths, of which there are few: only the request id has different ones."""
    return _before_ids(**dict(zip(("request_id", "trace_id", "span_id"), lengths, strict=True)))


def _before_ids(**lengths: int) -> list[bytes]:
    """The octets before each id."""
    members = [
        _encode_member(name, encode_string(_STRING, bytes(length)))[:-length] if length else b""
        for name, length in lengths.items()
    ]
    size = sum(map(len, members)) + sum(lengths.values())
    members[0] = encode_string(_METADATA, bytes(size))[:-size] + members[0]
    return members


def _encode_member(name: str, value: bytes) -> bytes:
    return encode_string(_ITEMS, _encode_key(name) + encode_string(_VALUE, value))


def _encode_members(members: Mapping[str, Any]) -> bytes:
    return b"".join([_encode_member(name, _encode_value(value)) for name, value in members.items()])


def _encode_value(value: Any) -> bytes:
    """A JSON value. A Value's numbers are doubles, so a whole number that one cannot express becomes a string."""
    match value:
        case str():
            return encode_string(_STRING, value.encode())
        case None | bool():
            return encode_number(_NULL, 0) if value is None else encode_number(_BOOL, value)
        case int() if abs(value) > _MAX_EXACT:
            return encode_string(_STRING, str(value).encode())
        case int() | float():
            return encode_double(_NUMBER, value)
        case list():
            items = [encode_string(_ITEMS, _encode_value(item)) for item in value]
            return encode_string(_LIST, b"".join(items))
        case dict():
            return encode_string(_STRUCT, _encode_members(value))
        case _:
            raise TypeError("not a JSON value")
