"""Wire to core and back: CheckRequest to Attributes, Decision to CheckResponse.

Nothing is decided here. Every response carries an explicit ``ok_response`` or ``denied_response`` beside its status,
so that no reader has to infer the decision. Header values are overwritten, never appended to the client's:
``append_action`` is always set, since Envoy's default adds a second value beside it.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

from authz_service._pb.base_pb2 import HeaderValueOption
from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from authz_service.core.attributes import Attributes
from authz_service.core.claims import Identity, UnverifiedIdentity
from authz_service.core.correlation import NO_CORRELATION, Correlation
from authz_service.core.decision import Allow, Answer, Decision, Deny, decision_label, deny_without_rule
from authz_service.core.errors import Rejected
from authz_service.core.headers import are_plain, combined
from authz_service.core.reasons import DENIALS, Denial, Reason, RpcCode
from authz_service.core.upstream_metadata import NO_METADATA

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from authz_service._pb.base_pb2 import HeaderValue
    from authz_service._pb.http_status_pb2 import StatusCode
    from authz_service.core.claims import Claims
    from authz_service.core.decision import Mode
    from authz_service.core.upstream_metadata import UpstreamMetadata

_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
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
# Responses to one token under one rule, and equal denials and allowances without headers, differ in the decision id
# alone, a field of the dynamic metadata.
_ID_PLACEHOLDER = "0123456789abcdef"
_ID_FIELD = Struct(fields={"decision_id": Value(string_value=_ID_PLACEHOLDER)}).SerializeToString()
_MAX_NUMBER_KEPT = 512  # denials, and as many allowances, that are kept encoded
_MAX_KEPT = 1024  # characters of what requests determine in one of them; a subject alone may be longer
_MAX_COMMON = 1024  # encoded names of rules and issuers, with a reason, that are kept


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
    response = _encode_or_reuse(decision, decision_id, attributes, metadata)
    return response if correlation is NO_CORRELATION else response + _encode_correlation(correlation)


def _encode_or_reuse(decision: Decision, decision_id: str, attributes: Attributes, metadata: UpstreamMetadata) -> bytes:
    if len(decision_id) != len(_ID_PLACEHOLDER):
        return _encode(decision, decision_id, attributes, metadata)
    if isinstance(decision, Allow) and decision.cached is not None:
        parts = decision.cached.attached
        if parts is None:
            parts = decision.cached.attach(_split_at_id(_encode(decision, _ID_PLACEHOLDER, attributes, metadata)))
        more = b""
    else:
        parts = _kept_parts(decision, attributes)
        more = _encode_claims(decision.claims, metadata) if metadata and decision.claims is not None else b""
    if not parts:
        return _encode(decision, decision_id, attributes, metadata)
    return decision_id.encode().join(parts) + more


def _kept_parts(decision: Decision, attributes: Attributes) -> tuple[bytes, ...]:
    """The bytes before and after the decision id, without configured metadata; empty if they are not kept."""
    if isinstance(decision, Answer) or decision.response_headers:
        return ()
    identity, scope = _identity_of(decision)
    varying = decision.challenges if isinstance(decision, Deny) else decision.remove
    if sum(map(len, (*identity, scope, *varying))) > _MAX_KEPT:
        return ()
    common = decision.reason, decision.rule, decision.mode, identity, scope
    if isinstance(decision, Deny):
        return _kept_denial(*common, decision.challenges, decision.retry_after, is_grpc(attributes))
    return () if decision.headers else _kept_allowance(*common, decision.remove)


def _encode_claims(claims: Claims, metadata: UpstreamMetadata) -> bytes:
    """The configured metadata of a token, as octets to append to an encoded response."""
    response = CheckResponse()
    for name, value in metadata.for_token(claims).items():
        _set_value(response.dynamic_metadata.fields[name], value)
    return response.SerializeToString()


@lru_cache(_MAX_NUMBER_KEPT)
def _kept_denial(
    reason: Reason,
    rule: str,
    mode: Mode,
    identity: Identity,
    scope: str,
    challenges: tuple[str, ...],
    retry_after: int | None,
    to_grpc: bool,  # noqa: FBT001 - all arguments are the key
) -> tuple[bytes, ...]:
    """The bytes of a denial before and after the decision id. The arguments are all that they depend on."""
    deny = Deny(reason, rule, challenges=challenges, retry_after=retry_after, mode=mode)
    response = CheckResponse()
    _set_deny(response, deny, to_grpc=to_grpc)
    _set_metadata(response, _ID_PLACEHOLDER, identity, scope)
    return _split_at_id(_serialize(response, deny, identity))


@lru_cache(_MAX_NUMBER_KEPT)
def _kept_allowance(
    reason: Reason, rule: str, mode: Mode, identity: Identity, scope: str, remove: tuple[str, ...]
) -> tuple[bytes, ...]:
    """As ``_kept_denial``, those of an allowance without headers for the upstream."""
    allow = Allow(reason, rule, remove=remove, mode=mode)
    response = CheckResponse()
    _set_allow(response, allow)
    _set_metadata(response, _ID_PLACEHOLDER, identity, scope)
    return _split_at_id(_serialize(response, allow, identity))


def _identity_of(decision: Decision) -> tuple[Identity, str]:
    """Whose token it was, if that was verified, and its scopes if it was valid."""
    if decision.claims is not None:
        return decision.claims.identity, decision.claims.scope
    identity = decision.identity
    return _NO_IDENTITY if identity is None or isinstance(identity, UnverifiedIdentity) else identity, ""


def _split_at_id(response: bytes) -> tuple[bytes, ...]:
    """The bytes before and after the decision id; empty if a claim looks like it, so that its place is ambiguous."""
    before, found, after = response.partition(_ID_FIELD)
    if not found or _ID_FIELD in after:
        return ()
    return before + _ID_FIELD.removesuffix(_ID_PLACEHOLDER.encode()), after


def _encode_correlation(correlation: Correlation) -> bytes:
    """The dynamic metadata that differ for each request, as octets to append to an encoded response.

    A reader of protobuf merges the two occurrences of a message field, so an encoded response can be reused.
    """
    request_id, trace_id, span_id, _ = correlation
    before_request_id, before_trace_id, before_span_id = _around_ids(len(request_id), len(trace_id), len(span_id))
    octets = before_request_id + request_id.encode()
    return octets + before_trace_id + trace_id.encode() + before_span_id + span_id.encode() if trace_id else octets


@cache
def _around_ids(*lengths: int) -> tuple[bytes, ...]:
    """The octets before each id, for ids of these lengths; there are few: only one id has different lengths."""
    names = ("request_id", "trace_id", "span_id")
    fields = {name: Value(string_value="0" * length) for name, length in zip(names, lengths, strict=True) if length}
    whole = CheckResponse(dynamic_metadata=Struct(fields=fields)).SerializeToString()
    entries = [
        Struct(fields={name: fields[name]}).SerializeToString()[:-length] if length else b""
        for name, length in zip(names, lengths, strict=True)
    ]
    head = whole[: len(whole) - sum(map(len, entries)) - sum(lengths)]
    return head + entries[0], *entries[1:]


def _encode(decision: Decision, decision_id: str, attributes: Attributes, metadata: UpstreamMetadata) -> bytes:
    response = CheckResponse()
    match decision:
        case Allow():
            _set_allow(response, decision)
        case Deny():
            _set_deny(response, decision, to_grpc=is_grpc(attributes))
        case Answer():
            _set_answer(response, decision)
    identity, scope = _identity_of(decision)
    _set_metadata(response, decision_id, identity, scope)
    if decision.claims is not None:
        for name, value in metadata.for_token(decision.claims).items():
            _set_value(response.dynamic_metadata.fields[name], value)
    return _serialize(response, decision, identity)


def _set_allow(response: CheckResponse, allow: Allow) -> None:
    response.status.SetInParent()
    ok = response.ok_response
    ok.SetInParent()
    _add_headers(ok.headers, allow.headers)
    ok.headers_to_remove.extend(allow.remove)
    _add_headers(ok.response_headers_to_add, allow.response_headers)


def _set_answer(response: CheckResponse, answer: Answer) -> None:
    """Set the answer. Envoy sends a ``denied_response`` as it is, whatever its status."""
    response.status.code = RpcCode.PERMISSION_DENIED
    denied = response.denied_response
    denied.status.code = cast("StatusCode", int(HTTPStatus.OK))
    denied.body = answer.body
    _add_headers(denied.headers, answer.headers)


def _add_headers(options: Any, headers: Iterable[tuple[str, str]]) -> None:
    """Add headers that overwrite those of other origins. Of a repeated name, the first one does."""
    seen: set[str] = set()
    for name, value in headers:
        option = options.add(append_action=_APPEND if name in seen else _OVERWRITE)
        option.header.key = name
        option.header.value = value
        seen.add(name)


def is_grpc(attributes: Attributes) -> bool:
    """Whether the request is a gRPC call."""
    content_type = attributes.headers.get("content-type", "")
    return content_type == _GRPC or content_type.startswith(_GRPC_CONTINUED)


def _set_deny(response: CheckResponse, deny: Deny, *, to_grpc: bool) -> None:
    """Set the denial. For a gRPC call, Envoy sends the body as ``grpc-message`` and keeps our ``grpc-status``.

    Without that header it would derive the status from the HTTP status, and 400 would become INTERNAL.
    """
    denial = DENIALS[deny.reason]
    response.status.code = denial.rpc_code
    denied = response.denied_response
    denied.status.code = cast("StatusCode", int(denial.status))
    denied.body = denial.detail if to_grpc else _PROBLEMS[deny.reason]
    headers = [("content-type", "text/plain" if to_grpc else "application/problem+json"), ("cache-control", "no-store")]
    if to_grpc:
        headers.append(("grpc-status", str(denial.rpc_code)))
    headers += [("www-authenticate", challenge) for challenge in deny.challenges]
    headers += deny.response_headers
    if deny.retry_after is not None:
        headers.append(("retry-after", str(deny.retry_after)))
    _add_headers(denied.headers, headers)


def _set_value(target: Value, value: Any) -> None:
    """Set a JSON value. A Value's numbers are doubles, so a whole number that one cannot express becomes a string."""
    match value:
        case None:
            target.null_value = NULL_VALUE
        case bool():
            target.bool_value = value
        case str():
            target.string_value = value
        case int() if abs(value) > _MAX_EXACT:
            target.string_value = str(value)
        case int() | float():
            target.number_value = value
        case list():
            target.list_value.SetInParent()
            for item in value:
                _set_value(target.list_value.values.add(), item)
        case dict():
            target.struct_value.SetInParent()
            for name, member in value.items():
                _set_value(target.struct_value.fields[name], member)
        case _:
            raise TypeError("not a JSON value")


