"""Requests for health and reflection mean what protobuf reads in them.

* What protobuf accepts is accepted and means the same, unless it contains a group or is longer than any name.
* What protobuf rejects is rejected, or its numbers have more octets than protobuf accepts.
* Each request for reflection is answered by a response that protobuf reads, with the request in it.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from authz_service.transport import health
from authz_service.transport.protobuf_wire import InvalidMessageError
from authz_service.transport.reflection import Reflection

OUTCOMES = {"named", "described", "listed", "error", "rejected"}
MAX_BYTES = 5000
_REFLECTION = Reflection()
_REFUSALS = {"invalid wire type", "the message is too long"}


def run(data: bytes) -> str:
    try:
        service = health.service_in(data)
        answer = _REFLECTION.answer(data)
    except InvalidMessageError as error:
        if str(error) not in _REFUSALS:
            assert _official_service(data) is None or _official_request(data) is None
        return "rejected"
    assert _official_service(data) in {service, None}
    request = _official_request(data)
    if request is None:
        return "rejected"
    response = ServerReflectionResponse.FromString(answer)
    assert response.original_request == request
    member = response.WhichOneof("message_response")
    asked = request.WhichOneof("message_request")
    if asked == "list_services":
        assert member == "list_services_response"
        return "listed"
    if member == "file_descriptor_response":
        assert asked in {"file_by_filename", "file_containing_symbol"}
        return "described"
    return "named" if service else "error"


def _official_service(data: bytes) -> str | None:
    try:
        return HealthCheckRequest.FromString(data).service
    except DecodeError:
        return None


def _official_request(data: bytes) -> ServerReflectionRequest | None:
    try:
        return ServerReflectionRequest.FromString(data)
    except DecodeError:
        return None
