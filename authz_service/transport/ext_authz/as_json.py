"""A CheckResponse as people read it. It is apart from ``codec``, since a server needs no JSON of its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.core.correlation import correlation_of
from authz_service.transport.ext_authz.codec import encode_response

if TYPE_CHECKING:
    from authz_service.core.attributes import Attributes
    from authz_service.core.decision import Decision
    from authz_service.core.upstream_metadata import UpstreamMetadata


def response_as_json(
    decision: Decision, decision_id: str, attributes: Attributes, metadata: UpstreamMetadata
) -> dict[str, Any]:
    """The CheckResponse that Envoy would get, as protobuf's JSON mapping writes it."""
    correlation = correlation_of(attributes.headers)
    response = CheckResponse.FromString(encode_response(decision, decision_id, attributes, metadata, correlation))
    return MessageToDict(response, preserving_proto_field_name=True)