def _set_metadata(response: CheckResponse, decision_id: str, identity: Identity, scope: str) -> None:
    """Dynamic metadata for Envoy's access log, rate limits and other filters. Every response has the same members.

    Nothing unverified is among them: a filter could take it for the truth. ``_serialize`` adds the other members.
    """
    fields = response.dynamic_metadata.fields
    fields["decision_id"].string_value = decision_id
    fields["subject"].string_value = identity.subject
    fields["client_id"].string_value = identity.client_id
    scopes = fields["scopes"].list_value
    scopes.SetInParent()
    if scope:
        for each in scope.split(" "):
            scopes.values.add().string_value = each


def _serialize(response: CheckResponse, decision: Decision, identity: Identity) -> bytes:
    """The octets of a response, after those of the dynamic metadata that many responses have in common."""
    label = decision_label(decision)
    common = _common_metadata(label, decision.reason, decision.rule, decision.mode, identity.issuer)
    return common + response.SerializeToString()


@lru_cache(_MAX_COMMON)
def _common_metadata(decision: str, reason: str, rule: str, mode: str, issuer: str) -> bytes:
    members = {"decision": decision, "reason": reason, "rule": rule, "mode": mode, "issuer": issuer}
    fields = {name: Value(string_value=str(value)) for name, value in members.items()}
    return CheckResponse(dynamic_metadata=Struct(fields=fields)).SerializeToString()
