"""Envoy's side of the wire, for the tests: encodes a CheckRequest, and decodes a CheckResponse strictly."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
from google.protobuf import json_format

from authz_service._pb.base_pb2 import HeaderValueOption
from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from authz_service.core.decision import METADATA_MEMBERS
from support.key_source import private_key

if TYPE_CHECKING:
    from collections.abc import Mapping

ISSUER = "https://issuer.example"
AUDIENCE = "https://api.example"
EPOCH = 1_800_000_000.0

_RPC_CODES = {400: 3, 401: 16, 403: 7, 500: 13, 503: 14}
_FIT_FOR_A_HEADER = re.compile(r"[ -~]*")


def check_request(
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    *,
    host: str = "api.example",
    token: str | None = None,
) -> bytes:
    """The bytes of a CheckRequest as Envoy sends them."""
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host = method, path, host
    http.headers.update(headers or {})
    if token is not None:
        http.headers["authorization"] = f"Bearer {token}"
    return request.SerializeToString()


def padding(size: int) -> bytes:
    """An unknown field of this many bytes, which makes a message longer and changes nothing in it."""
    length_prefix = 3  # bytes of a length between 2**14 and 2**21
    field = bytes([15 << 3 | 2])
    length = size - len(field) - length_prefix
    prefix = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    return field + prefix + bytes(length)


def signed(kid: str, *, now: float = EPOCH, **claims: Any) -> str:
    """A valid access token, except for what ``claims`` change."""
    members = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app", "exp": int(now) + 300} | claims
    # Not jwt.encode, which refuses claims of a wrong type.
    return jwt.PyJWS().encode(json.dumps(members).encode(), private_key(kid), algorithm="ES256", headers={"kid": kid})


@dataclass(frozen=True)
class Answer:
    """A decoded CheckResponse."""

    allowed: bool
    http_status: int | None
    headers: dict[str, str]  # for the upstream when allowed, for the caller when not
    removed: tuple[str, ...]
    problem: dict[str, Any] | None
    metadata: dict[str, Any]
    grpc_message: str | None = None  # of a denied gRPC call, in place of the problem
    document: dict[str, Any] | None = None  # of a request that is answered, neither allowed nor denied

    @property
    def reason(self) -> str:
        return str(self.metadata["reason"])


def read(data: bytes) -> Answer:
    """Decode a CheckResponse. Fails unless it is one explicit, well-formed decision."""
    response = CheckResponse.FromString(data)
    assert response.HasField("status")
    allowed = response.status.code == 0
    assert response.WhichOneof("http_response") == ("ok_response" if allowed else "denied_response")
    metadata = json_format.MessageToDict(response.dynamic_metadata)
    assert metadata.keys() >= METADATA_MEMBERS
    if metadata["decision"] == "answer":
        answer = response.denied_response
        assert (allowed, response.status.code, int(answer.status.code)) == (False, 7, 200)
        document = json.loads(answer.body)
        return Answer(allowed, 200, _headers(answer.headers), (), None, metadata, document=document)
    in_shadow = allowed and metadata["mode"] == "shadow"  # the metadata then report what the rule decided
    assert in_shadow or metadata["decision"] == ("allow" if allowed else "deny")
    if allowed:
        ok = response.ok_response
        return Answer(allowed, None, _headers(ok.headers), tuple(ok.headers_to_remove), None, metadata)
    denied = response.denied_response
    status = int(denied.status.code)
    assert response.status.code == _RPC_CODES[status]
    headers = _headers(denied.headers)
    if (grpc_status := headers.get("grpc-status")) is not None:
        assert (grpc_status, headers["content-type"]) == (str(response.status.code), "text/plain")
        assert fits_a_header(denied.body)
        return Answer(allowed, status, headers, (), None, metadata, denied.body)
    problem = json.loads(denied.body)
    assert problem.keys() == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    return Answer(allowed, status, headers, (), problem, metadata)


def _headers(options: Any) -> dict[str, str]:
    headers = {}
    for option in options:
        assert option.append_action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        assert not option.HasField("append")
        name, value = option.header.key, option.header.value
        assert name == name.lower()
        assert name not in headers
        assert not option.header.raw_value
        assert value
        headers[name] = value
    return headers


def fits_a_header(value: str) -> bool:
    """Whether a value needs no escaping in a header."""
    return _FIT_FOR_A_HEADER.fullmatch(value) is not None
