"""A CheckRequest is decoded completely and in one way, and every decision becomes one explicit CheckResponse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
from google.protobuf import json_format
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from authz_service._pb.base_pb2 import HeaderValueOption
from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from authz_service.core import paths
from authz_service.core.attributes import Attributes
from authz_service.core.claim_path import parse_claim_path
from authz_service.core.claims import Claims, Identity, UnverifiedIdentity
from authz_service.core.correlation import MAX_REQUEST_ID, Correlation
from authz_service.core.decision import METADATA_MEMBERS, Allow, Decision, Deny, decision_label
from authz_service.core.decision import Answer as Answered
from authz_service.core.errors import Rejected
from authz_service.core.reasons import ALLOWANCES, ANSWERS, DENIALS, Reason
from authz_service.core.response_cache import ResponseCache
from authz_service.core.upstream_metadata import MAX_DEPTH, UpstreamMetadata
from authz_service.transport.ext_authz import codec
from transport.wire import Answer, check_request, fits_a_header, read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service._pb.http_status_pb2 import StatusCode

# From the contract: HTTP status of each denial, and whether it has a challenge.
DENIED: dict[str, tuple[int, bool]] = {
    "missing_token": (401, True),
    "malformed_request": (400, True),
    **dict.fromkeys(
        [
            *("malformed_token", "unsupported_algorithm", "unknown_issuer", "unknown_key", "bad_signature", "expired"),
            *("not_yet_valid", "missing_claim", "invalid_claim", "wrong_audience", "id_token", "wrong_token_type"),
            *("too_old", "inactive", "revoked", "unsupported_confirmation", "unbound_token"),
            *("missing_proof", "invalid_proof", "replayed_proof", "nonce_required"),
        ],
        (401, True),
    ),
    "insufficient_scope": (403, True),
    **dict.fromkeys(["stale_authentication", "weak_authentication"], (401, True)),
    **dict.fromkeys(["client_not_allowed", "issuer_not_allowed", "claim_mismatch", "no_rule"], (403, False)),
    "ambiguous_path": (400, False),
    "keys_unavailable": (503, False),
    "introspection_unavailable": (503, False),
    "deadline_exceeded": (503, False),
    "internal_error": (500, False),
}
CLAIMS = Claims(
    issuer="main",
    subject="alice",
    client_id="app",
    audiences=frozenset({"https://api.example"}),
    scopes=frozenset({"read", "write"}),
    scope="read write",
    raw={"sub": "alice"},
)


def headers_of(*, plain: dict[str, str] | None = None, raw: list[tuple[str, str, bytes]] | None = None) -> Any:
    request = CheckRequest()
    http = request.attributes.request.http
    http.headers.update(plain or {})
    for key, value, octets in raw or []:
        http.header_map.headers.add(key=key, value=value, raw_value=octets)
    return codec.decode_request(request.SerializeToString()).headers


# Requests.


def test_method_host_path_and_headers_are_taken_as_sent() -> None:
    data = check_request("get", "/A%2fb?c=d#e", {"X-A": "b"}, host="API.example:8443.")
    assert codec.decode_request(data) == Attributes(
        "get", "API.example:8443.", "/A%2fb?c=d#e", {"x-a": "b"}, plain_names=True
    )


def test_raw_headers_keep_the_bytes_of_the_path_that_the_path_field_has_lost() -> None:
    request = CheckRequest()
    http = request.attributes.request.http
    http.path = "/public/!!/admin"
    http.header_map.headers.add(key=":path", raw_value=b"/public/\xc0\xae/admin")
    attributes = codec.decode_request(request.SerializeToString())
    with pytest.raises(Rejected, match="non-ASCII"):
        paths.split(attributes.path)


@pytest.mark.parametrize("empty", ["{}", '{"attributes": {}}', '{"attributes": {"request": {"http": {}}}}'])
def test_absent_fields_are_empty(empty: str) -> None:
    data = json_format.Parse(empty, CheckRequest()).SerializeToString()
    assert codec.decode_request(data) == Attributes("", "", "", {}, plain_names=True)


def test_the_certificate_is_that_of_the_client_as_sent() -> None:
    request = CheckRequest()
    request.attributes.source.certificate = "-----BEGIN%20CERTIFICATE-----%0A"
    request.attributes.destination.certificate = "of%20the%20server"
    assert codec.decode_request(request.SerializeToString()).certificate == "-----BEGIN%20CERTIFICATE-----%0A"


def test_headers_are_read_from_both_fields() -> None:
    assert headers_of(plain={"a": "1", ":path": "/x"}) == {"a": "1", ":path": "/x"}
    assert headers_of(raw=[("a", "", b"1"), ("b", "2", b"")]) == {"a": "1", "b": "2"}


def test_the_values_of_a_repeated_header_are_combined_in_order() -> None:
    assert headers_of(raw=[("a", "", b"1"), ("b", "", b""), ("a", "", b"2"), ("a", "", b"")]) == {"a": "1,2,", "b": ""}


def test_two_credentials_are_seen_as_two_in_whatever_case_their_names_are() -> None:
    twice = [("authorization", "", b"Bearer a"), ("Authorization", "", b"Bearer b")]
    assert headers_of(raw=twice) == {"authorization": "Bearer a,Bearer b"}
    both = headers_of(plain={"authorization": "Bearer a", "AUTHORIZATION": "Bearer b"})
    assert both["authorization"] in {"Bearer a,Bearer b", "Bearer b,Bearer a"}
    mixed = headers_of(plain={"authorization": "Bearer a"}, raw=[("authorization", "", b"Bearer b")])
    assert mixed == {"authorization": "Bearer a,Bearer b"}


def test_bytes_that_are_not_utf_8_become_a_character_that_no_credential_and_no_configured_value_contains() -> None:
    value = headers_of(raw=[("a", "", b"x\xff\xc0\xafy\xed\xa0\x80")])["a"]
    assert set(value) == {"x", "\ufffd", "y"}


@given(
    st.lists(
        st.tuples(st.text("aAbB-_", max_size=3), st.text(max_size=5)).filter(lambda pair: "\x00" not in pair[1]),
        max_size=12,
    )
)
def test_every_header_value_that_was_sent_is_in_the_attributes(pairs: list[tuple[str, str]]) -> None:
    headers = headers_of(raw=[(name, "", value.encode()) for name, value in pairs])
    expected: dict[str, list[str]] = {}
    for name, value in pairs:
        expected.setdefault(name.lower(), []).append(value)
    assert headers == {name: ",".join(values) for name, values in expected.items()}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a",
        b"\x0a\x05abc",
        b"GET / HTTP/1.1\r\n\r\n",
        check_request(path="/x").replace(b"/x", b"\xc3\x28"),
        check_request(headers={"authorization": "xx"}).replace(b"xx", b"\xff\xfe"),
        check_request()[:-1],
        b"\x0b" * 10_000,
    ],
    ids=lambda data: ascii(data[:20]),
)
def test_bytes_that_are_not_a_check_request_are_malformed(data: bytes) -> None:
    with pytest.raises(Rejected) as rejected:
        codec.decode_request(data)
    assert rejected.value.reason is Reason.MALFORMED_REQUEST


def test_unknown_fields_of_a_later_envoy_are_skipped() -> None:
    unknown_field = bytes([15 << 3 | 2, 3]) + b"new"
    assert codec.decode_request(check_request(path="/x") + unknown_field).path == "/x"


# Responses.


def encoded(decision: Decision) -> Answer:
    return read(codec.encode_response(decision, "0123456789abcdef"))


def test_every_reason_is_an_allowance_or_a_denial_in_the_contracts_table() -> None:
    assert {str(reason) for reason in ALLOWANCES | ANSWERS} | DENIED.keys() == {str(reason) for reason in Reason}
    assert DENIALS.keys() == set(DENIED)


def test_an_answer_is_sent_as_it_is_and_is_no_allowance() -> None:
    headers = (("content-type", "application/json"), ("access-control-allow-origin", "*"))
    answer = encoded(Answered(Reason.RESOURCE_METADATA, '{"resource": "https://api.example"}', headers))
    assert (answer.allowed, answer.http_status, answer.headers) == (False, 200, dict(headers))
    assert answer.document == {"resource": "https://api.example"}
    members = {"decision": "answer", "reason": "resource_metadata", "rule": "-", "mode": "enforce"}
    assert members.items() <= answer.metadata.items()


@pytest.mark.parametrize("reason", DENIALS)
def test_every_denial_has_its_status_a_problem_document_and_no_store(reason: Reason) -> None:
    answer = encoded(Deny(reason, cause="a cause"))
    status, challenged = DENIED[reason]
    assert answer.http_status == status
    assert DENIALS[reason].challenged == challenged
    assert answer.headers == {"content-type": "application/problem+json", "cache-control": "no-store"}
    assert answer.problem is not None
    assert answer.problem["type"] == f"urn:authz-service:denial:{reason}"
    assert answer.problem["detail"] == DENIALS[reason].detail
    assert "a cause" not in json.dumps(answer.problem)
    assert answer.metadata["reason"] == reason
    assert answer.metadata["rule"] == "-"


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc;a=b"])
@pytest.mark.parametrize("reason", DENIALS)
def test_a_grpc_call_is_denied_with_a_sentence_and_the_status_of_grpc(reason: Reason, content_type: str) -> None:
    attributes = Attributes("POST", "h", "/s.X/Get", {"content-type": content_type})
    answer = read(codec.encode_response(Deny(reason, challenges=("Bearer",), retry_after=7), "id", attributes))
    assert answer.http_status == DENIED[reason][0]
    assert answer.grpc_message == DENIALS[reason].detail
    assert answer.headers == {
        "content-type": "text/plain",
        "cache-control": "no-store",
        "grpc-status": str(DENIALS[reason].rpc_code),
        "www-authenticate": "Bearer",
        "retry-after": "7",
    }


@pytest.mark.parametrize(
    "content_type",
    [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpcx",
        "application/json",
        "",
        "a, application/grpc",
    ],
)
def test_any_other_request_is_denied_with_a_problem_document(content_type: str) -> None:
    attributes = Attributes("POST", "h", "/s.X/Get", {"content-type": content_type})
    answer = read(codec.encode_response(Deny(Reason.NO_RULE), "id", attributes))
    assert answer.problem is not None


def test_a_challenge_and_a_retry_time_are_headers_of_the_denial() -> None:
    answer = encoded(Deny(Reason.EXPIRED, rule="r", challenges=('Bearer realm="a"',), retry_after=7))
    assert answer.headers["www-authenticate"] == 'Bearer realm="a"'
    assert answer.headers["retry-after"] == "7"


def test_the_denial_of_malformed_bytes_has_the_challenge_of_a_malformed_request() -> None:
    answer = encoded(codec.NOT_A_CHECK_REQUEST)
    assert (answer.http_status, answer.reason) == (400, "malformed_request")
    assert 'error="invalid_request"' in answer.headers["www-authenticate"]
    assert fits_a_header(answer.headers["www-authenticate"])


@pytest.mark.parametrize("reason", sorted(ALLOWANCES))
def test_an_allowance_overwrites_and_removes_headers(reason: Reason) -> None:
    allow = Allow(reason, "r", CLAIMS, headers=(("x-a", "1"), ("x-b", "\u00fc")), remove=("x-c", "authorization"))
    answer = encoded(allow)
    assert answer.allowed
    assert answer.headers == {"x-a": "1", "x-b": "\u00fc"}
    assert answer.removed == ("x-c", "authorization")


def test_an_allowance_without_headers_is_explicit_too() -> None:
    answer = encoded(Allow(Reason.PUBLIC, "r"))
    assert answer.allowed
    assert answer.headers == {}
    assert answer.removed == ()


def test_the_metadata_describe_decision_rule_and_token() -> None:
    assert encoded(Allow(Reason.OK, "r", CLAIMS)).metadata == {
        "decision_id": "0123456789abcdef",
        "decision": "allow",
        "reason": "ok",
        "rule": "r",
        "mode": "enforce",
        "issuer": "main",
        "subject": "alice",
        "client_id": "app",
        "scopes": ["read", "write"],
    }


@pytest.mark.parametrize("decision", [Allow(Reason.PUBLIC, "r"), Deny(Reason.NO_RULE)])
def test_the_metadata_have_the_same_members_without_a_token(decision: Allow | Deny) -> None:
    metadata = encoded(decision).metadata
    assert (metadata["issuer"], metadata["subject"], metadata["client_id"], metadata["scopes"]) == ("", "", "", [])


def test_the_metadata_of_a_denial_name_whom_a_verified_token_is_about() -> None:
    metadata = encoded(Deny(Reason.EXPIRED, "r", identity=Identity("main", "alice", "app"))).metadata
    assert (metadata["issuer"], metadata["subject"], metadata["client_id"]) == ("main", "alice", "app")
    assert metadata["scopes"] == []


@pytest.mark.parametrize("request_id", ["", "r", "r" * 36, "r" * MAX_REQUEST_ID])
@pytest.mark.parametrize("ids", [("", ""), ("a" * 32, "b" * 16)])
def test_the_ids_of_the_request_are_merged_into_the_metadata_also_of_a_cached_response(
    request_id: str, ids: tuple[str, str]
) -> None:
    correlation = Correlation(request_id, *ids)
    expected = {name: value for name, value in correlation._asdict().items() if isinstance(value, str) and value}
    cached = Allow(Reason.OK, "r", CLAIMS, cached=ResponseCache().add("r", (), ()))
    for decision in (Deny(Reason.NO_RULE), Allow(Reason.OK, "r", CLAIMS), cached, cached):
        plain = CheckResponse.FromString(codec.encode_response(decision, "0" * 16))
        merged = CheckResponse.FromString(codec.encode_response(decision, "0" * 16, correlation=correlation))
        metadata = MessageToDict(merged.dynamic_metadata)
        assert metadata == MessageToDict(plain.dynamic_metadata) | expected
        merged.dynamic_metadata.CopyFrom(plain.dynamic_metadata)
        assert merged == plain


def test_nothing_unverified_is_in_a_response() -> None:
    denied = Deny(Reason.UNKNOWN_ISSUER, "r", identity=UnverifiedIdentity("https://evil.example/", "their-kid"))
    assert encoded(denied).metadata == encoded(denied._replace(identity=None)).metadata
    response = codec.encode_response(denied, "0" * 16)
    assert b"evil" not in response
    assert b"their-kid" not in response


METADATA = UpstreamMetadata({"tenant": parse_claim_path("tenant"), "more": parse_claim_path("more")})


def metadata_of(decision: Allow | Deny) -> dict[str, Any]:
    response = CheckResponse.FromString(codec.encode_response(decision, "0" * 16, metadata=METADATA))
    return dict(MessageToDict(response.dynamic_metadata))


@pytest.mark.parametrize("decision", [Allow(Reason.OK, "r"), Deny(Reason.CLAIM_MISMATCH, "r")])
def test_the_metadata_of_a_valid_token_carry_the_configured_claims(decision: Allow | Deny) -> None:
    more = {"a": [1, 1.5, True, None, "x"], "b": {}, "c": [], "d": 2**53, "e": 2**53 + 1, "f": -(10**30)}
    described = decision._replace(claims=CLAIMS._replace(raw={"tenant": "acme", "more": more}))
    metadata = metadata_of(described)
    assert metadata.keys() == METADATA_MEMBERS | {"tenant", "more"}
    assert metadata["tenant"] == "acme"
    assert metadata["more"] == more | {"e": "9007199254740993", "f": "-1000000000000000000000000000000"}
    assert metadata_of(decision._replace(claims=CLAIMS._replace(raw={}))).keys() == METADATA_MEMBERS
    assert metadata_of(decision._replace(claims=None)).keys() == METADATA_MEMBERS


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=200),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=20,
    )
)
def test_every_json_value_is_encoded_as_protobuf_does_it(value: Any) -> None:
    expected = CheckResponse()
    expected.dynamic_metadata.update({"claim": value})
    assert CheckResponse.FromString(codec._encode_struct({"claim": value})) == expected


@pytest.mark.parametrize("length", [0, 1, 90, 100, 110, 120, 127, 128, 129, 8000, 16_383, 16_384])
@pytest.mark.parametrize("character", ["a", "\u00e9", "\U0001f600"])
def test_values_of_any_length_are_read_by_protobuf_as_they_were_encoded(length: int, character: str) -> None:
    for value in (character * length, "b" * len((character * length).encode())):  # of the same length in octets
        allow = Allow(Reason.OK, "r", CLAIMS._replace(subject=value), (("x-a", value), ("x-b", "c")))
        response = CheckResponse.FromString(codec.encode_response(allow, "0123456789abcdef"))
        headers = [(each.header.key, each.header.value) for each in response.ok_response.headers]
        assert headers == [("x-a", value), ("x-b", "c")]
        assert metadata_of(allow)["subject"] == value


def test_the_deepest_metadata_can_be_read_by_protobuf() -> None:
    value: Any = "x"
    for _ in range(MAX_DEPTH - 1):
        value = {"a": value}
    assert metadata_of(Allow(Reason.OK, "r", CLAIMS._replace(raw={"more": value})))["more"] == value


@pytest.mark.parametrize("tenant", ["acme", {"decision_id": "0123456789abcdef"}])
def test_a_cached_response_has_the_configured_metadata(tenant: object) -> None:
    claims = CLAIMS._replace(raw={"tenant": tenant})
    cached = Allow(Reason.OK, "r", claims, cached=ResponseCache().add("r", (), ()))
    for decision_id in ("0" * 16, "f" * 16):
        response = CheckResponse.FromString(codec.encode_response(cached, decision_id, metadata=METADATA))
        metadata = MessageToDict(response.dynamic_metadata)
        assert (metadata["decision_id"], metadata["tenant"]) == (decision_id, tenant)


@pytest.mark.parametrize("subject", ["\x00\r\n", "\u202e\U0001f511", "x" * 100_000, '"}', ""])
def test_any_subject_is_unchanged_in_the_metadata(subject: str) -> None:
    claims = Claims("main", subject, "", frozenset(), frozenset(), "", {})
    assert encoded(Deny(Reason.INVALID_CLAIM, rule="r", claims=claims)).metadata["subject"] == subject


def test_metadata_are_strings_and_a_list_of_strings() -> None:
    response = CheckResponse.FromString(codec.encode_response(Allow(Reason.OK, "r", CLAIMS), "id"))
    assert isinstance(response.dynamic_metadata, Struct)
    kinds = {name: value.WhichOneof("kind") for name, value in response.dynamic_metadata.fields.items()}
    assert kinds.pop("scopes") == "list_value"
    assert set(kinds.values()) == {"string_value"}


@pytest.mark.parametrize(
    "subject",
    [
        "alice",
        "",
        "0123456789abcdef",
        "decision_id",
        "\x0bdecision_id\x12\x12\x1a\x100123456789abcdef",
        "\n!\n\x0bdecision_id\x12\x12\x1a\x100123456789abcdef" * 2,
        "x" * 100_000,
    ],
)
@pytest.mark.parametrize("mode", ["enforce", "shadow"])
def test_a_cached_response_equals_one_that_is_encoded_again(subject: str, mode: Literal["enforce", "shadow"]) -> None:
    allow = Allow(Reason.OK, "r", CLAIMS._replace(subject=subject), (("x-auth-subject", subject),), ("cookie",), mode)
    cached = allow._replace(cached=ResponseCache().add("r", allow.headers, allow.remove))
    for decision_id in ("0123456789abcdef", "fedcba9876543210", "-", "0000000000000000"):
        expected = CheckResponse.FromString(codec.encode_response(allow, decision_id))
        assert CheckResponse.FromString(codec.encode_response(cached, decision_id)) == expected


NAMES = st.sampled_from(["", "a", "bob", "0123456789abcdef", "\u00e9", "x" * 2000])
IDENTITIES = st.builds(Identity, NAMES, NAMES, NAMES) | st.builds(UnverifiedIdentity, NAMES, st.none())
DENIALS_OF_REQUESTS = st.builds(
    Deny,
    st.sampled_from([Reason.MISSING_TOKEN, Reason.EXPIRED, Reason.NO_RULE, Reason.KEYS_UNAVAILABLE]),
    st.sampled_from(["-", "r", "s"]),
    st.sampled_from(["a cause", ""]),
    st.lists(st.sampled_from(["Bearer a", "DPoP b", "Bearer " + "x" * 2000]), max_size=2).map(tuple),
    st.none() | st.integers(0, 3),
    st.none() | st.builds(CLAIMS._replace, issuer=NAMES, subject=NAMES, scope=NAMES, raw=st.just({"tenant": "acme"})),
    st.sampled_from(["enforce", "shadow"]),
    st.sampled_from([(), (("dpop-nonce", "1"),)]),
    st.none() | IDENTITIES,
)


ALLOWANCES_OF_REQUESTS = st.builds(
    Allow,
    st.sampled_from([Reason.PUBLIC, Reason.ANONYMOUS, Reason.OK, Reason.EXPIRED]),
    st.sampled_from(["-", "r"]),
    st.none() | st.builds(CLAIMS._replace, subject=NAMES, scope=NAMES, raw=st.just({"tenant": "acme"})),
    st.sampled_from([(), (("x-subject", "a"),)]),
    st.lists(st.sampled_from(["authorization", "x-subject", "x" * 2000]), max_size=2).map(tuple),
    st.sampled_from(["enforce", "shadow"]),
    st.just(""),
    st.sampled_from([(), (("dpop-nonce", "1"),)]),
    st.none() | IDENTITIES,
)
ANSWERED = Answered(Reason.RESOURCE_METADATA, "{}", (("content-type", "application/json"),))


def as_message(decision: Decision, decision_id: str, metadata: UpstreamMetadata, *, to_grpc: bool) -> CheckResponse:
    """The response, as protobuf's own message."""
    response = CheckResponse()
    response.status.SetInParent()
    match decision:
        case Allow():
            response.ok_response.headers_to_remove.extend(decision.remove)
            add_headers(response.ok_response.headers, decision.headers)
            add_headers(response.ok_response.response_headers_to_add, decision.response_headers)
            response.ok_response.SetInParent()
        case Answered():
            response.status.code = 7
            response.denied_response.status.code = cast("StatusCode", 200)
            response.denied_response.body = decision.body
            add_headers(response.denied_response.headers, decision.headers)
        case Deny():
            denial, denied = DENIALS[decision.reason], response.denied_response
            response.status.code = denial.rpc_code
            denied.status.code = cast("StatusCode", int(denial.status))
            denied.body = denial.detail if to_grpc else codec._PROBLEMS[decision.reason]
            kind = "text/plain" if to_grpc else "application/problem+json"
            headers = [("content-type", kind), ("cache-control", "no-store")]
            headers += [("grpc-status", str(denial.rpc_code))] if to_grpc else []
            headers += [("www-authenticate", each) for each in decision.challenges]
            headers += decision.response_headers
            headers += [] if decision.retry_after is None else [("retry-after", str(decision.retry_after))]
            add_headers(denied.headers, headers)
    verified = None if isinstance(decision.identity, UnverifiedIdentity) else decision.identity
    known = decision.claims or verified or Identity("", "", "")
    response.dynamic_metadata.update(
        {
            "decision_id": decision_id,
            "decision": decision_label(decision),
            "reason": str(decision.reason),
            "rule": decision.rule,
            "mode": decision.mode,
            "issuer": known.issuer,
            "subject": known.subject,
            "client_id": known.client_id,
            "scopes": decision.claims.scope.split() if decision.claims else [],
            **(metadata.for_token(decision.claims) if decision.claims else {}),
        }
    )
    return response


