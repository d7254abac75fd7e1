"""An answer as people and scripts read it.

Law: made from the very bytes that Envoy would get; nothing is added and nothing left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from authz_service._pb.external_auth_pb2 import CheckResponse
from authz_service.transport.ext_authz import codec

if TYPE_CHECKING:
    from authz_service.core.decision import Decision


def answer_of(decision: Decision, decision_id: str) -> dict[str, Any]:
    """The CheckResponse, as protobuf's JSON writes it."""
    response = CheckResponse.FromString(codec.response_of(decision, decision_id))
    return MessageToDict(response, preserving_proto_field_name=True)
