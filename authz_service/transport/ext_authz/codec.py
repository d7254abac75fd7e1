"""Wire to core and back: CheckRequest to Attributes, Decision to CheckResponse.

Law: nothing is decided here. Every answer carries an explicit ``ok_response`` or ``denied_response`` beside its status,
so that no reader has to guess. Header values are overwritten, never appended (``append_action`` is always given, since
Envoy's default adds a second value beside the client's).
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from authz_service._pb.base_pb2 import HeaderValueOption
from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from authz_service.core.attributes import Attributes
from authz_service.core.decision import Allow, Decision, Deny, deny_without_rule, verdict
from authz_service.core.errors import Rejected
from authz_service.core.headers import joined
from authz_service.core.reasons import DENIALS, Denial, Reason

if TYPE_CHECKING:
    from authz_service._pb.attribute_context_pb2 import AttributeContext
    from authz_service._pb.http_status_pb2 import StatusCode

_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_POLICY = "authz_policy"  # the context extension by which a route names its rule
# Where the one thing that differs stands in the answers for a token that is seen again: among the dynamic metadata.
_SOME_ID = "0123456789abcdef"
_ID_FIELD = Struct(fields={"decision_id": Value(string_value=_SOME_ID)}).SerializeToString()
_PROBLEM_TYPE = "urn:authz-service:denial:"


def _problem(reason: Reason, denial: Denial) -> str:
    """The body of a denial (RFC 9457): made of the closed list of reasons alone, once."""
    document = {
        "type": _PROBLEM_TYPE + reason,
        "title": HTTPStatus(denial.status).phrase,
        "status": int(denial.status),
        "detail": denial.detail,
    }
    return json.dumps(document)


_PROBLEMS = {reason: _problem(reason, denial) for reason, denial in DENIALS.items()}
_RETRY_AFTER_OVERLOAD = 1  # seconds


def unreadable(cause: str) -> Deny:
    """The decision about a request that cannot be read."""
    return deny_without_rule(Reason.MALFORMED_REQUEST, cause)


def overloaded(cause: str) -> Deny:
    """The decision about a request that cannot be served now."""
    return Deny(Reason.DEADLINE_EXCEEDED, cause=cause, retry_after=_RETRY_AFTER_OVERLOAD)


UNREADABLE = unreadable("not a CheckRequest, or larger than max_request_bytes")


def attributes_of(data: bytes) -> Attributes:
    """Read a CheckRequest.

    Raises:
        Rejected: ``malformed_request``, when the bytes are none.
    """
    try:
        request = CheckRequest.FromString(data)
    except DecodeError:
        raise Rejected(Reason.MALFORMED_REQUEST, "the bytes are no CheckRequest") from None
    http = request.attributes.request.http
    policy = request.attributes.context_extensions.get(_POLICY, "")
    return Attributes(http.method, http.host, _path(http), _headers(http), policy)


def _path(http: AttributeContext.HttpRequest) -> str:
    """The path with its very octets, which only raw headers keep: in ``path`` those that are not UTF-8 are replaced."""
    if http.HasField("header_map"):
        for each in http.header_map.headers:
            if each.key == ":path" and each.raw_value:
                return each.raw_value.decode("latin-1")
    return http.path


def _headers(http: AttributeContext.HttpRequest) -> dict[str, str]:
    """Every header, from both ways in which Envoy sends them (``encode_raw_headers`` chooses).

    A name that comes more than once, also in another case, has its values joined: so two credentials are seen as two.
    """
    headers = dict(http.headers)
    if not http.HasField("header_map") and "".join(headers).islower():  # as Envoy sends them
        return headers
    pairs = [*headers.items(), *((each.key, each.value or _text(each.raw_value)) for each in http.header_map.headers)]
    return joined(pairs)


def _text(raw: bytes) -> str:
    """Octets that are not UTF-8 become U+FFFD, which is in no credential and in no configured value."""
    return raw.decode("utf-8", "replace")


def response_of(decision: Decision, decision_id: str) -> bytes:
    """A CheckResponse that says what was decided. ``decision_id`` ties it to the log."""
    if isinstance(decision, Allow) and decision.cached is not None and len(decision_id) == len(_SOME_ID):
        parts = decision.cached.attached
        if parts is None:
            parts = decision.cached.attach(_around_id(_encoded(decision, _SOME_ID)))
        if parts:
            return decision_id.encode().join(parts)
    return _encoded(decision, decision_id)


def _around_id(answer: bytes) -> tuple[bytes, ...]:
    """What stands before and behind the decision's id; nothing where claims look like it, and it could be mistaken."""
    before, found, behind = answer.partition(_ID_FIELD)
    if not found or _ID_FIELD in behind:
        return ()
    return before + _ID_FIELD.removesuffix(_SOME_ID.encode()), behind


def _encoded(decision: Decision, decision_id: str) -> bytes:
    response = CheckResponse()
    if isinstance(decision, Allow):
        _allow(response, decision)
    else:
        _deny(response, decision)
    _describe(response, decision, decision_id)
    return response.SerializeToString()


def _allow(response: CheckResponse, allow: Allow) -> None:
    response.status.SetInParent()
    ok = response.ok_response
    ok.SetInParent()
    for name, value in allow.headers:
        option = ok.headers.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.value = value
    ok.headers_to_remove.extend(allow.remove)


def _deny(response: CheckResponse, deny: Deny) -> None:
    denial = DENIALS[deny.reason]
    response.status.code = denial.rpc_code
    denied = response.denied_response
    denied.status.code = cast("StatusCode", int(denial.status))
    denied.body = _PROBLEMS[deny.reason]
    headers = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if deny.challenge is not None:
        headers.append(("www-authenticate", deny.challenge))
    if deny.retry_after is not None:
        headers.append(("retry-after", str(deny.retry_after)))
    for name, value in headers:
        option = denied.headers.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.value = value


def _describe(response: CheckResponse, decision: Decision, decision_id: str) -> None:
    """Dynamic metadata for Envoy's access log, rate limits and other filters: always the same members."""
    fields = response.dynamic_metadata.fields
    fields["decision_id"].string_value = decision_id
    fields["decision"].string_value = verdict(decision)
    fields["reason"].string_value = decision.reason
    fields["rule"].string_value = decision.rule
    fields["mode"].string_value = decision.mode
    claims = decision.claims
    fields["issuer"].string_value = claims.issuer if claims else ""
    fields["subject"].string_value = claims.subject if claims else ""
    fields["client_id"].string_value = claims.client_id if claims else ""
    scopes = fields["scopes"].list_value
    scopes.SetInParent()
    if claims and claims.scope:
        for scope in claims.scope.split(" "):
            scopes.values.add().string_value = scope