def add_headers(options: Any, headers: Iterable[tuple[str, str]]) -> None:
    names: set[str] = set()
    for name, value in headers:
        append, overwrite = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD, HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        option = options.add(append_action=append if name in names else overwrite)
        option.header.key, option.header.value = name, value
        names.add(name)


@given(
    decisions=st.lists(DENIALS_OF_REQUESTS | ALLOWANCES_OF_REQUESTS | st.just(ANSWERED), max_size=10),
    to_grpc=st.booleans(),
    with_metadata=st.booleans(),
)
def test_a_response_equals_protobufs_own_message_whichever_responses_preceded_it(
    decisions: list[Decision],
    *,
    to_grpc: bool,
    with_metadata: bool,
) -> None:
    request = Attributes("GET", "", "", {"content-type": "application/grpc"} if to_grpc else {})
    metadata = METADATA if with_metadata else UpstreamMetadata({})
    for number, decision in enumerate(decisions * 2):
        octets = codec.encode_response(decision, f"{number:016x}", request, metadata)
        assert CheckResponse.FromString(octets) == as_message(decision, f"{number:016x}", metadata, to_grpc=to_grpc)


def test_cached_denials_are_bounded_in_number_and_size() -> None:
    codec._cached_denial.cache_clear()
    for number in range(1000):
        codec.encode_response(Deny(Reason.EXPIRED, identity=Identity("main", f"{number}", "")), "0" * 16)
    assert codec._cached_denial.cache_info().currsize == 512
    misses = codec._cached_denial.cache_info().misses
    for large in (
        Deny(Reason.EXPIRED, identity=Identity("", "x" * 1025, "")),
        Deny(Reason.EXPIRED, "", "", ("x" * 1025,)),
    ):
        codec.encode_response(large, "0" * 16)
    assert codec._cached_denial.cache_info().misses == misses
